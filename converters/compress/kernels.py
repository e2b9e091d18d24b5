"""Finds the tensors of a Keras model that compression by value may change: kernels and embedding tables, each once.

Used by pruning, clustering and what keeps them through later trainings. Layers of Keras itself are known by their class; a
class of the user's own may do anything with its weights, so it and all that it holds are left alone and listed. Biases, norms
and statistics never count: they are few, and their values are no sums of products.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from converters.compress.context import Array
from converters.compress.transform_layers import FIXED, is_transform

# Names of the variables that count, by class of Keras. Attention, recurrent layers and wrappers consist of these.
KERNELS: Mapping[str, tuple[str, ...]] = {
    "Dense": ("kernel",),
    "EinsumDense": ("kernel",),
    **{f"Conv{rank}D": ("kernel",) for rank in (1, 2, 3)},
    **{f"Conv{rank}DTranspose": ("kernel",) for rank in (1, 2, 3)},
    **{f"DepthwiseConv{rank}D": ("kernel",) for rank in (1, 2)},
    **{f"SeparableConv{rank}D": ("depthwise_kernel", "pointwise_kernel") for rank in (1, 2)},
    **dict.fromkeys(("LSTMCell", "GRUCell", "SimpleRNNCell", "ConvLSTMCell"), ("kernel", "recurrent_kernel")),
}
TABLES: Mapping[str, tuple[str, ...]] = {
    "Embedding": ("embeddings",),
    "ReversibleEmbedding": ("embeddings", "reverse_embeddings"),
}
_NAMES = frozenset(name for names in (*KERNELS.values(), *TABLES.values()) for name in names)


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """One tensor. `name`: its path in the model, unique. `layer`: the path of its layer. `variable`: the Keras variable.
    `input_axes`: axes over which its products with an input are summed, () where there are none that could be grouped
    (depthwise kernels, tables). `table`: rows that are looked up, not multiplied."""

    name: str
    layer: str
    variable: Any
    input_axes: tuple[int, ...] = ()
    table: bool = False

    @property
    def values(self) -> Array:
        """A copy of the values, in the variable's own dtype."""
        return np.asarray(self.variable.value).copy()


def find(model: Any) -> tuple[list[Kernel], dict[str, str]]:
    """The kernels and tables of a Keras model in the order of its layers, shared ones once and nested models walked; and
    the layers with weights that are left alone, path → reason."""
    kernels: list[Kernel] = []
    left_alone: dict[str, str] = {}
    seen: set[int] = set()
    taken: set[str] = set()

    def walk(owner: Any) -> None:
        # The one list of sublayers that also knows those of attention, cells and wrappers.
        for layer in owner._layers:  # noqa: SLF001
            if id(layer) in seen:
                continue
            seen.add(id(layer))
            reason = _reason(layer)
            if reason is not None:
                if layer.weights:
                    left_alone[layer.path] = reason
                continue
            for found in _of(layer):
                if id(found.variable) not in seen:
                    seen.add(id(found.variable))
                    kernels.append(_renamed(found, taken))
            walk(layer)

    walk(model)
    return kernels, left_alone


def _reason(layer: Any) -> str | None:
    """Why a layer and all within it are not for us to change; None when they are."""
    if is_transform(layer):
        return FIXED
    if not type(layer).__module__.startswith("keras."):
        return f"{type(layer).__name__} is a layer of your own, which may do anything with its weights"
    if getattr(layer, "quantization_mode", None) is not None:
        return "it is quantized already"
    if getattr(layer, "lora_enabled", False):
        return "it holds LoRA adapters, which add to its kernel: merge them first"
    known = type(layer).__name__ in KERNELS or type(layer).__name__ in TABLES
    own = {variable.name for variable in layer._trainable_variables}  # noqa: SLF001  without those of sublayers
    if not known and any("kernel" in name for name in own):
        return f"nothing is known here of the kernels of a {type(layer).__name__}"
    return None


def _of(layer: Any) -> Iterator[Kernel]:
    kind = type(layer).__name__
    own = [*layer._trainable_variables, *layer._non_trainable_variables]  # noqa: SLF001
    for name in KERNELS.get(kind, TABLES.get(kind, ())):
        for variable in own:
            if variable.name == name:
                axes = () if kind in TABLES else _input_axes(layer, kind, name, len(variable.shape))
                yield Kernel(variable.path, layer.path, variable, axes, kind in TABLES)


def _input_axes(layer: Any, kind: str, name: str, rank: int) -> tuple[int, ...]:
    if kind.startswith("DepthwiseConv") or name == "depthwise_kernel":
        return ()
    if kind == "EinsumDense":
        return _contracted(layer.equation)
    if kind.endswith("Transpose"):
        return (rank - 1,)
    return (rank - 2,)


def _contracted(equation: str) -> tuple[int, ...]:
    """Axes of the kernel that an einsum sums over: of `abc,cde->abde` the first."""
    match = re.fullmatch(r"[^,]*,([^,]*)->(.*)", equation.replace(" ", ""))
    if match is None:
        return ()
    kernel, output = match.groups()
    return tuple(axis for axis, letter in enumerate(kernel) if letter not in output)


def _renamed(kernel: Kernel, taken: set[str]) -> Kernel:
    """Names within nested models may meet: the second becomes `…#2`."""
    name, number = kernel.name, 1
    while name in taken:
        number += 1
        name = f"{kernel.name}#{number}"
    taken.add(name)
    return Kernel(name, kernel.layer, kernel.variable, kernel.input_axes, kernel.table)


def may_be_kept(variable: Any) -> bool:
    """Whether a variable, by its name and shape, is such a tensor, of whatever class its layer is: a later step may have put
    a layer of its own (fake quantization, say) where a Keras layer was."""
    return variable.name in _NAMES and len(variable.shape) > 1 and str(variable.dtype).startswith(("float", "bfloat"))
