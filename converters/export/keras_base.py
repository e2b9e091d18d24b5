"""Loads a base model once, whatever kind it is, as one traceable function over flat lists of tensors.

Runs in the TensorFlow worker only; `converters.export.prepare` turns the result into a `Source`. Nothing in a base model
may run code: Keras loads in safe mode, a SavedModel's graph is searched for file and Python operations first.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from converters.base_model import SAVED_MODEL
from converters.errors import BaseModelError, ConversionInputError
from converters.export.base import Array
from converters.export.trained import table
from converters.variant import TensorSpec

IMAGE_RANK = 4
REFERENCE_CHUNK_ROWS = 64
# What ids of tokens may be when no Embedding layer says how many there are.
SMALLEST_VOCABULARY = 2
# A Rescaling layer below this (1/255, 1/127.5) expects raw pixels.
PIXEL_SCALE = 0.02
_HOSTILE_OPS = {"ReadFile", "WriteFile", "MatchingFiles", "PyFunc", "PyFuncStateless", "EagerPyFunc"}
_SERVING = "serving_default"


@dataclass(frozen=True, slots=True)
class LoadedBase:
    """A base model in memory.

    `call` takes and gives flat lists of tensors in the order of `inputs` and `outputs` and can be traced by TensorFlow.
    `inputs`, `outputs` have batch None unless `fixed_batch`. `vocabulary`: how many token ids an integer input may take.
    `pixels`: whether the model itself scales images down from 0 … 255. `recurrent`: layers that `unrolled` can unroll.
    `model`: the keras.Model, None for a SavedModel.
    `trained`: what quantization-aware training left (`converters.export.trained.table`), or None.
    """

    call: Callable[[Sequence[Any]], list[Any]]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: int
    variables: list[Any]
    fixed_batch: int | None = None
    vocabulary: int = SMALLEST_VOCABULARY
    pixels: bool = False
    recurrent: list[Any] = field(default_factory=list)
    trained: dict[str, Any] | None = None
    keep_alive: Any = None
    model: Any = None
    notes: tuple[str, ...] = field(default=())


def load_base(path: Path, kind: str, dims: dict[str, tuple[int, ...]] | None = None) -> LoadedBase:
    """Load a .keras, .h5 or SavedModel base. Raises BaseModelError in one line.

    `dims`: row shapes by input name from the user's data (one entry under any name for a sole input), which settle what
    the model leaves free, such as the size of its images.
    """
    return _load_saved_model(path, dims or {}) if kind == SAVED_MODEL else _load_keras(path, dims or {})


def _one_line(error: BaseException) -> str:
    """The first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


def _keras_error(path: Path, error: Exception) -> BaseModelError:
    text = str(error)
    if "lambda" in text.lower() and ("safe_mode" in text or "unsafe" in text.lower()):
        return BaseModelError(
            f"{path}: refused: it holds a Lambda layer, which is arbitrary Python code",
            remedy="write the layer as operations or as a layer of Keras and save the model again",
        )
    custom = re.search(r"(?:Could not locate class|Unknown layer:?|Unknown object) '?([\w>.]+)", text)
    if custom:
        return BaseModelError(
            f"{path}: it needs the custom class {custom[1]}, which is not part of Keras",
            remedy="export it as a SavedModel where the class is known, and convert that",
        )
    return BaseModelError(
        f"{path}: Keras cannot load it: {_one_line(error)}", remedy="save the model again with Keras 3"
    )


def load_keras(path: Path) -> Any:
    """The keras.Model of a .keras or .h5 file, with fixed inputs and outputs. Raises BaseModelError in one line."""
    import keras

    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except (ValueError, TypeError, KeyError, OSError, AttributeError, ImportError, NotImplementedError) as error:
        raise _keras_error(path, error) from error
    if not getattr(model, "inputs", None) or not getattr(model, "outputs", None):
        raise BaseModelError(
            f"{path}: the model has no fixed inputs and outputs (a subclassed or never built model)",
            remedy="call it once on data and export it as a SavedModel",
        )
    return model


