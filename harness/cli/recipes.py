"""`harness recipes`: what a recipe may say: precisions by format, and the compression steps with their parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.common import JsonOption, emit_json, guarded, screen

if TYPE_CHECKING:
    from converters.step_catalogue import Parameter


@guarded
def recipes(
    words: Annotated[
        list[str] | None,
        typer.Argument(help="Recipes to look at: names, formats or chains, as `harness convert --recipe` takes them."),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """List the recipes there are and the compression steps; or say what the recipes named mean, and which cannot exist."""
    from harness.cli.conversion import read_recipes
    from harness.report.recipes import render_catalogue, render_recipes

    width, color = screen()
    if words:
        rows = [_recipe(recipe) for recipe in read_recipes(words)]
        if json_:
            emit_json(rows)
        else:
            typer.echo(render_recipes(rows, width=width, color=color), nl=False)
        return
    from converters.recipe import matrix
    from converters.step_catalogue import STEPS

    precisions: dict[str, list[str]] = {}
    for recipe in matrix():
        precisions.setdefault(recipe.format, []).append(recipe.name)
    steps = [
        {
            "step": info.name,
            "summary": info.summary,
            "paper": info.paper,
            "example": info.example,
            "trains": info.trains,
            "parameters": [_parameter(item) for item in info.parameters],
        }
        for info in STEPS.values()
    ]
    if json_:
        emit_json({"precisions": precisions, "steps": steps})
    else:
        typer.echo(render_catalogue(precisions, steps, width=width, color=color), nl=False)


def _recipe(recipe: Any) -> dict[str, Any]:
    from converters.support import reason

    return {"recipe": recipe.key, "name": recipe.name, "refused": reason(recipe), **recipe.to_dict()}


def _parameter(item: Parameter) -> dict[str, Any]:
    return {
        "name": item.name,
        "kind": item.kind.__name__,
        "default": item.default,
        "help": item.help,
        "low": item.low,
        "high": item.high,
        "open_ended": item.open_ended,
        "choices": list(item.choices),
    }
