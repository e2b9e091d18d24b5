"""The control for conversion speed: the official tools called one after the other by a plain script, nothing of ours.

    python scripts/plain_conversion.py model.keras data.npz OUT [--only onnx:static_wi8_ai8]

Without `--only` all variants of the default matrix are made in this one process; with it, one, as someone would who runs
one process per variant. No isolation, no numeric check, no manifest, no cache.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

STARTED = time.perf_counter()


class Base:
    """The base model and what the tools need of it, each made once and only when asked for."""

    def __init__(self, model: Path, data: Path, out: Path) -> None:
        self.path, self.out = model, out
        with np.load(data, allow_pickle=False) as arrays:
            rows = arrays["calibration"] if "calibration" in arrays.files else arrays["x_train"][:200]
            self.labels = (
                arrays["calibration_labels"] if "calibration_labels" in arrays.files else arrays["y_train"][:200]
            )
        self.rows = (rows.astype(np.float32) / 255)[..., None]

    @cached_property
    def model(self) -> Any:
        import keras

        return keras.models.load_model(self.path, compile=False)

    @cached_property
    def saved_model(self) -> str:
        import keras

        folder = str(self.out / "saved_model")
        shape = (1, *self.model.inputs[0].shape[1:])
        signature = [keras.InputSpec(shape=shape, dtype="float32", name=self.model.inputs[0].name)]
        self.model.export(folder, format="tf_saved_model", input_signature=signature, verbose=False)
        return folder

    @cached_property
    def tflite(self) -> Path:
        path = self.out / "tflite_fp32.tflite"
        tflite(self, path)
        return path

    @cached_property
    def onnx(self) -> Path:
        import tensorflow as tf
        import tf2onnx
        from onnxruntime.quantization.shape_inference import quant_pre_process

        name = self.model.inputs[0].name
        spec = tf.TensorSpec((None, *self.model.inputs[0].shape[1:]), tf.float32, name=name)
        raw, path = self.out / "raw.onnx", self.out / "onnx_fp32.onnx"
        function = tf.function(lambda x: self.model(x, training=False), input_signature=[spec])
        tf2onnx.convert.from_function(function, [spec], opset=18, inputs_as_nchw=[name], output_path=str(raw))
        quant_pre_process(str(raw), str(path), skip_symbolic_shape=True)
        return path

    @cached_property
    def openvino(self) -> Any:
        import openvino as ov

        return ov.convert_model(self.saved_model)


def tflite(
    base: Base, path: Path, *, dynamic: bool = False, half: bool = False, ops: str = "", integer: bool = False
) -> None:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(base.saved_model)
    if dynamic or half or ops:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if half:
        converter.target_spec.supported_types = [tf.float16]
    if ops:
        converter.representative_dataset = lambda: ([row[None]] for row in base.rows)
        converter.target_spec.supported_ops = [getattr(tf.lite.OpsSet, ops)]
    if integer:
        converter.inference_input_type = converter.inference_output_type = tf.int8
    path.write_bytes(converter.convert())


def aeq(base: Base, path: Path, recipe: str) -> None:
    from ai_edge_quantizer import quantizer
    from ai_edge_quantizer import recipe as recipes

    tool = quantizer.Quantizer(str(base.tflite))
    tool.load_quantization_recipe(getattr(recipes, recipe)())
    tool.quantize().export_model(str(path), overwrite=True)


def ort_static(
    base: Base, path: Path, *, per_channel: bool = True, method: str = "MinMax", unsigned: bool = False
) -> None:
    import onnxruntime as ort
    from onnxruntime import quantization as q

    class Reader(q.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            name = ort.InferenceSession(str(base.onnx)).get_inputs()[0].name
            self.rows: Iterator[dict[str, Any]] = iter({name: row[None].transpose(0, 3, 1, 2)} for row in base.rows)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.rows, None)

    q.quantize_static(
        str(base.onnx),
        str(path),
        Reader(),
        per_channel=per_channel,
        calibrate_method=getattr(q.CalibrationMethod, method),
        activation_type=q.QuantType.QUInt8 if unsigned else q.QuantType.QInt8,
        weight_type=q.QuantType.QInt8,
        reduce_range=unsigned,
    )


def ort_half(base: Base, path: Path) -> None:
    import onnx
    from onnxconverter_common import float16

    onnx.save(float16.convert_float_to_float16(onnx.load(base.onnx), keep_io_types=True), path)


def ort_dynamic(base: Base, path: Path) -> None:
    from onnxruntime import quantization as q

    q.quantize_dynamic(str(base.onnx), str(path), op_types_to_quantize=["MatMul", "Gemm"], per_channel=True)


def ort_int4(base: Base, path: Path) -> None:
    import onnx
    from onnxruntime.quantization import matmul_nbits_quantizer as nbits

    tool = nbits.MatMulNBitsQuantizer(onnx.load(base.onnx), block_size=32, is_symmetric=True)
    tool.process()
    tool.model.save_model_to_file(str(path), False)


def ov_save(base: Base, path: Path, *, half: bool) -> None:
    import openvino as ov

    ov.save_model(base.openvino, path, compress_to_fp16=half)


def ov_static(base: Base, path: Path, *, control: bool = False) -> None:
    import nncf
    import openvino as ov

    data = nncf.Dataset(list(range(len(base.rows))), lambda index: base.rows[index][None])
    if not control:
        model = nncf.quantize(base.openvino, data, subset_size=len(base.rows))
    else:

        def validate(model: Any, indices: Any) -> float:
            compiled = ov.compile_model(model, "CPU") if isinstance(model, ov.Model) else model
            right = [int(np.argmax(compiled(base.rows[i][None])[0]) == base.labels[i]) for i in indices]
            return float(np.mean(right))

        model = nncf.quantize_with_accuracy_control(base.openvino, data, data, validate, max_drop=0.01)
    ov.save_model(model, path, compress_to_fp16=False)


def ov_weights(base: Base, path: Path, mode: str) -> None:
    import nncf
    import openvino as ov

    model = ov.convert_model(base.saved_model)  # compress_weights works in place
    options = {} if mode == "INT8_SYM" else {"group_size": -1, "all_layers": True}
    ov.save_model(nncf.compress_weights(model, mode=getattr(nncf.CompressWeightsMode, mode), **options), path)


Maker = Callable[[Base, Path], None]
VARIANTS: dict[str, Maker] = {
    "tflite:fp32": lambda b, p: tflite(b, p),
    "tflite:fp16": lambda b, p: tflite(b, p, half=True),
    "tflite:dynamic_wi8_afp32": lambda b, p: tflite(b, p, dynamic=True),
    "tflite:static_wi8_ai8": lambda b, p: tflite(b, p, ops="TFLITE_BUILTINS_INT8"),
    "tflite:static_wi8_ai8_int_io": lambda b, p: tflite(b, p, ops="TFLITE_BUILTINS_INT8", integer=True),
    "tflite:static_wi8_ai16": lambda b, p: tflite(
        b, p, ops="EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8"
    ),
    "tflite:weight_only_wi8_afp32": lambda b, p: aeq(b, p, "weight_only_wi8_afp32"),
    "tflite:weight_only_wi4_afp32": lambda b, p: aeq(b, p, "weight_only_wi4_afp32"),
    "onnx:fp32": lambda b, _p: b.onnx and None,
    "onnx:fp16": ort_half,
    "onnx:dynamic_wi8_afp32": ort_dynamic,
    "onnx:static_wi8_ai8": lambda b, p: ort_static(b, p),
    "onnx:static_wi8_ai8_per_tensor": lambda b, p: ort_static(b, p, per_channel=False),
    "onnx:static_wi8_ai8_entropy": lambda b, p: ort_static(b, p, method="Entropy"),
    "onnx:static_wi8_ai8_percentile": lambda b, p: ort_static(b, p, method="Percentile"),
    "onnx:static_wi8_au8": lambda b, p: ort_static(b, p, unsigned=True),
    "onnx:static_wi8_au8_per_tensor": lambda b, p: ort_static(b, p, unsigned=True, per_channel=False),
    "onnx:weight_only_wi4_afp32": ort_int4,
    "openvino:fp32": lambda b, p: ov_save(b, p, half=False),
    "openvino:fp16": lambda b, p: ov_save(b, p, half=True),
    "openvino:static_wi8_ai8": lambda b, p: ov_static(b, p),
    "openvino:static_wi8_ai8_accuracy_control": lambda b, p: ov_static(b, p, control=True),
    "openvino:weight_only_wi8_afp32": lambda b, p: ov_weights(b, p, "INT8_SYM"),
    "openvino:weight_only_wi4_afp32": lambda b, p: ov_weights(b, p, "INT4_SYM"),
}
SUFFIX = {"tflite": ".tflite", "onnx": ".onnx", "openvino": ".xml"}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--only", choices=VARIANTS)
    args = parser.parse_args()
    out = args.out or Path(tempfile.mkdtemp())
    out.mkdir(parents=True, exist_ok=True)
    base = Base(args.model, args.data, out)
    for key, make in VARIANTS.items():
        if args.only in (None, key):
            begun = time.perf_counter()
            fmt, name = key.split(":")
            try:
                make(base, out / f"{fmt}_{name}{SUFFIX[fmt]}")
                said = "ok"
            except Exception as error:  # noqa: BLE001 - the control goes on as the harness would
                said = f"failed: {type(error).__name__}: {str(error)[:200]}"
            print(f"{key} {time.perf_counter() - begun:.1f} s {said}", flush=True)
    print(f"total {time.perf_counter() - STARTED:.1f} s")


if __name__ == "__main__":
    main()