def keras_tensors(
    path: Path, model: Any, dims: dict[str, tuple[int, ...]]
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of a keras.Model under the names that all formats take; `dims` as of `load_base`."""
    names = _unique([tensor.name for tensor in model.inputs])
    output_names = _unique(_output_names(model), taken=names)
    inputs = _specs(path, names, [(t.shape, t.dtype) for t in model.inputs], dims)
    return inputs, _specs(path, output_names, [(t.shape, t.dtype) for t in model.outputs], None)


def _load_keras(path: Path, dims: dict[str, tuple[int, ...]]) -> LoadedBase:
    import keras

    # Keras numbers the names that it makes up, and they end in the artifacts: what this process loaded before must not count.
    keras.backend.clear_session()
    model = load_keras(path)
    # A Sequential, or a model that takes dictionaries, seen as plain lists.
    flat = keras.Model(list(model.inputs), list(model.outputs))
    inputs, outputs = keras_tensors(path, model, dims)
    scales = [layer.scale for layer in _layers(model) if type(layer).__name__ == "Rescaling"]
    vocabularies = [layer.input_dim for layer in _layers(model) if type(layer).__name__ == "Embedding"]
    trained = table(model)

    def call(tensors: Sequence[Any]) -> list[Any]:
        result = flat(list(tensors), training=False)
        return list(result) if isinstance(result, list | tuple) else [result]

    return LoadedBase(
        call,
        inputs,
        outputs,
        parameters=int(model.count_params()) - (trained or {}).get("own_values", 0),
        variables=[variable.value for variable in model.variables],
        fixed_batch=_batch(path, {tensor.shape[0] for tensor in model.inputs}),
        vocabulary=min(vocabularies, default=SMALLEST_VOCABULARY),
        pixels=any(0 < np.max(scale) < PIXEL_SCALE for scale in scales),
        recurrent=[layer for layer in _layers(model) if hasattr(layer, "unroll")],
        trained=trained,
        keep_alive=flat,
        model=model,
    )


def _output_names(model: Any) -> list[str]:
    """The keys of a model that gives a dictionary (Keras flattens it by sorted key), else the names of its last layers."""
    struct = getattr(model, "output", None)
    if isinstance(struct, dict) and len(struct) == len(model.outputs):
        return sorted(struct)
    return list(getattr(model, "output_names", None) or ["output"] * len(model.outputs))


def _layers(model: Any) -> Iterable[Any]:
    """All layers, those inside nested models and wrappers too."""
    wrapped = [getattr(model, name, None) for name in ("forward_layer", "backward_layer", "layer")]
    for layer in (*getattr(model, "layers", ()), *(layer for layer in wrapped if layer is not None)):
        yield layer
        yield from _layers(layer)


@contextlib.contextmanager
def unrolled(base: LoadedBase) -> Iterator[None]:
    """While this lasts, tracing the base unrolls its recurrent layers."""
    before = [layer.unroll for layer in base.recurrent]
    try:
        for layer in base.recurrent:
            layer.unroll = True
        yield
    finally:
        for layer, unroll in zip(base.recurrent, before, strict=True):
            layer.unroll = unroll


def _load_saved_model(path: Path, dims: dict[str, tuple[int, ...]]) -> LoadedBase:
    import tensorflow as tf

    _refuse_hostile(path)
    try:
        loaded = tf.saved_model.load(str(path))
        signatures = loaded.signatures
        function = signatures[_SERVING] if _SERVING in signatures else next(iter(signatures.values()), None)
    except (ValueError, TypeError, KeyError, OSError, AttributeError, tf.errors.OpError) as error:
        raise BaseModelError(f"{path}: TensorFlow cannot load it: {_one_line(error)}") from error
    if function is None:
        raise BaseModelError(f"{path}: the SavedModel has no signature", remedy="export it with model.export(folder)")
    keys = list(function.structured_input_signature[1])
    result_keys = list(function.structured_outputs)
    names = _unique(keys)
    given = [function.structured_input_signature[1][key] for key in keys]
    results = [function.structured_outputs[key] for key in result_keys]
    inputs = _specs(path, names, [(tuple(s.shape), s.dtype.name) for s in given], dims)
    outputs = _specs(path, _unique(result_keys, taken=names), [(tuple(s.shape), s.dtype.name) for s in results], None)

    def call(tensors: Sequence[Any]) -> list[Any]:
        result = function(**dict(zip(keys, tensors, strict=True)))
        return [result[key] for key in result_keys]

    return LoadedBase(
        call,
        inputs,
        outputs,
        parameters=sum(int(np.prod(variable.shape)) for variable in function.variables),
        variables=list(function.variables),
        fixed_batch=_batch(path, {spec.shape[0] for spec in given if spec.shape.rank}),
        keep_alive=loaded,
    )


def _refuse_hostile(path: Path) -> None:
    """A SavedModel's graph may read and write files or call Python: look before loading, which already runs parts."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorflow.core.protobuf import saved_model_pb2

    proto = saved_model_pb2.SavedModel()
    try:
        proto.ParseFromString((path / "saved_model.pb").read_bytes())
    except DecodeError as error:
        raise BaseModelError(f"{path}: saved_model.pb is truncated or damaged") from error
    for graph in (meta.graph_def for meta in proto.meta_graphs):
        nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
        hostile = sorted({node.op for node in nodes} & _HOSTILE_OPS)
        if hostile:
            raise BaseModelError(f"{path}: refused: its graph holds {hostile[0]}, which reaches outside the model")


def _batch(path: Path, batches: set[int | None]) -> int | None:
    """None for a free batch, 1 where the model fixes it so; devices run one row at a time, so no other will do."""
    fixed = {batch for batch in batches if batch is not None}
    if fixed - {1}:
        raise BaseModelError(
            f"{path}: the model fixes its batch to {max(fixed)} rows",
            remedy="save it with a free batch (None) or with 1",
        )
    return 1 if fixed else None


def _unique(names: Sequence[str], taken: Sequence[str] = ()) -> list[str]:
    """Names that TensorFlow, TFLite and ONNX all take, each once."""
    result: list[str] = []
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9_]", "_", name)
        plain = plain if re.match(r"[A-Za-z]", plain) else f"t_{plain}"
        candidate, number = plain, 1
        while candidate in result or candidate in taken:
            number += 1
            candidate = f"{plain}_{number}"
        result.append(candidate)
    return result


