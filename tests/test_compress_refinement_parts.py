"""Parts of post-training refinement without a network: ranges of values, layers as matrices, learnt rounding."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from converters.compress.patches import (
    Window,
    as_kernel,
    as_matrices,
    by_group,
    chosen_positions,
    patches,
    window_of,
)
from converters.compress.range_search import (
    METHODS,
    Histogram,
    chosen_range,
    nudged,
    relative_error,
    squared_error,
)
from converters.compress.rounding import Layer, Samples, Schedule, error, learnt, nearest


def histogram(values: np.ndarray) -> Histogram:
    found = Histogram(values.min(), values.max())
    for part in np.array_split(values, 3):
        found.add(part)
    return found


def test_an_outlier_widens_the_extremes_and_nothing_else():
    rng = np.random.default_rng(0)
    values = np.append(rng.normal(0, 1, 200_000), 12.0).astype(np.float32)
    seen = histogram(values)
    assert seen.counts.sum() == len(values)
    ranges = {method: chosen_range(seen, method) for method in METHODS}
    assert ranges["minmax"] == (float(values.min()), 12.0)
    for method in ("mse", "percentile", "entropy"):
        assert ranges[method][1] < 9
        assert ranges[method][0] < -1.5
    errors = {method: squared_error(seen, *ranges[method]) for method in METHODS}
    assert min(errors, key=lambda method: errors[method]) == "mse"
    grid = itertools.product(-np.linspace(0.5, 5, 10), np.linspace(0.5, 12, 40))
    assert errors["mse"] <= 1.02 * min(squared_error(seen, low, high) for low, high in grid)
    # The histogram's error is that of the values themselves.
    step, zero = nudged(*ranges["mse"])
    exact = (np.clip(np.round(values / step) + zero, 0, 255) - zero) * step
    assert errors["mse"] == pytest.approx(np.mean((exact - values) ** 2), rel=0.02)


@pytest.mark.parametrize("method", METHODS)
def test_every_range_holds_zero_and_stays_within_the_extremes(method):
    rng = np.random.default_rng(1)
    for values in (
        rng.uniform(2, 3, 500),
        rng.uniform(-3, -2, 500),
        np.maximum(rng.normal(0, 1, 500), 0),
        np.zeros(10),
        np.full(10, 4.0),
        np.array([1e-9, 2e-9]),
    ):
        seen = histogram(values.astype(np.float32))
        low, high = chosen_range(seen, method)
        assert min(0, values.min()) - 1e-6 <= low <= 0 <= high <= max(0, values.max()) + 1e-6
        assert np.isfinite(relative_error(seen, low, high))
        step, zero = nudged(low, high)
        assert step > 0
        assert 0 <= zero <= 255


def test_percentile_cuts_what_it_says():
    seen = histogram(np.linspace(-1, 1, 100_001).astype(np.float32))
    low, high = chosen_range(seen, "percentile", 90.0)
    assert (low, high) == pytest.approx((-0.9, 0.9), abs=1e-3)
    low, high = chosen_range(histogram(np.linspace(0, 1, 100_001).astype(np.float32)), "percentile", 90.0)
    assert (low, high) == pytest.approx((0.0, 0.9), abs=1e-3)


def convolved(x: np.ndarray, kernel: np.ndarray, stride: int, dilation: int) -> np.ndarray:
    """A valid convolution by its definition; [n, h, w, c] by [k, k, c, o], or depthwise by [k, k, c, 1]."""
    k = kernel.shape[0]
    reach = (k - 1) * dilation
    places = range(0, x.shape[1] - reach, stride)
    out = np.zeros((len(x), len(places), len(places), kernel.shape[-1] if kernel.shape[-1] > 1 else x.shape[-1]))
    for i, j in itertools.product(range(len(places)), repeat=2):
        for a, b in itertools.product(range(k), repeat=2):
            taken = x[:, places[i] + a * dilation, places[j] + b * dilation]
            out[:, i, j] += taken @ kernel[a, b] if kernel.shape[-1] > 1 else taken * kernel[a, b, :, 0]
    return out


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
def test_layers_are_products_of_matrices(depthwise, stride, dilation):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(3, 7, 7, 4)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 4, 1 if depthwise else 5)).astype(np.float32)
    layer = SimpleNamespace(
        kernel_size=(3, 3), strides=(stride, stride), dilation_rate=(dilation, dilation), padding="valid"
    )
    if depthwise:
        layer.depth_multiplier = 1
    window = window_of(layer)
    want = convolved(x, kernel, stride, dilation)
    where = chosen_positions(want.shape, 20, np.random.default_rng(0))
    assert len(where[0]) == min(20, int(np.prod(want.shape[:3])))
    matrices = as_matrices(kernel, window)
    got = patches(x, window, where) @ matrices
    assert np.allclose(got, by_group(want[where], window, len(matrices)), atol=1e-4)
    assert np.array_equal(as_kernel(matrices, window, kernel.shape), kernel)
    everywhere = chosen_positions(want.shape, 10**6, np.random.default_rng(0))
    assert len(everywhere[0]) == np.prod(want.shape[:3])


def test_padding_is_tensorflows():
    window = Window((3,), (2,), (1,), "same", depthwise=False)
    x = np.arange(1, 7, dtype=np.float32).reshape(1, 6, 1)
    found = patches(x, window, chosen_positions((1, 3, 1), 9, np.random.default_rng(0)))
    assert found[0].tolist() == [[1, 2, 3], [3, 4, 5], [5, 6, 0]]
    causal = Window((3,), (1,), (2,), "causal", depthwise=False)
    found = patches(x, causal, (np.array([0, 0]), np.array([0, 5])))
    assert found[0].tolist() == [[0, 0, 1], [2, 4, 6]]


def problem(bits: int = 4, groups: int = 1, activation: str = "linear", values: int = 8) -> tuple[Layer, Samples]:
    """A layer whose inputs are correlated, so that errors of rounding could cancel."""
    rng = np.random.default_rng(3)
    mixed = rng.normal(size=(groups, 400, 3)) @ rng.normal(size=(groups, 3, values))
    inputs = (np.abs(mixed) + 0.1 * rng.normal(size=mixed.shape)).astype(np.float32)
    kernel = rng.normal(size=(groups, values, 2)).astype(np.float32)
    kernel[:, 0] = 0
    top = 2 ** (bits - 1) - 1
    bias = np.zeros((groups, 1, 2), np.float32)
    layer = Layer(kernel, np.abs(kernel).max(1, keepdims=True) / top, top, bias, activation)
    targets = inputs @ kernel
    limits = {"relu": (0, np.inf), "relu6": (0, 6), "linear": (-np.inf, np.inf)}[activation]
    return layer, Samples(inputs, np.clip(targets, *limits).astype(np.float32))


@pytest.mark.parametrize(
    ("groups", "activation", "share"), [(1, "linear", 0.7), (1, "relu", 0.7), (3, "relu", 0.8), (1, "relu6", 0.99)]
)
def test_learnt_rounding_loses_less_than_nearest(groups, activation, share):
    layer, samples = problem(groups=groups, activation=activation)
    found = learnt(layer, samples, Schedule(iterations=400, batch=128), 0)
    assert error(layer, found, samples) < share * error(layer, nearest(layer), samples)
    steps = layer.kernel / layer.scale
    assert np.abs(found - steps).max() < 1 + 1e-4  # up or down, nothing else
    assert np.abs(found).max() <= layer.top
    assert (found[layer.kernel == 0] == 0).all()
    assert np.array_equal(found, learnt(layer, samples, Schedule(iterations=400, batch=128), 0))


def test_learnt_rounding_is_near_the_best_of_all():
    layer, samples = problem(values=8)
    one = Layer(layer.kernel[..., :1], layer.scale[..., :1], layer.top, layer.bias[..., :1], "linear")
    few = Samples(samples.inputs, samples.targets[..., :1])
    below = np.floor(one.kernel / one.scale)[:, 1:]
    errors = []
    for ups in itertools.product((0, 1), repeat=below.size):
        integers = np.zeros_like(one.kernel)
        integers[:, 1:] = np.clip(below + np.array(ups).reshape(below.shape), -one.top, one.top)
        errors.append(error(one, integers, few))
    found = error(one, learnt(one, few, Schedule(iterations=600, batch=128), 1), few)
    assert found <= sorted(errors)[len(errors) // 20]  # among the best twentieth
    assert found <= error(one, nearest(one), few)


def test_what_lies_on_its_grid_is_left_there():
    layer, samples = problem()
    exact = Layer((nearest(layer) * layer.scale).astype(np.float32), layer.scale, layer.top, layer.bias, "linear")
    same = Samples(samples.inputs, samples.inputs @ exact.kernel)
    assert np.array_equal(learnt(exact, same, Schedule(iterations=50), 0), nearest(layer))
