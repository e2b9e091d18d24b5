"""What is stored: sessions, runs, blocks, samples. Frozen; statistics are pure functions of these and change nothing.

Schema history (SCHEMA_VERSION):
  1  first: Session, VariantRecord, DeviceRecord, Reference, Run with Load, Block and Evaluation.
  2  a third kind of run, "energy": meter, phases and samples in Run.sensors; DeviceRecord.facts["power"]. Older sessions
     read as before; they have no such runs.
  3  a fourth kind of run, "profile": Run.profiles; VariantRecord.folder. Older sessions have neither.
  4  kinds of run "offline" ("throughput" in Run.sensors), "sustained" ("second") and "loadgen"; Session.protocol has scenario,
     batch, streams, duration_s and driver. Older sessions read as single-stream.

Times are integers in nanoseconds; sizes in bytes. Samples stay raw and in time order. A value that was not measured is
None, and where it could have been expected the reason stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

SCHEMA_VERSION = 4

Int64Array = NDArray[np.int64]

# Kinds of run. "probe": one variant in a fresh process: load, first inference, memory, outputs over the dataset.
# "latency": all of an engine's variants in one fresh process, in randomly ordered interleaved blocks.
PROBE = "probe"
# "energy": one variant in a fresh process, working between two idle phases while a power meter is read.
LATENCY = "latency"
ENERGY = "energy"
# "profile": one variant in a fresh process, operator by operator under its engine's profiler. No latency is taken from it.
PROFILE = "profile"
# "offline": like a latency run, but in batches and streams, for throughput. "sustained": one variant for minutes. "loadgen": one
# variant, driven by MLPerf's load generator.
OFFLINE = "offline"
SUSTAINED = "sustained"
LOADGEN = "loadgen"
# Runs of all variants of an engine, round after round; all others are of one variant.
IN_ROUNDS = (LATENCY, OFFLINE)

# Phases of a block. "warmup": before the first measured block; "settle": re-warming after another variant ran;
# "measure": what the statistics read. All are kept.
WARMUP = "warmup"
SETTLE = "settle"
MEASURE = "measure"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something has no result: `where` as in harness.errors, the class `name`, the tool's words, what to do."""

    where: str
    name: str
    message: str
    remedy: str | None = None
    transient: bool = False


@dataclass(frozen=True, slots=True)
class VariantRecord:
    """A variant as it entered the session; `status` is "ok", "failed" or "refused" (by the support matrix). `folder`: where its
    files lay on the host; they may have gone since."""

    name: str
    format: str
    base: str | None = None
    recipe: str | None = None
    status: str = "ok"
    failure: Failure | None = None
    artifact_sha256: str | None = None
    size_bytes: int | None = None
    size_gzip_bytes: int | None = None
    parameters: int | None = None
    manifest: dict[str, Any] = field(default_factory=dict)
    folder: str | None = None


@dataclass(frozen=True, slots=True)
class DeviceRecord:
    """A device as it was in the session. `host_id` is equal for two devices that are the same machine."""

    name: str
    transport: str
    emulated: bool = False
    host_id: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """The truth to hold outputs against: labels of the dataset and the base model's own outputs on the same rows.

    `task` is "classification", "regression" or "none". `labels`: int64 [rows] or float32 [rows, …]. `base_top`:
    int32 [rows, k], the base's classes, best first. `base_outputs`: float32 [rows, …] (regression).
    """

    task: str
    rows: int
    labels: NDArray[Any] | None = None
    base_top: NDArray[np.int32] | None = None
    base_outputs: NDArray[np.float32] | None = None
    dataset_sha256: str | None = None
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Load:
    """One load of one variant in one run, with what the engine says of itself (`facts`: precision, threads,
    engine_version, delegated nodes …) and memory in bytes (`memory`: baseline, after_load, after_first, peak, arena;
    a missing key has its reason under "<key>_reason")."""

    variant: str
    load_ns: int
    first_inference_ns: int | None
    facts: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)


class _Later:
    """What a block may know beside its fields: its sums, and how to make its CPU times."""

    __slots__ = ("_cpu_later", "_sums")


