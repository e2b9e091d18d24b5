"""A search from an experiment: what it will do, under which study it is remembered, how it is run, and which of its trials were best.

Top of this room, asked by `harness search`: experiment in, trials out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.base_model import inspect_base
from converters.cache import default_cache
from converters.chains import function_sha256, step_files
from converters.dataset import Dataset
from converters.errors import RecipeError
from converters.jobs import ConversionRequest, TrainingOptions
from converters.recipe_words import parse_recipes
from converters.search.front import goodness, losses, pareto
from converters.search.samplers import Task, make_sampler
from converters.search.space import Space, read_space
from converters.search.study import Event, Finished, Halving, Study
from converters.search.trial import Evaluate, Memory, Trial
from converters.variant import sha256_file
from harness.errors import SpecError
from harness.experiment import LoadedExperiment, resolve_devices
from harness.profiles import DeviceProfile
from harness.search_section import COUNTED, ENERGY, METRICS, TIMED, SearchSpec
from harness.tune.rows import judged
from harness.tune.trials import FLOAT, ConvertAndMeasure, Setup
from harness.tune.turns import Turns
from harness.yamlfile import Location, read_yaml, validate

_WHERE = re.compile(r"search\.(?:recipes\[(\d+)\]|(parameters)(?:\.(\w+))?|(recipes))")


@dataclass(frozen=True, slots=True)
class Planned:
    """A search that can be carried out. `content`: all that decides what a trial means, JSON types; trials of another content are
    no trials of this search. `document`: that, and what else a reader of the study wants to know."""

    spec: SearchSpec
    task: Task
    setup: Setup
    content: Mapping[str, Any]
    document: Mapping[str, Any]

    @property
    def content_sha256(self) -> str:
        """Of `content`."""
        return hashlib.sha256(json.dumps(self.content, sort_keys=True).encode()).hexdigest()

    @property
    def halving(self) -> Halving | None:
        """When trials are given up early."""
        pruning = self.spec.pruning
        return None if pruning is None else Halving(tuple(pruning.shares), pruning.keep, pruning.least)


def section_of(loaded: LoadedExperiment, path: Path, changes: Mapping[str, Any]) -> SearchSpec:
    """The experiment's search, with what the command line says instead. Raises SpecError when it has none."""
    spec = loaded.experiment.search
    if spec is None:
        raise SpecError(f"{path}: there is no 'search' section", remedy="docs/search.md has an example")
    if loaded.experiment.base is None:
        raise SpecError(f"{path}: a search needs a 'base' model", remedy="give base: model.keras")
    given = {key: value for key, value in changes.items() if value is not None}
    if not given:
        return spec
    return validate(SearchSpec, {**spec.model_dump(by_alias=True, exclude_unset=True), **given}, Path("command line"))


def space_of(spec: SearchSpec, path: Path) -> Space:
    """The space of candidates. Raises SpecError that names the file and the line."""
    try:
        return read_space(spec.space(), "search")
    except RecipeError as error:
        line = _line(error.message, read_yaml(path)[1]) if path.is_file() else None
        raise SpecError(
            f"{path}:{line}: {error.message}" if line else f"{path}: {error.message}", remedy=error.remedy
        ) from error


def _line(message: str, lines: Mapping[Location, int]) -> int | None:
    """The line of what a message of `read_space` begins with."""
    match = _WHERE.match(message)
    if match is None:
        return None
    place, parameters, name, _ = match.groups()
    whole: Location = ("search", "parameters") if parameters else ("search", "recipes")
    exact: Location = (*whole, name or "") if parameters else (*whole, int(place or 0))
    return lines.get(exact, lines.get(whole))


def device_of(spec: SearchSpec, loaded: LoadedExperiment, path: Path) -> DeviceProfile:
    """Where trials are measured. Raises SpecError, also where the device's clock and the metrics do not go together."""
    device = loaded.devices[0] if spec.device is None else resolve_devices([spec.device], path)[0]
    timed = sorted(spec.metrics & set(TIMED + ENERGY))
    counted = sorted(spec.metrics & set(COUNTED))
    if device.counts_instructions and timed:
        raise SpecError(
            f"{device.name} counts instructions, so it has no {timed[0]}", remedy="search by virtual_time_ns there"
        )
    if counted and not device.counts_instructions:
        raise SpecError(
            f"{device.name} counts no instructions, so it has no {counted[0]}",
            remedy="search by latency_ns there, or on qemu-arm64-icount",
        )
    return device


