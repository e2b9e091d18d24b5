"""The cases of the reference of quantization-aware training: models, rows, and what makes them hard. Not part of the product.

outliers_per_tensor, outliers_per_channel   the demo's CNN, in which every eighth channel of three depthwise layers is thirty times as
    large and the layer that reads it undoes that: the same function in float, but 8 bits for all channels of a tensor leave most of
    them eight levels. With one scale for all weights of a layer, and with one per output channel (which leaves the activations as they are)
one_image    the demo's CNN as it ships, its ranges calibrated on a single image
imu          the 1-D CNN on a watch's motion, calibrated as usual
resnet       a residual network on Fashion-MNIST, likewise; trained first, which takes longer than everything else here

Tried before, on all test rows: a single image, or a single window of motion, calibrates these models as well as two hundred (within 0.4
points in every format), so that few calibration rows alone make no case in which post-training quantization loses a point.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _reference_models import prepare

OUTLIER_LAYERS = ("block1", "block2", "block3")
OUTLIER_EVERY, OUTLIER_FACTOR = 8, 30.0
# Float32 adds in the same order, numbers of other sizes.
SAME_LOGITS = 1e-2
USUAL_ROWS = 200


@dataclass(frozen=True, slots=True)
class Case:
    """`model`: of `_reference_models`. `calibration_rows`: what post-training quantization measures its ranges on.
    `control`: whether plain training for as many epochs is compared. `judged`: whether TFMOT can train the model too (it has
    no Conv1D), and with one scale per channel as here."""

    name: str
    model: str
    granularity: str
    calibration_rows: int = USUAL_ROWS
    outliers: bool = False
    control: bool = True
    judged: bool = False


CASES = {
    case.name: case
    for case in (
        Case("outliers_per_tensor", "fashion", "per_tensor", outliers=True),
        # What plain training makes of these weights is seen in the case before.
        Case("outliers_per_channel", "fashion", "per_channel", outliers=True, control=False, judged=True),
        Case("one_image", "fashion", "per_channel", calibration_rows=1, judged=True),
        Case("imu", "imu", "per_channel"),
        Case("resnet", "resnet", "per_channel", judged=True),
    )
}
ORDINARY = ("outliers_per_tensor", "outliers_per_channel", "one_image", "imu")


def make(case: Case, data: Path, folder: Path, seed: int) -> tuple[Path, Path]:
    """Model and npz of a case in `folder`, made where they are not there yet."""
    model, rows = prepare(case.model, data, folder, seed)
    if not case.outliers:
        return model, rows
    hard = folder / f"{case.model}_outliers.keras"
    if not hard.exists():
        _with_outliers(model, rows, hard)
    return hard, rows


def _with_outliers(path: Path, rows: Path, out: Path) -> None:
    """Write the model whose channels differ in size. Ends the script when it is not the same function."""
    import keras

    before, model = (keras.models.load_model(path, compile=False) for _ in range(2))
    for block in OUTLIER_LAYERS:
        norm, reader = model.get_layer(f"{block}_depthwise_bn"), model.get_layer(f"{block}_pointwise")
        kernel = reader.kernel.numpy()  # [1, 1, channels in, channels out]
        factor = np.ones(kernel.shape[2], np.float32)
        factor[::OUTLIER_EVERY] = OUTLIER_FACTOR
        # Between them lies a ReLU, which lets positive factors through.
        norm.gamma.assign(norm.gamma.numpy() * factor)
        norm.beta.assign(norm.beta.numpy() * factor)
        reader.kernel.assign(kernel / factor[None, None, :, None])
    with np.load(rows, allow_pickle=False) as file:
        x = file["x_train"][:500]
    one, other = (each.predict(x, verbose=0) for each in (before, model))
    if np.abs(one - other).max() > SAME_LOGITS or not np.array_equal(one.argmax(1), other.argmax(1)):
        raise SystemExit("the model with outlier channels is another function")
    draft = out.with_name(f"draft-{out.name}")
    model.save(draft)
    draft.replace(out)


def methods(case: Case, epochs: int, rate: float) -> dict[tuple[str, str], str]:
    """(format, method) → recipe in words. ONNX Runtime computes unsigned activations in integers on x86."""
    found: dict[tuple[str, str], str] = {}
    after = f"epochs={epochs}, learning_rate={rate}"
    for fmt, precision in (("tflite", "static_wi8_ai8"), ("onnx", "static_wi8_au8"), ("openvino", "static_wi8_ai8")):
        ptq = precision + ("_per_tensor" if case.granularity == "per_tensor" else "")
        words = {"fp32": "fp32", "ptq": ptq}
        if case.control:
            words["fine_tune > ptq"] = f"fine_tune({after}) > {ptq}"
        for bits in (8, 7):
            words[f"qat({bits})"] = f"qat({bits}, granularity={case.granularity}, {after}) > {precision}"
        found |= {(fmt, method): f"{chain} @ {fmt}" for method, chain in words.items()}
    return found


def recipe_names(words: dict[tuple[str, str], str]) -> dict[tuple[str, str], tuple[str, str]]:
    """(format, name of the recipe), by which the table of a conversion knows it → (format, method)."""
    from converters.recipe_words import parse_recipes

    found: dict[tuple[str, str], tuple[str, str]] = {}
    for key, text in words.items():
        (recipe,) = parse_recipes([text])
        found[recipe.format, recipe.name] = key
    return found


def training_rows(case: Case, data: Path, seed: int) -> dict[str, Any]:
    """The very rows that the steps train on, as x_train and y_train."""
    from converters.dataset import load_dataset

    dataset = load_dataset(data, seed=seed, calibration_size=case.calibration_rows, training=True)
    if dataset.training is None:
        raise SystemExit(f"{data} holds no training rows")
    (inputs,) = dataset.training.inputs.values()
    return {"x_train": inputs, "y_train": dataset.training.labels}
