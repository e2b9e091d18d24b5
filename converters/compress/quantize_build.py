"""Builds the network that trains with rounding from a plan, gives its ranges a beginning, and takes the rounding apart again.

Second stage of quantization-aware training (`converters.compress.quantize_plan` is the first). Batch norms go into the layers
before them (Jacob et al., arXiv:1712.05877, section 3.2): at once, with the statistics of the trained base, or, where that gives the same
integers and something is trained, at the end (`converters.compress.live_norm`). Layers that stay in float are the base's own, with its weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from converters.compress import fake_quant, live_norm, quantize_plan
from converters.compress.context import Array, Rows
from converters.compress.fake_quant import FIXED, OFF, FakeQuantize
from converters.compress.graph import Call, Graph, Ref
from converters.compress.grids import FULL_BITS, PER_TENSOR
from converters.compress.objective import fixed_batch
from converters.compress.quantize_plan import FIXED_RANGES, FUSED, GATED, PROBABILITY, Plan

CALIBRATION_ROWS = 512
CALIBRATION_BATCH = 64


@dataclass(frozen=True, slots=True)
class Options:
    """How weights and activations are rounded. `weight_bits`: 2 to 16. `granularity`, `weight_mode`, `range_mode`: words of
    `fake_quant`. `keep_shared`: weights that share values go on sharing them as integers. `bits_of`: bits by layer, of mixed
    precision: these override `weight_bits` and `weight_mode`, and exporters store as few bits as they can. `unrounded`: numbers of the
    plan's ranges that stay in float. `live_norms`: batch norms go on learning and are folded by `finished`, wherever each channel has a
    scale of its own in the end (`converters.compress.live_norm`)."""

    weight_bits: int
    granularity: str
    weight_mode: str
    range_mode: str
    keep_shared: bool = False
    bits_of: Mapping[str, int] = field(default_factory=dict)
    unrounded: frozenset[int] = frozenset()
    live_norms: bool = False

    def keeps(self, norm: Any) -> bool:
        """Whether this batch norm lives on in the network that trains; one that its owner froze does not."""
        own_scales = self.granularity != PER_TENSOR or self.keep_shared
        return self.live_norms and own_scales and norm.trainable

    def of_kernel(self, name: str) -> dict[str, Any]:
        """The arguments that a layer with a rounded kernel gets."""
        bits = self.bits_of.get(name)
        if bits is None:
            return {"weight_bits": self.weight_bits, "weight_mode": self.weight_mode}
        largest = bits >= FULL_BITS or self.keep_shared
        mode = fake_quant.LARGEST if largest else fake_quant.LEARNED
        return {"weight_bits": bits, "weight_mode": mode, "packed": True}


@dataclass(slots=True)
class Rounded:
    """The network that trains. `taps`: each range that is not fixed, with a tensor that it rounds. `layers`: names of those with
    rounded kernels. `ranges`: the plan's, by number. `reads`: by layer with a rounded kernel the number of its input's range, None
    where it has none of its own."""

    model: Any
    taps: list[tuple[FakeQuantize, Any]] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    ranges: dict[int, FakeQuantize] = field(default_factory=dict)
    reads: dict[str, int | None] = field(default_factory=dict)


def build(model: Any, graph: Graph, plan: Plan, options: Options) -> Rounded:
    """The network with rounding; `model` is the one that `graph` was read from, and gives the outputs' names."""
    return _Builder(model, graph, plan, options).run()


