"""How long does it take to make the whole matrix: `harness convert`, a plain script, one process per variant, a cached run?

    python scripts/conversion_speed.py harness/demo/model.keras harness/demo/data.npz --out results/conversion

All in one session of this machine, compared as ratios. The plain script (scripts/plain_conversion.py) calls the official
tools one after the other in one process, with no isolation, check or manifest; "one process per variant" starts it anew
for each variant. Ours starts with an empty cache, then runs again with the full one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
HARNESS = Path(sys.executable).with_name("harness")
ENV = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}


def timed(argv: list[str], **env: str) -> tuple[float, str]:
    """Seconds of a command and what it printed. Ends the script when it fails."""
    begun = time.perf_counter()
    done = subprocess.run(argv, env={**ENV, **env}, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begun
    if done.returncode not in {0, 4}:
        sys.exit(f"{' '.join(argv)} failed ({done.returncode}):\n{done.stderr[-3000:]}")
    print(f"{seconds:8.1f} s  {' '.join(argv[1:])[:150]}", flush=True)
    return seconds, done.stdout


def ours(model: Path, data: Path, cache: str, out: str) -> tuple[float, list[dict[str, Any]]]:
    argv = [str(HARNESS), "convert", str(model), "--data", str(data), "--scale", str(1 / 255), "--out", out, "--json"]
    seconds, printed = timed(argv, HARNESS_CACHE=cache)
    return seconds, json.loads(printed)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/conversion"))
    args = parser.parse_args()
    plain = [sys.executable, str(HERE / "plain_conversion.py"), str(args.model), str(args.data)]
    times: dict[str, list[float]] = {"harness": [], "cached": [], "one_process": [], "process_per_variant": []}
    statuses: dict[str, int] = {}
    keys: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(args.repeats):
            seconds, printed = timed([*plain, f"{folder}/plain{repeat}"])
            times["one_process"].append(seconds)
            keys = re.findall(r"^((?:tflite|onnx|openvino):\S+) [0-9.]+ s ", printed, flags=re.MULTILINE)
            cache = f"{folder}/cache{repeat}"
            seconds, rows = ours(args.model, args.data, cache, f"{folder}/ours{repeat}")
            times["harness"].append(seconds)
            for again in range(3):
                cached, cached_rows = ours(args.model, args.data, cache, f"{folder}/cached{repeat}-{again}")
                times["cached"].append(cached)
                if not all(row["cached"] for row in cached_rows if row["status"] == "ok"):
                    sys.exit("a second run did work again")
            statuses = {status: sum(row["status"] == status for row in rows) for status in ("ok", "failed", "refused")}
        total = sum(timed([*plain, f"{folder}/single", "--only", key])[0] for key in keys)
        times["process_per_variant"].append(total)
    median = {name: statistics.median(values) for name, values in times.items()}
    today = datetime.now(UTC).date().isoformat()
    packages = ("ondevice-harness", "tensorflow", "onnxruntime", "openvino", "nncf", "ai-edge-quantizer", "tf2onnx")
    found = {
        "date": today,
        "model": args.model.name,
        "variants": statuses,
        "seconds": times,
        "process_per_variant_over_harness": round(median["process_per_variant"] / median["harness"], 2),
        "harness_over_one_process": round(median["harness"] / median["one_process"], 3),
        "harness_over_cached": round(median["harness"] / median["cached"], 1),
        "versions": {name: metadata.version(name) for name in packages},
        "cores": os.cpu_count(),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{today}-conversion-speed.json"
    path.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))
    print(path)


if __name__ == "__main__":
    main()
