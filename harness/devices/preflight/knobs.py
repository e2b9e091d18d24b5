"""All knobs by the names that a device profile's `may_change` uses: one class each, listed here and nowhere else.

The agent's CPU affinity is no knob of the device: the agent sets its own and reports what it read back.
"""

from __future__ import annotations

from harness.devices.preflight.android import AirplaneMode, FixedPerformance, Screen, StayAwake, SuspendCharging
from harness.devices.preflight.base import Knob
from harness.devices.preflight.cpufreq import Frequency, Governor

KNOBS: dict[str, type[Knob]] = {
    "governor": Governor,
    "frequency": Frequency,
    "fixed_performance": FixedPerformance,
    "stay_awake": StayAwake,
    "screen": Screen,
    "airplane_mode": AirplaneMode,
    "suspend_charging": SuspendCharging,
}
