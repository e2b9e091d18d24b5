"""Compression at the command line and in experiment files: words, options, and what is said of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from converters.step_catalogue import STEPS
from harness.cli.conversion import read_recipes
from harness.cli.main import app
from harness.errors import SpecError
from harness.experiment import load_experiment
from harness.report.conversion import lineage_words, render_conversion


def said(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output
    return done.stdout


def test_recipes_lists_precisions_and_steps():
    listed = json.loads(said("recipes", "--json"))
    assert [step["step"] for step in listed["steps"]] == list(STEPS)
    assert "static_wi8_ai8" in listed["precisions"]["onnx"]
    text = said("recipes")
    for info in STEPS.values():
        assert info.paper in text
        assert info.example in text
        assert all(f"  {parameter.name}: " in text for parameter in info.parameters)


def test_recipes_says_what_words_mean():
    assert said("recipes", "prune(0.5) > cluster(16) @ tflite").split() == ["tflite:prune(0.5)>cluster(16)>fp32"]
    (row,) = json.loads(said("recipes", "tflite:qat>fp32", "--json"))
    assert "a static precision" in row["refused"]
    assert CliRunner().invoke(app, ["recipes", "prunee(0.5)"]).exit_code == 2


def test_recipes_come_from_words_and_files(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("recipes:\n- prune(0.5, epochs=0) > cluster(16) @ onnx\n- {name: fp32, format: onnx}\n")
    found = read_recipes([str(file), "prune(0.9) @ tflite, tflite:fp16"])
    assert [recipe.key for recipe in found] == [
        "onnx:prune(0.5, epochs=0)>cluster(16)>fp32",
        "onnx:fp32",
        "tflite:prune(0.9)>fp32",
        "tflite:fp16",
    ]


@pytest.fixture
def experiment(tmp_path: Path):
    def load(text: str):
        path = tmp_path / "experiment.yaml"
        path.write_text("base: m.keras\n" + text, encoding="utf-8")
        return load_experiment(path)

    return load


def test_an_experiment_says_how_steps_train(experiment, tmp_path: Path):
    (tmp_path / "mine.py").touch()
    loaded = experiment("training: {function: mine:fit, timeout: 2h, limit: 500}\nrecipes: [prune(0.5) > fp16]\n")
    assert loaded.experiment.training.timeout == 7200
    assert loaded.training_function() == f"{tmp_path.resolve() / 'mine.py'}:fit"
    assert loaded.training_limit == 500
    assert experiment("data: {path: d.npz, training_limit: 70}\n").training_limit == 70
    assert experiment("").training_function() is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("training: {function: mine:fit, precision_policy: mixed_float16}\n", "sets its precision itself"),
        ("training: {function: ../mine.py}\n", "function"),
        ("training: {limits: 3}\n", "did you mean 'limit'"),
        ("data: {path: d.npz, training_limit: 70}\ntraining: {limit: 70}\n", "give one of them"),
    ],
)
def test_what_an_experiment_may_not_say(experiment, text, words):
    with pytest.raises(SpecError, match=words):
        experiment(text)


def test_a_missing_training_function_is_named(experiment):
    with pytest.raises(SpecError, match=r"mine\.py: no such file"):
        experiment("training: {function: mine:fit}\n").training_function()


def test_the_lineage_stands_under_the_table():
    step = {
        "text": "prune(0.5)",
        "metric": "accuracy",
        "score_before": 0.91,
        "score_after": 0.9,
        "left_alone": {"a": "b"},
    }
    row = {
        "variant": "m.tflite.prune_0.5+fp32",
        "status": "ok",
        "size_bytes": 10,
        "size_gzip_bytes": 5,
        "relative_error": 0.0,
        "argmax_agreement": 1.0,
        "cached": False,
        "seconds": 1.0,
        "notes": [],
        "lineage": [step, {**step, "text": "entropy", "score_after": None, "left_alone": {}}],
    }
    text = render_conversion([row])
    assert "prune(0.5) 91.00 % → 90.00 % (1 layer left alone); entropy" in text
    regression = step | {"metric": "minus_mean_squared_error", "score_before": -0.5, "score_after": -0.25}
    assert "0.5 → 0.25 mean squared error" in render_conversion([row | {"lineage": [regression]}])
    assert lineage_words([{"score_before": "much"}]) == "None"
