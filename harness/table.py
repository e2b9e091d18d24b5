"""Stored runs → rows: the only place that aggregates.

Place in the flow: `Store.load` → `build_rows` → reports, choice, comparison. Deterministic: the same SessionData gives the same
rows, to the last bit. Nothing is measured or guessed here; a figure that is missing says why.

A device that counts instructions has virtual time in a field of its own, and no latency, load or first-inference time at all.

What is read: latency from the "measure" blocks of latency runs that ended or were interrupted; cold start and memory from
probe runs; answers from the first evaluation, held against the session's reference.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from harness.agent.protocol import ENGINE_OF_FORMAT
from harness.collectors.thermal import throttling
from harness.energy_table import energy_figures, energy_remarks
from harness.gather import Cell, cells
from harness.records import Block, Evaluation, Failure, Reference, SessionData
from harness.row import FAILED, OK, REFUSED, Row
from harness.stats import contention, drift, grade, proportions, quantiles, stopping

Key = tuple[str, str]  # variant, device

_NOT_NULLABLE = {"session", "variant", "base", "format", "recipe", "device", "engine", "status", "error", "remedy"}
_NOT_NULLABLE |= {"runs", "samples", "grade", "grade_reasons", "null_reasons"}
NULLABLE = tuple(item.name for item in fields(Row) if item.name not in _NOT_NULLABLE)
_LABELLED = ("accuracy", "accuracy_top5", "macro_f1")
_DROP = ("accuracy_drop_pp", "accuracy_drop_low_pp", "accuracy_drop_high_pp")
_CLASSIFICATION = (*_LABELLED, *_DROP, "agreement")
_REGRESSION = ("mae", "rmse", "rmse_ratio")
_TOP5 = 5
_COUNTED = "instructions were counted, time was not measured"
_TIMES = ("load_ns", "first_inference_ns")
# An artifact of this recipe holds f32; computing it in less is the engine's doing.
_FULL = "fp32"


def build_rows(data: SessionData) -> list[Row]:
    """All rows of a session: every variant on every device, those that failed or were refused included."""
    return [_row(cell, data) for cell in cells(data)]


def run_medians(data: SessionData, *, counted: bool = False) -> dict[Key, dict[int, float]]:
    """(variant, device) → round → median of that run's samples, ns. `counted`: of devices that count instructions, instead."""
    return {
        (cell.variant.name, cell.device.name): {s.run.round: float(np.median(s.wall_ns)) for s in cell.latency}
        for cell in cells(data)
        if cell.latency and cell.counted == counted
    }


def block_medians(data: SessionData, *, counted: bool = False) -> dict[Key, dict[tuple[int, str], dict[int, float]]]:
    """(variant, device) → (round, run) → interleaved round → median of that block's samples, ns; `counted` as above.

    A run is named by its id, or by what runs of several devices have in common whose rounds were measured in turns.
    """
    return {
        (cell.variant.name, cell.device.name): {
            (s.run.round, str(s.run.environment.get("turns", s.run.id))): {
                block.index: float(np.median(block.wall_ns)) for block in s.blocks
            }
            for s in cell.latency
        }
        for cell in cells(data)
        if cell.latency and cell.counted == counted
    }


def _row(cell: Cell, data: SessionData) -> Row:
    variant, device = cell.variant, cell.device
    status, failure = _status(cell, data)
    figures: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    if cell.measured:
        if cell.counted:
            _virtual_time(cell, figures, reasons)
        else:
            _latency(cell, data.session.seed, figures, reasons)
            _cold_start(cell, figures, reasons)
        _memory(cell, figures, reasons)
        _answers(cell, data.reference, figures, reasons)
        _setting(cell, figures, reasons)
        energy_figures(cell, data, figures, reasons)
    figures |= {name: getattr(variant, name) for name in ("size_bytes", "size_gzip_bytes", "parameters")}
    letter, words = grade.grade(_evidence(cell, data, status, failure))
    error = None if failure is None else f"{failure.name}: {failure.message}"
    return Row(
        session=data.session.id,
        variant=variant.name,
        base=variant.base,
        format=variant.format,
        recipe=variant.recipe,
        device=device.name,
        engine=ENGINE_OF_FORMAT.get(variant.format),
        status=status,
        error=error,
        remedy=None if failure is None else failure.remedy,
        grade=letter,
        grade_reasons=words,
        null_reasons=_null_reasons(cell, status, figures, reasons),
        **figures,
    )


