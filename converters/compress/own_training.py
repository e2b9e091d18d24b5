"""A training function of the user's own behind the signature of `converters.compress.context.Fit`.

Named as `module:function` or `path/to/file.py:function`. It is called as::

    def train(model, data, *, epochs, learning_rate, loss, after_batch, extra_variables, seed, folder, say): ...

with `model` a keras.Model to train in place; `data` a `TrainingData` (`data.train.inputs`, `data.train.labels`,
`data.validation` likewise, `data.task`); and of the keywords those that it names (all, if it takes `**keywords`):

- epochs (int), learning_rate (float, or None for its own choice), seed (int), say(text) for progress;
- folder (pathlib.Path): outlives a kill, for checkpoints of its own;
- loss(inputs, labels, outputs) -> scalar tensor, or None for the task's own;
- after_batch(step, of_steps), or None: to be called after every update, with the step from 1 on;
- extra_variables: Keras variables to be trained beside the model's.

It returns None, or a dictionary with `losses` and `scores`, one per epoch. A step that depends on a keyword which the function
does not name is refused, rather than trained without it.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from converters.compress.context import Context, Fit, History
from converters.compress.objective import score
from converters.errors import ConversionInputError, ToolError

_WANTED = "write module:function, or path/to/file.py:function"


def load_function(name: str) -> Callable[..., Any]:
    """The function that `name` spells. Raises ConversionInputError when there is none; the module's own errors pass."""
    module_name, colon, function_name = name.rpartition(":")
    if not colon or not module_name or not function_name.isidentifier():
        raise ConversionInputError(f"{name!r} names no training function", remedy=_WANTED)
    module = _from_file(Path(module_name)) if module_name.endswith(".py") else _from_name(module_name)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ConversionInputError(f"{module_name} has no function {function_name!r}", remedy=_WANTED)
    return function  # type: ignore[no-any-return]


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise ConversionInputError(f"{path}: no such file", remedy=_WANTED)
    spec = importlib.util.spec_from_file_location(f"own_training_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConversionInputError(f"{path}: not a Python module", remedy=_WANTED)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _from_name(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # a module that the user's own one imports
        raise ConversionInputError(f"there is no module {name!r} to import", remedy=_WANTED) from error


def own_fit(name: str) -> Fit:
    """The function that `name` spells, as a `Fit`. Raises ConversionInputError."""
    function = load_function(name)
    parameters = inspect.signature(function).parameters
    takes_all = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())

    def fit(
        model: Any,
        context: Context,
        *,
        epochs: int,
        learning_rate: float | None = None,
        loss: Callable[[Any, Any, Any], Any] | None = None,
        after_batch: Callable[[int, int], None] | None = None,
        extra_variables: tuple[Any, ...] = (),
        label: str = "train",
    ) -> History:
        data = context.needs_data("training")
        folder = context.folder / label
        folder.mkdir(parents=True, exist_ok=True)
        keywords: dict[str, Any] = {
            "epochs": epochs,
            "learning_rate": learning_rate,
            "loss": loss,
            "after_batch": _after_batch(model, context, after_batch),
            "extra_variables": extra_variables,
            "seed": context.seed,
            "folder": folder,
            "say": context.say,
        }
        for key in ("loss", "after_batch", "extra_variables"):
            if keywords[key] and not takes_all and key not in parameters:
                raise ToolError(
                    f"the training function {name} takes no {key}, and this step depends on it",
                    remedy=f"let it take {key}, or leave the training to the built-in loop",
                )
        given = {key: value for key, value in keywords.items() if takes_all or key in parameters}
        began = time.monotonic()
        told = function(model, data, **given)
        return _history(told, model, context, epochs, time.monotonic() - began)

    return fit


def _after_batch(
    model: Any, context: Context, own: Callable[[int, int], None] | None
) -> Callable[[int, int], None] | None:
    """What `context.preserve` asks for, then what the step asks for."""
    if not context.preserve:
        return own
    from converters.compress.preserve import projection

    project = projection(model, context.preserve)

    def both(step: int, of_steps: int) -> None:
        project()
        if own is not None:
            own(step, of_steps)

    return both


def _history(told: Any, model: Any, context: Context, epochs: int, seconds: float) -> History:
    """What the function told of itself; the score after it where it told none."""
    told = told if isinstance(told, Mapping) else {}
    data = context.needs_data("training")
    losses = tuple(float(value) for value in told.get("losses", ()))
    scores = tuple(float(value) for value in told.get("scores", ()))
    if not scores and data.validation.labels is not None and data.validation.count:
        scores = (score(model, data.validation, data.task),)
    return History(losses, scores, len(losses) or epochs, seconds)
