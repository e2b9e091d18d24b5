"""Comparisons of variants, devices and sessions: paired where they can be, and never sure without reason."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from sample_session import VARIANTS, sample_session

from harness.compare import compare_devices, compare_pair, compare_sessions, compare_variants, comparison_to_dict
from harness.errors import SpecError
from harness.records import LATENCY, DeviceRecord, Run, SessionData

FP32, INT8, FP16 = "dscnn.tflite.fp32", "dscnn.tflite.static_wi8_ai8", "dscnn.tflite.fp16"
ONNX = "dscnn.onnx.fp32"


# Three TFLite variants, one of ONNX, and the one that crashes on the board.
FEW = (*(VARIANTS[i] for i in (0, 1, 3, 5)), VARIANTS[11])


@pytest.fixture(scope="module")
def data() -> SessionData:
    return sample_session(variants=FEW)


def twin(data: SessionData, factor: float = 1.0, seed: int = 5, spread: float = 0.003) -> SessionData:
    """The session with a second device "ssh" whose runs are the laptop's, times `factor` and a little noise."""
    rng = np.random.default_rng(seed)

    def copy(run: Run) -> Run:
        noise = factor * math.exp(rng.normal(0, spread))
        blocks = tuple(
            dataclasses.replace(
                b, wall_ns=(b.wall_ns * noise).astype(np.int64), cpu_ns=(b.cpu_ns * noise).astype(np.int64)
            )
            for b in run.blocks
        )
        return dataclasses.replace(run, id=run.id + "-ssh", device="ssh", blocks=blocks)

    runs = [run for run in data.runs if run.device == "laptop"]
    devices = (data.devices[0], DeviceRecord("ssh", "ssh", host_id="host-laptop"))
    return dataclasses.replace(data, devices=devices, runs=(*runs, *map(copy, runs)))


def test_variants_of_one_engine_are_paired_by_block(data: SessionData) -> None:
    table = compare_variants(data, "laptop", FP32, [INT8, FP16])
    int8, fp16 = table.pairs
    assert (int8.method, int8.comparison.verdict) == ("block", "faster")
    assert int8.comparison.ratio == pytest.approx(0.55, rel=0.01)
    assert int8.comparison.n == 6
    assert int8.size_ratio == pytest.approx(62_016 / 169_432)
    assert int8.accuracy_difference_pp is not None
    assert fp16.comparison.ratio == pytest.approx(1.01, rel=0.005)
    # Runs differ by 0.8 %, but that cancels in the blocks they share.
    assert fp16.comparison.low is not None
    assert fp16.comparison.high is not None
    assert fp16.comparison.high / fp16.comparison.low < 1.006
    assert table.overall is None


def test_variants_of_two_engines_are_paired_by_round(data: SessionData) -> None:
    (pair,) = compare_variants(data, "laptop", FP32, [ONNX]).pairs
    assert (pair.method, pair.comparison.verdict, pair.comparison.n) == ("round", "slower", 6)
    assert pair.comparison.ratio == pytest.approx(1.15, rel=0.02)


def test_without_candidates_all_others_are_compared_and_failures_say_why(data: SessionData) -> None:
    table = compare_variants(data, "board", FP32)
    assert len(table.pairs) == len(FEW) - 1
    crashed = next(pair for pair in table.pairs if pair.candidate.variant == "dscnn.openvino.static_wi8_ai8")
    assert (crashed.method, crashed.comparison.verdict) == ("none", "inconclusive")
    assert crashed.comparison.reason is not None
    assert "SIGILL" in crashed.comparison.reason


def test_holm_counts_the_whole_table(data: SessionData) -> None:
    alone = compare_variants(data, "laptop", FP32, [ONNX]).pairs[0].comparison
    among = next(p for p in compare_variants(data, "laptop", FP32).pairs if p.candidate.variant == ONNX).comparison
    assert alone.p_value == among.p_value
    assert among.p_adjusted is not None
    assert alone.p_adjusted is not None
    assert among.p_adjusted >= alone.p_adjusted
    assert (alone.low, alone.high) == (among.low, among.high)


def test_the_same_machine_over_another_transport_is_equivalent(data: SessionData) -> None:
    table = compare_devices(twin(data), "ssh", "laptop")
    assert {pair.method for pair in table.pairs} == {"round"}
    assert all(pair.outputs_identical for pair in table.pairs)
    assert table.overall is not None
    assert table.overall.verdict == "equivalent"
    assert table.overall.n == 6
    assert all(pair.comparison.verdict in ("equivalent", "inconclusive") for pair in table.pairs)


