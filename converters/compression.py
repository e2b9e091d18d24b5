"""Makes the compressed models that recipes with steps are exported from: some workers, one job per step, each step cached by content.

Used by `converters.pipeline`. What a step makes is decided by the base, the steps before it, the rows, the seed, the code and the
packages; chains that begin alike share their beginning. A step that was killed finds its folder, with its checkpoints, again.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from converters.base_model import BaseModel
from converters.cache import Cache, link_or_copy
from converters.chains import Chain, step_files
from converters.compress.record import KEEP, MODEL, RECORD, read_record
from converters.crew import Crew
from converters.errors import ConversionInputError, ToolError, describe_error
from converters.jobs import ConversionRequest
from converters.shelf import Shelf
from converters.step_order import StepOrder
from converters.step_rules import ROUNDING
from converters.transfer import write_dataset
from converters.worker_process import WorkerLostError

_KIND = "step"
_FILES = (MODEL, RECORD, KEEP)
_POLL_S = 0.1
# Failures that are of the user's base or data, not of one chain.
_INPUT_CLASSES = ("BaseModelError", "DatasetError")


@dataclass(frozen=True, slots=True)
class CompressedModel:
    """What a chain made: one folder per step, in order, as `converters.compress.record` says; or why it made nothing."""

    chain: Chain
    folders: tuple[Path, ...] = ()
    failure: dict[str, Any] | None = None

    @property
    def model(self) -> Path:
        """The .keras file to export."""
        return self.folders[-1] / MODEL

    @property
    def tensors(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of the base's inputs and of its outputs. Raises ToolError when the record cannot be read."""
        try:
            record = read_record(self.folders[-1])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ToolError(f"the record of {self.chain.steps[-1].text} cannot be read: {error}") from error
        return record.inputs, record.outputs


def step_seed(seed: int, position: int) -> int:
    """The seed of the step at `position` (from 0) of a chain, 32 bits."""
    return int(np.random.SeedSequence([seed, position]).generate_state(1)[0])


