"""A made-up but realistic SessionData, for tests of the store, the table, choosing, comparing and the reports.

Seeded and fast (no engine, no I/O). Two devices, three engines, fourteen variants of one base model: two that could not be
made, one that crashes one engine on one device, and one device that could not be reached when `broken_device` is set.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.agent.protocol import ENGINE_OF_FORMAT
from harness.plan import PRESETS
from harness.records import (
    LATENCY,
    MEASURE,
    PROBE,
    SETTLE,
    WARMUP,
    Block,
    DeviceRecord,
    Evaluation,
    Failure,
    Load,
    Reference,
    Run,
    Session,
    SessionData,
    VariantRecord,
)

BASE = "dscnn"
CLASSES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Boot")
PARAMETERS = 41_290


@dataclass(frozen=True)
class Made:
    """What one made-up variant is like: recipe, relative time (1 = fp32 of TFLite), bytes, share of flipped answers."""

    format: str
    recipe: str
    time: float
    size_bytes: int
    flipped: float

    @property
    def name(self) -> str:
        return f"{BASE}.{self.format}.{self.recipe}"


VARIANTS = (
    Made("tflite", "fp32", 1.00, 169_432, 0.0),
    Made("tflite", "fp16", 1.01, 89_120, 0.0005),
    Made("tflite", "dynamic_wi8_afp32", 1.90, 61_008, 0.004),
    Made("tflite", "static_wi8_ai8", 0.55, 62_016, 0.010),
    Made("tflite", "weight_only_wi4_afp32", 1.02, 44_312, 0.060),
    Made("onnx", "fp32", 1.15, 168_870, 0.0),
    Made("onnx", "fp16", 1.60, 85_990, 0.0005),
    Made("onnx", "static_wi8_au8", 0.80, 58_744, 0.012),
    Made("onnx", "weight_only_wi4_afp32", 1.17, 120_018, 0.009),
    Made("openvino", "fp32", 0.95, 206_511, 0.0),
    Made("openvino", "fp16", 0.95, 124_300, 0.0004),
    Made("openvino", "static_wi8_ai8", 0.56, 131_775, 0.008),
)
FAILED = VariantRecord(
    name=f"{BASE}.tflite.static_wi8_ai16",
    format="tflite",
    base=BASE,
    recipe="static_wi8_ai16",
    status="failed",
    failure=Failure(
        "conversion",
        "ToolCrashed",
        "the converter was killed by SIGSEGV",
        remedy="try the recipe without 16-bit activations",
    ),
)
REFUSED = VariantRecord(
    name=f"{BASE}.onnx.static_wi4_ai4",
    format="onnx",
    base=BASE,
    recipe="static_wi4_ai4",
    status="refused",
    failure=Failure("spec", "Unsupported", "ONNX Runtime has no 4-bit convolution", remedy="use weight_only_wi4_afp32"),
)
CRASHES_ON = ("board", f"{BASE}.openvino.static_wi8_ai8")
LAPTOP_NS, BOARD_NS = 2_100_000.0, 8_400_000.0


def sample_session(
    seed: int = 0,
    *,
    session_id: str = "20261121-221500-a1b2c3",
    name: str = "demo",
    preset: str = "standard",
    runs: int = 6,
    rounds: int = 10,
    block_samples: int = 8,
    block_s: float = 0.12,
    devices: Sequence[str] = ("laptop", "board"),
    task: str = "classification",
    rows: int = 1000,
    run_effect: float = 0.008,
    slowdown: dict[str, float] | None = None,
    contended: dict[str, float] | None = None,
    emulated: Sequence[str] = (),
    broken_device: bool = False,
    interrupted: bool = False,
    variants: Sequence[Made] = VARIANTS,
) -> SessionData:
    """A whole session. `block_s`: measured seconds of each block (ten of 0.12 make a run longer than one second).

    `slowdown`: variant name -> factor on its time. `contended`: device -> share of blocks that had to share their CPU.
    `interrupted`: the last latency run of each engine stops half way and the session never finished.
    """
    rng = np.random.default_rng(seed)
    protocol = dataclasses.replace(PRESETS[preset], runs=runs, rounds=rounds)
    session = Session(
        id=session_id,
        name=name,
        created_at=f"{session_id[:4]}-{session_id[4:6]}-{session_id[6:8]}T22:15:00.000000+00:00",
        harness_version="0.1.0",
        seed=seed,
        protocol=dataclasses.asdict(protocol),
        experiment={"name": name, "recipes": "all", "threads": 1, "precision": "f32"},
        environment={"python": "3.11.7", "platform": "Linux-6.8-x86_64", "numpy": "2.4.6"},
        status="running" if interrupted else "done",
    )
    reference, answers = _reference(rng, task, rows, variants)
    records = [_device(device, device in emulated) for device in devices]
    all_runs: list[Run] = []
    for device in devices:
        maker = _Maker(
            rng,
            session_id,
            device,
            slowdown=slowdown or {},
            contended=(contended or {}).get(device, 0.0),
            run_effect=run_effect,
        )
        all_runs += maker.probes(variants, answers, task, protocol.probes)
        all_runs += maker.latencies(variants, runs, rounds, block_samples, block_s, interrupted=interrupted)
    if broken_device:
        failure = Failure(
            "device", "TransportError", "no route to host 10.0.0.9", remedy="check the cable", transient=True
        )
        records.append(DeviceRecord("pi-lost", "ssh", facts={}, failure=failure))
    made = [_variant_record(variant) for variant in variants]
    return SessionData(session, (*made, FAILED, REFUSED), tuple(records), tuple(all_runs), reference)


def _variant_record(made: Made) -> VariantRecord:
    return VariantRecord(
        name=made.name,
        format=made.format,
        base=BASE,
        recipe=made.recipe,
        artifact_sha256=hashlib.sha256(made.name.encode()).hexdigest(),
        size_bytes=made.size_bytes,
        size_gzip_bytes=round(made.size_bytes * 0.85),
        parameters=PARAMETERS,
        manifest={"recipe": {"name": made.recipe, "format": made.format}, "tool_versions": {"tool": "1.0"}},
    )


def _device(name: str, emulated: bool) -> DeviceRecord:
    local = name == "laptop"
    facts: dict[str, Any] = {
        "cpu": "x86-64, 2 cores" if local else "Cortex-A72, 4 cores",
        "os": "Linux 6.8",
        "memory_total_bytes": 8_000_000_000 if local else 4_000_000_000,
    }
    return DeviceRecord(name, "local" if local else "ssh", emulated=emulated, host_id=f"host-{name}", facts=facts)


def _reference(
    rng: np.random.Generator, task: str, rows: int, variants: Sequence[Made]
) -> tuple[Reference, dict[str, np.ndarray]]:
    """The truth, and each variant's outputs: int32 [rows, 5] classes or float32 [rows, 2]."""
    digest = hashlib.sha256(b"data").hexdigest()
    if task == "none":
        return Reference("none", 0), {}
    if task == "regression":
        base = rng.normal(size=(rows, 2)).astype(np.float32)
        labels = (base + rng.normal(scale=0.1, size=base.shape)).astype(np.float32)
        noise = {m.name: rng.normal(scale=m.flipped + 1e-7, size=base.shape) for m in variants}
        outputs = {name: (base + value).astype(np.float32) for name, value in noise.items()}
        return Reference("regression", rows, labels=labels, base_outputs=base, dataset_sha256=digest), outputs
    base_top = np.argsort(rng.random((rows, len(CLASSES))), axis=1)[:, :5].astype(np.int32)
    right = rng.random(rows) < 0.88
    labels = np.where(right, base_top[:, 0], base_top[:, 1]).astype(np.int64)
    tops = {}
    for made in variants:
        top = base_top.copy()
        flipped = rng.random(rows) < made.flipped
        top[flipped, :2] = top[flipped, 1::-1]
        tops[made.name] = top
    return Reference("classification", rows, labels, base_top, None, digest, CLASSES), tops


