"""What every ADB route gives the layers above: byte streams to the services of a device's daemon.

`adb.py` asks a Link for streams, whoever carries them: `adb_wire.py` (TCP or USB, no server) or `adb_server.py` (through the
adb server). `adb_process.py` runs commands on a stream, `adb_sync.py` moves files on one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from harness.errors import TransportError

#: Without this feature there are no exit codes, no separate stderr and no end-of-file for stdin.
SHELL_V2 = "shell_v2"
STAT_V2 = "stat_v2"
OPEN_TIMEOUT_S = 30.0


class Refused(Exception):  # noqa: N818  (said by the daemon, never seen above this package)
    """The daemon does not open such a service; its words, where it gives any."""


class Stream(ABC):
    """A two-way byte stream. `receive` raises TransportError once the connection is lost; nothing here retries."""

    @abstractmethod
    def send(self, data: bytes) -> None:
        """Queue bytes and return at once. Raises TransportError when the connection is lost."""

    @abstractmethod
    def flush(self, stall_s: float) -> None:
        """Wait until all queued bytes are on their way. Raises TimeoutError after `stall_s` seconds without progress.

        Returns at once when the other side has ended the stream: what it said last is to be received.
        """

    @abstractmethod
    def receive(self, timeout_s: float) -> bytes:
        """The next bytes; empty at the end. Raises TimeoutError, TransportError."""

    @abstractmethod
    def close(self) -> None:
        """End the stream on both sides; harmless twice, and on a lost connection."""


class Link(ABC):
    """A way to the daemon of one device."""

    label: str
    #: Address or serial number, for messages.
    place: str
    #: What the daemon says it can do.
    features: frozenset[str]

    @abstractmethod
    def open(self, service: bytes, timeout_s: float = OPEN_TIMEOUT_S) -> Stream:
        """A stream to a service, such as `sync:`. Raises Refused, TimeoutError, TransportError."""

    @abstractmethod
    def alive(self) -> bool:
        """Whether the connection still stands, as far as is known."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the device; open streams end. Harmless twice."""

    def probe(self, timeout_s: float) -> None:
        """Have the device answer to something small. Raises TimeoutError, Refused, TransportError."""
        self.open(b"shell,v2,raw:true", timeout_s).close()

    def lost(self, error: BaseException | None = None) -> TransportError:
        """The error for a connection that broke."""
        words = str(error) if error is not None else ""
        return TransportError(
            f"{self.label}: lost the connection to {self.place}" + (f": {words}" if words else ""), transient=True
        )
