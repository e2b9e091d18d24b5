"""The service `sync:`: stat, list, send and receive files, in its first and second version. Blocking; runs in a thread.

An error is told as FAIL at once. In the middle of a push the rest of the file is then read and forgotten, because some
clients look for an answer only after they have sent everything.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
from collections.abc import Callable
from typing import NoReturn, Protocol

from .files import DeviceFiles

MAX_PATH_BYTES = 1024
MAX_CHUNK_BYTES = 64 * 1024
_FLUSH_BYTES = 512 * 1024
_MAX_TARGET_BYTES = 4096
_MAX_MODE = 0xFFFFFFFF
DRY_RUN = 0x80000000

_REQUEST = struct.Struct("<4sI")
_STAT_1 = struct.Struct("<4sIII")
_STAT_2 = struct.Struct("<4sIQQIIIIQqqq")
_DENT_1 = struct.Struct("<4sIIII")
_DENT_2 = struct.Struct("<4sIQQIIIIQqqqI")
_SETUP_SEND = struct.Struct("<4sII")
_SETUP_RECEIVE = struct.Struct("<4sI")


class Channel(Protocol):
    """Where requests come from and answers go to."""

    def read_exactly(self, size_bytes: int) -> bytes:
        """So many bytes. Raises EOFError at the end."""

    def write(self, data: bytes) -> None:
        """Send bytes. Raises EOFError when nobody listens any more."""


class SyncRefused(Exception):  # noqa: N818 - said to the client, no error of ours
    """A request cannot be met. The text goes to the client, unless it went there already; the service ends."""


class SyncSession:
    """One client's use of the service."""

    def __init__(self, channel: Channel, files: DeviceFiles, take_space: Callable[[int], bool]) -> None:
        self._channel = channel
        self._files = files
        self._take_space = take_space
        self._requests: dict[bytes, Callable[[str], None]] = {
            b"STAT": self._stat_1,
            b"STA2": lambda path: self._stat_2(b"STA2", path, follow=True),
            b"LST2": lambda path: self._stat_2(b"LST2", path, follow=False),
            b"LIST": self._list_1,
            b"LIS2": self._list_2,
            b"SEND": self._send_1,
            b"SND2": self._send_2,
            b"RECV": self._receive,
            b"RCV2": self._receive_2,
        }

    def run(self) -> None:
        """Answer requests until QUIT, the end of the stream, or one that fails."""
        with contextlib.suppress(EOFError):
            while True:
                name, length = _REQUEST.unpack(self._channel.read_exactly(_REQUEST.size))
                if name == b"QUIT":
                    return
                try:
                    self._answer(name, length)
                except SyncRefused as refused:
                    if str(refused):
                        self._fail(str(refused))
                    return

    def _answer(self, name: bytes, length: int) -> None:
        if length > MAX_PATH_BYTES:
            raise SyncRefused("path too long")
        path = os.fsdecode(self._channel.read_exactly(length))
        if name not in self._requests:
            raise SyncRefused(f"unknown command {int.from_bytes(name, 'little'):08x}")
        self._requests[name](path)

    def _fail(self, text: str) -> None:
        message = text.encode("utf-8", "replace")
        self._channel.write(_REQUEST.pack(b"FAIL", len(message)) + message)

    def _stat_1(self, path: str) -> None:
        try:
            found = self._files.stat(path, follow=False)
        except (OSError, ValueError):
            self._channel.write(_STAT_1.pack(b"STAT", 0, 0, 0))
        else:
            self._channel.write(_STAT_1.pack(b"STAT", *_facts_1(found)))

    def _stat_2(self, name: bytes, path: str, *, follow: bool) -> None:
        try:
            found = self._files.stat(path, follow=follow)
        except OSError as error:
            self._channel.write(_STAT_2.pack(name, error.errno or errno.EIO, *[0] * 10))
        else:
            self._channel.write(_STAT_2.pack(name, 0, *_facts_2(found)))

    def _entries(self, path: str) -> list[tuple[bytes, os.stat_result]]:
        try:
            return self._files.list(path)
        except OSError:  # adbd too shows a folder it cannot read as an empty one
            return []

    def _list_1(self, path: str) -> None:
        told = [_DENT_1.pack(b"DENT", *_facts_1(found), len(name)) + name for name, found in self._entries(path)]
        self._channel.write(b"".join(told) + _DENT_1.pack(b"DONE", 0, 0, 0, 0))

    def _list_2(self, path: str) -> None:
        told = [_DENT_2.pack(b"DNT2", 0, *_facts_2(found), len(name)) + name for name, found in self._entries(path)]
        self._channel.write(b"".join(told) + _DENT_2.pack(b"DONE", *[0] * 12))

    def _send_1(self, spec: str) -> None:
        path, comma, mode = spec.rpartition(",")
        if not comma or not mode.isdecimal() or int(mode) > _MAX_MODE:
            raise SyncRefused("missing , in ID_SEND_V1")
        self._send(path, int(mode), dry_run=False)

    def _send_2(self, path: str) -> None:
        name, mode, flags = _SETUP_SEND.unpack(self._channel.read_exactly(_SETUP_SEND.size))
        if name != b"SND2" or flags & ~DRY_RUN:
            raise SyncRefused(f"unsupported flags {flags:#x}")  # compressions were not announced
        self._send(path, mode, dry_run=bool(flags & DRY_RUN))

    def _send(self, path: str, mode: int, *, dry_run: bool) -> None:
        if dry_run:
            self._read_file(lambda _: None)
        elif stat.S_ISLNK(mode):
            self._send_link(path)
        else:
            self._send_file(path, mode)
        self._channel.write(_REQUEST.pack(b"OKAY", 0))

    def _read_file(self, use: Callable[[bytes], None]) -> int:
        """Hand each chunk of the client's file to `use`; the file's time in seconds. Raises SyncRefused."""
        while True:
            name, value = _REQUEST.unpack(self._channel.read_exactly(_REQUEST.size))
            if name == b"DONE":
                return int(value)
            if name != b"DATA":
                raise SyncRefused("invalid data message")
            if value > MAX_CHUNK_BYTES:
                raise SyncRefused("oversize data message")
            chunk = self._channel.read_exactly(value)
            try:
                use(chunk)
            except OSError as error:
                self._refuse_file(f"write failed: {error.strerror}")

    def _refuse_file(self, text: str) -> NoReturn:
        """Say why a file cannot be taken, and read it to its end all the same. Always raises SyncRefused (or EOFError)."""
        self._fail(text)
        self._read_file(lambda _: None)
        raise SyncRefused

    def _send_link(self, path: str) -> None:
        target = bytearray()

        def take(chunk: bytes) -> None:
            if len(target) + len(chunk) > _MAX_TARGET_BYTES:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
            target.extend(chunk)

        self._read_file(take)
        self._files.unlink(path)
        try:
            self._files.link(path, os.fsdecode(bytes(target).partition(b"\0")[0]))
        except OSError as error:
            raise SyncRefused(f"couldn't create symlink: {error.strerror}") from error

    def _send_file(self, path: str, mode: int) -> None:
        replaced = self._replace(path)
        mode &= 0o777
        mode |= (mode >> 3) & 0o070  # the owner's rights for everybody, as on a device
        mode |= (mode >> 3) & 0o007
        fd = self._open(path, mode)

        def write(chunk: bytes) -> None:
            nonlocal replaced
            try:
                self._write(fd, chunk)
            except OSError:
                if (
                    replaced
                ):  # before the client hears of it; and only once, for it may push the same name again at once
                    replaced = False
                    self._files.unlink(path)
                raise

        try:
            modified_s = self._read_file(write)
            os.fchmod(fd, mode)
            os.utime(fd, (modified_s, modified_s))
        except (SyncRefused, EOFError, OSError) as error:
            if replaced:
                self._files.unlink(path)
            if isinstance(error, OSError):
                raise SyncRefused(f"fchmod failed: {error.strerror}") from error
            raise
        finally:
            os.close(fd)

    def _open(self, path: str, mode: int) -> int:
        """Open a new file, in folders that are made where they are missing."""
        try:
            return self._files.open_new(path, mode)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._refuse_file(f"couldn't create file: {error.strerror}")
        try:
            self._files.make_parents(path)
        except OSError as error:
            self._refuse_file(f"secure_mkdirs failed: {error.strerror}")
        try:
            return self._files.open_new(path, mode)
        except OSError as error:
            self._refuse_file(f"couldn't create file: {error.strerror}")

    def _replace(self, path: str) -> bool:
        """Remove a regular file or link that stands there. False: a device or a folder stands there, and stays."""
        try:
            found = self._files.stat(path, follow=False).st_mode
        except OSError:
            return True
        if not (stat.S_ISREG(found) or stat.S_ISLNK(found)):
            return False
        self._files.unlink(path)
        return True

    def _write(self, fd: int, chunk: bytes) -> None:
        if not self._take_space(len(chunk)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        view = memoryview(chunk)
        while view:
            view = view[os.write(fd, view) :]

    def _receive_2(self, path: str) -> None:
        name, flags = _SETUP_RECEIVE.unpack(self._channel.read_exactly(_SETUP_RECEIVE.size))
        if name != b"RCV2" or flags:
            raise SyncRefused(f"unsupported flags {flags:#x}")
        self._receive(path)

    def _receive(self, path: str) -> None:
        try:
            fd = self._files.open_existing(path)
        except OSError as error:
            raise SyncRefused(f"open failed: {error.strerror}") from error
        waiting = bytearray()
        try:
            while chunk := os.read(fd, MAX_CHUNK_BYTES):
                waiting += _REQUEST.pack(b"DATA", len(chunk)) + chunk
                if len(waiting) >= _FLUSH_BYTES:
                    self._channel.write(bytes(waiting))
                    waiting.clear()
        except OSError as error:
            raise SyncRefused(f"read failed: {error.strerror}") from error
        finally:
            os.close(fd)
        self._channel.write(bytes(waiting) + _REQUEST.pack(b"DONE", 0))


def _facts_1(found: os.stat_result) -> tuple[int, int, int]:
    """Mode, size and time as 32 bits hold them: a file of 5 GiB reads as 1 GiB, as on a real device."""
    return found.st_mode, found.st_size & 0xFFFFFFFF, int(found.st_mtime) & 0xFFFFFFFF


def _facts_2(found: os.stat_result) -> tuple[int, ...]:
    return (
        found.st_dev,
        found.st_ino,
        found.st_mode,
        found.st_nlink,
        found.st_uid,
        found.st_gid,
        found.st_size,
        int(found.st_atime),
        int(found.st_mtime),
        int(found.st_ctime),
    )