class _Maker:
    """Runs of one device, in time order."""

    def __init__(
        self,
        rng: np.random.Generator,
        session_id: str,
        device: str,
        *,
        slowdown: dict[str, float],
        contended: float,
        run_effect: float,
    ) -> None:
        self.rng = rng
        self.session_id = session_id
        self.device = device
        self.slowdown = slowdown
        self.contended = contended
        self.run_effect = run_effect
        self.base_ns = LAPTOP_NS if device == "laptop" else BOARD_NS
        self.clock_ns = 1_000_000_000
        self.count = 0

    def _run(self, engine: str, kind: str, round_: int, **parts: Any) -> Run:
        self.count += 1
        environment = {
            "threads": 1,
            "affinity": [0],
            "engine_version": {"litert": "2.3.0", "onnxruntime": "1.31.1", "openvino": "2026.4.1"}[engine],
            "python": "3.11.7",
        }
        return Run(
            id=f"{self.session_id}-{self.device}-{self.count:04d}",
            session_id=self.session_id,
            device=self.device,
            engine=engine,
            kind=kind,
            round=round_,
            started_at=f"2026-11-21T22:{15 + self.count // 60:02d}:{self.count % 60:02d}.000000+00:00",
            duration_s=2.5,
            environment=environment,
            **parts,
        )

    def probes(self, variants: Sequence[Made], answers: dict[str, np.ndarray], task: str, repeats: int) -> list[Run]:
        """Cold start, memory, and (in the first round) the outputs over the dataset."""
        made_runs = []
        for round_ in range(repeats):
            for made in variants:
                engine = ENGINE_OF_FORMAT[made.format]
                if (self.device, made.name) == CRASHES_ON:
                    failure = Failure(
                        "measurement", "EngineCrashed", "the agent was killed by SIGILL", "update the engine"
                    )
                    made_runs.append(
                        self._run(engine, PROBE, round_, status="failed", failed_variants={made.name: failure})
                    )
                    continue
                evaluations = ()
                if round_ == 0 and made.name in answers:
                    evaluations = (_evaluation(made.name, answers[made.name], task),)
                load = self._load(made, round_)
                made_runs.append(self._run(engine, PROBE, round_, loads=(load,), evaluations=evaluations))
        return made_runs

    def _load(self, made: Made, round_: int) -> Load:
        baseline = 60_000_000 + 4096 * round_
        facts: dict[str, Any] = {"precision": "i8" if "static" in made.recipe else "f32", "threads": 1}
        memory: dict[str, Any] = {
            "baseline": baseline,
            "after_load": baseline + 2 * made.size_bytes,
            "after_first": baseline + 3 * made.size_bytes,
            "peak": baseline + 4 * made.size_bytes + 4096 * round_,
        }
        if made.format == "tflite":
            memory["arena"] = 90_112
        else:
            memory["arena_reason"] = "the engine does not tell"
        load_ns = int(4_000_000 * (1 + 0.1 * self.rng.random()))
        return Load(made.name, load_ns, int(self._time_ns(made) * 3), facts, memory)

    def _time_ns(self, made: Made) -> float:
        return self.base_ns * made.time * self.slowdown.get(made.name, 1.0)

    def latencies(
        self, variants: Sequence[Made], runs: int, rounds: int, samples: int, block_s: float, *, interrupted: bool
    ) -> list[Run]:
        """`runs` latency runs of each engine, every round in random order."""
        made_runs = []
        for round_ in range(runs):
            for engine in sorted({ENGINE_OF_FORMAT[made.format] for made in variants}):
                mine = [
                    made
                    for made in variants
                    if ENGINE_OF_FORMAT[made.format] == engine and (self.device, made.name) != CRASHES_ON
                ]
                cut = rounds // 2 if interrupted and round_ == runs - 1 else rounds
                blocks = self._blocks(mine, cut, samples, block_s)
                status = "ok" if cut == rounds else "interrupted"
                loads = tuple(self._load(made, round_) for made in mine)
                made_runs.append(self._run(engine, LATENCY, round_, status=status, loads=loads, blocks=blocks))
        return made_runs

    def _blocks(self, variants: list[Made], rounds: int, samples: int, block_s: float) -> tuple[Block, ...]:
        effect = float(np.exp(self.rng.normal(scale=self.run_effect)))
        blocks = [self._block(made, -1, WARMUP, samples=6, lasts_s=0.6, effect=effect * 1.3) for made in variants]
        for index in range(rounds):
            for position in self.rng.permutation(len(variants)):
                made = variants[position]
                blocks.append(self._block(made, index, SETTLE, samples=2, lasts_s=0.0, effect=effect * 1.1))
                blocks.append(self._block(made, index, MEASURE, samples=samples, lasts_s=block_s, effect=effect))
        return tuple(blocks)

    def _block(self, made: Made, index: int, phase: str, *, samples: int, lasts_s: float, effect: float) -> Block:
        median = self._time_ns(made) * effect * float(np.exp(self.rng.normal(scale=0.004)))
        count = max(samples, int(lasts_s * 1e9 / median))
        wall = median * (1 + np.abs(self.rng.normal(scale=0.01, size=count)))
        share = 0.995
        if phase == MEASURE and self.rng.random() < self.contended:
            share, wall = 0.6, wall / 0.6
        wall_ns = wall.astype(np.int64)
        started = self.clock_ns
        self.clock_ns += int(max(wall_ns.sum(), lasts_s * 1e9)) + 1_000_000
        return Block(made.name, index, phase, started, wall_ns, (wall_ns * share).astype(np.int64), "thread")


def _evaluation(variant: str, answers: np.ndarray, task: str) -> Evaluation:
    digest = hashlib.sha256(answers.tobytes()).hexdigest()
    if task == "regression":
        return Evaluation(variant, len(answers), digest, outputs=answers)
    return Evaluation(variant, len(answers), digest, top=answers)
