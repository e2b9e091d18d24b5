"""What a session of ten million samples costs: bytes in the store, seconds and memory of `harness table`.

    python scripts/store_scale.py [--samples 10000000] [--out results/fidelity/DATE-store-scale.json]

Makes a session as the preset "certified" would leave it (20 variants, 12 runs of 30 rounds, times with a tail, a CPU clock that
reads a little less than the wall clock), writes it run by run through the real store, and runs the real command in processes of
their own. Resident memory is the high-water mark that the kernel tells of the ended child.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from harness.plan import PRESETS
from harness.records import (
    LATENCY,
    MEASURE,
    PROBE,
    SETTLE,
    WARMUP,
    Block,
    DeviceRecord,
    Load,
    Run,
    Session,
    VariantRecord,
)
from harness.store import Store

ROOT = Path(__file__).resolve().parent.parent
FORMATS = {"tflite": "litert", "onnx": "onnxruntime", "openvino": "openvino"}
VARIANTS, RUNS, ROUNDS = 20, 12, 30
BOUND_S, BOUND_MB = 3.0, 500.0
TABLES, COLUMNS = 5, ("wall_ns", "cpu_ns")


def variants() -> list[VariantRecord]:
    """Twenty of three formats; the first is the fp32 base."""
    found = []
    for number in range(VARIANTS):
        kind = list(FORMATS)[number % len(FORMATS)]
        recipe = "fp32" if number < len(FORMATS) else f"recipe{number:02d}"
        found.append(
            VariantRecord(f"model.{kind}.{recipe}", kind, base="model", recipe=recipe, size_bytes=100_000 + number)
        )
    return found


def block(rng: np.random.Generator, name: str, index: int, phase: str, typical_ns: float, count: int, at: int) -> Block:
    """Times as they are: a narrow hump, a slow wave, a tail, now and then an interruption."""
    wave = 0.004 * np.sin(np.arange(count) / 97.0)
    wall = typical_ns * np.exp(rng.normal(0.0, 0.012, count) + wave) + rng.exponential(0.006 * typical_ns, count)
    hit = rng.random(count) < 0.002
    wall = np.where(hit, wall + rng.exponential(200_000.0, count), wall).astype(np.int64)
    # Two clocks are read one after the other; an interruption is no CPU time of ours.
    lost = rng.normal(140.0, 35.0, count).astype(np.int64) + np.where(hit, (wall * 0.1).astype(np.int64), 0)
    return Block(name, index, phase, at, wall, wall - lost, "thread")


def run(rng: np.random.Generator, session: str, engine: str, mine: list[VariantRecord], number: int, each: int) -> Run:
    """One latency run of an engine: warm-up, then rounds of all its variants in random order."""
    blocks, at = [], number * 1_000_000_000_000
    effect = float(np.exp(rng.normal(0.0, 0.01)))
    times = {item.name: (0.4e6 + 0.1e6 * position) * effect for position, item in enumerate(mine)}

    def add(name: str, index: int, phase: str, count: int) -> None:
        nonlocal at
        blocks.append(block(rng, name, index, phase, times[name], count, at))
        at += int(blocks[-1].wall_ns.sum()) + 1_000_000

    for item in mine:
        add(item.name, -1, WARMUP, 400)
    for index in range(ROUNDS):
        for position in rng.permutation(len(mine)):
            add(mine[position].name, index, SETTLE, 2)
            add(mine[position].name, index, MEASURE, each)
    loads = tuple(Load(item.name, 4_000_000, 2_000_000, {"precision": "f32", "threads": 1}) for item in mine)
    environment = {"threads": 1, "affinity": [0], "engine_version": "1", "clocks": {"thread": {"loop_ns": 300}}}
    return Run(
        f"{session}-{engine}-{number:03d}", session, "local", engine, LATENCY, number,
        f"2026-11-22T{number // 60:02d}:{number % 60:02d}:00+00:00", 60.0, environment=environment, loads=loads, blocks=tuple(blocks),
    )  # fmt: skip


def probe(session: str, engine: str, item: VariantRecord) -> Run:
    """One cold start."""
    memory = {"baseline": 60_000_000, "after_load": 61_000_000, "peak": 70_000_000}
    load = Load(item.name, 4_000_000, 2_000_000, {"precision": "f32", "threads": 1}, memory)
    start = "2026-11-22T00:00:00+00:00"
    return Run(f"{session}-probe-{item.name}", session, "local", engine, PROBE, 0, start, 1.0, loads=(load,))


def fill(store: Store, samples: int, seed: int) -> dict[str, Any]:
    """Write the session; what went in."""
    rng = np.random.default_rng(seed)
    session, made = "20261122-000000-scale", variants()
    protocol = dataclasses.asdict(PRESETS["certified"])
    store.add_session(
        Session(session, "scale", "2026-11-22T00:00:00+00:00", "0.1.0", seed, protocol, {"threads": 1}),
        made,
        [DeviceRecord("local", "local", facts={"machine": "x86_64"})],
    )
    each = round(samples / (VARIANTS * RUNS * ROUNDS))
    count = first = blocks = 0
    seconds = 0.0
    for number in range(RUNS):
        for kind, engine in FORMATS.items():
            mine = [item for item in made if item.format == kind]
            if number == 0:
                for item in mine:
                    store.add_run(probe(session, engine, item))
            found = run(rng, session, engine, mine, number, each)
            began = time.perf_counter()
            store.add_run(found)
            seconds += time.perf_counter() - began
            count += sum(item.wall_ns.size for item in found.blocks)
            blocks += len(found.blocks)
            first += sum(
                len(zlib.compress(getattr(item, name).tobytes(), 1)) for item in found.blocks for name in COLUMNS
            )
    store.finish_session(session, "done")
    return {"samples": count, "blocks": blocks, "write_s": round(seconds, 2), "as_version_1_bytes": first}


def measured(argv: list[str]) -> tuple[float, float, float, bytes]:
    """Wall and CPU seconds, peak resident MB and standard output of a command in a process of its own."""
    with tempfile.TemporaryFile() as out:
        began = time.perf_counter()
        process = subprocess.Popen(argv, stdout=out, cwd=ROOT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{argv} ended with {process.returncode}")
        out.seek(0)
        return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, out.read()


def figures(folder: Path, samples: int, seed: int) -> dict[str, Any]:
    path = folder / "harness.sqlite"
    with Store.open(path) as store:
        written = fill(store, samples, seed)
    size = path.stat().st_size
    table = [str(Path(sys.executable).with_name("harness")), "table", "latest", "--results", str(folder)]
    seconds, cpu, peaks, texts = zip(*(measured(table) for _ in range(TABLES)), strict=True)
    found = written | {
        "store_bytes": size,
        "bytes_per_sample": round(size / written["samples"], 3),
        "bytes_per_sample_as_version_1": round(written["as_version_1_bytes"] / written["samples"], 3),
        "table_s": [round(value, 3) for value in seconds],
        "table_cpu_s": [round(value, 3) for value in cpu],
        "table_peak_mb": [round(value, 1) for value in peaks],
        "same_bytes_every_time": len(set(texts)) == 1,
    }
    found["pass"] = {
        "seconds": sorted(seconds)[TABLES // 2] <= BOUND_S,
        "memory": max(peaks) <= BOUND_MB,
        "bounds": f"median ≤ {BOUND_S:g} s, every peak ≤ {BOUND_MB:g} MB",
    }
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--samples", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=20261122)
    day = datetime.now(UTC).date().isoformat()
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "fidelity" / f"{day}-store-scale.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = figures(Path(folder), args.samples, args.seed) | {"load": os.getloadavg(), "seed": args.seed}
    args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))
    return 0 if found["pass"]["seconds"] and found["pass"]["memory"] else 1


if __name__ == "__main__":
    sys.exit(main())