class Compression:
    """Threads that make compressed models, each with a worker of its own, in the order in which they are wanted; the caller exports
    them meanwhile."""

    def __init__(
        self,
        request: ConversionRequest,
        base: BaseModel,
        shelf: Shelf,
        crew: Crew,
        say: Callable[[str], None],
    ) -> None:
        self._request = request
        self._base = base
        self._shelf = shelf
        self._crew = crew
        self._say = say
        self._cache = None if request.cache is None else Cache(request.cache)
        self._made: dict[str, CompressedModel] = {}
        self._failed: dict[str, dict[str, Any]] = {}
        self._changed = threading.Condition()
        self._fatal: BaseException | None = None
        self._order = StepOrder((), crew.stop)
        self._running = 0
        self._at: dict[int, str] = {}
        self.notes: list[str] = []

    def start(self, chains: Sequence[Chain]) -> None:
        """Begin."""
        if self._request.dataset is not None:
            write_dataset(self._request.dataset, self._rows, training=True)
        self._order = StepOrder(chains, self._crew.stop)
        # With one chain, or chains that go on from one another, a second maker would find nothing to do.
        ends = {chain.key for chain in chains} - {key for chain in chains for key in chain.keys[:-1]}
        self._running = min(self._crew.compressors, len(ends))
        for number in range(self._running):
            threading.Thread(target=self._run, args=(number,), name=f"compression-{number}").start()

    def wait(self, chain: Chain) -> CompressedModel:
        """What became of a chain, when it is done. Raises ConversionInputError when base or data turn out wrong."""
        with self._changed:
            while chain.key not in self._made:
                if self._fatal is not None:
                    raise self._fatal
                self._changed.wait(_POLL_S)
            return self._made[chain.key]

    def close(self) -> None:
        """Wait until all threads have ended; `crew.stop` ends them early."""
        # Not by `Thread.join`: interrupted by Ctrl-C, CPython 3.11 and 3.12 take the thread for ended while it runs.
        with self._changed:
            while self._running:
                self._changed.wait(_POLL_S)

    @property
    def _rows(self) -> Path:
        return self._shelf.work / "training"

    def _run(self, maker: int) -> None:
        """One maker's thread."""
        try:
            while self._fatal is None and (taken := self._order.take()) is not None:
                chain, position = taken
                failure = self._settled(chain, position, maker)
                if failure is not None:
                    self._failed[chain.keys[position]] = failure
                for ended in self._order.settle(chain.keys[position], failed=failure is not None):
                    self._end(ended)
        except BaseException as error:  # noqa: BLE001  carried to the caller's thread, which raises it
            self._fatal = self._fatal or error
        finally:
            self._crew.compressor(maker, self._teller(maker)).close()
            with self._changed:
                self._running -= 1
                if self._crew.stop.is_set() and self._fatal is None:
                    self._fatal = WorkerLostError("Interrupted", "the conversion was interrupted", None)
                self._changed.notify_all()

    def _end(self, chain: Chain) -> None:
        """A chain is done: whoever waits for it may go on."""
        failure = next((self._failed[key] for key in chain.keys if key in self._failed), None)
        folders = () if failure is not None else tuple(self._folder(key) for key in chain.keys)
        with self._changed:
            self._made[chain.key] = CompressedModel(chain, folders, failure)
            self._changed.notify_all()

    def _folder(self, key: str) -> Path:
        return self._shelf.work / "steps" / key

    def _settled(self, chain: Chain, position: int, maker: int) -> dict[str, Any] | None:
        """Make one step; what failed, or None. Raises what ends everything."""
        try:
            return self._step(chain, position, maker)
        except (OSError, ToolError) as error:
            if isinstance(error, WorkerLostError) and error.cause == "Interrupted":
                raise
            return describe_error(error)

    def _step(self, chain: Chain, position: int, maker: int) -> dict[str, Any] | None:
        """Make one step, unless it is there; what failed, or None."""
        key, step = chain.keys[position], chain.steps[position]
        done = self._folder(key)
        if done.is_dir() or self._from_cache(key, done):
            return None
        with self._unfinished(key) as folder:
            if self._from_cache(key, done):  # another process may have made it while this one waited
                return None
            answer = self._ask(chain, position, folder, maker)
            if answer["ok"]:
                self._finish(key, folder, done)
                return None
        if answer["class"] in _INPUT_CLASSES:
            raise ConversionInputError(answer["message"], remedy=answer["remedy"])
        return answer | {"message": f"{step.text}: {answer['message']}"}

    def _from_cache(self, key: str, done: Path) -> bool:
        if self._cache is None:
            return False
        draft = self._shelf.new_folder()
        if not self._cache.get(_KIND, key, draft):
            return False
        done.parent.mkdir(exist_ok=True)
        draft.rename(done)
        return True

    @contextlib.contextmanager
    def _unfinished(self, key: str) -> Iterator[Path]:
        """This step's own folder, with what an interrupted run left there; one process at a time has it."""
        import fcntl

        if self._cache is None:
            folder = self._shelf.work / "unfinished" / key
            folder.mkdir(parents=True, exist_ok=True)
            yield folder
            return
        folder = self._cache.unfinished(key)
        with folder.with_suffix(".lock").open("w") as lock:
            waiting = False
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not waiting:
                        waiting = True
                        self._say(f"{self._base.name}: another conversion is at this step, waiting for it")
                if self._crew.stop.wait(_POLL_S):
                    raise WorkerLostError("Interrupted", "the conversion was interrupted", None)
            folder.mkdir(exist_ok=True)
            yield folder

    def _ask(self, chain: Chain, position: int, folder: Path, maker: int) -> dict[str, Any]:
        """Have the maker's worker do a step. A folder whose step failed by itself is removed; one that was cut off stays."""
        step = chain.steps[position]
        paths = {name: str(path) for name, path in step_files(step, self._request.folder).items()}
        job = {
            "base": str(self._base.path.resolve()),
            "step": step.to_dict(),
            "paths": paths,
            "before": str(self._folder(chain.keys[position - 1])) if position else None,
            "unrounded": self._unrounded(chain, position),
            "earlier": [earlier.name for earlier in chain.steps[:position]],
            "folder": str(folder),
            "seed": step_seed(self._request.seed, position),
            "data": None if self._request.dataset is None else str(self._rows),
            "function": self._request.training.function,
            "policy": self._request.training.precision_policy,
        }
        # What is made is exported first: its rows are wanted, and take seconds.
        with self._crew.slots.taken(2, self._crew.stop) as held:
            if not held:
                raise WorkerLostError("Interrupted", "the conversion was interrupted", None)
            self._at[maker] = step.text
            self._say(f"{self._base.name}: {step.text}")
            try:
                answer = self._crew.compressor(maker, self._teller(maker)).ask({"do": "compress", "request": job})
            except WorkerLostError as lost:
                if lost.cause == "Interrupted":
                    raise
                return describe_error(lost) | {"class": lost.cause}
        if not answer["ok"]:
            shutil.rmtree(folder, ignore_errors=True)
        return answer

    def _unrounded(self, chain: Chain, position: int) -> str | None:
        """The model's file before the first of the steps before `position` that rounds; None when none does."""
        first = next((i for i, step in enumerate(chain.steps[:position]) if step.name in ROUNDING), None)
        if first is None:
            return None
        return str(self._folder(chain.keys[first - 1]) / MODEL) if first else str(self._base.path.resolve())

    def _teller(self, maker: int) -> Callable[[str], None]:
        return lambda text: self._say(f"{self._base.name}: {self._at.get(maker, '')}: {text}")

    def _finish(self, key: str, folder: Path, done: Path) -> None:
        """Bring a finished step's files to their place and into the cache."""
        if self._cache is not None:
            try:
                self._cache.put(_KIND, key, folder, _FILES)
            except OSError as error:  # a cache that cannot be written is a pity, not a failure
                self.notes.append(f"not cached: {error.strerror or error}")
        draft = self._shelf.new_folder()
        (draft / KEEP).mkdir()
        for path in (folder / MODEL, folder / RECORD, *(folder / KEEP).glob("*")):
            link_or_copy(path, draft / path.relative_to(folder))
        done.parent.mkdir(exist_ok=True)
        draft.rename(done)
        shutil.rmtree(folder, ignore_errors=True)
