"""A fake device on which each run and each block of a variant takes another time, seeded: for tests of when to stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from fake_device import FakeDevice

from harness.agent.protocol import Job


class NoisyDevice(FakeDevice):
    """`spread`: variant → how much its runs scatter, relative; blocks by a tenth of that."""

    def __init__(self, spread: dict[str, float], seed: int = 0, **settings: Any) -> None:
        super().__init__(**settings)
        self.spread = spread
        self.rng = np.random.default_rng(seed)

    def _latency(self, job: Job, alive: list[str], say: Callable[..., str]) -> Iterator[str]:
        assert job.latency is not None
        plan = job.latency
        # By name and round, not by order: another order of the same job must not be another device.
        effects = {name: float(np.exp(self.rng.normal(0.0, self.spread.get(name, 0.0)))) for name in sorted(alive)}
        for name in alive:
            yield say("warmup", id=name, started_ns=0, wall_ns=[900], cpu_ns=[900], cpu_clock="thread")
        for index, order in enumerate(plan.order):
            for name in (name for name in order if name in alive):
                self.behave(job, f"visit {index} {name}")
                block = effects[name] * (1.0 + self.rng.normal(0.0, self.spread.get(name, 0.0) / 10))
                wall = [round(1e6 * self.ns.get(name, 1) * block)] * plan.block_samples
                yield say(
                    "block",
                    id=name,
                    index=index,
                    phase="measure",
                    started_ns=index,
                    wall_ns=wall,
                    cpu_ns=wall,
                    cpu_clock="thread",
                )
