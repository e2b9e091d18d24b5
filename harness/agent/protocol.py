"""What host and agent say to each other: one JSON job goes in on stdin, JSON Lines come out on stdout.

This module runs on the device: standard library only, and nothing of `harness` outside `harness/agent`. The host imports
these types from here, never the other way round. The agent package is uploaded as it is and started as
`python -m agent` from the folder above it, hence relative imports throughout.

Every message has `type` and `t_ns`, the device's monotonic clock. An unknown line is an error, not noise.

What the host must know about the agent process:

- Start it as `python -m agent` (in the folder above it, or with that folder or a zip of it on PYTHONPATH). The job is one line
  on stdin; the host then KEEPS STDIN OPEN until `done`: end of file on stdin means that the host is gone and the agent exits at
  once, as it does when stdout is closed. That way no orphan is left. `python -m agent job.json` reads the job from a file
  and leaves stdin alone. `--die-with-parent` also asks the kernel to kill the agent when the THREAD that started it ends.
- SIGTERM and SIGINT: the agent sends the samples of the block it is in, an `error` of kind "terminated" and `done`, and
  leaves with code 143. Inside a native call that hangs it cannot; kill it with SIGKILL after a second or two.
- Exit codes: 0 every model was measured or has its own `error`; 1 an `error` with id None; 2 not a valid job; 143 terminated.
  Anything else, a death by a signal above all, is a crash inside native code: stderr then has Python's fault trace, and
  `model_at_work` tells from the messages that came before which model to blame.
- Native engines print to file descriptor 1; the agent leads that to stderr, so stdout has nothing but messages.
- Lines come between visits, never inside a timed block. Reading them costs the device nothing; decoding large ones on a host
  that is the device itself takes CPU time from the next block, so decode after the run or in small pieces.
- `sensor` messages the agent sends by itself: "stage" {"stage": "load" | "warmup" | "measure" | "evaluate" | "profile", "id": … or None},
  before the work begins; "contention" after every round {"round": n, …}: counters as in the environment (see environment.py), and
  "visits" {id: [growth of each of "columns" from before the visit's settling to after its last sample]} (see contention.py);
  "thermal" at the start and at the end of every run: temperatures, frequencies, throttling (see heat.py).
- In an energy run the stage is "energy", and `sensor` messages tell all: "meter" (the plan's own `meter`, given back), "samples"
  {channel: {"t_ns": […], "text": [… or null]}, …, "errors": {channel: words}} after each phase, and "phase" {"phase": "idle" |
  "load", "id": …, "window": n, "started_ns": …, "ended_ns": …, "inferences": n}. The agent is silent as long as a phase lasts.
- In an offline run the stage before each visit is "offline"; "throughput" tells of a visit: {"id", "index" (-1: warm-up), "phase",
  "batch", and per stream "batches", "started_ns", "ended_ns", "cpu_ns" of the process}. In a sustained run the stage is "sustained";
  each second is a `block` of the samples that are kept and a "second" of exact figures (sustained.py). An official run's stage is
  "loadgen"; "loadgen" gives its figures and the names of the logs it left in the plan's folder (loadgen.py).
- In a latency run `loaded` has first_inference_ns None, and facts that are costly to find are None with "<key>_reason": take
  those from a probe run. `memory` has, in bytes: baseline, then per phase after_load, after_first, after_steady (resident at its end)
  and load_peak, first_peak, steady_peak (the highest in it); inference_peak (of the last two), peak (of all), pss_baseline and pss
  (proportional), arena, accelerator; and peak_how, accelerator_how.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .scenarios import LoadgenPlan, OfflinePlan, SustainedPlan, loadgen_plan, offline_plan, sustained_plan

# 2: the plans offline, sustained and loadgen, and the sensor messages "throughput", "second" and "loadgen".
PROTOCOL_VERSION = 2

ENGINES = ("litert", "onnxruntime", "openvino")
# The engine that fails on purpose (engines/faults.py), for tests of whatever stands around the agent. Never in ENGINES.
FAULT_ENGINE = "fault"
ENGINE_OF_FORMAT = {"tflite": "litert", "onnx": "onnxruntime", "openvino": "openvino"}

# Message types, in the order in which a run sends them; "sensor" may come at any time.
MESSAGE_TYPES = ("hello", "loaded", "memory", "warmup", "block", "outputs", "profile", "sensor", "error", "done")


class ProtocolError(ValueError):
    """A job or a message that does not follow the protocol."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output of a model: see converters.variant.TensorSpec, whose fields these are."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    source: str | None = None
    axes: tuple[int, ...] | None = None
    scale: tuple[float, ...] = ()
    zero_point: tuple[int, ...] = ()
    quantized_axis: int | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """A model to measure: `id` is the variant's name, `path` the artifact on the device. Empty `inputs`/`outputs`
    mean "ask the engine" (an artifact made elsewhere)."""

    id: str
    path: str
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()


