"""One model for pyperf, which starts this file again for each of its worker processes: see scripts/rival_rules.py.

RIVAL_JOB in the environment is a job of the agent: its one model is loaded as the agent loads it, and `invoke` is what is timed.
"""

from __future__ import annotations

import os
import time

import pyperf

from harness.agent.engines import open_engine
from harness.agent.protocol import decode_job
from harness.agent.runs import bind, load


def main() -> None:
    """Hand pyperf the model's inference, or let it look after its workers."""
    runner = pyperf.Runner()
    args = runner.parse_args()
    job = decode_job(os.environ["RIVAL_JOB"])

    def timed(loops: int) -> float:
        begun = time.perf_counter()
        for _ in range(loops):
            invoke()
        return time.perf_counter() - begun

    if args.worker:
        loaded = load(job, open_engine(job.engine), {}, job.models[0])
        bind(loaded)
        invoke = loaded.session.invoke
    runner.bench_time_func(job.models[0].id, timed)


if __name__ == "__main__":
    main()
