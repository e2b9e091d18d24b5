"""Replaces layers of a Keras model by chains of layers, and looks at the tensors between its layers.

Used by steps that swap one layer for others and leave the graph as it is (`converters.compress.factorize`), and by those that
read intermediate tensors (`converters.compress.features`, `converters.compress.width`). Layers that are not replaced are the same
objects with the same weights. Only Keras's public ways are taken; the graph is walked by calling the layers anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from converters.compress.objective import flat_view

Replacement = Callable[[Any], Sequence[Any] | None]


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One call of a layer (or of a Keras operation) in a graph, with its symbolic tensors."""

    layer: Any
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Traced:
    """A graph called anew: `model` shares the layers of the one it was made from and takes and gives plain lists; `calls` in an order
    in which every tensor is there before it is used. Tensors are keys by their `id`."""

    model: Any
    calls: tuple[Call, ...]


def is_nested(layer: Any) -> bool:
    """Whether a layer is itself a graph of layers that can be walked (a functional or Sequential model)."""
    import keras

    return isinstance(layer, keras.Sequential) or (
        isinstance(layer, keras.Model) and bool(getattr(layer, "operations", None))
    )


def walked_layers(model: Any) -> Iterator[Any]:
    """The layers of a model and of the models nested in it, each once; not what wrappers, cells and custom layers hold inside."""
    seen: set[int] = set()

    def walk(owner: Any) -> Iterator[Any]:
        for layer in owner.layers:
            if id(layer) not in seen:
                seen.add(id(layer))
                yield from walk(layer) if is_nested(layer) else iter((layer,))

    return walk(model)


def traced(model: Any) -> Traced:
    """The calls of a model's own graph; a nested model is one call."""
    import keras

    calls: list[Call] = []

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = layer(*args, **kwargs)
        calls.append(Call(layer, _tensors((args, kwargs)), _tensors(outputs)))
        return outputs

    found = keras.models.clone_model(flat_view(model), clone_function=_itself, call_function=call)
    return Traced(found, tuple(calls))


def replaced(model: Any, replacement: Replacement) -> Any:
    """The model with each layer for which `replacement` gives a chain replaced by it, wherever and however often it is called;
    None leaves a layer. Nested models are walked; a Sequential stays one, inputs and outputs keep names and structure.

    Names must be unique within a graph: by custom the last layer of a chain takes the name of the layer that it replaces.
    """
    chains: dict[int, tuple[Any, Sequence[Any] | None]] = {}
    nested: dict[int, tuple[Any, Any]] = {}

    def chain_of(layer: Any) -> Sequence[Any]:
        if is_nested(layer):
            if id(layer) not in nested:
                nested[id(layer)] = (layer, rebuilt(layer))
            return [nested[id(layer)][1]]
        if id(layer) not in chains:
            chains[id(layer)] = (layer, replacement(layer))
        return chains[id(layer)][1] or [layer]

    def rebuilt(owner: Any) -> Any:
        import keras

        if isinstance(owner, keras.Sequential):
            layers = [new for layer in owner.layers for new in chain_of(layer)]
            made = keras.Sequential([_input_like(owner), *layers], name=owner.name)
            made.trainable = owner.trainable
            return made

        def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            first, *rest = chain_of(layer)
            outputs = first(*args, **kwargs)
            for item in rest:
                outputs = item(outputs)
            return outputs

        return keras.models.clone_model(owner, clone_function=_itself, call_function=call)

    return rebuilt(model)


def _itself(layer: Any) -> Any:
    return layer


def _input_like(sequential: Any) -> Any:
    import keras

    tensor = sequential.inputs[0]
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)


def _tensors(tree: Any) -> tuple[Any, ...]:
    import keras

    return tuple(item for item in keras.tree.flatten(tree) if isinstance(item, keras.KerasTensor))
