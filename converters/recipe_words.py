"""The user's words → recipes: names, formats, `all`, chains of steps, and mappings from YAML; a hint for words that mean nothing.

Above `converters.recipe`, which knows how a recipe is spelled, and `converters.support`, which knows whether it exists. A
chain is `prune(0.5) > cluster(16) > static_wi8_ai8 @ tflite`, or `tflite:prune(0.5)>cluster(16)>static_wi8_ai8`: without a
precision it means fp32, without a format every format that has it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from converters.errors import RecipeError
from converters.recipe import (
    MATRIX_NAMES,
    PARAMETERS,
    Recipe,
    hint,
    make_recipe,
    matrix,
    named,
    parse_name,
    with_steps,
)
from converters.steps import STEPS, Step, make_step, parse_chain
from converters.support import reason
from converters.variant import FORMATS

# Commas and spaces outside of brackets separate words; `>` and `@` join them, with or without spaces around.
_JOINTS = re.compile(r"\s*([>@])\s*|\s+(?=\()")
_WORD = re.compile(r"(?:\([^()]*\)|[^\s,()])+")
_PREFIX = re.compile(r"(\w+):")
_UNCHANGED = "fp32"


def _joined(text: str) -> str:
    return _JOINTS.sub(lambda match: match[1] or "", text.strip())


def _words(text: str) -> list[str]:
    """The words of a text. Raises RecipeError for brackets that do not close."""
    joined = _joined(text)
    if re.search(r"[()]", _WORD.sub("", joined)):
        raise RecipeError(f"a bracket too many or too few in {text.strip()!r}", remedy="write for example prune(0.5)")
    return _WORD.findall(joined)


def _parse_word(word: str) -> list[Recipe]:
    """One word: `all`, a format, `format:all`, `format:name`, a bare name for every format that has it, or a chain of these."""
    prefix = _PREFIX.match(word)
    fmt, rest = (prefix[1], word[prefix.end() :]) if prefix else ("", word)
    before, at, after = rest.rpartition("@")
    if at and ")" not in after:
        if fmt:
            raise RecipeError(f"{word!r} names a format twice", remedy="write it in front, or behind an @")
        fmt, rest = after, before
        if not fmt:
            raise RecipeError(f"{word!r} names no format behind the @", remedy=f"there are {', '.join(FORMATS)}")
    if fmt and fmt not in FORMATS:
        raise RecipeError(f"unknown format {fmt!r} in recipe {word!r}{hint(fmt, FORMATS)}")
    *chain, last = rest.split(">")
    if "(" in last or last in STEPS:
        chain, last = [*chain, last], _UNCHANGED
    if not chain:
        return _parse_precision(last, fmt, word)
    return _parse_chained(chain, last, fmt, word)


def _parse_precision(name: str, fmt: str, word: str) -> list[Recipe]:
    """Recipes without steps: of one format, or of all that have it."""
    if name == "all":
        return list(matrix([fmt] if fmt else None))
    if name in FORMATS and not fmt:
        return list(matrix([name]))
    if fmt:
        return [named(fmt, name)]
    return _possible(_spelled(name), word)


def _parse_chained(chain: list[str], last: str, fmt: str, word: str) -> list[Recipe]:
    """The steps `chain`, then the precision `last`."""
    early = next((name for name in chain if any(parse_name(known, name) for known in FORMATS)), None)
    if early is not None or last in ("", *FORMATS):
        raise RecipeError(
            f"{word!r} is no chain: " + (f"the precision {early} comes last" if early else f"{last!r} is no precision"),
            remedy="write steps, then a precision, then a format: prune(0.5) > static_wi8_ai8 @ tflite",
        )
    steps = parse_chain(">".join(chain))
    if last == "all":
        return _possible([with_steps(recipe, steps) for recipe in matrix([fmt] if fmt else None)], word)
    precisions = [named(fmt, last)] if fmt else _spelled(last)
    recipes = [with_steps(recipe, steps) for recipe in precisions]
    return recipes if fmt else _possible(recipes, word)


def _spelled(name: str) -> list[Recipe]:
    """The precision of that name in every format that could have it. Raises RecipeError when it spells none."""
    spelled = [recipe for fmt in FORMATS if (recipe := parse_name(fmt, name)) is not None]
    if not spelled:
        known = ["all", *FORMATS, *(name for names in MATRIX_NAMES.values() for name in names), *STEPS]
        raise RecipeError(f"unknown recipe {name!r}{hint(name, known)}")
    return spelled


def _possible(recipes: Sequence[Recipe], word: str) -> list[Recipe]:
    """Those that exist. Raises RecipeError with the reasons when none does."""
    possible = [recipe for recipe in recipes if reason(recipe) is None]
    if not possible:
        reasons: dict[str | None, list[str]] = {}
        for recipe in recipes:
            reasons.setdefault(reason(recipe), []).append(recipe.format)
        words = (f"{', '.join(dict.fromkeys(formats))}: {why}" for why, formats in reasons.items())
        raise RecipeError(f"no format has the recipe {word!r}: " + "; ".join(words))
    return possible


def _parse_mapping(data: Mapping[str, Any]) -> list[Recipe]:
    """`{format: onnx, name: static_wi8_ai8, granularity: per_tensor}`: the name's recipe with parameters changed."""
    known = ("format", "name", *PARAMETERS)
    for key in data:
        if key not in known:
            raise RecipeError(f"unknown recipe key {key!r}{hint(key, known)}")
    given = {key: value for key, value in data.items() if key not in ("format", "name")}
    if "steps" in given:
        given["steps"] = parse_steps(given["steps"])
    if "name" not in data and "steps" in given and "mode" not in data:
        data = {**data, "name": _UNCHANGED}
    if "name" in data:
        word = _joined(f"{data['format']}:{data['name']}" if "format" in data else str(data["name"]))
        bases = _parse_word(word)
        if "steps" in given and any(base.steps for base in bases):
            raise RecipeError(f"{word!r} has steps, and steps are given too", remedy="give them in one place")
        recipes = [_changed(base, given) for base in bases]
        return recipes if "format" in data or not given.get("steps") else _possible(recipes, word)
    missing = [key for key in ("format", "mode", "weights", "activations") if key not in data]
    if missing:
        raise RecipeError(
            f"a recipe needs a name, or all of format, mode, weights and activations; missing: {missing[0]}"
        )
    values = dict(given)
    core = [str(data["format"]), *(str(values.pop(key)) for key in ("mode", "weights", "activations"))]
    return [make_recipe(core[0], core[1], core[2], core[3], **values)]


