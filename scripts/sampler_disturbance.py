"""What the power sampler costs the work beside it: the same inferences with it and without it, in random order.

    python scripts/sampler_disturbance.py m.tflite m.onnx --rate 10 --pairs 150 --out results/fidelity

The sampler reads three small files of the kernel, as it would a gauge's current, voltage and status. Printed and written per
model: the ratio of block medians and of block means (with / without), each with its 95 % interval over pairs.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.agent.engines import open_engine
from harness.agent.protocol import Data, Job, Model, SensorChannel
from harness.agent.runs import bind, load
from harness.agent.sampling import CPU_CLOCKS, take, undisturbed
from harness.agent.sensors import Sampler
from harness.stats import quantiles

FILES = ("/sys/devices/system/cpu/online", "/proc/loadavg", "/proc/uptime")
ENGINE = {".tflite": "litert", ".onnx": "onnxruntime", ".xml": "openvino"}


def interval(logs: list[float]) -> list[float]:
    """Median of the paired ratios with its 95 % order-statistic interval: on a busy machine single pairs are far off."""
    found = quantiles.median(logs)
    return [math.exp(value) for value in (found.value, found.low, found.high) if value is not None]


def compare(invoke: Callable[[], object], clock: Callable[[], int], arguments: argparse.Namespace) -> dict[str, Any]:
    channels = tuple(SensorChannel(path, path) for path in FILES)
    medians: list[float] = []
    means: list[float] = []

    def block(sampling: bool) -> list[int]:
        with Sampler(channels, arguments.rate) if sampling else nullcontext():
            return take(invoke, clock, min_samples=20, min_ns=int(arguments.block_s * 1e9), max_ns=10**11).wall_ns()

    with undisturbed():
        block(False)
        for _ in range(arguments.pairs):
            order = random.sample((True, False), 2)
            found = {sampling: block(sampling) for sampling in order}
            medians.append(math.log(statistics.median(found[True]) / statistics.median(found[False])))
            means.append(math.log(statistics.mean(found[True]) / statistics.mean(found[False])))
    return {"median_ratio": interval(medians), "mean_ratio": interval(means)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--rate", type=float, default=10.0)
    parser.add_argument("--pairs", type=int, default=150)
    parser.add_argument("--block-s", type=float, default=0.25)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    results: dict[str, Any] = {
        "rate_hz": arguments.rate,
        "pairs": arguments.pairs,
        "block_s": arguments.block_s,
        "models": {},
    }
    for path in arguments.models:
        engine = open_engine(ENGINE[path.suffix])
        loaded = load(Job(engine.name, (), Data()), engine, {}, Model(path.stem, str(path)))
        bind(loaded)
        found = compare(loaded.session.invoke, CPU_CLOCKS[loaded.session.cpu_clock], arguments)
        results["models"][path.name] = found
        print(path.name, found)
    if arguments.out is not None:
        target = arguments.out / f"{datetime.now(UTC):%Y-%m-%d}-sampler-disturbance.json"
        target.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
