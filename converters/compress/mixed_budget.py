"""What each layer uses of a budget with each number of bits: stored bits, bytes, bit-operations, measured time.

Used by `converters.compress.mixed_precision`: makes the items and limits that `converters.compress.mixed_choose` chooses from.
Bit-operations are products times the bits of both factors (Baskin et al., arXiv:1804.10969); times come from a file that was
measured on the device. numpy only at import.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from converters.compress.mixed_choose import Item
from converters.compress.mixed_sensitivity import Sensitivities
from converters.errors import RefusedError

EIGHT = 8
BITS, SIZE, OPERATIONS, LATENCY = "bits", "size_bytes", "bit_operations", "latency_ms"
_BITS_PER_BYTE = 8
_NS_PER_MS = 1e6
_APART = re.compile(r"[/;:,\s]+")
_NUMBERED = re.compile(r"_\d+$")
_RAW = "_raw"


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer whose kernel gets bits. `weights`: number of them. `macs`: for one row, None when they are not known. `reads`: number of the
    range of its input, None where that has none of its own."""

    name: str
    weights: int
    macs: int | None
    reads: int | None = None


@dataclass(frozen=True, slots=True)
class Times:
    """What was measured. `layers`: name → bits → ns. `rest_ns`: of all that is no such layer."""

    layers: Mapping[str, Mapping[int, float]]
    rest_ns: float

    def of(self, layer: str, bits: int) -> float:
        """Time in ns. Bits that were not measured take the next larger that were: they are stored in those. Raises RefusedError."""
        known = self.layers.get(layer, {})
        at = min((each for each in known if each >= bits), default=None)
        if known and at is None:
            raise RefusedError(f"the latency table has no time of {layer} with {bits} bits or more")
        return 0.0 if at is None else known[at]


def read_times(path: Path, layers: Sequence[str]) -> Times:
    """A latency table: JSON, number of bits → what was measured with all layers at these bits, either the output of
    `harness explain VARIANT --against BASE --json` or layer → ns.

    An operator belongs to the layer whose name is a part of its own, between `/`, `;` and `:`. Raises RefusedError for a file
    that is no such table.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        measured = {int(bits): _operators(content) for bits, content in told.items()}
        latency = told[str(max(measured))].get("variant", {}).get("latency_ns")
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise RefusedError(
            f"the latency table {path.name} cannot be read: {error or type(error).__name__}",
            remedy='it is JSON such as {"8": {"conv1": 52000}, "4": {"conv1": 41000}}, in ns, or has the output of '
            "`harness explain … --against … --json` for each number of bits",
        ) from error
    found: dict[str, dict[int, float]] = {}
    rest = 0.0
    for bits, operators in measured.items():
        strange = 0.0
        for name, time_ns in operators:
            owner = _owner(name, layers)
            if owner is None:
                strange += time_ns
            else:
                found.setdefault(owner, {})[bits] = found.get(owner, {}).get(bits, 0.0) + time_ns
        if bits == max(measured):
            known = sum(times[bits] for times in found.values() if bits in times)
            rest = strange if latency is None else max(float(latency) - known, 0.0)
    if not found:
        raise RefusedError(f"no layer of this model has a time in the latency table {path.name}")
    return Times(found, rest)


def _operators(content: Any) -> list[tuple[str, float]]:
    rows = content.get("layers", content)
    if isinstance(rows, list):
        return [(str(row["name"]), float(row["time_ns"])) for row in rows]
    return [(str(name), float(time_ns)) for name, time_ns in rows.items()]


def _owner(operator: str, layers: Sequence[str]) -> str | None:
    parts = set(_APART.split(operator)) | {operator}
    # Keras numbers the names of a second trace.
    numbered = {_NUMBERED.sub("", part) for part in parts}
    for known in (parts, numbered):
        for layer in layers:
            # A last layer whose name the output keeps is called so where it is rounded (`quantize_build`).
            if layer in known or layer.removesuffix(_RAW) in known:
                return layer
    return None


@dataclass(frozen=True, slots=True)
class Wish:
    """The step's budgets; None where there is none. `bits`: mean bits of the weights. `size_bytes`: all weights, kernels with their
    bits and everything else in float32. `bit_operations`: as a share of those with 8 bits everywhere. `latency_ms` goes with `times`."""

    bits: float | None = None
    size_bytes: int | None = None
    bit_operations: float | None = None
    latency_ms: float | None = None
    times: Times | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """The integer program. `items`: first one for each of `ranges` (options `activations`), then one for each layer, whose options are
    `options`: (bits of weights, bits of activations). `constants`: what is used of each budget whatever is chosen, in its unit."""

    items: tuple[Item, ...]
    limits: Mapping[str, float]
    constants: Mapping[str, float]
    layers: tuple[Layer, ...]
    ranges: tuple[int, ...]
    activations: tuple[int, ...]
    options: tuple[tuple[tuple[int, int], ...], ...]

    def bits_of(self, chosen: Sequence[int]) -> dict[str, int]:
        """Bits of each layer's weights in a choice."""
        own = chosen[len(self.ranges) :]
        return {
            layer.name: options[option][0]
            for layer, options, option in zip(self.layers, self.options, own, strict=True)
        }

    def wide(self, chosen: Sequence[int]) -> frozenset[int]:
        """Numbers of the ranges that get more than 8 bits in a choice."""
        of_ranges = chosen[: len(self.ranges)]
        return frozenset(
            number for number, option in zip(self.ranges, of_ranges, strict=True) if self.activations[option] > EIGHT
        )


