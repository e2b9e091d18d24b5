"""The step `prune_structured`: removes filters, neurons and residual blocks from the graph, with everything that depends on them.

One round measures importance, removes the least important units (and blocks, where asked for) until the round's share is gone, and trains.
With several rounds the share grows geometrically; with `max_drop` the last model above the floor is what comes back. With `ratios`
each group of layers loses the share of its filters that is given for it, and nothing else goes. Every
removal is checked against the same network with zeros in place of what was removed. The parts: `graph` → `channels` →
`groups` → `importance` → `removal` → `rebuild`, all in `converters.compress`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from converters.compress.blocks import residual_blocks
from converters.compress.channels import MAKES, Ids
from converters.compress.context import Array, Context, History, Rows, StepResult
from converters.compress.graph import read_graph
from converters.compress.groups import Structure, read_structure
from converters.compress.importance import unit_scores
from converters.compress.norms import measured_again
from converters.compress.objective import Predictor, every_layer, score
from converters.compress.rebuild import rebuild
from converters.compress.removal import MACS, Removal, Scores, choose, choose_numbers, counted
from converters.compress.sensitivity import sensitivity, shipped
from converters.compress.silencing import WORDS, group_parts, silenced
from converters.errors import RefusedError, ToolError
from converters.recipe import hint

# With a floor and no number of rounds given, this many: one round alone would be all or nothing.
ROUNDS_TO_A_FLOOR = 5
BLOCK_ROWS = 1000
CHECKED_ROWS = 8
# Largest difference between removing and zeroing, relative to the largest answer: rounding alone.
TOLERANCE, TOLERANCE_OF_HALVES = 1e-3, 5e-2
_NOTHING: Ids = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Settings:
    """The step's parameters, as `converters.step_catalogue` describes them."""

    ratio: float
    by: str = "l2"
    target: str = "parameters"
    scope: str = "global"
    blocks: bool = False
    iterations: int = 1
    max_drop: float | None = None
    epochs: int = 3
    learning_rate: float | None = None
    ratios: str = ""

    @property
    def rounds(self) -> int:
        """How many rounds are made at most."""
        return ROUNDS_TO_A_FLOOR if self.max_drop is not None and self.iterations == 1 else self.iterations

    @property
    def wants_data(self) -> bool:
        """Whether it cannot do without labelled rows."""
        return self.epochs > 0 or self.blocks or self.max_drop is not None or self.by in {"taylor", "activation"}


def apply(model: Any, parameters: Mapping[str, Any], context: Context) -> StepResult:
    """Remove `ratio` of the parameters or MACs; see the module. Models without a graph, and those of which nothing can be
    removed, raise RefusedError; missing rows, ToolError. Figures: counts before and after, every round, channels per layer."""
    settings = Settings(**parameters)
    if settings.wants_data:
        context.needs_data("prune_structured")
    flat = rebuild(read_graph(model))
    _confirm_same(model, flat, context, "opening the model's nested parts")
    return _Pruning(flat, settings, context).run()


def ratios_of_groups(structure: Structure, text: str) -> dict[str, float]:
    """`conv1:0.3/conv2:0.5` → group's name → share of its filters to remove. A group is named by any of the layers that make its
    filters; one that is not named keeps all. Raises RefusedError for a layer of which none can be removed, and for two
    shares of one group."""
    found: dict[str, float] = {}
    owners = {layer: group.name for group in structure.groups for layer in group.layers}
    for word in text.split("/"):
        layer, _, share = word.rpartition(":")
        if layer not in owners:
            why = structure.left_alone.get(layer)
            raise RefusedError(
                f"ratios: no filter of {layer!r} can be removed" + (f": {why}" if why else hint(layer, owners)),
                remedy=f"there are {', '.join(owners)}"[:500],
            )
        if found.setdefault(owners[layer], float(share)) != float(share):
            together = ", ".join(name for name, owner in owners.items() if owner == owners[layer])
            raise RefusedError(f"ratios: {together} lose the same filters, so they have one ratio")
    return found


