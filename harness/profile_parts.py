"""The parts of a device profile that have a shape of their own: clusters, heat, power, what may be changed, the emulator.

Used by `harness.profiles` alone to read YAML; everything that works with a device reads them from its DeviceProfile.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Arch = Literal["aarch64", "armv7l", "x86_64"]
Engine = Literal["litert", "onnxruntime", "openvino"]
# What the harness may change on a device beyond its own processes. Each is put back at the end.
Knob = Literal[
    "governor", "frequency", "fixed_performance", "stay_awake", "screen", "airplane_mode", "suspend_charging"
]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Cluster(_Part):
    """CPUs of one kind."""

    name: str = Field(description="What these cores are called: little, middle, big, prime, or the core's name.")
    cpus: tuple[int, ...] = Field(min_length=1, description="Their CPU numbers.")
    max_khz: int | None = Field(default=None, gt=0, description="Their highest frequency in kHz, where known.")


class Thermal(_Part):
    """When a device is too hot to be measured."""

    start_below_c: float | None = Field(
        default=None, description="Wait before a run until the hottest sensor is below that many °C."
    )
    wait_s: float = Field(default=300.0, ge=0, le=3600, description="Wait no longer than that; the row then says so.")
    limit_c: float | None = Field(default=None, description="Above that many °C a run counts as throttled.")
    sensors: tuple[str, ...] = Field(
        default=(),
        description="Names (or parts of names) of the sensors to heed; without any, all CPU and SoC sensors.",
    )


class Power(_Part):
    """Where energy is read. Units and signs of fuel gauges are unreliable: what the profile states wins over the guess."""

    source: Literal["auto", "none", "power_supply", "hwmon", "iio", "rapl", "dumpsys"] = Field(
        default="auto", description="Kind of meter; auto: the best one that can be read."
    )
    node: str | None = Field(
        default=None, description="Name of the meter where there are several, e.g. battery, ina226."
    )
    current_scale: float = Field(
        default=1.0, gt=0, description="Factor that brings the current to what the kernel documents."
    )
    discharge_sign: Literal[-1, 1] | None = Field(
        default=None, description="Sign of the current while discharging; without it, found out."
    )
    update_s: float | None = Field(default=None, gt=0, description="Seconds between updates of the gauge, where known.")
    sysfs: str = Field(
        default="/sys",
        description="Root of the kernel's files; any other is recorded as a fixture, not as a real meter.",
    )


class Emulator(_Part):
    """A device that the harness starts and stops itself."""

    kind: Literal["qemu-system", "qemu-user", "android"] = Field(description="What emulates.")
    cpu: str | None = Field(default=None, description="qemu: CPU model, e.g. cortex-a72.")
    cpus: int = Field(default=1, ge=1, le=16, description="Number of CPUs.")
    memory_mib: int = Field(default=1024, ge=256, le=16384, description="Memory in MiB.")
    icount_shift: int | None = Field(
        default=None, ge=0, le=10, description="Count instructions, 2^shift ns each: virtual time instead of latency."
    )
    serve: Literal["ssh", "adb"] = Field(default="ssh", description="What the guest answers to.")
    avd: str | None = Field(default=None, description="android: name of the virtual device (made when missing).")
    system_image: str | None = Field(default=None, description="android: package of the system image to make it from.")
    kernel_modules: tuple[str, ...] = Field(
        default=(),
        description="qemu-system: more kernel modules, each with its parameters after a space; any makes it the full kernel.",
    )
    packages: tuple[str, ...] = Field(
        default=(), description="qemu-system: more Debian packages; their programs and libraries go into the guest."
    )
    at_boot: tuple[str, ...] = Field(default=(), description="qemu-system: lines of sh, run as root before it answers.")
    boot_timeout_s: float = Field(default=120.0, gt=0, le=1200, description="Seconds to wait until it answers.")

    @model_validator(mode="after")
    def _check(self) -> Emulator:
        if self.icount_shift is not None and (self.kind != "qemu-system" or self.cpus != 1):
            raise ValueError("icount_shift needs kind: qemu-system with cpus: 1")
        return self