def plan(
    loaded: LoadedExperiment, path: Path, spec: SearchSpec, dataset: Dataset | None, out: Path, *, cache: bool = True
) -> Planned:
    """Everything decided and checked that can be before any work. `dataset`: with its training rows; `out`: where trials' variants go.

    Raises SpecError, ConversionInputError.
    """
    experiment = loaded.experiment
    space, device = space_of(spec, path), device_of(spec, loaded, path)
    base = inspect_base(loaded.resolve(experiment.base or ""), name=experiment.base_name)
    data = None if dataset is None else judged(dataset)
    _check_answers(
        spec, path, where=None if data is None else data.where, task=None if dataset is None else dataset.task
    )
    limits, training = experiment.conversion, experiment.training
    request = ConversionRequest(
        base=loaded.resolve(experiment.base or ""),
        recipes=[],
        out=out,
        cache=default_cache() if cache else None,
        jobs=limits.jobs,
        timeout_s=limits.timeout_s,
        memory_limit_bytes=limits.memory_limit,
        seed=experiment.seed,
        name=base.name,
        train_timeout_s=training.timeout,
        training=TrainingOptions(loaded.training_function(), training.precision_policy),
        folder=loaded.folder,
    )
    setup = Setup(
        spec,
        request,
        data,
        device,
        _format_of(space),
        experiment.threads,
        experiment.precision,
        experiment.engine_options,
    )
    seed = experiment.seed if spec.seed is None else spec.seed
    task = Task(space, tuple(spec.goals()), tuple(spec.limits()), seed)
    make_sampler(spec.sampler, task)  # which says at once that its library is missing
    content = {**_content(loaded, spec, setup, base.sha256), "files": _files(space, request)}
    return Planned(spec, task, setup, content, {**content, **_told(spec, setup, seed)})


def _check_answers(spec: SearchSpec, path: Path, *, where: str | None, task: str | None) -> None:
    wanted = sorted(name for name in spec.metrics if METRICS[name].source == "answers")
    if wanted and where is None:
        raise SpecError(
            f"{path}: {wanted[0]} needs labelled rows that are no test rows",
            remedy="add x_train and y_train to the data, or search by other metrics",
        )
    classes = task == "classification"
    wrong = [name for name in wanted if name.startswith("rmse") == classes]
    if wrong:
        kind = "a classification" if classes else "a regression"
        remedy = "accuracy, accuracy_drop_pp" if classes else "rmse, rmse_ratio"
        raise SpecError(f"{path}: {kind} has no {wrong[0]}", remedy=f"search by {remedy}")


def _format_of(space: Space) -> str:
    """The format of the reference: that of the first recipe, with the first value of everything."""
    first = {name: values[0] for name, values in space.levels()[0].items()}
    return parse_recipes([space.candidate(first).recipe])[0].format


def _content(loaded: LoadedExperiment, spec: SearchSpec, setup: Setup, base_sha256: str) -> dict[str, Any]:
    experiment, data = loaded.experiment, setup.data
    rows = None
    if data is not None:
        training = data.dataset.training
        rows = {
            "judged": data.dataset.sha256,
            "calibration": data.dataset.calibration_sha256,
            "training": None if training is None else training.sha256,
        }
    measured = spec.measures
    return {
        "base_sha256": base_sha256,
        "data": rows,
        "space": spec.space(),
        "objectives": spec.objectives,
        "constraints": spec.constraints,
        "pruning": None if spec.pruning is None else spec.pruning.model_dump(mode="json"),
        "device": setup.device.model_dump(mode="json") if measured else None,
        "protocol": spec.protocol.model_dump(mode="json", exclude_unset=True) if measured else None,
        "training": experiment.training.model_dump(mode="json", exclude={"timeout"}),
        "threads": experiment.threads,
        "precision": experiment.precision,
        "engine_options": experiment.engine_options,
        "seed": experiment.seed,
    }


