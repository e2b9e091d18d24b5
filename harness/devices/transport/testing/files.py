"""The device's files as its daemon sees them: device paths become host paths that stay inside the root.

Blocking, for use in a thread of its own; with a uid, that thread gets its file rights and no others.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections import deque
from pathlib import Path

_MAX_LINKS = 40  # as the kernel


class DeviceFiles:
    """The tree under `root`. One object serves one thread, which becomes `uid` where one is given (that needs root)."""

    def __init__(self, root: Path, *, uid: int | None = None, gid: int | None = None) -> None:
        self._root_fd: int | None = None
        self._root = root
        if uid is not None:
            # The user may have no right to walk to the root from outside, as on a real device it need not.
            self._root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
            self._root = Path(f"/proc/self/fd/{self._root_fd}")
            # setfsuid, unlike setuid, changes this thread only, and takes root's file capabilities from it.
            libc = ctypes.CDLL(None, use_errno=True)
            libc.setfsgid(uid if gid is None else gid)
            libc.setfsuid(uid)

    def close(self) -> None:
        """Let go of the root."""
        if self._root_fd is not None:
            os.close(self._root_fd)
            self._root_fd = None

    def host_path(self, path: str, *, follow: bool = True) -> Path:
        """Where the device's file is on this host; `follow`: also through a link at the end. Raises OSError (ELOOP)."""
        parts, here, links = deque(path.partition("\0")[0].split("/")), self._root, 0
        while parts:
            part = parts.popleft()
            if part in {"", "."}:
                continue
            if part == "..":
                here = here.parent if here != self._root else here
                continue
            below = here / part
            if (parts or follow) and below.is_symlink():
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                target = str(below.readlink())
                here = self._root if target.startswith("/") else here
                parts.extendleft(reversed(target.split("/")))
                continue
            here = below
        return here

    def stat(self, path: str, *, follow: bool) -> os.stat_result:
        """The file's facts. Raises OSError."""
        return self.host_path(path, follow=follow).lstat()

    def list(self, path: str) -> list[tuple[bytes, os.stat_result]]:
        """Names and facts of a folder's entries, `.` and `..` among them. Raises OSError."""
        folder = self.host_path(path)
        found = {".": folder, "..": self.host_path(f"{path}/..")} | {entry.name: entry for entry in folder.iterdir()}
        entries = []
        for name, where in found.items():
            with contextlib.suppress(FileNotFoundError):  # it went while we looked
                entries.append((os.fsencode(name), where.lstat()))
        return entries

    def open_new(self, path: str, mode: int) -> int:
        """Open a file for writing, emptied. Raises OSError."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NONBLOCK
        return os.open(self.host_path(path), flags, mode)

    def open_existing(self, path: str) -> int:
        """Open a file for reading. Raises OSError, also for a folder."""
        return os.open(self.host_path(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)

    def make_parents(self, path: str) -> None:
        """Make the folders above a path. Raises OSError."""
        parts = [part for part in path.split("/") if part][:-1]
        for count in range(1, len(parts) + 1):
            with contextlib.suppress(FileExistsError):
                self.host_path("/".join(parts[:count])).mkdir(0o775)

    def link(self, path: str, target: str) -> None:
        """Make a symbolic link, with folders made where they are missing. Raises OSError."""
        where = self.host_path(path, follow=False)
        try:
            where.symlink_to(target)
        except FileNotFoundError:
            self.make_parents(path)
            where.symlink_to(target)

    def unlink(self, path: str) -> None:
        """Remove a file or a link; harmless when it cannot be."""
        with contextlib.suppress(OSError):
            self.host_path(path, follow=False).unlink()
