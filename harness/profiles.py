"""device_profiles/*.yaml → DeviceProfile: how to reach a device and what may be done on it.

A profile is found by name in `./device_profiles`, then in the user's configuration folder, then among those shipped; or
given as a path, as `ssh://[user@]host[:port]`, `adb://SERIAL` or `adb://host:port`, or in line in an experiment.
`extends: NAME` starts from another profile.
"""

from __future__ import annotations

import os
import re
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from harness.errors import SpecError
from harness.profile_parts import Arch, Cluster, Emulator, Engine, Knob, Power, Thermal
from harness.yamlfile import Location, read_yaml, suggest, validate

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SSH_URL = re.compile(r"ssh://(?:(?P<user>[^@/:]+)@)?(?P<host>\[[0-9A-Fa-f:.]+\]|[^@/:\[\]]+)(?::(?P<port>\d+))?/?")
_ADB_URL = re.compile(r"adb://(?P<serial>[^/\s]+)/?")
_ADB_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:\[\]]+):(?P<port>\d+)")
MAX_EXTENDS = 8
# Keys that mean something for some transports only.
_KEYS_OF = {
    ("ssh", "adb"): ("host", "port"),
    ("ssh",): ("user", "identity_file", "known_hosts"),
    ("adb",): ("adb_route", "serial", "adb_key", "adb_server"),
}


class DeviceProfile(BaseModel):
    """One device. `python` is an interpreter on the device that has numpy and the engines."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="How rows and reports call the device.")
    description: str = Field(default="", description="One line for people.")
    transport: Literal["local", "ssh", "adb"] = Field(description="How the device is reached.")
    host: str | None = Field(
        default=None, description="ssh: host name or address; adb: the same, for a direct connection."
    )
    port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="ssh: port (default 22); adb: port of a direct connection (default 5555).",
    )
    adb_route: Literal["auto", "direct", "server", "usb"] = Field(
        default="auto",
        description="adb: direct: TCP to `host`; server: through the adb server (USB phones, wireless debugging); usb: USB"
        " without a server. auto: direct with a `host`, else the server.",
    )
    serial: str | None = Field(default=None, description="adb: which of several devices, as `adb devices` names it.")
    adb_key: str | None = Field(
        default=None, description="adb: private key (default ~/.android/adbkey, made when missing)."
    )
    adb_server: str | None = Field(
        default=None, description="adb: host:port of the adb server (default 127.0.0.1:5037)."
    )
    user: str | None = Field(default=None, description="ssh: user (default: the user running the harness).")
    identity_file: str | None = Field(
        default=None, description="ssh: private key; without it the agent and ~/.ssh are asked."
    )
    known_hosts: str | None = Field(
        default=None, description="ssh: file with the host's key (default ~/.ssh/known_hosts)."
    )
    arch: Arch | None = Field(default=None, description="Architecture, as `uname -m` says; without it, asked.")
    runtime: Literal["auto", "own", "bundle"] = Field(
        default="auto",
        description="own: the device's own Python and engines; bundle: the pushed runtime, nothing of the device's. auto: local:"
        " own; adb: bundle; ssh: own where Python, numpy and an engine are installed, else bundle.",
    )
    bundle: str | None = Field(
        default=None, description="File of the bundle to push (default: the last one built for the architecture)."
    )
    python: str | None = Field(
        default=None,
        description="runtime own: interpreter on the device that has numpy and an engine (local: this one; else: python3).",
    )
    work_folder: str | None = Field(
        default=None, description="Where files go on the device (default: under the user's cache)."
    )
    engines: tuple[Engine, ...] = Field(
        default=("litert", "onnxruntime", "openvino"), description="Engines the device may use."
    )
    keep_uploads: bool = Field(
        default=True,
        description="Leave uploaded models on the device, so that the next session need not send them again.",
    )
    cache_limit_bytes: int = Field(
        default=2 << 30, ge=0, description="Kept uploads beyond that many bytes are removed, the least used first."
    )
    emulated: bool = Field(
        default=False, description="True for an emulator: its latency is never graded better than C."
    )
    clusters: tuple[Cluster, ...] = Field(default=(), description="The device's CPUs by kind, slowest first.")
    affinity: tuple[int, ...] | str | None = Field(
        default=None, description="CPU numbers the agent is pinned to, or the name of one of `clusters`."
    )
    thermal: Thermal = Field(default=Thermal(), description="When the device is too hot to be measured.")
    power: Power = Field(default=Power(), description="Where energy is read.")
    may_change: tuple[Knob, ...] = Field(
        default=(), description="What may be changed on the device while it is measured; it is put back at the end."
    )
    quirks: tuple[str, ...] = Field(default=(), description="What is known to be odd about the device, for people.")
    emulator: Emulator | None = Field(
        default=None, description="For a device that the harness starts and stops itself."
    )
    environment: dict[str, str] = Field(default_factory=dict, description="Environment variables for the agent.")
    connect_timeout_s: float = Field(
        default=4.0,
        gt=0,
        le=120,
        description="Seconds to wait for a connection; more for a device far away or very slow.",
    )

    @model_validator(mode="after")
    def _check(self) -> DeviceProfile:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"name {self.name!r}: use letters, digits, dot, dash and underscore, 64 at most")
        if self.transport == "ssh" and not self.host and self.emulator is None:
            raise ValueError("an ssh device needs 'host'")
        if self.adb_route == "direct" and not self.host and self.emulator is None:
            raise ValueError("adb_route: direct needs 'host'")
        for transport, keys in _KEYS_OF.items():
            given = [key for key in keys if getattr(self, key) not in (None, "auto")]
            if given and self.transport not in transport:
                raise ValueError(f"'{given[0]}' only goes with transport: {' or '.join(transport)}")
        if isinstance(self.affinity, str) and self.affinity not in {cluster.name for cluster in self.clusters}:
            raise ValueError(f"affinity: '{self.affinity}' is none of the clusters")
        if self.emulator is not None and not self.emulated:
            raise ValueError("a device with 'emulator' is emulated: true")
        return self

    @property
    def pinned_to(self) -> tuple[int, ...] | None:
        """The CPU numbers the agent is pinned to; a cluster's name is resolved."""
        if isinstance(self.affinity, str):
            return next(cluster.cpus for cluster in self.clusters if cluster.name == self.affinity)
        return self.affinity

    @property
    def counts_instructions(self) -> bool:
        """True for the deterministic guest: its times are virtual time, never latency."""
        return self.emulator is not None and self.emulator.icount_shift is not None


