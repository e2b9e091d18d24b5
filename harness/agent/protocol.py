"""What host and agent say to each other: one JSON job goes in on stdin, JSON Lines come out on stdout.

This module runs on the device: standard library only, and nothing of `harness` outside `harness/agent`. The host imports
these types from here, never the other way round. The agent package is uploaded as it is and started as
`python -m agent` from the folder above it, hence relative imports throughout.

Every message has `type` and `t_ns`, the device's monotonic clock. An unknown line is an error, not noise.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

PROTOCOL_VERSION = 1

ENGINES = ("litert", "onnxruntime", "openvino")
ENGINE_OF_FORMAT = {"tflite": "litert", "onnx": "onnxruntime", "openvino": "openvino"}

# Message types, in the order in which a run sends them; "sensor" may come at any time.
MESSAGE_TYPES = ("hello", "loaded", "memory", "warmup", "block", "outputs", "sensor", "error", "done")


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
class LatencyPlan:
    """How a latency run samples. `order`: per interleaved round, the ids of all models in measured order.

    Each visit to a model in a round settles first (`settle` invocations, recorded apart), then takes samples until
    `block_samples` and `block_s` are both met, but no longer than `block_max_s` (at least one sample).
    Warm-up per model: until `warmup_samples` and `warmup_s` are both met, at most `warmup_max_s`.
    """

    order: tuple[tuple[str, ...], ...]
    warmup_samples: int = 5
    warmup_s: float = 0.5
    warmup_max_s: float = 30.0
    settle: int = 2
    block_samples: int = 5
    block_s: float = 0.1
    block_max_s: float = 10.0


@dataclass(frozen=True, slots=True)
class ProbePlan:
    """What a probe run does after load and first inference: `memory_invokes` further inferences under the peak
    counter; then, where `outputs_path` is set, all rows of the data through the model, the raw dequantized outputs
    written there as .npy (float32 [rows, …], first output; further outputs are not evaluated)."""

    memory_invokes: int = 10
    outputs_path: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One run of the agent. Exactly one of `latency`, `probe` is set. `affinity`: CPU numbers to pin to, or None.
    `precision`: "f32" (the default: never less than the artifact holds), or "auto" (whatever the engine prefers)."""

    engine: str
    models: tuple[Model, ...]
    data: Data
    threads: int = 1
    affinity: tuple[int, ...] | None = None
    precision: str = "f32"
    latency: LatencyPlan | None = None
    probe: ProbePlan | None = None
    options: dict[str, Any] = field(default_factory=dict)
    version: int = PROTOCOL_VERSION


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
            latency = LatencyPlan(**{**latency, "order": tuple(tuple(r) for r in latency["order"])})
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
    "sensor": ("name", "values"),
    # `id` names the model at fault, or is None: then the whole run failed. kind: load | invoke | data | engine_missing | job
    "error": ("id", "kind", "name", "message", "remedy"),
    # environment_after: affinity and contention counters again, read at the end
    "done": ("environment_after",),
}


def encode_message(kind: str, t_ns: int, **fields: Any) -> str:
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