def make_problem(
    layers: Sequence[Layer],
    found: Sensitivities,
    candidates: Sequence[int],
    activations: Sequence[int],
    wish: Wish,
    other_bytes: int,
) -> Problem:
    """The integer program of a network. `other_bytes`: of weights that are no kernels, and of scales.

    Raises RefusedError where a budget cannot be counted.
    """
    if wish.bit_operations is not None and any(layer.macs is None for layer in layers):
        raise RefusedError("the products of this model are not known, so bit_operations cannot be counted")
    ranges = tuple(sorted(found.ranges)) if len(activations) > 1 else ()
    weights = sum(layer.weights for layer in layers)
    # More bits never do harm: what a measurement of few rows says against it is noise.
    items = [
        Item(np.array([found.ranges[number] if bits <= EIGHT else 0.0 for bits in activations])) for number in ranges
    ]
    every_option = []
    for layer in layers:
        leads = ranges.index(layer.reads) if layer.reads in ranges else None
        inputs = tuple(activations) if leads is not None else (EIGHT,)
        options = tuple((weights, of_input) for weights in candidates for of_input in inputs)
        every_option.append(options)
        losses = _falling(found.layers[layer.name], candidates)
        follows = None if leads is None else (leads, tuple(inputs.index(of_input) for _, of_input in options))
        uses = _uses(layer, options, wish, weights)
        items.append(Item(np.array([losses[bits] for bits, _ in options]), uses, follows))
    limits: dict[str, float] = {}
    constants: dict[str, float] = {}
    if wish.bits is not None:
        limits[BITS], constants[BITS] = wish.bits, 0.0
    if wish.size_bytes is not None:
        limits[SIZE], constants[SIZE] = float(wish.size_bytes - other_bytes), float(other_bytes)
    if wish.bit_operations is not None:
        limits[OPERATIONS] = wish.bit_operations * sum((layer.macs or 0) * EIGHT * EIGHT for layer in layers)
        constants[OPERATIONS] = 0.0
    if wish.latency_ms is not None and wish.times is not None:
        constants[LATENCY] = wish.times.rest_ns / _NS_PER_MS
        limits[LATENCY] = wish.latency_ms - constants[LATENCY]
    return Problem(tuple(items), limits, constants, tuple(layers), ranges, tuple(activations), tuple(every_option))


def _falling(losses: Mapping[int, float], candidates: Sequence[int]) -> dict[int, float]:
    """Losses that do not rise with the bits."""
    least, fallen = np.inf, {}
    for bits in sorted(candidates):
        least = min(least, losses[bits])
        fallen[bits] = float(least)
    return fallen


def _uses(layer: Layer, options: Sequence[tuple[int, int]], wish: Wish, weights: int) -> dict[str, Any]:
    uses: dict[str, Any] = {}
    if wish.bits is not None:
        uses[BITS] = np.array([bits * layer.weights / weights for bits, _ in options])
    if wish.size_bytes is not None:
        uses[SIZE] = np.array([-(-bits * layer.weights // _BITS_PER_BYTE) for bits, _ in options], np.float64)
    if wish.bit_operations is not None:
        uses[OPERATIONS] = np.array([(layer.macs or 0) * bits * of_input for bits, of_input in options], np.float64)
    if wish.latency_ms is not None and wish.times is not None:
        uses[LATENCY] = np.array([wish.times.of(layer.name, bits) / _NS_PER_MS for bits, _ in options])
    return uses
