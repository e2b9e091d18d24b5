"""Files over ADB's `sync:` service: send, receive, and the size of a file beyond 4 GiB.

Used by `adb.py`, which gives temporary names, verifies and renames. Names are bytes on the device; a comma in them is no
matter, as the last one separates the mode.
"""

from __future__ import annotations

import hashlib
import struct
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from harness.devices.transport.adb_stream import STALL_TIMEOUT_S, STAT_V2, Inlet, Link, Stream
from harness.errors import TransportError

PIECE_BYTES = 64 * 1024  # the protocol's own limit
BATCH_PIECES = 16
_PIECE = struct.Struct("<4sI")
_STAT2 = struct.Struct("<4sIQQIIIIQqqq")
_REGULAR_FILE = 0o100000
_FORMAT_MASK = 0o170000
_NAME_LIMIT_BYTES = 1024
_REMEDY = "check free space and rights of 'work_folder'"

Progress = Callable[[int], None]


class SyncRefusedError(TransportError):
    """The device's own words for why a file cannot be written or read."""


def _request(kind: bytes, name: bytes) -> bytes:
    return _PIECE.pack(kind, len(name)) + name


def _name(remote: str) -> bytes:
    name = remote.encode("utf-8", "surrogateescape")
    if len(name) > _NAME_LIMIT_BYTES - len(",33188"):
        raise SyncRefusedError(f"the path is longer than ADB allows: {remote}")
    return name


def _failure(inlet: Inlet, size: int) -> SyncRefusedError:
    words = inlet.read(min(size, PIECE_BYTES), STALL_TIMEOUT_S).decode("utf-8", "replace").strip()
    return SyncRefusedError(words or "no reason given", remedy=_REMEDY)


def send_file(link: Link, path: Path, remote: str, mode: int, progress: Progress) -> str:
    """Write a local file there with that mode (0644, …); the SHA-256 of what was sent. `progress` gets bytes so far.

    Raises SyncRefusedError, TimeoutError, EOFError, TransportError, and OSError for the local file.
    """
    digest = hashlib.sha256()
    with path.open("rb") as source, closing(link.open(b"sync:")) as stream:
        inlet = Inlet(stream)
        stream.send(_request(b"SEND", _name(remote) + b",%d" % (_REGULAR_FILE | mode)))
        sent = 0
        while batch := source.read(PIECE_BYTES * BATCH_PIECES):
            stream.send(_framed(batch))
            digest.update(batch)
            stream.flush(STALL_TIMEOUT_S)
            if inlet.arrived():  # before the end the device only ever speaks of failure
                break
            sent += len(batch)
            progress(sent)
        else:
            stream.send(_PIECE.pack(b"DONE", int(time.time()) & 0xFFFFFFFF))
            stream.flush(STALL_TIMEOUT_S)
        kind, size = _PIECE.unpack(inlet.read(_PIECE.size, STALL_TIMEOUT_S))
        if kind == b"FAIL":
            raise _failure(inlet, size)
        if kind != b"OKAY":
            raise link.lost(OSError("the daemon broke the sync protocol"))
    return digest.hexdigest()


def _framed(batch: bytes) -> bytes:
    parts = []
    for start in range(0, len(batch), PIECE_BYTES):
        piece = batch[start : start + PIECE_BYTES]
        parts += [_PIECE.pack(b"DATA", len(piece)), piece]
    return b"".join(parts)


def receive_file(link: Link, remote: str, path: Path, progress: Progress) -> str:
    """Write a file of the device to `path`; its SHA-256. Raises as `send_file` does."""
    digest = hashlib.sha256()
    with closing(link.open(b"sync:")) as stream, path.open("wb") as target:
        inlet = Inlet(stream)
        stream.send(_request(b"RECV", _name(remote)))
        got = 0
        while True:
            kind, size = _PIECE.unpack(inlet.read(_PIECE.size, STALL_TIMEOUT_S))
            if kind == b"DONE":
                return digest.hexdigest()
            if kind == b"FAIL":
                raise _failure(inlet, size)
            if kind != b"DATA" or size > PIECE_BYTES:
                raise link.lost(OSError("the daemon broke the sync protocol"))
            piece = inlet.read(size, STALL_TIMEOUT_S)
            digest.update(piece)
            target.write(piece)
            got += len(piece)
            progress(got)


def file_size_bytes(link: Link, remote: str) -> int | None:
    """Size of a regular file in 64 bits; None where there is none. Only for a device with the feature stat_v2."""
    if STAT_V2 not in link.features:
        raise TransportError(f"{link.label}: the device lacks stat_v2")
    with closing(link.open(b"sync:")) as stream:
        return _stat(stream, remote)


def _stat(stream: Stream, remote: str) -> int | None:
    stream.send(_request(b"STA2", _name(remote)))
    fields = _STAT2.unpack(Inlet(stream).read(_STAT2.size, STALL_TIMEOUT_S))
    error, mode, size_bytes = fields[1], fields[4], int(fields[8])
    if error != 0 or mode & _FORMAT_MASK != _REGULAR_FILE:
        return None
    return size_bytes