@dataclass(frozen=True, slots=True)
class Data:
    """Where inputs come from. `inputs`: dataset input name -> path of a float32/int .npy on the device, batch first,
    already preprocessed, in the base model's layout. Empty: seeded random input of the right shapes and types."""

    inputs: dict[str, str] = field(default_factory=dict)
    rows: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """A place in a circle of `of` agents on one machine that measure in turns (turns.py). `folder`: for their named pipes;
    `wait_s`: how long a turn may be in coming."""

    folder: str
    index: int
    of: int
    wait_s: float


@dataclass(frozen=True, slots=True)
class LatencyPlan:
    """How a latency run samples. `order`: per interleaved round, the ids of all models in measured order.

    Each visit to a model in a round settles first (`settle` invocations, recorded apart), then takes samples until
    `block_samples` and `block_s` are both met, but no longer than `block_max_s` (at least one sample).
    Warm-up per model: until `warmup_samples` and `warmup_s` are both met, at most `warmup_max_s`.
    `turn`: measure each round in turns with other agents on the machine; None: alone. `uncounted`: rounds in which nothing but
    samples is collected, to find out what the rest costs.
    """

    order: tuple[tuple[str, ...], ...]
    warmup_samples: int = 5
    warmup_s: float = 0.5
    warmup_max_s: float = 30.0
    settle: int = 2
    block_samples: int = 5
    block_s: float = 0.1
    block_max_s: float = 10.0
    turn: Turn | None = None
    uncounted: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ProbePlan:
    """What a probe run does after load and first inference: `memory_invokes` further inferences under the peak
    counter; then, where `outputs_path` is set, all rows of the data through the model, the raw dequantized outputs
    written there as .npy (float32 [rows, …], first output; further outputs are not evaluated)."""

    memory_invokes: int = 10
    outputs_path: str | None = None


@dataclass(frozen=True, slots=True)
class SensorChannel:
    """One thing to read during an energy run, as text: the file at `path`, or what the command `argv` prints.

    `every_s`: seconds between readings; 0: at every tick of the plan's `rate_hz`.
    """

    name: str
    path: str = ""
    argv: tuple[str, ...] = ()
    every_s: float = 0.0


@dataclass(frozen=True, slots=True)
class EnergyPlan:
    """What an energy run does with each model after load and warm-up, while `channels` are read `rate_hz` times a second:
    rest `settle_s`, idle `idle_s`; work `settle_s`, then `windows` windows of `window_s` seconds of inferences; rest, idle
    again. Idle: the model is loaded and nothing runs. `meter`: how the host reads the channels; only given back."""

    channels: tuple[SensorChannel, ...]
    rate_hz: float = 10.0
    idle_s: float = 30.0
    settle_s: float = 2.0
    window_s: float = 10.0
    windows: int = 5
    meter: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProfilePlan:
    """What a profile run does with each model: after warm-up, `rounds` times a block of `block_samples` plain inferences and one
    under the engine's profiler, each no longer than `block_max_s` (at least one inference)."""

    rounds: int = 6
    block_samples: int = 6
    block_max_s: float = 5.0
    warmup_samples: int = 3
    warmup_s: float = 0.2


# What a job may be for: the names of its plans.
PLANS = ("latency", "probe", "energy", "profile", "offline", "sustained", "loadgen")


@dataclass(frozen=True, slots=True)
class Job:
    """One run of the agent. Exactly one of the PLANS is set. `affinity`: CPU numbers to pin to, or None.
    `precision`: "f32" (the default: never less than the artifact holds), or "auto" (whatever the engine prefers).
    `options`: for the engine, see the docstring of its module in engines/, and engines/injected.py."""

    engine: str
    models: tuple[Model, ...]
    data: Data
    threads: int = 1
    affinity: tuple[int, ...] | None = None
    precision: str = "f32"
    latency: LatencyPlan | None = None
    probe: ProbePlan | None = None
    energy: EnergyPlan | None = None
    profile: ProfilePlan | None = None
    offline: OfflinePlan | None = None
    sustained: SustainedPlan | None = None
    loadgen: LoadgenPlan | None = None
    options: dict[str, Any] = field(default_factory=dict)
    version: int = PROTOCOL_VERSION

    def plans(self) -> list[str]:
        """Names of the plans that are set."""
        return [name for name in PLANS if getattr(self, name) is not None]


def encode_job(job: Job) -> str:
    """The job as one JSON line."""
    return json.dumps(dataclasses.asdict(job), separators=(",", ":"))


def _tensor(data: dict[str, Any]) -> Tensor:
    axes = data.get("axes")
    return Tensor(
        name=data["name"],
        shape=tuple(data["shape"]),
        dtype=data["dtype"],
        source=data.get("source"),
        axes=None if axes is None else tuple(axes),
        scale=tuple(data.get("scale", ())),
        zero_point=tuple(data.get("zero_point", ())),
        quantized_axis=data.get("quantized_axis"),
    )


def _energy(data: dict[str, Any] | None) -> EnergyPlan | None:
    if data is None:
        return None
    channels = tuple(SensorChannel(**{**item, "argv": tuple(item["argv"])}) for item in data["channels"])
    return EnergyPlan(**{**data, "channels": channels})