def parse_steps(data: Any) -> tuple[Step, ...]:
    """Steps from text (`prune(0.5) > cluster(16)`), or from a list of texts and mappings (`{step: prune, sparsity: 0.5}`).

    Raises RecipeError.
    """
    items: Sequence[Any] = data if isinstance(data, list | tuple) else [data]
    steps: list[Step] = []
    for item in items:
        if isinstance(item, str):
            steps += parse_chain(item)
        elif isinstance(item, Mapping) and isinstance(item.get("step"), str):
            steps.append(make_step(item["step"], {key: value for key, value in item.items() if key != "step"}))
        else:
            raise RecipeError(f"a compression step is text or a mapping with the key step, not {item!r}")
    return tuple(steps)


def _changed(base: Recipe, given: Mapping[str, Any]) -> Recipe:
    values = {key: getattr(base, key) for key in PARAMETERS} | dict(given)
    if not values["accuracy_control"] and "max_drop" not in given:
        values["max_drop"] = None
    core = [str(values.pop(key)) for key in ("mode", "weights", "activations")]
    return make_recipe(base.format, core[0], core[1], core[2], **values)


def recipe_from_dict(data: Mapping[str, Any]) -> Recipe:
    """Inverse of `Recipe.to_dict`. Raises RecipeError; the name must be the one the parameters spell."""
    values = {key: value for key, value in data.items() if key != "name"}
    (recipe,) = _parse_mapping(values)
    if data.get("name") != recipe.name:
        raise RecipeError(
            f"recipe name {data.get('name')!r} does not match its parameters, which spell {recipe.name!r}"
        )
    return recipe


def parse_recipes(spec: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]) -> list[Recipe]:
    """Read recipes from text (words split by commas or spaces), a mapping, or a list of either; duplicates once.

    Words: `all`, a format, `format:name`, a bare name (every format that has it), or a chain of compression steps that may
    end with a precision and a format. Raises RecipeError with a suggestion for a word that means nothing.
    """
    items: Sequence[Any] = [spec] if isinstance(spec, str | Mapping) else spec
    recipes: dict[str, Recipe] = {}
    for item in items:
        if isinstance(item, Mapping):
            found = _parse_mapping(item)
        elif isinstance(item, str):
            found = [recipe for word in _words(item) for recipe in _parse_word(word)]
        else:
            raise RecipeError(f"a recipe is a name or a mapping, not {item!r}")
        recipes |= {recipe.key: recipe for recipe in found}
    if not recipes:
        raise RecipeError("no recipe given", remedy="name one, or say 'all'")
    return list(recipes.values())
