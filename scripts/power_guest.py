"""Energy per inference by three meters of a real kernel against the registers behind them; writes results/fidelity/DATE-power-guest.json.

    python scripts/power_guest.py

Runs `pytest -m power` (sbs-battery, ltc4151 and ina226 of a guest's kernel, played by tests/meter_simulator.py, some minutes) and keeps the
figures that its tests show: what the harness reckoned and what the log of the registers says. G11 quotes the newest such file.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TEST = "tests/test_power_guest.py"
LINE = re.compile(r"^(\w+): total ([\d.]+) / ([\d.]+), dynamic ([\d.]+) / ([\d.]+) µJ$", flags=re.MULTILINE)


def figures(text: str) -> dict[str, dict[str, float]]:
    """Meter → µJ per inference found and true, total and dynamic, with their relative errors."""
    found = {}
    for name, *words in LINE.findall(text):
        total, total_true, dynamic, dynamic_true = map(float, words)
        found[name] = {
            "total_uj": total,
            "total_true_uj": total_true,
            "total_error": total / total_true - 1,
            "dynamic_uj": dynamic,
            "dynamic_true_uj": dynamic_true,
            "dynamic_error": dynamic / dynamic_true - 1,
        }
    return found


def main() -> int:
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-m", "power", TEST]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    entry: dict[str, Any] = {
        "command": f"pytest -s -m power {TEST}",
        "passed": done.returncode == 0,
        "summary": done.stdout.strip().splitlines()[-1],
        "meters": figures(done.stdout),
        "load": os.getloadavg(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    print(json.dumps(entry, indent=1, ensure_ascii=False))
    if not entry["meters"]:
        print(done.stdout[-3000:], done.stderr[-1000:], file=sys.stderr)
        return 1
    path = ROOT / "results" / "fidelity" / f"{datetime.now(UTC).date().isoformat()}-power-guest.json"
    path.write_text(json.dumps(entry, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0 if done.returncode == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
