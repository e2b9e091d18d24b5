"""Readings of a meter and the phases of an energy run → energy per inference. Pure; refuses rather than guesses.

Trapezoid over the device's own timestamps, power interpolated at the edges of each window. Idle before and after the work
gives the idle power, which is subtracted for the dynamic energy. Every window must be long enough for the gauge.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.collectors.meters import CHARGE, ENERGY, POWER, Meter, meter_from_json
from harness.collectors.power import ZEROS, charging, implausible, sign_of, values_of
from harness.collectors.unavailable import Unavailable

Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]

MINIMUM_WINDOW_S = 10.0
MINIMUM_UPDATES = 10
MAXIMUM_IDLE_CHANGE = 0.05
# A window ends with the inference that is running; a clock may be read a little early.
_ALLOWANCE = 0.98
# A hole in the readings longer than this share of the phase, and than so many usual distances, hides what happened.
_LONGEST_GAP, _USUAL_GAPS = 0.1, 3.0


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of an energy run: "idle" or "load", its edges by the device's clock in ns, inferences finished in it."""

    kind: str
    window: int
    started_ns: int
    ended_ns: int
    inferences: int = 0

    @property
    def seconds(self) -> float:
        """How long it lasted."""
        return (self.ended_ns - self.started_ns) / 1e9


@dataclass(frozen=True, slots=True)
class Energy:
    """Energy per inference in µJ, medians over windows; `dynamic_uj` has the idle power subtracted (None with its reason
    where the work cannot be told from idling). Powers in µW. `resolution_uj`: what one step of the meter is worth.
    `updates`: new values of the meter in the window that had the least."""

    source: str
    total_uj: float
    dynamic_uj: float | None
    totals_uj: tuple[float, ...]
    idle_power_uw: float
    load_power_uw: float
    resolution_uj: float | None
    updates: float
    window_s: float
    idle_s: float
    idle_change: float
    dynamic_reason: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Series:
    """A meter's readings in time order. `watts` [n] at `t_ns` [n], or with `counter` its joules since the first reading.
    `step`: smallest difference of two readings (W or J). `update_s`: seconds between new values."""

    t_ns: Int64Array
    values: Float64Array
    counter: bool
    step: float | None
    update_s: float
    errors: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


Channels = Mapping[str, tuple[Int64Array, list[str | None]]]


def energy_of_run(sensors: Iterable[Mapping[str, Any]]) -> Energy | Unavailable:
    """From the `sensors` of a stored energy run: its meter, phases and samples."""
    sensors = list(sensors)
    meters = [item["values"] for item in sensors if item["name"] == "meter"]
    if not meters:
        return Unavailable("the run does not say what its meter was")
    try:
        meter = meter_from_json(meters[0])
        phases = [_phase(item["values"]) for item in sensors if item["name"] == "phase"]
        channels, errors = _channels([item["values"] for item in sensors if item["name"] == "samples"])
    except (KeyError, TypeError, ValueError) as error:
        return Unavailable(f"the run's readings cannot be understood: {error!r}")
    return energy_of(meter, phases, channels, errors)


def _phase(values: Mapping[str, Any]) -> Phase:
    edges = int(values["started_ns"]), int(values["ended_ns"])
    return Phase(str(values["phase"]), int(values["window"]), *edges, int(values["inferences"]))


def _channels(
    samples: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, tuple[Int64Array, list[str | None]]], tuple[str, ...]]:
    times: dict[str, list[int]] = {}
    texts: dict[str, list[str | None]] = {}
    errors: dict[str, None] = {}
    for batch in samples:
        for name, values in batch.items():
            if name == "errors":
                errors |= {f"{channel}: {words}": None for channel, words in values.items()}
            else:
                times.setdefault(name, []).extend(values["t_ns"])
                texts.setdefault(name, []).extend(values["text"])
    found = {name: (np.asarray(times[name], dtype=np.int64), texts[name]) for name in times}
    return found, tuple(errors)


def energy_of(
    meter: Meter, phases: Sequence[Phase], channels: Channels, errors: tuple[str, ...] = ()
) -> Energy | Unavailable:
    """Energy per inference, or why there is none. `phases`: idle, one or more windows of work, idle."""
    idle = [phase for phase in phases if phase.kind == "idle"]
    load = [phase for phase in phases if phase.kind == "load"]
    if len(idle) < 2 or not load:  # noqa: PLR2004 - before and after
        return Unavailable("the run ended before it had work between two idle phases")
    why = charging(meter, {name: texts for name, (_, texts) in channels.items()})
    if why is not None:
        return why
    series = series_of(meter, channels, errors)
    if isinstance(series, Unavailable):
        return series
    for phase in (idle[0], *load, idle[-1]):
        why = _unfit(series, phase)
        if why is not None:
            return why
    return _energy(meter, series, (idle[0], idle[-1]), load)


