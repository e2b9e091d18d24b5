"""The agent's process: one job in, JSON Lines out (see protocol.py for the contract with the host).

    python -m agent [--die-with-parent] [JOB.json]

Order matters: the environment variables and the affinity that engines read when they are imported are set before numpy
is, so nothing but the standard library is imported at the top.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from . import environment as env
from .channel import (
    EXIT_TERMINATED,
    AgentError,
    Channel,
    TerminatedError,
    die_with_parent,
    read_line,
    take_stdout,
    watch_host,
)
from .heat import thermal
from .protocol import PROTOCOL_VERSION, Job, ProtocolError, decode_job
from .sampling import CPU_CLOCKS, loop_cost

EXIT_OK, EXIT_FAILED, EXIT_BAD_JOB = 0, 1, 2


def _set_threads(threads: int) -> None:
    """Numbers of threads that libraries read once, when they are loaded. numpy's own BLAS never needs more than one."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TBB_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def _pin(job: Job) -> None:
    if job.affinity is None:
        return
    try:
        env.set_affinity(job.affinity)
    except (OSError, ValueError, AttributeError) as error:
        allowed = env.affinity() if hasattr(os, "sched_getaffinity") else "no choice"
        message = f"cannot run on CPUs {list(job.affinity)}: {error}"
        raise AgentError("job", message, name=type(error).__name__, remedy=f"this device offers {allowed}") from error


def _run(job: Job, channel: Channel) -> None:
    """Everything between reading the job and `done`. Raises AgentError when the whole run fails."""
    facts: dict[str, Any] = {}
    failure: AgentError | None = None
    engine = None
    try:
        _set_threads(job.threads)
        _pin(job)
        from .engines import open_engine  # imports numpy

        started = time.perf_counter_ns()
        engine = open_engine(job.engine)
        facts["import_ns"] = time.perf_counter_ns() - started
    except ImportError as error:
        failure = AgentError.wrap("engine_missing", error, "pip install numpy on the device")
    except AgentError as error:
        failure = error
    facts |= env.environment(job.threads)
    facts |= {"numpy": _numpy_version(), "engine_version": None if engine is None else engine.version}
    facts["clocks"] = {name: loop_cost(clock) for name, clock in CPU_CLOCKS.items()}
    channel.send("hello", version=PROTOCOL_VERSION, engine=job.engine, environment=facts)
    if failure is not None:
        raise failure
    assert engine is not None  # noqa: S101 - either an engine or a failure
    from . import runs
    from .inputs import open_data

    runs.check_plan(job)
    channel.send("sensor", name="thermal", values=thermal())
    data = open_data(job.data)
    if job.probe is not None:
        runs.run_probe(job, job.probe, engine, data, channel)
    elif job.latency is not None:
        runs.run_latency(job, job.latency, engine, data, channel)
    elif job.energy is not None:
        from .energy import run_energy

        run_energy(job, job.energy, engine, data, channel)
    elif job.profile is not None:
        from .profile import run_profile

        run_profile(job, job.profile, engine, data, channel)
    else:
        _scenario(job, engine, data, channel)
    channel.send("sensor", name="thermal", values=thermal())


def _scenario(job: Job, engine: Any, data: dict[str, Any], channel: Channel) -> None:
    """The plans of scenarios.py, each in a module of its own that other runs need not import."""
    if job.offline is not None:
        from .offline import run_offline

        run_offline(job, job.offline, engine, data, channel)
    elif job.sustained is not None:
        from .sustained import run_sustained

        run_sustained(job, job.sustained, engine, data, channel)
    elif job.loadgen is not None:
        from .loadgen import run_loadgen

        run_loadgen(job, job.loadgen, engine, data, channel)


def _numpy_version() -> str | None:
    numpy = sys.modules.get("numpy")
    return None if numpy is None else str(numpy.__version__)


def _read_job(path: str | None) -> Job:
    """The job from a file, or the first line of stdin. Raises ProtocolError."""
    try:
        text = read_line(0) if path is None else Path(path).read_bytes()
        return decode_job(text.decode("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ProtocolError(f"the job cannot be read: {error}") from error


def serve(arguments: list[str]) -> int:
    """Run one job, send how it ended and `done`, and return the exit code."""
    channel = Channel(take_stdout())
    faulthandler.enable(file=sys.stderr)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is expected now and then; its core is of no use
    if "--die-with-parent" in arguments:
        refused = die_with_parent()
        if refused is not None:
            print(f"agent: cannot be tied to its parent: {refused}", file=sys.stderr)
    paths = [argument for argument in arguments if not argument.startswith("--")]
    code, failure = _attempt(paths[0] if paths else None, channel)
    channel.finish()
    if failure is not None:
        channel.error(None, failure)
    channel.send("done", environment_after=env.environment_after())
    return code


def _attempt(path: str | None, channel: Channel) -> tuple[int, AgentError | None]:
    """Read the job and run it: the exit code, and what made the whole run fail."""
    try:
        channel.catch_signals()
        job = _read_job(path)
        watch_host(channel.descriptor, 0 if path is None else None)
        _run(job, channel)
    except ProtocolError as error:
        return EXIT_BAD_JOB, AgentError.wrap("job", error, "host and agent must be of the same version")
    except AgentError as error:
        return EXIT_FAILED, error
    except TerminatedError:
        return EXIT_TERMINATED, AgentError("terminated", "the host ended the run", name="Terminated")
    except MemoryError as error:
        return EXIT_FAILED, AgentError.wrap("invoke", error, "the device has too little memory for this model")
    except Exception as error:  # noqa: BLE001 - a fault of the agent itself must reach the host as a message too
        traceback.print_exc()
        return EXIT_FAILED, AgentError.wrap("internal", error, "a fault of the agent: stderr has the trace")
    return EXIT_OK, None


def main() -> None:
    """Run one job and leave at once: engines' own clean-up at exit may hang or crash, and says nothing about the run."""
    code = serve(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
