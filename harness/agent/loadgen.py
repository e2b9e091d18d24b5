"""An official run: MLPerf's load generator asks for the inferences, keeps the time, and writes the logs.

Needs the package mlcommons-loadgen on the device (extra `loadgen`). Performance mode first, then accuracy mode over all rows.
As the rules of MLPerf Inference have it, inputs lie in memory before the clock runs; binding them, the inference and
reading the outputs are all inside a query, which is why its latency is longer than what our own loop times.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .channel import AgentError, Channel
from .engines.base import Engine
from .inputs import Array, Feeder, dequantize, match, merged, random_input
from .offline import Crew, deviation, open_crew
from .protocol import Job, Model
from .runs import ns
from .sampling import undisturbed
from .scenarios import OFFLINE, LoadgenPlan, OfflinePlan

# The inputs that are kept ready may take so much memory.
_MOST_BYTES = 256 * 1024 * 1024
_ESTIMATE_NS, _ESTIMATES = 200_000_000, 3
SUMMARY, DETAIL, ACCURACY = "mlperf_log_summary.txt", "mlperf_log_detail.txt", "mlperf_log_accuracy.json"


class Library:
    """The query sample library: input arrays of each row, made when loadgen asks for them to be loaded."""

    def __init__(self, job: Job, crew: Crew, data: dict[str, Array], wanted: int) -> None:
        self._feeder = Feeder(crew.model.inputs, data, rows=job.data.rows, seed=job.data.seed)
        self._feeder.tensors = tuple(
            merged(tensor, tensor, (1, *(int(d or 1) for d in tensor.shape[1:]))) for tensor in crew.feeder.tensors
        )
        self._random = not data
        self._seed = job.data.seed
        size = max(1, sum(array.nbytes for array in self.make(0)))
        #: How many rows there are, and how many of them are kept in memory at a time.
        self.total = job.data.rows if data else max(1, min(wanted, _MOST_BYTES // size))
        self.kept = max(1, min(wanted, self.total, _MOST_BYTES // size))
        self.loaded: dict[int, list[Array]] = {}

    def make(self, row: int) -> list[Array]:
        """The input arrays of one row, each [1, …]."""
        if not self._random:
            return self._feeder.batch(row)
        tensors = self._feeder.tensors
        shapes = [tuple(int(d or 1) for d in tensor.shape) for tensor in tensors]
        return [random_input(t, s, (self._seed, i, row)) for i, (t, s) in enumerate(zip(tensors, shapes, strict=True))]

    def load(self, rows: Sequence[int]) -> None:
        """Loadgen's call before the clock runs."""
        self.loaded |= {row: self.make(row) for row in rows}

    def unload(self, rows: Sequence[int]) -> None:
        """Loadgen's call when it needs them no more."""
        for row in rows:
            self.loaded.pop(row, None)