def series_of(meter: Meter, channels: Channels, errors: tuple[str, ...] = ()) -> Series | Unavailable:
    """A meter's readings as power, or as a counter of joules. Unavailable for what cannot be read or believed."""
    names = ["battery"] if meter.source == "dumpsys" else list(meter.scales)
    missing = [name for name in names if name not in channels or not channels[name][0].size]
    if missing:
        return Unavailable(f"{meter.label}: {missing[0]} was never read" + _because(errors))
    readings = {name: texts for name, (_, texts) in channels.items()}
    times = {name: channels[name if meter.source != "dumpsys" else "battery"][0] for name in meter.scales}
    values = {name: values_of(meter, readings, name) for name in meter.scales}
    for name, found in values.items():
        if not np.isfinite(found).any():
            return Unavailable(f"{meter.label}: {name} could not be read" + _because(errors))
    if meter.quantity in (ENERGY, CHARGE):
        return _counter(meter, times, values, errors)
    if meter.quantity == POWER:
        t_ns, watts = _valid(times["power"], values["power"])
    else:
        t_ns, current = _valid(times["current"], values["current"])
        t_volts, volts = _valid(times["voltage"], values["voltage"])
        watts = current * np.interp(t_ns, t_volts, volts)
    return _power(meter, t_ns, watts, errors)


def _because(errors: Sequence[str]) -> str:
    return f" ({'; '.join(errors)})" if errors else ""


def _valid(t_ns: Int64Array, values: Float64Array) -> tuple[Int64Array, Float64Array]:
    """Readings that are numbers, in strict time order."""
    keep = np.isfinite(values)
    keep[1:] &= np.diff(t_ns) > 0
    return t_ns[keep], values[keep]


def _power(meter: Meter, t_ns: Int64Array, watts: Float64Array, errors: tuple[str, ...]) -> Series | Unavailable:
    sign = sign_of(watts, meter)
    if isinstance(sign, Unavailable):
        return Unavailable(f"{meter.label}: {sign.reason}", sign.remedy)
    zeros = float((watts == 0.0).mean())
    if zeros > ZEROS:
        return Unavailable(f"{meter.label}: {zeros:.0%} of the readings are zero, which no running device draws")
    notes = (f"{zeros:.1%} of the readings were zero and left out",) if zeros else ()
    keep = watts != 0.0
    t_ns, watts = t_ns[keep], watts[keep] * sign
    why = implausible(float(np.median(watts)), meter)
    if why is not None:
        return Unavailable(f"{meter.label}: {why.reason}", why.remedy)
    changes = np.flatnonzero(np.diff(watts) != 0.0) + 1
    if not changes.size:
        return Unavailable(f"{meter.label}: it showed the same value throughout: it does not update")
    steps = np.abs(np.diff(watts[np.concatenate(([0], changes))]))
    update_s = meter.update_s or 0.0
    if not meter.fresh and meter.update_s is None:
        update_s = _spacing_s(t_ns[changes])
    return Series(t_ns, watts, False, float(steps.min()), update_s, errors, notes)


def _counter(
    meter: Meter, times: Mapping[str, Int64Array], values: Mapping[str, Float64Array], errors: tuple[str, ...]
) -> Series | Unavailable:
    """Joules used since the first reading. Between two changes of a slow counter nothing is known, so only changes are
    kept: a straight line between them. Counters that begin again at zero go on."""
    parts: list[tuple[Int64Array, Float64Array]] = []
    for name, raw in values.items():
        if name == "voltage":
            continue
        t_ns, found = _valid(times[name], raw)
        used = np.diff(found)
        if meter.battery:
            used = -used
        elif name in meter.wraps:
            used = np.where(used < 0, used + meter.wraps[name] * meter.scales[name], used)
        if meter.quantity == CHARGE:
            t_volts, volts = _valid(times["voltage"], values["voltage"])
            used = used * np.interp(t_ns[1:], t_volts, volts)
        if (used < 0).any():
            return Unavailable(f"{meter.label}: its counter runs backwards", "is something charging? Unplug the device")
        parts.append((t_ns, np.concatenate(([0.0], np.cumsum(used)))))
    t_ns = parts[0][0]
    joules = sum((np.interp(t_ns, t, j) for t, j in parts), np.zeros(t_ns.size))
    changes = np.flatnonzero(np.diff(joules) > 0.0) + 1
    if changes.size < 2:  # noqa: PLR2004 - a line has two ends
        return Unavailable(f"{meter.label}: its counter moved {changes.size} times in the whole run")
    update_s = meter.update_s or _spacing_s(t_ns[changes])
    # The first reading is no change: when the counter last moved before it is not known.
    return Series(t_ns[changes], joules[changes], True, float(np.diff(joules[changes]).min()), update_s, errors)


def _spacing_s(t_ns: Int64Array) -> float:
    """The usual distance between changes; a change that brings the same value goes unseen, hence the median."""
    return float(np.median(np.diff(t_ns))) / 1e9 if t_ns.size > 1 else float("inf")


