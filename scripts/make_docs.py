"""Write what can be read off code and results into docs/: JSON Schemas of the files a user writes, recipes, steps, what was measured.

A test holds the committed files against what this script makes.
"""

from __future__ import annotations

import json
from pathlib import Path

from _compression_page import page as compression_results
from _search_page import page as search_results

from converters.recipe import make_recipe, matrix
from converters.step_catalogue import STEPS
from converters.step_rules import refusals
from converters.support import ABSENT, SUPPORTED
from harness.experiment import Experiment
from harness.profiles import DeviceProfile
from harness.report.recipes import parameter_words

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
TFLite can also have static int4 (`static_wi4_ai8`) where the model was trained for it, by the step `qat(weight_bits=4)`.

| format | mode | weights | activations | made by | parameters beyond the default |
| --- | --- | --- | --- | --- | --- |
{supported}

## What does not, and why

A combination that cannot exist is refused before any work, with the reason. The first line that fits speaks.

| where | why not |
| --- | --- |
{absent}
"""

COMPRESSION_STEPS = """# Compression steps

*Made by `scripts/make_docs.py` from `converters/step_catalogue.py` and `converters/step_rules.py`; `harness recipes` prints the
same. How to chain them and what to expect: [compression](compression.md).*

The first parameter may be given without its name: `prune(0.5, scope=layer)`.
{steps}
## What does not go together, and why

Refused before any work, with the reason.

| chain | why not |
| --- | --- |
{refusals}
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


def compression_steps() -> str:
    """docs/compression-steps.md."""
    parts = []
    for info in STEPS.values():
        lines = [f"\n## {info.name}\n", f"{info.summary[0].upper()}{info.summary[1:]}. Write `{info.example}`.\n"]
        if info.parameters:
            lines += ["| parameter | what it is | values |", "| --- | --- | --- |"]
            for item in info.parameters:
                words = parameter_words(
                    {
                        "kind": item.kind.__name__,
                        "default": item.default,
                        "low": item.low,
                        "high": item.high,
                        "open_ended": item.open_ended,
                        "choices": item.choices,
                    }
                )
                lines.append(f"| {item.name} | {item.help} | {words} |")
            lines.append("")
        lines.append(f"Source: {info.paper}.\n")
        parts.append("\n".join(lines))
    table = "\n".join(f"| {chain} | {why} |" for chain, why in refusals())
    return COMPRESSION_STEPS.format(steps="".join(parts), refusals=table)


def documents() -> dict[str, str]:
    """Path below docs/ -> text of every generated document."""
    return {
        **schemas(),
        "recipes.md": recipes(),
        "compression-steps.md": compression_steps(),
        "compression-results.md": compression_results(),
        "search-results.md": search_results(),
    }


if __name__ == "__main__":
    for file_name, text in documents().items():
        (DOCS / file_name).write_text(text, encoding="utf-8")
