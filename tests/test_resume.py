"""A session that ended early goes on in the same session: nothing finished is repeated, nothing missing is left out."""

from __future__ import annotations

import dataclasses
import os
import platform
from pathlib import Path
from typing import Any

import pytest
from fake_device import Crash, FakeDevice, Lost
from test_runner import FORMATS, PROTOCOL, Lab, at

from harness.agent.protocol import Job
from harness.devices.preflight.journal import process_started
from harness.errors import SpecError, TransportError
from harness.records import LATENCY, PROBE, SessionData
from harness.runner import run_session
from harness.session.resume import progress_of
from harness.store import Store
from harness.table import build_rows


class Killed(BaseException):
    """As sudden as SIGKILL, for a runner in the same process: nothing of the harness handles it."""


def session(lab: Lab, path: Path, resume: SessionData | None = None, **changes: Any) -> SessionData:
    """Run, or go on, with a real store; what it then has."""
    with Store.open(path) as store:
        session_id = None
        try:
            session_id = run_session(
                lab.spec(**changes), store, lab.events.append, opener=lab.open, pause=lab.pauses.append, resume=resume
            )
        except (KeyboardInterrupt, Killed, TransportError):
            session_id = store.resolve("latest")
        return store.load(session_id)


def jobs(data: SessionData) -> list[tuple[str, str, int, tuple[str, ...]]]:
    """The jobs that ended well."""
    return [
        (run.kind, run.engine, run.round, tuple(sorted(load.variant for load in run.loads)))
        for run in data.runs
        if run.status == "ok"
    ]


def stop_at(count: int, error: BaseException) -> Any:
    """A behaviour: end everything at the start of a job."""
    seen = [0]

    def behave(_job: Job, stage: str) -> None:
        if stage == "start":
            seen[0] += 1
            if seen[0] == count:
                raise error

    return behave


@pytest.mark.parametrize(("count", "error"), [(1, Killed()), (9, KeyboardInterrupt()), (14, Killed())])
def test_what_is_missing_is_made_and_nothing_twice(tmp_path: Path, count: int, error: BaseException) -> None:
    whole = session(Lab(tmp_path / "whole", FakeDevice("a")), tmp_path / "whole.db")
    lab = Lab(tmp_path, FakeDevice("a", behave=stop_at(count, error)))
    broken = session(lab, tmp_path / "s.db")
    assert len(jobs(broken)) == count - 1
    calm = Lab(tmp_path, FakeDevice("a"))
    data = session(calm, tmp_path / "s.db", resume=broken)
    assert data.session.id == broken.session.id
    assert data.session.status == "done"
    assert sorted(jobs(data)) == sorted(jobs(whole))
    assert len({run.id for run in data.runs}) == len(data.runs)
    before = [run.id for run in broken.runs]
    assert [run.id for run in data.runs][: len(before)] == before
    assert len(calm.devices["a"].jobs) == len(jobs(whole)) - len(jobs(broken))
    assert not any("interrupted" in reason for row in build_rows(data) for reason in row.grade_reasons)
    assert {row.runs for row in build_rows(data)} == {6}
    done = session(Lab(tmp_path, FakeDevice("a")), tmp_path / "s.db", resume=data)
    assert len(done.runs) == len(data.runs)


def test_a_variant_that_failed_stays_failed_and_is_not_asked_again(tmp_path: Path) -> None:
    def behave(job: Job, stage: str) -> None:
        if stage == "load t1":
            raise Crash
        if job.latency is not None:
            raise KeyboardInterrupt

    broken = session(Lab(tmp_path, FakeDevice("a", behave=behave)), tmp_path / "s.db")
    calm = Lab(tmp_path, FakeDevice("a"))
    data = session(calm, tmp_path / "s.db", resume=broken)
    assert not any(model.id == "t1" for job in calm.devices["a"].jobs for model in job.models)
    (failed,) = [row for row in build_rows(data) if row.status != "ok"]
    assert (failed.variant, failed.status) == ("t1", "failed")


