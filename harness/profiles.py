"""device_profiles/*.yaml → DeviceProfile: how to reach a device and what may be done on it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class DeviceProfile(BaseModel):
    """One device. `python` is an interpreter on the device that has numpy and the engines."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    description: str = ""
    transport: Literal["local", "ssh"]
    host: str | None = None
    port: int | None = None
    user: str | None = None
    identity_file: str | None = None
    known_hosts: str | None = None
    python: str | None = None  # None: this interpreter (local), `python3` (ssh)
    work_folder: str | None = (
        None  # None: a private folder under the user's cache (local), ~/.cache/ondevice-harness (ssh)
    )
    engines: tuple[str, ...] = ("litert", "onnxruntime", "openvino")
    emulated: bool = False
    affinity: tuple[int, ...] | None = None
    environment: dict[str, str] = {}
    connect_timeout_s: float = 10.0
