"""What the harness costs around the measured work, on this host: start of the command, first number, time per run.

    python scripts/overhead.py tests/data/tiny_fp32.tflite tests/data/tiny.onnx tests/data/tiny_ov.xml

Prints and writes results/fidelity/DATE-overhead.json. `around_s` is, per latency run, the run's whole time less what was
spent in warm-up, settling and measured inferences; `first_number_s` is from the start of `harness bench` to the end of the
first run in the store; `help_ratio` is `harness --help` over an empty Python, medians of interleaved starts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from harness.records import LATENCY
from harness.store import Store

HARNESS = Path(sys.executable).with_name("harness")


def seconds(argv: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(argv, check=True, capture_output=True)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("artifacts", nargs="+", type=Path)
    parser.add_argument("--starts", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("results/fidelity"))
    args = parser.parse_args()
    helps, empties = [], []
    for _ in range(args.starts):
        helps.append(seconds([str(HARNESS), "--help"]))
        empties.append(seconds([sys.executable, "-c", ""]))
    with tempfile.TemporaryDirectory() as folder:
        begun = datetime.now(UTC)
        seconds([str(HARNESS), "bench", *map(str, args.artifacts), "--results", folder])
        with Store.open(Path(folder) / "harness.sqlite") as store:
            data = store.load(store.resolve("latest"))
    ends = [datetime.fromisoformat(run.started_at).timestamp() + run.duration_s for run in data.runs]
    around: dict[str, list[float]] = {}
    for run in data.runs:
        if run.kind == LATENCY:
            spent = sum(int(block.wall_ns.sum()) for block in run.blocks) / 1e9
            around.setdefault(run.engine, []).append(run.duration_s - spent)
    today = datetime.now(UTC).date().isoformat()
    found = {
        "date": today,
        "help_s": statistics.median(helps),
        "empty_python_s": statistics.median(empties),
        "help_ratio": round(statistics.median(helps) / statistics.median(empties), 2),
        "first_number_s": round(min(ends) - begun.timestamp(), 2),
        "around_s": {engine: round(statistics.median(values), 3) for engine, values in around.items()},
    }
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{today}-overhead.json"
    path.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))
    print(path)


if __name__ == "__main__":
    main()