def _status(cell: Cell, data: SessionData) -> tuple[str, Failure | None]:
    """A variant is ok when something of it was measured and nothing of it failed after that."""
    variant = cell.variant
    if variant.status != OK:
        status = REFUSED if variant.status == REFUSED else FAILED
        return status, variant.failure or Failure("conversion", "Unknown", "no reason was recorded")
    if cell.failures and not cell.alive:
        return FAILED, cell.failures[-1]
    if cell.measured:
        return OK, None
    if cell.device.failure is not None or cell.lost is not None:
        return FAILED, cell.device.failure or cell.lost
    why = {"running": "the session is still running, or was killed", "interrupted": "the session was interrupted"}
    reason = why.get(data.session.status, "no run of it was made")
    return FAILED, Failure("measurement", "NotMeasured", reason, remedy="run the session again")


def _null_reasons(cell: Cell, status: str, figures: Mapping[str, Any], reasons: Mapping[str, str]) -> tuple[str, ...]:
    general = {
        "latency": "no latency run of it ended",
        "virtual": "no emulator that counts instructions",
        "energy": "no power source was read on this device",
        "power": "no power source was read on this device",
        "idle": "no power source was read on this device",
        "size": "the size is not known",
        "parameters": "the manifest does not say",
    }
    if not cell.measured:
        failed = "the variant does not exist" if cell.variant.status != OK else "the variant was not measured"
        general = dict.fromkeys(general, failed)
    default = "not measured" if status == OK else "the variant failed"
    found = []
    for name in NULLABLE:
        if figures.get(name) is None:
            reason = reasons.get(name) or general.get(name.split("_", 1)[0])
            found.append(f"{name}: {reason or (default if cell.measured else general['latency'])}")
    return tuple(found)


def _virtual_time(cell: Cell, figures: dict[str, Any], reasons: dict[str, str]) -> None:
    """Median over runs of the run medians, like a latency's; only that it is none, and the guest's other times are none."""
    reasons |= dict.fromkeys([name for name in NULLABLE if name.startswith("latency")], _COUNTED)
    reasons |= dict.fromkeys(_TIMES, _COUNTED)
    reasons["virtual_time_ns"] = "no latency run of it ended"
    if cell.latency:
        runs = [samples.wall_ns for samples in cell.latency]
        figures |= {"runs": len(runs), "samples": sum(run.size for run in runs)}
        figures["virtual_time_ns"] = float(np.median([np.median(run) for run in runs]))


def _latency(cell: Cell, seed: int, figures: dict[str, Any], reasons: dict[str, str]) -> None:
    if not cell.latency:
        return
    runs = [samples.wall_ns for samples in cell.latency]
    figures |= {"runs": len(runs), "samples": sum(run.size for run in runs)}
    middle = quantiles.median([np.median(run) for run in runs])
    figures |= {"latency_median_ns": middle.value, "latency_median_low_ns": middle.low}
    figures |= {"latency_median_high_ns": middle.high, "latency_min_ns": float(min(run.min() for run in runs))}
    if middle.reason is not None:
        reasons |= dict.fromkeys(("latency_median_low_ns", "latency_median_high_ns"), middle.reason)
    pooled = np.concatenate(runs)
    for name, q in (("latency_p90", 0.90), ("latency_p99", 0.99)):
        found = quantiles.pooled_percentile(runs, q, seed=seed)
        early = quantiles.early_stopping_estimate(pooled, q)
        figures |= {f"{name}_ns": found.value, f"{name}_low_ns": found.low, f"{name}_high_ns": found.high}
        figures[f"{name}_early_stopping_ns"] = early
        if found.reason is not None:
            reasons |= dict.fromkeys((f"{name}_ns", f"{name}_low_ns", f"{name}_high_ns"), found.reason)
        reasons[f"{name}_early_stopping_ns"] = f"n/a (n={pooled.size}): too few for MLPerf's early stopping"


def _cold_start(cell: Cell, figures: dict[str, Any], reasons: dict[str, str]) -> None:
    reason = "no probe run of it ended"
    if cell.probes:
        figures["load_ns"] = float(np.median([load.load_ns for load in cell.probes]))
        first = [load.first_inference_ns for load in cell.probes if load.first_inference_ns is not None]
        figures["first_inference_ns"] = float(np.median(first)) if first else None
        reason = "the agent did not tell"
    reasons |= dict.fromkeys(_TIMES, reason)