def decode_job(text: str) -> Job:
    """Parse a job. Raises ProtocolError when the text is not one or speaks another version."""
    try:
        data = json.loads(text)
        if data["version"] != PROTOCOL_VERSION:
            raise ProtocolError(f"job speaks protocol {data['version']!r}, this agent {PROTOCOL_VERSION}")
        models = tuple(
            Model(
                m["id"],
                m["path"],
                tuple(_tensor(t) for t in m["inputs"]),
                tuple(_tensor(t) for t in m["outputs"]),
            )
            for m in data["models"]
        )
        latency = data.get("latency")
        if latency is not None:
            turn = latency.get("turn")
            latency = LatencyPlan(
                **{
                    **latency,
                    "order": tuple(tuple(r) for r in latency["order"]),
                    "turn": None if turn is None else Turn(**turn),
                    "uncounted": tuple(latency.get("uncounted", ())),
                }
            )
        probe = data.get("probe")
        affinity = data.get("affinity")
        return Job(
            engine=data["engine"],
            models=models,
            data=Data(**data["data"]),
            threads=data["threads"],
            affinity=None if affinity is None else tuple(affinity),
            precision=data["precision"],
            latency=latency,
            probe=None if probe is None else ProbePlan(**probe),
            energy=_energy(data.get("energy")),
            profile=None if data.get("profile") is None else ProfilePlan(**data["profile"]),
            offline=offline_plan(data.get("offline")),
            sustained=sustained_plan(data.get("sustained")),
            loadgen=loadgen_plan(data.get("loadgen")),
            options=data.get("options", {}),
        )
    except ProtocolError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"not a job: {error!r}") from error


# The messages and their fields beside `type` and `t_ns` (all required; None where not measured):
FIELDS: dict[str, tuple[str, ...]] = {
    # environment: python, engine_version, numpy, cpu, affinity read back, threads, pid, machine, boot_id, clock info …
    "hello": ("version", "engine", "environment"),
    "loaded": ("id", "load_ns", "first_inference_ns", "facts"),
    "memory": ("id", "memory"),
    "warmup": ("id", "started_ns", "wall_ns", "cpu_ns", "cpu_clock"),
    "block": ("id", "index", "phase", "started_ns", "wall_ns", "cpu_ns", "cpu_clock"),
    "outputs": ("id", "path", "rows", "shape", "sha256"),
    # operators: list of engines.base.Operator as objects; plain_…, profiled_…: wall and CPU time of each inference in time order
    "profile": (
        *("id", "method", "operators", "plain_ns", "plain_cpu_ns", "profiled_ns", "profiled_cpu_ns", "graph", "notes"),
    ),
    "sensor": ("name", "values"),
    # `id` names the model at fault, or is None: then the whole run failed. kind: load | invoke | data | engine_missing | job
    # | terminated | internal (a fault of the agent itself)
    "error": ("id", "kind", "name", "message", "remedy"),
    # environment_after: affinity and contention counters again, read at the end
    "done": ("environment_after",),
}


def encode_message(kind: str, t_ns: int, /, **fields: Any) -> str:
    """One message as one JSON line. Raises ProtocolError when the fields are not exactly those of its type."""
    if kind not in FIELDS or set(fields) != set(FIELDS[kind]):
        raise ProtocolError(f"message {kind!r} has fields {sorted(fields)}, not {sorted(FIELDS.get(kind, ()))}")
    return json.dumps({"type": kind, "t_ns": t_ns, **fields}, separators=(",", ":"))


def decode_message(line: str) -> dict[str, Any]:
    """Parse one line of the agent. Raises ProtocolError for anything that is not a whole, known message."""
    try:
        data = json.loads(line)
    except ValueError as error:
        raise ProtocolError(f"not JSON: {line[:200]!r}") from error
    if not isinstance(data, dict) or data.get("type") not in FIELDS:
        raise ProtocolError(f"unknown message: {line[:200]!r}")
    missing = [name for name in ("t_ns", *FIELDS[data["type"]]) if name not in data]
    if missing:
        raise ProtocolError(f"message {data['type']!r} lacks {', '.join(missing)}")
    return data


def model_at_work(job: Job, messages: Iterable[dict[str, Any]]) -> str | None:
    """The id of the model that the agent was working on after its last message, to blame when its process has died.

    None when no model was at work (before the first load, or after `done`).
    """
    at_work: str | None = None
    measuring = False
    failed: set[str] = set()
    visited: set[tuple[int, str]] = set()
    for message in messages:
        kind = message["type"]
        if kind == "sensor" and message["name"] == "stage":
            at_work = message["values"]["id"]
            measuring = message["values"]["stage"] == "measure"
        elif kind == "error" and message["id"] is not None:
            failed.add(message["id"])
            at_work = None if at_work == message["id"] else at_work
        elif kind == "block" and message["phase"] == "measure":
            visited.add((message["index"], message["id"]))
        elif kind == "done":
            return None
    if not measuring or job.latency is None:
        return at_work
    for index, order in enumerate(job.latency.order):
        for name in order:
            if name not in failed and (index, name) not in visited:
                return name
    return None
