"""The pipeline's end of one worker: starts the process, gives it jobs, and bounds their time and memory.

A worker that crashes, hangs or eats too much memory costs the job it was at: `ask` raises `WorkerLostError` with the tool's
last words, and the next `ask` starts a fresh process. `converters.worker` is the other end.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

import converters
from converters.errors import ToolError

_POLL_S = 0.05
_KINDS = {"ok", "ready", "say"}
_MEMORY_POLL_S = 0.1
_END_WAIT_S = 5.0
_LAST_WORDS_BYTES = 16_384
_LAST_WORDS_CHARS = 300
# What a native tool says when it dies, as against what Python's fault handler and the loader say about it.
_TELLING = ("terminate called", "what():", "fatal", "check failed", "assert", "error", "abort", "no space left")
_NOISE = (
    "Current thread",
    "Thread 0x",
    "  File ",
    "Extension modules",
    "<no Python frame>",
    "warnings.warn",
    "Traceback",
)


class WorkerLostError(ToolError):
    """The worker died or had to be killed. `cause`: Crashed, TimedOut, OutOfMemory, Interrupted or Missing."""

    def __init__(self, cause: str, message: str, remedy: str | None) -> None:
        super().__init__(message, remedy=remedy)
        self.cause = cause


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one job: wall time, and resident memory of the worker with its children."""

    timeout_s: float
    memory_bytes: int | None


def _ignore(_text: str) -> None:
    """For workers that tell nothing on the way."""


