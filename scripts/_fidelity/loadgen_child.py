"""One official single-stream run of mlcommons-loadgen over a system that merely spins: N_QUERIES SEED FOLDER.

Run by g10 in a process of its own, because loadgen keeps global state. Loadgen times the queries by its own clock; the trace it leaves in
FOLDER has every latency, the summary its early-stopping estimates of them.
"""

from __future__ import annotations

import random
import sys
import time

import mlperf_loadgen as lg  # type: ignore[import-not-found]

SAMPLES = 4


def main() -> None:
    queries, seed, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    chance = random.Random(seed)  # noqa: S311 - no secret
    middle, width = chance.uniform(-11.5, -10.0), chance.uniform(0.05, 1.0)

    def issue(samples: list[lg.QuerySample]) -> None:
        for sample in samples:
            until = time.perf_counter() + min(chance.lognormvariate(middle, width), 2e-3)
            while time.perf_counter() < until:
                pass
            lg.QuerySamplesComplete([lg.QuerySampleResponse(sample.id, 0, 0)])

    settings = lg.TestSettings()
    settings.scenario = lg.TestScenario.SingleStream
    settings.mode = lg.TestMode.PerformanceOnly
    settings.min_duration_ms = settings.max_duration_ms = 0
    settings.min_query_count = settings.max_query_count = queries
    settings.single_stream_expected_latency_ns = 20_000
    output = lg.LogOutputSettings()
    output.outdir = folder
    output.copy_summary_to_stdout = False
    log = lg.LogSettings()
    log.log_output = output
    log.enable_trace = True
    system = lg.ConstructSUT(issue, lambda: None)
    library = lg.ConstructQSL(SAMPLES, SAMPLES, lambda _: None, lambda _: None)
    lg.StartTestWithLogSettings(system, library, settings, log, "")


if __name__ == "__main__":
    main()
