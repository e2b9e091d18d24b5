"""Write what can be read off the code into docs/: JSON Schemas of the files a user writes, and the recipes there are.

A test holds the committed files against what this script makes.
"""

from __future__ import annotations

import json
from pathlib import Path

from converters.recipe import make_recipe, matrix
from converters.support import ABSENT, SUPPORTED
from harness.experiment import Experiment
from harness.profiles import DeviceProfile

DOCS = Path(__file__).resolve().parent.parent / "docs"
MODELS = {"experiment": Experiment, "device-profile": DeviceProfile}

RECIPES = """# Recipes

*Made by `scripts/make_docs.py` from `converters/recipe.py` and `converters/support.py`.*

A recipe says what a variant is: a format and a precision, by a name that tells it. `static_wi8_ai8` has int8 weights and int8
activations with calibrated ranges; `dynamic_wi8_afp32` int8 weights and float activations that are quantized at run time;
`weight_only_wi4_afp32` int4 weights that are computed in float. Parameters that differ from a format's default follow the name.

## What `--recipes all` makes

| format | recipes |
| --- | --- |
{matrix}

## What exists

Parameters are given in the name (`onnx:static_wi8_ai8_per_tensor`) or as a mapping in YAML
(`{{format: onnx, mode: static, weights: i8, activations: i8, granularity: per_tensor}}`).

| format | mode | weights | activations | made by | parameters beyond the default |
| --- | --- | --- | --- | --- | --- |
{supported}

## What does not, and why

A combination that cannot exist is refused before any work, with the reason. The first line that fits speaks.

| where | why not |
| --- | --- |
{absent}
"""


def schemas() -> dict[str, str]:
    """Path below docs/ -> text."""
    return {
        f"schemas/{name}.schema.json": json.dumps(model.model_json_schema(), indent=2, sort_keys=True) + "\n"
        for name, model in MODELS.items()
    }


def _value(value: object) -> str:
    if value is None:
        return "default"
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def recipes() -> str:
    """docs/recipes.md."""
    formats = dict.fromkeys(recipe.format for recipe in matrix())
    names = [
        f"| {fmt} | {', '.join(f'`{recipe.name}`' for recipe in matrix() if recipe.format == fmt)} |" for fmt in formats
    ]
    lines = []
    for line in SUPPORTED:
        default = make_recipe(line.format, line.mode, line.weights, line.activations).to_dict()
        extras = [
            f"{key}: {', '.join(_value(v) for v in values if v != default[key])}"
            for key, values in line.parameters.items()
            if any(v != default[key] for v in values)
        ]
        lines.append(
            f"| {line.format} | {line.mode} | {line.weights} | {line.activations} | {line.toolchain} | {'; '.join(extras)} |"
        )
    absent = [
        f"| {', '.join(f'{key} {_value(value)}' for key, value in fields.items())} | {why} |" for fields, why in ABSENT
    ]
    return RECIPES.format(matrix="\n".join(names), supported="\n".join(lines), absent="\n".join(absent))


def documents() -> dict[str, str]:
    """Path below docs/ -> text of every generated document."""
    return {**schemas(), "recipes.md": recipes()}


if __name__ == "__main__":
    for file_name, text in documents().items():
        (DOCS / file_name).write_text(text, encoding="utf-8")
