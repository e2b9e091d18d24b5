import numpy as np
import pytest

from harness.agent.channel import AgentError
from harness.agent.inputs import Feeder, aligned, dequantize, match, open_data, quantize, random_input
from harness.agent.protocol import Data, Tensor


def test_quantize_rounds_half_to_even_and_clips():
    tensor = Tensor("x", (1, 6), "int8", scale=(0.5,), zero_point=(10,))
    real = np.array([[0.25, 0.75, -0.25, 1000.0, -1000.0, 2.0]], np.float32)
    assert quantize(real, tensor).tolist() == [[10, 12, 10, 127, -128, 14]]
    assert quantize(real, tensor).dtype == np.int8


def test_dequantize_undoes_quantize_on_the_grid():
    tensor = Tensor("x", (256,), "uint8", scale=(0.1,), zero_point=(7,))
    held = np.arange(256, dtype=np.uint8)
    assert np.array_equal(quantize(dequantize(held, tensor), tensor), held)


def test_scales_per_axis_broadcast_along_that_axis():
    tensor = Tensor("x", (2, 3, 2), "int8", scale=(1.0, 2.0, 4.0), zero_point=(0, 1, 0), quantized_axis=1)
    real = np.full((2, 3, 2), 8.0, np.float32)
    assert quantize(real, tensor)[0, :, 0].tolist() == [8, 5, 2]
    assert np.array_equal(dequantize(quantize(real, tensor), tensor), real)


def test_casts_without_a_scale_round_and_clip():
    assert quantize(np.array([1.5, 2.5, 300.0]), Tensor("x", (3,), "uint8")).tolist() == [2, 2, 255]
    assert quantize(np.array([-1, 70000]), Tensor("x", (2,), "int16")).tolist() == [-1, 32767]
    assert quantize(np.array([3], np.uint8), Tensor("x", (1,), "float32")).dtype == np.float32


def test_outputs_return_to_the_base_layout():
    held = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    back = dequantize(held, Tensor("y", held.shape, "float32", axes=(0, 2, 3, 1)))
    assert back.shape == (1, 3, 4, 2)
    assert back.flags.c_contiguous
    assert back[0, 1, 2, 1] == held[0, 1, 1, 2]


@pytest.mark.parametrize(
    ("dtype", "scale", "low", "high"),
    [
        ("float32", (), -6, 6),
        ("int64", (), 0, 1),
        ("int8", (), -128, 127),
        ("bool", (), 0, 1),
        ("int8", (0.05,), -128, 127),
    ],
)
def test_random_input_has_type_shape_range_and_seed(dtype, scale, low, high):
    tensor = Tensor("x", (2, 500), dtype, scale=scale, zero_point=(0,) if scale else ())
    first, again, other = (random_input(tensor, (2, 500), seed) for seed in ((1, 0), (1, 0), (2, 0)))
    assert first.dtype == np.dtype(dtype)
    assert first.shape == (2, 500)
    assert first.min() >= low
    assert first.max() <= high
    assert len(np.unique(first)) > 1
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_strings_cannot_be_made_up():
    with pytest.raises(AgentError, match="string"):
        random_input(Tensor("x", (1,), "string"), (1,), (0, 0))


def feeder(specs=(), **arrays):
    rows = next(iter(arrays.values())).shape[0] if arrays else 0
    return Feeder(tuple(specs), arrays, rows=rows, seed=0)


def test_rows_are_transposed_and_quantized_for_the_artifact():
    images = np.random.default_rng(0).random((5, 4, 6, 3)).astype(np.float32)
    spec = Tensor("in", (None, 3, 4, 6), "uint8", "image", (0, 3, 1, 2), (1 / 255,), (0,))
    feed = feeder([spec], image=images)
    reported = [Tensor("other_name", (None, 3, 4, 6), "uint8")]
    assert feed.shapes(reported) == ((1, 3, 4, 6),)
    feed.prepare(reported)
    (array,) = feed.batch(2)
    assert array.shape == (1, 3, 4, 6)
    assert np.array_equal(array[0], np.rint(images[2].transpose(2, 0, 1).astype(np.float64) * 255).astype(np.uint8))
    assert array.ctypes.data % 64 == 0


def test_a_fixed_batch_is_filled_with_the_last_row():
    feed = feeder(x=np.arange(10, dtype=np.float32).reshape(5, 2))
    feed.prepare([Tensor("x", (4, 2), "float32")])
    assert feed.batch_size == 4
    assert feed.batch(4)[0].tolist() == [[8, 9]] * 4


def test_free_dimensions_come_from_the_data_or_are_one():
    reported = [Tensor("ids", (None, None), "int64")]
    assert feeder(ids=np.zeros((3, 17), np.int64)).shapes(reported) == ((1, 17),)
    assert feeder().shapes(reported) == ((1, 1),)


def test_inputs_are_matched_by_name_before_position():
    specs = [Tensor("b", (1,), "int8"), Tensor("a", (1,), "int8")]
    reported = [Tensor("a", (1,), "int8"), Tensor("b", (1,), "int8")]
    assert [spec.name for spec in match(specs, reported, "input")] == ["a", "b"]
    assert [spec.name for spec in match(specs, [Tensor("p", (1,), "int8"), Tensor("q", (1,), "int8")], "input")] == [
        "b",
        "a",
    ]


@pytest.mark.parametrize(
    ("specs", "arrays", "reported", "words"),
    [
        ([], {"x": np.zeros((2, 5), np.float32)}, [Tensor("x", (1, 4), "float32")], r"\(1, 4\).*\(1, 5\)"),
        ([], {"x": np.zeros((2, 4)), "z": np.zeros((2, 4))}, [Tensor("y", (1, 4), "float32")], "no data for input 'y'"),
        ([Tensor("x", (1, 4), "int8")], {}, [Tensor("x", (1, 4), "float32")], "float32 in the artifact, int8"),
        ([Tensor("x", (1, 4), "int8")], {}, [Tensor("x", (1,), "int8"), Tensor("y", (1,), "int8")], "do not agree"),
        (
            [Tensor("x", (1, 4), "float32", axes=(0, 2, 1))],
            {"x": np.zeros((2, 4))},
            [Tensor("x", (1, 4), "float32")],
            "rank 2",
        ),
    ],
)
def test_data_that_does_not_fit_is_refused_with_the_reason(specs, arrays, reported, words):
    with pytest.raises(AgentError, match=words):
        feeder(specs, **arrays).prepare(reported)


def test_data_files_are_opened_safely(tmp_path):
    good, short, pickled, cut = (tmp_path / name for name in ("good.npy", "short.npy", "pickled.npy", "cut.npy"))
    np.save(good, np.zeros((3, 2), np.float32))
    np.save(short, np.zeros((1, 2), np.float32))
    np.save(pickled, np.array([{}], dtype=object))
    cut.write_bytes(good.read_bytes()[:-4])
    assert open_data(Data({"x": str(good)}, rows=3))["x"].shape == (3, 2)
    for path in (short, pickled, cut, tmp_path / "missing.npy"):
        with pytest.raises(AgentError) as error:
            open_data(Data({"x": str(path)}, rows=3))
        assert error.value.kind == "data"


def test_aligned_copies():
    values = np.arange(6, dtype=np.int16).reshape(2, 3)[:, ::2]
    copy = aligned(values)
    assert np.array_equal(copy, values)
    assert copy.ctypes.data % 64 == 0
    assert not np.shares_memory(copy, values)
