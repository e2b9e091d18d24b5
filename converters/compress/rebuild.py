"""Makes a new functional model from a graph: the same layers with some of their weights' slices left out, or without some calls.

Second half of structured pruning (`converters.compress.graph` is the first): layers keep their names, settings, state of random
generators and whether they are trained; inputs and outputs keep their names, order and structure. The old model stays as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from converters.compress.context import Array
from converters.compress.graph import Call, Graph, Ref
from converters.errors import ToolError

Keep = npt.NDArray[np.bool_]


@dataclass(slots=True)
class Cut:
    """What becomes of one layer. `config`: settings that change (`{"filters": 12}`). `keep`: for each of its weights by
    attribute name, axis → which of the positions stay (bool [length of the axis])."""

    config: dict[str, Any] = field(default_factory=dict)
    keep: dict[str, dict[int, Keep]] = field(default_factory=dict)


def rebuild(graph: Graph, cuts: Mapping[int, Cut] | None = None, instead: Mapping[int, int] | None = None) -> Any:
    """A new model. `cuts`: by `id` of the operation. `instead`: tensor → the tensor that takes its place for whoever takes it
    (of the same shape); calls that nobody needs then are left out. Raises ToolError when a layer cannot be made again."""
    import keras

    cuts, instead = cuts or {}, dict(instead or {})
    made = {tensor: input_again(graph.tensors[tensor]) for tensor in graph.inputs}
    operations: dict[int, Any] = {}

    def tensor(index: int) -> Any:
        while index in instead:
            index = instead[index]
        return made[index]

    def filled(structure: Any) -> Any:
        return keras.tree.map_structure(lambda leaf: tensor(leaf.index) if isinstance(leaf, Ref) else leaf, structure)

    for call in needed(graph, instead):
        key = id(call.operation)
        fresh = key not in operations
        if fresh:
            operations[key] = again(call, cuts.get(key))
        try:
            results = keras.tree.flatten(operations[key](*filled(call.args), **filled(call.kwargs)))
        except (ValueError, TypeError) as error:
            raise ToolError(f"{call.name} cannot be called again: {_line(error)}") from error
        made.update(zip(call.outputs, results, strict=True))
        if fresh:
            _carry_over(call, operations[key], cuts.get(key))
    return keras.Model(filled(graph.input_structure), filled(graph.output_structure), name=graph.name)


def needed(graph: Graph, instead: Mapping[int, int]) -> list[Call]:
    """The calls that the outputs depend on when those tensors are taken instead, in the graph's order."""

    def resolved(index: int) -> int:
        while index in instead:
            index = instead[index]
        return index

    wanted = {resolved(tensor) for tensor in graph.outputs}
    found: list[Call] = []
    for call in reversed(graph.calls):
        if wanted.intersection(call.outputs):
            found.append(call)
            wanted.update(resolved(tensor) for tensor in call.inputs)
    return found[::-1]


def values(variable: Any) -> Array:
    """A copy of a Keras variable's value."""
    return np.array(np.asarray(variable.value))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def input_again(tensor: Any) -> Any:
    """A new input of the same name, shape and dtype."""
    operation, _, _ = tensor._keras_history  # noqa: SLF001  the only way from a tensor to its layer
    return type(operation).from_config(operation.get_config()).output


def again(call: Call, cut: Cut | None) -> Any:
    """The same operation without its weights yet, with the settings of `cut`. Raises ToolError when it cannot be made."""
    import keras

    operation = call.operation
    try:
        config = dict(operation.get_config())
        if "name" in config:
            config["name"] = call.name
        return type(operation).from_config(config | (cut.config if cut else {}))
    except (NotImplementedError, TypeError, ValueError, KeyError, AttributeError) as error:
        # Bare operations hold no weights, so two models may share one; some (slices) cannot say how they were made.
        if not isinstance(operation, keras.layers.Layer):
            return operation
        raise ToolError(
            f"the layer {call.name} ({type(operation).__name__}) cannot be made again: {_line(error)}",
            remedy="give it a get_config that holds its arguments",
        ) from error


def _carry_over(call: Call, new: Any, cut: Cut | None) -> None:
    """Give a new layer its predecessor's weights and state, less what the cut leaves out."""
    old = call.operation
    before, after = getattr(old, "variables", []), getattr(new, "variables", [])
    if new is old or not before:
        return
    keeps = {id(getattr(old, name)): axes for name, axes in (cut.keep if cut else {}).items()}
    if len(before) != len(after):
        raise ToolError(f"the layer {call.name} has {len(after)} weights when made again, and had {len(before)}")
    for source, target in zip(before, after, strict=True):
        array = values(source)
        for axis, keep in keeps.get(id(source), {}).items():
            array = np.compress(keep, array, axis)
        if array.shape != tuple(target.shape):
            raise ToolError(
                f"{call.name}: {source.name} has the shape {array.shape}, and {tuple(target.shape)} is wanted"
            )
        target.assign(array)
    if hasattr(new, "finalize_state"):
        new.finalize_state()
