"""What is looked at and set on a device before it is measured, and put back afterwards.

`Preflight` does it for one session; `knobs` says what each knob can do; `restore_leftovers` puts back what a host that died
had changed. Used by `harness.devices.device` alone, and by the commands that look after devices.
"""

from __future__ import annotations

from harness.devices.preflight.journal import leftovers, restore_leftovers
from harness.devices.preflight.session import Preflight

__all__ = ["Preflight", "leftovers", "restore_leftovers"]
