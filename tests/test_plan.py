"""The plan: complete, balanced, seeded, and the same everywhere."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.plan import PRESETS, MeasurementProtocol, Plan, latency_plan, make_plan, visit_s

FORMATS = {"t1": "tflite", "t2": "tflite", "o1": "onnx", "v1": "openvino", "o2": "onnx"}
ENGINES = {"here": ("litert", "onnxruntime", "openvino"), "board": ("litert",)}


def plan(seed: int = 1, **changes: object) -> Plan:
    protocol = MeasurementProtocol(probes=2, rounds=4, **changes)  # type: ignore[arg-type]
    return make_plan(FORMATS, ENGINES, protocol, seed=seed, evaluate=True)


def test_every_variant_is_probed_where_its_engine_is() -> None:
    jobs = plan().probes()
    found = Counter((job.device, job.variant) for job in jobs)
    assert found == dict.fromkeys(
        [("here", name) for name in FORMATS] + [("board", "t1"), ("board", "t2")],
        2,
    )
    assert {job.evaluate for job in jobs if job.repetition == 0} == {True}
    assert {job.evaluate for job in jobs if job.repetition == 1} == {False}
    # Canaries first: a variant that dies is found before it is measured at length.
    assert [job.repetition for job in jobs] == sorted(job.repetition for job in jobs)


def test_the_seed_decides_and_nothing_else() -> None:
    healthy = {("here", "litert"): ["t2", "t1"], ("here", "onnxruntime"): ["o1", "o2"], ("board", "litert"): ["t1"]}
    assert plan().probes() == plan().probes()
    assert plan().latencies(3, healthy) == plan().latencies(3, healthy)
    assert any(plan(seed).probes() != plan().probes() for seed in range(2, 5))
    assert len({plan().latencies(r, healthy) for r in range(8)}) == 8
    # Fixed for good: a session can be planned again from its record, on any machine and Python.
    assert [job.variant for job in plan(7).probes()[:5]] == PINNED


PINNED = ["v1", "t2", "o1", "t1", "t2"]


@given(st.integers(0, 10_000), st.integers(0, 30), st.sets(st.sampled_from(["t1", "t2"])))
def test_rounds_are_complete_blocks(seed: int, round_: int, healthy: set[str]) -> None:
    jobs = plan(seed).latencies(round_, {("here", "litert"): healthy, ("board", "litert"): ["t1"]})
    assert len(jobs) == (2 if healthy else 1)
    for job in jobs:
        expected = sorted(healthy) if job.device == "here" else ["t1"]
        assert sorted(job.variants) == expected
        assert len(job.order) == 4
        assert all(sorted(block) == expected for block in job.order)


def test_devices_of_an_engine_are_measured_one_after_the_other() -> None:
    names = tuple(ENGINES["here"])
    both = make_plan(FORMATS, {"here": names, "board": names}, MeasurementProtocol(), seed=3, evaluate=False)
    healthy = {target.key: target.variants for target in both.targets}
    orders = []
    for round_ in range(30):
        jobs = both.latencies(round_, healthy)
        pairs = [(jobs[i], jobs[i + 1]) for i in range(0, len(jobs), 2)]
        assert all(one.engine == two.engine and one.device != two.device for one, two in pairs)
        orders.append(tuple((one.engine, one.device) for one, _ in pairs))
    # Engines in every order, and each device first about half of the time.
    assert len({tuple(engine for engine, _ in order) for order in orders}) == 6
    firsts = Counter(device for order in orders for _, device in order)
    assert 30 <= firsts["here"] <= 60


def test_positions_are_balanced() -> None:
    firsts = Counter(
        block[0]
        for round_ in range(100)
        for job in plan().latencies(round_, {("here", "litert"): ["t1", "t2"]})
        for block in job.order
    )
    assert abs(firsts["t1"] - firsts["t2"]) < 80  # 400 draws: four standard deviations


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_run_totals_what_the_protocol_asks(name: str) -> None:
    protocol = PRESETS[name]
    made = latency_plan(protocol, (("a",),) * protocol.rounds)
    assert made.block_samples * protocol.rounds >= protocol.run_samples
    assert made.block_s * protocol.rounds == pytest.approx(protocol.run_s)
    assert made.block_max_s >= made.block_s
    assert made.warmup_max_s >= made.warmup_s
    assert protocol.runs >= 6
    assert protocol.max_runs >= protocol.runs


def test_expected_time_is_bounded_for_slow_variants() -> None:
    quick = PRESETS["quick"]
    assert visit_s(quick, 1e-5) == pytest.approx(0.07, abs=0.01)
    assert visit_s(quick, 0.166) < 2.0 + 5 * (0.5 + 2 * 0.166) + 0.01
    standard = PRESETS["standard"]
    assert visit_s(standard, 1e-3) == pytest.approx(1.5, abs=0.1)


def test_a_retry_is_ordered_anew() -> None:
    made = plan()
    target = made.targets[0]
    assert made.latency(target, 0, target.variants) != made.latency(target, 0, target.variants, retry=1)
