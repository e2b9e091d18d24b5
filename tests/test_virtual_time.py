"""Devices that count instructions: a field and a ranking of their own, and never a word of latency."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from fake_device import FakeDevice
from sample_session import VARIANTS, sample_session
from test_runner import Lab

from harness.choose import Constraints, recommend, recommendation_to_dict
from harness.compare import compare_devices, compare_variants, comparison_to_dict
from harness.devices import emulators
from harness.plan import PRESETS, for_counted_instructions
from harness.profile_parts import Emulator
from harness.profiles import DeviceProfile
from harness.records import LATENCY, PROBE, SessionData
from harness.report.advice import advise
from harness.report.comparison import render_comparison
from harness.report.html import render_html, unavailable
from harness.report.markdown import render_markdown
from harness.report.terminal import render_text
from harness.row import OK, Row
from harness.table import block_medians, build_rows, run_medians
from harness.table.cells import all_latency_samples, latency_samples

TINY = Path(__file__).parent / "data"


def counting(data: SessionData, device: str = "guest") -> SessionData:
    """The session with one of its devices counting instructions, the same in every run."""

    def even(run: object) -> object:
        if getattr(run, "device", None) != device:
            return run
        blocks = tuple(
            dataclasses.replace(block, wall_ns=np.full_like(block.wall_ns, 1_000_000 + 1000 * len(block.variant)))
            for block in run.blocks
        )
        return dataclasses.replace(run, blocks=blocks)

    devices = tuple(
        dataclasses.replace(record, facts={**record.facts, "counts_instructions": True})
        if record.name == device
        else record
        for record in data.devices
    )
    return dataclasses.replace(data, devices=devices, runs=tuple(even(run) for run in data.runs))


@pytest.fixture(scope="module")
def data() -> SessionData:
    made = sample_session(devices=("laptop", "guest"), emulated=("guest",), variants=VARIANTS[:3], runs=3, block_s=0.02)
    return counting(made)


@pytest.fixture(scope="module")
def rows(data: SessionData) -> list[Row]:
    return build_rows(data)


def on(rows: list[Row], device: str) -> list[Row]:
    return [row for row in rows if row.device == device and row.status == OK]


def test_a_row_has_virtual_time_and_no_latency(rows: list[Row]) -> None:
    for row in on(rows, "guest"):
        assert row.virtual_time_ns == 1_000_000 + 1000 * len(row.variant)
        times = {name: value for name, value in dataclasses.asdict(row).items() if name.startswith("latency")}
        assert set(times.values()) == {None}
        assert (row.load_ns, row.first_inference_ns) == (None, None)
        reasons = dict(entry.split(": ", 1) for entry in row.null_reasons)
        for name in (*times, "load_ns", "first_inference_ns"):
            assert reasons[name] == "instructions were counted, time was not measured"
        assert (row.grade, row.grade_reasons) == ("C", ("virtual time: instructions counted by an emulator",))
        assert row.runs == 3
        assert row.accuracy is not None
    assert all(row.virtual_time_ns is None and row.latency_median_ns for row in on(rows, "laptop"))


def test_runs_that_do_not_repeat_are_named(data: SessionData) -> None:
    def longer(run: object) -> object:
        if run.device != "guest" or run.kind != LATENCY or run.round:
            return run
        blocks = tuple(dataclasses.replace(block, wall_ns=block.wall_ns * 102 // 100) for block in run.blocks)
        return dataclasses.replace(run, blocks=blocks)

    rows = build_rows(dataclasses.replace(data, runs=tuple(longer(run) for run in data.runs)))
    assert "does not repeat: its runs lie 2.0% apart, more than 0.5%" in on(rows, "guest")[0].grade_reasons
    alone = dataclasses.replace(data, runs=tuple(run for run in data.runs if run.kind == PROBE or run.round == 0))
    assert "one run: that it repeats was not seen" in on(build_rows(alone), "guest")[0].grade_reasons


def test_medians_and_samples_are_never_mixed(data: SessionData) -> None:
    assert {device for _, device in run_medians(data)} == {"laptop"}
    assert {device for _, device in run_medians(data, counted=True)} == {"guest"}
    assert {device for _, device in block_medians(data)} == {"laptop"}
    assert set(all_latency_samples(data)) == {"laptop"}
    assert latency_samples(data, VARIANTS[0].name, "guest") == []


def test_a_device_that_counts_is_ranked_by_virtual_time(data: SessionData, rows: list[Row]) -> None:
    laptop, guest = recommend(rows, run_medians=run_medians(data))
    assert laptop.constraints.objective == "latency"
    assert guest.constraints.objective == "virtual_time"
    expected = min(on(rows, "guest"), key=lambda row: row.virtual_time_ns or 0)
    assert guest.winner is not None
    assert guest.candidates == 3
    assert guest.winner.virtual_time_ns == expected.virtual_time_ns
    assert guest.confidence is None
    assert guest.pareto
    assert recommendation_to_dict(guest)["constraints"]["objective"] == "virtual_time"
    words = advise((guest,))[0].sentence
    assert "virtual time 1.0" in words
    assert "(instructions counted, no latency)" in words
    assert "median" not in words
    assert "faster" not in words
    (slow,) = recommend(rows, Constraints(max_latency_ns=1e9), device="guest")
    assert slow.winner is None
    assert {item.reason for item in slow.excluded if item.limit == "max_latency_ns"} == {
        "instructions were counted, time was not measured"
    }


def test_equal_counts_are_a_tie_and_the_smaller_wins(rows: list[Row]) -> None:
    same = [dataclasses.replace(row, virtual_time_ns=1e6 * (1 + 0.001 * i)) for i, row in enumerate(on(rows, "guest"))]
    (found,) = recommend(same)
    assert len(found.tie) == len(same)
    assert found.winner is not None
    assert found.winner.size_bytes == min(row.size_bytes for row in same if row.size_bytes)
    assert "by virtual time it cannot be told apart" in advise((found,))[0].sentence


def test_virtual_time_is_compared_with_itself_only(data: SessionData) -> None:
    mixed = compare_devices(data, "guest", "laptop")
    assert {pair.method for pair in mixed.pairs} == {"none"}
    assert {pair.comparison.reason for pair in mixed.pairs} == {"virtual time is never held against latency"}
    assert mixed.overall is None
    own = compare_variants(data, "guest", VARIANTS[0].name)
    assert {pair.method for pair in own.pairs} == {"block"}
    assert all(pair.comparison.ratio for pair in own.pairs)
    assert all("ratios of virtual time" in pair.remarks[0] for pair in own.pairs)
    text = render_comparison(own)
    assert "not of latency" in text
    assert comparison_to_dict(own)["pairs"][0]["candidate_virtual_time_ns"] > 0


def test_reports_show_a_column_of_its_own(data: SessionData, rows: list[Row]) -> None:
    found = recommend(rows, run_medians=run_medians(data))
    for text in (render_text(rows, found), render_text(rows, found, width=100), render_markdown(rows, found)):
        assert "virtual" in text
        assert "instructions were counted, time was not measured" in text
        assert "virtual time: instructions counted by an emulator" in text
    assert "virtual" not in render_text(on(rows, "laptop"))
    if unavailable() is None:
        page = render_html(rows, found, data, all_latency_samples(data), run_medians(data))
        assert "against virtual time" in page
        assert "<dt>virtual time</dt>" in page


def test_the_protocol_of_a_counting_device_goes_by_samples() -> None:
    made = for_counted_instructions(PRESETS["headline"])
    assert (made.runs, made.max_runs, made.run_s, made.warmup_s, made.rounds, made.probes) == (3, 3, 0.0, 0.0, 2, 1)
    assert 0 < made.run_samples <= 10
    assert made.hang_s > PRESETS["headline"].hang_s
    assert for_counted_instructions(dataclasses.replace(PRESETS["quick"], runs=1)).runs == 1


@dataclass
class Started:
    profile: DeviceProfile

    def revive(self) -> DeviceProfile:
        return self.profile

    def rest(self) -> None:
        pass

    def wake(self) -> None:
        pass

    def stop(self) -> None:
        pass


class Guest(FakeDevice):
    def profile(self, **changes: object) -> DeviceProfile:
        emulator = Emulator(kind="qemu-system", cpu="cortex-a72", icount_shift=1)
        return DeviceProfile(name=self.name, transport="local", emulated=True, emulator=emulator)


def test_the_runner_asks_less_of_it_and_counts_on_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulators, "start_emulator", Started)
    guest, other = Guest("guest"), FakeDevice("a")
    lab = Lab(tmp_path, guest, other, formats={"t1": "tflite"})
    lab.run(threads=2)
    assert lab.store.devices["guest"].facts["counts_instructions"] is True
    assert len(lab.store.kinds(device="guest", kind=PROBE)) == 1
    latency = lab.store.kinds(device="guest", kind=LATENCY)
    assert len(latency) == 3
    assert {len({block.index for block in run.blocks if block.phase == "measure"}) for run in latency} == {2}
    assert {job.threads for job in guest.jobs} == {1}
    assert {job.threads for job in other.jobs} == {2}
    assert len(lab.store.kinds(device="a", kind=LATENCY)) == 6