def test_a_slower_device_is_found_slower(data: SessionData) -> None:
    table = compare_devices(twin(data, factor=1.05), "ssh", "laptop")
    assert table.overall is not None
    assert table.overall.verdict == "slower"
    assert table.overall.ratio == pytest.approx(1.05, rel=0.005)
    back = compare_devices(twin(data, factor=1.05), "laptop", "ssh")
    assert back.overall is not None
    assert back.overall.verdict == "faster"


def test_sessions_are_compared_unpaired() -> None:
    old = sample_session(1, devices=("laptop",), session_id="20260101-000000-old", variants=FEW)
    new = sample_session(2, devices=("laptop",), session_id="20260201-000000-new", slowdown={FP32: 1.10}, variants=FEW)
    table = compare_sessions(new, old)
    found = {pair.candidate.variant: pair for pair in table.pairs}
    assert found[FP32].method == "unpaired"
    assert found[FP32].comparison.verdict == "slower"
    assert found[FP32].comparison.ratio == pytest.approx(1.10, rel=0.02)
    assert found[INT8].comparison.verdict != "slower"
    assert "dscnn.onnx.static_wi4_ai4" not in found
    assert found["dscnn.tflite.static_wi8_ai16"].comparison.verdict == "inconclusive"
    assert table.overall is not None


def test_different_artifacts_and_settings_are_remarked() -> None:
    old = sample_session(1, devices=("laptop",), session_id="20260101-000000-old", variants=FEW)
    new = sample_session(2, devices=("laptop",), session_id="20260201-000000-new", emulated=("laptop",), variants=FEW)
    changed = tuple(dataclasses.replace(v, artifact_sha256="f" * 64) for v in new.variants)

    def threads(run: Run) -> Run:
        loads = tuple(dataclasses.replace(load, facts={**load.facts, "threads": 2}) for load in run.loads)
        return dataclasses.replace(run, loads=loads)

    new = dataclasses.replace(new, variants=changed, runs=tuple(map(threads, new.runs)))
    with pytest.raises(SpecError, match=r"not of one kind: laptop: one of the two is emulated.*--across-machines"):
        compare_sessions(new, old)
    remarks = compare_sessions(new, old, across_machines=True).pairs[0].remarks
    assert "threads differ: 2 and 1" in remarks
    assert "the artifacts differ" in remarks
    assert any("grade C: emulated" in remark for remark in remarks)


def on_many(count: int) -> SessionData:
    """The laptop's runs on `count` devices, each slower than the one before it."""
    data = sample_session(devices=("laptop",), variants=VARIANTS[:2], block_s=0.02)
    names = [f"phone{number}" for number in range(count)]
    runs = [
        dataclasses.replace(
            run,
            id=f"{run.id}-{name}",
            device=name,
            blocks=tuple(dataclasses.replace(b, wall_ns=b.wall_ns * (number + 1)) for b in run.blocks),
        )
        for number, name in enumerate(names)
        for run in data.runs
    ]
    devices = tuple(dataclasses.replace(data.devices[0], name=name) for name in names)
    return dataclasses.replace(data, devices=devices, runs=tuple(runs))


def test_over_devices_only_ratios_are_pooled_and_only_of_five_or_more() -> None:
    few = compare_pair(on_many(4), FP16, FP32)
    assert [pair.candidate.device for pair in few.pairs] == ["phone0", "phone1", "phone2", "phone3"]
    assert few.overall is not None
    assert few.overall.ratio is None
    assert few.overall.reason is not None
    assert "at least 5 devices" in few.overall.reason
    many = compare_pair(on_many(6), FP16, FP32)
    assert many.overall is not None
    ratios = [pair.comparison.ratio or 0.0 for pair in many.pairs]
    assert many.overall.ratio == pytest.approx(math.exp(np.mean(np.log(ratios))))
    assert (many.overall.n, many.overall_of) == (6, "devices")
    assert compare_pair(on_many(6), FP16, FP32, ["phone3"]).overall is None


def test_sessions_of_several_devices_have_no_overall_below_five() -> None:
    for count, expected in ((2, None), (5, 1.0)):
        old = on_many(count)
        new = dataclasses.replace(old, session=dataclasses.replace(old.session, id="20270101-000000-new"))
        overall = compare_sessions(new, old).overall
        assert overall is not None
        assert overall.ratio == expected
        assert overall.n == count


def rename(data: SessionData, identity: str) -> SessionData:
    return dataclasses.replace(data, session=dataclasses.replace(data.session, id=identity))


def on(data: SessionData, year: str) -> SessionData:
    created = year + data.session.created_at[4:]
    return dataclasses.replace(data, session=dataclasses.replace(data.session, created_at=created))


