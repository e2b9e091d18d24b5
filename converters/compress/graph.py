"""The calls of a Keras model as one flat list: nested models opened, shared layers called several times, tensors numbered.

First stage of structured pruning: `converters.compress.channels` follows channels through this list, and
`converters.compress.rebuild` makes a new model of it. Nothing here changes a model.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from converters.errors import RefusedError


@dataclass(frozen=True, slots=True)
class Ref:
    """A tensor in the arguments of a call, by its number in `Graph.tensors`."""

    index: int


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One call of a layer or operation. `args`, `kwargs`: as given, with a Ref for each tensor. `inputs`, `outputs`: the
    numbers of the tensors it takes and gives. `name`: the operation's, made unique over the whole flat graph."""

    operation: Any
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """A model as calls, each after those it depends on. `tensors`: symbolic tensors (shape, dtype) by number. `inputs`,
    `outputs`: their numbers in the model's order; `input_structure`, `output_structure`: the same as lists or dictionaries of Refs,
    as the model takes and gives them. `unopened`: nested models that had to stay whole, name → reason."""

    name: str
    calls: tuple[Call, ...]
    tensors: tuple[Any, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    input_structure: Any
    output_structure: Any
    unopened: dict[str, str]

    def shape(self, tensor: int) -> tuple[int | None, ...]:
        """Shape of a tensor, batch first; None where it is free."""
        return tuple(self.tensors[tensor].shape)

    def consumers(self) -> dict[int, list[Call]]:
        """The calls that take each tensor."""
        found: dict[int, list[Call]] = {}
        for call in self.calls:
            for tensor in dict.fromkeys(call.inputs):
                found.setdefault(tensor, []).append(call)
        return found


def read_graph(model: Any) -> Graph:
    """The graph of a functional or Sequential model. Raises RefusedError for one without a graph."""
    import keras

    if not getattr(model, "inputs", None) or not getattr(model, "outputs", None):
        raise RefusedError("the model has no graph of layers (a subclassed or never built model)")
    reader = _Reader()
    bound = {id(tensor): reader.number(tensor) for tensor in model.inputs}
    inputs = tuple(bound[id(tensor)] for tensor in model.inputs)
    reader.walk(model, bound, None, "")
    outputs = tuple(bound[id(tensor)] for tensor in model.outputs)
    sequential = isinstance(model, keras.Sequential)

    def structure(named: Any, flat: Any) -> Any:
        # A Sequential takes and gives what its layers do, without a structure of its own.
        struct = (flat[0] if len(flat) == 1 else list(flat)) if sequential else named
        return keras.tree.map_structure(lambda tensor: Ref(bound[id(tensor)]), struct)

    return Graph(
        model.name,
        tuple(reader.calls),
        tuple(reader.tensors),
        inputs,
        outputs,
        structure(None if sequential else model.input, model.inputs),
        structure(None if sequential else model.output, model.outputs),
        reader.unopened,
    )


class _Reader:
    """Collects calls while it walks through a model and the models nested in it."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.tensors: list[Any] = []
        self.unopened: dict[str, str] = {}
        self._names: dict[int, str] = {}
        self._taken: set[str] = set()

    def number(self, tensor: Any) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def walk(self, model: Any, bound: dict[int, int], training: bool | None, prefix: str) -> None:
        """Add the calls between a model's inputs and outputs; `bound` grows by the tensor numbers of its own tensors."""
        for node in _nodes(model):
            operation, kwargs = node.operation, dict(node.arguments.kwargs)
            outer = kwargs.get("training") if kwargs.get("training") is not None else training
            inner = _opened(operation, node)
            if isinstance(inner, str):
                self.unopened[operation.name] = inner
            if inner is None or isinstance(inner, str):
                self._add(node, bound, training, prefix)
                continue
            theirs = {id(mine): bound[id(given)] for mine, given in zip(operation.inputs, inner, strict=True)}
            self.walk(operation, theirs, outer, operation.name)
            for given, mine in zip(node.outputs, operation.outputs, strict=True):
                bound[id(given)] = theirs[id(mine)]

    def _add(self, node: Any, bound: dict[int, int], training: bool | None, prefix: str) -> None:
        import keras

        def refer(leaf: Any) -> Any:
            return Ref(bound[id(leaf)]) if isinstance(leaf, keras.KerasTensor) else leaf

        args = keras.tree.map_structure(refer, tuple(node.arguments.args))
        kwargs = keras.tree.map_structure(refer, dict(node.arguments.kwargs))
        # A nested model that was called with training=False holds its layers to it.
        if training is not None and kwargs.get("training") is None and _takes_training(node.operation):
            kwargs["training"] = training
        for tensor in node.outputs:
            bound[id(tensor)] = self.number(tensor)
        self.calls.append(
            Call(
                node.operation,
                self._name(node.operation, prefix),
                args,
                kwargs,
                tuple(bound[id(tensor)] for tensor in node.arguments.keras_tensors),
                tuple(bound[id(tensor)] for tensor in node.outputs),
            )
        )

    def _name(self, operation: Any, prefix: str) -> str:
        """Its own name, with that of the nested model before it where another layer has taken it."""
        if id(operation) not in self._names:
            name, number = operation.name, 1
            while name in self._taken:
                name = f"{prefix or 'again'}_{operation.name}" + (f"_{number}" if number > 1 else "")
                number += 1
            self._taken.add(name)
            self._names[id(operation)] = name
        return self._names[id(operation)]


def _nodes(model: Any) -> Iterator[Any]:
    """The calls between a model's inputs and outputs, each after those whose results it takes. Without recursion: networks are deep."""
    stop = {id(tensor) for tensor in model.inputs}
    done: set[int] = set()
    stack = [(_maker(tensor), False) for tensor in reversed(model.outputs) if id(tensor) not in stop]
    while stack:
        node, ready = stack.pop()
        if id(node) in done:
            continue
        if ready:
            done.add(id(node))
            yield node
            continue
        stack.append((node, True))
        stack.extend((_maker(t), False) for t in reversed(node.arguments.keras_tensors) if id(t) not in stop)


def _maker(tensor: Any) -> Any:
    # Keras has no public way from a tensor to the call that made it.
    operation, index, _ = tensor._keras_history  # noqa: SLF001
    return operation._inbound_nodes[index]  # noqa: SLF001


@functools.cache
def _functional_class() -> Any:
    """Keras's class of models that are graphs, which has no public name."""
    import keras

    tensor = keras.Input((1,))
    return type(keras.Model(tensor, tensor))


def _takes_training(operation: Any) -> bool:
    return bool(getattr(operation, "_call_has_training_arg", False))


def _opened(operation: Any, node: Any) -> list[Any] | str | None:
    """The tensors that a nested model is given, in the order of its inputs; the reason why it cannot be opened; or None for
    what is no model."""
    import keras

    if not isinstance(operation, keras.Model):
        return None
    if type(operation).call not in (_functional_class().call, keras.Sequential.call):
        return "a model with a call of its own"
    args, kwargs = node.arguments.args, node.arguments.kwargs
    if len(args) != 1 or any(value is not None for key, value in kwargs.items() if key != "training"):
        return "a nested model that is given more than its inputs"
    given: list[Any] = keras.tree.flatten(args[0])
    if len(given) != len(operation.inputs) or not all(isinstance(tensor, keras.KerasTensor) for tensor in given):
        return "a nested model that is given less than its inputs"
    if len(given) > 1 and isinstance(args[0], dict) != isinstance(operation.input, dict):
        return "a nested model whose inputs are given by name to one that takes them by position"
    if any(len(a.shape) != len(b.shape) for a, b in zip(given, operation.inputs, strict=True)):
        return "a nested model whose input has another rank than it is given"
    return given
