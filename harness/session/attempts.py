"""One job of the plan carried out on one device, tried again when the connection is lost; the outcome as a Run.

Between `harness.session.execution` (one agent process) and `harness.runner` (the session). Only lost connections are tried again, a
few times, waiting longer each time; each is noted in the run's environment under "retried".
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.agent.protocol import Job, ProtocolError
from harness.collectors.accuracy import evaluate
from harness.collectors.latency import blocks_of, loads_of
from harness.collectors.profile import profiles_of
from harness.devices.device import Device, failure_of
from harness.devices.transport import Process
from harness.errors import DeviceError, MeasurementError
from harness.records import IN_ROUNDS, PROBE, Evaluation, Failure, Run
from harness.session.execution import HANG, Transcript, listen
from harness.session.official import fetch_logs

# Long enough in all for a phone or a board to start again.
BACKOFF_S = (0.5, 2.0, 8.0, 20.0, 40.0)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Work:
    """What to do: `build` deploys what the job needs and makes it (on each try anew). With `task`, the outputs that a
    probe leaves at `outputs_path` are fetched into `folder` and reduced. `logs`: where those of an official run go. `pace`: seconds here for one second of the
    device's clock, at most."""

    kind: str
    engine: str
    round: int
    variants: tuple[str, ...]
    build: Callable[[], Job]
    hang_s: float
    task: str | None = None
    folder: Path | None = None
    logs: Path | None = None
    pace: float = 1.0


@dataclass(slots=True)
class Outcome:
    """How it ended: what was said, what was evaluated, how often it was tried again, and the error that ended all trying."""

    started_at: str
    clock_s: float
    transcript: Transcript = field(default_factory=Transcript)
    evaluations: list[Evaluation] = field(default_factory=list)
    retried: list[dict[str, Any]] = field(default_factory=list)
    requested: dict[str, Any] = field(default_factory=dict)
    conditions: dict[str, Any] = field(default_factory=dict)
    error: DeviceError | None = None
    interrupted: bool = False
    reopening: bool = False

    @property
    def lost(self) -> bool:
        """Whether the device is gone: a transient error that did not pass, or no way to connect anew."""
        return self.error is not None and (self.error.transient or self.reopening)


def carry_out(
    device: Device,
    work: Work,
    outcome: Outcome,
    *,
    retrying: Callable[[DeviceError, float], None] = lambda _error, _pause_s: None,
    cool: Callable[[], dict[str, Any] | None] = lambda: None,
    pauses: Sequence[float | None] = (*BACKOFF_S, None),
    started: Callable[[Process], None] = lambda _process: None,
) -> None:
    """Do the work and fill in `outcome`. `retrying` is told of an error and the pause (s) to make before the next try;
    `cool` waits until the device is cool enough, and says what to record of that. `pauses`: after each try; None ends them.
    `started` gets the agent's process as soon as there is one.

    Whatever else is raised (KeyboardInterrupt above all) leaves the agent killed and `outcome.interrupted` set.
    """
    for pause_s in pauses:
        outcome.transcript, outcome.evaluations = Transcript(), []
        try:
            if outcome.error is not None:
                outcome.reopening = True
                device.reopen()
            outcome.error, outcome.reopening = None, False
            _once(device, work, outcome, cool, started)
        except DeviceError as error:
            outcome.error = error
            if not error.transient or pause_s is None:
                return
            outcome.retried.append({"at": _now(), "error": error.message})
            log.warning("%s: trying again in %g s: %s", device.profile.name, pause_s, error)
            retrying(error, pause_s)
        except BaseException:
            outcome.interrupted = True
            raise
        else:
            return


