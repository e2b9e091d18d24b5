"""The worker processes of one conversion, kept while there is work for them: all models that compression made go through the same.

Made by `converters.pipeline`, used by `converters.scheduler` and `converters.compression`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from converters.export.base import ToolchainInfo, Workshop
from converters.jobs import ConversionRequest
from converters.slots import Slots
from converters.worker_process import Limits, WorkerProcess

COMPRESSION = "compression"


class Crew:
    """One process per toolchain and some for compression, started when they are first asked; `slots` of them busy at once.

    `keep`: whether workers stay for a further model when they have done what there was. `stop` is set when everything
    must end.
    """

    def __init__(self, request: ConversionRequest, workshop: Workshop, folder: Path) -> None:
        self._request = request
        self._workshop = workshop
        self._folder = folder
        self._workers: dict[str, WorkerProcess] = {}
        self._lock = threading.Lock()
        self.keep = False
        self.stop = threading.Event()
        self.slots = Slots(max(1, request.jobs))

    def toolchain(self, info: ToolchainInfo) -> WorkerProcess:
        """The worker of a toolchain; one thread at a time may use it."""
        config = {
            "toolchain": info.target,
            "preparation": self._workshop.preparation,
            "checker": self._workshop.checker,
            "ledger": self._workshop.ledger,
            "preimports": list(info.preimports),
        }
        limits = Limits(self._request.timeout_s, self._request.memory_limit_bytes)
        threads = max(1, (os.cpu_count() or 1) // max(1, self._request.jobs))
        with self._lock:
            if info.name not in self._workers:
                self._workers[info.name] = WorkerProcess(info.name, config, self._folder, limits, threads, self.stop)
            return self._workers[info.name]

    @property
    def compressors(self) -> int:
        """How many workers for compression are worth having: as many as may work at once, and no more than cores."""
        return max(1, min(self._request.jobs, os.cpu_count() or 1))

    def compressor(self, number: int, say: Callable[[str], None]) -> WorkerProcess:
        """One of the workers that carry out compression steps (`number` from 0), on all cores whatever their number: with other threads, sums have other
        last bits."""
        name = f"{COMPRESSION}-{number + 1}" if number else COMPRESSION
        config = {"compressor": self._workshop.compressor, "preimports": list(self._workshop.compressor_preimports)}
        limits = Limits(self._request.train_timeout_s, self._request.memory_limit_bytes)
        with self._lock:
            if name not in self._workers:
                self._workers[name] = WorkerProcess(
                    name, config, self._folder, limits, os.cpu_count() or 1, self.stop, say
                )
            return self._workers[name]

    def close(self) -> None:
        """Let all end by themselves, soon; kill those that do not. No thread may use a worker any more."""
        for worker in self._workers.values():
            worker.hang_up()
        for worker in self._workers.values():
            worker.close()

    def kill(self) -> None:
        """Kill all. No thread may use a worker any more."""
        for worker in self._workers.values():
            worker.kill()
