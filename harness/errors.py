"""The harness's exceptions: where a thing went wrong, whether trying again can help, and what to do next.

HarnessError
├── SpecError          the user's input is wrong (exit code 2)
├── ConversionError    a converter refused or died; becomes a failed row
├── DeviceError        a device or the way to it failed (exit code 3); may be transient
│   ├── TransportError     connection, upload, download, time-out
│   ├── HostKeyError       an SSH host key is unknown or has changed
│   └── BundleError        a runtime bundle cannot be built, read or unpacked
│       └── PackageGoneError   no mirror has a locked package any more
├── MeasurementError   the agent or an engine failed on one variant; becomes a failed row
└── StoreError         the session store cannot be written now: disk full, locked (exit code 3)
"""

from __future__ import annotations


class HarnessError(Exception):
    """Base of all. `remedy` says what to do next; `transient` whether the same call may succeed later."""

    where = "harness"

    def __init__(self, message: str, *, remedy: str | None = None, transient: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.transient = transient

    def __str__(self) -> str:
        return self.message if self.remedy is None else f"{self.message} — {self.remedy}"


class SpecError(HarnessError):
    """The user's input is wrong: a file, a key, a shape, a combination that cannot exist."""

    where = "spec"


class ConversionError(HarnessError):
    """A conversion failed; the message carries the tool's own words."""

    where = "conversion"


class DeviceError(HarnessError):
    """A device, or the way to it, failed."""

    where = "device"


class TransportError(DeviceError):
    """A connection, a transfer or a remote command failed."""


class HostKeyError(DeviceError):
    """An SSH host key is unknown or is not the one on record. Never retried, never accepted in silence."""


class BundleError(DeviceError):
    """A runtime bundle cannot be built, read or unpacked: a package is gone, a download is damaged, a tool is missing."""


class PackageGoneError(BundleError):
    """No mirror has a locked package any more, or none can be reached."""


class MeasurementError(HarnessError):
    """The agent, or an engine inside it, failed on a variant."""

    where = "measurement"


class StoreError(HarnessError):
    """The session store cannot be written now: the disk is full, or another process holds it."""

    where = "store"
