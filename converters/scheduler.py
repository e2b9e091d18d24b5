"""Runs what must be made: one thread and one worker process per toolchain, `jobs` of them busy at once.

The home worker loads the base, writes the parts of the source, then makes its own variants; the others import their
toolchains meanwhile and begin as soon as the parts they need exist. One job's crash, hang or hunger costs one row.
"""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from converters.base_model import KERAS, BaseModel
from converters.compression import CompressedModel
from converters.crew import Crew
from converters.errors import ConversionInputError, ConverterError, describe_error, disk_full_answer
from converters.export.base import (
    ONNX_MODEL,
    REFERENCE,
    SAVED_MODEL,
    TFLITE_MODEL,
    UNROLLED_MODEL,
    ToolchainInfo,
    Workshop,
    load_source,
)
from converters.export.prepare import PrepareRequest
from converters.jobs import ConversionRequest, ConversionRow, failed_row, ok_row, refused_row
from converters.recipe import Recipe
from converters.shelf import Shelf
from converters.support import reason
from converters.worker_process import WorkerLostError, WorkerProcess

PART_ORDER = (SAVED_MODEL, ONNX_MODEL, TFLITE_MODEL, UNROLLED_MODEL)
FULL_DISK_BYTES = 256 * 2**10
_POLL_S = 0.1


@dataclass(slots=True)
class Part:
    """One part of the source: `ready` is set when it exists or when `failure` says why it does not."""

    ready: threading.Event = field(default_factory=threading.Event)
    failure: dict[str, Any] | None = None


