"""Variants × devices × protocol → jobs in seeded random order: what the runner will do, decided before it starts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MeasurementProtocol:
    """How much is measured (docs/methodology). Presets: quick, standard, headline, certified.

    `runs`: latency runs per variant at least; more are added up to `max_runs` until the relative half-width of the
    95 % interval is ≤ `target` or `budget_s` is spent. `run_s`, `run_samples`: measured time and samples per variant
    and run, spread over `rounds` interleaved rounds. `probes`: fresh processes per variant for cold start and memory.
    """

    preset: str = "standard"
    runs: int = 6
    max_runs: int = 12
    target: float = 0.03
    budget_s: float | None = None
    probes: int = 3
    warmup_s: float = 0.5
    warmup_samples: int = 5
    run_s: float = 1.0
    run_samples: int = 50
    rounds: int = 10
    settle: int = 2
    memory_invokes: int = 10


PRESETS: dict[str, MeasurementProtocol] = {
    "quick": MeasurementProtocol(
        preset="quick", max_runs=6, probes=1, warmup_s=0.02, run_s=0.05, run_samples=50, rounds=5
    ),
    "standard": MeasurementProtocol(),
    "headline": MeasurementProtocol(preset="headline", runs=12, max_runs=24, target=0.01, probes=6),
    "certified": MeasurementProtocol(
        preset="certified", runs=12, max_runs=24, target=0.01, probes=6, run_s=60.0, run_samples=1024, rounds=30
    ),
}
