"""The steps `lower_resolution`, `grayscale` and `haar`: the network sees less of its input, and so has less to compute.

The transform becomes the first layers of the network (`converters.compress.transform_layers`), so the variant takes the whole
input as before: one set of data feeds all variants, and what the transform costs is in every latency that is measured. The rest of the
network is made again for the smaller input (`converters.compress.transform_rebuild`) and trained on.

Lower resolution as a way to a cheaper network: Howard et al., arXiv:1704.04861, section 3.4 (there of inputs that come smaller).
Haar's wavelet: Haar, Mathematische Annalen 69, 1910, and Mallat, IEEE PAMI 11(7), 1989; wavelet bands as channels of a network:
Fujieda et al., arXiv:1805.08620. Luma: Rec. ITU-R BT.601.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from converters.compress import objective, transform_layers
from converters.compress.channel_rules import channel_axis
from converters.compress.context import Context, StepResult
from converters.compress.graph import Graph, read_graph
from converters.compress.norms import measured_again
from converters.compress.transform_layers import PREFIX, Transform, is_transform
from converters.compress.transform_rebuild import Rebuilt, rebuild_behind
from converters.errors import RecipeError, RefusedError

RELAX = "relax"
SEED_RANGE = 2**32
# Layers that only bring values into the range that the network wants.
_SCALING = frozenset({"Rescaling", "Normalization", "BatchNormalization"})
_MAP_RANKS = (3, 4)
_SLIDING = ("Conv", "Pooling", "Flatten")
Namer = Callable[[str], str]
Make = Callable[[tuple[int | None, ...], Namer], Transform]


def lower_resolution(model: Any, parameters: Mapping[str, Any], context: Context) -> StepResult:
    """Average or interpolate the input down to `scale` of its sides. Raises RefusedError where the network cannot follow."""

    def make(shape: tuple[int | None, ...], name: Namer) -> Transform:
        return transform_layers.lower_resolution(shape, parameters["scale"], parameters["method"], name)

    return _applied("lower_resolution", model, parameters, context, make)


def grayscale(model: Any, parameters: Mapping[str, Any], context: Context) -> StepResult:
    """Make one channel of the input's; the first kernel is summed so that a gray picture gives the same as before."""

    def make(shape: tuple[int | None, ...], name: Namer) -> Transform:
        return transform_layers.grayscale(shape, parameters["weights"], name)

    return _applied("grayscale", model, parameters, context, make, new_channels=True)


def haar(model: Any, parameters: Mapping[str, Any], context: Context) -> StepResult:
    """Split the input into the bands of Haar's wavelet, at half its sides, and give the network the low one or all."""
    bands = parameters["bands"]

    def make(shape: tuple[int | None, ...], name: Namer) -> Transform:
        return transform_layers.haar(shape, bands, name)

    return _applied("haar", model, parameters, context, make, new_channels=bands == transform_layers.ALL_BANDS)


def _applied(
    step: str,
    model: Any,
    parameters: Mapping[str, Any],
    context: Context,
    make: Make,
    *,
    new_channels: bool = False,
) -> StepResult:
    """The step itself, alike for all transforms. `new_channels`: whether their number changes."""
    import keras

    epochs = parameters["epochs"]
    if epochs:
        context.needs_data(step)
    graph = read_graph(model)
    source = _source(graph, parameters["input"], step)
    at = _entry(graph, source, new_channels=new_channels)
    _check_layout(graph)
    transform = make(graph.shape(at)[1:], _namer(graph))
    # What begins anew is drawn from the step's own seed.
    keras.utils.set_random_seed(context.seed % SEED_RANGE)
    made = rebuild_behind(graph, at, transform, relax=parameters.get("stride") == RELAX)
    figures = _figures(step, graph, at, transform, made) | _macs(model, made.model)
    figures["norms_measured"] = 0 if epochs else measured_again(made.model, context)
    data = context.data
    if data is not None and data.validation.count and data.validation.labels is not None:
        figures["score_untrained"] = objective.score(made.model, data.validation, data.task)
    context.say(f"{step}: {_size(graph.shape(at)[1:])} became {_size(made.shape)}")
    if epochs:
        history = context.fit(made.model, context, epochs=epochs, learning_rate=parameters["learning_rate"], label=step)
        figures |= {
            "epochs": history.epochs,
            "stopped_early": history.stopped_early,
            "validation_score": max(history.scores, default=None),
            "seconds": history.seconds,
        }
    return StepResult(made.model, figures, context.preserve)


