"""Spaces, tasks and functions to search, for the tests of converters.search: cheap, with a best point that is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from converters.search.samplers.base import Task
from converters.search.space import Space, read_space
from converters.search.trial import Candidate, Constraint, Objective, Outcome, Trial, Value

LOSS, SIZE = Objective("loss", "minimise"), Objective("size", "minimise")
PLAIN: dict[str, Any] = {
    "recipes": ["prune({sparsity}, scope={scope}, epochs={epochs}) > {precision} @ tflite"],
    "parameters": {
        "sparsity": {"float": [0.1, 0.9]},
        "scope": {"choice": ["global", "layer"]},
        "epochs": {"int": [0, 3]},
        "precision": {"choice": ["fp32", "static_wi8_ai8", "weight_only_wi8_afp32"]},
    },
}
# Two recipes that share a parameter, each with some of its own.
FORKED: dict[str, Any] = {
    "recipes": [
        "prune({sparsity}, epochs={epochs}) @ tflite",
        "factorize({ratio}, rank={rank}, epochs={epochs}) @ onnx",
    ],
    "parameters": {
        "sparsity": {"float": [0.1, 0.9], "step": 0.1},
        "ratio": {"float": [0.05, 0.95]},
        "rank": {"int": [1, 64], "log": True},
        "epochs": {"int": [0, 3]},
    },
}


def plain() -> Space:
    return read_space(PLAIN)


def forked() -> Space:
    return read_space(FORKED)


def task(space: Space, *objectives: Objective, seed: int = 0, constraints: tuple[Constraint, ...] = ()) -> Task:
    return Task(space, objectives or (LOSS,), constraints, seed)


def worth(values: Mapping[str, Value], fidelity: float = 1.0) -> dict[str, float | None]:
    """Least `loss` at sparsity 0.6, scope layer, 3 epochs, static_wi8_ai8; `size` falls with the sparsity."""
    sparsity, epochs = float(values["sparsity"]), int(values["epochs"])
    loss = (sparsity - 0.6) ** 2 + 0.1 * (values["scope"] == "global") + 0.05 * (3 - epochs)
    loss += {"static_wi8_ai8": 0.0, "fp32": 0.05, "weight_only_wi8_afp32": 0.1}[str(values["precision"])]
    return {"loss": loss + 0.5 * (1 - fidelity), "size": 1 - sparsity}


def complete(number: int, candidate: Candidate, **metrics: float) -> Trial:
    return Trial(number, candidate, Outcome("complete", metrics))