class _Pruning:
    """The rounds of one step. `_model` is the last model that may be given back."""

    def __init__(self, flat: Any, settings: Settings, context: Context) -> None:
        self._model, self._settings, self._context = flat, settings, context
        self._structure = read_structure(read_graph(flat))
        if settings.target == MACS and self._structure.macs(_NOTHING) is None:
            raise RefusedError("the model leaves the size of its input free, so a share of its MACs means nothing")
        blocks = residual_blocks(self._structure.graph) if settings.blocks else []
        if self._structure.unit_count == 0 and not blocks:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self._structure.left_alone.items())
            raise RefusedError(f"no filter of this model can be removed: {reasons or 'it has none'}"[:500])
        self._ratios = ratios_of_groups(self._structure, settings.ratios) if settings.ratios else {}
        if self._ratios and settings.blocks:
            raise RefusedError(
                "ratios say what each layer loses, so there is no share that whole blocks could be a part of"
            )
        self._widths = {group.name: len(group.units) for group in self._structure.groups}
        self._rounds: list[dict[str, Any]] = []
        self._blocks_gone: list[str] = []
        self._norms_measured = 0

    def run(self) -> StepResult:
        """All rounds, and the report."""
        settings, context, before = self._settings, self._context, self._structure
        whole = counted(before, settings.target)(_NOTHING)
        files, table = self._sensitivity()
        first = self._score(self._model)
        for number in range(1, settings.rounds + 1):
            goal = whole * (1 - settings.ratio) ** (number / settings.rounds)
            if not self._round(number, goal, first):
                break
        left = counted(self._structure, settings.target)(_NOTHING)
        figures: dict[str, Any] = {
            "target": settings.target,
            **({"ratios": self._reached_ratios()} if self._ratios else {"ratio": settings.ratio}),
            "reached": round(1 - left / whole, 5),
            "parameters_before": before.parameters(_NOTHING),
            "parameters": self._structure.parameters(_NOTHING),
            "macs_before": before.macs(_NOTHING),
            "macs": self._structure.macs(_NOTHING),
            "score_before": first,
            "norms_measured": self._norms_measured,
            "rounds": self._rounds,
            "filters": _filters(before, self._structure),
            "blocks_removed": self._blocks_gone,
            "normalized_otherwise": list(before.renormalised),
            "sensitivity": table,
        }
        if not self._ratios and left > whole * (1 - settings.ratio):
            stopped = any(not each["kept"] for each in self._rounds)
            figures["why_less"] = (
                "the next round crossed the floor" if stopped else "nothing more may go: every layer keeps a filter"
            )
        if settings.max_drop is not None and first is not None:
            figures["floor"] = first - settings.max_drop
        context.say(f"prune_structured: {1 - left / whole:.1%} of the {settings.target} removed")
        return StepResult(self._model, figures, context.preserve, dict(before.left_alone), files)

    def _sensitivity(self) -> tuple[tuple[str, ...], dict[str, Any]]:
        """The table of the model as it comes, and the files that show it."""
        model, structure, context = self._model, self._structure, self._context
        if not structure.groups:
            return (), {"skipped": "no filter may go"}
        parts = group_parts(structure, unit_scores(model, structure, self._settings.by, context))
        found = sensitivity(model, WORDS, parts, context.data, lambda: structure.macs(_NOTHING))
        return shipped(found, context.folder), found.figures()

    def _round(self, number: int, goal: float, first: float | None) -> bool:
        """One round of removing and training. Returns whether another one makes sense."""
        settings, context = self._settings, self._context
        began = time.monotonic()
        model, structure, blocks = self._without_blocks(goal)
        scores = unit_scores(model, structure, settings.by, context)
        removal = self._removal(structure, scores, number, goal)
        if not blocks and not len(removal.units):
            return True
        pruned = rebuild(structure.graph, structure.cuts(removal.units))
        if not structure.renormalised:
            with silenced(structure, removal.units):
                _confirm_same(model, pruned, context, "removing filters")
        before_training = self._score(pruned)
        history: History | None = None
        if settings.epochs:
            history = context.fit(
                pruned, context, epochs=settings.epochs, learning_rate=settings.learning_rate, label=f"round{number}"
            )
        self._norms_measured = 0 if history else measured_again(pruned, context)
        after = self._score(pruned) if history or self._norms_measured else before_training
        crossed = self._crosses(first, after)
        left = read_structure(read_graph(pruned))
        self._rounds.append(
            {
                "round": number,
                "parameters": left.parameters(_NOTHING),
                "macs": left.macs(_NOTHING),
                "blocks": blocks,
                "score_untrained": before_training,
                "score": after,
                "epochs": history.epochs if history else 0,
                "seconds": round(time.monotonic() - began, 1),
                "kept": not crossed,
            }
        )
        told = "" if after is None else f", score {after:.4f}"
        context.say(
            f"prune_structured: round {number} of {settings.rounds}, {left.parameters(_NOTHING)} parameters{told}"
            + (": below the floor, not kept" if crossed else "")
        )
        if not crossed:
            self._model, self._structure = pruned, left
            self._blocks_gone += blocks
        return not crossed and removal.reached

    def _removal(self, structure: Structure, scores: Scores, number: int, goal: float) -> Removal:
        """What goes in this round: down to the goal, or of each group the part of its ratio that is due."""
        settings = self._settings
        if not self._ratios:
            return choose(structure, scores, goal, target=settings.target, scope=settings.scope)
        wanted: dict[str, float] = {}
        for group in structure.groups:
            stays = (1 - self._ratios.get(group.name, 0.0)) ** (number / settings.rounds)
            wanted[group.name] = len(group.units) - self._widths[group.name] * stays
        return choose_numbers(structure, scores, wanted, target=settings.target)

    def _reached_ratios(self) -> dict[str, float]:
        """Of each group that a ratio was given for: the share of its filters that is gone."""
        left = {group.name: len(group.units) for group in self._structure.groups}
        return {name: round(1 - left.get(name, 0) / self._widths[name], 5) for name in self._ratios}

    def _crosses(self, first: float | None, now: float | None) -> bool:
        """Whether the floor lies above this score; equal is still on it."""
        if self._settings.max_drop is None or first is None or now is None:
            return False
        return now < first - self._settings.max_drop - 1e-12

    def _without_blocks(self, goal: float) -> tuple[Any, Structure, list[str]]:
        """The model without the residual blocks that are worth less than filters of the same size."""
        model, structure, gone = self._model, self._structure, []
        while self._settings.blocks:
            found = self._best_block(model, structure, goal)
            if found is None:
                break
            addition, model = found
            structure = read_structure(read_graph(model))
            gone.append(addition)
        return model, structure, gone

    def _best_block(self, model: Any, structure: Structure, goal: float) -> tuple[str, Any] | None:
        """The block that is missed least, and the model without it; None when each takes too much, or is missed more than as
        many parameters (or MACs) of filters would be."""
        settings = self._settings
        tried: list[tuple[float, int, str, Any]] = []
        for block in residual_blocks(structure.graph):
            short = rebuild(structure.graph, instead=block.instead)
            left = counted(read_structure(read_graph(short)), settings.target)(_NOTHING)
            if left >= goal:
                tried.append((self._block_score(short), left, block.addition, short))
        if not tried:
            return None
        value, left, addition, short = max(tried, key=lambda item: (item[0], -item[1]))
        scores = unit_scores(model, structure, settings.by, self._context)
        removal = choose(structure, scores, left, target=settings.target, scope=settings.scope)
        with silenced(structure, removal.units):
            rival = self._block_score(model)
        return (addition, short) if value >= rival or not removal.reached else None

    def _block_score(self, model: Any) -> float:
        data = self._context.needs_data("removing blocks")
        count = min(BLOCK_ROWS, data.validation.count)
        if count == 0:
            raise ToolError(
                "removing blocks needs validation rows, and there are none", remedy="add more training rows"
            )
        which = np.linspace(0, data.validation.count - 1, count).astype(np.int64)
        return score(model, data.validation.take(which), data.task)

    def _score(self, model: Any) -> float | None:
        """The score on the validation rows, or None without labelled ones. Raises ToolError when a floor needs it."""
        data = self._context.data
        if data is not None and data.validation.count and data.validation.labels is not None:
            return score(model, data.validation, data.task)
        if self._settings.max_drop is not None:
            raise ToolError(
                "max_drop needs labelled validation rows, and there are none", remedy="add y_train to the data"
            )
        return None


