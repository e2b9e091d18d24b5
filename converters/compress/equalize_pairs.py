"""Finds pairs of layers between which a factor per channel may move: what the first multiplies by less, the second multiplies by more.

First stage of the step `equalize`, on the graph of `converters.compress.graph`. Between the two may stand the first's batch norm and what
gives s·y for s·x with any s above 0, channel by channel: ReLU (leaky or not), pooling, flattening, padding with zeros, dropout. Nobody
else may read what lies between. ReLU6 is no such function: it cuts at 6 whatever the channel's factor.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from converters.compress.graph import Call, Graph
from converters.compress.quantize_plan import WEIGHTED, activation_of, own_activation

# Each channel of the output is made of the same channel of the input, times any factor that that one has.
CARRYING = frozenset(
    {
        *("MaxPooling1D", "MaxPooling2D", "AveragePooling1D", "AveragePooling2D", "Identity"),
        *("GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalAveragePooling1D", "GlobalAveragePooling2D"),
        *("ZeroPadding1D", "ZeroPadding2D", "Cropping1D", "Cropping2D", "UpSampling1D", "UpSampling2D"),
        *("Dropout", "SpatialDropout1D", "SpatialDropout2D", "Flatten", "LeakyReLU"),
    }
)
DEPTHWISE = frozenset({"DepthwiseConv1D", "DepthwiseConv2D"})
HOMOGENEOUS = frozenset({"linear", "relu", "leaky_relu"})


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """`first` makes the channels, `norm` is its batch norm or None, `second` takes them; each call has a layer of its own. Names are the
    calls'. `repeats`: how often the channels stand one after the other in what the second takes (flattened maps)."""

    first: Any
    norm: Any
    second: Any
    first_name: str
    second_name: str
    repeats: int

    @property
    def channels(self) -> int:
        """How many channels there are between the two."""
        shape = self.first.kernel.shape
        return int(shape[-2] * shape[-1]) if type(self.first).__name__ in DEPTHWISE else int(shape[-1])


def find_pairs(graph: Graph) -> tuple[list[Pair], dict[str, str]]:
    """The pairs in the graph's order; and the layers with a kernel that begin none, name → reason."""
    uses = Counter(id(call.operation) for call in graph.calls)
    consumers = graph.consumers()
    pairs, left_alone = [], {}
    for call in graph.calls:
        if _kind(call) not in WEIGHTED or not type(call.operation).__module__.startswith("keras."):
            continue
        found = _pair(call, graph, uses, consumers)
        if isinstance(found, str):
            left_alone[call.name] = found
        else:
            pairs.append(found)
    return pairs, left_alone


def norms_of(graph: Graph) -> dict[int, Any]:
    """The batch norm that alone reads what a layer with a kernel makes, by `id` of the layer."""
    uses = Counter(id(call.operation) for call in graph.calls)
    consumers = graph.consumers()
    found = {}
    for call in graph.calls:
        readers = consumers.get(call.outputs[0], [])
        linear = _kind(call) in WEIGHTED and own_activation(call.operation) == "linear"
        norm = len(readers) == 1 and _kind(readers[0]) == "BatchNormalization"
        if linear and norm and _odd_norm(readers[0], graph, uses) is None:
            found[id(call.operation)] = readers[0].operation
    return found


def _pair(call: Call, graph: Graph, uses: Counter[int], consumers: dict[int, list[Call]]) -> Pair | str:
    """The pair that a layer begins, or why it begins none."""
    reason = _unfit(call, uses)
    if reason is not None:
        return reason
    own = own_activation(call.operation)
    if own not in HOMOGENEOUS:
        return _not_homogeneous(own)
    norm, tensor, repeats = None, call.outputs[0], 1
    first_follower = True
    while True:
        if tensor in graph.outputs:
            return "what it makes is an output of the model"
        readers = consumers.get(tensor, [])
        if len(readers) != 1:
            return "more than one layer reads what it makes" if readers else "nobody reads what it makes"
        (follower,) = readers
        if _kind(follower) == "BatchNormalization" and first_follower and own == "linear":
            reason = _odd_norm(follower, graph, uses)
            if reason is not None:
                return reason
            if not follower.operation.scale:
                return f"{follower.name} has no scale that could take a factor"
            norm = follower.operation
        elif _kind(follower) in WEIGHTED and type(follower.operation).__module__.startswith("keras."):
            reason = _unfit(follower, uses)
            if reason is not None:
                return f"{follower.name}, which takes what it makes: {reason}"
            return Pair(call.operation, norm, follower.operation, call.name, follower.name, repeats)
        else:
            carried = _carried(follower, graph)
            if isinstance(carried, str):
                return carried
            repeats *= carried
        first_follower = False
        tensor = follower.outputs[0]


def _carried(call: Call, graph: Graph) -> int | str:
    """How often each channel stands in the output for once in the input; or why its factor does not pass."""
    activation = activation_of(call)
    if activation is not None:
        if activation == "other" and _kind(call) == "ReLU" and _leaky(call.operation):
            return 1
        return 1 if activation in HOMOGENEOUS else _not_homogeneous(activation)
    if _kind(call) not in CARRYING or not type(call.operation).__module__.startswith("keras."):
        return f"{call.name} ({_kind(call)}) stands between it and the next kernel"
    if getattr(call.operation, "data_format", "channels_last") not in (None, "channels_last"):
        return f"{call.name} has its channels first"
    if _kind(call) != "Flatten":
        return 1
    shape = graph.shape(call.inputs[0])[1:]
    if any(dim is None for dim in shape):
        return f"{call.name} flattens a tensor of unknown size"
    places = 1
    for dim in shape[:-1]:
        places *= int(dim or 1)
    return places


def _leaky(layer: Any) -> bool:
    return layer.max_value is None and not layer.threshold and layer.negative_slope >= 0


def _not_homogeneous(activation: str) -> str:
    why = "cuts at 6 whatever the channel's factor" if activation == "relu6" else "does not pass a factor on"
    return f"the activation {activation} {why}"


def _unfit(call: Call, uses: Counter[int]) -> str | None:
    layer = call.operation
    if uses[id(layer)] > 1:
        return f"{call.name} is called more than once"
    if getattr(layer, "groups", 1) != 1:
        return f"the channels of {call.name} are grouped"
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return f"{call.name} has its channels first"
    if getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None) is not None:
        return f"{call.name} holds adapters or is quantized already"
    return None


def _odd_norm(call: Call, graph: Graph, uses: Counter[int]) -> str | None:
    layer, rank = call.operation, len(graph.shape(call.inputs[0]))
    axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
    plain = not call.kwargs.get("training") and call.kwargs.get("mask") is None
    if axis % rank == rank - 1 and uses[id(layer)] == 1 and plain:
        return None
    return f"{call.name} is not an ordinary batch norm over its channels"


def _kind(call: Call) -> str:
    return type(call.operation).__name__
