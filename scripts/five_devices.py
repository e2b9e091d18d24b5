"""One experiment on five devices in one session: this host, SSH on loopback, an arm64 guest over SSH, an ARM root or guest
over ADB, and the guest that counts instructions; then that guest booted anew, for how well its virtual time repeats.

    python scripts/five_devices.py [--boots 3] [--out results/fidelity]

Needs the aarch64 bundle with all engines (`harness bundle build`). Writes DATE-five-devices.json with all rows, seconds and
spreads, and DATE-five-devices.md, the session's own report.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from sshd import Sshd  # noqa: E402

HARNESS = str(Path(sys.executable).with_name("harness"))
EXPERIMENT = ROOT / "examples" / "five-devices.yaml"
COUNTING = "qemu-arm64-icount"
DEVICES = ("local", "qemu-arm64", "qemu-arm64-adb", COUNTING)


def session(experiment: Path, results: Path, devices: list[str]) -> tuple[list[dict[str, Any]], float]:
    """The rows of one `harness run` on these devices, and its seconds. Ends the script when no row came."""
    argv = [HARNESS, "run", str(experiment), "--results", str(results), "--json"]
    for device in devices:
        argv += ["--device", device]
    begun = time.monotonic()
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in {0, 4}:
        sys.exit(f"{' '.join(argv)}: exit code {done.returncode}")
    return json.loads(done.stdout), time.monotonic() - begun


def loopback(folder: Path) -> tuple[Sshd, Path]:
    """An sshd of our own, and the profile by which it is reached."""
    (folder / "sshd").mkdir()
    server = Sshd(folder / "sshd")
    server.start()
    server.trust()
    profile = server.profile(python=sys.executable).model_dump(mode="json", exclude_defaults=True)
    path = folder / "loopback.yaml"
    path.write_text(yaml.safe_dump(profile))
    return server, path


def shortened(folder: Path) -> Path:
    """The same experiment with one run and few rows: enough for another boot's virtual time."""
    spec = yaml.safe_load(EXPERIMENT.read_text(encoding="utf-8"))
    for entry, key in ((spec, "base"), (spec["data"], "path")):
        entry[key] = str((EXPERIMENT.parent / entry[key]).resolve())
    spec["data"]["limit"] = 5
    spec["protocol"]["runs"] = 1
    path = folder / "again.yaml"
    path.write_text(yaml.safe_dump(spec), encoding="utf-8")
    return path


def same_answers(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Variant → which devices gave the same outputs bit for bit, and the accuracies."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        entry = found.setdefault(row["variant"], {"accuracy": {}, "outputs": {}})
        entry["accuracy"][row["device"]] = row["accuracy"]
        entry["outputs"].setdefault(str(row["outputs_sha256"])[:12], []).append(row["device"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--boots", type=int, default=3, help="of the guest that counts instructions, all in all")
    parser.add_argument("--out", type=Path, default=Path("results/fidelity"))
    args = parser.parse_args()
    today = datetime.now(UTC).date().isoformat()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server, profile = loopback(folder)
        try:
            rows, seconds = session(EXPERIMENT, folder / "results", [*DEVICES, str(profile)])
        finally:
            server.stop()
        report = (folder / "results" / rows[0]["session"] / "report.md").read_text(encoding="utf-8")
        boots = [{row["variant"]: row["virtual_time_ns"] for row in rows if row["device"] == COUNTING}]
        for _ in range(args.boots - 1):
            again, _ = session(shortened(folder), folder / "results", [COUNTING])
            boots.append({row["variant"]: row["virtual_time_ns"] for row in again})
    spread = {
        variant: max(boot[variant] for boot in boots) / min(boot[variant] for boot in boots) - 1 for variant in boots[0]
    }
    found = {
        "date": today,
        "load_average": os.getloadavg(),
        "seconds": round(seconds, 1),
        "not_ok": [f"{row['variant']} on {row['device']}: {row['error']}" for row in rows if row["status"] != "ok"],
        "answers": same_answers(rows),
        "virtual_time_ns": boots,
        "virtual_time_spread": spread,
        "rows": rows,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{today}-five-devices.json"
    path.write_text(json.dumps(found, indent=2) + "\n")
    path.with_suffix(".md").write_text(report)
    print(json.dumps({key: value for key, value in found.items() if key != "rows"}, indent=2))
    print(path)


if __name__ == "__main__":
    main()
