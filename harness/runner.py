"""A session: variants × devices × protocol → runs in the store, each committed as soon as it ends, in time order.

First probes (each variant on each device in fresh processes; the first is a canary and evaluates the outputs), then rounds of
latency runs until the intervals are narrow. One job at a time. What fails becomes a record; the session goes on. On Ctrl-C
the agent is killed, the partial run stored, the device cleaned, and KeyboardInterrupt raised again.
"""

from __future__ import annotations

import logging
import os
import platform
import secrets
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.variant import Variant
from harness import __version__
from harness.devices.device import Device, OpenTransport, StartEmulator, failure_of
from harness.devices.preflight.journal import process_started
from harness.devices.transport import open_transport
from harness.errors import DeviceError, SpecError
from harness.plan import MeasurementProtocol, make_plan
from harness.profiles import DeviceProfile
from harness.records import DeviceRecord, Reference, Session, SessionData, VariantRecord
from harness.session.events import CONNECTED, ENDED, UNREACHABLE, WARNING, Event, OnEvent, ignore
from harness.session.measuring import Measuring
from harness.session.resume import Progress, check_same, progress_of
from harness.session.sink import SessionStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """What to measure. `variants`: all, also those that could not be made; `artifacts`: name → those to measure.

    `inputs`: dataset input name → array [rows, …], preprocessed, in the base model's layout; None: seeded random input.
    `reference`: the truth for accuracy; without it, or with task "none", outputs are not evaluated.
    `logs`: where the logs of official runs go; None: nowhere. `options`: for the engines, see the docstrings in harness/agent/engines; recorded in the session's environment.
    """

    name: str
    variants: Sequence[VariantRecord]
    artifacts: Mapping[str, Variant]
    devices: Sequence[DeviceProfile]
    protocol: MeasurementProtocol
    threads: int = 1
    precision: str = "f32"
    seed: int = 0
    inputs: Mapping[str, NDArray[Any]] | None = None
    reference: Reference | None = None
    experiment: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    logs: Path | None = None

    @property
    def rows(self) -> int:
        """Rows of the dataset; 0 without one."""
        return len(next(iter(self.inputs.values()))) if self.inputs else 0

    @property
    def task(self) -> str | None:
        """What outputs are reduced for: "classification", "regression", or None for no evaluation."""
        if self.reference is None or self.reference.task == "none" or not self.rows:
            return None
        return self.reference.task


def new_session_id(name: str) -> str:
    """Sortable by time, and unique when two sessions start in the same second."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{name}-{secrets.token_hex(2)}"


def run_session(
    spec: SessionSpec,
    store: SessionStore,
    on_event: OnEvent = ignore,
    *,
    opener: OpenTransport = open_transport,
    start: StartEmulator | None = None,
    pause: Callable[[float], None] = time.sleep,
    resume: SessionData | None = None,
) -> str:
    """Measure everything and return the session's id; the results are in the store.

    `resume`: a stored session that ended early; its missing runs are added to it, none of its finished ones is repeated.
    `start`: how emulators are started, where not anew for this session.

    A device that cannot be reached is recorded and left out; when none can, its error is raised and nothing is stored.
    Raises SpecError, DeviceError, KeyboardInterrupt (with what was measured in the store).
    """
    _check(spec)
    session_id = resume.session.id if resume is not None else spec.id or new_session_id(spec.name)
    if resume is not None:
        _check_resumable(spec, resume)
    devices: dict[str, Device] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ondevice-harness-")))
        stack.callback(_close_all, devices)
        records = _connect(spec, session_id, devices, partial(Device.open, opener=opener, start=start), on_event)
        if resume is None:
            store.add_session(_session(spec, session_id), tuple(spec.variants), records, spec.reference)
        else:
            _reopen(store, resume, records)
        plan = make_plan(
            {name: variant.manifest.format for name, variant in spec.artifacts.items()},
            {name: device.engines for name, device in devices.items()},
            spec.protocol,
            seed=spec.seed,
            evaluate=spec.task is not None,
            recipes={record.name: record.recipe for record in spec.variants},
        )
        measuring = Measuring(
            session_id=session_id,
            plan=plan,
            artifacts=spec.artifacts,
            devices=devices,
            inputs=_save_inputs(spec, folder),
            rows=spec.rows,
            threads=spec.threads,
            precision=spec.precision,
            options=spec.options,
            task=spec.task,
            folder=folder,
            logs=spec.logs,
            store=store,
            on_event=on_event,
            pause=pause,
            progress=Progress() if resume is None else progress_of(resume),
        )
        status = "failed"
        try:
            measuring.run()
            status = "done"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            store.finish_session(session_id, status)
            measuring.tell(ENDED, f"session {status}")
    return session_id


def _check(spec: SessionSpec) -> None:
    """What the caller could get wrong. Raises SpecError."""
    if not spec.devices:
        raise SpecError("there is no device to measure on")
    names = [device.name for device in spec.devices]
    if len(set(names)) != len(names):
        raise SpecError(f"two devices have the same name: {', '.join(sorted(names))}")
    if not spec.artifacts:
        raise SpecError("there is no variant to measure", remedy="see why each failed to convert")
    known = {record.name for record in spec.variants}
    unknown = sorted(set(spec.artifacts) - known)
    if unknown:
        raise SpecError(f"no record for the variants {', '.join(unknown)}")
    if spec.inputs and len({len(array) for array in spec.inputs.values()}) != 1:
        raise SpecError("the dataset's inputs have different numbers of rows")
    if spec.task is not None and spec.reference is not None and spec.reference.rows != spec.rows:
        raise SpecError(f"the reference has {spec.reference.rows} rows, the inputs {spec.rows}")


def _check_resumable(spec: SessionSpec, resume: SessionData) -> None:
    """Raise SpecError when the session is another's, or still runs."""
    check_same(spec, resume)
    environment = resume.session.environment
    pid, started = environment.get("pid"), environment.get("pid_started")
    here = environment.get("host") == platform.node()
    if here and resume.session.status == "running" and isinstance(pid, int) and started == process_started(pid):
        raise SpecError(f"session {resume.session.id} is still running, as process {pid}", remedy="wait for its end")


