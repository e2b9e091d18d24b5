"""Sessions that stop variant by variant, spend a budget, go on where they stood, and can be played again from their seed."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest
from fake_device import Crash, FakeDevice
from noisy_device import NoisyDevice
from test_resume import session, stop_at
from test_runner import Lab, at

from harness.compare import compare_variants
from harness.plan import MeasurementProtocol, make_plan
from harness.records import LATENCY, Run, SessionData
from harness.session.events import STARTED, STOPPED
from harness.session.spending import Budget, Offer, spend
from harness.table import build_rows

# Whole sessions or processes: seconds together.
pytestmark = pytest.mark.slow

VERDICT = MeasurementProtocol(runs=6, max_runs=30, probes=1, rounds=3, run_samples=6, stop_on="verdict")
SHORT = dataclasses.replace(VERDICT, max_runs=8)
# Three variants far from the base, one equal to it with much noise, and a second engine where all is quiet.
FORMATS = {"base": "tflite", "far": "tflite", "near": "tflite", "farther": "tflite", "o1": "onnx", "o2": "onnx"}
NS = {"far": 3, "farther": 9, "o2": 2}


def device(seed: int = 1, near: float = 0.02) -> NoisyDevice:
    return NoisyDevice({"near": near, "far": 0.01, "farther": 0.01}, seed=seed, name="a", ns=NS)


def visits(data: SessionData) -> Counter[str]:
    """Variant → runs it was in."""
    return Counter(
        name
        for run in data.runs
        if run.kind == LATENCY and run.status == "ok"
        for name in {b.variant for b in run.blocks}
    )


def test_a_decided_variant_costs_no_more_time_and_the_base_stays(tmp_path: Path) -> None:
    lab = Lab(tmp_path, device(), formats=FORMATS)
    data = session(lab, tmp_path / "s.db", protocol=VERDICT)
    made = visits(data)
    assert made["far"] == made["farther"] == made["o1"] == made["o2"] == 6
    assert 6 < made["near"] <= 30
    assert made["base"] == made["near"]
    stopped = [event.text for event in lab.events if event.kind == STOPPED]
    assert "a onnxruntime: settled after 6 runs" in stopped
    # While it goes on, it says what is open and why.
    open_ = [
        event.text
        for event in lab.events
        if event.kind == STARTED and "not settled: near (no verdict yet" in event.text
    ]
    assert len(open_) == made["near"] - 6
    # What a comparison says afterwards is what stopping went by: widened for the looks.
    table = compare_variants(data, "a", "base", ["far", "near", "farther"])
    assert {pair.comparison.looks for pair in table.pairs} == {25}
    assert {pair.candidate.variant: pair.comparison.verdict for pair in table.pairs} == {
        "far": "slower",
        "near": "equivalent",
        "farther": "slower",
    }
    rows = {row.variant: row for row in build_rows(data)}
    assert any("not converged" in reason for reason in rows["near"].grade_reasons) or rows["near"].runs > 12


def test_an_estimate_stops_by_its_own_interval_alone(tmp_path: Path) -> None:
    protocol = dataclasses.replace(VERDICT, stop_on="estimate", target=0.01, max_runs=40)
    data = session(Lab(tmp_path, device(near=0.015), formats=FORMATS), tmp_path / "s.db", protocol=protocol)
    made = visits(data)
    assert made["near"] > 6
    assert made["o1"] == made["o2"] == 6
    (pair,) = compare_variants(data, "a", "base", ["near"]).pairs
    assert pair.comparison.looks == 1, "nobody looked at ratios"


def test_the_most_runs_end_it_and_say_what_is_not_settled(tmp_path: Path) -> None:
    lab = Lab(tmp_path, device(seed=2, near=0.5), formats=FORMATS)
    data = session(lab, tmp_path / "s.db", protocol=SHORT)
    assert visits(data)["near"] == 8
    (text,) = [event.text for event in lab.events if event.kind == STOPPED and "litert" in event.text]
    assert text.startswith("a litert: all 8 runs are made; not settled: near (no verdict yet, ")


def test_a_base_that_dies_gives_its_place_to_another(tmp_path: Path) -> None:
    lab = Lab(tmp_path, device(), formats=FORMATS)
    lab.devices["a"].behave = at("visit 1 base", Crash(), kind=LATENCY)
    data = session(lab, tmp_path / "s.db", protocol=dataclasses.replace(VERDICT, max_runs=9))
    made = visits(data)
    assert "base" not in made
    assert made["far"] >= 6
    assert made["far"] >= made["near"], "it is the base now: in every run"


@pytest.mark.parametrize("count", [9, 22])
def test_a_session_that_was_cut_off_goes_on_with_what_is_open(tmp_path: Path, count: int) -> None:
    lab = Lab(tmp_path, device(), formats=FORMATS)
    lab.devices["a"].behave = stop_at(count, KeyboardInterrupt())
    broken = session(lab, tmp_path / "s.db", protocol=VERDICT)
    calm = Lab(tmp_path, device(seed=2), formats=FORMATS)
    data = session(calm, tmp_path / "s.db", resume=broken, protocol=VERDICT)
    made = visits(data)
    assert data.session.status == "done"
    assert made["far"] == made["farther"] == made["o1"] == made["o2"] == 6
    assert 6 <= made["near"] == made["base"]
    keys = [(run.engine, run.round) for run in data.runs if run.kind == LATENCY and run.status == "ok"]
    assert len(keys) == len(set(keys))
    done = session(Lab(tmp_path, device(seed=3), formats=FORMATS), tmp_path / "s.db", resume=data, protocol=VERDICT)
    assert len(done.runs) == len(data.runs), "nothing was open"


def replayed(data: SessionData, run: Run) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """The order of a run, made again from what the session has on record: its seed, its protocol, and who took part."""
    records = {record.name: record for record in data.variants}
    plan = make_plan(
        {name: record.format for name, record in records.items()},
        {"a": ("litert", "onnxruntime")},
        MeasurementProtocol(**data.session.protocol),
        seed=data.session.seed,
        evaluate=False,
    )
    target = next(target for target in plan.targets if target.key == (run.device, run.engine))
    noted = run.environment["plan"]
    job = plan.latency(target, run.round, noted["loading"], noted["retry"])
    return job.variants, job.order


def test_a_session_can_be_played_again_from_its_seed(tmp_path: Path) -> None:
    def once(folder: Path, seed: int) -> tuple[NoisyDevice, SessionData]:
        played = device()
        played.behave = at("visit 0 farther", Crash(), kind=LATENCY, times=1)
        return played, session(Lab(folder, played, formats=FORMATS), folder / "s.db", protocol=SHORT, seed=seed)

    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    first, data = once(tmp_path / "one", 5)
    second, _ = once(tmp_path / "two", 5)
    other, _ = once(tmp_path / "three", 6)

    def orders(played: NoisyDevice) -> list[object]:
        return [([m.id for m in job.models], job.latency and job.latency.order) for job in played.jobs]

    assert orders(first) == orders(second)
    assert orders(first) != orders(other)
    runs = [run for run in data.runs if run.kind == LATENCY]
    assert any(run.environment["plan"]["retry"] for run in runs)
    for run in runs:
        noted = run.environment["plan"]
        stored = tuple(tuple(noted["loading"][place] for place in block) for block in noted["order"])
        assert noted["seed"] == 5
        assert replayed(data, run) == (tuple(noted["loading"]), stored)
        measured: dict[int, list[str]] = {}
        for block in (block for block in run.blocks if block.phase == "measure"):
            measured.setdefault(block.index, []).append(block.variant)
        if run.status == "ok":
            assert tuple(map(tuple, measured.values())) == stored, "and that is what was done"


# -- budgets ---------------------------------------------------------------------------------------------------------


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_budget_counts_earlier_sittings() -> None:
    clock = Clock()
    budget = Budget(60.0, 20.0, clock)
    clock.now += 10
    assert (budget.spent_s, budget.left_s) == (30.0, 30.0)
    clock.now += 100
    assert budget.left_s == 0.0
    assert Budget(None, 5.0, clock).left_s == float("inf")


def offer(engine: str, group: str = "m", cost: float = 1.0, **further: float) -> Offer:
    return Offer(("d", engine), group, further, lambda names: cost * (1 + len(names)))


def test_a_budget_goes_where_it_settles_most() -> None:
    cheap, dear = offer("cheap", "m1", a=2.0), offer("dear", "m2", cost=10.0, b=2.0)
    assert [chosen.key[1] for chosen in spend([dear, cheap], 1000.0)] == ["cheap"]
    near, far = offer("near", "m1", a=1.0), offer("far", "m2", b=20.0)
    assert [chosen.key[1] for chosen in spend([far, near], 1000.0)] == ["near"]
    # Engines of one machine go together; variants that cannot be settled any more are left out.
    first, second = offer("first", a=1.0, hopeless=1e6), offer("second", b=3.0)
    chosen = spend([first, second], 100.0)
    assert {item.key[1]: set(item.further) for item in chosen} == {"first": {"a"}, "second": {"b"}}


def test_what_cannot_be_settled_still_gets_the_rest_and_nothing_is_overdrawn() -> None:
    hopeless = offer("x", a=1e6, b=1e6)
    assert [set(item.further) for item in spend([hopeless], 10.0)] == [{"a", "b"}]
    assert spend([hopeless], 2.9) == []
    pair = [offer("one", a=1e6), offer("two", b=1e5)]
    assert [item.key[1] for item in spend(pair, 3.0)] == ["two"]
    assert spend([], 10.0) == []


def test_a_session_ends_within_its_budget_at_the_end_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    noisy = device(seed=2, near=0.5)

    def pass_time(job: object, stage: str) -> None:
        if stage == "end":
            clock.now += 2.0 if getattr(job, "latency", None) is not None else 1.0

    noisy.behave = pass_time
    monkeypatch.setattr("harness.session.jobs.Budget", lambda total, before: Budget(total, before, clock))
    monkeypatch.setattr("harness.session.attempts.time.monotonic", clock)
    lab = Lab(tmp_path, noisy, formats=FORMATS)
    begun = clock.now
    data = session(lab, tmp_path / "s.db", protocol=dataclasses.replace(VERDICT, max_runs=48, budget_s=60.0))
    spent = clock.now - begun
    # Six probes of 1 s, twelve first runs of 2 s: 30 s; the rest goes to "near" alone, and no run is begun that would not fit.
    assert 58.0 <= spent <= 60.0
    made = visits(data)
    assert made["near"] == made["base"] == 6 + (60 - 30) // 2
    assert made["far"] == made["o2"] == 6
    (text,) = [event.text for event in lab.events if event.kind == STOPPED and "budget" in event.text]
    assert "a litert: the budget of 60 s is spent after 21 runs; not settled: near" in text
    assert data.session.status == "done"


def test_a_small_budget_still_gives_one_run_of_each_engine(tmp_path: Path) -> None:
    lab = Lab(tmp_path, device(), formats=FORMATS)
    data = session(lab, tmp_path / "s.db", protocol=dataclasses.replace(VERDICT, budget_s=1e-9))
    assert set(visits(data).values()) == {1}
    texts = [event.text for event in lab.events if event.kind == STOPPED]
    assert len(texts) == 2
    assert all("budget of 1e-09 s is spent after 1 runs; not settled: " in text for text in texts)
    assert isinstance(lab.devices["a"], FakeDevice)
