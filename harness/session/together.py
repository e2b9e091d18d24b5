"""Runs whose results will be compared, made at the same time and in turns: the devices of one machine, engine by engine.

Between `harness.session.attempts` (one run) and `harness.session.measuring` (the session). The agents pass the turn on among themselves
(`harness.agent.turns`); here they are started and listened to, one thread each, and if one fails the others are ended: their
runs are made again, alone.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.agent.protocol import Job, Turn
from harness.devices.device import Device
from harness.devices.transport import Process
from harness.errors import DeviceError
from harness.plan import LatencyJob
from harness.session.attempts import Outcome, Work, carry_out

log = logging.getLogger(__name__)

_CHECK_TIMEOUT_S = 10.0
_FOLDER = "turns"
# Prints the token that another device of the same machine wrote, if this one may write there too.
_SEEN = 'cat "$1/token" && : > "$1/$2"'


@dataclass(frozen=True, slots=True)
class Member:
    """One run of a circle. `cool` as in `carry_out`."""

    device: Device
    work: Work
    outcome: Outcome
    cool: Callable[[], dict[str, Any] | None]


def circles(jobs: Iterable[LatencyJob], devices: Mapping[str, Device]) -> list[list[LatencyJob]]:
    """Jobs that follow one another, split into those to be made together: same engine, same machine, other device."""

    def key(job: LatencyJob) -> tuple[str, str]:
        device = devices[job.device]
        alone = device.record.host_id is None or device.profile.emulated
        return job.engine, job.device if alone else str(device.record.host_id)

    return [list(group) for _, group in itertools.groupby(jobs, key)]


class MeetingPlaces:
    """Folders in which the agents of several devices find one another; looked for once per set of devices."""

    def __init__(self) -> None:
        self._found: dict[frozenset[str], str | None] = {}

    def of(self, devices: Sequence[Device]) -> str | None:
        """A folder on their common disk, or None: containers and other users' folders are not common."""
        key = frozenset(device.profile.name for device in devices)
        if key not in self._found:
            self._found[key] = _meet(devices)
        return self._found[key]


def _meet(devices: Sequence[Device]) -> str | None:
    first, token = devices[0], secrets.token_hex(8)
    folder = f"{first.folder}/{_FOLDER}"
    make = ["sh", "-c", 'mkdir -p "$1" && printf %s "$2" > "$1/token"', "sh", folder, token]
    try:
        if first.transport.run(make, timeout=_CHECK_TIMEOUT_S).returncode != 0:
            return None
        for device in devices[1:]:
            seen = ["sh", "-c", _SEEN, "sh", folder, device.profile.name]
            if device.transport.run(seen, timeout=_CHECK_TIMEOUT_S).stdout.decode("utf-8", "replace") != token:
                return None
    except DeviceError as error:
        log.info("devices are measured one after the other: %s", error)
        return None
    return folder


def in_turns(work: Work, folder: str, index: int, of: int, wait_s: float) -> Work:
    """The same work, but its rounds are measured in turns with the others of the circle."""

    def build() -> Job:
        job = work.build()
        if job.latency is None:
            raise ValueError("only latency runs take turns")
        return replace(job, latency=replace(job.latency, turn=Turn(folder, index, of, wait_s)))

    return replace(work, build=build)


def carry_out_together(members: Sequence[Member], folder: str) -> None:
    """Do the work of all at the same time and fill in their outcomes. Nothing is tried again here.

    Whatever is raised meanwhile (KeyboardInterrupt above all) leaves all agents killed and every outcome `interrupted`.
    """
    running: dict[int, Process] = {}
    over = threading.Event()

    def end_all() -> None:
        over.set()
        for process in list(running.values()):
            process.kill()

    def one(index: int, member: Member) -> None:
        def started(process: Process) -> None:
            running[index] = process
            if over.is_set():
                process.kill()

        ended = False
        try:
            carry_out(member.device, member.work, member.outcome, cool=member.cool, pauses=(None,), started=started)
            ended = member.outcome.error is None and member.outcome.transcript.failure is None
        except Exception as error:  # noqa: BLE001 - a thread has no caller; the run alone, made next, raises it again
            log.warning("%s: %s", member.device.profile.name, error)
        finally:
            running.pop(index, None)
            if not ended:
                end_all()

    threads = [
        threading.Thread(target=one, args=(index, member), name=f"circle-{index}")
        for index, member in enumerate(members)
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException:
        for member in members:
            member.outcome.interrupted = True
        end_all()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
        raise
    finally:
        try:
            members[0].device.transport.remove(folder)
        except DeviceError as error:
            log.info("%s: %s", folder, error)
