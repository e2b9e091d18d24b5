"""Rewrites of an ONNX graph that change no value: Transposes moved out or folded away, means as pooling, short names.

Used by `converters.export.onnx_graph` after ONNX Runtime's optimizer and onnxslim. An exported channels-last model leaves
Transposes where the two layouts meet: at its inputs and outputs (moved into the signature's `axes`), before a flattening
Dense layer (folded into the order of its weights), and around dimensions of size one (no data moves).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np

Axes = tuple[int, ...]
_IMAGE_RANK = 4
_MATRIX_RANK = 2


class _Graph:
    """Who produces and who reads each tensor of the top-level graph. Rebuilt after every change: graphs are small."""

    def __init__(self, model: Any) -> None:
        self.graph = model.graph
        self.producer = {name: node for node in self.graph.node for name in node.output if name}
        self.readers: dict[str, list[tuple[Any, int]]] = defaultdict(list)
        for node in self.graph.node:
            for index, name in enumerate(node.input):
                self.readers[name].append((node, index))
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.inputs = {info.name: info for info in self.graph.input if info.name not in self.constants}
        self.outputs = {info.name: info for info in self.graph.output}
        self.shapes = {
            info.name: _dims(info) for info in (*self.graph.value_info, *self.graph.input, *self.graph.output)
        }
        # A loop body may read a tensor of this graph by name: such tensors stay as they are.
        self.pinned = set(_names_in_subgraphs(self.graph))

    def transposes(self) -> Iterator[tuple[Any, Axes]]:
        """Transposes that keep the batch axis in front, with their permutation."""
        for node in list(self.graph.node):
            if node.op_type == "Transpose" and not {*node.input, *node.output} & self.pinned:
                perm = tuple(next((a.ints for a in node.attribute if a.name == "perm"), ()))
                if perm and perm[0] == 0:
                    yield node, perm

    def only_reader(self, name: str, *op_types: str) -> Any | None:
        """The one node that reads `name` as its first input, when it is of one of these types."""
        readers = self.readers[name]
        if len(readers) != 1 or name in self.outputs or readers[0][1] != 0 or readers[0][0].op_type not in op_types:
            return None
        return readers[0][0]

    def replace_reads(self, old: str, new: str) -> None:
        for node, index in self.readers[old]:
            node.input[index] = new

    def constant(self, name: str) -> np.ndarray[Any, Any] | None:
        """Value of an initializer, or None."""
        from onnx import numpy_helper

        return np.asarray(numpy_helper.to_array(self.constants[name])) if name in self.constants else None


def _dims(info: Any) -> tuple[int | None, ...] | None:
    tensor = info.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)


def _names_in_subgraphs(graph: Any) -> Iterator[str]:
    for node in graph.node:
        for attribute in node.attribute:
            for subgraph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                for inner in subgraph.node:
                    yield from inner.input
                yield from (output.name for output in subgraph.output)
                yield from _names_in_subgraphs(subgraph)


def remove_transposes(model: Any) -> tuple[Any, dict[str, Axes], dict[str, Axes]]:
    """Apply all rewrites to `model` (changed in place, shapes inferred before) until none applies.

    Returns the model, and for inputs and outputs whose Transpose moved into the signature: for an input the
    permutation from the old layout to the new, for an output the one from the new layout back to the old.
    """
    input_axes: dict[str, Axes] = {}
    output_axes: dict[str, Axes] = {}
    while (
        _input_transpose(_Graph(model), input_axes)
        or _output_transpose(_Graph(model), output_axes)
        or _transpose_before_dense(_Graph(model))
        or _transpose_of_ones(_Graph(model))
        or _mean_to_pool(_Graph(model))
    ):
        pass
    _drop_unread(model)
    return model, input_axes, output_axes


def _input_transpose(g: _Graph, axes: dict[str, Axes]) -> bool:
    """An input that is only ever read transposed is taken transposed from the start."""
    perms = {node.output[0]: perm for node, perm in g.transposes()}
    for name, info in g.inputs.items():
        readers = [node for node, _ in g.readers[name]]
        found = {perms.get(node.output[0]) for node in readers}
        perm = found.pop() if len(found) == 1 else None
        if perm is None or name in g.outputs or any(node.output[0] in g.outputs for node in readers):
            continue
        for node in readers:
            g.replace_reads(node.output[0], name)
            g.graph.node.remove(node)
        _permute_dims(info, perm)
        before = axes.get(name, tuple(range(len(perm))))
        axes[name] = tuple(before[i] for i in perm)
        return True
    return False


def _output_transpose(g: _Graph, axes: dict[str, Axes]) -> bool:
    """An output that is the last thing transposed is given untransposed."""
    for node, perm in g.transposes():
        inner, outer = node.input[0], node.output[0]
        if outer not in g.outputs or g.readers[outer] or inner in g.outputs or inner not in g.producer:
            continue
        producer = g.producer[inner]
        producer.output[list(producer.output).index(inner)] = outer
        g.replace_reads(inner, outer)
        g.graph.node.remove(node)
        _permute_dims(g.outputs[outer], tuple(int(i) for i in np.argsort(perm)))
        after = axes.get(outer, tuple(range(len(perm))))
        axes[outer] = tuple(perm[i] for i in after)
        return True
    return False


def _permute_dims(info: Any, perm: Axes) -> None:
    dims = info.type.tensor_type.shape.dim
    if len(dims) != len(perm):
        return
    old = []
    for dim in dims:
        copy = type(dim)()
        copy.CopyFrom(dim)
        old.append(copy)
    for dim, index in zip(dims, perm, strict=True):
        dim.CopyFrom(old[index])


def _flat_size(g: _Graph, reshape: Any) -> int | None:
    """Columns of the matrix that a Reshape of [batch, …] to [batch, columns] makes; None when it does something else."""
    target, shape = g.constant(reshape.input[1]), g.shapes.get(reshape.input[0])
    if target is None or shape is None or target.size != _MATRIX_RANK or None in shape[1:]:
        return None
    columns = math.prod(size for size in shape[1:] if size is not None)
    return columns if tuple(target.tolist()) in ((-1, columns), (0, columns), (0, -1)) else None


def _transpose_before_dense(g: _Graph) -> bool:
    """Transpose, flatten, multiply: the order of the weight's rows can do what the Transpose does."""
    from onnx import numpy_helper

    for node, perm in g.transposes():
        reshape = g.only_reader(node.output[0], "Reshape")
        dense = None if reshape is None else g.only_reader(reshape.output[0], "MatMul", "Gemm")
        if reshape is None or dense is None:
            continue
        columns, weight = _flat_size(g, reshape), g.constant(dense.input[1])
        shape = g.shapes.get(node.input[0])
        flags = {a.name: a.i for a in dense.attribute if a.name in ("transA", "transB")}
        axis = flags.get("transB", 0)
        if columns is None or shape is None or weight is None or weight.ndim != _MATRIX_RANK or flags.get("transA", 0):
            continue
        if weight.shape[axis] != columns or None in shape[1:]:
            continue
        moved = [shape[i] or 0 for i in perm[1:]]
        back = [int(i) - 1 for i in np.argsort(perm)[1:]]
        order = np.arange(columns).reshape(moved).transpose(back).ravel()
        name = f"{dense.input[1]}_{node.name or node.output[0]}_rows"
        g.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(weight.take(order, axis)), name))
        dense.input[1] = name
        reshape.input[0] = node.input[0]
        g.graph.node.remove(node)
        return True
    return False