def _filters(before: Structure, after: Structure) -> dict[str, list[int]]:
    """Filters before and after of each layer that lost some; 0 after where the whole layer is gone."""

    def widths(structure: Structure) -> dict[str, int]:
        return {site.layer: len(site.ids) for site in structure.sites if site.role == MAKES and site.filter}

    old, new = widths(before), widths(after)
    return {name: [width, new.get(name, 0)] for name, width in old.items() if new.get(name, 0) != width}


def _confirm_same(one: Any, other: Any, context: Context, what: str) -> None:
    """Hold two models against each other on a few rows. Raises ToolError when they answer differently."""
    rows = _few_rows(one, context)
    if rows is None:
        return
    halves = any(getattr(layer, "compute_dtype", "float32") in {"float16", "bfloat16"} for layer in every_layer(one))
    for a, b in zip(Predictor(one)(rows.inputs), Predictor(other)(rows.inputs), strict=True):
        size = float(np.abs(a).max(initial=0.0)) + 1e-6
        off = float(np.abs(a.astype(np.float64) - b).max(initial=0.0)) if a.shape == b.shape else np.inf
        if not off <= size * (TOLERANCE_OF_HALVES if halves else TOLERANCE):
            raise ToolError(f"{what} changed the model's answers (by {off:.3g} of {size:.3g}), so it was not done")


def _few_rows(model: Any, context: Context) -> Rows | None:
    """A few rows of the data, or made up ones; None where the shape is free and there are no data."""
    if context.data is not None and context.data.train.count:
        return context.data.train.take(np.arange(min(CHECKED_ROWS, context.data.train.count)))
    rng = np.random.default_rng(context.seed)
    inputs: list[Array] = []
    for tensor in model.inputs:
        shape = tuple(tensor.shape)[1:]
        if None in shape:
            return None
        made = (
            rng.integers(0, 2, (CHECKED_ROWS, *shape))
            if "int" in tensor.dtype
            else rng.normal(size=(CHECKED_ROWS, *shape))
        )
        inputs.append(made.astype(np.float32 if "int" not in tensor.dtype else np.int32))
    return Rows(tuple(inputs), None)