class _Builder:
    """Walks through the graph once and makes each call again."""

    def __init__(self, model: Any, graph: Graph, plan: Plan, options: Options) -> None:
        self._graph, self._plan, self._options = graph, plan, options
        self._inputs = list(model.inputs)
        self._names = list(getattr(model, "output_names", []))
        self._made: dict[int, Any] = dict(zip(graph.inputs, self._inputs, strict=True))
        self._ranges: dict[int, FakeQuantize] = {}
        self._operations: dict[int, Any] = {}
        self._out = Rounded(None)

    def run(self) -> Rounded:
        import keras

        for tensor in self._graph.inputs:
            self._made[tensor] = self._ranged(tensor, self._made[tensor])
        for call in self._graph.calls:
            if id(call) not in self._plan.skipped:
                self._make(call)
        outputs = dict(zip(self._graph.outputs, self._named_outputs(), strict=True))
        inputs = dict(zip(self._graph.inputs, self._inputs, strict=True))
        self._out.model = keras.Model(
            _filled(self._graph.input_structure, inputs),
            _filled(self._graph.output_structure, outputs),
            name=self._graph.name,
        )
        return self._out

    def _named_outputs(self) -> list[Any]:
        """The outputs under the names that they had: variants are compared with the base by name."""
        import keras

        named = []
        for index, tensor in enumerate(self._graph.outputs):
            made, wanted = self._made[tensor], self._names[index] if index < len(self._names) else ""
            if wanted and wanted not in self._names[:index]:
                made = keras.layers.Identity(name=wanted)(made)
            named.append(made)
        return named

    def _free_name(self, name: str) -> str:
        return f"{name}_raw" if name in self._names else name

    def _make(self, call: Call) -> None:
        kind = self._plan.kinds[id(call)]
        name = type(call.operation).__name__
        if kind != quantize_plan.COMPUTE:
            results = self._again(call)
            if kind == quantize_plan.FLOAT:
                results = [self._ranged(tensor, made) for tensor, made in zip(call.outputs, results, strict=True)]
            elif kind == quantize_plan.AVERAGE:
                results = [self._ranged(call.outputs[0], results[0])]
            self._made.update(zip(call.outputs, results, strict=True))
            return
        end = self._plan.ends[id(call)]
        if name in quantize_plan.WEIGHTED:
            made = self._weighted(call)
        elif name in quantize_plan.JOINING:
            made = self._joined(call)
        elif name == "Rescaling":
            made = self._rescaled(call)
        else:
            made = self._activated(call)
        self._made[end] = self._ranged(end, made)

    def _ranged(self, tensor: int, made: Any) -> Any:
        """The tensor after its range; as it is where the plan has none, or where it is rounded to that range already."""
        number = self._plan.ranges.get(tensor)
        if number is None or number in self._plan.fixed:
            return made
        if number not in self._ranges:
            mode = OFF if number in self._options.unrounded else self._options.range_mode
            self._ranges[number] = FakeQuantize(mode, name=f"range_{len(self._ranges)}")
            self._out.ranges[number] = self._ranges[number]
        if self._ranges[number].mode == OFF:
            return self._ranges[number](made)
        return self._rounded(self._ranges[number], made)

    def _rounded(self, layer: FakeQuantize, made: Any) -> Any:
        self._out.taps.append((layer, made))
        return layer(made)

    def _fixed(self, made: Any, limits: tuple[float, float], name: str) -> Any:
        layer = FakeQuantize(FIXED, name=f"{name}_fixed_range")
        rounded = layer(made)
        layer.set_range(*limits)
        return rounded

    def _again(self, call: Call) -> list[Any]:
        """The base's own layer on the new tensors; a copy where its name is taken."""
        import keras

        operation = self._operations.get(id(call.operation), call.operation)
        name = self._free_name(call.name)
        fresh = operation is call.operation and isinstance(operation, keras.layers.Layer) and name != operation.name
        if fresh:
            operation = type(operation).from_config({**operation.get_config(), "name": name})
            self._operations[id(call.operation)] = operation
        results = operation(*_filled(call.args, self._made), **_filled(call.kwargs, self._made))
        if fresh:
            for target, source in zip(operation.variables, call.operation.variables, strict=True):
                target.assign(source.numpy())
        return list(keras.tree.flatten(results))

    def _weighted(self, call: Call) -> Any:
        old, activation = call.operation, self._plan.activations.get(id(call), "linear")
        norm = self._plan.folded.get(id(call))
        options = self._options
        live = norm is not None and options.keeps(norm.operation)
        config = old.get_config() | {
            "name": self._free_name(call.name),
            "activation": activation if activation in FUSED else "linear",
            "use_bias": old.use_bias or (norm is not None and not live),
            "granularity": PER_TENSOR if options.keep_shared else options.granularity,
            "has_gain": options.keep_shared and norm is not None and not live,
            "norm": live_norm.arguments(norm.operation) if norm is not None and live else None,
            **options.of_kernel(self._free_name(call.name)),
        }
        for name in (
            "kernel_constraint",
            "depthwise_constraint",
            "bias_constraint",
            "lora_rank",
            "quantization_config",
        ):
            config.pop(name, None)
        layer = fake_quant.ROUNDED[type(old).__name__].from_config(config)
        made = layer(*_filled(call.args, self._made), **_filled(call.kwargs, self._made))
        gain, shift = _fold(None if norm is None or live else norm.operation, layer.channels)
        bias = old.bias.numpy() if old.use_bias else np.zeros(layer.channels, np.float32)
        kernel = old.kernel.numpy()
        if layer.has_gain:
            layer.gain.assign(gain)
        else:
            kernel = (kernel.reshape(-1, layer.channels) * gain).reshape(kernel.shape)
        layer.kernel.assign(kernel)
        if layer.use_bias:
            layer.bias.assign(bias * gain + shift)
        if norm is not None and live:
            layer.live_norm.begin(norm.operation)
        layer.begin()
        self._out.layers.append(layer.name)
        self._out.reads[layer.name] = self._plan.ranges.get(call.inputs[0])
        if activation in ("linear", *FUSED):
            return made
        before = FakeQuantize(options.range_mode, name=f"{call.name}_before_{activation}")
        return self._apply(self._rounded(before, made), activation, call.name)

    def _joined(self, call: Call) -> Any:
        import keras

        made = self._again(call)[0]
        activation = self._plan.activations.get(id(call))
        return (
            made if activation is None else keras.layers.Activation(activation, name=f"{call.name}_{activation}")(made)
        )

    def _rescaled(self, call: Call) -> Any:
        """A product and a sum with constants, each rounded by itself, as engines compute them."""
        import keras

        layer, made = call.operation, self._made[call.inputs[0]]
        made = keras.ops.multiply(made, float(layer.scale))
        if not float(layer.offset):
            return made
        made = self._rounded(FakeQuantize(self._options.range_mode, name=f"{call.name}_between"), made)
        return keras.ops.add(made, float(layer.offset))

    def _activated(self, call: Call) -> Any:
        """A mean, or an activation by itself."""
        activation = self._plan.activations.get(id(call))
        if activation in GATED:
            return self._apply(self._made[call.inputs[0]], activation, call.name)
        made = self._again(call)[0]
        return self._fixed(made, FIXED_RANGES[activation], call.name) if activation in FIXED_RANGES else made

    def _apply(self, made: Any, activation: str, name: str) -> Any:
        import keras

        if activation in GATED:
            gate = self._fixed(
                keras.layers.Activation("sigmoid", name=f"{name}_gate")(made), PROBABILITY, f"{name}_gate"
            )
            return keras.layers.Multiply(name=f"{name}_gated")([made, gate])
        made = keras.layers.Activation(activation, name=f"{name}_{activation}")(made)
        return self._fixed(made, FIXED_RANGES[activation], name) if activation in FIXED_RANGES else made