def _files(space: Space, request: ConversionRequest) -> dict[str, str | None]:
    """Of every file that a candidate may name (a student, a teacher, a table of latencies) and of the user's training function: the
    word → SHA-256. Raises RecipeError for one that is missing."""
    named = {
        str(step.values[parameter]): sha256_file(path)
        for step in space.steps()
        for parameter, path in step_files(step, request.folder).items()
    }
    return {**named, "training function": function_sha256(request.training.function)}


def _told(spec: SearchSpec, setup: Setup, seed: int) -> dict[str, Any]:
    data = setup.data
    return {
        "base": setup.request.name,
        "device_name": setup.device.name if spec.measures else None,
        "reference": f"{FLOAT} @ {setup.format}",
        "judged_by": None if data is None else data.where,
        "judged_rows": None if data is None else data.dataset.rows,
        "sampler": spec.sampler,
        "sampler_seed": seed,
        "out": str(setup.request.out.resolve()),
    }


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The keys of two contents that are not alike. What the store gave back has lists for tuples, so JSON is compared."""
    said, others = ({key: json.dumps(value, sort_keys=True) for key, value in each.items()} for each in (one, other))
    return sorted(key for key in said.keys() | others.keys() if said.get(key) != others.get(key))


def run(
    planned: Planned,
    memory: Memory,
    notify: Callable[[Event], None],
    *,
    evaluate: Evaluate | None = None,
    locks: Path | None = None,
) -> Finished:
    """Carry out the search until its trials or its time are spent, or Ctrl-C. Raises what ends it: DeviceError, SpecError, OSError."""
    from harness.devices.emulators.kept import KeptEmulators

    spec = planned.spec
    sampler = make_sampler(spec.sampler, planned.task)
    with KeptEmulators() as emulators:
        work = evaluate or ConvertAndMeasure(planned.setup, Turns(planned.setup.device, locks), start=emulators.lend)
        study = Study(planned.task, sampler, work, memory, halving=planned.halving, notify=notify)
        return study.run(spec.trials, workers=spec.workers, seconds=spec.budget)


def front_of(trials: Sequence[Trial], task: Task) -> list[Trial]:
    """The feasible trials that no other dominates; with one objective those that share the best figure."""
    return pareto(trials, task.objectives, task.constraints)


def best(trials: Sequence[Trial], task: Task, count: int) -> list[Trial]:
    """The `count` trials to look at more closely: of the front, evenly spread along the first objective, its ends first; where the front
    has fewer, the next best that keep the constraints."""
    front = front_of(trials, task)
    if len(front) > count:
        ordered = sorted(front, key=lambda trial: (losses(trial.outcome.metrics, task.objectives), trial.number))
        places = [round(place * (len(ordered) - 1) / max(count - 1, 1)) for place in range(count)]
        return [ordered[place] for place in dict.fromkeys(places)]
    chosen = {trial.number for trial in front}
    rest = [
        trial
        for trial in trials
        if trial.number not in chosen
        and trial.feasible(task.constraints)
        and losses(trial.outcome.metrics, task.objectives) is not None
    ]
    keys = goodness([trial.outcome.metrics for trial in rest], task.objectives, task.constraints)
    ordered = [trial for _, _, trial in sorted(zip(keys, range(len(rest)), rest, strict=True))]
    return [*front, *ordered[: count - len(front)]]


def with_recipes(loaded: LoadedExperiment, chosen: Sequence[Trial], device: DeviceProfile) -> LoadedExperiment:
    """The experiment that measures these trials' recipes, and the base in their formats, on the search's device and its own."""
    recipes = [trial.candidate.recipe for trial in chosen]
    formats = dict.fromkeys(parse_recipes([recipe])[0].format for recipe in recipes)
    devices = (device, *(other for other in loaded.devices if other.name != device.name))
    words: list[str | dict[str, Any]] = [*(f"{FLOAT} @ {fmt}" for fmt in formats), *recipes]
    experiment = loaded.experiment.model_copy(update={"recipes": words, "artifacts": []})
    return dataclasses.replace(loaded, experiment=experiment, devices=devices)
