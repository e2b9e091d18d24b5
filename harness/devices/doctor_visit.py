"""A doctor's visit: connect, read, run something small of everything a session needs, and leave nothing behind.

Goes on after a check that failed, as far as there is anything to go on with. Used by `harness doctor`; prints nothing.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.agent.protocol import Data, Job, Model, ProbePlan, ProtocolError, decode_message
from harness.devices.device import Device
from harness.devices.discovery import within_limit
from harness.devices.doctor import Check, check_look
from harness.devices.facts import PACKAGE_OF_ENGINE
from harness.devices.facts.words import cpu_list
from harness.devices.look import look
from harness.devices.preflight import restore_leftovers
from harness.devices.preflight.knobs import KNOBS
from harness.devices.preflight.session import shell_of
from harness.devices.runtime import work_folder_of
from harness.devices.transport import Transport, open_transport
from harness.errors import DeviceError
from harness.profiles import DeviceProfile

if TYPE_CHECKING:
    from harness.devices.emulators import RunningEmulator

OpenTransport = Callable[[DeviceProfile], Transport]

EXEC_TIMEOUT_S = 20.0
AFFINITY_TIMEOUT_S = 60.0
# An engine may take long to start under emulation; a tiny model then runs at once.
ENGINE_TIMEOUT_S = 180.0
TINY = {
    "litert": ("tiny.tflite",),
    "onnxruntime": ("tiny.onnx",),
    "openvino": ("tiny.xml", "tiny.bin"),
}
# Makes a program in the work folder and runs it: 7 where that is allowed. Without a first line that names a shell, whose place
# differs: the kernel refuses such a file where programs may not run, and else leaves it to the shell.
_EXEC = """
case $1 in '~') set -- "$HOME" ;; '~/'*) set -- "$HOME/${1#'~/'}" ;; esac
mkdir -p "$1" || exit 3
f=$1/.doctor-$$
echo 'exit 7' > "$f" || exit 4
chmod 755 "$f" || { rm -f "$f"; exit 5; }
"$f"
code=$?
rm -f "$f"
exit $code
"""
_RAN = 7
# The CPUs that may be used, and whether the process may pin itself to those asked for.
_PIN = """
import json, os, sys
wanted = json.loads(sys.argv[1])
allowed = sorted(os.sched_getaffinity(0))
try:
    os.sched_setaffinity(0, wanted or allowed[:1])
    error = None
except OSError as problem:
    error = str(problem)
