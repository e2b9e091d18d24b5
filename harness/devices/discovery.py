"""What could be measured on: this machine, the user's own profiles, what the adb server lists, emulators. Nothing is changed.

Each device is connected to and looked at (`look.sh`), all at once, with short time limits; one that does not answer is listed
with why and what to do. An adb server is asked only if it runs already. Used by `harness devices`; prints nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from harness.devices.facts import engines_of
from harness.devices.look import look
from harness.devices.runtime import interpreter_of, work_folder_of
from harness.devices.transport import Transport, open_transport
from harness.errors import BundleError, DeviceError, HostKeyError, SpecError
from harness.profiles import DeviceProfile, find_profile, load_profile, profile_names, search_folders

# A device that does not answer within this time is not there (see also the adb transport's own limit).
CONNECT_TIMEOUT_S = 3.0
LOOK_TIMEOUT_S = 15.0
MODULES_TIMEOUT_S = 20.0
ADB_SERVER_TIMEOUT_S = 1.0
_AT_ONCE = 16
# What an emulator profile of each kind and architecture needs on this host, and how to get it.
_NEEDS = {
    ("qemu-system", "aarch64"): ("qemu-system-aarch64", "apt install qemu-system-arm qemu-utils e2fsprogs"),
    ("qemu-system", "x86_64"): ("qemu-system-x86_64", "apt install qemu-system-x86 qemu-utils e2fsprogs"),
    ("qemu-user", "aarch64"): ("qemu-aarch64-static", "apt install qemu-user-static"),
    ("qemu-user", "armv7l"): ("qemu-arm-static", "apt install qemu-user-static"),
}

OpenTransport = Callable[[DeviceProfile], Transport]


@dataclass(frozen=True, slots=True)
class Found:
    """One device. `name` is what commands take as DEVICE. `state`: "ready"; "available" (an emulator, not running);
    "unauthorized", "offline", … as adb says; "unreachable"; "host key"; "not installed"; "invalid" (its profile).

    `engines`: engine → version ("" where it is told only once the bundle is there); None where nobody knows.
    `runtime`: "own" or "bundle". `reason`, `remedy`: why it is not ready and what to do.
    """

    name: str
    transport: str
    state: str
    where: str = ""
    description: str = ""
    emulated: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    runtime: str | None = None
    engines: Mapping[str, str] | None = None
    reason: str | None = None
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class AdbDevice:
    """What the adb server says of one device."""

    serial: str
    state: str


def discover(*, opener: OpenTransport = open_transport) -> tuple[list[Found], list[str]]:
    """Everything there is, in the order local, own profiles, adb, emulators; and remarks on what was not asked."""
    own, invalid = own_profiles()
    listed, remark = adb_devices()
    claimed = {profile.serial for profile in own if profile.serial is not None}
    claimed |= {
        f"{profile.host}:{profile.port or 5555}" for profile in own if profile.transport == "adb" and profile.host
    }
    phones = [device for device in listed if device.serial not in claimed]
    here = [load_profile("local")] if all(profile.name != "local" for profile in own) else []
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        probed = pool.map(lambda profile: probe(profile, opener=opener), [*here, *own])
        over_adb = pool.map(lambda device: _probe_adb(device, opener), phones)
        found = [*probed, *over_adb]
    return [*found, *invalid, *emulators()], [remark] if remark else []


def own_profiles() -> tuple[list[DeviceProfile], list[Found]]:
    """The user's own profiles that name a device: not those shipped, not templates that others extend, no emulators."""
    shipped = search_folders()[-1].resolve()
    profiles: list[DeviceProfile] = []
    invalid: list[Found] = []
    for name in profile_names():
        path = find_profile(name)
        if path.resolve().parent == shipped:
            continue
        try:
            profile = load_profile(name)
        except SpecError as error:
            invalid.append(
                Found(name, "", "invalid", str(path), reason=error.message.splitlines()[0], remedy=error.remedy)
            )
        else:
            if profile.emulator is None:
                profiles.append(profile)
    return profiles, invalid


def adb_devices(address: str | None = None) -> tuple[list[AdbDevice], str | None]:
    """What the adb server lists; without a server nothing, and why. Never starts one. `address`: host:port."""
    from harness.devices.transport.adb_choose import ServerTarget

    host, port = ServerTarget("adb", server=address).address
    try:
        socket.create_connection((host, port), ADB_SERVER_TIMEOUT_S).close()
    except OSError:
        return [], f"no adb server runs at {host}:{port}, so phones on USB are not listed (`adb start-server`)"
    try:
        import adbutils
    except ImportError:
        return [], "an adb server runs, but adbutils is missing (pip install 'ondevice-harness[adb]')"
    try:
        listed = adbutils.AdbClient(host, port, socket_timeout=ADB_SERVER_TIMEOUT_S).list()
    except (adbutils.AdbError, OSError, ValueError) as error:
        return [], f"the adb server at {host}:{port} gives no list: {error or type(error).__name__}"
    return [AdbDevice(info.serial, info.state) for info in listed], None


def _probe_adb(device: AdbDevice, opener: OpenTransport) -> Found:
    """A device of the adb server that no profile speaks of."""
    profile = load_profile(f"adb://{device.serial}")
    # The server knows it already: also what looks like an address is reached through it.
    profile = profile.model_copy(update={"serial": device.serial, "host": None, "port": None, "adb_route": "server"})
    if device.state != "device":
        profile = profile.model_copy(update={"connect_timeout_s": 0.2})  # its state is known; only its remedy is wanted
    found = probe(profile, opener=opener, name=f"adb://{device.serial}")
    if found.state == "ready" or device.state == "device":
        return found
    return Found(
        found.name, "adb", device.state, device.serial, reason=found.reason, remedy=found.remedy, runtime="bundle"
    )


