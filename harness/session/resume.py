"""A session that was killed, interrupted or lost its devices goes on: what it has already, and whether it is the same.

Pure: stored runs → Progress, which `harness.session.measuring` takes its missing jobs from. What ended is never repeated: a finished
run, and a variant that failed for a reason of its own. What was cut off, lost with its device, or never begun is made.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.collectors.throughput import times_of
from harness.errors import SpecError
from harness.records import (
    ENERGY,
    IN_ROUNDS,
    LOADGEN,
    MEASURE,
    OFFLINE,
    PROBE,
    PROFILE,
    SUSTAINED,
    Load,
    Run,
    SessionData,
)

if TYPE_CHECKING:
    from harness.runner import SessionSpec

Key = tuple[str, str]  # device, engine
RunBlocks = dict[str, tuple[float, dict[int, float]]]
# Failures that the user may have mended since.
_MENDABLE = {"EngineMissing", "EngineNotAllowed"}
_INSTALLABLE = _MENDABLE | {"ModuleNotFoundError", "ImportError"}


@dataclass(frozen=True, slots=True)
class Progress:
    """`last`: number of the last run. `probes`: (device, variant, repetition) made. `rounds`: (device, engine) → latency
    rounds made. `failed`: (device, variant) not to be asked again. `told`: (device, variant) whose missing engine is on
    record. `blocks`: (device, engine) → per latency run, what `run_blocks` says of it. `first_s`: (device, variant) → seconds.
    `peaks`: (device, variant) → bytes, as `peak_of`. `energy`: (device, variant) whose energy run was made. `singles`: (kind, device, variant) of sustained and official runs. `spent_s`: device time."""

    last: int = 0
    probes: frozenset[tuple[str, str, int]] = frozenset()
    rounds: Mapping[Key, frozenset[int]] = field(default_factory=dict)
    failed: frozenset[tuple[str, str]] = frozenset()
    told: frozenset[tuple[str, str]] = frozenset()
    blocks: Mapping[Key, tuple[RunBlocks, ...]] = field(default_factory=dict)
    first_s: Mapping[tuple[str, str], float] = field(default_factory=dict)
    peaks: Mapping[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    energy: frozenset[tuple[str, str]] = frozenset()
    singles: frozenset[tuple[str, str, str]] = frozenset()
    spent_s: float = 0.0


def run_blocks(run: Run) -> RunBlocks:
    """Of a latency run, variant → (median of its measured samples, median of each block by interleaved round), ns; of an offline run, the
    inverse of the throughput instead."""
    if run.kind == OFFLINE:
        return {name: (float(np.median(list(times.values()))), times) for name, times in times_of(run.sensors).items()}
    samples: dict[str, dict[int, Any]] = defaultdict(dict)
    for block in run.blocks:
        if block.phase == MEASURE and block.wall_ns.size:
            samples[block.variant][block.index] = block.wall_ns
    return {
        name: (
            float(np.median(np.concatenate(list(parts.values())))),
            {index: float(np.median(values)) for index, values in parts.items()},
        )
        for name, parts in samples.items()
    }


def peak_of(load: Load) -> tuple[int, int] | None:
    """Resident bytes of a probe's process before the model was loaded and at its peak; None where they are not known."""
    baseline, peak = load.memory.get("baseline"), load.memory.get("peak")
    return (baseline, peak) if isinstance(baseline, int) and isinstance(peak, int) else None


def _spent_s(runs: Sequence[Run]) -> float:
    """Seconds that all runs took: those made in turns took theirs together."""
    together: dict[object, float] = {}
    for run in runs:
        circle = run.environment.get("turns", run.id)
        together[circle] = max(together.get(circle, 0.0), run.duration_s)
    return sum(together.values())


def progress_of(data: SessionData) -> Progress:
    """What the session has."""
    probes: set[tuple[str, str, int]] = set()
    failed: set[tuple[str, str]] = set()
    told: set[tuple[str, str]] = set()
    rounds: dict[Key, set[int]] = defaultdict(set)
    blocks: dict[Key, list[RunBlocks]] = defaultdict(list)
    peaks: dict[tuple[str, str], tuple[int, int]] = {}
    first_s: dict[tuple[str, str], float] = {}
    energy: set[tuple[str, str]] = set()
    singles: set[tuple[str, str, str]] = set()
    last = 0
    for run in data.runs:
        number = run.id.rpartition(".")[2]
        last = max(last, int(number) if number.isdigit() else 0)
        if run.kind == PROFILE:
            continue  # no part of what a session plans
        if run.kind == ENERGY:
            energy |= {(run.device, name) for name in run.failed_variants}
            energy |= {(run.device, load.variant) for load in run.loads if run.status == "ok"}
            continue
        if run.kind in (SUSTAINED, LOADGEN):
            singles |= {
                (run.kind, run.device, name)
                for name, failure in run.failed_variants.items()
                if failure.name not in _INSTALLABLE
            }
            singles |= {(run.kind, run.device, load.variant) for load in run.loads if run.status == "ok"}
        if run.kind == LOADGEN:
            continue
        for variant, failure in run.failed_variants.items():
            (told if failure.name in _MENDABLE else failed).add((run.device, variant))
        if run.status != "ok":
            continue
        if run.kind == PROBE:
            probes |= {(run.device, load.variant, run.round) for load in run.loads}
            for load in run.loads:
                if load.first_inference_ns is not None:
                    first_s[run.device, load.variant] = load.first_inference_ns / 1e9
                found = peak_of(load)
                if found is not None:
                    peaks[run.device, load.variant] = found
        elif run.kind in IN_ROUNDS:
            rounds[run.device, run.engine].add(run.round)
            blocks[run.device, run.engine].append(run_blocks(run))
    return Progress(
        last=last,
        probes=frozenset(probes),
        rounds={key: frozenset(found) for key, found in rounds.items()},
        failed=frozenset(failed),
        told=frozenset(told),
        blocks={key: tuple(made) for key, made in blocks.items()},
        first_s=first_s,
        peaks=peaks,
        energy=frozenset(energy),
        singles=frozenset(singles),
        spent_s=_spent_s(data.runs),
    )


def check_same(spec: SessionSpec, data: SessionData) -> None:
    """Raise SpecError when the session was made of something else than `spec`: its runs would not belong together."""
    before, now = data.session, spec
    stored = {variant.name: variant.artifact_sha256 for variant in data.variants if variant.status == "ok"}
    given = {record.name: record.artifact_sha256 for record in now.variants if record.status == "ok"}
    differences = [
        f"{name}: {old!r} then, {new!r} now"
        for name, old, new in (
            ("seed", before.seed, now.seed),
            ("threads", before.environment.get("threads"), now.threads),
            ("precision", before.environment.get("precision"), now.precision),
            ("options", before.environment.get("options", {}), dict(now.options)),
            ("devices", sorted(d.name for d in data.devices), sorted(d.name for d in now.devices)),
            ("variants", sorted(stored), sorted(given)),
            ("rows", 0 if data.reference is None else data.reference.rows, now.reference.rows if now.reference else 0),
        )
        if old != new
    ]
    protocol = asdict(now.protocol)
    differences += [
        f"protocol {key}: {value!r} then, {protocol[key]!r} now"
        for key, value in before.protocol.items()
        if key in protocol and protocol[key] != value
    ]
    if stored.keys() == given.keys():
        differences += [f"the artifact of {name} is another" for name in stored if stored[name] != given[name]]
    if differences:
        raise SpecError(
            f"session {before.id} cannot go on: {'; '.join(differences)}",
            remedy="give what it was begun with, or start a new session without --resume",
        )
