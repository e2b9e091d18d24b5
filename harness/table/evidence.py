"""What a row is graded by: how it was measured, what disturbed it, which rules were not met."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.collectors.thermal import throttling
from harness.records import Failure, SessionData
from harness.row import OK
from harness.stats import grade, stopping
from harness.table.cells import Cell
from harness.table.contention import Judged, contention_of
from harness.table.drifts import Place, drift_of
from harness.table.energy import energy_remarks

# An artifact of this recipe holds f32; computing it in less is the engine's doing.
_FULL = "fp32"


def setting_figures(cell: Cell, figures: dict[str, Any], reasons: dict[str, str]) -> None:
    """What was read back, not what was asked for."""
    loads = [*cell.probes, *cell.loads]
    figures["precision"] = next((str(x.facts["precision"]) for x in loads if x.facts.get("precision")), None)
    said = [str(load.facts["precision_reason"]) for load in loads if load.facts.get("precision_reason")]
    reasons["precision"] = said[0] if said else "the engine does not tell"
    figures["threads"] = threads_of(cell)
    affinity = next((item["affinity"] for item in cell.environments if item.get("affinity") is not None), None)
    figures["affinity"] = None if affinity is None else ",".join(str(cpu) for cpu in affinity)
    reasons["affinity"] = "the device does not tell"


def threads_of(cell: Cell) -> int | None:
    """How many threads the engine really used; None where nobody tells."""
    told = [load.facts.get("threads") for load in (*cell.loads, *cell.probes)]
    told += [environment.get("threads") for environment in cell.environments]
    return next((int(value) for value in told if isinstance(value, int)), None)


def evidence_of(
    cell: Cell,
    data: SessionData,
    status: str,
    failure: Failure | None,
    judged: Sequence[Sequence[Judged]],
    beside: Sequence[Mapping[Place, float]] = (),
) -> grade.Evidence:
    """What the rules of `harness.stats.grade` are held against; `judged`: the blocks of each run; `beside`: see `drifts`."""
    runs = cell.latency
    medians = [samples.median_ns for samples in runs]
    return grade.Evidence(
        preset=str(data.session.protocol.get("preset", "standard")),
        runs=len(runs),
        run_s=min((s.seconds(s.blocks) for s in runs), default=0.0),
        run_samples=min((s.size for s in runs), default=0),
        warmup_s=min((s.seconds(s.warmup) for s in runs), default=0.0),
        warmup_samples=min((sum(block.wall_ns.size for block in s.warmup) for s in runs), default=0),
        half_width=stopping.relative_half_width(medians),
        drift=drift_of(cell, judged, beside),
        contention=contention_of(judged),
        emulated=cell.device.emulated,
        counted=cell.counted,
        spread=max(medians) / min(medians) - 1 if medians and min(medians) > 0 else None,
        failure=None if status == OK or failure is None else f"{status}: {failure.message}",
        remarks=tuple(_remarks(cell, data)),
        injected=_injected(cell),
        unjudged=sum(item.causes is None for run in judged for item in run),
    )


def _injected(cell: Cell) -> str | None:
    """How the agent says it was slowed down on purpose; None for nearly every row there is."""
    told = (load.facts.get("injected") for load in (*cell.probes, *cell.loads))
    return next((str(words) for words in told if words), None)


def _remarks(cell: Cell, data: SessionData) -> Iterator[str]:
    """Rules unmet that no figure shows."""
    if cell.failures:
        yield f"{len(cell.failures)} runs of it failed, one with: {cell.failures[-1].message}"
    asked = data.session.environment.get("precision", data.session.experiment.get("precision"))
    told = {str(load.facts["precision"]) for load in (*cell.probes, *cell.loads) if load.facts.get("precision")}
    full = (cell.variant.recipe or "").rpartition("+")[2] == _FULL  # after compression steps too
    lowered = told & ({"bf16", "f16"} if full else {"bf16"})
    if asked == "f32" and lowered:
        yield f"computed in {', '.join(sorted(lowered))}, though f32 was asked for"
    wanted = data.session.environment.get("threads", data.session.experiment.get("threads"))
    threads = threads_of(cell)
    if wanted is not None and threads is not None and threads != wanted:
        yield f"ran with {threads} threads, not {wanted}"
    yield from _elsewhere(cell)
    if len({item.outputs_sha256 for item in cell.evaluations}) > 1:
        yield "its outputs differ from run to run"
    if any(samples.run.status == "interrupted" for samples in cell.latency):
        yield "a run was interrupted"
    yield from _heat(cell)
    held = dict.fromkeys(word for sensors in cell.sensors for word in throttling(sensors))
    if held:
        yield f"held back: {', '.join(held)}"
    yield from energy_remarks(cell)


def _elsewhere(cell: Cell) -> Iterator[str]:
    """CPUs that were asked for and not given, at the beginning or at the end of a run."""
    for environment in cell.environments:
        asked = (environment.get("requested") or {}).get("affinity")
        if asked is None:
            continue
        given = [environment.get("affinity"), (environment.get("after") or {}).get("affinity")]
        other = next((cpus for cpus in given if cpus is not None and set(cpus) != set(asked)), None)
        if other is not None:
            yield f"ran on CPUs {', '.join(map(str, other))}, not {', '.join(map(str, asked))}"
            return


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