def _transpose_of_ones(g: _Graph) -> bool:
    """A Transpose that only moves dimensions of size one moves no data: a following Reshape reads its input instead."""
    for node, perm in g.transposes():
        shape = g.shapes.get(node.input[0])
        reshape = g.only_reader(node.output[0], "Reshape")
        target = None if reshape is None else g.constant(reshape.input[1])
        if shape is None or reshape is None or target is None or 0 in target.tolist()[1:]:
            continue
        real = [axis for axis in perm if axis == 0 or shape[axis] != 1]
        if real == sorted(real):
            reshape.input[0] = node.input[0]
            g.graph.node.remove(node)
            return True
    return False


def _mean_to_pool(g: _Graph) -> bool:
    """The mean over an image's two spatial axes is GlobalAveragePool, which engines have integer kernels for."""
    from onnx import helper

    for index, node in enumerate(g.graph.node):
        if node.op_type != "ReduceMean" or len(g.shapes.get(node.input[0]) or ()) != _IMAGE_RANK:
            continue
        axes = next((list(a.ints) for a in node.attribute if a.name == "axes"), None)
        if axes is None and len(node.input) > 1 and (value := g.constant(node.input[1])) is not None:
            axes = value.tolist()
        if axes is None or sorted(axis % _IMAGE_RANK for axis in axes) != [2, 3]:
            continue
        keep = next((a.i for a in node.attribute if a.name == "keepdims"), 1)
        output = node.output[0]
        pooled = output if keep else f"{output}_pooled"
        new = [helper.make_node("GlobalAveragePool", [node.input[0]], [pooled], name=f"{node.name or output}_pool")]
        if not keep:
            new.append(helper.make_node("Flatten", [pooled], [output], name=f"{node.name or output}_flatten", axis=1))
        g.graph.node.remove(node)
        for offset, made in enumerate(new):
            g.graph.node.insert(index + offset, made)
        return True
    return False


def _drop_unread(model: Any) -> None:
    """Remove initializers that nothing reads any more."""
    graph = _Graph(model)
    for name, tensor in graph.constants.items():
        if not graph.readers[name] and name not in graph.outputs and name not in graph.pinned:
            model.graph.initializer.remove(tensor)


def shorten_names(model: Any) -> None:
    """Rename nodes and inner tensors to `Conv_12` and the like; inputs and outputs of the model keep their names.

    Exported names are long paths, and a QDQ graph repeats each of them a dozen times: a fifth of a small model's file.
    """
    kept = {info.name for info in (*model.graph.input, *model.graph.output)}
    names: dict[str, str] = {"": ""} | {name: name for name in kept}

    def short(name: str, prefix: str) -> str:
        if name not in names:
            candidate = f"{prefix}_{len(names)}"
            names[name] = candidate if candidate not in kept else f"{candidate}_"
        return names[name]

    def rename(graph: Any) -> None:
        for tensor in graph.initializer:
            tensor.name = short(tensor.name, "const")
        for info in (*graph.input, *graph.value_info, *graph.output):
            info.name = short(info.name, "t")
        for node in graph.node:
            node.input[:] = [short(name, "t") for name in node.input]
            node.output[:] = [short(name, node.op_type) for name in node.output]
            node.name = node.output[0]
            node.doc_string = ""
            for attribute in node.attribute:
                for subgraph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                    rename(subgraph)

    del model.graph.value_info[:]
    rename(model.graph)


def share_equal_constants(model: Any) -> None:
    """Keep one of every set of equal initializers: zero points and scales repeat in a quantized graph."""
    graph = _Graph(model)
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    for name, tensor in graph.constants.items():
        if name in graph.pinned or name in graph.outputs or not tensor.raw_data:
            continue
        key = (tensor.data_type, tuple(tensor.dims), bytes(tensor.raw_data))
        if key in first:
            graph.replace_reads(name, first[key])
        else:
            first[key] = name
    _drop_unread(model)