class Answering:
    """The system under test: queries in, answers out, by one session or several streams."""

    def __init__(self, loadgen: Any, crew: Crew, library: Library) -> None:
        self._loadgen = loadgen
        self._crew = crew
        self._library = library
        self._session = crew.sessions[0]
        reported = self._session.tensors()[1]
        spec = match(crew.model.outputs, reported, "output")[0]
        self._spec = merged(spec, reported[0])
        self.error: BaseException | None = None

    def answer(self, session: Any, samples: Sequence[Any]) -> None:
        """Answer up to a batch of samples: bind, infer, read, and tell loadgen."""
        outputs: NDArray[np.float32] | None = None
        try:
            if self.error is None:
                rows = [self._library.loaded[sample.index] for sample in samples]
                rows += rows[-1:] * (self._crew.batch - len(rows))
                session.bind(
                    rows[0] if len(rows) == 1 else [np.concatenate(arrays) for arrays in zip(*rows, strict=True)]
                )
                session.invoke()
                outputs = dequantize(session.outputs()[0], self._spec)
        except BaseException as error:  # noqa: BLE001 - nothing may fly through native code: kept, and raised after it
            self.error = error
        responses = []
        for place, sample in enumerate(samples):
            row = None if outputs is None else outputs[place]
            address, size = (0, 0) if row is None else (row.ctypes.data, row.nbytes)
            responses.append(self._loadgen.QuerySampleResponse(sample.id, address, size))
        self._loadgen.QuerySamplesComplete(responses)
        if self.error is not None:
            time.sleep(0.01)  # the test goes on to its end; there is no need to hurry there

    def rate(self, took_ns: int) -> float:
        """Samples a second to expect, were the streams not to hinder each other."""
        return self._crew.batch * len(self._crew.sessions) * 1e9 / took_ns

    def single(self, samples: Sequence[Any]) -> None:
        """Loadgen's call in the single-stream scenario."""
        for sample in samples:
            self.answer(self._session, [sample])

    def offline(self, samples: Sequence[Any]) -> None:
        """Loadgen's call in the offline scenario: all samples at once, worked off in batches by all streams."""
        pending: queue.SimpleQueue[Sequence[Any]] = queue.SimpleQueue()
        for start in range(0, len(samples), self._crew.batch):
            pending.put(samples[start : start + self._crew.batch])

        def work(session: Any) -> None:
            while True:
                try:
                    batch = pending.get_nowait()
                except queue.Empty:
                    return
                self.answer(session, batch)

        threads = [threading.Thread(target=work, args=(session,), daemon=True) for session in self._crew.sessions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def run_loadgen(job: Job, plan: LoadgenPlan, engine: Engine, data: dict[str, Array], channel: Channel) -> None:
    """Performance mode and accuracy mode for each model of the job. A failure concerns that model alone."""
    try:
        import mlperf_loadgen as loadgen
    except ImportError as error:
        raise AgentError.wrap(
            "engine_missing", error, "pip install 'ondevice-harness[loadgen]' on the device"
        ) from error
    for model in job.models:
        try:
            _measure(job, plan, engine, data, model, loadgen, channel)
        except AgentError as error:
            channel.error(model.id, error)


def _measure(
    job: Job,
    plan: LoadgenPlan,
    engine: Engine,
    data: dict[str, Array],
    model: Model,
    loadgen: Any,
    channel: Channel,
) -> None:
    channel.stage("load", model.id)
    offline = plan.scenario == OFFLINE
    shape = OfflinePlan(order=(), batch=plan.batch if offline else 1, streams=plan.streams if offline else 1)
    crew = open_crew(job, shape, engine, data, model)
    deviation(job, shape, engine, data, crew)
    took_ns = _estimate(crew)
    facts = crew.sessions[0].facts(deep=False)
    facts |= {"batch": crew.batch, "streams": len(crew.sessions)}
    channel.send("loaded", id=model.id, load_ns=crew.load_ns, first_inference_ns=took_ns, facts=facts)
    library = Library(job, crew, data, plan.samples)
    sut = Answering(loadgen, crew, library)
    for mode in ("performance", "accuracy") if plan.accuracy else ("performance",):
        channel.stage("loadgen", model.id)
        folder = Path(plan.folder) / mode
        folder.mkdir(parents=True, exist_ok=True)
        with undisturbed():
            _test(loadgen, plan, mode, sut, library, folder, took_ns)
        if sut.error is not None:
            if isinstance(sut.error, Exception):
                raise AgentError.wrap("invoke", sut.error, "the engine failed in an official run") from sut.error
            raise sut.error
        _tell(channel, model, plan, mode, folder, library)


def _estimate(crew: Crew) -> int:
    """About how long a query of one batch takes now, ns: the least of a few, after the first."""
    now = time.perf_counter_ns
    inputs, session = crew.feeder.batch(0), crew.sessions[0]
    for each in crew.sessions:
        each.invoke()
    found: list[int] = []
    until = now() + _ESTIMATE_NS
    while len(found) < _ESTIMATES or now() < until:
        before = now()
        session.bind(inputs)
        session.invoke()
        session.outputs()
        found.append(now() - before)
    return min(found)


def _test(
    loadgen: Any, plan: LoadgenPlan, mode: str, sut: Answering, library: Library, folder: Path, took_ns: int
) -> None:
    settings = loadgen.TestSettings()
    offline = plan.scenario == OFFLINE
    settings.scenario = loadgen.TestScenario.Offline if offline else loadgen.TestScenario.SingleStream
    settings.mode = loadgen.TestMode.PerformanceOnly if mode == "performance" else loadgen.TestMode.AccuracyOnly
    settings.min_duration_ms = ns(plan.min_duration_s) // 1_000_000
    settings.min_query_count = plan.min_queries
    settings.performance_sample_count_override = library.kept
    settings.single_stream_expected_latency_ns = took_ns
    settings.offline_expected_qps = sut.rate(took_ns)
    logs = loadgen.LogSettings()
    logs.log_output.outdir = str(folder)
    logs.log_output.copy_summary_to_stdout = False
    logs.enable_trace = False
    issue: Callable[[Sequence[Any]], None] = sut.offline if offline else sut.single
    system = loadgen.ConstructSUT(issue, lambda: None)
    samples = loadgen.ConstructQSL(library.total, library.kept, library.load, library.unload)
    try:
        loadgen.StartTestWithLogSettings(system, samples, settings, logs, "")
    finally:
        loadgen.DestroyQSL(samples)
        loadgen.DestroySUT(system)


def _tell(channel: Channel, model: Model, plan: LoadgenPlan, mode: str, folder: Path, library: Library) -> None:
    """Send what loadgen says in its summary, and which logs there are for the host to fetch."""
    summary = folder / SUMMARY
    names = (SUMMARY, DETAIL, ACCURACY) if mode == "accuracy" else (SUMMARY, DETAIL)
    values = {
        "id": model.id,
        "mode": mode,
        "scenario": plan.scenario,
        "summary": summary.read_text(encoding="utf-8", errors="replace") if summary.exists() else "",
        "logs": [f"{mode}/{name}" for name in names if (folder / name).exists()],
        "rows": library.total,
    }
    channel.send("sensor", name="loadgen", values=values)
