"""The `search:` section: what it may say, and that every mistake is told with its file, line and the right word."""

from __future__ import annotations

from pathlib import Path

import pytest
from tune_lab import experiment_text, write_data

from converters.search.samplers import SAMPLERS
from converters.search.trial import Constraint
from harness.errors import SpecError
from harness.experiment import load_experiment
from harness.search_section import METRICS, SearchSpec, read_constraint
from harness.tune.search import device_of, plan, section_of, space_of


@pytest.fixture
def write(tmp_path: Path):
    def _write(text: str) -> Path:
        path = tmp_path / "experiment.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return _write


def section(path: Path, **changes: object) -> SearchSpec:
    return section_of(load_experiment(path), path, changes)


def problem(path: Path) -> str:
    with pytest.raises(SpecError) as caught:
        section(path)
    return str(caught.value)


def test_a_whole_section(write) -> None:
    spec = section(
        write(
            experiment_text(
                "  objectives: [accuracy, latency_ns]\n  constraints: ['accuracy_drop_pp <= 1', 'size_bytes <= 100kB']\n"
                "  sampler: nsga2\n  trials: 12\n  workers: 2\n  budget: 10m\n  pruning: {shares: [0.1, 0.3]}\n"
                "  device: local\n  protocol: {preset: quick, run_s: 0.1}\n  keep: 5\n"
            )
        )
    )
    assert (spec.trials, spec.workers, spec.budget, spec.keep, spec.sampler) == (12, 2, 600.0, 5, "nsga2")
    assert [(item.metric, item.goal) for item in spec.goals()] == [("accuracy", "maximise"), ("latency_ns", "minimise")]
    assert spec.limits() == [Constraint("accuracy_drop_pp", "<=", 1.0), Constraint("size_bytes", "<=", 100_000.0)]
    assert spec.measures
    assert spec.protocol.build().run_s == 0.1
    assert spec.space()["parameters"]["sparsity"] == {"float": (0.1, 0.9), "step": 0.1}


def test_what_is_usual(write) -> None:
    spec = section(write(experiment_text()))
    assert (spec.objectives, spec.sampler, spec.trials, spec.keep) == (["accuracy", "size_bytes"], "tpe", 30, 3)
    assert not spec.measures
    assert spec.protocol.preset == "quick"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("  trails: 3\n", "experiment.yaml:11: unknown key 'search.trails' — did you mean 'trials'?"),
        (
            "  objectives: [acuracy]\n",
            "experiment.yaml:11: search.objectives: there is no metric 'acuracy' — did you mean 'accuracy'?",
        ),
        ("  objectives: [virtual_time]\n", "did you mean 'virtual_time_ns'?"),
        ("  objectives: [accuracy, accuracy]\n", "each objective once"),
        ("  constraints: ['accuracy < 1']\n", "'accuracy < 1' is no limit; write it like"),
        ("  constraints: ['latency_ns <= fast']\n", "'fast' is no time"),
        ("  objectives: [latency_ns, virtual_time_ns]\n", "virtual time and no other"),
        ("  pruning: {shares: [0.3, 0.1]}\n", "must rise, and lie between 0 and 1"),
        ("  pruning: {shars: [0.3]}\n", "unknown key 'search.pruning.shars' — did you mean 'shares'?"),
        ("  sampler: bayes\n", "experiment.yaml:11: search.sampler: Input should be 'grid', 'random'"),
        ("  trials: 0\n", "search.trials: Input should be greater than or equal to 1"),
        ("  protocol: {preset: quik}\n", "search.protocol.preset"),
    ],
)
def test_mistakes_are_told(write, more: str, said: str) -> None:
    assert said in problem(write(experiment_text(more)))


