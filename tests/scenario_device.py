"""A FakeDevice that also plays offline, sustained and official runs: what each variant does, and when it misbehaves, is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fake_device import FakeDevice

from harness.agent.protocol import Job, encode_message
from harness.devices.transport.fake import Call

S = 1_000_000_000
SUMMARY = (
    "Scenario : SingleStream\nMode     : PerformanceOnly\n90.0th percentile latency (ns) : 5000\nResult is : VALID\n"
    " * Early stopping 90.0th percentile estimate: 5100\nQPS w/ loadgen overhead         : 210000.5\n"
)


@dataclass
class ScenarioDevice(FakeDevice):
    """`throttles`: variant → (second, factor on its time from then on). `seconds`: how many of a sustained run are told.
    `celsius`: the zone's temperature in a second; None: no zone."""

    throttles: dict[str, tuple[int, float]] = field(default_factory=dict)
    seconds: int = 90
    celsius: float | None = 40.0
    official: bool = True

    def _play(self, job: Job, call: Call) -> Iterator[str]:
        for line in super()._play(job, call):
            if json.loads(line)["type"] == "done":
                yield from self._offline(job)
                yield from self._sustained(job)
                yield from self._loadgen(job, call)
            yield line

    def _offline(self, job: Job) -> Iterator[str]:
        plan = job.offline
        if plan is None:
            return
        alive = [model.id for model in job.models if model.id not in self.errors]
        for index in range(-1, len(plan.order)):
            for name in alive if index < 0 else [n for n in plan.order[index] if n in alive]:
                yield encode_message("sensor", 1, name="stage", values={"stage": "offline", "id": name})
                self.behave(job, f"offline {index} {name}")
                took = int((self.ns.get(name, 1000) + len(self.jobs) % 3) * plan.batch * 100)
                values = {
                    "id": name,
                    "index": index,
                    "phase": "warmup" if index < 0 else "measure",
                    "batch": plan.batch,
                }
                values |= {"started_ns": [index * S + S] * plan.streams, "batches": [100] * plan.streams, "cpu_ns": 1}
                values["ended_ns"] = [index * S + S + took] * plan.streams
                yield encode_message("sensor", 1, name="throughput", values=values)

    def _sustained(self, job: Job) -> Iterator[str]:
        if job.sustained is None:
            return
        for model in job.models:
            for second in range(self.seconds):
                self.behave(job, f"second {second} {model.id}")
                at, factor = self.throttles.get(model.id, (self.seconds, 1.0))
                slow = factor if second >= at else 1.0
                yield from _second(
                    model.id, second, int(self.ns.get(model.id, 10_000) * slow), self._heat(second, slow)
                )

    def _heat(self, second: int, slow: float) -> dict[str, Any]:
        if self.celsius is None:
            return {"zones": {}, "frequency_khz": {}}
        zones = {"thermal_zone0 cpu-thermal": str(int((self.celsius + second / 2) * 1000))}
        return {"zones": zones, "frequency_khz": {"policy0": str(int(2_000_000 / slow))}}

    def _loadgen(self, job: Job, call: Call) -> Iterator[str]:
        if job.loadgen is None:
            return
        if not self.official:
            words = {
                "name": "ModuleNotFoundError",
                "message": "No module named 'mlperf_loadgen'",
                "remedy": "install it",
            }
            yield encode_message("error", 1, id=None, kind="engine_missing", **words)
            return
        log = [{"qsl_idx": row, "data": "0000803F0000000000000000"} for row in range(max(job.data.rows, 1))]
        for mode, names in (
            ("performance", ("summary.txt", "detail.txt")),
            ("accuracy", ("summary.txt", "accuracy.json")),
        ):
            if mode == "accuracy" and not job.loadgen.accuracy:
                continue
            files = [f"{mode}/mlperf_log_{name}" for name in names]
            for file in files:
                text = json.dumps(log) if file.endswith("json") else SUMMARY if mode == "performance" else "no warnings"
                call.files[f"{job.loadgen.folder}/{file}"] = text.encode()
            values = {"id": job.models[0].id, "mode": mode, "scenario": job.loadgen.scenario, "rows": len(log)}
            values |= {"summary": SUMMARY if mode == "performance" else "", "logs": [*files, "../../etc/passwd"]}
            yield encode_message("sensor", 1, name="loadgen", values=values)


def _second(name: str, index: int, ns: int, thermal: dict[str, Any]) -> Iterator[str]:
    count, started = 50, index * S
    values = {"id": name, "index": index, "started_ns": started, "ended_ns": started + S, "count": count}
    values |= {"median_ns": float(ns), "p90_ns": ns + 5, "min_ns": ns - 5, "max_ns": ns + 9, "wall_ns": ns * count}
    values |= {"cpu_ns": ns * count, "kept_every": 10, "thermal": thermal}
    samples = [ns] * 5
    fields = {"id": name, "index": index, "phase": "measure", "started_ns": started, "cpu_clock": "thread"}
    yield encode_message("block", 1, wall_ns=samples, cpu_ns=samples, **fields)
    yield encode_message("sensor", 1, name="second", values=values)