@dataclass(frozen=True, slots=True, eq=False)
class Block(_Later):
    """Consecutive samples of one variant: wall and CPU time of each invoke, int64 [samples], in time order.

    `index` counts the interleaved rounds of the run (every round holds each variant once); -1 for warm-up.
    `started_ns` is the device's monotonic clock. `cpu_clock` says what `cpu_ns` counts: "thread" or "process".
    Nobody changes the samples of a block: those from a store are read-only.
    """

    variant: str
    index: int
    phase: str
    started_ns: int
    wall_ns: Int64Array
    cpu_ns: Int64Array
    cpu_clock: str = "thread"

    @classmethod
    def with_later_cpu(cls, later: Callable[[], Int64Array], sums_ns: tuple[int, int], **fields: Any) -> Self:
        """A block of all fields but `cpu_ns`, which `later` makes when it is first read: a table only asks for its sum.

        `sums_ns`: of the wall and of the CPU times.
        """
        made = cls.__new__(cls)
        for name, value in fields.items():
            object.__setattr__(made, name, value)
        object.__setattr__(made, "_cpu_later", later)
        object.__setattr__(made, "_sums", sums_ns)
        return made

    @property
    def wall_sum_ns(self) -> int:
        """Sum of the wall times."""
        sums = getattr(self, "_sums", None)
        return int(self.wall_ns.sum()) if sums is None else sums[0]

    @property
    def cpu_sum_ns(self) -> int:
        """Sum of the CPU times."""
        sums = getattr(self, "_sums", None)
        return int(self.cpu_ns.sum()) if sums is None else sums[1]

    if not TYPE_CHECKING:  # or it would let any misspelt name pass

        def __getattr__(self, name: str) -> Any:
            if name != "cpu_ns":
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
            made = self._cpu_later()
            object.__setattr__(self, "cpu_ns", made)
            return made


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Outputs of a variant over the dataset, on the device itself, reduced to what metrics need.

    classification: `top` int32 [rows, k ≤ 5], best first, ties broken by the lower class. regression: `outputs`
    float32 [rows, …]. `outputs_sha256` covers the raw dequantized outputs, for bit-for-bit comparison of devices.
    """

    variant: str
    rows: int
    outputs_sha256: str
    top: NDArray[np.int32] | None = None
    outputs: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class OperatorTimes:
    """One operator as the engine ran it: its time in each profiled inference, ns, in time order. See agent.engines.base.Operator,
    whose fields these are."""

    name: str
    type: str
    times_ns: tuple[int, ...]
    runner: str | None = None
    precision: str | None = None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    moved_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Profile:
    """A variant operator by operator. `method`: how the operators were timed. `plain_ns`, `profiled_ns` (and `…_cpu_ns`): wall (and
    CPU) time of each inference without and with the profiler, by turns in the same process. `graph`: of the artifact's own graph, `operators`
    (type → how many), `nodes`, and what the engine tells of delegates. `notes`: what a reader must know of the method."""

    variant: str
    method: str
    operators: tuple[OperatorTimes, ...]
    plain_ns: tuple[int, ...]
    plain_cpu_ns: tuple[int, ...]
    profiled_ns: tuple[int, ...]
    profiled_cpu_ns: tuple[int, ...]
    graph: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


PROFILE_TIMES = ("plain_ns", "plain_cpu_ns", "profiled_ns", "profiled_cpu_ns")


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One fresh agent process on one device, with everything it reported.

    `status`: "ok", "failed" or "interrupted" (what was measured before is kept). `round` numbers the repetition of
    the plan; runs of equal round on different devices or engines were made near each other in time. `environment`
    has what was set and read back: threads, affinity, engine version, CPU, clocks, contention (steal, pressure).
    """

    id: str
    session_id: str
    device: str
    engine: str
    kind: str
    round: int
    started_at: str
    duration_s: float
    status: str = "ok"
    failure: Failure | None = None
    failed_variants: dict[str, Failure] = field(default_factory=dict)
    retries: int = 0
    environment: dict[str, Any] = field(default_factory=dict)
    loads: tuple[Load, ...] = ()
    blocks: tuple[Block, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    sensors: tuple[dict[str, Any], ...] = ()
    profiles: tuple[Profile, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """One invocation of the harness that measured something.

    `protocol` is the MeasurementProtocol as a dict, `experiment` the validated experiment as JSON-compatible data.
    `status`: "running" (or killed: nobody could say more), "done", "interrupted", "failed".
    """

    id: str
    name: str
    created_at: str
    harness_version: str
    seed: int
    protocol: dict[str, Any]
    experiment: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    status: str = "running"
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class SessionData:
    """Everything the store has on one session: the input of `table.build_rows`."""

    session: Session
    variants: tuple[VariantRecord, ...]
    devices: tuple[DeviceRecord, ...]
    runs: tuple[Run, ...]
    reference: Reference | None = None
