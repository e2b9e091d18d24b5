"""A session that stays in memory: a few variants, measured or asked for their answers, as rows. For trials, which keep only figures.

Between `harness.runner`, which measures as ever, and `harness.tune.trials`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from harness.plan import PRESETS
from harness.records import DeviceRecord, Reference, Run, Session, SessionData, VariantRecord
from harness.runner import SessionSpec

# One process per variant that answers all rows, and no latency run.
ANSWERS = dataclasses.replace(PRESETS["quick"], probes=1, runs=0, max_runs=0, stop_on="estimate", memory_invokes=1)


class Sink:
    """Keeps one session: `harness.session.sink.SessionStore` without a file."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._variants: tuple[VariantRecord, ...] = ()
        self._devices: dict[str, DeviceRecord] = {}
        self._runs: list[Run] = []
        self._reference: Reference | None = None

    def add_session(
        self,
        session: Session,
        variants: Sequence[VariantRecord] = (),
        devices: Sequence[DeviceRecord] = (),
        reference: Reference | None = None,
    ) -> None:
        """Begin."""
        self._session, self._variants, self._reference = session, tuple(variants), reference
        self._devices = {device.name: device for device in devices}

    def add_device(self, session_id: str, device: DeviceRecord) -> None:
        """Replace a device's record."""
        del session_id
        self._devices[device.name] = device

    def add_run(self, run: Run) -> None:
        """Keep a run."""
        self._runs.append(run)

    def finish_session(self, session_id: str, status: str) -> None:
        """Note how it ended."""
        del session_id
        if self._session is not None:
            self._session = dataclasses.replace(self._session, status=status)

    def data(self) -> SessionData:
        """All of it. Raises RuntimeError when there was no session."""
        if self._session is None:
            raise RuntimeError("no session was begun")
        return SessionData(
            self._session, self._variants, tuple(self._devices.values()), tuple(self._runs), self._reference
        )


def run_in_memory(spec: SessionSpec, **how: Any) -> SessionData:
    """Carry out a session and give back all of it; `how`: as `harness.runner.run_session` takes it. Raises what that does."""
    from harness.runner import run_session

    sink = Sink()
    run_session(spec, sink, **how)
    return sink.data()
