"""Meters that never were: phases of an energy run, what a device draws in them, readings with jitter, gaps and signs, and the truth.

Shared by the tests of the energy collector and by `scripts/_fidelity/g11.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from harness.agent.protocol import SensorChannel
from harness.collectors.energy import Phase
from harness.collectors.meters import CURRENT_VOLTAGE, ENERGY, POWER, Meter

S = 1_000_000_000
IDLE_S, WINDOW_S, WINDOWS, SETTLE_S = 30.0, 10.0, 5, 2.0
T0 = 5_000 * S
Power = Callable[[np.ndarray], np.ndarray]


def phases_of(window_s: float = WINDOW_S, idle_s: float = IDLE_S, inferences: int = 1000) -> list[Phase]:
    """Idle, settling, windows with small pauses between them, settling, idle."""
    at, found = T0 + S, []

    def add(kind: str, index: int, seconds: float, count: int) -> None:
        nonlocal at
        found.append(Phase(kind, index, at, at + int(seconds * S), count))
        at += int(seconds * S)

    add("idle", 0, idle_s, 0)
    at += int(SETTLE_S * S)
    for index in range(WINDOWS):
        add("load", index, window_s, inferences)
        at += 3_000_000
    at += int(SETTLE_S * S)
    add("idle", 1, idle_s, 0)
    return found


def draw(phases: Sequence[Phase], idle_w: float, load_w: float, ripple: float) -> Power:
    """What the device draws: idle or at work, with a slow ripple and steps of the governor on top of the work."""
    works = [(p.started_ns - S * SETTLE_S / 2, p.ended_ns + S * SETTLE_S / 4) for p in phases if p.kind == "load"]

    def power(t_ns: np.ndarray) -> np.ndarray:
        t = np.asarray(t_ns, dtype=np.float64)
        busy = np.any([(t >= a) & (t <= b) for a, b in works], axis=0)
        wave = 1 + ripple * np.sin(t / S * 2 * np.pi / 3.7) + ripple * np.sign(np.sin(t / S * 2 * np.pi / 2.3))
        return np.where(busy, load_w * wave, idle_w)

    return power


def true_joules(power: Power, phase: Phase) -> float:
    t = np.linspace(phase.started_ns, phase.ended_ns, 20_001)
    w = power(t)
    return float(((w[1:] + w[:-1]) / 2).sum() * (t[1] - t[0]) / S)


def ticks(phases: Sequence[Phase], rate_hz: float, jitter: float, seed: int) -> np.ndarray:
    chance = np.random.default_rng(seed)
    start, end = T0, phases[-1].ended_ns + S
    t = np.arange(start, end, S / rate_hz)
    return np.sort(t + chance.uniform(-jitter, jitter, t.size) * S / rate_hz).astype(np.int64)


def rail(**changes: Any) -> Meter:
    meter = Meter("hwmon", "ina226", POWER, (SensorChannel("power", "/p"),), {"power": 1e-6})
    return dataclasses.replace(meter, **changes)


def gauge(**changes: Any) -> Meter:
    channels = tuple(SensorChannel(name, f"/{name}") for name in ("current", "voltage", "status battery"))
    scales = {"current": 1e-6, "voltage": 1e-6}
    meter = Meter("power_supply", "battery", CURRENT_VOLTAGE, channels, scales, battery=True, fresh=False)
    return dataclasses.replace(meter, **changes)


def text(values: np.ndarray) -> list[str | None]:
    return [str(round(float(value))) for value in values]


def power_channel(power: Power, t: np.ndarray, step_uw: float = 1000.0) -> dict[str, Any]:
    return {"power": (t, text(np.round(power(t) * 1e6 / step_uw) * step_uw))}


def truth(power: Power, phases: Sequence[Phase]) -> tuple[float, float]:
    """Total and dynamic µJ per inference, medians over windows."""
    idle = [true_joules(power, p) / p.seconds for p in phases if p.kind == "idle"]
    loads = [p for p in phases if p.kind == "load"]
    joules = [true_joules(power, p) for p in loads]
    total = np.median([j / p.inferences for j, p in zip(joules, loads, strict=True)])
    dynamic = np.median([(j - np.mean(idle) * p.seconds) / p.inferences for j, p in zip(joules, loads, strict=True)])
    return 1e6 * float(total), 1e6 * float(dynamic)


def gauge_channels(
    power: Power, t: np.ndarray, *, sign: int, phase_s: float, seed: int, every_s: float = 1.0
) -> dict[str, Any]:
    """A fuel gauge polled at `t`: a new value every `every_s`, the mean of the time before, with a little noise in its last digits."""
    grid = np.arange(T0 - 3 * S + int(phase_s * S), t[-1], int(every_s * S))
    fine = np.linspace(-every_s, 0, 101)
    means = np.array([power(g + fine * S).mean() for g in grid])
    means *= 1 + np.random.default_rng(seed).normal(0, 0.003, means.size)
    held = means[np.searchsorted(grid, t, side="right") - 1]
    return {
        "current": (t, text(sign * held / 3.9 * 1e6)),
        "voltage": (t[::5], text(np.full(t.size, 3.9e6)[::5])),
        "status battery": (t[::20], ["Discharging"] * t[::20].size),
    }


def lose(channels: dict[str, Any], share: float, seed: int) -> dict[str, Any]:
    """The same with that share of the power readings lost."""
    t, texts = channels["power"]
    keep = np.random.default_rng(seed).uniform(size=t.size) >= share
    return {"power": (t, [value if kept else None for value, kept in zip(texts, keep, strict=True)])}


def counter_channels(
    power: Power, t: np.ndarray, *, begin: float, whole_uj: int = 262_143_328
) -> tuple[Meter, dict[str, Any]]:
    """A counter of µJ that begins again at zero after `whole_uj`, read at `t`; `begin`: where it stood, as a share."""
    fine = np.linspace(t[0], t[-1], 100_001)
    w = power(fine)
    used = np.concatenate(([0.0], np.cumsum((w[1:] + w[:-1]) / 2 * np.diff(fine) / S)))
    raw = (np.interp(t, fine, used) * 1e6 + begin * whole_uj) % whole_uj
    scales, wraps = {"energy0": 1e-6}, {"energy0": whole_uj}
    meter = Meter("rapl", "package-0", ENERGY, (SensorChannel("energy0", "/e"),), scales, wraps=wraps)
    return meter, {"energy0": (t, text(raw))}
