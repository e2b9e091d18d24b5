"""The training loop: it learns, the same seed gives the same bytes, and a kill changes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compress_tasks import context, digest, network, task

from converters.compress import checkpoint
from converters.compress.context import ZEROS, Rows, TrainingData
from converters.compress.fine_tune import apply as fine_tune
from converters.compress.objective import Predictor, gives_probabilities
from converters.compress.own_training import own_fit
from converters.compress.training import fit, score
from converters.errors import ConversionInputError, ToolError

pytestmark = pytest.mark.compression


def test_it_learns_and_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second, other = network(), network(), network()
    before = score(first, task().validation, "classification")
    lines: list[str] = []
    history = fit(first, context(tmp_path / "a", task(), say=lines.append), epochs=6, learning_rate=0.01)
    fit(second, context(tmp_path / "b", task()), epochs=6, learning_rate=0.01)
    fit(other, context(tmp_path / "c", task(), seed=4), epochs=6, learning_rate=0.01)
    after = score(first, task().validation, "classification")
    assert before < 0.6
    assert after > 0.9
    assert after == max(history.scores)
    assert history.losses[-1] < history.losses[0]
    assert digest(first) == digest(second) != digest(other)
    assert len(lines) == history.epochs
    assert "epoch 1 of 6" in lines[0]
    assert "s left" in lines[0]


@pytest.mark.slow
def test_a_killed_training_ends_with_the_same_bytes(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("compress_tasks.py")), str(tmp_path / "killed")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "epoch 2 of 4" in line:
                # Steps of the third epoch are under way: its 16 steps take 0.3 s.
                process.kill()
                break
        process.stdout.read()
    assert process.returncode == -9
    ended = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert "resumed after epoch 2" in ended
    model = network()
    fit(model, context(tmp_path / "whole", task()), epochs=4)
    assert f"digest {digest(model)}" in ended


def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    own = context(tmp_path, task())
    model, again = network(), network()
    fit(model, own, epochs=2)
    history = fit(again, own, epochs=2)
    assert history.resumed == 2
    assert digest(model) == digest(again)


def test_a_checkpoint_of_another_training_or_a_damaged_one_is_not_taken_up(tmp_path: Path) -> None:
    lines: list[str] = []
    own = context(tmp_path, task(), say=lines.append)
    fit(network(), own, epochs=1)
    assert fit(network(), own, epochs=2).resumed is None
    file = tmp_path / "train" / "checkpoint.npz"
    file.write_bytes(file.read_bytes()[:-200])
    assert fit(network(), own, epochs=2).resumed is None
    assert sum("begun anew" in line for line in lines) == 2


def test_a_checkpoint_keeps_bfloat16_bits(tmp_path: Path) -> None:
    import ml_dtypes

    arrays = [np.arange(5).astype(ml_dtypes.bfloat16), np.float32([1.5])]
    checkpoint.save(tmp_path / "c.npz", "f", checkpoint.Progress((1.0,), (0.5,)), {"model": arrays, "best": []})
    progress, groups = checkpoint.load(tmp_path / "c.npz", "f", {"model": ["bfloat16", "float32"], "best": ["float32"]})
    assert progress == checkpoint.Progress((1.0,), (0.5,))
    assert "best" not in groups
    assert [(a.dtype, a.tolist()) for a in groups["model"]] == [(a.dtype, a.tolist()) for a in arrays]


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16"])
def test_every_precision_policy_trains(tmp_path: Path, policy: str) -> None:
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model, again = network(), network()
    finally:
        keras.config.set_dtype_policy(before)
    history = fit(model, context(tmp_path / "a", task()), epochs=4, learning_rate=0.01)
    assert history.losses[-1] < history.losses[0]
    # Weights of 8 significant bits hardly move at this rate: all of them in bfloat16 is the user's own wish.
    assert max(history.scores) > (0.6 if policy.startswith("mixed") else 0.2)
    fit(again, context(tmp_path / "b", task()), epochs=4, learning_rate=0.01)
    assert digest(model) == digest(again)


@pytest.mark.parametrize(("softmax", "outputs"), [(True, 4), (False, 1)])
def test_probabilities_and_regression(tmp_path: Path, softmax: bool, outputs: int) -> None:
    data = task(kind="classification" if softmax else "regression")
    model = network(softmax=softmax, outputs=outputs, dropout=0)
    before = score(model, data.validation, data.task)
    fit(model, context(tmp_path, data), epochs=5, learning_rate=0.01)
    after = score(model, data.validation, data.task)
    assert after > (before + 0.2 if softmax else before / 2)


def test_logits_are_told_from_probabilities() -> None:
    import keras
    from keras import layers

    rows = task().validation
    bare, soft = network(), network(softmax=True)
    nested = keras.Sequential([keras.Input((8, 8, 1)), soft])
    unclear = keras.Sequential([keras.Input((8, 8, 1)), soft, layers.Reshape((4,))])
    found = [gives_probabilities(model, rows) for model in (bare, soft, nested, unclear)]
    assert found == [False, True, True, True]


def test_outputs_without_labels_stay_with_the_base(tmp_path: Path) -> None:
    import keras
    from keras import layers

    trunk = network()
    hidden = trunk.layers[-2].output

    def build() -> Any:
        keras.utils.set_random_seed(1)
        return keras.Model(trunk.inputs, [layers.Dense(4)(hidden), layers.Dense(2)(hidden)])

    model = build()
    base = keras.models.clone_model(model)
    base.set_weights(model.get_weights())
    rows = task().validation.inputs[0]
    answers = Predictor(base)((rows,))[1]
    fit(model, context(tmp_path, task(), base), epochs=8, learning_rate=0.01)
    drift = np.mean((Predictor(model)((rows,))[1] - answers) ** 2) / answers.var()
    assert score(model, task().validation, "classification") > 0.7
    assert drift < 0.3


def test_a_loss_of_its_own_with_variables_and_a_schedule(tmp_path: Path) -> None:
    import keras
    from keras import ops

    scale = keras.Variable(1.0, name="scale")
    seen: list[tuple[int, int]] = []
    unlabelled = TrainingData(
        Rows(task().train.inputs, None), Rows(task().validation.inputs, None), task().train, "classification", "1" * 64
    )
    model = network()
    history = fit(
        model,
        context(tmp_path, unlabelled),
        epochs=2,
        loss=lambda inputs, labels, outputs: ops.mean(ops.square(outputs[0] - scale * ops.mean(inputs[0]))),
        after_batch=lambda step, of: seen.append((step, of)),
        extra_variables=(scale,),
    )
    assert float(scale) != 1.0
    assert seen == [(step, 32) for step in range(1, 33)]
    assert not history.stopped_early
    assert all(value < 0 for value in history.scores)


def test_it_stops_early_and_keeps_the_best_weights(tmp_path: Path) -> None:
    data = task()
    wrong = Rows(data.validation.inputs, (data.validation.labels + 1) % 4)
    model = network()
    own = context(tmp_path, TrainingData(data.train, wrong, data.calibration, data.task, data.sha256))
    history = fit(model, own, epochs=30, learning_rate=0.02)
    assert history.stopped_early
    assert history.epochs < 30
    assert score(model, wrong, "classification") == max(history.scores)


def test_what_cannot_be_trained_is_said(tmp_path: Path) -> None:
    data = task()
    with pytest.raises(ToolError, match="smaller learning_rate"):
        fit(network(), context(tmp_path / "a", data), epochs=3, loss=lambda _i, _l, o: o[0][0, 0] * float("nan"))
    with pytest.raises(ToolError, match="labelled training rows"):
        fit(network(), context(tmp_path / "b", None), epochs=1)
    bare = TrainingData(Rows(data.train.inputs, None), data.validation, data.calibration, data.task, data.sha256)
    with pytest.raises(ToolError, match="y_train"):
        fit(network(), context(tmp_path / "c", bare), epochs=1)
    frozen = network()
    frozen.trainable = False
    with pytest.raises(ToolError, match="no weights"):
        fit(frozen, context(tmp_path / "d", data), epochs=1)


def test_the_control_step(tmp_path: Path) -> None:
    result = fine_tune(network(), {"epochs": 2, "learning_rate": 0.01}, context(tmp_path, task()))
    assert result.figures["epochs"] == 2
    assert result.figures["validation_score"] > 0.3


OWN = """
import keras

