"""What kind of device the daemon plays: its files, its shell, its name, whom it trusts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .wire import MAX_DATA_BYTES, VERSION_SKIP_CHECKSUM

FEATURES = (
    "shell_v2",
    "cmd",
    "stat_v2",
    "ls_v2",
    "fixed_push_mkdir",
    "sendrecv_v2",
    "sendrecv_v2_dry_run_send",
)
# A device of before Android 7: neither exit codes nor separate stderr nor 64-bit sizes.
OLD_FEATURES: tuple[str, ...] = ()
PROPS: Mapping[str, str] = {
    "ro.product.name": "testdevice",
    "ro.product.model": "Test Device",
    "ro.product.device": "testdevice",
}
ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/",
    "SHELL": "/bin/sh",
    "USER": "shell",
    "LOGNAME": "shell",
}


@dataclass(frozen=True, slots=True)
class DaemonOptions:
    """The device to play.

    root: the folder that file transfers see as `/`; links in it are followed inside it.
    shell_prefix: the argv before `-c COMMAND`; `chroot_prefix(root)` makes commands see the same root.
    environment: added to a small one like that of a phone; nothing of the host's own is passed on.
    uid, gid: whose rights file transfers have (needs root); None: the daemon's own.
    keys: public keys (lines of adbkey.pub) that may connect; None: whoever comes, without authentication.
    accept_new_keys: take an unknown key at once, as a user who taps "Allow".
    tls: ask for TLS as wireless debugging does; then `keys` are checked against the client's certificate.
    children_survive: what happens to the processes of a closed stream. False: their process group is killed. True: as on
        a real phone, only the shell is told (SIGHUP) and what it started may go on.
    """

    root: Path = Path("/")
    shell_prefix: tuple[str, ...] = ("/bin/sh",)
    environment: Mapping[str, str] = field(default_factory=dict)
    uid: int | None = None
    gid: int | None = None
    serial: str = ""
    props: Mapping[str, str] = field(default_factory=dict)
    features: tuple[str, ...] = FEATURES
    version: int = VERSION_SKIP_CHECKSUM
    max_data_bytes: int = MAX_DATA_BYTES
    keys: tuple[str, ...] | None = None
    accept_new_keys: bool = False
    tls: bool = False
    children_survive: bool = False


def chroot_prefix(root: Path, *, uid: int | None = None, shell: str = "/bin/sh") -> tuple[str, ...]:
    """The shell prefix that runs commands inside `root`, as user and group `uid` where given. Needs root."""
    user = (f"--userspec={uid}:{uid}", f"--groups={uid}") if uid is not None else ()
    return ("chroot", *user, str(root), shell)