def _filled(structure: Any, made: dict[int, Any]) -> Any:
    import keras

    return keras.tree.map_structure(lambda leaf: made[leaf.index] if isinstance(leaf, Ref) else leaf, structure)


def _fold(norm: Any, channels: int) -> tuple[Array, Array]:
    """Gain and shift [channels] that a batch norm amounts to; 1 and 0 without one."""
    if norm is None:
        return np.ones(channels, np.float32), np.zeros(channels, np.float32)
    deviation = np.sqrt(norm.moving_variance.numpy().astype(np.float64) + norm.epsilon)
    gain = (norm.gamma.numpy() if norm.scale else 1.0) / deviation
    shift = (norm.beta.numpy() if norm.center else 0.0) - norm.moving_mean.numpy() * gain
    return gain.astype(np.float32), np.asarray(shift, np.float32)


def calibrate(rounded: Rounded, rows: Rows, seed: int) -> None:
    """Begin each range with the extremes of its tensors, averaged over batches of the rows, while nothing is rounded."""
    import keras
    import tensorflow as tf

    batch = fixed_batch(rounded.model) or CALIBRATION_BATCH
    count = min(rows.count, CALIBRATION_ROWS)
    chosen = rows.take(np.random.default_rng([seed, 1]).permutation(rows.count)[:count])
    view = keras.Model(list(rounded.model.inputs), [tensor for _, tensor in rounded.taps])
    layers = {id(layer): layer for layer, _ in rounded.taps}
    modes = {key: layer.mode for key, layer in layers.items()}
    dtypes = [tensor.dtype for tensor in rounded.model.inputs]

    @tf.function  # type: ignore[untyped-decorator]
    def extremes(*inputs: Any) -> Any:
        outputs = keras.tree.flatten(view(list(inputs), training=False))
        return tf.stack([[tf.cast(f(y), tf.float32) for f in (tf.reduce_min, tf.reduce_max)] for y in outputs])

    try:
        for layer in layers.values():
            layer.mode = OFF
        found = []
        for start in range(0, max(count - batch, 0) + 1, batch):
            which = np.minimum(np.arange(start, start + batch), count - 1)
            found.append(
                extremes(*(tf.constant(x[which], d) for x, d in zip(chosen.inputs, dtypes, strict=True))).numpy()
            )
    finally:
        for key, layer in layers.items():
            layer.mode = modes[key]
    means = np.mean(found, axis=0)
    for key, layer in layers.items():
        own = [means[index] for index, (each, _) in enumerate(rounded.taps) if id(each) == key]
        layer.set_range(min(float(low) for low, _ in own), max(float(high) for _, high in own))


def finished(model: Any) -> Any:
    """The trained network with its ranges and scales as constants, in float32."""
    import keras

    made = keras.models.clone_model(model, clone_function=fake_quant.settled)
    trained = {layer.name: layer for layer in model.layers}
    for layer in made.layers:
        if layer.name in trained and not isinstance(layer, keras.layers.InputLayer):
            fake_quant.take_over(layer, trained[layer.name])
    return made
