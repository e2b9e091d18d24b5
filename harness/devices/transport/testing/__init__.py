"""An ADB device for tests: it speaks the wire protocol as a phone does, with real processes and files behind it.

    with RunningDaemon(DaemonOptions(root=folder, keys=(public_key,))) as device:
        ...  # connect to 127.0.0.1:device.port
        device.inject(DropConnection(where="push", after_bytes=1_000_000))

`python -m harness.devices.transport.testing --help` runs it by itself. It needs Linux and the standard library; TLS also
`cryptography`. docs/extending.md lists the faults.
"""

from __future__ import annotations

from .daemon import AdbDaemon
from .faults import (
    DropConnection,
    Fault,
    NoSpace,
    Offline,
    Reboot,
    SlowLink,
    Stall,
    TruncatePacket,
    Unauthorized,
)
from .options import FEATURES, OLD_FEATURES, DaemonOptions, chroot_prefix
from .running import RunningDaemon

__all__ = [
    "FEATURES",
    "OLD_FEATURES",
    "AdbDaemon",
    "DaemonOptions",
    "DropConnection",
    "Fault",
    "NoSpace",
    "Offline",
    "Reboot",
    "RunningDaemon",
    "SlowLink",
    "Stall",
    "TruncatePacket",
    "Unauthorized",
    "chroot_prefix",
]