def _specs(
    path: Path,
    names: Sequence[str],
    tensors: Sequence[tuple[Sequence[int | None], str]],
    dims: dict[str, tuple[int, ...]] | None,
) -> tuple[TensorSpec, ...]:
    """Tensors as TensorSpecs with a free batch; for inputs (`dims` given) every other dimension must be settled."""
    specs = []
    for name, (shape, dtype) in zip(names, tensors, strict=True):
        if len(shape) == 0:
            raise BaseModelError(f"{path}: tensor {name} has no batch dimension")
        rest = tuple(shape[1:])
        if dims is not None:
            known = dims.get(name) or (next(iter(dims.values())) if len(names) == len(dims) == 1 else None)
            rest = _settled(path, name, rest, known)
        layout = "NHWC" if dims is not None and len(shape) == IMAGE_RANK else None
        specs.append(
            TensorSpec(name, (None, *rest), str(np.dtype(dtype)) if dtype != "bfloat16" else dtype, name, layout)
        )
    return tuple(specs)


def _settled(path: Path, name: str, rest: tuple[int | None, ...], known: tuple[int, ...] | None) -> tuple[int, ...]:
    if known is not None and len(known) == len(rest):
        rest = tuple(have if want is None else want for have, want in zip(known, rest, strict=True))
    settled = tuple(dim for dim in rest if dim is not None)
    if len(settled) < len(rest):
        raise ConversionInputError(
            f"{path}: input {name} leaves the dimensions {rest} free", remedy="give data, whose rows then settle them"
        )
    return settled


def frozen(base: LoadedBase, batch: int | None) -> tuple[Any, set[str]]:
    """The base as a `tf.function` with constants for weights, outputs by name; and the types of its operations.

    Keras 3 graphs also capture eager constants (of Normalization, for one), which converters take for inputs unless they
    are frozen. Control flow stays in its functional form: recurrent layers need it.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    signature = [tf.TensorSpec((batch, *spec.shape[1:]), spec.dtype, name=spec.name) for spec in base.inputs]
    with _in_one_graph() if base.model is not None else contextlib.nullcontext():
        traced = tf.function(lambda *tensors: base.call(tensors)).get_concrete_function(*signature)
    constant = convert_variables_to_constants_v2(traced, lower_control_flow=False)
    names = [spec.name for spec in base.outputs]

    def serve(*tensors: Any) -> dict[str, Any]:
        result = constant(*tensors)
        return dict(zip(names, result if isinstance(result, list | tuple) else [result], strict=True))

    operations = {operation.type for operation in constant.graph.get_operations()}
    return tf.function(serve, input_signature=signature), operations


@contextlib.contextmanager
def _in_one_graph() -> Iterator[None]:
    """While this lasts, functions that are called in a trace become a part of it. Keras calls grouped convolutions as functions for XLA, because
    TensorFlow's own kernels on CPUs have none; converters know the convolution, and not the call."""
    import tensorflow as tf

    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(run_eagerly=True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def rows_through(base: LoadedBase, inputs: dict[str, Array]) -> dict[str, Array]:
    """The base model's outputs on rows, by output name, float32 or integer; in chunks, so that many rows fit."""
    import tensorflow as tf

    batch = base.fixed_batch
    chunk = batch or REFERENCE_CHUNK_ROWS
    signature = [tf.TensorSpec((batch, *spec.shape[1:]), spec.dtype, name=spec.name) for spec in base.inputs]
    function = tf.function(lambda *tensors: base.call(tensors), input_signature=signature, reduce_retracing=True)
    rows = len(next(iter(inputs.values())))
    parts: list[list[Array]] = []
    for start in range(0, rows, chunk):
        feed = [_padded(inputs[spec.name][start : start + chunk], batch) for spec in base.inputs]
        outputs = function(*(tf.constant(x, dtype=spec.dtype) for x, spec in zip(feed, base.inputs, strict=True)))
        kept = min(chunk, rows - start)
        parts.append([_plain(np.asarray(y)[:kept]) for y in outputs])
    return {spec.name: np.concatenate([part[k] for part in parts]) for k, spec in enumerate(base.outputs)}


def _padded(x: Array, batch: int | None) -> Array:
    """A last, shorter chunk filled up with its last row where the model's batch is fixed."""
    missing = 0 if batch is None else batch - len(x)
    return x if missing <= 0 else np.concatenate([x, np.repeat(x[-1:], missing, axis=0)])


def _plain(y: Array) -> Array:
    return y if y.dtype.kind in "iub" else y.astype(np.float32)
