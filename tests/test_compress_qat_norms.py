"""Batch norms that go on learning while kernels are rounded: folded exactly, left alone where they must be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compress_tasks import context, network, task

from converters.compress.graph import read_graph
from converters.compress.objective import Predictor

pytestmark = [
    pytest.mark.compression,
    # Keras 3.15 saves variables in a way that NumPy 2 warns of.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def built(model: Any, **more: Any) -> Any:
    from converters.compress.quantize_build import Options, build
    from converters.compress.quantize_plan import make_plan

    graph = read_graph(model)
    wanted = {"weight_bits": 8, "granularity": "per_channel", "weight_mode": "largest", "range_mode": "moving"}
    return build(model, graph, make_plan(graph), Options(**{**wanted, "live_norms": True, **more}))


def with_norms(*, frozen: bool = False) -> Any:
    """A network whose norms say something: negative and large gains, shifts."""
    model, generator = network(), np.random.default_rng(1)
    for layer in norms_of(model):
        weights = [generator.uniform(0.5, 2, w.shape) for w in layer.get_weights()]
        weights[0][::2] *= -1
        layer.set_weights(weights)
        layer.trainable = not frozen
    return model


def norms_of(model: Any) -> list[Any]:
    return [layer for layer in model.layers if type(layer).__name__ == "BatchNormalization"]


def live(model: Any) -> list[Any]:
    return [layer for layer in model.layers if getattr(layer, "live_norm", None) is not None]


def answers(model: Any) -> Any:
    return Predictor(model)(task().validation.inputs)[0]


def without_ranges(model: Any) -> Any:
    for layer in model.layers:
        if hasattr(layer, "mode"):
            layer.mode = "off"
    return model


def test_folding_at_the_end_gives_the_integers_of_folding_at_once() -> None:
    from converters.compress.quantize_build import finished

    model = with_norms()
    late, early = (finished(built(model, live_norms=on).model) for on in (True, False))
    compared = 0
    for layer in early.layers:
        if not hasattr(layer, "kernel_scale"):
            continue
        twin = late.get_layer(layer.name)
        np.testing.assert_allclose(twin.kernel_scale.numpy(), layer.kernel_scale.numpy(), rtol=1e-5)
        steps = (twin.kernel.numpy() - layer.kernel.numpy()).reshape(-1, layer.channels) / layer.kernel_scale.numpy()
        # A weight half way between two integers may go either way.
        assert np.abs(steps).max() < 1.01
        assert (np.abs(steps) > 0.5).mean() < 0.01
        np.testing.assert_allclose(twin.bias.numpy(), layer.bias.numpy(), rtol=1e-4, atol=1e-5)
        compared += 1
    assert compared == 5


@pytest.mark.parametrize("more", [{}, {"keep_shared": True}, {"weight_bits": 4, "weight_mode": "learned"}])
def test_norms_learn_and_the_finished_network_answers_as_the_trained_one(tmp_path: Path, more: dict[str, Any]) -> None:
    from converters.compress.quantize_build import calibrate, finished
    from converters.compress.training import fit

    data = task(256)
    made = built(with_norms(), **more)
    layers = live(made.model)
    assert len(layers) == 2
    before = [[v.numpy() for v in (n.gamma, n.beta, n.mean, n.variance)] for n in (each.live_norm for each in layers)]
    calibrate(made, data.train, 0)
    fit(made.model, context(tmp_path, data), epochs=2, learning_rate=1e-3)
    for layer, old in zip(layers, before, strict=True):
        norm = layer.live_norm
        for variable, was in zip((norm.gamma, norm.beta, norm.mean, norm.variance), old, strict=True):
            assert (variable.numpy() != was).any()
    done = finished(made.model)
    assert not live(done)
    # Rounded activations would turn a last bit into a whole step.
    ours, theirs = (answers(without_ranges(model)) for model in (made.model, done))
    assert np.abs(ours - theirs).max() < 1e-4 * np.ptp(ours)


def test_frozen_norms_and_single_scales_are_folded_at_once() -> None:
    assert len(live(built(with_norms()).model)) == 2
    assert live(built(with_norms(frozen=True)).model) == []
    assert live(built(with_norms(), granularity="per_tensor").model) == []
    assert live(built(with_norms(), live_norms=False).model) == []


def test_few_rows_do_not_decide_what_is_normal() -> None:
    """Batches of fewer than sixteen rows are normalized as the base's were."""
    import tensorflow as tf

    made = built(with_norms())
    (first, *_) = live(made.model)
    for rows, moves in ((8, False), (16, True)):
        before = first.live_norm.mean.numpy()
        made.model(tf.zeros((rows, 8, 8, 1)) + 3.0, training=True)
        assert (first.live_norm.mean.numpy() != before).any() == moves
