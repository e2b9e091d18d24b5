"""Whole sessions in the scenarios beside single-stream, on a device that is told how to behave: figures, grades, failures,
resuming, and what the store gives back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_device import Crash, MemoryStore, make_variant, record_of
from report_samples import row
from scenario_device import ScenarioDevice

from harness.agent.protocol import Job
from harness.choose import pareto_front, recommend
from harness.cli.run import changed
from harness.compare import compare_sessions, compare_variants
from harness.errors import SpecError
from harness.experiment import load_experiment
from harness.experiment_parts import ProtocolSpec
from harness.plan import MeasurementProtocol
from harness.records import LOADGEN, OFFLINE, SUSTAINED, Reference, SessionData
from harness.report import units
from harness.report.advice import sentence
from harness.report.arrange import DeviceGroup
from harness.report.figures import trade_off
from harness.report.terminal import render_text
from harness.row import Row
from harness.runner import SessionSpec, run_session
from harness.scenario import loadgen_plan, offline_plan, problem, single_jobs
from harness.session.resume import progress_of
from harness.store import Store
from harness.table import build_rows, run_medians
from harness.table.sustained import all_strips

PROTOCOL = MeasurementProtocol(
    preset="quick", runs=6, max_runs=6, probes=1, rounds=2, run_samples=2, run_s=0.0, warmup_s=0.0
)
OFFLINE_8X2 = dataclasses.replace(PROTOCOL, scenario="offline", batch=8, streams=2)
TEN_MINUTES = dataclasses.replace(PROTOCOL, scenario="sustained")
OFFICIAL = dataclasses.replace(PROTOCOL, driver="loadgen")


def spec_of(folder: Path, device: ScenarioDevice, protocol: MeasurementProtocol, **more: Any) -> SessionSpec:
    artifacts = {name: make_variant(folder, name) for name in ("a", "b")}
    records = [record_of(variant) for variant in artifacts.values()]
    return SessionSpec("scenario", records, artifacts, [device.profile()], protocol, **more)


def measure(folder: Path, device: ScenarioDevice, protocol: MeasurementProtocol, **more: Any) -> SessionData:
    store = MemoryStore()
    spec = spec_of(folder, device, protocol, **more)
    run_session(spec, store, opener=device.open, pause=lambda _: None)
    assert store.session is not None
    session = dataclasses.replace(store.session, status=str(store.status))
    devices, runs = tuple(store.devices.values()), tuple(store.runs)
    return SessionData(session, tuple(spec.variants), devices, runs, store.reference)


def why(row: Row, name: str) -> str:
    return dict(text.split(": ", 1) for text in row.null_reasons)[name]


def test_what_does_not_go_together_is_refused() -> None:
    assert problem(MeasurementProtocol()) is None
    assert problem(OFFLINE_8X2) is None
    assert "belong to the offline scenario" in str(problem(dataclasses.replace(PROTOCOL, batch=8)))
    assert "none of MLPerf's" in str(problem(dataclasses.replace(TEN_MINUTES, driver="loadgen")))
    built = ProtocolSpec.model_validate({"scenario": "sustained", "duration_s": "10m"}).build()
    assert (built.scenario, built.duration_s) == ("sustained", 600.0)
    assert ProtocolSpec.model_validate({"scenario": "sustained", "duration_s": 90}).build().duration_s == 90.0
    with pytest.raises(ValueError, match="belong to the offline scenario"):
        ProtocolSpec.model_validate({"streams": 2})
    with pytest.raises(ValueError, match="no unit of time"):
        ProtocolSpec.model_validate({"scenario": "sustained", "duration_s": "10"})


def test_the_command_line_changes_the_experiment(tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_text("artifacts: [a.onnx]\nprotocol: {preset: quick, runs: 7, scenario: sustained, duration_s: 2m}\n")
    loaded = load_experiment(path)
    assert loaded.experiment.protocol.build().duration_s == 120.0
    same = changed(loaded, None, None, {"duration_s": "30s"}).experiment.protocol.build()
    assert (same.scenario, same.duration_s, same.runs) == ("sustained", 30.0, 7)
    with pytest.raises(SpecError, match="belong to the offline scenario"):
        changed(loaded, None, None, {"batch": 4})


def test_the_plans_follow_from_the_protocol() -> None:
    order = (("a", "b"), ("b", "a"))
    plan = offline_plan(dataclasses.replace(OFFLINE_8X2, run_samples=51, run_s=1.0), order)
    assert (plan.batch, plan.streams, plan.block_batches, plan.block_s, plan.order) == (8, 2, 26, 0.5, order)
    assert loadgen_plan(OFFICIAL, "/x", accuracy=True).min_queries == 1024
    assert loadgen_plan(dataclasses.replace(OFFLINE_8X2, driver="loadgen"), "/x", accuracy=False).min_queries == 24_576


def test_throughput_with_its_interval_and_by_whom_it_is_won(tmp_path: Path) -> None:
    device = ScenarioDevice(ns={"a": 2000, "b": 1000})
    data = measure(tmp_path, device, OFFLINE_8X2)
    first, second = build_rows(data)
    assert {run.kind for run in data.runs} == {"probe", OFFLINE}
    assert [run.status for run in data.runs] == ["ok"] * 8
    # Two streams, each a batch of eight in 8 × 2000 ns (plus the fake's jitter of up to 2 ns).
    assert first.throughput_per_s == pytest.approx(2 * 1e9 / 2000, rel=0.002)
    assert second.throughput_per_s == pytest.approx(2 * 1e9 / 1000, rel=0.003)
    assert first.throughput_low_per_s is not None
    assert first.throughput_low_per_s <= first.throughput_per_s <= (first.throughput_high_per_s or 0)
    assert (first.batch, first.streams, first.runs) == (8, 2, 6)
    assert first.latency_median_ns is None
    assert "offline" in why(first, "latency_median_ns")
    assert "not sustained" in why(first, "latency_sustained_ns")
    assert first.grade == "B"
    (comparison,) = compare_variants(data, "fake", "a").pairs
    assert comparison.method == "block"
    assert comparison.comparison.ratio == pytest.approx(0.5, rel=0.01)
    assert comparison.comparison.verdict == "faster"
    assert any("throughput" in text for text in comparison.remarks)
    (best,) = recommend(build_rows(data), run_medians=run_medians(data))
    assert (best.winner and best.winner.variant, best.constraints.objective) == ("b", "throughput")
    assert "inferences a second in batches of 8, 2 at once" in sentence(best)
    text = render_text(build_rows(data), [best])
    assert "throughput" in text
    assert "(8 × 2)" in text


def test_throughput_is_never_held_against_latency(tmp_path: Path) -> None:
    one = measure(tmp_path, ScenarioDevice(), OFFLINE_8X2)
    two = measure(tmp_path, ScenarioDevice(), PROTOCOL)
    table = compare_sessions(one, two)
    assert {pair.method for pair in table.pairs} == {"none"}
    assert "throughput is never held against latency" in str(table.pairs[0].comparison.reason)
    assert table.overall is None


def test_a_variant_that_fails_in_batches_is_a_failed_row(tmp_path: Path) -> None:
    def behave(job: Job, stage: str) -> None:
        if stage == "offline 1 a":
            raise Crash

    data = measure(tmp_path, ScenarioDevice(behave=behave), OFFLINE_8X2)
    first, second = build_rows(data)
    assert first.status == "failed" or first.throughput_per_s is None
    assert second.status == "ok"
    assert second.throughput_per_s is not None


def test_burst_sustained_and_throttling(tmp_path: Path) -> None:
    device = ScenarioDevice(throttles={"b": (50, 1.3)})
    data = measure(tmp_path, device, TEN_MINUTES)
    first, second = build_rows(data)
    assert [run.kind for run in data.runs].count(SUSTAINED) == 2
    assert (first.latency_burst_ns, first.latency_sustained_ns, first.sustained_ratio) == (10_000, 10_000, 1.0)
    assert "no slowdown of" in why(first, "time_to_throttle_s")
    assert second.time_to_throttle_s == pytest.approx(50, abs=3)
    assert second.sustained_ratio == pytest.approx(1.3)
    assert (second.temperature_start_c, second.temperature_peak_c) == (40.0, 84.5)
    assert second.samples == 90 * 50
    assert "few runs" in " ".join(second.grade_reasons)
    assert not any("neither heat" in text for text in second.grade_reasons)
    assert set(all_strips(data)["fake"]) == {"a", "b"}
    (best,) = recommend(build_rows(data))
    assert (best.winner and best.winner.variant, best.constraints.objective) == ("a", "sustained")


def test_without_a_thermometer_the_slowdown_is_doubted(tmp_path: Path) -> None:
    data = measure(tmp_path, ScenarioDevice(throttles={"b": (50, 1.3)}, celsius=None), TEN_MINUTES)
    _, second = build_rows(data)
    assert second.time_to_throttle_s is not None
    assert why(second, "temperature_peak_c") == "the device shows no thermal zone"
    assert any("neither heat nor a lower frequency" in text for text in second.grade_reasons)


def test_ctrl_c_in_a_sustained_run_keeps_the_seconds_and_resume_goes_on(tmp_path: Path) -> None:
    stopped = []

    def behave(job: Job, stage: str) -> None:
        if stage.startswith("second 40") and not stopped:
            stopped.append(job.models[0].id)
            raise KeyboardInterrupt

    device = ScenarioDevice(behave=behave)
    spec = spec_of(tmp_path, device, TEN_MINUTES, id="cut-off")
    with Store.open(tmp_path / "s.sqlite") as store:
        with pytest.raises(KeyboardInterrupt):
            run_session(spec, store, opener=device.open, pause=lambda _: None)
        half = store.load("cut-off")
        assert [run.status for run in half.runs if run.kind == SUSTAINED] == ["interrupted"]
        cut = next(one for one in build_rows(half) if one.variant == stopped[0])
        assert cut.samples == 40 * 50
        assert "too short" in why(cut, "latency_burst_ns")
        assert any("ended early, after 39 s" in text for text in cut.grade_reasons)
        assert progress_of(half).singles == frozenset()
        run_session(spec, store, opener=device.open, pause=lambda _: None, resume=half)
        whole = store.load("cut-off")
        assert [run.status for run in whole.runs if run.kind == SUSTAINED] == ["interrupted", "ok", "ok"]
        assert [run.kind for run in whole.runs].count("probe") == 2
        rows = build_rows(whole)
        assert [one.samples for one in rows] == [90 * 50] * 2
        assert progress_of(whole).singles == {(SUSTAINED, "fake", "a"), (SUSTAINED, "fake", "b")}
        kept = [block for run in whole.runs for block in run.blocks if run.kind == SUSTAINED and run.status == "ok"]
        assert {block.wall_ns.size for block in kept} == {5}


def test_offline_comes_back_out_of_the_store_and_resumes_without_repeating(tmp_path: Path) -> None:
    device = ScenarioDevice(ns={"a": 2000})
    spec = spec_of(tmp_path, device, OFFLINE_8X2, id="kept")
    with Store.open(tmp_path / "s.sqlite") as store:
        run_session(spec, store, opener=device.open, pause=lambda _: None)
        before = store.load("kept")
        jobs = len(device.jobs)
        run_session(spec, store, opener=device.open, pause=lambda _: None, resume=before)
        assert len(device.jobs) == jobs
        assert build_rows(store.load("kept")) == build_rows(before)
        assert {one.throughput_per_s is not None for one in build_rows(before)} == {True}
        other = dataclasses.replace(spec, protocol=dataclasses.replace(OFFLINE_8X2, batch=4))
        with pytest.raises(SpecError, match="batch: 8 then, 4 now"):
            run_session(other, store, opener=device.open, pause=lambda _: None, resume=before)


def test_official_figures_stand_beside_ours_and_the_logs_are_kept(tmp_path: Path) -> None:
    labels = np.array([0, 0, 1, 2])
    more: dict[str, Any] = {"inputs": {"x": np.zeros((4, 2), np.float32)}, "logs": tmp_path / "logs"}
    data = measure(
        tmp_path, ScenarioDevice(), OFFICIAL, reference=Reference("classification", 4, labels=labels), **more
    )
    first, _ = build_rows(data)
    assert first.latency_median_ns is not None
    assert (first.mlperf_scenario, first.mlperf_valid, first.mlperf_latency_p90_ns) == ("single-stream", True, 5000)
    assert (first.mlperf_latency_p90_early_stopping_ns, first.mlperf_throughput_per_s) == (5100, 210000.5)
    assert first.mlperf_accuracy == 0.5
    found = sorted(
        str(path.relative_to(tmp_path / "logs")) for path in (tmp_path / "logs").rglob("*") if path.is_file()
    )
    assert found == [
        f"fake-{name}/{mode}/mlperf_log_{log}"
        for name in ("a", "b")
        for mode, log in (
            ("accuracy", "accuracy.json"),
            ("accuracy", "summary.txt"),
            ("performance", "detail.txt"),
            ("performance", "summary.txt"),
        )
    ]
    assert "p90, valid" in render_text(build_rows(data))
    assert [run.kind for run in data.runs][-2:] == [LOADGEN, LOADGEN]


def test_where_loadgen_is_missing_the_reason_stands_and_our_figures_stay(tmp_path: Path) -> None:
    data = measure(tmp_path, ScenarioDevice(official=False), OFFICIAL)
    for one in build_rows(data):
        assert one.status == "ok"
        assert one.latency_median_ns is not None
        assert "No module named 'mlperf_loadgen'" in why(one, "mlperf_valid")
    assert progress_of(data).singles == frozenset()  # it may be installed before the session goes on
    plain = build_rows(measure(tmp_path / "plain", ScenarioDevice(), PROTOCOL))
    assert why(plain[0], "mlperf_valid") == "loadgen was not asked for (--driver loadgen)"
    assert why(plain[0], "throughput_per_s") == "the scenario is not offline (--scenario offline)"


def test_each_single_run_is_planned_once_in_seeded_order(tmp_path: Path) -> None:
    from harness.plan import make_plan

    plan = make_plan({f"v{i}": "tflite" for i in range(6)}, {"d": ["litert"]}, TEN_MINUTES, seed=1, evaluate=False)
    healthy = {("d", "litert"): {f"v{i}" for i in range(5)}}
    jobs = single_jobs(plan, healthy, SUSTAINED, ["d"])
    assert sorted(job.variant for job in jobs) == [f"v{i}" for i in range(5)]
    assert jobs == single_jobs(plan, healthy, SUSTAINED, ["d"])
    assert jobs != single_jobs(plan, healthy, LOADGEN, ["d"])
    assert single_jobs(plan, healthy, SUSTAINED, []) == ()


def test_plots_of_throughput_stand_on_an_axis_of_their_own() -> None:
    plain = {"latency_median_ns": None, "latency_median_low_ns": None, "latency_median_high_ns": None}
    slow = row("fp32", **plain, throughput_per_s=500.0, batch=8, streams=1)
    fast = row("static_wi8_ai8", **plain, throughput_per_s=2000.0, batch=8, streams=1, accuracy=0.87)
    figure = trade_off(DeviceGroup("laptop", (fast, slow), ()), "")
    assert figure is not None
    assert figure["layout"]["xaxis"]["title"]["text"].startswith("time per inference at full throughput (ms")
    points = next(trace for trace in figure["data"] if trace["name"] == "TFLite")
    assert sorted(points["x"]) == [0.5, 2.0]
    assert "throughput: 2,000 /s (8 × 1)" in " ".join(points["text"])
    assert set(pareto_front([slow, fast], with_size=False)) == {slow.variant, fast.variant}
    better = dataclasses.replace(fast, accuracy=0.9)
    assert pareto_front([slow, better], with_size=False) == (fast.variant,)


def test_rates_read_like_counts() -> None:
    assert units.format_rate(None) == "n/a"
    assert [units.format_rate(value) for value in (0.0, 0.5, 12.34, 999.6, 1234.5, 1_234_567.0)] == [
        "0 /s",
        "0.500 /s",
        "12.3 /s",
        "1,000 /s",
        "1,230 /s",
        "1,230,000 /s",
    ]
    assert units.format_rate_interval(1500.0, 1480.0, None) == "1,500 /s"
    assert units.format_rate_interval(1500.0, 1480.0, 1530.0) == "1,500 /s [1,480–1,530]"
    assert units.format_seconds(1234.4) == "1,234 s"


def test_a_pushed_runtime_has_no_loadgen_and_nothing_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.devices import device as module

    prepare = module.prepare_runtime
    monkeypatch.setattr(module, "prepare_runtime", lambda *a: dataclasses.replace(prepare(*a), kind="bundle"))
    device = ScenarioDevice()
    data = measure(tmp_path, device, OFFICIAL)
    assert all(job.loadgen is None for job in device.jobs)
    for one in build_rows(data):
        assert one.status == "ok"
        assert "the runtime that is pushed to this device has no mlcommons-loadgen" in why(one, "mlperf_scenario")
        assert "name a Python of the device's own" in why(one, "mlperf_scenario")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--batch", "4"], "batch and streams belong to the offline scenario"),
        (["--scenario", "sustained", "--driver", "loadgen"], "none of MLPerf's"),
        (["--scenario", "sustained", "--duration", "10"], "no unit of time"),
        (["--scenario", "server"], "scenario"),
    ],
)
def test_the_command_line_refuses_what_does_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    import typer

    from harness.cli.main import app

    with pytest.raises((SystemExit, typer.Exit)) as ended:
        app(["bench", str(tmp_path / "none.onnx"), *words], standalone_mode=True)
    assert getattr(ended.value, "code", getattr(ended.value, "exit_code", None)) == 2
    assert said in capsys.readouterr().err
