"""Runs whose results will be compared, made at the same time and in turns: all engines of a device, all devices of a machine.

Between `harness.session.attempts` (one run) and `harness.session.measuring` (the session). The agents pass the turn on among themselves
(`harness.agent.turns`); here they are started and listened to, one thread each, and if one fails the others are ended: their
runs are made again, alone.
"""

from __future__ import annotations

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
from harness.records import Failure
from harness.session.attempts import Outcome, Work, carry_out

log = logging.getLogger(__name__)

_CHECK_TIMEOUT_S = 10.0
_FOLDER = "turns"
_CORES = 2
_MEMORY_SHARE = 0.8
# Leaves a token, where pipes with names can be made.
_MAKE = 'mkdir -p "$1" && mkfifo "$1/$2" && rm "$1/$2" && printf %s "$2" > "$1/token"'
# Prints the token that another device of the same machine wrote, if this one may write there too.
_SEEN = 'cat "$1/token" && : > "$1/$2"'


ENDED_WITH_ANOTHER = Failure(
    "measurement", "EndedWithAnother", "another agent that took turns with this one failed, and this one was ended"
)


@dataclass(frozen=True, slots=True)
class Member:
    """One run of a circle. `cool` as in `carry_out`."""

    device: Device
    work: Work
    outcome: Outcome
    cool: Callable[[], dict[str, Any] | None]


def machine_of(device: Device) -> str:
    """Equal for two devices that are the same machine; one of its own for an emulated one, whatever host it says it is."""
    alone = device.record.host_id is None or device.profile.emulated
    return f"device {device.profile.name}" if alone else f"host {device.record.host_id}"


def circles(jobs: Iterable[LatencyJob], devices: Mapping[str, Device]) -> list[list[LatencyJob]]:
    """Jobs of a round, split into those that would be made together: all engines and devices of a machine."""
    groups: dict[str, list[LatencyJob]] = {}
    for job in jobs:
        groups.setdefault(machine_of(devices[job.device]), []).append(job)
    return list(groups.values())


class MeetingPlaces:
    """Folders in which the agents of a machine find one another; looked for once per set of devices."""

    def __init__(self) -> None:
        self._found: dict[frozenset[str], str | None] = {}

    def of(self, devices: Sequence[Device]) -> str | None:
        """A folder for named pipes on their common disk, or None: containers and other users' folders are not common."""
        key = frozenset(device.profile.name for device in devices)
        if key not in self._found:
            self._found[key] = _meet(list({device.profile.name: device for device in devices}.values()))
        return self._found[key]

    def why_not(self, devices: Sequence[Device], memory_bytes: int) -> str | None:
        """Why agents that need so much memory in all cannot measure in turns on these devices; None when they can."""
        for device in devices:
            name, facts = device.profile.name, device.record.facts
            if device.profile.counts_instructions:
                return f"{name} counts instructions: those of one that waits would count, too"
            if device.profile.emulated:
                return f"{name} is emulated"
            if (facts.get("cpus") or 1) < _CORES:
                return f"{name} has one core: those that wait would take it from the one that measures"
            available = facts.get("memory_available_bytes")
            if available is not None and memory_bytes > _MEMORY_SHARE * available:
                return f"all engines at once need {memory_bytes} bytes of memory, {name} has {available} to spare"
        return None if self.of(devices) is not None else "they have no folder in common that holds named pipes"


def _meet(devices: Sequence[Device]) -> str | None:
    first, token = devices[0], secrets.token_hex(8)
    folder = f"{first.folder}/{_FOLDER}"
    make = ["sh", "-c", _MAKE, "sh", folder, token]
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
            transcript = member.outcome.transcript
            ended = member.outcome.error is None and transcript.failure is None
            if not ended and over.is_set():
                # It was ended for another's failure, and no model that it was at work on is to blame.
                transcript.failed, transcript.failure = {}, ENDED_WITH_ANOTHER
        except Exception as error:  # noqa: BLE001 - a thread has no caller; the run alone, made next, raises it again
            log.warning("%s: %s", member.device.profile.name, error)
        finally:
            running.pop(index, None)
            try:
                if not ended:
                    end_all()
            finally:
                ends[index].set()

    # Waited for instead of joining: up to CPython 3.12, a join that Ctrl-C interrupts takes a thread at work for one that has ended.
    ends = [threading.Event() for _ in members]
    threads = [
        threading.Thread(target=one, args=(index, member), name=f"circle-{index}")
        for index, member in enumerate(members)
    ]
    try:
        for thread in threads:
            thread.start()
        for end in ends:
            end.wait()
    except BaseException:
        for member in members:
            member.outcome.interrupted = True
        end_all()
        for thread, end in zip(threads, ends, strict=True):
            if thread.ident is not None:
                end.wait()
        raise
    finally:
        try:
            members[0].device.transport.remove(folder)
        except DeviceError as error:
            log.info("%s: %s", folder, error)
