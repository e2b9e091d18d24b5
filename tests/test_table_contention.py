"""Which blocks are called contended, and the latency without them beside the latency of all."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from sample_session import VARIANTS, sample_session

from harness.agent.contention import COLUMNS
from harness.records import LATENCY, MEASURE, SessionData
from harness.report.csv_rows import render_csv
from harness.report.markdown import render_markdown
from harness.report.terminal import render_text
from harness.row import Row
from harness.stats.contention import CAUSES, causes_of
from harness.table import build_rows

WALL = np.full(50, 2_000_000, dtype=np.int64)
HALF = WALL // 2
QUIET: dict[str, int | None] = {
    **dict.fromkeys(COLUMNS, 0),
    "beside_ns": None,
    "span_ns": 100_000_000,
    "own_ns": 190_000_000,
    "busy_ns": 190_000_000,
    "voluntary": 10,
}


def told(
    cpu_ns: Any = HALF, *, threads: int | None = 2, cpus: int | None = 2, clock: str = "process", **counted: Any
) -> Any:
    return causes_of(WALL, cpu_ns, QUIET | counted, cpu_clock=clock, threads=threads, cpus=cpus)


def test_one_thread_is_judged_by_its_own_cpu_time_alone() -> None:
    assert told(WALL, threads=1, clock="thread") == ()
    assert told(HALF, threads=1, clock="thread") == ("preempted",)
    # What its counters say of waiting has the settling in it, and is not asked.
    assert told(WALL, threads=1, clock="thread", waited_ns=50_000_000, some_us=90_000) == ()
    assert causes_of(WALL, HALF, None, cpu_clock="thread", threads=1, cpus=2) == ("preempted",)


@pytest.mark.parametrize(
    ("counted", "causes"),
    [
        ({}, ()),
        ({"waited_ns": 5_100_000, "busy_ns": 250_000_000}, ()),  # ten wake-ups are allowed for
        ({"waited_ns": 5_300_000, "busy_ns": 250_000_000}, ("waited",)),
        ({"waited_ns": 90_000_000, "busy_ns": 204_000_000}, ()),  # nobody else ran: sleepers are slow to wake here
        ({"waited_ns": 4_000_000, "span_ns": 40_000_000}, ("waited",)),  # too short to say who ran
        ({"waited_ns": 5_300_000, "busy_ns": None}, ("waited",)),
        ({"steal_ns": 20_000_000}, ()),  # one tick of each CPU may be older than the block
        ({"steal_ns": 30_000_000}, ("stolen",)),
        ({"waited_ns": None, "busy_ns": 200_000_000}, ()),
        ({"waited_ns": None, "busy_ns": 240_000_000}, ("crowded",)),
        ({"waited_ns": None, "busy_ns": None, "some_us": 4_000}, ()),
        ({"waited_ns": None, "busy_ns": None, "some_us": 6_000}, ("pressure",)),
        ({"quota_us": 4_000}, ()),
        ({"quota_us": 6_000}, ("quota",)),
        ({"throttles": 1}, ("heat",)),
    ],
)
def test_several_threads_are_judged_by_the_best_counter_there_is(
    counted: dict[str, Any], causes: tuple[str, ...]
) -> None:
    assert told(**counted) == causes
    assert set(causes) <= set(CAUSES)


def test_others_on_cores_that_nobody_here_needs_take_nothing() -> None:
    busy = {"waited_ns": None, "busy_ns": 290_000_000}
    assert told(cpus=4, **busy) == ()
    assert told(cpus=2, **busy) == ("crowded",)


def test_others_on_the_same_cores_are_seen_though_no_cpu_time_is_lost() -> None:
    alone: dict[str, Any] = {"threads": 1, "clock": "thread", "own_ns": 100_000_000}
    assert told(WALL, beside_ns=100_000_000, **alone) == ()
    assert told(WALL, beside_ns=140_000_000, **alone) == ()  # two CPUs, each counted in steps of 10 ms
    assert told(WALL, beside_ns=150_000_000, **alone) == ("beside",)
    assert told(HALF, beside_ns=150_000_000, **alone) == ("preempted", "beside")


def test_without_any_evidence_nothing_is_said() -> None:
    assert told(waited_ns=None, busy_ns=None, some_us=None) is None
    assert causes_of(WALL, HALF, None, cpu_clock="process", threads=2, cpus=2) is None
    assert told(waited_ns=None, busy_ns=None, some_us=None, throttles=2) == ("heat",)


def made(**settings: Any) -> SessionData:
    return sample_session(**({"devices": ("laptop",), "variants": VARIANTS[:1], "block_s": 0.12} | settings))


def one(data: SessionData) -> Row:
    return build_rows(data)[0]


def test_quiet_rows_have_the_same_figure_twice() -> None:
    row = one(made())
    assert (row.uncontended_blocks, row.blocks) == (60, 60)
    assert row.latency_uncontended_median_ns == row.latency_median_ns
    assert row.latency_uncontended_low_ns == row.latency_median_low_ns
    assert "uncontended" not in render_text([row])


def test_contended_blocks_are_left_out_of_the_second_figure_only() -> None:
    quiet, row = one(made(run_effect=0.0)), one(made(run_effect=0.0, contended={"laptop": 0.4}))
    assert row.uncontended_blocks is not None
    assert 20 <= row.uncontended_blocks <= 50
    assert row.latency_uncontended_median_ns == pytest.approx(quiet.latency_median_ns, rel=0.01)
    assert row.grade == "C"
    assert any("others ran on its CPU" in reason for reason in row.grade_reasons), row.grade_reasons
    for text in (render_text([row]), render_markdown([row])):
        assert f"({row.uncontended_blocks}/60)" in text
    assert "latency_uncontended_median_ns" in render_csv([row])


def test_when_every_block_was_contended_there_is_no_second_figure() -> None:
    row = one(made(contended={"laptop": 1.0}))
    assert (row.uncontended_blocks, row.latency_uncontended_median_ns) == (0, None)
    assert row.latency_median_ns is not None
    assert "latency_uncontended_median_ns: all 60 blocks were contended" in row.null_reasons


def test_on_a_phone_blocks_are_only_flagged() -> None:
    data = made(contended={"laptop": 0.4})
    phone = dataclasses.replace(data.devices[0], facts={"android": {"version": "14"}})
    row = one(dataclasses.replace(data, devices=(phone,)))
    assert row.uncontended_blocks is not None
    assert row.uncontended_blocks < 60
    assert row.latency_uncontended_median_ns is None
    assert any(reason.startswith("latency_uncontended_median_ns: on a phone") for reason in row.null_reasons)


def test_counters_of_the_agent_are_joined_with_their_blocks() -> None:
    data = made()
    runs = []
    for before in data.runs:
        environment = before.environment | {"threads": 2, "affinity": [0, 1]}
        loads = tuple(dataclasses.replace(load, facts={**load.facts, "threads": 2}) for load in before.loads)
        run = dataclasses.replace(before, environment=environment, loads=loads)
        if run.kind == LATENCY:
            names = {(b.index, b.variant) for b in run.blocks if b.phase == MEASURE}
            visits = {
                index: {
                    name: list(
                        (QUIET | {"waited_ns": 60_000_000 * (index in (1, 2, 3)), "busy_ns": 260_000_000}).values()
                    )
                }
                for index, name in names
            }
            values = [{"round": i, "columns": list(QUIET), "visits": found} for i, found in sorted(visits.items())]
            sensors = tuple({"t_ns": 0, "name": "contention", "values": each} for each in values)
            run = dataclasses.replace(run, sensors=sensors)
        runs.append(run)
    row = one(dataclasses.replace(data, runs=tuple(runs)))
    assert (row.uncontended_blocks, row.blocks) == (42, 60)
    assert any("its threads waited for a CPU" in reason for reason in row.grade_reasons), row.grade_reasons
    # A session of several threads without counters: nothing can be told.
    bare = tuple(dataclasses.replace(run, sensors=()) for run in runs)
    row = one(dataclasses.replace(data, runs=bare))
    assert row.uncontended_blocks is None
    assert any(reason.startswith("uncontended_blocks: nothing on this device") for reason in row.null_reasons)
    assert any(reason.startswith("contention unknown: nothing tells of 60 blocks") for reason in row.grade_reasons)


def test_cpus_asked_for_and_not_given_are_a_rule_unmet() -> None:
    data = made()
    runs = tuple(
        dataclasses.replace(run, environment=run.environment | {"requested": {"affinity": [2]}}) for run in data.runs
    )
    row = one(dataclasses.replace(data, runs=runs))
    assert "ran on CPUs 0, not 2" in row.grade_reasons
    kept = tuple(
        dataclasses.replace(run, environment=run.environment | {"requested": {"affinity": [0]}}) for run in data.runs
    )
    assert not any("ran on CPUs" in reason for reason in one(dataclasses.replace(data, runs=kept)).grade_reasons)