print(json.dumps({"allowed": allowed, "error": error, "now": sorted(os.sched_getaffinity(0))}))
"""


@dataclass(frozen=True, slots=True)
class Visit:
    """What the doctor found on a device."""

    device: str
    checks: tuple[Check, ...]
    seconds: float

    @property
    def healthy(self) -> bool:
        """Whether nothing failed."""
        return all(check.status != "failed" for check in self.checks)


def visit(
    profile: DeviceProfile,
    *,
    opener: OpenTransport = open_transport,
    tell: Callable[[str], None] = lambda _: None,
    more: Sequence[Callable[[Device], Check]] = (),
) -> Visit:
    """Check a device. A device that is not there is one failed check, within five seconds.

    `tell` hears what goes on; `more`: further checks, on the device as a session has it.
    """
    started = time.monotonic()
    checks: list[Check] = []
    emulator: RunningEmulator | None = None
    transport: Transport | None = None
    try:
        tell(f"starting {profile.name}" if profile.emulator is not None else f"connecting to {profile.name}")
        if profile.emulator is not None:
            from harness.devices.emulators import start_emulator

            emulator = start_emulator(profile)
            profile = emulator.profile
        transport = opener(profile if emulator is not None else within_limit(profile))
    except DeviceError as error:
        checks.append(Check("reachable", "failed", error.message, error.remedy))
        if emulator is not None:
            emulator.stop()
        return Visit(profile.name, tuple(checks), time.monotonic() - started)
    reached_s = time.monotonic() - started
    checks.append(Check("reachable", "ok", f"over {profile.transport}, in {reached_s:.1f} s"))
    try:
        # Not `list(…)`: what was found before a lost connection is kept.
        checks.extend(_examine(profile, transport, opener, tell, more))
    except DeviceError as error:
        checks.append(Check("connection", "failed", error.message, error.remedy))
    finally:
        transport.close()
        if emulator is not None:
            emulator.stop()
    return Visit(profile.name, tuple(checks), time.monotonic() - started)


def _examine(
    profile: DeviceProfile,
    transport: Transport,
    opener: OpenTransport,
    tell: Callable[[str], None],
    more: Sequence[Callable[[Device], Check]],
) -> Iterator[Check]:
    tell("looking")
    yield from check_look(profile, look(transport, work_folder_of(profile), full=True))
    yield execution(profile, transport)
    yield from knobs(profile, transport)
    tell("preparing the runtime (a bundle is pushed once)")
    try:
        device = Device(profile, transport, f"doctor-{secrets.token_hex(4)}", opener)
    except DeviceError as error:
        yield Check("runtime", "failed", error.message, error.remedy)
        return
    try:
        yield runtime(device)
        yield affinity(device)
        for engine in profile.engines:
            tell(f"running a tiny model with {engine}")
            yield run_engine(device, engine)
        for further in more:
            yield further(device)
    finally:
        device.close()


def execution(profile: DeviceProfile, transport: Transport) -> Check:
    """Whether programs may be run from the work folder. Raises TransportError."""
    folder = work_folder_of(profile)
    done = transport.run(["sh", "-s", folder], timeout=EXEC_TIMEOUT_S, stdin=_EXEC.encode())
    if done.returncode == _RAN:
        return Check("work folder", "ok", f"{folder}: may be written, and programs run there")
    said = " ".join((done.stderr or done.stdout).decode("utf-8", "replace").split())[-200:]
    if done.returncode in {3, 4, 5}:
        return Check(
            "work folder",
            "failed",
            f"{folder} cannot be written: {said}",
            "give a 'work_folder' that this user may write, on Android below /data/local/tmp",
        )
    # A device's own Python needs no program of ours to be run; the bundle is nothing else.
    own = profile.runtime == "own" or profile.transport == "local"
    return Check(
        "work folder",
        "warning" if own else "failed",
        f"{folder}: programs may not be run there ({said or f'code {done.returncode}'})",
        "give a 'work_folder' on a file system without noexec (on Android /data/local/tmp, not /sdcard)",
    )


def knobs(profile: DeviceProfile, transport: Transport) -> Iterator[Check]:
    """What an earlier session left changed is put back; whether what the profile wants changed can be. Raises TransportError."""
    restored = restore_leftovers(profile, transport)
    if restored:
        yield Check("left changed", "warning", "; ".join(restored), "it has been put back; nothing to be done")
    shell = shell_of(profile, transport)
    for name in profile.may_change:
        reason = KNOBS[name](shell, profile).available()
        words = name.replace("_", " ")
        if reason is None:
            yield Check(words, "ok", "can be set, and is put back afterwards")
        else:
            yield Check(words, "warning", reason, "runs go on without it, and say so; or take it out of 'may_change'")


def runtime(device: Device) -> Check:
    """Which Python runs the agent, and whether a bundle is whole. Raises DeviceError."""
    facts = device.record.facts
    kind = "its own" if device.runtime.kind == "own" else "the bundle's"
    words = f"{kind} Python {facts.get('python')} ({device.runtime.label}), numpy {facts.get('numpy', 'missing')}"
    if "numpy" not in facts:
        return Check("runtime", "failed", words, f"{device.runtime.argv[0]} -m pip install numpy")
    if device.runtime.kind == "bundle" and not device.profile.emulated:
        from harness.devices.bundle.deploy import verify_deployed

        # Every byte is read: a second on a phone, minutes under emulation.
        wrong = verify_deployed(device.profile, device.transport, device.runtime)
        if wrong:
            clean = f"harness devices clean {device.profile.name}, and again"
            return Check("runtime", "failed", f"{words}: {len(wrong)} files are damaged, e.g. {wrong[0]}", clean)
    return Check("runtime", "ok", words)


def affinity(device: Device) -> Check:
    """Whether the agent may pin itself to the CPUs the profile names. Raises TransportError."""
    wanted = list(device.profile.pinned_to or ())
    argv = [*device.runtime.argv, "-", json.dumps(wanted)]
    done = device.transport.run(argv, timeout=AFFINITY_TIMEOUT_S, stdin=_PIN.encode(), env=device.runtime.env)
    try:
        told = json.loads(done.stdout)
    except ValueError:
        said = done.stderr.decode("utf-8", "replace").strip()[-200:]
        return Check("affinity", "warning", f"cannot be tried: {said}", "leave 'affinity' out of the device profile")
    allowed = cpu_list(told["allowed"])
    if told["error"] is not None or (wanted and told["now"] != sorted(wanted)):
        return Check(
            "affinity",
            "failed" if wanted else "warning",
            f"cannot pin to CPU {cpu_list(wanted or told['allowed'][:1])}: {told['error']}; allowed: {allowed}",
            "choose among the allowed CPUs, or leave 'affinity' out of the device profile",
        )
    chosen = (
        f"CPU {cpu_list(wanted)} of the allowed {allowed}"
        if wanted
        else f"possible, none asked for; allowed: {allowed}"
    )
    return Check("affinity", "ok", chosen)


def run_engine(device: Device, engine: str) -> Check:
    """Load a tiny model with one engine and run it, through the same agent as a session. Raises TransportError."""
    if engine not in device.engines:
        failure = device.why_no_engine(engine)
        return Check(engine, "warning", failure.message, failure.remedy or f"install {PACKAGE_OF_ENGINE[engine]}")
    folder = Path(str(resources.files("harness.devices").joinpath("tiny")))
    place = device.deploy({name: folder / name for name in TINY[engine]})
    job = Job(engine, (Model("tiny", f"{place}/{TINY[engine][0]}"),), Data(), probe=ProbePlan(memory_invokes=1))
    process = device.start_agent(job)
    messages: list[dict[str, Any]] = []
    try:
        deadline = time.monotonic() + ENGINE_TIMEOUT_S
        while (line := process.read_line(max(0.0, deadline - time.monotonic()))) is not None:
            messages.append(decode_message(line.decode("utf-8", "replace")))
    except (TimeoutError, ProtocolError) as error:
        words = str(error) or f"no answer within {ENGINE_TIMEOUT_S:g} s"
        return Check(engine, "failed", words, "see the device's memory and load; try again")
    finally:
        process.kill()
    return _verdict(engine, device, messages, process.stderr_tail().decode("utf-8", "replace"))


def _verdict(engine: str, device: Device, messages: list[dict[str, Any]], stderr: str) -> Check:
    """What the agent's messages say of an engine."""
    by_type = {message["type"]: message for message in messages}
    if "error" in by_type:
        error = by_type["error"]
        return Check(engine, "failed", f"{error['name']}: {error['message']}", error["remedy"])
    if "loaded" not in by_type or "done" not in by_type:
        last = stderr.strip().splitlines()[-1:] or ["it said nothing"]
        remedy = "its wheel may need newer instructions or libraries than the device has; take it out of 'engines'"
        return Check(engine, "failed", f"the agent died: {last[0][-200:]}", remedy)
    loaded = by_type["loaded"]
    version = by_type["hello"]["environment"].get("engine_version") or device.record.facts["engines"][engine]
    first_ms = (loaded["first_inference_ns"] or 0) / 1e6
    return Check(
        engine,
        "ok",
        f"{version} ran a tiny model: loaded in {loaded['load_ns'] / 1e6:.1f} ms, first inference {first_ms:.2f} ms",
    )
