"""Makes what the cache does not hold: variants of the base, and of each model that compression makes of it, by the same workers.

Between `converters.pipeline`, which says what is wanted, and `converters.scheduler`, which exports one model; compression
works ahead in a thread of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from converters.base_model import BaseModel
from converters.chains import Group
from converters.compression import Compression
from converters.crew import Crew
from converters.export.base import Workshop
from converters.jobs import ConversionRequest, ConversionRow, failed_row
from converters.recipe import Recipe
from converters.scheduler import Scheduler
from converters.shelf import Shelf
from converters.support import toolchain_of

Settle = Callable[[Recipe, ConversionRow], None]


class Maker:
    """One conversion's work. `settle` takes each finished row (from any thread), `say` each beginning."""

    def __init__(
        self,
        request: ConversionRequest,
        base: BaseModel,
        workshop: Workshop,
        shelf: Shelf,
        settle: Settle,
        say: Callable[[str], None],
    ) -> None:
        self._request = request
        self._base = base
        self._workshop = workshop
        self._shelf = shelf
        self._settle = settle
        self._say = say
        self.notes: list[str] = []
        self.reference_made = False

    def run(self, groups: Sequence[Group], *, want_reference: bool) -> None:
        """Make all recipes of the groups, the base's first, and the base's answers on the test rows if wanted.

        Raises ConversionInputError when the base or the data turn out wrong, OSError, KeyboardInterrupt.
        """
        chained = [group for group in groups if group.chain is not None]
        plain = [recipe for group in groups if group.chain is None for recipe in group.recipes]
        crew = Crew(self._request, self._workshop, self._shelf.work)
        compression = Compression(self._request, self._base, self._shelf, crew, self._say)
        try:
            if chained:
                compression.start([group.chain for group in chained if group.chain is not None])
            crew.keep = bool(chained)
            if plain or want_reference:
                self._export(crew, Group(None, self._shelf, tuple(plain)), compression, want_reference=want_reference)
            for number, group in enumerate(chained, 1):
                crew.keep = number < len(chained)
                self._export(crew, group, compression, want_reference=False)
            compression.close()
            crew.close()
        except BaseException:
            crew.stop.set()
            compression.close()
            raise
        finally:
            crew.kill()
        self.notes += compression.notes

    def _export(self, crew: Crew, group: Group, compression: Compression, *, want_reference: bool) -> None:
        compressed = None if group.chain is None else compression.wait(group.chain)
        if compressed is not None and compressed.failure is not None:
            for recipe in group.recipes:
                self._settle(recipe, failed_row(self._base.name, recipe, compressed.failure))
            return
        tasks: dict[str, list[Recipe]] = {}
        for recipe in group.recipes:
            tasks.setdefault(toolchain_of(recipe), []).append(recipe)
        scheduler = Scheduler(
            self._request, self._base, self._workshop, group.shelf, crew, self._settle, self._say, compressed
        )
        try:
            scheduler.run(tasks, want_reference=want_reference)
        finally:
            self.reference_made = self.reference_made or scheduler.reference_made
            self.notes += scheduler.notes