def _source(graph: Graph, wanted: str, step: str) -> int:
    """The input that is transformed: the one of that name, or the only one that is a picture or a signal."""
    names = {str(graph.tensors[index].name): index for index in graph.inputs}
    if wanted and wanted not in names:
        raise RecipeError(f"{step}: the model has no input {wanted!r}", remedy="it has: " + ", ".join(names))
    fit = [index for name, index in names.items() if wanted in ("", name) and len(graph.shape(index)) in _MAP_RANKS]
    if not fit:
        shapes = ", ".join(f"{name} {graph.shape(index)[1:]}" for name, index in names.items())
        raise RefusedError(
            f"{step} is for pictures (rows, columns, channels) and signals (time, channels), and the inputs are: {shapes}"
        )
    if len(fit) > 1:
        raise RefusedError(
            f"the model has {len(fit)} inputs that {step} could transform", remedy=f"name one: {step}(input=…)"
        )
    return fit[0]


def _entry(graph: Graph, source: int, *, new_channels: bool) -> int:
    """The tensor that the transform reads: behind earlier transforms, and behind the scaling of values where that is needed.

    Scaling is kept in front where it belongs to channels whose number changes, or makes real numbers of whole ones; else it is cheaper
    behind. Raises RefusedError for an input of whole numbers that nothing scales.
    """
    consumers = graph.consumers()
    path, last = [source], 0
    while True:
        readers = consumers.get(path[-1], [])
        call = readers[0] if len(readers) == 1 and path[-1] not in graph.outputs else None
        if call is None or len(call.inputs) != 1 or len(call.outputs) != 1:
            break
        if not is_transform(call.operation) and type(call.operation).__name__ not in _SCALING:
            break
        path.append(call.outputs[0])
        last = len(path) - 1 if is_transform(call.operation) else last
    real = [tensor for tensor in path[last:] if "float" in str(graph.tensors[tensor].dtype)]
    if not real:
        raise RefusedError(f"the input {graph.tensors[source].name} holds whole numbers, which cannot be averaged")
    return real[-1] if new_channels else real[0]


def _check_layout(graph: Graph) -> None:
    """Raises RefusedError when channels come first: the transforms take them last."""
    for call in graph.calls:
        rank = len(graph.shape(call.inputs[0])) if call.inputs else 0
        slides = any(word in type(call.operation).__name__ for word in _SLIDING)
        if slides and rank in _MAP_RANKS and channel_axis(call.operation, rank) != rank - 1:
            raise RefusedError(f"the channels come first in {call.name}, and input transforms take them last")


def _namer(graph: Graph) -> Namer:
    """Names of layers that the model does not have yet, so that a transform may follow another of its kind."""
    taken = {call.name for call in graph.calls}

    def name(word: str) -> str:
        found, number = f"{PREFIX}{word}", 1
        while found in taken:
            number += 1
            found = f"{PREFIX}{word}_{number}"
        return found

    return name


def _size(shape: tuple[int | None, ...]) -> str:
    return " × ".join("?" if side is None else str(side) for side in shape)


def _figures(step: str, graph: Graph, at: int, transform: Transform, made: Rebuilt) -> dict[str, Any]:
    """What the transform did, in numbers and words."""
    figures: dict[str, Any] = {
        "transform": step,
        "reads": str(graph.tensors[at].name),
        "map": [list(graph.shape(at)[1:]), list(made.shape)],
        "layers": [layer.name for layer in transform.layers],
        "weights_changed": dict(made.changed),
    }
    if any(transform.left_out):
        figures["left_out"] = list(transform.left_out)
    if made.relaxed:
        figures["stride_relaxed"] = list(made.relaxed)
    if made.windows:
        figures["windows"] = dict(made.windows)
    return figures


def _macs(before: Any, after: Any) -> dict[str, Any]:
    """Multiply-accumulates of a row before and after, and those of the transforms in it; averages are sums, and count as none."""
    from converters.ledger_macs import count_macs

    try:
        old, new = count_macs(before), count_macs(after)
    except ValueError as error:
        return {"macs": None, "macs_missing": str(error)}
    own = sum(macs for path, (macs, _) in new.by_layer.items() if path.rpartition("/")[2].startswith(PREFIX))
    return {"macs": [old.total, new.total], "transform_macs": own}