def _unfit(series: Series, phase: Phase) -> Unavailable | None:
    """Why a phase cannot be integrated: too short, too few new values, a hole in the readings."""
    what = "the idle phase" if phase.kind == "idle" else f"window {phase.window + 1}"
    if phase.seconds < MINIMUM_WINDOW_S * _ALLOWANCE:
        return Unavailable(
            f"{what} lasted {phase.seconds:.1f} s, less than {MINIMUM_WINDOW_S:g} s", "raise energy_window_s"
        )
    updates = updates_in(series, phase)
    if updates < MINIMUM_UPDATES * _ALLOWANCE:
        return Unavailable(
            f"{what} has {updates:.1f} new values of the meter in {phase.seconds:.0f} s, fewer than {MINIMUM_UPDATES}"
            + _because(series.errors),
            "raise energy_window_s: the meter is slow",
        )
    inside = series.t_ns[(series.t_ns >= phase.started_ns) & (series.t_ns <= phase.ended_ns)]
    edges = np.concatenate(([phase.started_ns], inside, [phase.ended_ns]))
    gap_s = float(np.diff(edges).max()) / 1e9
    usual_s = max(_spacing_s(series.t_ns), series.update_s if series.counter else 0.0)
    if gap_s > max(_LONGEST_GAP * phase.seconds, _USUAL_GAPS * usual_s):
        return Unavailable(f"{what} has no reading for {gap_s:.1f} s" + _because(series.errors))
    return None


def updates_in(series: Series, phase: Phase) -> float:
    """New values of the meter in a phase: no more than readings, and no more than the meter makes in that time."""
    count = float(((series.t_ns >= phase.started_ns) & (series.t_ns <= phase.ended_ns)).sum())
    if series.counter:
        return count  # only changes are kept
    return min(count, phase.seconds / series.update_s) if series.update_s > 0 else count


def joules_in(series: Series, phase: Phase) -> float:
    """Energy of a phase: trapezoid on the device's timestamps, interpolated at both edges; or the counter's difference,
    where the counter did not move before the phase or after it, brought up to the whole phase."""
    edges = np.array([phase.started_ns, phase.ended_ns], dtype=np.int64)
    if series.counter:
        edges = np.clip(edges, series.t_ns[0], series.t_ns[-1])
    at_edges = np.interp(edges, series.t_ns, series.values)
    if series.counter:
        return float(at_edges[1] - at_edges[0]) * phase.seconds / max(float(edges[1] - edges[0]) / 1e9, 1e-9)
    inside = (series.t_ns > edges[0]) & (series.t_ns < edges[1])
    t_ns = np.concatenate((edges[:1], series.t_ns[inside], edges[1:]))
    watts = np.concatenate((at_edges[:1], series.values[inside], at_edges[1:]))
    return float(((watts[1:] + watts[:-1]) / 2 * (np.diff(t_ns) / 1e9)).sum())


def _energy(meter: Meter, series: Series, idle: tuple[Phase, Phase], load: Sequence[Phase]) -> Energy | Unavailable:
    before, after = (joules_in(series, phase) / phase.seconds for phase in idle)
    idle_w = (before + after) / 2
    change = (after - before) / idle_w if idle_w > 0 else float("inf")
    if abs(change) > MAXIMUM_IDLE_CHANGE:
        return Unavailable(
            f"idle power was {before:.4g} W before and {after:.4g} W after the work, {change:+.1%}: more than"
            f" {MAXIMUM_IDLE_CHANGE:.0%} apart",
            "let the device come to rest: other programs, radio and screen off, cool",
        )
    joules = [joules_in(series, phase) for phase in load]
    totals = [1e6 * j / phase.inferences for j, phase in zip(joules, load, strict=True)]
    dynamic = [1e6 * (j - idle_w * p.seconds) / p.inferences for j, p in zip(joules, load, strict=True)]
    powers = np.array([j / phase.seconds for j, phase in zip(joules, load, strict=True)])
    load_w = float(np.median(powers))
    last = load[len(load) // 2]
    step = series.step or 0.0
    # A counter may be off by a step at each end; a power by half a step throughout.
    resolution_j = step if series.counter else step * last.seconds / 2
    # What idling itself differs by, and what windows scatter by, cannot be told from work either.
    scatter_w = 2 * float(powers.std(ddof=1)) / powers.size**0.5 if powers.size > 1 else 0.0
    told = load_w - idle_w > max(resolution_j / last.seconds, abs(after - before), scatter_w)
    reason = None if told else f"the work cannot be told from idling: {load_w:.4g} W against {idle_w:.4g} W"
    return Energy(
        source=meter.label,
        total_uj=float(np.median(totals)),
        dynamic_uj=float(np.median(dynamic)) if told else None,
        totals_uj=tuple(totals),
        idle_power_uw=1e6 * idle_w,
        load_power_uw=1e6 * load_w,
        resolution_uj=1e6 * resolution_j / last.inferences if step else None,
        updates=min(updates_in(series, phase) for phase in load),
        window_s=min(phase.seconds for phase in load),
        idle_s=min(phase.seconds for phase in idle),
        idle_change=change,
        dynamic_reason=reason,
        notes=(*meter.notes, *series.notes),
    )
