"""Boot to first row: how long each emulator takes from nothing to a measured row, and how well virtual time repeats.

    python scripts/emulators.py --out results/fidelity [NAME…]

For each emulated device a session of its own, as a user starts it: `harness bench MODEL --device NAME`, one run. Seconds are
taken by the host's clock: until the guest's server answered, and until the command ended with its row. What is built once
(images, bundle) is built before, if need be, and not counted. The deterministic guest is started three times.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"
NAMES = ("qemu-arm64", "qemu-arm64-icount", "qemu-arm64-adb", "qemu-user-arm64", "qemu-armhf", "qemu-x86-64")
DETERMINISTIC = "qemu-arm64-icount"
BOOTS = 3
MODELS = ("tiny_fp32.tflite", "tiny_int8.tflite", "tiny_dynamic.tflite")


def session(name: str, models: tuple[str, ...]) -> dict[str, Any]:
    """One session of one device: its seconds and its rows."""
    with tempfile.TemporaryDirectory() as folder:
        argv = [sys.executable, "-m", "harness.cli.main", "bench", *(str(DATA / model) for model in models)]
        argv += ["--device", name, "--runs", "1", "--run-s", "0.2", "--probes", "1", "--json", "--results", folder]
        started = time.monotonic()
        done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=False)
        seconds = time.monotonic() - started
        logs = "".join(path.read_text(encoding="utf-8") for path in Path(folder).rglob("harness.log"))
    if done.returncode not in (0, 4) or not done.stdout.strip():
        return {"device": name, "error": done.stderr.strip()[-500:]}
    rows = json.loads(done.stdout)
    answered = re.search(r"answered ([\d.]+) s after its start", logs)
    return {
        "device": name,
        "models": len(models),
        "answered_s": None if answered is None else float(answered[1]),
        "rows_s": round(seconds, 1),
        "built": re.findall(r"built (.+? in [\d.]+ s)", logs),
        "rows": [
            {key: row[key] for key in ("variant", "engine", "status", "grade", "error")} | times(row) for row in rows
        ],
    }


def times(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("latency_median_ns", "virtual_time_ns") if row[key] is not None}


def repeats(boots: list[dict[str, Any]]) -> dict[str, Any]:
    """Per variant: virtual time of each boot, and the largest distance from their median, in per cent."""
    found: dict[str, list[float]] = {}
    for boot in boots:
        for row in boot.get("rows", ()):
            found.setdefault(row["variant"], []).append(row.get("virtual_time_ns", float("nan")))
    spread = {}
    for variant, values in found.items():
        middle = sorted(values)[len(values) // 2]
        spread[variant] = {"virtual_time_ns": values, "off_pct": max(abs(v / middle - 1) * 100 for v in values)}
    orders = {tuple(sorted(found, key=lambda name: found[name][n])) for n in range(len(boots))} if found else set()
    return {"boots": len(boots), "variants": spread, "orders": [list(order) for order in orders]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", default=list(NAMES))
    parser.add_argument("--out", type=Path, default=Path("results/fidelity"))
    args = parser.parse_args()
    sessions, boots = [], []
    for name in args.names:
        result = session(name, MODELS[:1])
        if result.get("built"):  # something was made for the first time: that is not what is asked
            result = session(name, MODELS[:1]) | {"built_before": result["built"]}
        sessions.append(result)
        print(json.dumps({key: result.get(key) for key in ("device", "answered_s", "rows_s", "error")}), flush=True)
        if name == DETERMINISTIC:
            boots = [session(name, MODELS) for _ in range(BOOTS)]
            print(json.dumps(repeats(boots)), flush=True)
    now = datetime.now(UTC)
    document = {
        "made_at": now.isoformat(timespec="seconds"),
        "host": {"cpus": os.cpu_count(), "load_average": os.getloadavg(), "kvm": os.environ.get("HARNESS_KVM", "auto")},
        "boot_to_first_row": sessions,
        "virtual_time": repeats(boots) if boots else None,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{now:%Y-%m-%d}-emulators.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
