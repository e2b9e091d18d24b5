"""What one parameter of a search may be: a range of numbers, a range of whole numbers, or a list of choices.

Under `converters.search.space`. Every domain maps its values to [0, 1] and back, so that samplers need not know which it is, and keeps
values short (four significant digits), because they become words of a recipe and of a variant's name. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from converters.errors import RecipeError
from converters.recipe import hint
from converters.search.trial import Value

DIGITS = 4
# What is left of a value on a step after the noise of floating point.
_STEP_DIGITS = 12
# How many values of a range without a step a grid looks at, when it is told nothing.
LEVELS = 5
_KINDS = ("float", "int", "choice")
_BOUNDS = 2


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low` to `high`, both included; whole ones where `whole`. `log`: spread by ratio, not by difference.
    `step`: only `low`, `low + step`, …; None: any (of whole numbers: every one)."""

    low: float
    high: float
    whole: bool = False
    log: bool = False
    step: float | None = None

    @property
    def count(self) -> int | None:
        """How many values there are; None for a range of any numbers."""
        if self._pace is None:
            return 1 if self.low == self.high else None
        return math.floor((self.high - self.low) / self._pace + 1e-9) + 1

    @property
    def _pace(self) -> float | None:
        return 1.0 if self.whole and self.step is None else self.step

    def snapped(self, value: float) -> Value:
        """The nearest value of the range."""
        inside = min(max(float(value), self.low), self.high)
        if self._pace is not None and self.count is not None:
            place = min(round((inside - self.low) / self._pace), self.count - 1)
            inside = self.low + place * self._pace
        if self.whole:
            return round(inside)
        short = float(f"{inside:.{DIGITS if self._pace is None else _STEP_DIGITS}g}")
        # Where a bound has more digits, shortening may not leave the range.
        return min(max(short, self.low), self.high)

    def holds(self, value: object) -> bool:
        """Whether that is a value of this range."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return math.isclose(float(self.snapped(value)), value, rel_tol=1e-9, abs_tol=1e-12)

    def place(self, value: Value) -> int:
        """Which value of a stepped range that is, from 0."""
        return round((float(value) - self.low) / (self._pace or 1.0))

    def nth(self, place: int) -> Value:
        """The value at that place of a stepped range; inverse of `place`."""
        return self.snapped(self.low + place * (self._pace or 1.0))

    def unit(self, value: Value) -> float:
        """Where the value lies, in [0, 1]."""
        if self.low == self.high:
            return 0.5
        low, high, found = (self._scaled(each) for each in (self.low, self.high, float(value)))
        return min(max((found - low) / (high - low), 0.0), 1.0)

    def at(self, share: float) -> Value:
        """The value that lies there; inverse of `unit`, but for rounding."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        found = low + min(max(share, 0.0), 1.0) * (high - low)
        return self.snapped(math.exp(found) if self.log else found)

    def drawn(self, share: float) -> Value:
        """The value of a draw `share` uniform in [0, 1): every value of a stepped range as likely as the others, but for `log`."""
        if self.count is None or self._pace is None:
            return self.at(share)
        if self.log:
            low, high = self._scaled(self.low - 0.5), self._scaled(self.high + 0.5)
            return self.snapped(math.exp(low + share * (high - low)))
        return self.snapped(self.low + min(int(share * self.count), self.count - 1) * self._pace)

    def levels(self, most: int = LEVELS) -> tuple[Value, ...]:
        """All values of a range with a step if they are at most `most`, else `most` of them, evenly spread from `low` to `high`."""
        if self.count is not None and self.count <= most:
            return tuple(self.nth(place) for place in range(self.count))
        if most == 1:
            return (self.at(0.5),)
        return tuple(dict.fromkeys(self.at(place / (most - 1)) for place in range(most)))

    def _scaled(self, value: float) -> float:
        return math.log(value) if self.log else value


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words or numbers, in no order."""

    options: tuple[Value, ...]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.options)

    def snapped(self, value: Value) -> Value:
        """The option that equals the value. Raises ValueError when none does."""
        return self.options[self.place(value)]

    def holds(self, value: object) -> bool:
        """Whether that is one of the options."""
        return any(type(option) is type(value) and option == value for option in self.options)

    def unit(self, value: Value) -> float:
        """The middle of the option's share of [0, 1]."""
        return (self.place(value) + 0.5) / self.count

    def at(self, share: float) -> Value:
        """The option whose share of [0, 1] that is."""
        return self.options[min(int(max(share, 0.0) * self.count), self.count - 1)]

    def drawn(self, share: float) -> Value:
        """The same: every option is as likely as the others."""
        return self.at(share)

    def levels(self, _most: int = LEVELS) -> tuple[Value, ...]:
        """All of them: there is no middle to take a few from."""
        return self.options

    def nth(self, place: int) -> Value:
        """The option at that place."""
        return self.options[place]

    def place(self, value: Value) -> int:
        """Which option equals the value, from 0. Raises ValueError when none does."""
        for place, option in enumerate(self.options):
            if type(option) is type(value) and option == value:
                return place
        raise ValueError(f"{value!r} is none of {self.options}")


