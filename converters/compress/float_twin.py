"""A fake-quantised network beside its float twin: the same layers with batch norms folded, where nothing is rounded.

Shared by the steps that refine a model after training (`converters.compress.calibrate`, `adaround`, `correct_bias`): they compare the two
tensor by tensor on calibration rows. Networks are called eagerly here: each tensor is asked for once or twice, so tracing would not pay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from converters.compress.context import Array, Context, Rows
from converters.compress.graph import Graph, read_graph
from converters.compress.grids import PER_CHANNEL
from converters.compress.objective import every_layer, fixed_batch
from converters.compress.quantize_build import Options, Rounded, build
from converters.compress.quantize_plan import Plan, make_plan
from converters.errors import RefusedError

MOST_ROWS = 1024
CHUNK_ROWS = 64
CHUNK_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True, eq=False)
class FloatTwin:
    """`network`: as `converters.compress.quantize_build` builds it, with nothing rounded. `graph`, `plan`: what it was built from; another
    network built from them has the same layer names and the same taps."""

    network: Rounded
    graph: Graph
    plan: Plan

    @property
    def model(self) -> Any:
        """The keras.Model."""
        return self.network.model


def float_twin(model: Any) -> FloatTwin:
    """The twin of a float model. Raises RefusedError when it has no layer whose kernel could be rounded."""
    from converters.compress.fake_quant import FIXED, OFF, FakeQuantize

    graph = read_graph(model)
    plan = make_plan(graph)
    # A "fixed" kernel is taken as it is. Ranges are switched off afterwards: the builder keeps no taps of those that are off.
    network = build(model, graph, plan, Options(8, PER_CHANNEL, FIXED, FIXED))
    if not network.layers:
        told = [f"{name} ({reason})" for name, reason in list(plan.left_alone.items())[:3]]
        raise RefusedError(
            "there is no convolution or dense layer that could be rounded: " + ("; ".join(told) or "it has none"),
            remedy="layers of your own, shared and recurrent ones stay in float",
        )
    for layer in every_layer(network.model):
        if isinstance(layer, FakeQuantize):
            layer.mode = OFF
    return FloatTwin(network, graph, plan)


def calibration_rows(context: Context, what: str) -> Rows:
    """The rows to refine by: calibration rows, at most MOST_ROWS of them. Raises ToolError when there are none."""
    rows = context.needs_calibration(what)
    if rows.count <= MOST_ROWS:
        return rows
    return rows.take(np.sort(np.random.default_rng([context.seed, 2]).permutation(rows.count)[:MOST_ROWS]))


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """A layer with a rounded kernel in a model, with the symbolic tensors that it takes and gives."""

    layer: Any
    taken: Any
    given: Any


def rounded_sites(model: Any) -> dict[str, Site]:
    """The layers of a fake-quantised model, or of a twin, whose kernels are rounded, by name, each after those that it depends on."""
    from converters.compress.fake_quant import FIXED, is_rounded

    graph = read_graph(model)
    return {
        call.operation.name: Site(call.operation, graph.tensors[call.inputs[0]], graph.tensors[call.outputs[0]])
        for call in graph.calls
        if is_rounded(call.operation) and call.operation.weight_mode == FIXED
    }


def chunk_rows(model: Any, tensors: Sequence[Any]) -> int:
    """How many rows to ask for at once: the batch that the model insists on, or so many that these tensors fit into CHUNK_BYTES."""
    row_bytes = sum(4 * int(np.prod([dim or 1 for dim in tensor.shape[1:]])) for tensor in tensors)
    return fixed_batch(model) or max(1, min(CHUNK_ROWS, CHUNK_BYTES // max(row_bytes, 1)))


def chunks(model: Any, tensors: Sequence[Any], rows: Rows, size: int | None = None) -> Iterator[list[Array]]:
    """The values of a model's tensors on the rows, `size` rows at a time (by default `chunk_rows`): float32 [n, …] of each tensor."""
    import keras
    import tensorflow as tf

    view = keras.Model(list(model.inputs), list(tensors))
    dtypes = [tensor.dtype for tensor in model.inputs]
    batch = fixed_batch(model)
    size = size or chunk_rows(model, tensors)
    for start in range(0, rows.count, size):
        end = min(start + size, rows.count)
        which = np.minimum(np.arange(start, start + size), rows.count - 1) if batch else np.arange(start, end)
        feed = [tf.constant(x[which], dtype) for x, dtype in zip(rows.inputs, dtypes, strict=True)]
        outputs = keras.tree.flatten(view(feed, training=False))
        yield [np.asarray(y.numpy(), np.float32)[: end - start] for y in outputs]


def answers(model: Any, rows: Rows) -> list[Array]:
    """A model's outputs on the rows, float32 [n, …] each."""
    parts = list(chunks(model, list(model.outputs), rows))
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def distance(found: Sequence[Array], wanted: Sequence[Array]) -> float:
    """How far answers are from the float ones: the mean over outputs of ‖found − wanted‖² / ‖wanted − its mean over rows‖²."""
    shares = []
    for got, want in zip(found, wanted, strict=True):
        spread = float(((want - want.mean(0, keepdims=True)).astype(np.float64) ** 2).sum())
        shares.append(float(((got - want).astype(np.float64) ** 2).sum()) / max(spread, 1e-30))
    return float(np.mean(shares))


def agreement(found: Sequence[Array], wanted: Sequence[Array]) -> float | None:
    """The share of rows in which the first output has its largest value where the float one has; None where it is no row of scores."""
    got, want = found[0], wanted[0]
    if want.ndim != 2 or want.shape[-1] < 2:  # noqa: PLR2004
        return None
    return float(np.mean(got.argmax(-1) == want.argmax(-1)))


def gain(before: Sequence[Array], after: Sequence[Array], wanted: Sequence[Array]) -> Mapping[str, Any]:
    """Figures of a step: distance from the float answers, and agreement with them, before and after it."""
    return {
        "output_error_before": distance(before, wanted),
        "output_error": distance(after, wanted),
        "agreement_before": agreement(before, wanted),
        "agreement": agreement(after, wanted),
    }