def test_a_device_that_was_lost_is_measured_when_it_is_back(tmp_path: Path) -> None:
    gone = FakeDevice("a", unreachable=TransportError("no route", transient=True))

    def behave(job: Job, _stage: str) -> None:
        if job.latency is not None:
            gone.down = 100
            raise Lost

    gone.behave = behave
    broken = session(Lab(tmp_path, gone, formats={"t1": "tflite"}), tmp_path / "s.db")
    assert broken.devices[0].failure is not None
    data = session(Lab(tmp_path, FakeDevice("a"), formats={"t1": "tflite"}), tmp_path / "s.db", resume=broken)
    assert data.devices[0].failure is None
    assert len([run for run in data.runs if run.kind == LATENCY and run.status == "ok"]) == 6
    assert [row.status for row in build_rows(data)] == ["ok"]


def test_an_engine_installed_since_is_used_and_a_missing_one_told_once(tmp_path: Path) -> None:
    bare: dict[str, str | None] = {"numpy": "2", "onnxruntime": "1.31"}
    lab = Lab(tmp_path, FakeDevice("a", modules=bare, behave=stop_at(3, KeyboardInterrupt())))
    broken = session(lab, tmp_path / "s.db")
    again = session(Lab(tmp_path, FakeDevice("a", modules=bare)), tmp_path / "s.db", resume=broken)
    told = [name for run in again.runs for name in run.failed_variants]
    assert sorted(told) == ["t1", "t2", "v1"]
    data = session(Lab(tmp_path, FakeDevice("a")), tmp_path / "s.db", resume=again)
    assert {row.status for row in build_rows(data)} == {"ok"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 7}, "seed: 0 then, 7 now"),
        ({"threads": 2}, "threads: 1 then, 2 now"),
        ({"protocol": dataclasses.replace(PROTOCOL, run_samples=9)}, "protocol run_samples: 6 then, 9 now"),
    ],
)
def test_a_session_of_something_else_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    broken = session(Lab(tmp_path, FakeDevice("a", behave=stop_at(2, Killed()))), tmp_path / "s.db")
    with pytest.raises(SpecError, match="cannot go on") as caught:
        session(Lab(tmp_path, FakeDevice("a")), tmp_path / "s.db", resume=broken, **changes)
    assert words in str(caught.value)
    with pytest.raises(SpecError, match="variants"):
        session(Lab(tmp_path, FakeDevice("a"), formats={"t1": "tflite"}), tmp_path / "s.db", resume=broken)
    with pytest.raises(SpecError, match="devices"):
        session(Lab(tmp_path, FakeDevice("b")), tmp_path / "s.db", resume=broken)


def test_a_session_that_still_runs_is_refused(tmp_path: Path) -> None:
    broken = session(Lab(tmp_path, FakeDevice("a", behave=stop_at(2, KeyboardInterrupt()))), tmp_path / "s.db")
    alive = {"pid": os.getpid(), "pid_started": process_started(os.getpid()), "host": platform.node()}
    running = dataclasses.replace(broken.session, status="running", environment={**broken.session.environment, **alive})
    with pytest.raises(SpecError, match="still running, as process"):
        session(Lab(tmp_path, FakeDevice("a")), tmp_path / "s.db", resume=dataclasses.replace(broken, session=running))


def test_what_a_session_has(tmp_path: Path) -> None:
    behave = at("visit 1 t1", KeyboardInterrupt(), kind=LATENCY)  # type: ignore[arg-type]
    data = session(Lab(tmp_path, FakeDevice("a", behave=behave), formats={"t1": "tflite"}), tmp_path / "s.db")
    found = progress_of(data)
    assert found.probes == {("a", "t1", 0), ("a", "t1", 1)}
    assert found.rounds == {}
    assert found.last == len(data.runs) == 3
    assert found.first_s == {("a", "t1"): 1e-6}
    assert {run.kind for run in data.runs} == {PROBE, LATENCY}
    assert FORMATS["t1"] == "tflite"