def probe(profile: DeviceProfile, *, opener: OpenTransport = open_transport, name: str | None = None) -> Found:
    """Connect to one device and look at it. Never raises for a device that is not there."""
    limited = within_limit(profile)
    found = Found(
        name or profile.name,
        profile.transport,
        "unreachable",
        where_of(profile),
        profile.description,
        profile.emulated,
    )
    try:
        transport = opener(limited)
    except DeviceError as error:
        state = "host key" if isinstance(error, HostKeyError) else "unreachable"
        if "unauthorized" in error.message:
            state = "unauthorized"
        return replace(found, state=state, reason=error.message, remedy=error.remedy)
    try:
        facts = look(transport, work_folder_of(profile), full=True, timeout_s=LOOK_TIMEOUT_S).facts()
        runtime, engines = runtime_there(profile, transport, str(facts.get("machine", "")))
    except DeviceError as error:
        return replace(found, reason=error.message, remedy=error.remedy)
    finally:
        transport.close()
    return replace(found, state="ready", facts=facts, runtime=runtime, engines=engines)


def within_limit(profile: DeviceProfile) -> DeviceProfile:
    """The profile with a time limit after which a device counts as not there.

    A profile that asks for more patience than is usual is given it: its device is known to be slow.
    """
    usual_s = DeviceProfile.model_fields["connect_timeout_s"].default
    if profile.connect_timeout_s > usual_s:
        return profile
    return profile.model_copy(update={"connect_timeout_s": min(profile.connect_timeout_s, CONNECT_TIMEOUT_S)})


def where_of(profile: DeviceProfile) -> str:
    """Where a device is reached, in few words."""
    if profile.transport == "local":
        return "this machine"
    if profile.emulator is not None:
        return "started when used"
    if profile.host:
        user = f"{profile.user}@" if profile.user else ""
        return f"{user}{profile.host}" + (f":{profile.port}" if profile.port else "")
    return profile.serial or "the adb server"


def runtime_there(profile: DeviceProfile, transport: Transport, machine: str) -> tuple[str, dict[str, str]]:
    """Which runtime would be used ("own" or "bundle"), and the engines that it has or could have. Changes nothing there.

    Raises TransportError.
    """
    if not (profile.runtime == "bundle" or (profile.runtime == "auto" and profile.transport == "adb")):
        told = own_modules(profile, transport)
        engines = engines_of(told) if told.get("numpy") is not None else {}
        engines = {name: version for name, version in engines.items() if name in profile.engines}
        if engines or profile.runtime == "own" or profile.transport == "local":
            return "own", engines
    from harness.devices.bundle.spec import arch_of
    from harness.devices.bundle.store import bundle_for

    try:
        built = bundle_for(profile, machine)
        possible = dict.fromkeys(arch_of(profile.arch or machine).engines, "") if built is None else built.engines
    except (SpecError, BundleError):
        return "bundle", {}
    return "bundle", {name: possible[name] for name in profile.engines if name in possible}


def own_modules(profile: DeviceProfile, transport: Transport) -> dict[str, str | None]:
    """Module → version of what the device's own Python has; nothing where there is no Python."""
    script = resources.files("harness.devices").joinpath("on_device.py").read_bytes()
    argv = [interpreter_of(profile), "-", json.dumps({"do": "modules"})]
    try:
        done = transport.run(argv, timeout=MODULES_TIMEOUT_S, stdin=script)
    except DeviceError as error:
        if error.transient:
            raise
        return {}  # a transport that starts programs itself says so when there is no such program
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        return {}
    return dict(answer["modules"]) if done.returncode == 0 and isinstance(answer, dict) else {}


def emulators() -> list[Found]:
    """Profiles of devices that the harness starts itself, shipped or the user's; which of them can be started here."""
    found = []
    for name in profile_names():
        try:
            profile = load_profile(name)
        except SpecError:
            continue
        if profile.emulator is not None:
            found.append(_emulator(profile))
    return found


def _emulator(profile: DeviceProfile) -> Found:
    found = Found(
        profile.name,
        profile.transport,
        "available",
        where_of(profile),
        profile.description,
        emulated=True,
        runtime=profile.runtime if profile.runtime != "auto" else "bundle",
        engines=dict.fromkeys(profile.engines, ""),
        facts={"machine": profile.arch} if profile.arch else {},
    )
    missing = missing_for(profile)
    if missing is None:
        return found
    return replace(found, state="not installed", reason=f"{missing[0]} is not installed", remedy=missing[1])


def missing_for(profile: DeviceProfile) -> tuple[str, str] | None:
    """The program that an emulator lacks on this host, and how to get it; None when it can be started."""
    kind = profile.emulator.kind if profile.emulator is not None else ""
    if kind == "android":
        sdk = Path(os.environ.get("ANDROID_HOME") or os.environ.get("ANDROID_SDK_ROOT") or "~/Android/Sdk").expanduser()
        if shutil.which("emulator") is None and not (sdk / "emulator" / "emulator").is_file():
            return "Android's emulator", "install the Android SDK with `sdkmanager emulator`, and set ANDROID_HOME"
        return None
    need = _NEEDS.get((kind, profile.arch or ""))
    return need if need is not None and shutil.which(need[0]) is None else None