class WorkerProcess:
    """One toolchain's process; used from one thread at a time. `config` is the worker's, without `result_fd`; `say` takes
    the lines by which a job tells how far it is."""

    def __init__(
        self,
        name: str,
        config: Mapping[str, Any],
        folder: Path,
        limits: Limits,
        threads: int,
        stop: threading.Event,
        say: Callable[[str], None] = _ignore,
    ) -> None:
        self.name = name
        self._config = dict(config)
        self._folder = folder
        self._log = folder / f"{name}.log"
        self._limits = limits
        self._threads = threads
        self._stop = stop
        self._say = say
        self._process: subprocess.Popen[bytes] | None = None
        self._results = -1
        self._buffer = b""
        self._ready = False
        self._log_mark = 0

    def start(self) -> None:
        """Start the process, which imports its toolchain meanwhile; does nothing when it is running."""
        if self._process is not None:
            return
        read_end, write_end = os.pipe()
        config = json.dumps({**self._config, "result_fd": write_end})
        try:
            with self._log.open("ab") as log:
                self._log_mark = log.tell()
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "converters.worker", config],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    pass_fds=(write_end,),
                    cwd=self._folder,
                    env=worker_environment(self._threads),
                    start_new_session=True,
                )
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        self._results, self._buffer, self._ready = read_end, b"", False

    def ask(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Give a job and wait for its answer. Raises WorkerLostError; the process is gone then."""
        self.start()
        if not self._ready:
            answer = self._answer()
            if "ready" not in answer:
                self.kill()
                raise WorkerLostError("Missing", str(answer["message"]), answer["remedy"])
            self._ready = True
        self._log_mark = self._log.stat().st_size
        assert self._process is not None  # noqa: S101  start() saw to it
        assert self._process.stdin is not None  # noqa: S101
        try:
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._dead() from None
        return self._answer()

    def hang_up(self) -> None:
        """Give no more jobs: the process ends when it has done what it was given."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it has ended already
                self._process.stdin.close()

    def close(self) -> None:
        """Let the process end by itself, soon; kill it when it does not."""
        if self._process is None:
            return
        self.hang_up()
        with contextlib.suppress(subprocess.TimeoutExpired):  # it is killed below, whatever it was doing
            self._process.wait(_END_WAIT_S)
        self.kill()

    def kill(self) -> None:
        """Kill the worker's whole process group and forget it."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):  # it may have ended before us
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # unsent bytes of a job that nobody will do
                process.stdin.close()
        os.close(self._results)

    def _answer(self) -> dict[str, Any]:
        """Wait for one line, within the limits of time and memory."""
        deadline = time.monotonic() + self._limits.timeout_s
        next_look = 0.0
        with selectors.DefaultSelector() as selector:
            selector.register(self._results, selectors.EVENT_READ)
            while True:
                if b"\n" in self._buffer:
                    line, _, self._buffer = self._buffer.partition(b"\n")
                    answer = self._parsed(line)
                    if "say" not in answer:
                        return answer
                    self._say(str(answer["say"]))
                    continue
                if selector.select(_POLL_S):
                    chunk = os.read(self._results, 65_536)
                    if not chunk:
                        raise self._dead()
                    self._buffer += chunk
                    continue
                now = time.monotonic()
                if self._stop.is_set():
                    self.kill()
                    raise WorkerLostError("Interrupted", "the conversion was interrupted", None)
                if now > deadline:
                    words = self._last_words()
                    self.kill()
                    raise WorkerLostError(
                        "TimedOut",
                        f"no result within the limit of {self._limits.timeout_s:g} s{words.replace(': ', '; the tool last said: ', 1)}",
                        "raise the time limit, or leave this recipe out",
                    )
                if now >= next_look:
                    next_look = now + _MEMORY_POLL_S
                    self._watch_memory()

    def _parsed(self, line: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(line)
            if isinstance(answer, dict) and not _KINDS.isdisjoint(answer):
                return answer
        except ValueError:
            pass  # said below
        self.kill()
        raise WorkerLostError("Crashed", f"the worker answered with garbage: {line[:80]!r}", None)

    def _watch_memory(self) -> None:
        limit = self._limits.memory_bytes
        if limit is None or self._process is None or resident_bytes(self._process.pid) <= limit:
            return
        self.kill()
        raise WorkerLostError(
            "OutOfMemory",
            f"out of memory: the limit is {limit / 2**20:.0f} MiB",
            "raise the memory limit, or give fewer calibration rows",
        )

    def _dead(self) -> WorkerLostError:
        """The process ended by itself: say how, and what it said last."""
        assert self._process is not None  # noqa: S101  a process was asked
        try:
            code = self._process.wait(_END_WAIT_S)
        except subprocess.TimeoutExpired:
            code = None  # it closed its answers but lives: killed below
        words = self._last_words()
        self.kill()
        if code is None or code >= 0:
            return WorkerLostError("Crashed", f"the {self.name} worker ended with exit code {code}{words}", None)
        name = signal.Signals(-code).name
        remedy = (
            "most likely the system ran out of memory: close other programs, or use jobs 1"
            if name == "SIGKILL"
            else "the tool itself crashed on this model: leave this recipe out, or try another version of the tool"
        )
        return WorkerLostError("Crashed", f"the {self.name} worker was killed by {name}{words}", remedy)

    def _last_words(self) -> str:
        """The line of the log that says most about this job, as `: words`, or nothing."""
        with self._log.open("rb") as stream:
            end = stream.seek(0, os.SEEK_END)
            stream.seek(max(self._log_mark, end - _LAST_WORDS_BYTES))
            lines = stream.read().decode("utf-8", "replace").splitlines()
        lines = [line.strip() for line in lines if line.strip() and not line.startswith(_NOISE)]
        lines = [line for line in lines if not line.startswith("Extension modules")]
        telling = [line for line in lines if any(word in line.lower() for word in _TELLING)] or lines
        return f": {telling[-1][:_LAST_WORDS_CHARS]}" if telling else ""


def worker_environment(threads: int) -> dict[str, str]:
    """The environment of a worker: few threads, quiet logs, no accelerator, this very package on its path."""
    count = str(threads)
    here = str(Path(converters.__file__).resolve().parent.parent)
    path = os.environ.get("PYTHONPATH")
    return os.environ | {
        "PYTHONPATH": here if not path else f"{here}{os.pathsep}{path}",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": count,
        "TF_NUM_INTRAOP_THREADS": count,
        "TF_NUM_INTEROP_THREADS": "1",
        "OPENBLAS_NUM_THREADS": count,
        "TF_CPP_MIN_LOG_LEVEL": "1",
        "CUDA_VISIBLE_DEVICES": "-1",
        "KERAS_BACKEND": "tensorflow",
        "TQDM_DISABLE": "1",
        # OpenVINO and NNCF report their use over the network unless they believe they run in CI.
        "CI": "true",
        "NNCF_CI": "1",
    }


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and all its descendants; those that end meanwhile count as 0."""
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for process in family:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total