def _memory(cell: Cell, figures: dict[str, Any], reasons: dict[str, str]) -> None:
    """The peak is the largest over probes, as each is a high-water mark; the growth by loading is the median."""

    def values(key: str, *, less_baseline: bool) -> list[int]:
        found = []
        for load in cell.probes:
            value, baseline = load.memory.get(key), load.memory.get("baseline")
            if value is not None and (baseline is not None or not less_baseline):
                found.append(value - baseline if less_baseline else value)
        return found

    for name, key, less_baseline in (
        ("memory_peak_bytes", "peak", False),
        ("memory_peak_delta_bytes", "peak", True),
        ("memory_loaded_delta_bytes", "after_load", True),
        ("memory_arena_bytes", "arena", False),
    ):
        found = values(key, less_baseline=less_baseline)
        if found:
            figures[name] = round(float(np.median(found))) if key == "after_load" else max(found)
        else:
            said = [str(load.memory[f"{key}_reason"]) for load in cell.probes if load.memory.get(f"{key}_reason")]
            reasons[name] = said[0] if said else "no probe run measured it"


def _answers(cell: Cell, reference: Reference | None, figures: dict[str, Any], reasons: dict[str, str]) -> None:
    task = "none" if reference is None else reference.task
    everything = (*_CLASSIFICATION, *_REGRESSION)
    if not cell.evaluations:
        reason = "there are no labelled data" if task == "none" else "no probe run gave its outputs"
        reasons |= dict.fromkeys((*everything, "outputs_sha256"), reason)
        return
    evaluation = cell.evaluations[0]
    figures["outputs_sha256"] = evaluation.outputs_sha256
    if reference is None or task == "none":
        reasons |= dict.fromkeys(everything, "there are no labelled data")
    elif evaluation.rows != reference.rows:
        reasons |= dict.fromkeys(everything, f"outputs of {evaluation.rows} of {reference.rows} rows")
    elif task == "regression":
        reasons |= dict.fromkeys(_CLASSIFICATION, "a regression has no classes")
        _regression(evaluation, reference, figures, reasons)
    else:
        reasons |= dict.fromkeys(_REGRESSION, "a classification has no such error")
        _classification(evaluation, reference, figures, reasons)


def _classification(
    evaluation: Evaluation, reference: Reference, figures: dict[str, Any], reasons: dict[str, str]
) -> None:
    top, labels, base = evaluation.top, reference.labels, reference.base_top
    if top is None:
        reasons |= dict.fromkeys(_CLASSIFICATION, "the outputs are no class scores")
        return
    if base is None:
        reasons |= dict.fromkeys((*_DROP, "agreement"), "the base model's own outputs are not known")
    else:
        figures["agreement"] = proportions.agreement(top[:, 0], base[:, 0])
    if labels is None:
        reasons |= dict.fromkeys((*_LABELLED, *_DROP), "the data have no labels")
        return
    right = proportions.top_k_right(top, labels, 1)
    figures |= {"accuracy": float(right.mean()), "macro_f1": proportions.macro_f1(top[:, 0], labels)}
    if top.shape[1] >= _TOP5:
        figures["accuracy_top5"] = float(proportions.top_k_right(top, labels, _TOP5).mean())
    reasons["accuracy_top5"] = f"there are only {top.shape[1]} classes"
    if base is not None:
        lost = proportions.paired_difference(proportions.top_k_right(base, labels, 1), right)
        figures |= {"accuracy_drop_pp": 100 * lost.value, "accuracy_drop_low_pp": 100 * lost.low}
        figures["accuracy_drop_high_pp"] = 100 * lost.high


def _regression(evaluation: Evaluation, reference: Reference, figures: dict[str, Any], reasons: dict[str, str]) -> None:
    outputs, labels, base = evaluation.outputs, reference.labels, reference.base_outputs
    if outputs is None or labels is None or outputs.size != labels.size:
        why = "the data have no labels" if labels is None else "the outputs do not match the labels' shape"
        reasons |= dict.fromkeys(_REGRESSION, why)
        return
    mae, rmse = proportions.errors(outputs, labels)
    figures |= {"mae": mae, "rmse": rmse}
    base_rmse = proportions.errors(base, labels)[1] if base is not None and base.size == labels.size else 0.0
    figures["rmse_ratio"] = rmse / base_rmse if base_rmse > 0.0 else None
    reasons["rmse_ratio"] = "the base model's own error is not known, or zero"


def _setting(cell: Cell, figures: dict[str, Any], reasons: dict[str, str]) -> None:
    """What was read back, not what was asked for."""
    loads = [*cell.probes, *cell.loads]
    figures["precision"] = next((str(x.facts["precision"]) for x in loads if x.facts.get("precision")), None)
    said = [str(load.facts["precision_reason"]) for load in loads if load.facts.get("precision_reason")]
    reasons["precision"] = said[0] if said else "the engine does not tell"
    figures["threads"] = _threads(cell)
    affinity = next((item["affinity"] for item in cell.environments if item.get("affinity") is not None), None)
    figures["affinity"] = None if affinity is None else ",".join(str(cpu) for cpu in affinity)
    reasons["affinity"] = "the device does not tell"