def change(data: SessionData, **environment: object) -> SessionData:
    runs = tuple(dataclasses.replace(run, environment={**run.environment, **environment}) for run in data.runs)
    return dataclasses.replace(data, session=dataclasses.replace(data.session, id="20270101-000000-new"), runs=runs)


def test_what_was_not_alike_in_two_sessions_is_named() -> None:
    old = sample_session(devices=("laptop",), variants=VARIANTS[:2], block_s=0.02)
    assert compare_sessions(change(old), old).differences == ()
    new = change(old, governor="powersave", engine_version="2.4.0", threads=2)
    # What only one of the two knows is no difference.
    assert compare_sessions(new, old).differences == (
        "laptop: litert: threads: 2 and 1",
        "laptop: litert: engine version: 2.4.0 and 2.3.0",
    )
    other = rename(change(old, governor="performance"), "20260101-000000-old")
    assert "laptop: litert: governor: powersave and performance" in compare_sessions(new, other).differences
    assert any("the older one" in words for words in compare_sessions(other, on(new, "2027")).differences)


def test_another_kind_of_machine_is_refused_unless_asked_for() -> None:
    old = sample_session(devices=("laptop",), variants=VARIANTS[:2], block_s=0.02)
    facts = old.devices[0].facts
    new = change(
        dataclasses.replace(old, devices=(dataclasses.replace(old.devices[0], facts={**facts, "cpu": "Z80"}),))
    )
    with pytest.raises(SpecError, match="cpu: Z80 and"):
        compare_sessions(new, old)
    assert any("cpu: Z80" in words for words in compare_sessions(new, old, across_machines=True).differences)
    with pytest.raises(SpecError, match="with itself"):
        compare_sessions(old, old)


def test_every_verdict_is_explained_and_an_open_one_says_how_many_runs_it_needs(data: SessionData) -> None:
    table = compare_variants(data, "laptop", FP32)
    for pair in table.pairs:
        assert pair.explanation
        assert (pair.more_runs == 0) == (pair.comparison.verdict != "inconclusive")
    int8 = next(pair for pair in table.pairs if pair.candidate.variant == INT8)
    assert "wholly below 0.99" in int8.explanation


def test_too_few_runs_are_inconclusive() -> None:
    data = sample_session(runs=2, devices=("laptop",), variants=FEW)
    (pair,) = compare_variants(data, "laptop", FP32, [INT8]).pairs
    assert pair.comparison.verdict == "inconclusive"
    assert pair.comparison.reason is not None
    assert "n=2" in pair.comparison.reason


def test_samples_of_zero_have_no_ratio() -> None:
    data = sample_session(devices=("laptop",), variants=VARIANTS[:2])

    def flat(run: Run) -> Run:
        blocks = tuple(dataclasses.replace(b, wall_ns=b.wall_ns * 0, cpu_ns=b.cpu_ns * 0) for b in run.blocks)
        return dataclasses.replace(run, blocks=blocks) if run.kind == LATENCY else run

    (pair,) = compare_variants(
        dataclasses.replace(data, runs=tuple(map(flat, data.runs))), "laptop", FP32, [FP16]
    ).pairs
    assert pair.comparison.reason is not None
    assert "0 ns" in pair.comparison.reason


def test_what_does_not_exist_is_named(data: SessionData) -> None:
    with pytest.raises(SpecError, match=r"no device 'nowhere'.*laptop, board"):
        compare_devices(data, "nowhere", "laptop")
    with pytest.raises(SpecError, match="no variant 'x'"):
        compare_variants(data, "laptop", "x")
    other = sample_session(devices=("elsewhere",), session_id="other", variants=FEW)
    with pytest.raises(SpecError, match="share no variant"):
        compare_sessions(data, other)


def test_json_is_flat_and_finite(data: SessionData) -> None:
    table = comparison_to_dict(compare_devices(twin(data), "ssh", "laptop"))
    back = json.loads(json.dumps(table, allow_nan=False))
    assert back["pairs"][0]["candidate_device"] == "ssh"
    assert back["pairs"][0]["verdict"] in ("equivalent", "inconclusive")


@pytest.mark.stats
def test_identical_variants_in_whole_sessions_are_rarely_called_different() -> None:
    """A/A through the whole chain, blocks and runs and all; at most 5 % may be called faster or slower."""
    wrong = total = 0
    same = [dataclasses.replace(VARIANTS[0], recipe=f"copy{i}") for i in range(4)]
    for seed in range(12):
        session = sample_session(seed, devices=("laptop",), variants=same, block_s=0.02, run_effect=0.03)
        for pair in compare_variants(session, "laptop", same[0].name).pairs:
            total += 1
            wrong += pair.comparison.verdict in ("faster", "slower")
    assert wrong / total <= 0.05
