"""What a scenario asks of a device: which runs it takes, and what the agent is told in each.

Beside `harness.plan`, which makes the jobs of all scenarios. single-stream: one inference after the other, for latency.
offline: batches and streams, for throughput. sustained: minutes without a pause, for what heat leaves of both.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from harness.agent.scenarios import (
    LOADGEN,
    OFFLINE,
    SINGLE_STREAM,
    SUSTAINED,
    LoadgenPlan,
    OfflinePlan,
    SustainedPlan,
)
from harness.plan import EnergyJob, MeasurementProtocol, Plan

# What the rules of MLPerf Inference ask of one query stream, and of the single query of the offline scenario.
QUERIES = {SINGLE_STREAM: 1024, OFFLINE: 24_576}
# Inputs that loadgen draws from.
LIBRARY = 1024


def offline_plan(protocol: MeasurementProtocol, order: tuple[tuple[str, ...], ...]) -> OfflinePlan:
    """What the agent is told: per visit so much that each stream has `run_samples` batches and `run_s` seconds in the run."""
    rounds = max(1, len(order))
    return OfflinePlan(
        order=order,
        batch=protocol.batch,
        streams=protocol.streams,
        warmup_batches=protocol.warmup_samples,
        warmup_s=protocol.warmup_s,
        warmup_max_s=max(protocol.warmup_max_s, protocol.warmup_s),
        settle=protocol.settle,
        block_batches=math.ceil(protocol.run_samples / rounds),
        block_s=protocol.run_s / rounds,
        block_max_s=max(protocol.block_max_s, protocol.run_s / rounds),
    )


def sustained_plan(protocol: MeasurementProtocol) -> SustainedPlan:
    """What the agent is told of a sustained run."""
    return SustainedPlan(duration_s=protocol.duration_s)


def loadgen_plan(protocol: MeasurementProtocol, folder: str, *, accuracy: bool) -> LoadgenPlan:
    """What the agent is told of an official run; its logs go to `folder` on the device."""
    queries = QUERIES[protocol.scenario] if protocol.loadgen_queries is None else protocol.loadgen_queries
    return LoadgenPlan(
        folder=folder,
        scenario=protocol.scenario,
        min_duration_s=protocol.loadgen_s,
        min_queries=queries,
        samples=min(LIBRARY, queries),
        batch=protocol.batch,
        streams=protocol.streams,
        accuracy=accuracy,
    )


def official(protocol: MeasurementProtocol) -> bool:
    """Whether loadgen is to drive runs of its own."""
    return protocol.driver == LOADGEN


def problem(protocol: MeasurementProtocol) -> str | None:
    """Why scenario, batch, streams and driver do not go together; None when they do."""
    if protocol.scenario != OFFLINE and (protocol.batch != 1 or protocol.streams != 1):
        return f"batch and streams belong to the offline scenario, not to {protocol.scenario}"
    if protocol.scenario == SUSTAINED and protocol.driver == LOADGEN:
        return "loadgen drives single-stream and offline; the sustained scenario is none of MLPerf's"
    return None


def single_jobs(
    plan: Plan, healthy: Mapping[tuple[str, str], Collection[str]], purpose: str, devices: Collection[str]
) -> tuple[EnergyJob, ...]:
    """Each healthy variant of these devices once, all devices mixed, in an order of its own for each `purpose`."""
    jobs = [
        EnergyJob(target.device, target.engine, variant)
        for target in plan.targets
        for variant in target.variants
        if target.device in devices and variant in healthy.get(target.key, ())
    ]
    return plan.shuffled(jobs, purpose)


def sustained_s(protocol: MeasurementProtocol) -> float:
    """Expected seconds of a sustained run, its own start included."""
    return protocol.duration_s + 2.0


def official_s(protocol: MeasurementProtocol) -> float:
    """Expected seconds of an official run of a fast model."""
    return protocol.loadgen_s * 1.2 + 3.0
