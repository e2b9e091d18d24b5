"""A root with nothing in it but busybox, and a transport into it: only the work folder can be written, by user 2000.

No /usr, no /etc, no /tmp, no /dev/shm, no C library, no Python; /proc and /sys where asked for. Needs root on this host.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from harness.devices.bundle.build import Order, ensure_bundle
from harness.devices.transport.local import LocalProcess, LocalTransport
from harness.profiles import DeviceProfile

WORK = "/data/local/tmp"
UID = 2000
APPLETS = (
    "cat",
    "chmod",
    "env",
    "gzip",
    "mkdir",
    "mv",
    "pwd",
    "rm",
    "rmdir",
    "sh",
    "sha256sum",
    "tar",
    "touch",
    "uname",
)
QEMU = {"aarch64": "qemu-aarch64-static", "armv7l": "qemu-arm-static"}
_ENTER = """
root=$1; work=$2; shift 2
mount --bind "$root" "$root"
for node in null urandom; do mount --bind "/dev/$node" "$root/dev/$node"; done
[ -z "$WITH_SYS" ] || mount --rbind /sys "$root/sys"
[ -z "$CPUINFO" ] || { mount --rbind /proc "$root/proc" && mount --bind "$CPUINFO" "$root/proc/cpuinfo"; }
mount --bind "$work" "$root/data/local/tmp"
[ -z "$NOEXEC" ] || mount -o remount,bind,noexec "$root/data/local/tmp"
mount -o remount,bind,ro "$root"
exec chroot --userspec=2000:2000 --groups= "$root" "$@"
"""


def need_root_and(*programs: str) -> None:
    missing = [program for program in ("unshare", "chroot", *programs) if shutil.which(program) is None]
    if os.geteuid() != 0 or missing:
        pytest.skip(f"needs to be root, and {', '.join(missing) or 'nothing else'}")


def make_root(folder: Path, arch: str, applets: Sequence[str] = APPLETS) -> Path:
    from harness.devices.emulators.debian import fetch, members

    root = folder / "root"
    for name in ("bin", "dev", "sys", "proc", "data/local/tmp"):
        (root / name).mkdir(parents=True)
    for node in ("null", "urandom"):
        (root / "dev" / node).touch()
    package = fetch("x86_64", ["busybox-static"])["busybox-static"]
    for member in members(package, lambda name: name == "bin/busybox"):
        (root / "bin" / "busybox").write_bytes(member.data)
    (root / "bin" / "busybox").chmod(0o755)
    for applet in applets:
        (root / "bin" / applet).symlink_to("busybox")
    if arch in QEMU:
        shutil.copy(str(shutil.which(QEMU[arch])), root / "bin" / "qemu")
    work = folder / "work"
    work.mkdir()
    os.chown(work, UID, UID)
    return root


class RootTransport(LocalTransport):
    """`cpu`: what qemu-user plays; its default has more than any real one. `fails_after`: pushes before the connection is lost, for a while."""

    def __init__(self, root: Path, cpu: str = "", **settings: str) -> None:
        super().__init__("root")
        self.cpu = cpu
        self.root, self.work, self.settings = root, root.parent / "work", settings
        self.pushed: list[str] = []
        self.fails_after: int | None = None
        self.commands: list[Sequence[str]] = []

    def start(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> LocalProcess:
        self.commands.append(tuple(argv))
        inside = list(argv)
        if (self.root / "bin" / "qemu").exists() and "/ld-linux" in inside[0]:
            inside = ["/bin/qemu", *inside]
        words = [f"{key}={value}" for key, value in {"PATH": "/bin", "QEMU_CPU": self.cpu, **(env or {})}.items()]
        enter = ["/bin/env", "-i", *words, "/bin/sh", "-c", 'cd "$0" && exec "$@"', cwd or "/", *inside]
        settings = {"WITH_SYS": "", "CPUINFO": "", "NOEXEC": "", **self.settings}
        outside = [
            "unshare",
            "-m",
            "--propagation",
            "private",
            "sh",
            "-ec",
            _ENTER,
            "sh",
            str(self.root),
            str(self.work),
        ]
        return super().start([*outside, *enter], stdin=stdin, env=settings)

    def here(self, remote: str) -> str:
        assert remote.startswith(f"{WORK}/"), remote
        return str(self.work / remote.removeprefix(f"{WORK}/"))

    def push(self, path: Path, remote: str) -> None:
        from harness.errors import TransportError

        if self.fails_after is not None and len(self.pushed) >= self.fails_after:
            raise TransportError("root: the connection was lost", transient=True)
        self.pushed.append(remote)
        super().push(path, self.here(remote))
        place = Path(self.here(remote))
        while place != self.work:
            os.chown(place, UID, UID)
            place = place.parent

    def pull(self, remote: str, path: Path) -> None:
        super().pull(self.here(remote), path)

    def sha256(self, remotes: Sequence[str]) -> dict[str, str]:
        found = super().sha256([self.here(remote) for remote in remotes])
        return {remote: found[self.here(remote)] for remote in remotes if self.here(remote) in found}

    def remove(self, remote: str) -> None:
        super().remove(self.here(remote))


def profile(arch: str | None, **changes: object) -> DeviceProfile:
    settings = {"name": "empty", "transport": "adb", "serial": "none", "arch": arch, "work_folder": f"{WORK}/harness"}
    return DeviceProfile.model_validate(settings | changes)


def order(arch: str, *engines: str, level: int = 3) -> Order:
    """Compressed lightly: what is tested here is not the size."""
    return Order(arch, engines or None, level=level)


def built(arch: str, *engines: str, level: int = 3):
    return ensure_bundle(order(arch, *engines, level=level))
