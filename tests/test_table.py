"""Rows say what was measured, and nothing else; the same session always gives the same rows."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import numpy as np
import pytest
from sample_session import CRASHES_ON, FAILED, REFUSED, VARIANTS, sample_session

from harness.records import LATENCY, MEASURE, PROBE, Block, Evaluation, Failure, Run, SessionData
from harness.row import Row, row_to_dict
from harness.store import Store
from harness.table import block_medians, build_rows, cells, run_medians
from harness.table.nulls import NULLABLE

FP32 = "dscnn.tflite.fp32"


@pytest.fixture(scope="module")
def data() -> SessionData:
    return sample_session(broken_device=True)


@pytest.fixture(scope="module")
def rows(data: SessionData) -> list[Row]:
    return build_rows(data)


def row(rows: list[Row], variant: str = FP32, device: str = "laptop") -> Row:
    (found,) = (row for row in rows if (row.variant, row.device) == (variant, device))
    return found


def change(data: SessionData, edit: Any, **session: Any) -> SessionData:
    """The session with each run put through `edit` (None drops it)."""
    runs = tuple(run for run in map(edit, data.runs) if run is not None)
    return dataclasses.replace(data, runs=runs, session=dataclasses.replace(data.session, **session))


def small(**options: Any) -> SessionData:
    return sample_session(devices=("laptop",), variants=VARIANTS[:2], **options)


def test_one_row_for_every_variant_on_every_device_in_order(data: SessionData, rows: list[Row]) -> None:
    expected = [(device.name, variant.name) for device in data.devices for variant in data.variants]
    assert [(row.device, row.variant) for row in rows] == expected


def test_latency_is_the_median_of_run_medians_with_the_order_statistic_interval(
    data: SessionData, rows: list[Row]
) -> None:
    runs = [run for run in data.runs if (run.device, run.engine, run.kind) == ("laptop", "litert", LATENCY)]
    samples = [
        np.concatenate([b.wall_ns for b in run.blocks if b.variant == FP32 and b.phase == MEASURE]) for run in runs
    ]
    medians = sorted(float(np.median(s)) for s in samples)
    found = row(rows)
    assert found.latency_median_ns == (medians[2] + medians[3]) / 2
    assert (found.latency_median_low_ns, found.latency_median_high_ns) == (medians[0], medians[-1])
    pooled = np.sort(np.concatenate(samples))
    assert found.samples == pooled.size
    assert found.latency_p90_ns == pooled[int(np.ceil(0.9 * pooled.size)) - 1]
    assert found.latency_min_ns == pooled[0]
    assert found.runs == 6
    assert found.latency_p90_low_ns is not None
    assert found.latency_p90_high_ns is not None
    assert found.latency_p90_low_ns <= found.latency_p90_ns <= found.latency_p90_high_ns
    assert found.latency_p90_early_stopping_ns is not None
    assert found.latency_p90_early_stopping_ns >= found.latency_p90_ns
    assert run_medians(data)[FP32, "laptop"] == {
        run.round: float(np.median(s)) for run, s in zip(runs, samples, strict=True)
    }
    assert [a.tolist() for a in cells.latency_samples(data, FP32, "laptop")] == [s.tolist() for s in samples]
    first = block_medians(data)[FP32, "laptop"][runs[0].round, runs[0].id]
    assert first[3] == next(
        float(np.median(b.wall_ns)) for b in runs[0].blocks if (b.variant, b.index, b.phase) == (FP32, 3, MEASURE)
    )


def test_warm_up_and_settling_never_reach_a_figure(data: SessionData, rows: list[Row]) -> None:
    def spoil(run: Run) -> Run:
        blocks = tuple(
            block if block.phase == MEASURE else dataclasses.replace(block, wall_ns=block.wall_ns * 50)
            for block in run.blocks
        )
        return dataclasses.replace(run, blocks=blocks)

    assert build_rows(change(data, spoil)) == rows


def test_cold_start_and_memory_come_from_probes(data: SessionData, rows: list[Row]) -> None:
    loads = [load for run in data.runs if (run.device, run.kind) == ("laptop", PROBE) for load in run.loads]
    mine = [load for load in loads if load.variant == FP32]
    found = row(rows)
    assert len(mine) == 3
    assert found.load_ns == float(np.median([load.load_ns for load in mine]))
    assert found.memory_peak_bytes == max(load.memory["peak"] for load in mine)
    assert found.memory_peak_delta_bytes == max(load.memory["peak"] - load.memory["baseline"] for load in mine)
    assert found.memory_loaded_delta_bytes == 2 * 169_432
    assert found.memory_arena_bytes == 90_112
    other = row(rows, "dscnn.onnx.fp32")
    assert other.memory_arena_bytes is None
    assert "memory_arena_bytes: the engine does not tell" in other.null_reasons


def test_answers_against_hand_counts(data: SessionData, rows: list[Row]) -> None:
    variant = "dscnn.tflite.static_wi8_ai8"
    found = row(rows, variant)
    (top,) = (e.top for run in data.runs if run.device == "laptop" for e in run.evaluations if e.variant == variant)
    reference = data.reference
    assert reference is not None
    assert reference.labels is not None
    assert reference.base_top is not None
    assert top is not None
    hits = int((top[:, 0] == reference.labels).sum())
    base_hits = int((reference.base_top[:, 0] == reference.labels).sum())
    assert found.accuracy == hits / 1000
    assert found.accuracy_drop_pp == pytest.approx((base_hits - hits) / 10)
    assert found.agreement == (top[:, 0] == reference.base_top[:, 0]).mean()
    assert found.accuracy_drop_low_pp is not None
    assert found.accuracy_drop_high_pp is not None
    assert found.accuracy_drop_low_pp < found.accuracy_drop_pp < found.accuracy_drop_high_pp
    assert found.accuracy_top5 == 1.0
    assert found.mae is None
    assert row(rows, FP32).accuracy_drop_pp == 0.0
    assert row(rows, FP32, "laptop").outputs_sha256 == row(rows, FP32, "board").outputs_sha256


def test_regression_and_no_task() -> None:
    regression = build_rows(small(task="regression"))[0]
    assert regression.accuracy is None
    assert "accuracy: a regression has no classes" in regression.null_reasons
    assert regression.rmse is not None
    assert regression.mae is not None
    assert 0.05 < regression.mae < regression.rmse < 0.2
    assert regression.rmse_ratio == pytest.approx(1.0, abs=0.001)
    nothing = build_rows(small(task="none"))[0]
    assert (nothing.accuracy, nothing.rmse, nothing.outputs_sha256) == (None, None, None)
    assert "accuracy: there are no labelled data" in nothing.null_reasons
    assert nothing.status == "ok"
    assert nothing.grade == "A"


def test_no_labels_still_gives_agreement() -> None:
    data = small()
    assert data.reference is not None
    bare = dataclasses.replace(data, reference=dataclasses.replace(data.reference, labels=None))
    found = build_rows(bare)[0]
    assert found.agreement == 1.0
    assert "accuracy: the data have no labels" in found.null_reasons
    assert "accuracy_drop_pp: the data have no labels" in found.null_reasons


def test_every_null_has_its_reason(rows: list[Row]) -> None:
    for found in [*rows, *build_rows(small(runs=3)), *build_rows(small(task="regression"))]:
        reasons = {entry.split(":", 1)[0] for entry in found.null_reasons}
        assert reasons == {name for name in NULLABLE if getattr(found, name) is None}
        assert all(entry.split(":", 1)[1].strip() for entry in found.null_reasons)


def test_what_failed_or_was_refused_is_a_row_with_its_words(rows: list[Row]) -> None:
    failed, refused = row(rows, FAILED.name), row(rows, REFUSED.name, "board")
    assert (failed.status, failed.grade) == ("failed", "invalid")
    assert failed.error == "ToolCrashed: the converter was killed by SIGSEGV"
    assert failed.remedy == "try the recipe without 16-bit activations"
    assert (refused.status, refused.error) == ("refused", "Unsupported: ONNX Runtime has no 4-bit convolution")
    crashed = row(rows, CRASHES_ON[1], CRASHES_ON[0])
    assert (crashed.status, crashed.latency_median_ns) == ("failed", None)
    assert crashed.error == "EngineCrashed: the agent was killed by SIGILL"
    assert crashed.size_bytes == 131_775
    assert row(rows, CRASHES_ON[1], "laptop").status == "ok"
    lost = row(rows, FP32, "pi-lost")
    assert (lost.status, lost.error) == ("failed", "TransportError: no route to host 10.0.0.9")


def test_a_variant_that_dies_late_is_failed_but_one_that_recovers_is_not() -> None:
    data = small()
    failure = Failure("measurement", "EngineCrashed", "killed")
    last = max(run.round for run in data.runs if run.kind == LATENCY)

    def die(run: Run) -> Run:
        return dataclasses.replace(run, failed_variants={FP32: failure}) if run.round == last else run

    def stumble(run: Run) -> Run:
        if (run.kind, run.round) == (LATENCY, 2):
            return dataclasses.replace(run, status="failed", failed_variants={FP32: failure})
        return run

    assert row(build_rows(change(data, die))).status == "failed"
    survived = row(build_rows(change(data, stumble)))
    assert (survived.status, survived.runs, survived.grade) == ("ok", 5, "B")
    assert any("1 runs of it failed" in reason for reason in survived.grade_reasons)
    assert row(build_rows(change(data, stumble)), VARIANTS[1].name).runs == 5


def test_an_interrupted_session_keeps_what_it_has_and_says_so() -> None:
    data = small(interrupted=True)
    found = row(build_rows(data))
    assert (found.status, found.grade, found.runs) == ("ok", "B", 6)
    assert "a run was interrupted" in found.grade_reasons
    probes_only = change(data, lambda run: run if run.kind == PROBE else None)
    found = row(build_rows(probes_only))
    assert (found.status, found.grade, found.latency_median_ns) == ("ok", "invalid", None)
    assert found.accuracy is not None
    assert "latency_median_ns: no latency run of it ended" in found.null_reasons
    nothing = row(build_rows(change(data, lambda _: None)))
    assert nothing.status == "failed"
    assert nothing.error is not None
    assert "still running, or was killed" in nothing.error


def test_too_few_runs_or_samples_print_nothing_instead_of_something() -> None:
    found = row(build_rows(small(runs=5)))
    assert found.latency_median_ns is not None
    assert (found.latency_median_low_ns, found.latency_median_high_ns) == (None, None)
    assert any(entry.startswith("latency_median_low_ns: n/a (n=5)") for entry in found.null_reasons)
    assert found.grade == "B"
    tiny = row(build_rows(small(runs=1, rounds=5, block_samples=7, block_s=0.0)))
    assert tiny.samples == 35
    assert tiny.latency_p90_ns is None
    assert any(entry.startswith("latency_p90_ns: n/a (n=35)") for entry in tiny.null_reasons)
    more = row(build_rows(small(runs=1, rounds=6, block_samples=6, block_s=0.0)))
    assert more.samples == 36
    assert more.latency_p90_ns is not None
    assert more.latency_p90_low_ns is None
    assert more.latency_p99_ns is None


def test_grades_follow_what_was_measured() -> None:
    assert row(build_rows(small())).grade == "A"
    quick = row(build_rows(small(preset="quick", block_s=0.01)))
    assert quick.grade == "B"
    assert any("less than 1 s" in reason for reason in quick.grade_reasons)
    assert row(build_rows(small(emulated=("laptop",)))).grade == "C"
    crowded = row(build_rows(small(contended={"laptop": 0.6})))
    assert crowded.grade == "C"
    assert any("had to share their CPU" in reason for reason in crowded.grade_reasons)
    wide = row(build_rows(small(run_effect=0.08)))
    assert wide.grade == "B"
    assert any("not converged" in reason for reason in wide.grade_reasons)
    headline = row(build_rows(small(preset="headline")))
    assert any("fewer than 12" in reason for reason in headline.grade_reasons)


def test_contention_is_not_judged_where_it_cannot_be() -> None:
    def many_threads(run: Run) -> Run:
        loads = tuple(dataclasses.replace(load, facts={**load.facts, "threads": 4}) for load in run.loads)
        return dataclasses.replace(run, loads=loads, environment={**run.environment, "threads": 4})

    found = row(build_rows(change(small(contended={"laptop": 0.6}), many_threads)))
    assert not any("share their CPU" in reason for reason in found.grade_reasons)
    assert any("ran with 4 threads, not 1" in reason for reason in found.grade_reasons)


def test_drift_is_flagged() -> None:
    def slower(run: Run) -> Run:
        blocks = tuple(
            dataclasses.replace(
                b, wall_ns=(b.wall_ns * factor).astype(np.int64), cpu_ns=(b.cpu_ns * factor).astype(np.int64)
            )
            for b in run.blocks
        )
        return dataclasses.replace(run, blocks=blocks)

    def throttle(run: Run) -> Run:
        nonlocal factor
        factor = 1.15 if run.kind == LATENCY and run.round >= 3 else 1.0
        return slower(run)

    factor = 1.0
    found = row(build_rows(change(small(), throttle)))
    assert found.grade == "B"
    assert any(re.match(r"drift: a step of \+1[3-7]\.\d% at block 30", reason) for reason in found.grade_reasons)


def test_a_precision_lowered_in_silence_is_named() -> None:
    def lowered(run: Run) -> Run:
        loads = tuple(dataclasses.replace(load, facts={**load.facts, "precision": "bf16"}) for load in run.loads)
        return dataclasses.replace(run, loads=loads)

    found = row(build_rows(change(small(), lowered)))
    assert found.precision == "bf16"
    assert "computed in bf16, though f32 was asked for" in found.grade_reasons


def test_outputs_that_change_from_run_to_run_are_named() -> None:
    data = small()
    extra = Evaluation(FP32, 1000, "other", top=np.zeros((1000, 5), np.int32))

    def second(run: Run) -> Run:
        if run.kind == PROBE and run.round == 1 and run.loads[0].variant == FP32:
            return dataclasses.replace(run, evaluations=(extra,))
        return run

    assert "its outputs differ from run to run" in row(build_rows(change(data, second))).grade_reasons


def test_outputs_of_fewer_rows_give_no_accuracy() -> None:
    data = small()

    def short(run: Run) -> Run:
        evaluations = tuple(
            dataclasses.replace(e, rows=10, top=e.top[:10]) for e in run.evaluations if e.top is not None
        )
        return dataclasses.replace(run, evaluations=evaluations)

    found = row(build_rows(change(data, short)))
    assert found.accuracy is None
    assert "accuracy: outputs of 10 of 1000 rows" in found.null_reasons


def test_the_clock_going_back_does_not_hurt() -> None:
    def reboot(run: Run) -> Run:
        blocks = tuple(dataclasses.replace(b, started_ns=b.started_ns % 7_000_000_000) for b in run.blocks)
        return dataclasses.replace(run, blocks=blocks)

    assert row(build_rows(change(small(), reboot))).status == "ok"


def test_samples_of_zero_nanoseconds_do_not_hurt() -> None:
    zero = np.zeros(60, dtype=np.int64)

    def flat(run: Run) -> Run:
        blocks = tuple(Block(b.variant, b.index, b.phase, b.started_ns, zero, zero) for b in run.blocks)
        return dataclasses.replace(run, blocks=blocks)

    assert row(build_rows(change(small(), flat))).latency_median_ns == 0.0


def test_rows_are_rebuilt_byte_for_byte_from_the_store(data: SessionData, rows: list[Row], tmp_path: Any) -> None:
    def text(found: list[Row]) -> str:
        return json.dumps([row_to_dict(item) for item in found], allow_nan=False)

    with Store.open(tmp_path / "s.sqlite") as store:
        store.add_session(data.session, data.variants, data.devices, data.reference)
        for run in data.runs:
            store.add_run(run)
    with Store.open(tmp_path / "s.sqlite") as store:
        back = store.load("20261121-221500-a1b2c3")
    assert text(build_rows(back)) == text(rows) == text(build_rows(data))


def test_thinning_keeps_order_and_ends() -> None:
    samples = np.arange(1000, dtype=np.int64)
    thin = cells.thinned(samples, 64)
    assert thin.size == 64
    assert thin[0] == 0
    assert thin[-1] == 999
    assert np.all(np.diff(thin) > 0)
    assert cells.thinned(samples, None) is samples
    every = cells.all_latency_samples(small(runs=2), limit=20)
    assert list(every) == ["laptop"]
    assert [run.size for run in every["laptop"][FP32]] == [20, 20]