def _threads(cell: Cell) -> int | None:
    told = [load.facts.get("threads") for load in (*cell.loads, *cell.probes)]
    told += [environment.get("threads") for environment in cell.environments]
    return next((int(value) for value in told if isinstance(value, int)), None)


def _evidence(cell: Cell, data: SessionData, status: str, failure: Failure | None) -> grade.Evidence:
    runs = cell.latency
    medians = [float(np.median(samples.wall_ns)) for samples in runs]
    blocks = [block for samples in runs for block in samples.blocks]
    block_medians = [float(np.median(block.wall_ns)) for block in blocks]
    owners = [number for number, samples in enumerate(runs) for _ in samples.blocks]
    return grade.Evidence(
        preset=str(data.session.protocol.get("preset", "standard")),
        runs=len(runs),
        run_s=min((s.seconds(s.blocks) for s in runs), default=0.0),
        run_samples=min((s.wall_ns.size for s in runs), default=0),
        warmup_s=min((s.seconds(s.warmup) for s in runs), default=0.0),
        warmup_samples=min((sum(block.wall_ns.size for block in s.warmup) for s in runs), default=0),
        half_width=stopping.relative_half_width(medians),
        drift=_drift(blocks, block_medians, owners),
        contention=_contention(blocks, block_medians, _threads(cell)),
        emulated=cell.device.emulated,
        counted=cell.counted,
        spread=max(medians) / min(medians) - 1 if medians and min(medians) > 0 else None,
        failure=None if status == OK or failure is None else f"{status}: {failure.message}",
        remarks=tuple(_remarks(cell, data)),
    )


def _drift(blocks: Sequence[Block], medians: Sequence[float], runs: Sequence[int]) -> drift.Drift | None:
    if not blocks or min(medians) <= 0:
        return None
    times = [block.started_ns / 1e9 for block in blocks]
    if any(later <= earlier for earlier, later in itertools.pairwise(times)):
        # A reboot sets the device's clock back; then only the order is known.
        times = [float(position) for position in range(len(blocks))]
    return drift.analyse(times, medians, runs)


def _contention(blocks: Sequence[Block], medians: Sequence[float], threads: int | None) -> contention.Contention | None:
    judged = [(b, m) for b, m in zip(blocks, medians, strict=True) if contention.can_judge(threads, b.cpu_clock)]
    if not judged:
        return None
    flags = [contention.is_contended(block.wall_ns, block.cpu_ns) for block, _ in judged]
    return contention.judge([median for _, median in judged], flags)


def _remarks(cell: Cell, data: SessionData) -> Iterator[str]:
    """Rules unmet that no figure shows."""
    if cell.failures:
        yield f"{len(cell.failures)} runs of it failed, one with: {cell.failures[-1].message}"
    asked = data.session.environment.get("precision", data.session.experiment.get("precision"))
    told = {str(load.facts["precision"]) for load in (*cell.probes, *cell.loads) if load.facts.get("precision")}
    lowered = told & ({"bf16", "f16"} if cell.variant.recipe == _FULL else {"bf16"})
    if asked == "f32" and lowered:
        yield f"computed in {', '.join(sorted(lowered))}, though f32 was asked for"
    wanted = data.session.environment.get("threads", data.session.experiment.get("threads"))
    threads = _threads(cell)
    if wanted is not None and threads is not None and threads != wanted:
        yield f"ran with {threads} threads, not {wanted}"
    if len({item.outputs_sha256 for item in cell.evaluations}) > 1:
        yield "its outputs differ from run to run"
    if any(samples.run.status == "interrupted" for samples in cell.latency):
        yield "a run was interrupted"
    yield from _heat(cell)
    held = dict.fromkeys(word for sensors in cell.sensors for word in throttling(sensors))
    if held:
        yield f"held back: {', '.join(held)}"
    yield from energy_remarks(cell)


def _heat(cell: Cell) -> Iterator[str]:
    """Runs that began too hot because waiting did not help, or ended above the limit of the device profile."""
    waits = [run.get("cool_down") or {} for run in cell.environments]
    hot = [wait for wait in waits if wait.get("reached") is False]
    if hot:
        worst = max(hot, key=lambda wait: float(wait.get("end_c") or 0.0))
        text = f"started hot: {worst.get('end_c')} °C, not below {worst['below_c']:g} °C"
        yield f"{text} after waiting {worst['waited_s']:.0f} s ({len(hot)} runs)"
    limits = [(run.get("limit_c"), (run.get("after") or {}).get("temperature_c")) for run in cell.environments]
    above = [end for limit, end in limits if limit is not None and end is not None and end > limit]
    if above:
        yield f"throttled: {len(above)} runs ended above the limit of the device, the hottest at {max(above):.0f} °C"
