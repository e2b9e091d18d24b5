"""G1: the harness reads the same time off an OpenVINO model as OpenVINO's own benchmark_app.

One session of the harness with one short run per pair; benchmark_app runs before or after each of them, as chance has it. Both are
processes of their own with one thread, one stream, f32, synchronous, pinned to the same CPU. One run each is the finest
interleaving that two programs allow; many pairs do the rest.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

import live
from result import Goal, Result
from trials import count, keep

from converters.variant import Manifest, Variant, sha256_file
from harness.cli.artifacts import record
from harness.plan import PRESETS, MeasurementProtocol
from harness.profiles import DeviceProfile
from harness.records import LATENCY, Run
from harness.runner import SessionSpec, run_session
from harness.stats.quantiles import median
from harness.store import Store
from harness.table import build_rows, run_medians

MEDIAN, INTERVAL = 0.02, 0.05
PAIRS, SHORTEST_NS, INFERENCES = 200, 5e6, 60
NAME = "convolutions"
APP = Path(sysconfig.get_path("scripts")) / "benchmark_app"
# Pinned before anything is imported, as the agent is.
_PINNED = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); os.execv(sys.argv[2], sys.argv[2:])"


def model(folder: Path, seed: int) -> Variant:
    """A stack of convolutions of about 8 ms on one thread, in f32, with static shapes (then both tools see the same)."""
    import numpy as np
    import openvino as ov
    from openvino import opset13 as ops

    chance = np.random.default_rng(seed)
    found = image = ops.parameter([1, 3, 96, 96], np.float32, name="image")
    for inputs, outputs, stride in ((3, 32, 2), (32, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 128, 1)):
        weights = (chance.normal(size=(outputs, inputs, 3, 3)) / math.sqrt(9 * inputs)).astype(np.float32)
        found = ops.convolution(found, ops.constant(weights), [stride] * 2, [1, 1], [1, 1], [1, 1])
        found = ops.relu(found)
    path = folder / f"{NAME}.xml"
    ov.save_model(ov.Model([ops.reduce_mean(found, [2, 3])], [image], NAME), path, compress_to_fp16=False)
    names = (path.name, path.with_suffix(".bin").name)
    size = sum((folder / name).stat().st_size for name in names)
    files = {name: sha256_file(folder / name) for name in names}
    return Variant(folder, Manifest(NAME, "openvino", path.name, files, None, size, size))


def benchmark_app(path: Path, cpu: int) -> float:
    """The median that benchmark_app says, in ns."""
    with tempfile.TemporaryDirectory() as folder:
        argv = [sys.executable, "-c", _PINNED, str(cpu), str(APP), "-m", str(path), "-d", "CPU", "-hint", "none"]
        argv += ["-nstreams", "1", "-nthreads", "1", "-api", "sync", "-infer_precision", "f32"]
        argv += ["-niter", str(INFERENCES), "-report_type", "no_counters", "-json_stats", "-report_folder", folder]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"benchmark_app ended with {done.returncode}: {(done.stdout + done.stderr)[-500:]}")
        (report,) = Path(folder).glob("*.json")
        return float(json.loads(report.read_text())["execution_results"]["latency (ms)"]) * 1e6


class Between(Store):
    """A store that lets the other tool run between the runs of a session: after the last probe, and after each latency run."""

    turn: Turn  # set before the session begins

    def add_run(self, run: Run) -> None:
        """Keep the run; then it is the other's turn, if chance has it so: after this run, and before the next."""
        super().add_run(run)
        if run.status != "ok":
            raise RuntimeError(f"a run failed: {run.failure or run.failed_variants}")
        self.turn.after(run.round if run.kind == LATENCY else -1)