def train(model, data, *, epochs, seed, say):
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    seen = model.fit(*data.train.inputs, data.train.labels, epochs=epochs, verbose=0)
    say(f"own loop, seed {seed}")
    return {"losses": seen.history["loss"]}

def lazy(model, data):
    pass
"""


def test_a_training_function_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    lines: list[str] = []
    own = context(tmp_path / "step", task(), say=lines.append)
    model = network()
    before = digest(model)
    history = own_fit(f"{tmp_path / 'mine.py'}:train")(model, own, epochs=2)
    assert (history.epochs, len(history.losses), len(history.scores)) == (2, 2, 1)
    assert digest(model) != before
    assert "own loop, seed 3" in lines
    with pytest.raises(ToolError, match="takes no loss"):
        own_fit(f"{tmp_path / 'mine.py'}:train")(model, own, epochs=2, loss=lambda *_: 0)
    with pytest.raises(ConversionInputError, match="no function 'other'"):
        own_fit(f"{tmp_path / 'mine.py'}:other")
    with pytest.raises(ConversionInputError, match="module:function"):
        own_fit("mine")


def test_the_users_own_function_must_keep_what_steps_made(tmp_path: Path) -> None:
    (tmp_path / "mine2.py").write_text(OWN)
    own = context(tmp_path / "step", task(), preserve=frozenset({ZEROS}))
    with pytest.raises(ToolError, match="takes no after_batch"):
        own_fit(f"{tmp_path / 'mine2.py'}:lazy")(network(), own, epochs=1)
