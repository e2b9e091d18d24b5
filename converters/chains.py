"""Chains of compression steps as content: the address of what each step makes, and the recipes that export the same model.

Used by `converters.pipeline` before any work, so that a run that the cache serves starts no process. No toolchain.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.base_model import BaseModel
from converters.cache import code_sha256
from converters.errors import ConversionInputError, RecipeError
from converters.export.base import Workshop
from converters.jobs import ConversionRequest
from converters.recipe import Recipe
from converters.shelf import Shelf, versions_of
from converters.steps import Step
from converters.variant import sha256_file

_CODE = (
    "compress/*.py",
    "networks/*.py",
    "steps.py",
    "step_catalogue.py",
    "transfer.py",
    "ledger*.py",
    "entropy_*.py",
    "huffman.py",
)


@dataclass(frozen=True, slots=True)
class Chain:
    """Steps with their addresses: `keys[i]` is decided by everything that decides the model after step i."""

    steps: tuple[Step, ...]
    keys: tuple[str, ...]

    @property
    def key(self) -> str:
        """The address of the model after the last step."""
        return self.keys[-1]


@dataclass(frozen=True, slots=True)
class Group:
    """Recipes that export the same model: the base (`chain` None), or what a chain of steps makes of it."""

    chain: Chain | None
    shelf: Shelf
    recipes: tuple[Recipe, ...]


def chain_of(steps: Sequence[Step], request: ConversionRequest, base: BaseModel, workshop: Workshop) -> Chain:
    """The chain with its addresses. Raises RecipeError for a parameter that names a missing file, ConversionInputError for a
    missing training function, and PackageNotFoundError."""
    dataset = request.dataset
    training = None if dataset is None else dataset.training
    options = request.training
    address = _digest(
        {
            "base": base.sha256,
            "rows": None
            if dataset is None
            else [None if training is None else training.sha256, dataset.calibration_sha256],
            "task": None if dataset is None else dataset.task,
            "shapes": None if dataset is None else {name: list(x.shape[1:]) for name, x in dataset.inputs.items()},
            "seed": request.seed,
            "versions": versions_of(workshop.compression_packages),
            "code": code_sha256(_CODE),
            "compressor": workshop.compressor,
            "training": [function_sha256(options.function), options.precision_policy],
        }
    )
    keys = []
    for step in steps:
        files = {name: sha256_file(path) for name, path in step_files(step, request.folder).items()}
        address = _digest({"before": address, "step": step.name, "values": step.values, "files": files})
        keys.append(address)
    return Chain(tuple(steps), tuple(keys))


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def function_sha256(function: str | None) -> str | None:
    """Of the file that holds the user's training function, and the function's name."""
    if function is None:
        return None
    path, _, name = function.rpartition(":")
    if not Path(path).is_file():
        raise ConversionInputError(f"{path}: no such file, so no training function {name!r}")
    return f"{sha256_file(Path(path))}:{name}"


def step_files(step: Step, folder: Path) -> dict[str, Path]:
    """The files that a step's parameters name, absolute. Raises RecipeError when one is missing."""
    found = {}
    for item in step.info.parameters:
        value = step.values[item.name]
        if item.names_file(value):
            path = folder / Path(value).expanduser()
            if not path.is_file():
                raise RecipeError(
                    f"{step.name}: {item.name} {value!r}: there is no file {path}",
                    remedy=f"or give {'one of ' * (len(item.names) > 1)}{', '.join(item.names)}"
                    if item.names
                    else None,
                )
            found[item.name] = path.resolve()
    return found