def _once(
    device: Device,
    work: Work,
    outcome: Outcome,
    cool: Callable[[], dict[str, Any] | None],
    started: Callable[[Process], None],
) -> None:
    job = work.build()
    outcome.conditions = {"knobs": dict(device.preflight.outcomes), "cool_down": cool()}
    limit_c = device.profile.thermal.limit_c
    if limit_c is not None:
        outcome.conditions["limit_c"] = limit_c
    outcome.requested = {"threads": job.threads, "precision": job.precision, "affinity": job.affinity}
    process = device.start_agent(job)
    try:
        started(process)
        listen(process, job, outcome.transcript, hang_s=work.hang_s, pace=work.pace)
    finally:
        process.kill()
    if outcome.transcript.failure is not None and outcome.transcript.failure.name == HANG:
        device.answers()  # a device that is gone is silent, too
    if job.probe is not None and job.probe.outputs_path is not None and work.task is not None:
        _fetch(device, job.probe.outputs_path, work, outcome)
    if job.loadgen is not None and work.logs is not None:
        outcome.evaluations += fetch_logs(device, job.loadgen.folder, work.logs, outcome.transcript, work.task)


def _fetch(device: Device, remote: str, work: Work, outcome: Outcome) -> None:
    """Bring the outputs here, reduce them, and delete them on both sides. The agent's word on their place is not asked."""
    message = outcome.transcript.first("outputs")
    if message is None or work.folder is None or work.task is None:
        return
    variant = str(message["id"])
    path = work.folder / "outputs.npy"
    try:
        device.transport.pull(remote, path)
        device.transport.remove(remote)
        outcome.evaluations.append(
            evaluate(
                path,
                variant=variant,
                task=work.task,
                rows=int(message["rows"]),
                outputs_sha256=str(message["sha256"]),
            )
        )
    except MeasurementError as error:
        outcome.transcript.failed[variant] = Failure(error.where, type(error).__name__, error.message, error.remedy)
    finally:
        path.unlink(missing_ok=True)


def begin() -> Outcome:
    """An outcome whose clock runs."""
    return Outcome(_now(), time.monotonic())


def to_run(outcome: Outcome, work: Work, *, run_id: str, session_id: str, device: str, retries: int = 0) -> Run:
    """The record of a run; `retries` counts restarts without a crashed variant, to which lost connections are added."""
    transcript = outcome.transcript
    failure, failed = transcript.failure, dict(transcript.failed)
    try:
        loads, blocks = loads_of(transcript.messages), blocks_of(transcript.messages)
        profiles = profiles_of(transcript.messages)
    except (ProtocolError, TypeError, ValueError, KeyError) as error:
        loads, blocks, profiles = (), (), ()
        failure = Failure("measurement", "ProtocolError", f"the agent sent what cannot be read: {error}")
    if outcome.error is not None:
        failure = failure_of(outcome.error)
    if work.kind not in IN_ROUNDS and failure is not None and not outcome.lost and not outcome.interrupted:
        failed.setdefault(work.variants[0], failure)
    status = "ok"
    if outcome.interrupted:
        status = "interrupted"
    elif failure is not None or (work.kind not in IN_ROUNDS and failed):
        status = "failed"
    environment = transcript.environment()
    environment["requested"] = outcome.requested
    environment |= {key: value for key, value in outcome.conditions.items() if value}
    if outcome.retried:
        environment["retried"] = outcome.retried
    return Run(
        id=run_id,
        session_id=session_id,
        device=device,
        engine=work.engine,
        kind=work.kind,
        round=work.round,
        started_at=outcome.started_at,
        duration_s=round(time.monotonic() - outcome.clock_s, 6),
        status=status,
        failure=failure,
        failed_variants=failed,
        retries=retries + len(outcome.retried),
        environment=environment,
        loads=loads,
        blocks=blocks,
        evaluations=tuple(outcome.evaluations),
        sensors=transcript.sensors(),
        profiles=profiles,
    )


def failed_run(
    *,
    run_id: str,
    session_id: str,
    device: str,
    engine: str,
    round_: int,
    variants: Sequence[str],
    failure: Failure,
    kind: str = PROBE,
) -> Run:
    """A run that never was, because its failure was known beforehand: each variant gets a failed row from it."""
    return Run(
        id=run_id,
        session_id=session_id,
        device=device,
        engine=engine,
        kind=kind,
        round=round_,
        started_at=_now(),
        duration_s=0.0,
        status="failed",
        failure=failure,
        failed_variants=dict.fromkeys(variants, failure),
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