def search_folders() -> list[Path]:
    """Folders searched for `NAME.yaml`, in order."""
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    shipped = Path(str(resources.files("harness.device_profiles")))
    return [Path("device_profiles"), config / "ondevice-harness" / "devices", shipped]


def profile_names() -> list[str]:
    """Names of all profiles that can be found."""
    return sorted({path.stem for folder in search_folders() if folder.is_dir() for path in folder.glob("*.yaml")})


def find_profile(name: str, base_folder: Path | None = None) -> Path:
    """The file of a profile given by name or by path. Raises SpecError."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name).expanduser()
        return path if path.is_absolute() or base_folder is None else base_folder / path
    if not _NAME.fullmatch(name):
        raise SpecError(
            f"{name!r} is no name of a device profile",
            remedy="give a name, a .yaml file, ssh://user@host, or adb://SERIAL",
        )
    for folder in search_folders():
        path = folder / f"{name}.yaml"
        if path.is_file():
            return path
    raise SpecError(f"no device profile is called '{name}'", remedy=suggest(name, profile_names()))


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Key by key; sets of keys (environment, thermal, power, emulator) too."""
    merged = {**base, **over}
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            merged[key] = {**base[key], **value}
    return merged


def _resolve(data: Any, path: Path, depth: int = 0) -> dict[str, Any]:
    """Follow `extends`; the nearer profile wins key by key."""
    if not isinstance(data, dict):
        raise SpecError(f"{path}: a device profile is a set of keys, found {type(data).__name__}")
    parent = data.get("extends")
    own = {key: value for key, value in data.items() if key != "extends"}
    for key in ("identity_file", "known_hosts", "adb_key", "bundle"):
        if isinstance(own.get(key), str):
            own[key] = str(_beside(own[key], path))
    if parent is None:
        return own
    if not isinstance(parent, str):
        raise SpecError(f"{path}: extends: give the name or path of one profile")
    if depth >= MAX_EXTENDS:
        raise SpecError(f"{path}: extends: more than {MAX_EXTENDS} profiles deep, or in a circle")
    parent_path = find_profile(parent, path.parent)
    parent_data, _ = read_yaml(parent_path)
    return _merge(_resolve(parent_data, parent_path, depth + 1), own)


def _beside(value: str, path: Path) -> Path:
    """A path in a profile is relative to the profile's own folder."""
    expanded = Path(value).expanduser()
    return expanded if expanded.is_absolute() else (path.parent / expanded).resolve()


def profile_from_data(data: Any, path: Path, lines: dict[Location, int] | None = None) -> DeviceProfile:
    """Validate a profile given in line; `path` is the file it stands in. Raises SpecError."""
    merged = _resolve(data, path)
    merged.setdefault("name", path.stem)
    return validate(DeviceProfile, merged, path, lines)


def _url_data(name: str) -> dict[str, Any] | None:
    """A device given as an address: the profile it stands for."""
    ssh = _SSH_URL.fullmatch(name)
    if ssh is not None:
        data = {"extends": "generic-ssh", "host": ssh["host"].strip("[]")}
        data |= {key: value for key in ("user", "port") if (value := ssh[key]) is not None}
        return data | {"name": _name_of(data["host"])}
    adb = _ADB_URL.fullmatch(name)
    if adb is None:
        return None
    data = {"extends": "generic-adb", "name": _name_of(adb["serial"])}
    address = _ADB_ADDRESS.fullmatch(adb["serial"])
    if address is None:
        return data | {"serial": adb["serial"]}
    return data | {"host": address["host"].strip("[]"), "port": address["port"]}


def _name_of(address: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", address).strip(".-_")[:64]


def load_profile(name: str, base_folder: Path | None = None) -> DeviceProfile:
    """A profile by name, path, `ssh://[user@]host[:port]`, `adb://SERIAL` (through the adb server) or `adb://host:port`
    (directly). Raises SpecError."""
    data = _url_data(name)
    if data is not None:
        return profile_from_data(data, Path(name))
    path = find_profile(name, base_folder)
    data, lines = read_yaml(path)
    return profile_from_data(data, path, lines)
