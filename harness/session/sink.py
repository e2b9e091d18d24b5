"""What the runner needs of `harness.store.Store`: nothing but writing. The tests bring stores of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from harness.records import DeviceRecord, Reference, Run, Session, VariantRecord


class SessionStore(Protocol):
    """What the runner needs of `harness.store.Store`."""

    def add_session(
        self,
        session: Session,
        variants: Sequence[VariantRecord] = (),
        devices: Sequence[DeviceRecord] = (),
        reference: Reference | None = None,
    ) -> None:
        """Begin a session."""

    def add_device(self, session_id: str, device: DeviceRecord) -> None:
        """Replace a device's record."""

    def add_run(self, run: Run) -> None:
        """Commit a run."""

    def finish_session(self, session_id: str, status: str) -> None:
        """Set the session's status."""