Domain = Range | Choice


def word(value: Value) -> str:
    """The value as a word of a recipe."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return str(value)


def read_domain(where: str, data: object) -> dict[str, Domain]:
    """A parameter as the user writes it → its domain, by the empty name; of a `per_layer` one a domain for each layer, by the layer.

    `{float: [low, high], log: true, step: …}`, `{int: [low, high]}`, `{choice: […]}`; with `per_layer: [layer, …]` one of these for every
    layer. `where`: what errors call it. Raises RecipeError.
    """
    if not isinstance(data, Mapping):
        raise RecipeError(f"{where} is {data!r}", remedy="write for example {float: [0.1, 0.9]} or {choice: [l1, l2]}")
    known = (*_KINDS, "log", "step", "per_layer")
    for key in data:
        if key not in known:
            raise RecipeError(f"{where}: unknown key {key!r}{hint(key, known)}", remedy=f"there are {', '.join(known)}")
    kinds = [kind for kind in _KINDS if kind in data]
    if len(kinds) != 1:
        found = " and ".join(kinds) or "none"
        raise RecipeError(f"{where} must have one of {', '.join(_KINDS)}, and has {found}")
    domain = _choice(where, data) if kinds == ["choice"] else _range(where, kinds[0], data)
    if "per_layer" not in data:
        return {"": domain}
    return dict.fromkeys(_layers(where, data["per_layer"]), domain)


def _layers(where: str, data: object) -> list[str]:
    listed = isinstance(data, Sequence) and not isinstance(data, str)
    layers = [item for item in data if isinstance(item, str) and item] if listed else []  # type: ignore[attr-defined]
    if not listed or not layers or len(layers) != len(data) or len(set(layers)) != len(layers):  # type: ignore[arg-type]
        raise RecipeError(f"{where}: per_layer is {data!r}, but must be a list of names of layers, each once")
    for layer in layers:
        if set(layer) & set(" ,()>@:/={}"):
            raise RecipeError(f"{where}: the name of layer {layer!r} cannot be a part of a recipe's text")
    return layers


def _choice(where: str, data: Mapping[str, Any]) -> Choice:
    for key in ("log", "step"):
        if key in data:
            raise RecipeError(f"{where}: {key} means nothing for a choice")
    options = data["choice"]
    if not isinstance(options, list | tuple) or not options:
        raise RecipeError(f"{where}: choice is {options!r}, but must be a list of values")
    for position, option in enumerate(options):
        if not isinstance(option, bool | int | float | str) or option != option:  # noqa: PLR0124  NaN
            raise RecipeError(f"{where}: choice {option!r} is no word and no number")
        if any(word(option) == word(other) for other in options[:position]):
            raise RecipeError(f"{where}: choice {option!r} stands there twice")
    return Choice(tuple(options))


def _range(where: str, kind: str, data: Mapping[str, Any]) -> Range:
    whole, bounds, log, step = kind == "int", data[kind], data.get("log", False), data.get("step")
    if (
        not isinstance(bounds, list | tuple)
        or len(bounds) != _BOUNDS
        or not all(_number(each, whole) for each in bounds)
    ):
        example = "[1, 8]" if whole else "[0.1, 0.9]"
        raise RecipeError(f"{where}: {kind} is {bounds!r}, but must be a low and a high bound, like {example}")
    low, high = bounds
    if low > high:
        raise RecipeError(f"{where}: {kind} is [{low:g}, {high:g}], and the low bound is above the high one")
    if not isinstance(log, bool):
        raise RecipeError(f"{where}: log is {log!r}, but must be true or false")
    if log and low <= 0:
        raise RecipeError(f"{where}: a range by ratios (log: true) must begin above 0, not at {low:g}")
    if step is not None and (not _number(step, whole) or step <= 0):
        raise RecipeError(f"{where}: step is {step!r}, but must be a {'whole ' if whole else ''}number above 0")
    if step is not None and log:
        raise RecipeError(
            f"{where}: log and step exclude each other", remedy="leave one out, or list the values under choice"
        )
    return Range(float(low), float(high), whole, log, None if step is None else float(step))


def _number(value: object, whole: bool) -> bool:
    """Whether that is a finite number, and a whole one where it must be."""
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        return False
    return math.isfinite(value)