class Turn:
    """Runs benchmark_app where it is its turn; `theirs`: pair → its median, ns."""

    def __init__(self, path: Path, cpu: int, pairs: int, seed: int) -> None:
        self._path, self._cpu = path, cpu
        chance = random.Random(seed)  # noqa: S311
        self.ours_first = [chance.random() < 0.5 for _ in range(pairs)]
        self.theirs: dict[int, float] = {}
        self._began = time.monotonic()

    def after(self, pair: int) -> None:
        """Ours of that pair has just run (-1: the session is about to begin its latency runs)."""
        due = [pair] if pair >= 0 and self.ours_first[pair] else []
        due += [pair + 1] if pair + 1 < len(self.ours_first) and not self.ours_first[pair + 1] else []
        for number in due:
            self.theirs[number] = benchmark_app(self._path, self._cpu)
        if pair >= 0 and (pair + 1) % 10 == 0:
            left_s = (time.monotonic() - self._began) / (pair + 1) * (len(self.ours_first) - pair - 1)
            print(f"  pair {pair + 1}/{len(self.ours_first)}; {left_s / 60:.1f} min left", flush=True)


def protocol(pairs: int) -> MeasurementProtocol:
    """One short run per pair, as long as benchmark_app's."""
    return dataclasses.replace(
        PRESETS["standard"],
        runs=pairs,
        max_runs=pairs,
        probes=1,
        warmup_s=0.1,
        run_s=0.0,
        run_samples=INFERENCES,
        rounds=1,
    )


def measure(seed: int) -> Result:
    """Ratios of medians, ours to theirs, pair by pair."""
    import os

    live.quiet()
    pairs, cpu = count(PAIRS), max(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="fidelity-") as name, Between.open(Path(name) / "one.sqlite") as store:
        variant = model(Path(name), seed)
        store.turn = turn = Turn(variant.artifact, cpu, pairs, seed)
        spec = SessionSpec(
            name="fidelity",
            variants=[record(variant)],
            artifacts={NAME: variant},
            devices=[DeviceProfile(name="local", transport="local", affinity=(cpu,))],
            protocol=protocol(pairs),
            seed=seed,
        )
        data = store.load(run_session(spec, store))
    (row,) = build_rows(data)
    ours = run_medians(data)[NAME, "local"]
    logs = [math.log(ours[pair] / turn.theirs[pair]) for pair in range(pairs)]
    keep(
        {
            "key": "G1",
            "setting": "benchmark_app",
            "ours_ns": ours,
            "theirs_ns": turn.theirs,
            "ours_first": turn.ours_first,
        }
    )
    return judge(
        logs,
        turn.ours_first,
        row.latency_median_ns or 0.0,
        f"{row.precision}, {row.threads} thread, CPU {row.affinity}",
    )


def judge(logs: list[float], ours_first: list[bool], median_ns: float, setting: str) -> Result:
    """The median ratio and its interval against the bounds; also by who was first, to show that the order does not matter."""
    found = median(logs)
    ratio, low, high = (None if value is None else math.exp(value) for value in (found.value, found.low, found.high))
    # Too few pairs for an interval are too few to pass.
    passed = ratio is not None and abs(ratio - 1) <= MEDIAN and median_ns >= SHORTEST_NS
    passed = passed and low is not None and low >= 1 - INTERVAL and high is not None and high <= 1 + INTERVAL
    parts: dict[str, Any] = {}
    for name, first in (("ours first", True), ("theirs first", False)):
        part = [value for value, flag in zip(logs, ours_first, strict=True) if flag is first]
        middle = median(part).value if part else None
        parts[name] = None if middle is None else math.exp(middle)
    return Result(
        passed=passed,
        figure={"ratio": ratio, "interval": [low, high]},
        bound="median of paired ratios within ±2 %, its 95 % interval within ±5 %, model ≥ 5 ms",
        n=len(logs),
        note=f"{NAME}, {median_ns / 1e6:.1f} ms, {setting}; {INFERENCES} inferences a side and pair",
        details=parts,
    )


GOAL = Goal("the same time as OpenVINO's benchmark_app", measure, seconds=480)