def _reopen(store: SessionStore, resume: SessionData, records: Sequence[DeviceRecord]) -> None:
    """The session runs again; its devices are as they are now. One that does not answer keeps its facts."""
    facts = {device.name: device.facts for device in resume.devices}
    for record in records:
        store.add_device(resume.session.id, replace(record, facts=record.facts or facts.get(record.name, {})))
    store.finish_session(resume.session.id, "running")


def _connect(
    spec: SessionSpec,
    session_id: str,
    devices: dict[str, Device],
    open_device: Callable[[DeviceProfile, str], Device],
    on_event: OnEvent,
) -> tuple[DeviceRecord, ...]:
    """Open the devices into `devices`; the records of all. Raises the first error when none can be reached."""
    records: list[DeviceRecord] = []
    errors: list[DeviceError] = []
    for profile in spec.devices:
        try:
            device = open_device(profile, session_id)
        except DeviceError as error:
            log.warning("%s", error)
            errors.append(error)
            records.append(
                DeviceRecord(profile.name, profile.transport, emulated=profile.emulated, failure=failure_of(error))
            )
            on_event(Event(UNREACHABLE, str(error), 0, 0, device=profile.name))
        else:
            devices[profile.name] = device
            device.rest()
            records.append(device.record)
            on_event(
                Event(CONNECTED, f"{profile.name}: {device.record.facts.get('cpu', '')}", 0, 0, device=profile.name)
            )
            for words in device.warnings:
                log.warning("%s: %s", profile.name, words)
                on_event(Event(WARNING, f"{profile.name}: {words}", 0, 0, device=profile.name))
    if not devices:
        raise errors[0]
    return tuple(records)


def _close_all(devices: Mapping[str, Device]) -> None:
    """Clean every device; one that is gone cannot be cleaned, and the next session there sweeps up after us."""
    for device in devices.values():
        try:
            device.close()
        except DeviceError as error:
            log.warning("%s was not cleaned up: %s", device.profile.name, error)


def _session(spec: SessionSpec, session_id: str) -> Session:
    return Session(
        id=session_id,
        name=spec.name,
        created_at=datetime.now(UTC).isoformat(timespec="microseconds"),
        harness_version=__version__,
        seed=spec.seed,
        protocol=asdict(spec.protocol),
        experiment=dict(spec.experiment),
        environment={
            "host": platform.node(),
            "host_python": platform.python_version(),
            "host_system": platform.platform(),
            "threads": spec.threads,
            "precision": spec.precision,
            **({"options": dict(spec.options)} if spec.options else {}),
            "pid": os.getpid(),
            "pid_started": process_started(os.getpid()),
        },
    )


def _save_inputs(spec: SessionSpec, folder: Path) -> dict[str, Path]:
    """The dataset's inputs as .npy files, by input name. File names are ours: an input's name may hold anything."""
    paths = {}
    for index, (name, array) in enumerate((spec.inputs or {}).items()):
        paths[name] = folder / f"input{index}.npy"
        np.save(paths[name], np.ascontiguousarray(array), allow_pickle=False)
    return paths
