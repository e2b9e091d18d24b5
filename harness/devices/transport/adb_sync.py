"""Files over ADB's `sync:` service: send, receive, and the size of a file beyond 4 GiB.

Used by `adb.py`, which gives temporary names, verifies and renames. Names are bytes on the device; a comma in them is no
matter, as the last one separates the mode.
"""

from __future__ import annotations

import hashlib
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from harness.devices.transport.adb_stream import Link
from harness.errors import TransportError

_T = TypeVar("_T")

#: A step that brings nothing for so long has the device probed; so many probed steps end the transfer all the same.
STALL_TIMEOUT_S = 20.0
PATIENCE = 15
PIECE_BYTES = 64 * 1024  # the protocol's own limit
BATCH_PIECES = 15  # with their headers they just fit into one packet
_PIECE = struct.Struct("<4sI")
_STAT2 = struct.Struct("<4sIQQIIIIQqqq")
_REGULAR_FILE = 0o100000
_FORMAT_MASK = 0o170000
_NAME_LIMIT_BYTES = 1024
_REMEDY = "check free space and rights of 'work_folder'"

Progress = Callable[[int], None]


class SyncRefusedError(TransportError):
    """The device's own words for why a file cannot be written or read."""


class _Talk:
    """One stream to the sync service. A silent device is given up only when it does not answer to a probe either: on a slow
    link a megabyte may be under way for long."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._stream = link.open(b"sync:")
        self._data = bytearray()

    def _patiently(self, step: Callable[[], _T]) -> _T:
        for _ in range(PATIENCE):
            try:
                return step()
            except TimeoutError:
                self._link.probe(STALL_TIMEOUT_S)
        raise TimeoutError

    def send(self, *parts: bytes) -> None:
        """Send, and wait until it is on its way."""
        self._stream.send(b"".join(parts))
        self._patiently(lambda: self._stream.flush(STALL_TIMEOUT_S))

    def arrived(self) -> bool:
        """Whether something has come, without waiting; also true once the stream has ended."""
        if not self._data:
            try:
                self._data += self._stream.receive(0.0)
            except TimeoutError:
                return False
        return True

    def read(self, size_bytes: int) -> bytes:
        """Exactly so many bytes. Raises EOFError at the end of the stream."""
        while len(self._data) < size_bytes:
            chunk = self._patiently(lambda: self._stream.receive(STALL_TIMEOUT_S))
            if not chunk:
                raise EOFError("the device ended the transfer")
            self._data += chunk
        data = bytes(self._data[:size_bytes])
        del self._data[:size_bytes]
        return data

    def failure(self, size: int) -> SyncRefusedError:
        """The device's words after FAIL."""
        words = self.read(min(size, PIECE_BYTES)).decode("utf-8", "replace").strip()
        return SyncRefusedError(words or "no reason given", remedy=_REMEDY)

    def broken(self) -> TransportError:
        """The daemon says what the protocol does not know."""
        return self._link.lost(OSError("the daemon broke the sync protocol"))

    def close(self) -> None:
        """End the stream."""
        self._stream.close()


def _named(kind: bytes, remote: str, suffix: bytes = b"") -> bytes:
    name = remote.encode("utf-8", "surrogateescape") + suffix
    if len(name) > _NAME_LIMIT_BYTES:
        raise SyncRefusedError(f"the path is longer than ADB allows: {remote}")
    return _PIECE.pack(kind, len(name)) + name


def send_file(link: Link, path: Path, remote: str, mode: int, progress: Progress) -> str:
    """Write a local file there with that mode (0644, …); the SHA-256 of what was sent. `progress` gets bytes so far.

    Raises SyncRefusedError, TimeoutError, EOFError, TransportError, and OSError for the local file.
    """
    digest = hashlib.sha256()
    with path.open("rb") as source, closing(_Talk(link)) as talk:
        talk.send(_named(b"SEND", remote, b",%d" % (_REGULAR_FILE | mode)))
        sent = 0
        while batch := source.read(PIECE_BYTES * BATCH_PIECES):
            talk.send(*_framed(batch))
            digest.update(batch)
            sent += len(batch)
            progress(sent)
            if talk.arrived():  # before the end the device only ever speaks of failure
                break
        else:
            talk.send(_PIECE.pack(b"DONE", int(time.time()) & 0xFFFFFFFF))
        kind, size = _PIECE.unpack(talk.read(_PIECE.size))
        if kind == b"FAIL":
            raise talk.failure(size)
        if kind != b"OKAY":
            raise talk.broken()
    return digest.hexdigest()


def _framed(batch: bytes) -> Iterator[bytes]:
    for start in range(0, len(batch), PIECE_BYTES):
        piece = batch[start : start + PIECE_BYTES]
        yield _PIECE.pack(b"DATA", len(piece))
        yield piece


def receive_file(link: Link, remote: str, path: Path, progress: Progress) -> str:
    """Write a file of the device to `path`; its SHA-256. Raises as `send_file` does."""
    digest = hashlib.sha256()
    with closing(_Talk(link)) as talk, path.open("wb") as target:
        talk.send(_named(b"RECV", remote))
        got = 0
        while True:
            kind, size = _PIECE.unpack(talk.read(_PIECE.size))
            if kind == b"DONE":
                return digest.hexdigest()
            if kind == b"FAIL":
                raise talk.failure(size)
            if kind != b"DATA" or size > PIECE_BYTES:
                raise talk.broken()
            piece = talk.read(size)
            digest.update(piece)
            target.write(piece)
            got += len(piece)
            progress(got)


def file_size_bytes(link: Link, remote: str) -> int | None:
    """Size of a regular file in 64 bits; None where there is none. Only for a device with the feature stat_v2."""
    with closing(_Talk(link)) as talk:
        talk.send(_named(b"STA2", remote))
        fields = _STAT2.unpack(talk.read(_STAT2.size))
    error, mode, size_bytes = fields[1], fields[4], int(fields[8])
    if error != 0 or mode & _FORMAT_MASK != _REGULAR_FILE:
        return None
    return size_bytes
