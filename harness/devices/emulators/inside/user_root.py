"""Becomes a device: this process moves into a root of its own, and becomes user 2000, where programs of another architecture run.

`python user_root.py OPTIONS`, standard library only, started by the watcher. New user and mount namespaces need no privilege
and end with the last process in them, so that nothing is mounted on the host and nothing stays behind. In them qemu-user is
registered for the architecture (Linux 6.7 or newer gives every user namespace a registry of its own; an older kernel must
have it registered on the host); the root is mounted read-only but for its /data/local/tmp; then the ADB daemon takes over.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import sys
from pathlib import Path
from typing import Any

_NEW_USER, _NEW_MOUNTS = 0x10000000, 0x00020000
_DETACH = 2
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _ATTR_RDONLY = 442, -100, 0x8000, 1
_KERNEL_PATHS = ("bus", "fs", "irq", "sys", "sysrq-trigger")
# Who an unrooted phone's shell is.
SHELL_ID = 2000
_PIVOT_ROOT = {
    "x86_64": 155,
    "aarch64": 41,
    "armv7l": 218,
}  # the system call's number; the C library has no name for it
_DEVICES = ("null", "zero", "full", "random", "urandom")

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def _mount(source: str, target: Path, kind: str = "", flags: int = 0) -> None:
    _check(_libc.mount(source.encode(), str(target).encode(), kind.encode(), flags, None), f"mount {target}")


def _become(user: int, kinds: int) -> None:
    """Enter new namespaces in which this process is `user` and nobody else exists. Raises OSError where that is forbidden."""
    uid, gid = os.geteuid(), os.getegid()
    _check(_libc.unshare(kinds), "new namespaces")
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"{user} {uid} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"{user} {gid} 1", encoding="ascii")


def _register(binfmt: dict[str, Any], folder: Path) -> None:
    """Let the kernel run the architecture's programs by the interpreter, in this namespace alone where it can."""
    try:
        _mount("none", folder, "binfmt_misc")
        (folder / "register").write_bytes(bytes.fromhex(binfmt["line"]))
    except OSError as error:
        registered = Path("/proc/sys/fs/binfmt_misc") / binfmt["name"]
        # F: the kernel holds the interpreter open, which is then needed in no root.
        if not registered.exists() or "F" not in registered.read_text(encoding="ascii").partition("flags:")[2]:
            raise OSError(error.errno, f"{error.strerror}; and the host has no {registered}", "binfmt_misc") from error


def _read_only(path: Path) -> None:
    """With all that is mounted below it."""
    attributes = struct.pack("<4Q", _ATTR_RDONLY, 0, 0, 0)
    done = _libc.syscall(_MOUNT_SETATTR, _AT_FDCWD, str(path).encode(), _AT_RECURSIVE, attributes, len(attributes))
    _check(done, f"make {path} read-only")


def _build(root: Path, data: Path, cpuinfo: Path) -> None:
    """Mount the device's file systems: everything read-only but /data/local/tmp; of the host /proc, /sys and a few nodes.

    What changes the kernel is read-only too: to it, the harness's user is who it is outside, and may be root.
    """
    _mount(str(root), root, flags=_MS_BIND)
    _read_only(root)
    for name in ("proc", "sys"):
        _mount(f"/{name}", root / name, flags=_MS_BIND | _MS_REC)
    _read_only(root / "sys")
    for name in _KERNEL_PATHS:
        if (root / "proc" / name).exists():
            _mount(f"/proc/{name}", root / "proc" / name, flags=_MS_BIND | _MS_REC)
            _read_only(root / "proc" / name)
    # Engines read there what the CPU can do, and crash on what an x86 host says.
    _mount(str(cpuinfo), root / "proc/cpuinfo", flags=_MS_BIND)
    for name in _DEVICES:
        _mount(f"/dev/{name}", root / "dev" / name, flags=_MS_BIND)
    _mount(str(data), root / "data/local/tmp", flags=_MS_BIND)


def _make_root(root: Path) -> None:
    """Nothing of the host's tree is left to be seen. Not chroot: from there no namespace can be entered any more."""
    os.chdir(root)
    _check(_libc.syscall(_PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", _DETACH), "umount the old root")
    os.chdir("/")


def main() -> None:
    """Become the device, or end with a line on stderr that says at which step the host refused."""
    options = json.loads(sys.argv[1])
    sys.path.insert(0, str(Path(__file__).parent))
    from serve_adb import load_daemon, serve  # type: ignore[import-not-found, unused-ignore]

    daemon = load_daemon(options["daemon"])
    root = Path(options["root"])
    try:
        _become(0, _NEW_USER | _NEW_MOUNTS)
        _mount("none", Path("/"), flags=_MS_REC | _MS_PRIVATE)
        _build(root, Path(options["data"]), Path(options["cpuinfo"]))
        if options["binfmt"] is not None:
            _register(options["binfmt"], root / "proc/sys/fs/binfmt_misc")
        _make_root(root)
        _become(SHELL_ID, _NEW_USER)
    except OSError as error:
        sys.exit(f"cannot make a device of this process: {error}")
    serve(daemon, options)


if __name__ == "__main__":
    main()
