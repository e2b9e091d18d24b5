"""The user's words → recipes: names, formats, `all`, and mappings from YAML, with a suggestion for a word that means nothing.

Above `converters.recipe`, which knows how a recipe is spelled, and `converters.support`, which knows whether it exists.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from converters.errors import RecipeError
from converters.recipe import MATRIX_NAMES, PARAMETERS, Recipe, hint, make_recipe, matrix, named, parse_name
from converters.support import reason
from converters.variant import FORMATS


def _parse_word(word: str) -> list[Recipe]:
    """One word: `all`, a format, `format:all`, `format:name`, or a bare name for every format that has it."""
    fmt, colon, name = word.partition(":")
    if word == "all":
        return list(matrix())
    if fmt in FORMATS and (not colon or name == "all"):
        return list(matrix([fmt]))
    if colon:
        if fmt not in FORMATS:
            raise RecipeError(f"unknown format {fmt!r} in recipe {word!r}{hint(fmt, FORMATS)}")
        return [named(fmt, name)]
    spelled = [recipe for fmt in FORMATS if (recipe := parse_name(fmt, word)) is not None]
    if not spelled:
        known = ["all", *FORMATS, *(name for names in MATRIX_NAMES.values() for name in names)]
        raise RecipeError(f"unknown recipe {word!r}{hint(word, known)}")
    possible = [recipe for recipe in spelled if reason(recipe) is None]
    if not possible:
        raise RecipeError(
            f"no format has the recipe {word!r}: " + "; ".join(f"{r.format}: {reason(r)}" for r in spelled)
        )
    return possible


def _parse_mapping(data: Mapping[str, Any]) -> list[Recipe]:
    """`{format: onnx, name: static_wi8_ai8, granularity: per_tensor}`: the name's recipe with parameters changed."""
    known = ("format", "name", *PARAMETERS)
    for key in data:
        if key not in known:
            raise RecipeError(f"unknown recipe key {key!r}{hint(key, known)}")
    given = {key: value for key, value in data.items() if key not in ("format", "name")}
    if "name" in data:
        word = f"{data['format']}:{data['name']}" if "format" in data else str(data["name"])
        bases = _parse_word(word)
        fixed = {"format", "name", *given}
        return [_changed(base, {k: v for k, v in base.to_dict().items() if k not in fixed}, given) for base in bases]
    missing = [key for key in ("format", "mode", "weights", "activations") if key not in data]
    if missing:
        raise RecipeError(
            f"a recipe needs a name, or all of format, mode, weights and activations; missing: {missing[0]}"
        )
    values = dict(given)
    core = [str(data["format"]), *(str(values.pop(key)) for key in ("mode", "weights", "activations"))]
    return [make_recipe(core[0], core[1], core[2], core[3], **values)]


def _changed(base: Recipe, kept: Mapping[str, Any], given: Mapping[str, Any]) -> Recipe:
    values = {**kept, **given}
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

    Words: `all`, a format, `format:name`, or a bare name (every format that has it). Raises RecipeError with a
    suggestion for a word that means nothing.
    """
    items: Sequence[Any] = [spec] if isinstance(spec, str | Mapping) else spec
    recipes: dict[str, Recipe] = {}
    for item in items:
        if isinstance(item, Mapping):
            found = _parse_mapping(item)
        elif isinstance(item, str):
            found = [recipe for word in re.split(r"[,\s]+", item.strip()) if word for recipe in _parse_word(word)]
        else:
            raise RecipeError(f"a recipe is a name or a mapping, not {item!r}")
        recipes |= {recipe.key: recipe for recipe in found}
    if not recipes:
        raise RecipeError("no recipe given", remedy="name one, or say 'all'")
    return list(recipes.values())
