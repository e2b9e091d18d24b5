"""Brings a bundle to a device, once per content, and says how to start its Python there.

One look (one command) tells the work folder, the architecture and which bundles are there: that is all a second session costs.
Otherwise the first stage is unpacked with the device's own tar, then missing parts are sent (those that an interrupted session
brought are not sent again), and the bundle's own Python unpacks them and writes the marker last. Fills the seam of
`harness.devices.runtime`.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from harness.devices.bundle.archive import (
    INCOMING,
    MANIFEST,
    PARTS,
    RUNTIMES,
    STAGE1,
    Bundle,
    raise_for,
)
from harness.devices.bundle.spec import ARCHES, arch_of
from harness.devices.bundle.store import bundle_for, how_to_build
from harness.devices.runtime import Runtime, work_folder_of
from harness.devices.transport import Transport
from harness.errors import BundleError, DeviceError, TransportError

if TYPE_CHECKING:
    from harness.profiles import DeviceProfile

LOOK_TIMEOUT_S = 30.0
# An emulated device without hardware support unpacks 200 MB in minutes.
UNPACK_TIMEOUT_S = 900.0
_CANNOT_EXECUTE = (126, 127)

# Where the work folder is, as this device sees it. POSIX sh with nothing but builtins, mkdir and uname.
WHERE = """
w=$1; shift
case $w in '~'|'~/'*) if [ -z "${HOME:-}" ]; then echo nohome; exit 0; fi; w=$HOME${w#'~'};; esac
case $w in /*) ;; *) w=$(pwd)/$w;; esac
"""
_LOOK = (
    "umask 077"
    + WHERE
    + """
said=$(mkdir -p "$w/runtimes/incoming" "$w/tmp" 2>&1) || { echo "refused=$said"; exit 0; }
echo "work=$w"
echo "arch=$(uname -m 2>/dev/null)"
for d; do
  if [ -f "$w/runtimes/$d/complete" ]; then touch "$w/runtimes/$d/complete" 2>/dev/null; echo "have=$d"; fi
done
exit 0
"""
)
# The archive, and the folder for it. Some tars cannot call gzip themselves.
_UNPACK_FIRST = """
mkdir -p "$2" && { tar -xzf "$1" -C "$2" 2>/dev/null || { cd "$2" && gzip -dc "$1" | tar -xf -; }; }
"""
_FINISH = """
if [ -f "$2/complete" ]; then rm -rf "$1"; else rm -rf "$2" && mv "$1" "$2"; fi || exit 1
shift 2; rm -f "$@"
"""


@dataclass(frozen=True, slots=True)
class _There:
    """What the look said: the absolute work folder, what the device calls its architecture, digests of bundles it has."""

    work: str
    arch: str
    have: frozenset[str]


def deploy_bundle(profile: DeviceProfile, transport: Transport) -> Runtime:
    """Find or bring the device's bundle. Raises DeviceError, and SpecError for a profile that names a wrong bundle."""
    given = bundle_for(profile)
    candidates = [given] if given is not None else []
    if given is None and profile.arch is None:
        candidates = [bundle for name in ARCHES if (bundle := bundle_for(profile, name)) is not None]
    there = _look(profile, transport, [bundle.digest for bundle in candidates])
    bundle = given or _choose(profile, there, candidates)
    if bundle.digest not in there.have:
        _bring(profile, transport, bundle, there.work)
    return runtime_of(bundle, there.work)


def runtime_of(bundle: Bundle, work: str) -> Runtime:
    """How a bundle is started that is unpacked in a work folder (an absolute path on the device)."""
    root = f"{work}/{RUNTIMES}/{bundle.digest}"
    env = MappingProxyType(bundle.environment(root, work))
    return Runtime("bundle", bundle.argv(root), env, bundle.digest, work)


def _look(profile: DeviceProfile, transport: Transport, digests: Sequence[str]) -> _There:
    done = transport.run(
        ["sh", "-c", _LOOK, "sh", work_folder_of(profile), *digests], timeout=LOOK_TIMEOUT_S, env=profile.environment
    )
    said: dict[str, list[str]] = {}
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        key, _, value = line.partition("=")
        said.setdefault(key, []).append(value)
    if "nohome" in said:
        raise DeviceError(
            f"{profile.name}: the device has no home folder",
            remedy="give 'work_folder' in the device profile, on Android /data/local/tmp/ondevice-harness",
        )
    if "work" not in said:
        words = (said.get("refused") or [done.stderr.decode("utf-8", "replace").strip()[-300:]])[0]
        raise DeviceError(
            f"{profile.name}: the work folder {work_folder_of(profile)} cannot be made: {words}",
            remedy="check 'work_folder' in the device profile, its rights and free space",
        )
    return _There(said["work"][0], said.get("arch", [""])[0], frozenset(said.get("have", ())))


def _choose(profile: DeviceProfile, there: _There, candidates: Sequence[Bundle]) -> Bundle:
    name = profile.arch or there.arch
    if not name:
        raise DeviceError(
            f"{profile.name} does not say what it is",
            remedy="give 'arch' in the device profile: aarch64, armv7l or x86_64",
        )
    arch = arch_of(name)
    found = next((bundle for bundle in candidates if bundle.arch == arch.name), None)
    if found is None:
        raise how_to_build(profile, arch)
    return found


def _bring(profile: DeviceProfile, transport: Transport, bundle: Bundle, work: str) -> None:
    """Send what is missing and unpack it. What is sent stays on the device if the way there is lost, to go on from."""
    root = f"{work}/{RUNTIMES}/{bundle.digest}"
    new = f"{root}.new-{secrets.token_hex(4)}"
    try:
        sent = _send_first_stage(profile, transport, bundle, work, new)
        ask = _Unpacker(profile, transport, bundle, new, work)
        ask(do="space")
        sent += _send_parts(transport, bundle, work)
        ask(do="unpack", parts=f"{work}/{INCOMING}", digest=bundle.digest)
        done = transport.run(["sh", "-c", _FINISH, "sh", new, root, *sent], timeout=UNPACK_TIMEOUT_S)
        if done.returncode != 0:
            words = done.stderr.decode("utf-8", "replace").strip()[-300:]
            raise DeviceError(f"{profile.name}: the unpacked bundle cannot be put in its place: {words}")
    except BaseException as error:
        _clear(transport, new)
        if isinstance(error, BundleError) and not error.transient:
            _clear(transport, f"{work}/{INCOMING}")
        raise


def _clear(transport: Transport, remote: str) -> None:
    try:
        transport.remove(remote)
    except TransportError:
        return  # the way there is lost: the next session's sweep removes it


def _send_first_stage(profile: DeviceProfile, transport: Transport, bundle: Bundle, work: str, new: str) -> list[str]:
    """Unpack the first stage into `new`; what was sent and is to be removed in the end."""
    remote = f"{work}/{INCOMING}/{bundle.manifest['stage1']['sha256']}.tar.gz"
    with bundle.extracted([MANIFEST, STAGE1]) as files:
        if not transport.exists_with_sha256(remote, bundle.manifest["stage1"]["sha256"]):
            transport.push(files[STAGE1], remote)
        done = transport.run(["sh", "-c", _UNPACK_FIRST, "sh", remote, new], timeout=UNPACK_TIMEOUT_S)
        if done.returncode != 0:
            words = done.stderr.decode("utf-8", "replace").strip()[-300:]
            missing = done.returncode in _CANNOT_EXECUTE
            raise BundleError(
                f"{profile.name}: the first stage of the bundle could not be unpacked: "
                + ("the device has no tar, or tar no gzip" if missing else words),
                remedy="install tar or a newer toybox or busybox there"
                if missing
                else "check free space of 'work_folder'",
            )
        transport.push(files[MANIFEST], f"{new}/{MANIFEST}")
    return [remote]


def _send_parts(transport: Transport, bundle: Bundle, work: str) -> list[str]:
    """Send the parts that are not there with the right sha256; all their names on the device."""
    remotes = {f"{work}/{INCOMING}/{name}": name for name in bundle.parts}
    found = transport.sha256(list(remotes))
    missing = {remote: name for remote, name in remotes.items() if found.get(remote) != name}
    with bundle.extracted([f"{PARTS}/{name}" for name in missing.values()]) as files:
        for remote, name in missing.items():
            transport.push(files[f"{PARTS}/{name}"], remote)
    return list(remotes)


@dataclass(frozen=True, slots=True)
class _Unpacker:
    """Runs `on_device_unpack.py` under the bundle's own Python, of which at first only the first stage is there."""

    profile: DeviceProfile
    transport: Transport
    bundle: Bundle
    root: str
    work: str

    def __call__(self, **job: Any) -> Mapping[str, Any]:
        script = resources.files("harness.devices.bundle").joinpath("on_device_unpack.py").read_bytes()
        done = self.transport.run(
            [*self.bundle.argv(self.root), "-", json.dumps({"root": self.root, **job})],
            timeout=UNPACK_TIMEOUT_S,
            stdin=script,
            env=self.bundle.environment(self.root, self.work),
        )
        words = done.stderr.decode("utf-8", "replace").strip()[-300:]
        name = self.profile.name
        if done.returncode in _CANNOT_EXECUTE:
            raise BundleError(
                f"{name}: the bundle cannot be started: {words}",
                remedy=f"{self.work} may forbid execution (noexec), or the device is not {self.bundle.arch}: choose another "
                "'work_folder', on Android /data/local/tmp/ondevice-harness",
            )
        try:
            answer: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            answer = {"error": f"code {done.returncode}: {words or 'it said nothing'}"}
        raise_for(answer, name)
        return answer


def verify_deployed(profile: DeviceProfile, transport: Transport, runtime: Runtime) -> list[str]:
    """Names of the unpacked bundle's files that are missing or damaged on the device; for `harness doctor`.

    Reads every byte of it there. Raises DeviceError.
    """
    script = resources.files("harness.devices.bundle").joinpath("on_device_unpack.py").read_bytes()
    root = f"{runtime.work}/{RUNTIMES}/{runtime.digest}"
    done = transport.run(
        [*runtime.argv, "-", json.dumps({"do": "verify", "root": root})],
        timeout=UNPACK_TIMEOUT_S,
        stdin=script,
        env=runtime.env,
    )
    if done.returncode != 0:
        words = done.stderr.decode("utf-8", "replace").strip()[-300:]
        raise BundleError(
            f"{profile.name}: {runtime.label} does not run: {words}", remedy=f"harness devices clean {profile.name}"
        )
    answer = json.loads(done.stdout)
    raise_for(answer, profile.name)
    return list(answer["wrong"])
