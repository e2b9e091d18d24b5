"""A device that speaks the agent's protocol without an engine: each variant behaves as told. For tests of the runner."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from converters.variant import Manifest, Variant, sha256_file
from harness.agent.protocol import PROTOCOL_VERSION, Job, decode_job, encode_message
from harness.devices.transport.base import Completed, Transport
from harness.devices.transport.fake import Call, FakeTransport, Script
from harness.profiles import DeviceProfile
from harness.records import DeviceRecord, Reference, Run, Session, VariantRecord

SUFFIX = {"tflite": ".tflite", "onnx": ".onnx", "openvino": ".xml"}


class Crash(Exception):  # noqa: N818 - ends a fake agent, is no error of the tests
    def __init__(self, code: int = -11, stderr: bytes = b"") -> None:
        self.code = code
        self.stderr = stderr


class Hang(Exception):  # noqa: N818
    pass


class Lost(Exception):  # noqa: N818
    pass


Behaviour = Callable[
    [Job, str], None
]  # at a stage ("load ID", "visit INDEX ID", …): raise Crash, Hang, Lost, or nothing


@dataclass
class FakeDevice:
    """`behave` may end the agent at a stage; `errors`: variant → words of an error message at its load; `ns`: variant →
    inference time; `engines`: modules with versions; `python`: its version."""

    name: str = "fake"
    behave: Behaviour = lambda _job, _stage: None
    errors: dict[str, str] = field(default_factory=dict)
    ns: dict[str, int] = field(default_factory=dict)
    modules: dict[str, str | None] = field(
        default_factory=lambda: {"numpy": "2", "ai_edge_litert": "2.3.0", "onnxruntime": "1.31.1", "openvino": "2026.4"}
    )
    python: str = "3.11.7"
    outputs: dict[str, np.ndarray] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    opened: int = 0
    transport: FakeTransport | None = None
    unreachable: Exception | None = None
    #: How many of the following openings fail.
    down: int = 0

    def profile(self, **changes: Any) -> DeviceProfile:
        return DeviceProfile(name=self.name, transport="local", **changes)

    def open(self, profile: DeviceProfile) -> Transport:
        assert profile.name == self.name
        self.opened += 1
        if self.unreachable is not None and (self.down != 0):
            self.down -= 1
            raise self.unreachable
        files = {} if self.transport is None else self.transport.files
        self.transport = FakeTransport(self.handle, label=self.name)
        self.transport.files = files
        return self.transport

    def handle(self, call: Call) -> Completed | Script:
        if call.argv[0] == "sh":
            return Completed(127, b"", b"no shell")  # facts are looked for with sh; this device has none to tell
        if call.argv == ("true",):
            return Completed(0, b"", b"")
        if call.argv[1] == "-":
            request = json.loads(call.argv[2])
            self.asked.append(request)
            return Completed(0, json.dumps(self.answer(request)).encode(), b"")
        assert call.argv[1:3] == ("-m", "agent")
        assert call.stdin.endswith(b"\n")
        assert call.files[call.env["PYTHONPATH"] + "/agent/__main__.py"]
        job = decode_job(call.stdin.decode())
        assert all(model.path in call.files for model in job.models)
        self.jobs.append(job)
        return self.script(job, call)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["do"] == "sweep":
            return {"removed": [], "kept_bytes": 0}
        return {
            "work": "/work",
            "session": f"/work/sessions/{request['session']}",
            "free_bytes": 1 << 30,
            "python": self.python,
            "executable": "/usr/bin/python3",
            "system": "Linux",
            "release": "6.1",
            "machine": "x86_64",
            "hostname": self.name,
            "cpus": 2,
            "texts": {"boot_id": self.name},
            "modules": self.modules,
        }

    def script(self, job: Job, call: Call) -> Script:
        """Plays the agent; how it ends is known only when it has been played."""
        script = Script()
        script.lines = self._lines(job, call, script)
        return script

    def _lines(self, job: Job, call: Call, ending: Script) -> Iterator[bytes]:
        try:
            yield from (line.encode() for line in self._play(job, call))
        except Crash as crash:
            ending.returncode, ending.stderr = crash.code, crash.stderr
        except Hang:
            ending.hangs = True
        except Lost:
            ending.lost = True

    def _play(self, job: Job, call: Call) -> Iterator[str]:
        clock = iter(range(0, 10**9, 10))

        def say(kind: str, /, **fields: Any) -> str:
            return encode_message(kind, next(clock), **fields)

        self.behave(job, "start")
        yield say("hello", version=PROTOCOL_VERSION, engine=job.engine, environment={"threads": job.threads, "pid": 1})
        alive = []
        for model in job.models:
            yield say("sensor", name="stage", values={"stage": "load", "id": model.id})
            self.behave(job, f"load {model.id}")
            if model.id in self.errors:
                words = self.errors[model.id]
                yield say(
                    "error", id=model.id, kind="load", name="ValueError", message=words, remedy="convert it again"
                )
                continue
            alive.append(model.id)
            first = self.ns.get(model.id, 1000) if job.probe else None
            yield say("loaded", id=model.id, load_ns=5_000, first_inference_ns=first, facts={"precision": "f32"})
        if job.probe is not None:
            for name in alive:
                yield say("memory", id=name, memory={"baseline": 10, "peak": 20, "arena": None, "arena_reason": "?"})
                if job.probe.outputs_path is not None:
                    yield say("sensor", name="stage", values={"stage": "evaluate", "id": name})
                    self.behave(job, f"evaluate {name}")
                    yield self._outputs(job, name, call, say)
        if job.latency is not None:
            yield from self._latency(job, alive, say)
        self.behave(job, "end")
        yield say("done", environment_after={"load_average": [0, 0, 0]})

    def _outputs(self, job: Job, name: str, call: Call, say: Callable[..., str]) -> str:
        assert job.probe is not None
        assert job.probe.outputs_path is not None
        data = self.outputs.get(name, np.eye(job.data.rows, 3, dtype=np.float32))
        stream = io.BytesIO()
        np.save(stream, data)
        call.files[job.probe.outputs_path] = stream.getvalue()
        digest = hashlib.sha256(data.tobytes()).hexdigest()
        return say("outputs", id=name, path="/etc/passwd", rows=len(data), shape=list(data.shape), sha256=digest)

    def _latency(self, job: Job, alive: list[str], say: Callable[..., str]) -> Iterator[str]:
        assert job.latency is not None
        for name in alive:
            yield say("sensor", name="stage", values={"stage": "warmup", "id": name})
            self.behave(job, f"warmup {name}")
            yield say("warmup", id=name, started_ns=1, wall_ns=[9, 8], cpu_ns=[9, 8], cpu_clock="thread")
        yield say("sensor", name="stage", values={"stage": "measure", "id": None})
        for index, order in enumerate(job.latency.order):
            for name in order:
                if name not in alive:
                    continue
                self.behave(job, f"visit {index} {name}")
                wall = [self.ns.get(name, 1000) + (len(self.jobs) % 3)] * job.latency.block_samples
                for phase in ("settle", "measure"):
                    fields = {"id": name, "index": index, "phase": phase, "started_ns": 2, "cpu_clock": "thread"}
                    yield say("block", wall_ns=wall, cpu_ns=wall, **fields)


class MemoryStore:
    """What the runner wrote, in order."""

    def __init__(self) -> None:
        self.session: Session | None = None
        self.variants: tuple[VariantRecord, ...] = ()
        self.devices: dict[str, DeviceRecord] = {}
        self.reference: Reference | None = None
        self.runs: list[Run] = []
        self.status: str | None = None

    def add_session(
        self, session: Session, variants: Any = (), devices: Any = (), reference: Reference | None = None
    ) -> None:
        assert self.session is None
        self.session, self.variants, self.reference = session, tuple(variants), reference
        self.devices = {device.name: device for device in devices}

    def add_device(self, session_id: str, device: DeviceRecord) -> None:
        assert self.session is not None
        assert self.session.id == session_id
        self.devices[device.name] = device

    def add_run(self, run: Run) -> None:
        assert self.session is not None
        assert self.status is None
        assert run.id not in {other.id for other in self.runs}
        self.runs.append(run)

    def finish_session(self, session_id: str, status: str) -> None:
        assert self.session is not None
        assert self.session.id == session_id
        self.status = status

    def kinds(self, **wanted: Any) -> list[Run]:
        return [run for run in self.runs if all(getattr(run, key) == value for key, value in wanted.items())]

    def statuses(self) -> Counter[tuple[str, str]]:
        return Counter((run.kind, run.status) for run in self.runs)


def make_variant(folder: Path, name: str, format_: str = "tflite", content: bytes | None = None) -> Variant:
    """A variant folder with an artifact that no engine would load."""
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    names = ["model" + SUFFIX[format_]] + (["model.bin"] if format_ == "openvino" else [])
    for file in names:
        (place / file).write_bytes(content or f"{name} {file}".encode())
    files = {file: sha256_file(place / file) for file in names}
    return Variant(place, Manifest(name, format_, names[0], files, None, 1, 1))


def record_of(variant: Variant) -> VariantRecord:
    return VariantRecord(variant.name, variant.manifest.format)
