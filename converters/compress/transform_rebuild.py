"""Makes a network again behind an input transform: the same layers on smaller maps, their weights kept wherever they still fit.

Used by `converters.compress.transform_input`. Convolutions, norms and recurrent layers have the same weights whatever the size of
the map. A kernel that meets other channels than before is summed so that it answers as if the old channels were still there
(`Transform.expand`); a dense layer behind a flattened map gets, for each place, the sum of the weights of the places that
it stands for, which is what it would answer to the smaller map enlarged. What fits in neither way begins anew and is listed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from converters.compress.context import Array
from converters.compress.graph import Call, Graph, Ref
from converters.compress.rebuild import Cut, again, input_again, needed, values
from converters.compress.transform_layers import Transform
from converters.errors import RefusedError, ToolError

_POOLS = tuple(f"{kind}Pooling{axes}D" for kind in ("Average", "Max") for axes in (1, 2))
_STRIDED = (*_POOLS, *(f"{kind}{axes}D" for kind in ("Conv", "DepthwiseConv", "SeparableConv") for axes in (1, 2)))
ANEW = "begun anew"
SUMMED_CHANNELS = "summed over the channels that became one, or at 0 for those that are new"
SUMMED_PLACES = "summed over the places that became one"


@dataclass(slots=True)
class Rebuilt:
    """The new model. `changed`: weights that are not the old ones, path → how they came about. `relaxed`: layers whose stride became
    1. `windows`: pooling layers that still cover the whole map, name → window. `shape`: of the transformed input, without the batch."""

    model: Any = None
    changed: dict[str, str] = field(default_factory=dict)
    relaxed: list[str] = field(default_factory=list)
    windows: dict[str, list[int]] = field(default_factory=dict)
    shape: tuple[int | None, ...] = ()


def rebuild_behind(graph: Graph, at: int, transform: Transform, *, relax: bool = False) -> Rebuilt:
    """The network of `graph` with `transform` between the tensor `at` and all that take it.

    `relax`: the first layers with a stride get the stride 1, so that what follows them works on maps of the old size. What begins
    anew is drawn from Keras's random state. Raises RefusedError where a layer cannot work on the smaller map, or an output would
    have another size.
    """
    return _Builder(graph, at, transform, relax=relax).run()


class _Builder:
    """Walks through the graph once and makes each call again."""

    def __init__(self, graph: Graph, at: int, transform: Transform, *, relax: bool) -> None:
        self._graph, self._at, self._transform = graph, at, transform
        self._made: dict[int, Any] = {index: input_again(graph.tensors[index]) for index in graph.inputs}
        self._operations: dict[int, Any] = {}
        self._moved: Any = None
        # Of tensors behind the transform: those that hold its channels, and those that are a map in one line (the map's tensor).
        self._behind: set[int] = {at}
        self._expand: dict[int, Array] = {} if transform.expand is None else {at: transform.expand}
        self._flat: dict[int, int] = {}
        self._out = Rebuilt()
        self._relaxed = _first_strided(graph, at) if relax else {}

    def run(self) -> Rebuilt:
        """The new model and what became of the weights."""
        import keras

        graph = self._graph
        if self._at in self._made:
            self._transformed()
        for call in needed(graph, {}):
            self._make(call)
        outputs = keras.tree.map_structure(lambda leaf: self._made[leaf.index], graph.output_structure)
        for index in graph.outputs:
            old, new = graph.shape(index), tuple(self._made[index].shape)
            if old != new:
                raise RefusedError(
                    f"the model's output has the size of its input: {old[1:]} would become {new[1:]}",
                    remedy="input transforms are for models whose answers do not depend on the input's size",
                )
        inputs = keras.tree.map_structure(lambda leaf: self._made[leaf.index], graph.input_structure)
        self._out.model = keras.Model(inputs, outputs, name=graph.name)
        return self._out

    def _transformed(self) -> None:
        self._moved = self._transform(self._made[self._at])
        self._out.shape = tuple(self._moved.shape[1:])

    def _tensor(self, index: int) -> Any:
        return self._moved if index == self._at else self._made[index]

    def _make(self, call: Call) -> None:
        import keras

        def filled(structure: Any) -> Any:
            return keras.tree.map_structure(
                lambda leaf: self._tensor(leaf.index) if isinstance(leaf, Ref) else leaf, structure
            )

        key = id(call.operation)
        fresh = key not in self._operations
        if fresh:
            self._operations[key] = again(call, Cut(config=self._changes(call)))
        try:
            results = keras.tree.flatten(self._operations[key](*filled(call.args), **filled(call.kwargs)))
        except (ValueError, TypeError, AttributeError, NotImplementedError) as error:
            raise self._refusal(call, error) from error
        for index, result in zip(call.outputs, results, strict=True):
            self._made[index] = result
            if 0 in tuple(result.shape):
                raise self._refusal(call, None)
        if self._behind.intersection(call.inputs):
            self._behind.update(call.outputs)
        if fresh:
            self._carry_over(call, self._operations[key])
        self._follow(call)
        if self._at in call.outputs:
            self._transformed()

    def _refusal(self, call: Call, error: BaseException | None) -> ToolError | RefusedError:
        sizes = ", ".join(str(tuple(self._tensor(index).shape[1:])) for index in call.inputs)
        words = "" if error is None else f" ({' '.join(str(error).split())[:200]})"
        return RefusedError(
            f"{call.name} ({type(call.operation).__name__}) cannot work on what is left of the input there, {sizes}{words}",
            remedy="take a milder transform, or stride=relax",
        )

    def _sides(self, index: int) -> tuple[tuple[int | None, ...], tuple[int | None, ...]]:
        """Height and width (or length) of a map, before and now."""
        return self._graph.shape(index)[1:-1], tuple(self._tensor(index).shape[1:-1])

    def _changes(self, call: Call) -> dict[str, Any]:
        """Settings of a layer that are others now."""
        if call.name in self._relaxed:
            self._out.relaxed.append(call.name)
            return self._relaxed[call.name]
        kind = type(call.operation).__name__
        if not self._behind.intersection(call.inputs):
            return {}
        if kind == "Reshape":
            return self._reshaped(call)
        if kind not in _POOLS:
            return {}
        before, now = self._sides(call.inputs[0])
        window = tuple(call.operation.pool_size)
        if window != before or None in now or now == before:
            return {}
        # It is a global pooling that was written with numbers.
        self._out.windows[call.name] = [int(side) for side in now if side is not None]
        same = tuple(call.operation.strides) == window
        return {"pool_size": now, "strides": now if same else call.operation.strides}

    def _reshaped(self, call: Call) -> dict[str, Any]:
        """A shape that names the map's sides names the new ones, as far as both begin alike."""
        before, now = self._graph.shape(call.inputs[0])[1:], self._tensor(call.inputs[0]).shape[1:]
        target = list(call.operation.target_shape)
        for place, (wanted, old, new) in enumerate(zip(target, before, now, strict=False)):
            if wanted != old:
                break
            target[place] = new
        return {"target_shape": target}

    def _follow(self, call: Call) -> None:
        """Note which results still hold the transform's channels, and which are maps in one line."""
        if len(call.inputs) != 1 or len(call.outputs) != 1 or getattr(call.operation, "weights", None):
            return
        source, result = call.inputs[0], call.outputs[0]
        old, new = self._graph.shape(result), tuple(self._made[result].shape)
        expand = self._expand.get(source)
        if len(old) == len(self._graph.shape(source)):
            if expand is not None and (old[-1], new[-1]) == expand.shape:
                self._expand[result] = expand
            if source in self._flat and old == self._graph.shape(source):
                self._flat[result] = self._flat[source]
        elif type(call.operation).__name__ in {"Flatten", "Reshape"} and len(old) == 2:  # noqa: PLR2004  rows, values
            self._flat[result] = source

    def _carry_over(self, call: Call, new: Any) -> None:
        """Give a layer its predecessor's weights, as they are or as they fit."""
        old = call.operation
        before, after = getattr(old, "variables", []), getattr(new, "variables", [])
        if new is old or not before:
            return
        if len(before) != len(after):
            raise ToolError(f"the layer {call.name} has {len(after)} weights when made again, and had {len(before)}")
        for source, target in zip(before, after, strict=True):
            array = values(source)
            if array.shape == tuple(target.shape) and not self._rearranged(call, source.name, array):
                target.assign(array)
                continue
            fitted, how = self._fitted(call, source.name, array, tuple(target.shape))
            self._out.changed[target.path] = how
            if fitted is not None:
                target.assign(fitted.astype(array.dtype))
            # Frozen weights that nobody has trained would stay so.
            new.trainable = True
        if hasattr(new, "finalize_state"):
            new.finalize_state()

    def _rearranged(self, call: Call, variable: str, array: Array) -> bool:
        """Whether a weight belongs to the values of a flattened map that had other sides, be they as many: half the sides with four
        times the channels are."""
        if type(call.operation).__name__ == "Dense" and variable != "kernel":
            return False
        map_ = self._flat.get(call.inputs[0])
        if map_ is None or self._graph.shape(call.inputs[0])[1] not in array.shape:
            return False
        return self._graph.shape(map_)[1:] != tuple(self._tensor(map_).shape[1:])

    def _fitted(self, call: Call, variable: str, array: Array, wanted: tuple[int, ...]) -> tuple[Array | None, str]:
        """The weight for the new shapes and how it came about; None where it begins anew."""
        tensor, kind = call.inputs[0], type(call.operation).__name__
        if kind == "Dense" and variable == "kernel" and tensor in self._flat:
            found = self._fitted_places(self._flat[tensor], array)
            return (found, SUMMED_PLACES) if found is not None and found.shape == wanted else (None, ANEW)
        expand = self._expand.get(tensor)
        if expand is None or variable != "kernel" or kind.startswith("DepthwiseConv"):
            return None, ANEW
        # Kernels of convolutions end in (channels, filters), those of dense and recurrent layers begin with the channels.
        axis = array.ndim - 2
        if array.shape[axis] != expand.shape[0]:
            return None, ANEW
        found = np.moveaxis(np.tensordot(expand, array, (0, axis)), 0, axis)
        return (found, SUMMED_CHANNELS) if found.shape == wanted else (None, ANEW)

    def _fitted_places(self, map_: int, array: Array) -> Array | None:
        """A dense kernel [values of the old map, units] for the values of the new one; None where the sizes do not say how."""
        before, now = self._sides(map_)
        old, new = self._graph.shape(map_)[-1], self._tensor(map_).shape[-1]
        expand = self._expand.get(map_, np.eye(old or 1))
        shape = [*(side or 0 for side in before), old or 0, array.shape[1]]
        if None in now or expand.shape != (old, new) or int(np.prod(shape)) != array.size:
            return None
        found = array.astype(np.float64).reshape(shape)
        for axis, (source, target) in enumerate(zip(before, now, strict=True)):
            found = np.moveaxis(np.tensordot(shares(source or 0, target or 0), found, (0, axis)), 0, axis)
        found = np.moveaxis(np.tensordot(expand, found, (0, len(before))), 0, len(before))
        return found.reshape(-1, array.shape[1])


