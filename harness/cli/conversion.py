"""Joins the user's words to the converters: data, recipes, limits in; a conversion report out, with progress on the way.

Used by `convert`, `run` and `demo`. Here alone the harness imports the converters' pipeline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import SpecError

if TYPE_CHECKING:
    from converters.dataset import Dataset
    from converters.pipeline import ConversionReport
    from converters.recipe import Recipe
    from harness.experiment import DataSpec


@dataclass(frozen=True, slots=True)
class ConversionLimits:
    """What one conversion may use. `cache` None: the user's cache folder; `use_cache` False: no cache at all.

    `train_timeout_s`: of one compression step. `training_function` (`file.py:name`) and `precision_policy`: how they train.
    `folder`: what paths in recipes are relative to.
    """

    jobs: int = 2
    timeout_s: float = 900.0
    memory_limit_bytes: int | None = None
    cache: Path | None = None
    use_cache: bool = True
    train_timeout_s: float = 3600.0
    training_function: str | None = None
    precision_policy: str | None = None
    folder: Path = Path()


def read_recipes(words: str | Sequence[str | dict[str, Any]]) -> list[Recipe]:
    """Recipes from 'all', names, `format:name`, chains, mappings, or YAML files of these. Raises SpecError, RecipeError."""
    from converters.recipe_words import parse_recipes

    items: list[str | dict[str, Any]] = []
    for word in [words] if isinstance(words, str) else words:
        if isinstance(word, str) and word.endswith((".yaml", ".yml")):
            from harness.yamlfile import read_yaml

            data, _ = read_yaml(Path(word))
            data = data["recipes"] if isinstance(data, dict) and set(data) == {"recipes"} else data
            items += data if isinstance(data, list) else [data]
        else:
            items.append(word)
    return list(parse_recipes(items))


def read_data(
    spec: DataSpec, path: Path, *, seed: int = 0, training: bool = False, training_limit: int | None = None
) -> Dataset:
    """The labelled data of an experiment, with its training rows if asked for. Raises SpecError, DatasetError."""
    from converters.dataset import Preprocessing, load_dataset

    if not path.exists():
        raise SpecError(f"{path}: no such file or folder", remedy="check the path of the data")
    # Nothing declared here: what the data declare of themselves holds.
    declared = spec.preprocessing.model_dump(exclude_defaults=True)
    preprocessing = Preprocessing(**declared) if declared else None
    return load_dataset(
        path,
        preprocessing=preprocessing,
        limit=spec.limit,
        seed=seed,
        calibration_size=spec.calibration_size,
        training=training,
        training_limit=training_limit or spec.training_limit,
    )


def convert_base(
    base: Path,
    recipes: Sequence[Recipe],
    out: Path,
    *,
    dataset: Dataset | None,
    limits: ConversionLimits,
    seed: int = 0,
    name: str | None = None,
    quiet: bool = False,
) -> ConversionReport:
    """Convert `base` by all recipes into `out`, with a progress bar on stderr. Raises ConversionInputError."""
    from converters import pipeline
    from converters.cache import default_cache
    from converters.jobs import TrainingOptions

    if not base.exists():
        raise SpecError(f"{base}: no such file or folder", remedy="give a .keras or .h5 file or a SavedModel folder")
    request = pipeline.ConversionRequest(
        base=base,
        recipes=recipes,
        out=out,
        dataset=dataset,
        cache=(limits.cache or default_cache()) if limits.use_cache else None,
        jobs=limits.jobs,
        timeout_s=limits.timeout_s,
        memory_limit_bytes=limits.memory_limit_bytes,
        seed=seed,
        name=name,
        train_timeout_s=limits.train_timeout_s,
        training=TrainingOptions(limits.training_function, limits.precision_policy),
        folder=limits.folder,
    )
    from harness.cli.progress import conversion_progress

    with conversion_progress(len(recipes), quiet=quiet) as on_event:
        return pipeline.convert(request, on_event)
