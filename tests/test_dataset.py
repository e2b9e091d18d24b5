"""converters/dataset.py: the right rows, the right values, and one clear line for everything that is wrong."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.dataset import (
    Dataset,
    DatasetError,
    Preprocessing,
    dataset_from_arrays,
    load_dataset,
    preprocessing_from_dict,
)
from converters.dataset_rows import balanced_order
from converters.variant import TensorSpec

RNG = np.random.default_rng(7)


def image_arrays(train: int = 60, test: int = 30, classes: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "x_train": rng.integers(0, 256, (train, 4, 4), np.uint8),
        "y_train": np.arange(train) % classes,
        "x_test": rng.integers(0, 256, (test, 4, 4), np.uint8),
        "y_test": np.arange(test) % classes,
    }


def saved(folder: Path, **arrays: np.ndarray) -> Path:
    path = folder / "data.npz"
    np.savez_compressed(path, **arrays)
    return path


def rows_of(x: np.ndarray) -> set[bytes]:
    return {row.tobytes() for row in x}


# --- rows -----------------------------------------------------------------------------------------------------------


def test_four_arrays_give_test_rows_and_balanced_calibration(tmp_path: Path) -> None:
    arrays = image_arrays()
    data = load_dataset(saved(tmp_path, **arrays), calibration_size=12)
    assert data.rows == 30
    assert data.task == "classification"
    assert np.array_equal(data.inputs["x"], arrays["x_test"])
    assert data.labels is not None
    assert data.labels.dtype == np.int64
    assert data.calibration_labels is not None
    assert np.bincount(data.calibration_labels).tolist() == [4, 4, 4]
    assert rows_of(data.calibration["x"]) <= rows_of(arrays["x_train"])


def test_two_arrays_are_divided_without_a_row_in_both() -> None:
    x = RNG.random((50, 3), dtype=np.float32)
    data = dataset_from_arrays({"x": x, "y": np.arange(50) % 5}, calibration_size=200)
    assert data.calibration_rows == 10  # a fifth at most
    assert data.rows == 40
    assert rows_of(data.inputs["x"]) | rows_of(data.calibration["x"]) == rows_of(x)
    assert not rows_of(data.inputs["x"]) & rows_of(data.calibration["x"])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 6), min_size=2, max_size=40),
    st.lists(st.integers(0, 6), min_size=1, max_size=40),
    st.integers(1, 20),
    st.integers(0, 3),
    st.sampled_from(["divide", "train", "explicit"]),
    st.one_of(st.none(), st.integers(1, 20)),
)
def test_calibration_never_touches_a_test_row(
    first: list[int], second: list[int], size: int, seed: int, source: str, limit: int | None
) -> None:
    """Few different values, so that the same row occurs often, within and across the splits."""
    x, other = np.array(first, np.int16)[:, None], np.array(second, np.int16)[:, None]
    arrays = {
        "divide": {"x": x, "y": x[:, 0]},
        "train": {"x_test": x, "y_test": x[:, 0], "x_train": other, "y_train": other[:, 0]},
        "explicit": {"x_test": x, "y_test": x[:, 0], "calibration": other},
    }[source]
    try:
        data = dataset_from_arrays(arrays, calibration_size=size, seed=seed, limit=limit)
    except DatasetError as error:
        assert source == "explicit"
        assert rows_of(other) <= rows_of(x)
        assert "also a test row" in str(error)  # noqa: PT017
        return
    whole = dataset_from_arrays(arrays, calibration_size=size, seed=seed)  # `limit` must not free a test row
    assert not rows_of(whole.inputs["x"]) & rows_of(data.calibration["x"])
    assert np.array_equal(whole.calibration["x"], data.calibration["x"])
    assert rows_of(data.inputs["x"]) <= rows_of(whole.inputs["x"])
    if source == "train":
        distinct = sum(row.tobytes() not in rows_of(x) for row in other)
        assert data.calibration_rows == min(size, distinct)


def test_rows_passed_over_are_noted() -> None:
    x = np.arange(10, dtype=np.float32)[:, None]
    data = dataset_from_arrays({"x_test": x, "calibration": np.concatenate([x[:3], x[:4] + 100])})
    assert data.calibration_rows == 4
    assert data.notes == ("3 rows of calibration equal to test rows were not used to calibrate",)


def test_limit_is_balanced_and_the_same_every_time() -> None:
    arrays = image_arrays(test=300)
    data = dataset_from_arrays(arrays, limit=31)
    assert data.labels is not None
    assert sorted(np.bincount(data.labels).tolist()) == [10, 10, 11]
    again = dataset_from_arrays(arrays, limit=31)
    assert data.sha256 == again.sha256
    assert np.array_equal(data.inputs["x"], again.inputs["x"])
    assert dataset_from_arrays(arrays, limit=31, seed=1).sha256 != data.sha256
    assert dataset_from_arrays(arrays, limit=9999).rows == 300


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 9))
def test_every_beginning_of_the_order_is_as_even_as_can_be(labels: list[int], seed: int) -> None:
    y = np.array(labels)
    order = balanced_order(y, len(y), np.random.default_rng(seed))
    assert sorted(order.tolist()) == list(range(len(y)))
    for end in range(1, len(y) + 1):
        have = np.bincount(y[order[:end]], minlength=5)
        left = np.bincount(y[order[end:]], minlength=5)
        assert all(have[c] >= have.max() - 1 or left[c] == 0 for c in range(5))


def test_explicit_calibration_is_used_whole() -> None:
    arrays = image_arrays()
    arrays["calibration"] = RNG.integers(0, 256, (9, 4, 4), np.uint8)
    arrays["calibration_labels"] = np.zeros(9, np.int32)
    data = dataset_from_arrays(arrays, calibration_size=5)
    assert rows_of(data.calibration["x"]) == rows_of(arrays["calibration"])


def test_only_test_rows_leave_no_calibration() -> None:
    arrays = image_arrays()
    data = dataset_from_arrays({k: arrays[k] for k in ("x_test", "y_test")})
    assert data.calibration_rows == 0
    with pytest.raises(DatasetError, match="no calibration rows apart from the test rows"):
        data.require_calibration()


def test_fingerprints_follow_rows_labels_and_preprocessing() -> None:
    arrays = image_arrays()
    base = dataset_from_arrays(arrays)
    scaled = dataset_from_arrays(arrays, preprocessing=Preprocessing(scale=0.5))
    relabelled = dataset_from_arrays({**arrays, "y_test": (arrays["y_test"] + 1) % 3})
    assert len({base.sha256, scaled.sha256, relabelled.sha256}) == 3
    assert base.calibration_sha256 == relabelled.calibration_sha256 != scaled.calibration_sha256
    changed = arrays["x_test"].copy()
    changed[3, 0, 0] ^= 1
    assert dataset_from_arrays({**arrays, "x_test": changed}).sha256 != base.sha256


# --- values ---------------------------------------------------------------------------------------------------------


def test_order_of_scale_mean_and_std() -> None:
    x = np.full((2, 2, 2, 3), 255, np.uint8)
    out = Preprocessing(scale=1 / 255, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0)).apply(x)
    assert out.dtype == np.float32
    assert np.allclose(out[0, 0, 0], [1.0, 3.0, 0.5])
    assert x.max() == 255  # the caller's array is left alone


def test_integers_stay_integers_and_floats_become_float32() -> None:
    assert Preprocessing().apply(np.arange(4, dtype=np.int64)[:, None]).dtype == np.int64
    assert Preprocessing().apply(np.zeros((1, 2), np.float64)).dtype == np.float32


def test_layouts() -> None:
    stored = RNG.integers(0, 255, (2, 3, 4, 5), np.uint8)
    assert np.array_equal(Preprocessing(layout="NCHW").apply(stored), stored.transpose(0, 2, 3, 1))
    assert np.array_equal(Preprocessing(layout="NCHW", model_layout="NCHW").apply(stored), stored)
    back = Preprocessing(layout="NHWC", model_layout="NCHW").apply(stored.transpose(0, 2, 3, 1))
    assert np.array_equal(back, stored)
    per_channel = Preprocessing(layout="NCHW", model_layout="NCHW", mean=(1.0, 2.0, 3.0)).apply(stored)
    assert np.allclose(per_channel, stored.astype(np.float32) - np.array([1, 2, 3])[:, None, None])


def test_channels() -> None:
    grey = RNG.integers(0, 255, (2, 3, 3), np.uint8)
    colour = Preprocessing(add_channel=True, channels=3).apply(grey)
    assert colour.shape == (2, 3, 3, 3)
    assert all(np.array_equal(colour[..., c], grey) for c in range(3))
    assert np.array_equal(Preprocessing(channels=1).apply(colour)[..., 0], grey)  # the weights add up to one
    with pytest.raises(DatasetError, match="three axes"):
        Preprocessing(channels=3).apply(grey)


def test_resize_is_pillows_and_keeps_the_type() -> None:
    from PIL import Image

    x = RNG.integers(0, 256, (2, 9, 7, 3), np.uint8)
    out = Preprocessing(resize=(4, 5)).apply(x)
    assert out.dtype == np.uint8
    whole = np.asarray(Image.fromarray(x[1]).resize((5, 4), Image.Resampling.BILINEAR))
    assert np.array_equal(out[1], whole)
    assert np.allclose(
        Preprocessing(resize=(4, 5)).apply(x.astype(np.float32)), out, atol=1.01
    )  # uint8 is rounded after each axis


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"std": [0.0]}, "must not be 0"),
        ({"scale": float("nan")}, "finite"),
        ({"scale": "1/255"}, "finite numbers"),
        ({"layout": "HWC"}, "a layout is one of"),
        ({"resize": [0, 3]}, "resize must be"),
        ({"resize": 32}, "resize must be"),
        ({"channels": 2}, "channels must be 1 or 3"),
        ({"maen": [0.5]}, "did you mean 'mean'"),
    ],
)
def test_preprocessing_that_makes_no_sense(declared: dict, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        preprocessing_from_dict(declared)


def test_preprocessing_travels_through_json() -> None:
    steps = Preprocessing(scale=1 / 255, mean=(0.5,), std=(0.25,), resize=(8, 8), channels=3, layout="NHWC")
    assert preprocessing_from_dict(steps.to_dict()) == steps


def test_an_npz_may_declare_its_preprocessing(tmp_path: Path) -> None:
    path = saved(tmp_path, **image_arrays(), preprocessing=np.array('{"scale": 0.5}'))
    assert load_dataset(path).preprocessing["scale"] == 0.5
    assert load_dataset(path, preprocessing=Preprocessing()).preprocessing["scale"] == 1.0


# --- inputs of a model ----------------------------------------------------------------------------------------------


def test_a_sole_input_takes_the_models_name_type_and_channel_axis() -> None:
    data = dataset_from_arrays(image_arrays(), preprocessing=Preprocessing(scale=1 / 255))
    matched = data.matched_to([TensorSpec("image", (None, 4, 4, 1), "float32")])
    assert matched.inputs["image"].shape == (30, 4, 4, 1)
    assert matched.calibration["image"].shape == (60, 4, 4, 1)
    assert matched.sha256 == data.sha256
    bytes_as_floats = dataset_from_arrays(image_arrays()).matched_to([TensorSpec("i", (None, 4, 4), "float32")])
    assert bytes_as_floats.inputs["i"].dtype == np.float32


def test_token_ids_keep_their_values_and_take_the_models_type() -> None:
    data = dataset_from_arrays({"x": np.array([[1, 2], [3, 40000]] * 5), "y": np.arange(10) % 2})
    ids = data.matched_to([TensorSpec("ids", (None, 2), "int32")]).inputs["ids"]
    assert ids.dtype == np.int32
    with pytest.raises(DatasetError, match="int16, the data go from"):
        data.matched_to([TensorSpec("ids", (None, 2), "int16")])
    floats = dataset_from_arrays({"x": np.ones((4, 2), np.float32)})
    with pytest.raises(DatasetError, match="wants int32, the data rows are float32"):
        floats.matched_to([TensorSpec("ids", (None, 2), "int32")])


def two_inputs() -> dict[str, np.ndarray]:
    return {
        "x_test:ids": np.arange(12).reshape(6, 2),
        "x_test:mask": np.ones((6, 2), np.float32),
        "y_test": np.arange(6) % 2,
        "calibration:ids": np.arange(100, 108).reshape(4, 2),
        "calibration:mask": np.ones((4, 2), np.float32),
    }


def test_two_inputs_are_matched_by_name(tmp_path: Path) -> None:
    data = load_dataset(
        saved(tmp_path, **two_inputs()), preprocessing={"mask": Preprocessing(scale=0.5)}, limit=4
    )  # fmt: skip
    specs = [TensorSpec("ids", (None, 2), "int32"), TensorSpec("mask", (None, 2), "float32")]
    matched = data.matched_to(specs)
    assert matched.inputs["ids"].shape == (4, 2)
    assert matched.inputs["mask"].max() == 0.5
    assert data.preprocessing["inputs"]["ids"]["scale"] == 1.0
    with pytest.raises(DatasetError, match=r"the model wants a, b — store one array per input: x:a, x:b"):
        data.check_against([TensorSpec("a", (None, 2), "int32"), TensorSpec("b", (None, 2), "int32")])
    with pytest.raises(DatasetError, match="preprocessing names"):
        dataset_from_arrays(two_inputs(), preprocessing={"maks": Preprocessing()})


@pytest.mark.parametrize(
    ("shape", "wanted", "message"),
    [
        ((28, 28), (28, 28, 1), "28×28, the model wants 28×28×1 — set add_channel: true"),
        ((3, 8, 8), (8, 8, 3), "set layout: NCHW"),
        ((8, 8, 1), (8, 8, 3), "set channels: 3"),
        ((8, 8, 3), (16, 12, 3), r"set resize: \[16, 12\]"),
        ((8,), (9,), "rows are 8, the model wants 9"),
    ],
)
def test_wrong_shapes_say_what_to_declare(shape: tuple, wanted: tuple, message: str) -> None:
    data = dataset_from_arrays(
        {"x": RNG.random((4, *shape), dtype=np.float32)}, preprocessing=Preprocessing(add_channel=False)
    )  # fmt: skip
    with pytest.raises(DatasetError, match=message):
        data.matched_to([TensorSpec("image", (None, *wanted), "float32")])


# --- labels ---------------------------------------------------------------------------------------------------------


def labelled(y: np.ndarray, **more: object) -> Dataset:
    return dataset_from_arrays({"x": RNG.random((len(y), 2)), "y": y}, **more)  # type: ignore[arg-type]


def test_kinds_of_labels() -> None:
    assert labelled(np.arange(10) % 3).task == "classification"
    assert labelled((np.arange(10) % 3)[:, None]).task == "classification"
    one_hot = labelled(np.eye(5))
    assert one_hot.task == "classification"
    assert one_hot.labels is not None
    assert set(one_hot.labels.tolist()) < set(range(5))
    assert labelled(RNG.random(10)).task == "regression"
    assert labelled(np.arange(10), task="regression").labels.dtype == np.float32  # type: ignore[union-attr]
    assert dataset_from_arrays({"x": RNG.random((9, 2))}).task == "none"


@pytest.mark.parametrize(
    ("y", "more", "message"),
    [
        (np.array([0, -1, 1, 0]), {}, "negative class numbers"),
        (np.array([0, 0.5, 1, 0]), {"task": "classification"}, "not whole numbers"),
        (np.array([0, np.nan, 1, 0]), {}, "NaN"),
        (np.array(["a", "b", "c", "d"]), {}, "must be numbers"),
        (np.array([[0, 2], [1, 1], [2, 2], [1, 0]]), {}, "one class number per row"),
        (np.arange(4), {"task": "clasification"}, "task must be"),
        (np.full(4, 2**63, np.uint64), {}, "which is no class number"),
    ],
)
def test_wrong_labels(y: np.ndarray, more: dict, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        labelled(y, **more)


def test_labels_beyond_the_models_classes() -> None:
    data = labelled(np.arange(1, 11))
    data.validate_labels(11)
    with pytest.raises(DatasetError, match="model has 10 classes") as caught:
        data.validate_labels(10)
    assert "from 0" in str(caught.value.remedy)
    with pytest.raises(DatasetError, match="not whole numbers"):
        labelled(RNG.random(8)).validate_labels(10)
    with pytest.raises(DatasetError, match="there are 2 class_names"):
        dataset_from_arrays({"x": RNG.random((3, 2)), "y": np.arange(3), "class_names": np.array(["a", "b"])})


# --- wrong and hostile input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_test": np.zeros(29, int)}, "x_test has 30 rows, y_test has 29"),
        ({"y_test": np.array(3)}, "x_test has 30 rows, y_test has 1"),
        ({"x": np.zeros((3, 4, 4))}, "has x and also x_train"),
        ({"x_tset": np.zeros(3)}, "unknown key 'x_tset' — did you mean 'x_test'"),
        ({"x_test": np.zeros((0, 4, 4)), "y_test": np.zeros(0, int)}, "x_test is empty"),
        ({"x_test": np.zeros((30, 0))}, "x_test is empty"),
        ({"x_train": np.zeros((60, 5, 5), np.uint8)}, "store both the same way"),
        ({"x_train": np.zeros((60, 4, 4), np.float32)}, "store both the same way"),
        ({"x_test": np.array(["a"] * 30)}, "must be numbers"),
        ({"x_test": np.zeros((30, 4, 4), complex)}, "must be numbers"),
        ({"class_names": np.arange(3)}, "class_names must be"),
        ({"preprocessing": np.array("{")}, "not JSON"),
        ({"preprocessing": np.array("[]")}, "one JSON object"),
        ({"calibration_labels": np.zeros(3, int)}, "calibration_labels but no calibration"),
        ({"x_test:a": np.zeros((30, 2))}, "name every input, or none"),
    ],
)
def test_arrays_that_disagree(change: dict, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        dataset_from_arrays({**image_arrays(), **change})


def test_provenance_indices_are_ignored(tmp_path: Path) -> None:
    path = saved(tmp_path, **image_arrays(), test_index=np.arange(30))
    assert load_dataset(path).rows == 30


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_named(bad: float) -> None:
    x = RNG.random((20, 3))
    x[7, 1] = bad
    with pytest.raises(DatasetError, match="x_test: 1 values of input x are NaN or infinite, the first in row 7"):
        dataset_from_arrays({"x_test": x})
    with pytest.raises(DatasetError, match="calibration: 1 values"):
        dataset_from_arrays({"x_test": RNG.random((4, 3)), "calibration": x})
    with pytest.raises(DatasetError, match="infinite"):
        dataset_from_arrays({"x_test": np.full((4, 3), 1e300)})


def test_missing_truncated_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="No such file"):
        load_dataset(tmp_path / "none.npz")
    path = saved(tmp_path, **image_arrays())
    whole = path.read_bytes()
    for end in (0, 10, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:end])
        with pytest.raises(DatasetError):
            load_dataset(path)
    for position in range(0, len(whole), 37):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        path.write_bytes(bytes(damaged))
        try:  # either it is refused, or what was hit does not matter
            data = load_dataset(path)
        except DatasetError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert np.array_equal(data.inputs["x"], image_arrays()["x_test"])
    path.write_bytes(b"\x80\x04N.")
    with pytest.raises(DatasetError, match="not an npz"):
        load_dataset(path)


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "sprung",))

    path = tmp_path / "trap.npz"
    np.savez(path, x=np.array([Trap(), 1], dtype=object))
    with pytest.raises(DatasetError, match="Python objects"):
        load_dataset(path)
    assert not (tmp_path / "sprung").exists()


def member(shape: tuple[int, ...], body: bytes) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return stream.getvalue() + body


def test_declared_sizes_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", member((2**10, 2**10, 16), bytes(2**26)))
    assert path.stat().st_size < 2**18
    with pytest.raises(DatasetError, match="declares 64 MiB of arrays, the limit is 16 MiB"):
        load_dataset(path, max_bytes=2**24)
    for shape in ((2**40, 2**40), (3, -1)):  # a header that lies
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", member(shape, bytes(64)))
        with pytest.raises(DatasetError, match="declares"):
            load_dataset(path)


def test_the_error_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(DatasetError("a", remedy="b")))  # noqa: S301
    assert (str(error), error.remedy) == ("a — b", "b")
    assert isinstance(error, ValueError)


# --- folders of images ----------------------------------------------------------------------------------------------


def image_folder(root: Path, counts: dict[str, int], *, size: tuple[int, int] = (6, 5), mode: str = "RGB") -> Path:
    from PIL import Image

    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            shape = (*size, 3) if mode == "RGB" else size
            pixels = np.random.default_rng([index, len(name), *name.encode()]).integers(0, 256, shape, np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index:03}.png")
    return root


def test_folder_by_class(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "d", {"cat": 10, "ant": 15})
    data = load_dataset(root, preprocessing=Preprocessing(scale=1 / 255, resize=(4, 4)), calibration_size=4)
    assert data.class_names == ("ant", "cat")
    assert data.inputs["x"].shape == (21, 4, 4, 3)
    assert data.inputs["x"].max() <= 1.0
    assert data.labels is not None
    assert np.bincount(data.labels).tolist() == [13, 8]
    assert (
        data.sha256
        == load_dataset(root, preprocessing=Preprocessing(scale=1 / 255, resize=(4, 4)), calibration_size=4).sha256
    )


def test_folder_with_train_and_test(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "d", {"train/10": 5, "train/2": 5, "test/2": 3}, mode="L")
    (root / "test" / "2" / "notes.txt").write_text("hello")
    (root / "test" / "2" / ".DS_Store").write_text("")
    twin = (root / "test" / "2" / "000.png").read_bytes()
    (root / "train" / "2" / "twin.png").write_bytes(twin)
    data = load_dataset(root)
    assert data.class_names == ("2", "10")
    assert data.rows == 3
    assert data.inputs["x"].shape == (3, 6, 5, 1)
    assert not rows_of(data.inputs["x"]) & rows_of(data.calibration["x"])
    assert data.notes[0] == "test/2/notes.txt left out: not an image file"


def test_folder_input_equals_the_same_images_as_arrays(tmp_path: Path) -> None:
    from PIL import Image

    root = image_folder(tmp_path / "d", {"train/a": 2, "test/a": 3})
    stored = np.stack([np.asarray(Image.open(p)) for p in sorted((root / "test" / "a").iterdir())])
    steps = Preprocessing(resize=(3, 4), channels=1, scale=0.1, mean=(3.0,))
    from_folder = load_dataset(root, preprocessing=steps).inputs["x"]
    assert np.allclose(from_folder, steps.apply(stored), atol=0.11)  # Pillow rounds luma its own way


@pytest.mark.parametrize("kind", ["garbage", "truncated", "other size", "nested", "empty", "outside", "bomb", "deep"])
def test_wrong_folders_name_the_file(tmp_path: Path, kind: str) -> None:
    from PIL import Image

    root = image_folder(tmp_path / "d", {"a": 2, "b": 2})
    target = root / "b" / "zz.png"
    if kind == "garbage":
        target.write_bytes(b"no image at all")
    elif kind == "truncated":
        target.write_bytes((root / "a" / "000.png").read_bytes()[:60])
    elif kind == "other size":
        Image.new("RGB", (9, 9)).save(target)
    elif kind == "nested":
        target.mkdir()
    elif kind == "empty":
        for path in [*root.glob("*/*.png")]:
            path.unlink()
    elif kind == "outside":
        Image.new("RGB", (5, 6)).save(tmp_path / "secret.png")
        target.symlink_to(tmp_path / "secret.png")
    elif kind == "bomb":
        Image.new("1", (8000, 8000)).save(target)
    else:
        Image.new("I;16", (5, 6)).save(target)
    with pytest.raises(DatasetError) as caught:
        load_dataset(root)
    assert "\n" not in str(caught.value)
    assert ("no images" if kind == "empty" else "zz.png") in str(caught.value)


def test_damaged_images_never_leak_another_error(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "d", {"a": 3})
    target = root / "a" / "001.png"
    whole = target.read_bytes()
    refused = 0
    for position in range(len(whole)):
        target.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            load_dataset(root)
        except DatasetError as error:
            refused += 1
            assert "\n" not in str(error)  # noqa: PT017
    assert refused > len(whole) // 2


def test_folder_without_classes_or_test(tmp_path: Path) -> None:
    (tmp_path / "e").mkdir()
    with pytest.raises(DatasetError, match="no folders"):
        load_dataset(tmp_path / "e")
    with pytest.raises(DatasetError, match="no test folder"):
        load_dataset(image_folder(tmp_path / "f", {"train/a": 1}))
    with pytest.raises(DatasetError, match="are NHWC"):
        load_dataset(tmp_path / "f", preprocessing=Preprocessing(layout="NCHW"))
