"""Real conversions by the real toolchains: every kind of base, every format, and what must be refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from converters.dataset import dataset_from_arrays, load_dataset
from converters.errors import ConversionInputError
from converters.pipeline import ConversionRequest, convert
from converters.recipe_words import parse_recipes
from converters.variant import load_variant

pytestmark = [pytest.mark.convert, pytest.mark.slow]

DEMO = Path(__file__).parent.parent / "harness" / "demo"
FP32_LIMIT = 1e-4
# Untrained nets on random rows: int8 is coarse there, but a wrong layout, scale or order would miss by the whole spread.
INT8_LIMIT = 0.35


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    script = Path(__file__).parent / "converters_zoo.py"
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, str(script), str(folder)], check=True, capture_output=True, env=environment)
    return folder


def run(base: Path, words: str, out: Path, **options):
    return convert(ConversionRequest(base, parse_recipes(words), out, **options))


def ok(report) -> dict[str, object]:
    """Manifests by `format:recipe`; a row that is not ok fails the test with its own words."""
    assert [(row.variant, row.message) for row in report.rows if row.status != "ok"] == []
    return {f"{row.format}:{row.recipe}": load_variant(row.folder).manifest for row in report.rows}


def test_the_demo_in_every_format_and_precision_and_once_more_from_the_cache(tmp_path):
    dataset = load_dataset(DEMO / "data.npz")
    first = run(DEMO / "model.keras", "all", tmp_path / "one", dataset=dataset, cache=tmp_path / "cache")
    manifests = ok(first)
    assert len(manifests) == 24
    for name in ("tflite:fp32", "onnx:fp32", "openvino:fp32"):
        assert manifests[name].agreement.relative_error <= FP32_LIMIT
        assert manifests[name].agreement.argmax_agreement == 1.0
    for manifest in manifests.values():
        assert manifest.parameters == manifests["tflite:fp32"].parameters
        assert manifest.agreement.argmax_agreement >= 0.8
        assert manifest.signature.inputs[0].source == "image"
        assert manifest.size_gzip_bytes > 0
        assert manifest.tool_versions
    integers = manifests["tflite:static_wi8_ai8_int_io"].signature
    assert (integers.inputs[0].dtype, integers.outputs[0].dtype) == ("int8", "int8")
    assert integers.inputs[0].quantization.scale[0] > 0
    assert manifests["tflite:static_wi8_ai16"].weight_dtypes["int8"] > 40_000
    assert manifests["tflite:weight_only_wi4_afp32"].weight_dtypes["int4"] > 40_000
    assert manifests["onnx:fp32"].signature.inputs[0].shape[0] is None
    with np.load(first.reference) as data:
        top = data["out:logits"].argmax(axis=1)
    assert (top == dataset.labels).mean() >= 0.85
    second = run(DEMO / "model.keras", "all", tmp_path / "two", dataset=dataset, cache=tmp_path / "cache")
    assert all(row.cached for row in second.rows)
    assert second.seconds < 2
    assert {name: m.files for name, m in ok(second).items()} == {name: m.files for name, m in manifests.items()}


@pytest.mark.parametrize("base", ["image.keras", "image_h5.h5", "image_saved"])
def test_every_kind_of_base(zoo, tmp_path, base):
    manifests = ok(run(zoo / base, "fp32, tflite:static_wi8_ai8", tmp_path))
    assert len(manifests) == 4
    for name, manifest in manifests.items():
        assert manifest.parameters == 4154
        assert manifest.agreement.relative_error <= (FP32_LIMIT if name.endswith(":fp32") else INT8_LIMIT)
        assert "random inputs" in manifest.notes[0]


def test_two_inputs_and_two_outputs(zoo, tmp_path):
    generator = np.random.default_rng(0)
    rows = {f"x_test:{name}": generator.random((12, *shape), np.float32) for name, shape in SHAPES.items()}
    rows |= {f"x_train:{name}": generator.random((12, *shape), np.float32) for name, shape in SHAPES.items()}
    dataset = dataset_from_arrays(rows | {"y_test": np.zeros(12, int), "y_train": np.zeros(12, int)})
    report = run(zoo / "two.keras", "fp32, static_wi8_ai8", tmp_path, dataset=dataset)
    for name, manifest in ok(report).items():
        assert {spec.source for spec in manifest.signature.inputs} == {"image", "facts"}
        assert set(manifest.agreement.per_output) == {"score", "box"}
        assert manifest.agreement.relative_error <= (FP32_LIMIT if name.endswith(":fp32") else INT8_LIMIT)
    with np.load(report.reference) as data:
        assert data["out:box"].shape == (12, 4)


SHAPES = {"image": (12, 12, 3), "facts": (7,)}


def test_recurrent_layers(zoo, tmp_path):
    manifests = ok(run(zoo / "recurrent.keras", "fp32, tflite:static_wi8_ai8, tflite:weight_only_wi8_afp32", tmp_path))
    for name, manifest in manifests.items():
        assert manifest.agreement.relative_error <= (FP32_LIMIT if name.endswith(":fp32") else INT8_LIMIT)
    assert any("unrolled over 12 steps" in note for note in manifests["tflite:static_wi8_ai8"].notes)


def test_a_transformer_encoder(zoo, tmp_path):
    report = run(zoo / "encoder.keras", "fp32, tflite:static_wi8_ai8, tflite:static_wi8_ai16", tmp_path)
    assert [row.status for row in report.rows] == ["ok"] * 4 + ["refused"]
    assert "tokens takes integers" in report.rows[-1].message
    assert all(load_variant(row.folder).manifest.agreement.relative_error <= FP32_LIMIT for row in report.rows[:3])


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ("lambda.keras", "refused: it holds a Lambda layer"),
        ("custom.keras", "needs the custom class Custom"),
        ("hostile_saved", "refused: its graph holds WriteFile"),
        ("free.keras", "give data"),
    ],
)
def test_bases_that_cannot_or_must_not_be_loaded(zoo, tmp_path, base, words):
    with pytest.raises(ConversionInputError, match=words) as caught:
        run(zoo / base, "tflite:fp32", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (zoo / "written.txt").exists()
    assert not list((tmp_path / "out").iterdir())


def test_data_settle_free_dimensions(zoo, tmp_path):
    x = np.random.default_rng(0).random((20, 8, 9, 3), np.float32)
    dataset = dataset_from_arrays({"x": x, "y": np.arange(20) % 3})
    manifests = ok(run(zoo / "free.keras", "tflite:fp32, onnx:fp32", tmp_path, dataset=dataset))
    assert manifests["tflite:fp32"].signature.inputs[0].shape == (1, 8, 9, 3)


@pytest.mark.parametrize(
    ("shape", "label", "words"),
    [((16, 15, 3), 1, "the model wants 16"), ((16, 16, 3), 10, "labels go up to 10")],
)
def test_data_that_do_not_fit_the_model(zoo, tmp_path, shape, label, words):
    x = np.random.default_rng(0).random((20, *shape), np.float32)
    dataset = dataset_from_arrays({"x": x, "y": np.arange(20) % 2 * label})
    with pytest.raises(ConversionInputError, match=words):
        run(zoo / "image.keras", "tflite:fp32", tmp_path, dataset=dataset)


def test_damage_inside_a_whole_archive_is_one_line(zoo, tmp_path):
    import zipfile

    broken = tmp_path / "broken.keras"
    with zipfile.ZipFile(zoo / "image.keras") as whole, zipfile.ZipFile(broken, "w") as archive:
        for member in whole.namelist():
            data = whole.read(member)
            archive.writestr(member, data[: len(data) // 2] if member == "config.json" else data)
    with pytest.raises(ConversionInputError, match="Keras cannot load it") as caught:
        run(broken, "tflite:fp32", tmp_path / "out")
    assert "\n" not in str(caught.value)