class Scheduler:
    """The threads that make variants of one model: the base, or what compression made of it (`compressed`).

    `settle` takes each finished row (from any thread), `say` each beginning.
    """

    def __init__(
        self,
        request: ConversionRequest,
        base: BaseModel,
        workshop: Workshop,
        shelf: Shelf,
        crew: Crew,
        settle: Callable[[Recipe, ConversionRow], None],
        say: Callable[[str], None],
        compressed: CompressedModel | None = None,
    ) -> None:
        self._request = request
        self._base = base
        self._workshop = workshop
        self._shelf = shelf
        self._crew = crew
        self._settle = settle
        self._say = say
        self._compressed = compressed
        self._slots = crew.slots
        self._stop = crew.stop
        self._fatal: BaseException | None = None
        self._parts: dict[str, Part] = {}
        self._ends: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._done = 0
        self.notes: list[str] = []
        self.reference_made = False

    def run(self, tasks: Mapping[str, Sequence[Recipe]], *, want_reference: bool) -> None:
        """Make everything. Raises ConversionInputError when the base or the data turn out wrong, KeyboardInterrupt."""
        wanted = self._wanted(tasks, want_reference=want_reference)
        if wanted:
            self._shelf.dataset_folder()
        home = self._workshop.home
        threads = [
            threading.Thread(target=self._guarded, args=(name, tasks.get(name, ()), wanted if name == home else ()))
            for name in self._workshop.toolchains
            if tasks.get(name) or (name == home and wanted)
        ]
        started = 0
        try:
            for thread in threads:
                thread.start()
                started += 1
            self._await(started)
        except BaseException:
            self._stop.set()
            self._await(started)
            raise
        if self._fatal is not None:
            raise self._fatal

    def _await(self, started: int) -> None:
        """Wait until all threads said that they are done.

        Not by `Thread.join`: interrupted by Ctrl-C, CPython 3.11 and 3.12 take the thread for ended while it runs.
        """
        while self._done < started:
            with contextlib.suppress(queue.Empty):
                self._ends.get(timeout=_POLL_S)
                self._done += 1

    def _wanted(self, tasks: Mapping[str, Sequence[Recipe]], *, want_reference: bool) -> list[str]:
        """Parts that must be made now; all others come from the cache. Making any part but the first needs the first."""
        needs = {need for name, recipes in tasks.items() if recipes for need in self._workshop.toolchains[name].needs}
        if any(
            (recipe.format, recipe.mode) == ("tflite", "static") for recipes in tasks.values() for recipe in recipes
        ):
            needs.add(UNROLLED_MODEL)
        if needs:
            needs.add(SAVED_MODEL)
        wanted = []
        for part in PART_ORDER:
            if part not in needs:
                continue
            self._parts[part] = Part()
            if self._shelf.part_from_cache(part):
                self._parts[part].ready.set()
            else:
                wanted.append(part)
        return [*wanted, REFERENCE] if want_reference else wanted

    # One toolchain's thread

    def _guarded(self, name: str, recipes: Sequence[Recipe], parts: Sequence[str]) -> None:
        try:
            self._work(self._workshop.toolchains[name], recipes, parts)
        except BaseException as error:  # noqa: BLE001  carried to the caller's thread, which raises it
            self._fatal = self._fatal or error
            self._stop.set()
        finally:
            self._ends.put(name)

    def _work(self, info: ToolchainInfo, recipes: Sequence[Recipe], parts: Sequence[str]) -> None:
        worker = self._crew.toolchain(info)
        try:
            if self._request.jobs > 1 or parts:
                worker.start()
            for part in parts:
                if part != REFERENCE:
                    self._make_part(worker, part)
            for recipe in recipes:
                if self._stop.is_set():
                    return
                self._settle(recipe, self._row(worker, info, recipe))
            if REFERENCE in parts and not self._stop.is_set():
                self._make_reference(worker)
        except BaseException:
            worker.kill()
            raise
        if not self._crew.keep:
            worker.close()

    def _answer(self, worker: WorkerProcess, job: Mapping[str, Any], text: str) -> dict[str, Any]:
        """Do a job when it is this worker's turn; every way to fail becomes an answer. Raises WorkerLostError when stopped."""
        # The home worker goes first: the others wait for its parts, and its own variants are the slowest.
        rank = 0 if worker.name == self._workshop.home else 1
        with self._slots.taken(rank, self._stop) as held:
            if not held:
                raise WorkerLostError("Interrupted", "the conversion was interrupted", None)
            self._say(text)
            try:
                answer = worker.ask(job)
            except WorkerLostError as lost:
                if lost.cause == "Interrupted":
                    raise
                answer = describe_error(lost) | {"class": lost.cause}
        if answer.get("kind") == "tool" and shutil.disk_usage(self._shelf.work).free < FULL_DISK_BYTES:
            # Native tools say "iostream error", or crash, when a write fails.
            return disk_full_answer(answer["class"])
        return answer

    # Parts

    def _part_job(self, part: str) -> dict[str, Any]:
        dataset, compressed = self._shelf.dataset_folder(), self._compressed
        request = PrepareRequest(
            base=str(self._base.path.resolve() if compressed is None else compressed.model),
            kind=self._base.kind if compressed is None else KERAS,
            name=self._base.name,
            sha256=self._base.sha256,
            folder=str(self._shelf.source),
            seed=self._request.seed,
            dataset=None if dataset is None else str(dataset),
            reference=str(self._shelf.work / REFERENCE),
            tensors=None if compressed is None else compressed.tensors,
            counts=self._request.counts,
        )
        return {"do": "part", "part": part, "request": dataclasses.asdict(request)}

    def _make_part(self, worker: WorkerProcess, part: str) -> None:
        state, first = self._parts[part], self._parts[SAVED_MODEL]
        if first.failure is not None:
            state.failure = first.failure
        else:
            answer = self._answer(worker, self._part_job(part), f"{self._base.name}: preparing {part}")
            if answer.get("kind") == "input":
                raise ConversionInputError(answer["message"], remedy=answer["remedy"])
            if answer["ok"]:
                self._note_full_disk(lambda: self._shelf.keep_part(part))
            else:
                state.failure = answer
        state.ready.set()

    def _make_reference(self, worker: WorkerProcess) -> None:
        answer = self._answer(worker, self._part_job(REFERENCE), f"{self._base.name}: answers on the test rows")
        if answer.get("kind") == "input":
            raise ConversionInputError(answer["message"], remedy=answer["remedy"])
        if answer["ok"]:
            self._note_full_disk(lambda: self._shelf.keep_part(REFERENCE))
            self.reference_made = True
        else:
            self.notes.append(f"the base's answers on the test rows are missing: {answer['message']}")

    def _note_full_disk(self, store: Callable[[], None]) -> None:
        """A cache that cannot be written is a pity, not a failure."""
        try:
            store()
        except OSError as error:
            self.notes.append(f"not cached: {error.strerror or error}")

    # Variants

    def _row(self, worker: WorkerProcess, info: ToolchainInfo, recipe: Recipe) -> ConversionRow:
        for need in info.needs:
            part = self._parts[need]
            while not part.ready.wait(_POLL_S):
                if self._stop.is_set():
                    raise WorkerLostError("Interrupted", "the conversion was interrupted", None)
            if part.failure is not None:
                return failed_row(self._base.name, recipe, part.failure)
        try:
            refused = reason(recipe, load_source(self._shelf.source).facts)
        except ConverterError as error:
            return failed_row(self._base.name, recipe, describe_error(error))
        if refused is not None:
            return refused_row(self._base.name, recipe, refused)
        started = time.monotonic()
        folder = self._shelf.new_folder()
        answer = self._answer(worker, self._export_job(recipe, folder), recipe.variant_name(self._base.name))
        try:
            if answer["ok"]:
                final = self._shelf.publish(recipe, folder)
                self._note_full_disk(lambda: self._shelf.keep_variant(recipe, final))
                return ok_row(self._base.name, recipe, final, time.monotonic() - started, cached=False)
        except (OSError, ConverterError) as error:
            answer = describe_error(error)
        shutil.rmtree(folder, ignore_errors=True)
        return failed_row(self._base.name, recipe, answer, time.monotonic() - started)

    def _export_job(self, recipe: Recipe, folder: Path) -> dict[str, Any]:
        dataset = self._request.dataset
        return {
            "do": "export",
            "recipe": recipe.to_dict(),
            "source": str(self._shelf.source),
            "seed": self._request.seed,
            "folder": str(folder),
            "base_name": self._base.name,
            "dataset_sha256": None if dataset is None else dataset.sha256,
            "counts": self._request.counts,
            "steps": [] if self._compressed is None else [str(folder) for folder in self._compressed.folders],
        }
