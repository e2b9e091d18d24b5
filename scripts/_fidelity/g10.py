"""G10: no percentile below its minimum n, and early stopping identical to mlcommons-loadgen.

First: made-up sessions of every size around the bounds go through the real table and the real reports. Second: the official load
generator runs itself, and its own estimates are held against ours of the very latencies that it recorded.
"""

from __future__ import annotations

import csv
import io
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from result import Goal, Result

from harness.records import LATENCY, MEASURE, Block, DeviceRecord, Run, Session, SessionData, VariantRecord
from harness.report.cells import columns_for
from harness.report.csv_rows import render_csv
from harness.report.markdown import render_markdown
from harness.row import Row
from harness.stats.quantiles import early_stopping_estimate
from harness.table import build_rows

SESSIONS = 1000
SETS = 100
BOUNDARIES = (63, 64, 661, 662)
# Row field → samples from which on it is given.
MINIMA = {"median": 6, "p90": 36, "p99": 368, "p90_early_stopping": 64, "p99_early_stopping": 662}
_RUNS = 6
_ESTIMATE = re.compile(r"Early stopping (\d+(?:\.\d+)?)th percentile estimate: (\d+)")
# Only a trace's "b" (begin) events of samples have both.
_LATENCY = re.compile(r'"issue_start_ns":(\d+),"complete_ns":(\d+)')


def session_of(sizes: list[int], seed: int) -> SessionData:
    """A session of one variant whose latency runs have that many samples."""
    rng = np.random.default_rng(seed)
    runs = []
    for number, size in enumerate(sizes):
        wall = rng.integers(10_000, 20_000, size)
        block = Block("v", 0, MEASURE, number * 10**9, wall, wall, "thread")
        runs.append(
            Run(
                f"s.{number}",
                "s",
                "d",
                "onnxruntime",
                LATENCY,
                number,
                "2026-01-01T00:00:00+00:00",
                1.0,
                blocks=(block,),
            )
        )
    session = Session("s", "s", "2026-01-01T00:00:00+00:00", "0", seed, {"preset": "quick"}, status="done")
    return SessionData(session, (VariantRecord("v", "onnx", "b", "fp32"),), (DeviceRecord("d", "local"),), tuple(runs))


def violations(row: Row, total: int, runs: int) -> list[str]:
    """What the row, its cells or its CSV line say that they must not, or do not say that they must."""
    wrong = []
    (line,) = csv.DictReader(io.StringIO(render_csv([row])))
    for name, least in MINIMA.items():
        field = f"latency_{name}_ns"
        given, reasons = getattr(row, field) is not None, [r for r in row.null_reasons if r.startswith(f"{field}:")]
        if given is not (total >= least) or (line[field] != "") is not given:
            wrong.append(f"{field} with n={total}")
        if not given and not any(f"n/a (n={total})" in reason for reason in reasons):
            wrong.append(f"{field} is missing without its n ({reasons})")
    few = [name for name in ("median", "p90", "p99") if runs < _RUNS or total < MINIMA[name]]
    held = [name for name in few if getattr(row, f"latency_{name}_low_ns") is not None]
    wrong += [f"interval of {name} with {runs} runs, n={total}" for name in held]
    shown = {column.key: column.text(row) for column in columns_for([row])}
    page = render_markdown([row])
    absent = [key for key in ("p90", "p99") if total < MINIMA[key]]
    seen = [key for key in absent if re.search(r"\d", shown.get(key, "")) or f"{key} [95 %] |" in page]
    return wrong + [f"{key} is shown with n={total}: {shown.get(key)}" for key in seen]


def minima(seed: int) -> tuple[int, list[str]]:
    """Sessions around every bound; how many, and what was wrong."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    wrong: list[str] = []
    for index in range(SESSIONS):
        near = chance.choice([6, 36, 64, 368, 662])
        total = max(1, near + chance.randint(-3, 3))
        runs = min(total, chance.randint(1, 9))
        cuts = sorted(chance.sample(range(1, total), runs - 1))
        sizes = [after - before for before, after in zip([0, *cuts], [*cuts, total], strict=True)]
        (row,) = build_rows(session_of(sizes, index))
        wrong += violations(row, total, runs)
    return SESSIONS, wrong


def official(queries: int, seed: int) -> tuple[list[int], dict[str, int]]:
    """The latencies that loadgen recorded (ns), and its early-stopping estimates by percentile."""
    with tempfile.TemporaryDirectory() as folder:
        child = Path(__file__).with_name("loadgen_child.py")
        subprocess.run([sys.executable, str(child), str(queries), str(seed), folder], check=True, timeout=120)
        trace = (Path(folder) / "mlperf_log_trace.json").read_text(encoding="utf-8")
        summary = (Path(folder) / "mlperf_log_summary.txt").read_text(encoding="utf-8")
    latencies = [int(end) - int(start) for start, end in _LATENCY.findall(trace)]
    return latencies, {f"{float(name):g}": int(value) for name, value in _ESTIMATE.findall(summary)}


def measure(seed: int) -> Result:
    """Both parts."""
    checked, wrong = minima(seed)
    chance = random.Random(seed)  # noqa: S311 - no secret
    sizes = [
        *BOUNDARIES * 5,
        *(chance.choice([chance.randint(2, 200), chance.randint(200, 2500)]) for _ in range(SETS)),
    ]
    different: list[dict[str, Any]] = []
    estimates = 0
    for number, size in enumerate(sizes[:SETS]):
        latencies, theirs = official(size, seed + number)
        ours = {f"{q * 100:g}": early_stopping_estimate(latencies, q) for q in (0.90, 0.99)}
        given = {name: int(value) for name, value in ours.items() if value is not None}
        estimates += len(given)
        if len(latencies) != size or given != theirs:
            different.append({"n": size, "recorded": len(latencies), "ours": given, "theirs": theirs})
    return Result(
        passed=not wrong and not different,
        figure={"percentiles below their minimum": len(wrong), "sets that differ from loadgen": len(different)},
        bound="0 of either",
        n=checked + SETS,
        note=f"{checked} made-up sessions around n = 6, 36, 64, 368, 662 through table, CSV, Markdown; {SETS} runs of mlcommons-loadgen"
        f" (n = 2–2500, five each of {', '.join(map(str, BOUNDARIES))}), {estimates} estimates equal to the nanosecond",
        details={"wrong": wrong[:20], "different": different[:20]},
    )


GOAL = Goal("percentiles only from enough samples; early stopping as mlcommons-loadgen", measure, 120)