@pytest.mark.parametrize(
    ("parameter", "said"),
    [
        ("{flaot: [0.1, 0.9]}", "unknown key 'search.parameters.sparsity.flaot' — did you mean 'float'?"),
        ("{float: [0.1, 0.9], choice: [1]}", "give one of float, int and choice, not float and choice"),
        ("{float: [0.1]}", "search.parameters.sparsity.float"),
        ("{int: [0.5, 2]}", "search.parameters.sparsity.int.0"),
        ("{}", "not none of them"),
    ],
)
def test_mistakes_in_parameters_are_told_with_their_line(write, parameter: str, said: str) -> None:
    message = problem(write(experiment_text().replace("{float: [0.1, 0.9], step: 0.1}", parameter)))
    assert "experiment.yaml:8" in message
    assert said in message


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("{sparsity},", "{sparsty},", "experiment.yaml:6: search.recipes[0]: {sparsty} is no parameter"),
        ("prune(", "pruen(", "experiment.yaml:6: search.recipes[0], with sparsity=0.1"),
        ("float: [0.1, 0.9]", "float: [0.9, 0.1]", "experiment.yaml:8: search.parameters.sparsity: float is"),
    ],
)
def test_a_space_that_means_nothing_is_told_with_its_line(write, old: str, new: str, said: str) -> None:
    path = write(experiment_text().replace(old, new))
    with pytest.raises(SpecError) as caught:
        space_of(section(path), path)
    assert said in str(caught.value)


def test_bounds_with_and_without_units() -> None:
    assert read_constraint("latency_ns <= 2ms").bound == 2e6
    assert read_constraint("latency_ns<=2000000").bound == 2e6
    assert read_constraint(" accuracy  >= 88% ") == Constraint("accuracy", ">=", 0.88)
    assert read_constraint("accuracy_drop_pp <= -0.5").bound == -0.5
    assert read_constraint("macs <= 1e6").bound == 1e6


def test_the_samplers_are_those_there_are() -> None:
    assert SearchSpec.model_fields["sampler"].annotation.__args__ == tuple(SAMPLERS)


def test_every_metric_can_be_sought() -> None:
    spec = {"recipes": "prune({s}) @ tflite", "parameters": {"s": {"choice": [0.5]}}}
    assert [SearchSpec.model_validate({**spec, "objectives": name}).goals()[0].metric for name in METRICS] == list(
        METRICS
    )


def test_the_command_line_says_it_instead(write) -> None:
    path = write(experiment_text("  trials: 12\n"))
    spec = section(path, trials=5, sampler="random", budget="90s", keep=0, workers=None)
    assert (spec.trials, spec.sampler, spec.budget, spec.keep, spec.workers) == (5, "random", 90.0, 0, 1)
    with pytest.raises(SpecError, match="command line: sampler"):
        section(path, sampler="bayes")


def test_an_experiment_without_a_search_is_refused(write) -> None:
    assert "no 'search' section" in problem(write("base: m.keras\n"))
    assert "needs a 'base' model" in problem(write(experiment_text().replace("base: ", "artifacts: [x.tflite]\n# ")))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("  objectives: [latency_ns]\n  device: qemu-arm64-icount\n", "counts instructions, so it has no latency_ns"),
        ("  objectives: [virtual_time_ns]\n", "local counts no instructions"),
        ("  device: qemu-arm46\n", "did you mean 'qemu-arm64'"),
    ],
)
def test_clock_and_device_must_go_together(write, more: str, said: str) -> None:
    path = write(experiment_text(more))
    with pytest.raises(SpecError) as caught:
        device_of(section(path), load_experiment(path), path)
    assert said in str(caught.value)


def test_accuracy_needs_rows_that_are_no_test_rows(write, tmp_path: Path) -> None:
    from converters.dataset import load_dataset

    path = write(experiment_text("  objectives: [rmse]\n"))
    write_data(tmp_path / "data.npz")
    loaded, dataset = load_experiment(path), load_dataset(tmp_path / "data.npz", training=True)
    with pytest.raises(SpecError, match="a classification has no rmse"):
        plan(loaded, path, section(path), dataset, tmp_path)
    with pytest.raises(SpecError, match="rmse needs labelled rows"):
        plan(loaded, path, section(path), None, tmp_path)
