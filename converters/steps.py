"""Compression steps by name: what a recipe may do to the base model before it is exported, and how a chain is written.

Read by `converters.recipe`; the steps themselves live in `converters.compress`, whose modules only a worker imports. A chain
reads from left to right, `prune(0.5) > cluster(16)`: each step takes the model that the one before it left. The first parameter
of a step may be given without its name. No toolchain is imported here.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from converters.errors import RecipeError
from converters.step_catalogue import STEPS, Parameter, StepInfo

__all__ = ["STEPS", "Parameter", "Step", "StepInfo", "chain_slug", "chain_text", "make_step", "parse_chain"]

_CALL = re.compile(r"\s*(?P<name>[A-Za-z_]\w*)\s*(?:\((?P<arguments>[^()]*)\))?\s*")
_MARK = re.compile(r"[^A-Za-z0-9.]+")
MAX_STEPS = 16


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a chain. `parameters`: the first, and those that differ from their defaults, in the order of
    the step's declaration."""

    name: str
    parameters: tuple[tuple[str, Any], ...] = ()

    @property
    def info(self) -> StepInfo:
        """What the catalogue says of it."""
        return STEPS[self.name]

    @property
    def values(self) -> dict[str, Any]:
        """All parameters, those that were not given at their defaults."""
        return {item.name: item.default for item in self.info.parameters} | dict(self.parameters)

    @property
    def text(self) -> str:
        """As `parse_chain` reads it: `prune(0.5, scope=layer)`."""
        if not self.parameters:
            return self.name
        first = self.info.parameters[0].name
        words = [_word(value) if key == first else f"{key}={_word(value)}" for key, value in self.parameters]
        return f"{self.name}({', '.join(words)})"

    @property
    def slug(self) -> str:
        """Fit for a file name, and different for steps that differ: `prune_0.5_scope-layer`."""
        first = self.info.parameters[0].name if self.info.parameters else ""
        paths = {item.name for item in self.info.parameters if item.names_file(self.values[item.name])}
        plain = {key: _plain(value, unique=key in paths) for key, value in self.parameters}
        long = {item.name for item in self.info.parameters if item.is_long}
        plain |= {key: _digest(value)[:8] for key, value in self.parameters if key in long}
        words = [text if key == first else f"{key}-{text}" for key, text in plain.items()]
        return "_".join([self.name, *words])

    def to_dict(self) -> dict[str, Any]:
        """Plain data: `{"step": name, parameter: value, …}` of the parameters that were given; `make_step` reads it back."""
        return {"step": self.name, **dict(self.parameters)}


def _word(value: Any) -> str:
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _plain(value: Any, *, unique: bool) -> str:
    """The value with other characters than letters, digits and dots as `-`; `unique`: and with a piece of its digest."""
    word = _word(value)
    return _MARK.sub("-", word).strip("-") + (f"-{_digest(value)[:6]}" if unique else "")


def _digest(value: Any) -> str:
    return hashlib.sha256(_word(value).encode()).hexdigest()


def make_step(name: str, given: Mapping[str, Any] | None = None) -> Step:
    """A step with its parameters checked. Raises RecipeError with a suggestion for a word that means nothing."""
    info = STEPS.get(name)
    if info is None:
        raise RecipeError(f"unknown compression step {name!r}{_hint(name, STEPS)}")
    known = {item.name: item for item in info.parameters}
    for key in given or {}:
        if key not in known:
            raise RecipeError(
                f"{name} has no parameter {key!r}{_hint(key, known)}",
                remedy="it has: " + ", ".join(known) if known else "it takes none",
            )
    values = {key: known[key].checked(value, name) for key, value in (given or {}).items()}
    missing = [item.name for item in info.parameters if item.required and item.name not in values]
    if missing:
        raise RecipeError(f"{name} needs {missing[0]}", remedy=f"for example {info.example}")
    # The first parameter is the step's measure: it is said even where it is the default.
    first = {info.parameters[0].name: info.parameters[0].default} if info.parameters else {}
    values = {key: value for key, value in first.items() if value is not None} | values
    kept = [
        (key, values[key]) for key in known if key in values and (key in first or values[key] != known[key].default)
    ]
    return Step(name, tuple(kept))


def parse_chain(text: str) -> tuple[Step, ...]:
    """`prune(0.5, scope=layer) > cluster(16)` → its steps. Raises RecipeError."""
    parts = text.split(">")
    if len(parts) > MAX_STEPS:
        raise RecipeError(f"a chain of {len(parts)} steps is longer than {MAX_STEPS}")
    return tuple(_parse_step(part) for part in parts)


def _parse_step(text: str) -> Step:
    match = _CALL.fullmatch(text)
    if match is None:
        raise RecipeError(
            f"{text.strip()!r} is no compression step", remedy="write for example prune(0.5) or cluster(16)"
        )
    name, given = match["name"], {}
    info = STEPS.get(name) or make_step(name).info  # which says what is wrong with the name
    arguments = [item.strip() for item in (match["arguments"] or "").split(",")]
    for position, word in enumerate(arguments if arguments != [""] else []):
        key, equals, value = (part.strip() for part in word.partition("="))
        if not equals:
            if position > 0 or not info.parameters:
                raise RecipeError(f"{text.strip()}: {word!r} wants a name", remedy="write name=value")
            key, value = info.parameters[0].name, word
        if not value or key in given:
            raise RecipeError(f"{text.strip()}: {key!r} is given {'twice' if key in given else 'without a value'}")
        given[key] = value
    return make_step(name, given)


def chain_text(steps: Sequence[Step]) -> str:
    """As `parse_chain` reads it."""
    return " > ".join(step.text for step in steps)


def chain_slug(steps: Sequence[Step]) -> str:
    """The chain as part of a file name."""
    return "+".join(step.slug for step in steps)


def _hint(word: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