def shares(old: int, new: int) -> Array:
    """Which share of each of `old` places lies in each of `new` ones that cover the same length: float64 [old, new], rows sum to 1."""
    edges = np.arange(old + 1)[:, None] * new / old
    starts = np.arange(new)[None]
    overlap = np.minimum(edges[1:], starts + 1) - np.maximum(edges[:-1], starts)
    return np.asarray(np.maximum(overlap, 0.0) * old / new)


def _first_strided(graph: Graph, at: int) -> dict[str, dict[str, Any]]:
    """The first layer behind the tensor `at` that passes over values, and all on maps of that size (a shortcut beside it): name →
    settings with stride 1. Raises RefusedError when there is none."""
    behind, found = {at}, dict[str, dict[str, Any]]()
    size: tuple[int | None, ...] | None = None
    for call in needed(graph, {}):
        if not behind.intersection(call.inputs):
            continue
        behind.update(call.outputs)
        if type(call.operation).__name__ not in _STRIDED or max(_strides(call.operation)) == 1:
            continue
        sides = graph.shape(call.inputs[0])[1:-1]
        size = sides if size is None else size
        if sides == size and tuple(getattr(call.operation, "pool_size", ())) != sides:
            # A window that moves by one must not shorten the map by its own length.
            padding = {"padding": "same"} if type(call.operation).__name__ in _POOLS else {}
            found[call.name] = {"strides": tuple(1 for _ in sides), **padding}
    if not found:
        raise RefusedError("no layer of this model has a stride that could be relaxed", remedy="leave out stride=relax")
    return found


def _strides(operation: Any) -> tuple[int, ...]:
    strides = operation.strides
    return tuple(strides) if isinstance(strides, tuple | list) else (int(strides),)
