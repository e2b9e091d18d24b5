"""One device in one session: connected, looked at, with the agent deployed and files brought there by content.

Every file goes to `WORK/blobs/DIGEST/NAME`, where DIGEST names the contents of all files in that folder: what is there with
the right sha256 is not sent again. Used by `harness.runner`, which alone decides what to run and when.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.variant import Variant, sha256_file
from harness.agent.protocol import Job, Model, Tensor, encode_job
from harness.devices.facts import EXTRA_OF_ENGINE, PACKAGE_OF_ENGINE, facts_of, host_id
from harness.devices.facts.words import recorded
from harness.devices.look import look
from harness.devices.preflight import Preflight, restore_leftovers
from harness.devices.preflight.background import background, busiest
from harness.devices.preflight.session import shell_of
from harness.devices.preflight.thermal import cool_down, read_temperatures
from harness.devices.runtime import Runtime, prepare_runtime, work_folder_of
from harness.devices.transport import Process, Transport, open_transport
from harness.errors import DeviceError, TransportError
from harness.profiles import DeviceProfile
from harness.records import DeviceRecord, Failure

if TYPE_CHECKING:
    from harness.devices.emulators import RunningEmulator

INSPECT_TIMEOUT_S = 60.0
ANSWER_TIMEOUT_S = 20.0
MIN_PYTHON = (3, 10)

log = logging.getLogger(__name__)

OpenTransport = Callable[[DeviceProfile], Transport]
StartEmulator = Callable[[DeviceProfile], "RunningEmulator"]


def failure_of(error: DeviceError) -> Failure:
    """An exception as a record."""
    return Failure(error.where, type(error).__name__, error.message, error.remedy, error.transient)


class Device:
    """A connected device. Make one with `Device.open`; `close` cleans up on it."""

    def __init__(
        self,
        profile: DeviceProfile,
        transport: Transport,
        session: str | None,
        opener: OpenTransport,
        emulator: RunningEmulator | None = None,
    ) -> None:
        self.profile = profile
        self.transport = transport
        self._emulator = emulator
        self.runtime: Runtime = prepare_runtime(profile, transport)
        self._session = session
        self._opener = opener
        self._verified: dict[str, str] = {}
        self._digests: dict[tuple[Path, int, int], str] = {}
        self._mine: set[str] = set()
        self._deploying = threading.RLock()
        self._agent: str | None = None
        raw = self._ask(do="inspect", work=self.runtime.work or work_folder_of(profile), session=session)
        if tuple(int(part) for part in str(raw["python"]).split(".")[:2]) < MIN_PYTHON:
            raise DeviceError(
                f"{profile.name}: {self.runtime.label} is Python {raw['python']}, the agent needs 3.10 or newer",
                remedy="give a newer interpreter as 'python' in the device profile",
            )
        self.work = str(raw["work"])
        self.folder = str(raw["session"] or self.work)
        self.record = DeviceRecord(
            name=profile.name,
            transport=profile.transport,
            emulated=profile.emulated,
            host_id=host_id(raw["texts"], str(raw["hostname"])),
            facts=facts_of(raw)
            | recorded(look(transport, self.work).facts())
            | ({"counts_instructions": True} if profile.counts_instructions else {}),
        )
        self.preflight = Preflight(profile, self.work, session, self.folder)
        self._background = background(raw["texts"], raw["cpus"], raw["free_bytes"])

    @classmethod
    def open(
        cls,
        profile: DeviceProfile,
        session: str | None = None,
        *,
        opener: OpenTransport = open_transport,
        start: StartEmulator | None = None,
    ) -> Device:
        """Start it if it is an emulator (by `start`, where given), connect, look around. With `session`, a folder of that name is made for it.

        Raises DeviceError.
        """
        emulator = None
        if profile.emulator is not None:
            from harness.devices.emulators import start_emulator

            emulator = (start or start_emulator)(profile)
            profile = emulator.profile
        transport = None
        try:
            transport = opener(profile)
            device = cls(profile, transport, session, opener, emulator)
            device._prepare()
        except BaseException:
            if transport is not None:
                transport.close()
            if emulator is not None:
                emulator.stop()
            raise
        return device

    def _prepare(self) -> None:
        """Put back what a dead session left changed; for a session, look who else is at work, and turn the knobs."""
        restored = restore_leftovers(self.profile, self.transport, session=self._session)
        for words in restored:
            log.warning("%s: %s", self.profile.name, words)
        if self._session is None:
            return
        facts: dict[str, Any] = dict(self._background)
        if any(words.startswith("busy") for words in facts.get("warnings", ())):
            facts["busiest"] = busiest(shell_of(self.profile, self.transport))
        try:
            self.preflight.begin(self.transport)
        except BaseException:
            self.preflight.restore(self.transport)
            self.transport.remove(self.folder)
            self.preflight.end()
            raise
        told = {"background": facts, "knobs": dict(self.preflight.outcomes), "restored": restored}
        self.record = replace(
            self.record, facts=self.record.facts | {key: value for key, value in told.items() if value}
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What may disturb the measurement here, seen before it began."""
        found = self.record.facts.get("background", {})
        who = f" (busiest: {', '.join(found['busiest'])})" if found.get("busiest") else ""
        return tuple(words + (who if words.startswith("busy") else "") for words in found.get("warnings", ()))

    def cool_down(self, pause: Callable[[float], None], tell: Callable[[str], None]) -> dict[str, Any] | None:
        """Wait until the device is cool enough for a run; what to record, None without a limit. Raises TransportError."""
        limits = self.profile.thermal
        if limits.start_below_c is None:
            return None
        shell = shell_of(self.profile, self.transport)
        return cool_down(limits, lambda: read_temperatures(shell, limits.sensors), pause=pause, tell=tell)

    def rest(self) -> None:
        """Let an emulator stand still until it is asked again."""
        if self._emulator is not None:
            self._emulator.rest()

    @contextmanager
    def awake(self) -> Iterator[None]:
        """For as long as something is done on it; an emulator rests before and after."""
        if self._emulator is not None:
            self._emulator.wake()
        try:
            yield
        finally:
            self.rest()

    def reopen(self) -> None:
        """Connect anew after a lost connection; the device may have been restarted since, and lost files. Raises DeviceError."""
        self.transport.close()
        if self._emulator is not None:
            self.profile = self._emulator.revive()
        self.transport = self._opener(self.profile)
        self._verified.clear()
        self._agent = None
        if self.runtime.kind == "bundle":
            self.runtime = prepare_runtime(self.profile, self.transport)
        self._ask(do="inspect", work=self.work, session=self._session)
        self.preflight.resume(self.transport)

    def _ask(self, **request: Any) -> dict[str, Any]:
        """Run `on_device.py` there. Raises TransportError with the device's own words."""
        script = resources.files("harness.devices").joinpath("on_device.py").read_bytes()
        done = self.transport.run(
            [*self.runtime.argv, "-", json.dumps(request)],
            timeout=INSPECT_TIMEOUT_S,
            stdin=script,
            env=self.runtime.env,
        )
        remedy = "check 'python' in the device profile: it must be Python 3.8 or newer"
        if done.returncode != 0:
            words = done.stderr.decode("utf-8", "replace").strip()[-500:]
            raise TransportError(f"{self.profile.name}: {self.runtime.label} failed: {words}", remedy=remedy)
        try:
            answer = json.loads(done.stdout)
        except ValueError as error:
            raise TransportError(
                f"{self.profile.name}: {self.runtime.label} gave no answer: {done.stdout[:200]!r}", remedy=remedy
            ) from error
        if not isinstance(answer, dict) or "error" in answer:
            raise TransportError(
                f"{self.profile.name}: {answer.get('error') if isinstance(answer, dict) else answer!r}",
                remedy="check 'work_folder' in the device profile, and its free space",
            )
        return answer

    @property
    def engines(self) -> tuple[str, ...]:
        """Engines that the profile allows and the device has."""
        installed = self.record.facts.get("engines", {})
        return tuple(name for name in self.profile.engines if name in installed)

    def why_no_engine(self, engine: str) -> Failure:
        """Why an engine is not to be used here, and what to do."""
        if engine not in self.profile.engines:
            return Failure(
                "device",
                "EngineNotAllowed",
                f"the profile of {self.profile.name} does not list the engine {engine}",
                f"add {engine} to 'engines' in the device profile",
            )
        here = self.profile.transport == "local" and self.profile.python is None
        package = f"'ondevice-harness[{EXTRA_OF_ENGINE[engine]}]'" if here else PACKAGE_OF_ENGINE[engine]
        return Failure(
            "device",
            "EngineMissing",
            f"{self.profile.name} has no {engine} for {self.runtime.label}",
            f"install the extra '{EXTRA_OF_ENGINE[engine]}': {self.runtime.argv[0]} -m pip install {package}"
            if self.runtime.kind == "own"
            else f"build a bundle with it: harness bundle build --engines {engine},…",
        )

    def deploy(self, files: Mapping[str, Path]) -> str:
        """Bring files (relative name → local path) into one folder named by their contents; the folder on the device.

        Sends only what is not there with the right sha256. One thread at a time: two engines may want the same file. Raises
        TransportError.
        """
        with self._deploying:
            return self._deploy(files)

    def _deploy(self, files: Mapping[str, Path]) -> str:
        digests = {name: self._digest(path) for name, path in files.items()}
        listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
        key = hashlib.sha256(listing.encode()).hexdigest()[:32]
        folder = f"{self.work}/blobs/{key}"
        self._mine.add(key)
        wanted = {f"{folder}/{name}": digest for name, digest in digests.items()}
        unsure = [remote for remote, digest in wanted.items() if self._verified.get(remote) != digest]
        if unsure:
            self._verified |= self.transport.sha256(unsure)
        for name, path in files.items():
            remote = f"{folder}/{name}"
            if self._verified.get(remote) != wanted[remote]:
                self.transport.push(path, remote)
                self._verified[remote] = wanted[remote]
        return folder

    def _digest(self, path: Path) -> str:
        """SHA-256 of a local file, computed once for as long as it does not change: data sets are large."""
        facts = path.stat()
        key = (path, facts.st_mtime_ns, facts.st_size)
        if key not in self._digests:
            self._digests[key] = sha256_file(path)
        return self._digests[key]

    def deploy_variant(self, variant: Variant) -> Model:
        """Bring a variant's files to the device; the model as the agent is to load it."""
        paths = variant.paths()
        folder = self.deploy({path.name: path for path in paths})
        return model_of(variant, f"{folder}/{paths[0].name}")

    def run_agent_module(self, module: str, argument: str) -> str:
        """What a module of the agent prints when it is run by itself, as `python -m agent.MODULE ARGUMENT`.

        Raises TransportError with the device's own words.
        """
        env = self._agent_environment()
        argv = [*self.runtime.argv, "-m", f"agent.{module}", argument]
        done = self.transport.run(argv, timeout=INSPECT_TIMEOUT_S, env=env)
        if done.returncode != 0:
            words = done.stderr.decode("utf-8", "replace").strip()[-500:]
            raise TransportError(f"{self.profile.name}: agent.{module} failed: {words}")
        return done.stdout.decode("utf-8", "replace")

    def _agent_environment(self) -> dict[str, str]:
        """The agent's environment variables; brings the agent there first."""
        if self._agent is None:
            package = Path(str(resources.files("harness.agent")))
            self._agent = self.deploy({f"agent/{path.relative_to(package)}": path for path in package.rglob("*.py")})
        env = {**self.runtime.env, **self.profile.environment}
        env["PYTHONPATH"] = ":".join(filter(None, (self._agent, env.get("PYTHONPATH"))))
        return env

    def start_agent(self, job: Job) -> Process:
        """Start a fresh agent process with its job on stdin, which stays open as its life line. Raises TransportError."""
        env = self._agent_environment()
        argv = [*self.runtime.argv, "-m", "agent"]
        if self.profile.transport == "local":
            argv.append("--die-with-parent")
        return self.transport.start(argv, stdin=encode_job(job).encode() + b"\n", cwd=self.folder, env=env)

    def close(self) -> None:
        """Put back and clean up on the device, and let go of it. Raises TransportError when that could not be done: then the
        next to open the device does it."""
        if self._emulator is not None:
            self._emulator.wake()
        try:
            self.preflight.restore(self.transport)
            self._ask(
                do="sweep",
                work=self.work,
                session=self._session,
                mine=sorted(self._mine),
                runtime=self.runtime.digest,
                keep=self.profile.keep_uploads,
                limit_bytes=self.profile.cache_limit_bytes,
            )
            self.preflight.end()
        except DeviceError:
            self.preflight.abandon()
            raise
        finally:
            self.transport.close()
            if self._emulator is not None:
                self._emulator.stop()

    def answers(self) -> None:
        """Raise TransportError when the device does not: then silence was no fault of what ran there."""
        self.transport.run(["true"], timeout=ANSWER_TIMEOUT_S)

    def failed(self, error: DeviceError) -> DeviceRecord:
        """This device's record once it has failed for good."""
        return replace(self.record, failure=failure_of(error))


def model_of(variant: Variant, path: str) -> Model:
    """A variant as the agent's protocol describes models; without a signature the agent asks the engine."""
    signature = variant.manifest.signature
    if signature is None:
        return Model(variant.name, path)

    def tensor(spec: Any) -> Tensor:
        quantization = spec.quantization
        return Tensor(
            name=spec.name,
            shape=spec.shape,
            dtype=spec.dtype,
            source=spec.source,
            axes=spec.axes,
            scale=() if quantization is None else quantization.scale,
            zero_point=() if quantization is None else quantization.zero_point,
            quantized_axis=None if quantization is None else quantization.axis,
        )

    return Model(variant.name, path, tuple(map(tensor, signature.inputs)), tuple(map(tensor, signature.outputs)))
