"""G14: a table is made again from the stored samples byte for byte, and a session made again finds what the first one foretold.

Twenty-one small sessions of two variants on this host, one after the other, in one store. Each is foretold by the one before it, as
a user would hold today's session against yesterday's; the first session alone would make all twenty answers depend on its own luck.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from live import demo, quiet
from result import Goal, Result, rate

from harness.cli.artifacts import record
from harness.compare import ComparisonTable, Pair, compare_sessions
from harness.plan import PRESETS
from harness.profiles import DeviceProfile
from harness.runner import SessionSpec, run_session
from harness.store import Store

AGAIN = 20
LEAST = 0.90
RECIPES = ("tflite:fp32", "tflite:fp16")
# Twelve runs, as for a headline, but short ones: twenty sessions must fit into eight minutes.
PROTOCOL = dataclasses.replace(
    PRESETS["standard"], runs=12, max_runs=12, probes=1, memory_invokes=1, warmup_s=0.1, run_s=0.2, rounds=20
)
HARNESS = [str(Path(sys.executable).with_name("harness"))]


def session(store: Store, seed: int, number: int) -> str:
    """One session through the harness's own road; its id."""
    variants = {variant.name: variant for variant in map(demo, RECIPES)}
    spec = SessionSpec(
        name=f"again{number}",
        variants=[record(variant) for variant in variants.values()],
        artifacts=variants,
        devices=[DeviceProfile(name="local", transport="local")],
        protocol=PROTOCOL,
        seed=seed + number,
    )
    return run_session(spec, store)


def command(folder: Path, *words: str) -> bytes:
    """What a command prints, in a process of its own."""
    return subprocess.run([*HARNESS, *words, "--results", str(folder)], capture_output=True, check=True).stdout


def rebuilt(folder: Path, session_id: str) -> dict[str, Any]:
    """Whether the table is the same twice, and in a store that the session was exported to and imported into."""
    there, file = folder / "there", folder / "one.sqlite"
    command(folder, "export", session_id, str(file))
    command(there, "import", str(file))
    tables = {
        "again": [command(folder, "table", session_id, "--json") for _ in range(2)],
        "imported": [command(there, "table", session_id, "--json")],
    }
    texts = [text for found in tables.values() for text in found]
    return {
        "identical": len(set(texts)) == 1,
        "tables": len(texts),
        "bytes": len(texts[0]),
        "sha256": hashlib.sha256(texts[0]).hexdigest(),
    }


def foretold(pair: Pair) -> dict[str, Any]:
    """One re-run of one variant: the interval, what was found, the verdict."""
    time_ns = pair.candidate.latency_median_ns
    if time_ns is None or pair.predicted is None:
        raise RuntimeError(f"{pair.candidate.variant} has no median or no prediction: {pair.candidate.grade_reasons}")
    return {
        "variant": pair.candidate.variant,
        "median_ns": time_ns,
        "low_ns": pair.predicted.low,
        "high_ns": pair.predicted.high,
        "inside": pair.predicted.holds(time_ns),
        "ratio": pair.comparison.ratio,
        "verdict": pair.comparison.verdict,
    }


def measure(seed: int, again: int = AGAIN) -> Result:
    quiet()
    with tempfile.TemporaryDirectory(prefix="fidelity-") as name:
        folder = Path(name)
        with Store.open(folder / "harness.sqlite") as store:
            ids = [session(store, seed, number) for number in range(again + 1)]
            loaded = [store.load(identity) for identity in ids]
        same = rebuilt(folder, ids[0])
        words = command(folder, "compare", ids[1], ids[0]).decode()
    tables: list[ComparisonTable] = [compare_sessions(new, old) for old, new in itertools.pairwise(loaded)]
    found = [foretold(pair) for table in tables for pair in table.pairs]
    first = [foretold(pair) for new in loaded[1:] for pair in compare_sessions(new, loaded[0]).pairs]
    share = rate(sum(item["inside"] for item in found), len(found))
    by_first = rate(sum(item["inside"] for item in first), len(first))
    verdicts = dict(Counter(str(item["verdict"]) for item in found))
    widths = sorted(item["high_ns"] / item["low_ns"] - 1 for item in found)
    figure = {"tables identical": same["identical"], "re-runs inside": share, "verdicts of compare NEW OLD": verdicts}
    note = (
        f"{again} re-runs × {len(RECIPES)} variants, each foretold by the session before it ({PROTOCOL.runs} runs of {PROTOCOL.run_s:g} s, shorter "
        f"than rule 1 asks; the interval's width is {widths[len(widths) // 2]:.1%} in the middle); by the first session alone {by_first['rate']:.0%}. "
        "SQLite against PostgreSQL: tests/test_store_postgres.py"
    )
    return Result(
        passed=bool(same["identical"]) and float(share["rate"]) >= LEAST,
        figure=figure,
        bound="table from samples identical byte for byte, in other processes and stores; ≥ 90 % of re-runs inside the 95 % prediction interval",
        n=len(found),
        note=note,
        details={"table": same, "by_first": by_first, "pairs": found, "compare": words},
    )


GOAL = Goal("a session made again gives the same table and the same figures", measure, 420.0)
