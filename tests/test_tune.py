"""A trial: what is converted with which rows, what is measured beside what, and what is never looked at."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from sample_session import BASE
from tune_lab import Converter, Sessions, experiment_text, write_data

from converters.dataset import Dataset, load_dataset
from converters.errors import RecipeError
from converters.search.plain import InMemory
from converters.search.trial import Candidate, Outcome, Trial
from converters.training_rows import TrainingRows
from harness.devices.emulators.kept import KeptEmulators
from harness.errors import DeviceError, SpecError
from harness.experiment import load_experiment
from harness.profiles import DeviceProfile, load_profile
from harness.tune import search
from harness.tune.rows import CALIBRATION, VALIDATION, judged, with_share
from harness.tune.search import Planned
from harness.tune.trials import ConvertAndMeasure
from harness.tune.turns import Turns

TIMED = "  objectives: [accuracy, latency_ns]\n  constraints: ['latency_ratio <= 2']\n"


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    write_data(tmp_path / "data.npz")
    return load_dataset(tmp_path / "data.npz", training=True, calibration_size=20)


def planned(tmp_path: Path, dataset: Dataset | None, more: str = TIMED) -> Planned:
    path = tmp_path / "experiment.yaml"
    path.write_text(experiment_text(more), encoding="utf-8")
    loaded = load_experiment(path)
    return search.plan(loaded, path, search.section_of(loaded, path, {}), dataset, tmp_path / "out", cache=False)


def evaluator(found: Planned, tmp_path: Path, convert: Converter, run: Sessions) -> ConvertAndMeasure:
    return ConvertAndMeasure(found.setup, Turns(found.setup.device, tmp_path / "locks"), convert=convert, run=run)


def candidate(found: Planned, sparsity: float, precision: str = "fp32", epochs: int = 0) -> Candidate:
    first = found.task.space.templates[0].text
    return found.task.space.candidate({"recipe": first, "sparsity": sparsity, "epochs": epochs, "precision": precision})


# Rows


def test_validation_rows_judge_and_test_rows_do_not(data: Dataset) -> None:
    found = judged(data)
    assert found.where == VALIDATION
    assert isinstance(data.training, TrainingRows)
    assert found.dataset.inputs is data.training.validation
    assert found.dataset.sha256 != data.sha256
    test = {row.tobytes() for row in data.inputs["x"]}
    assert not test & {row.tobytes() for row in found.dataset.inputs["x"]}


def test_without_training_rows_the_calibration_rows_judge(tmp_path: Path) -> None:
    write_data(tmp_path / "small.npz", training=False)
    found = judged(load_dataset(tmp_path / "small.npz", training=True))
    assert found.where == CALIBRATION
    assert found.dataset.rows == 8
    bare = dataclasses.replace(load_dataset(tmp_path / "small.npz"), calibration_labels=None)
    assert (judged(bare).where, judged(bare).dataset.task) == (None, "none")


def test_a_share_takes_training_rows_and_no_validation_rows(data: Dataset) -> None:
    fewer = with_share(data, 0.25, seed=0).training
    assert data.training is not None
    assert fewer is not None
    assert fewer.rows == round(0.25 * data.training.rows)
    assert np.bincount(fewer.labels).min() >= 3
    assert fewer.validation is data.training.validation
    assert fewer.sha256 != data.training.sha256
    again = with_share(data, 0.25, seed=0).training
    assert again is not None
    assert np.array_equal(again.inputs["x"], fewer.inputs["x"])
    assert with_share(data, 1.0, seed=0) is data


# One trial


def test_a_trial_has_all_its_figures(tmp_path: Path, data: Dataset) -> None:
    found, convert, run = planned(tmp_path, data), Converter(), Sessions()
    outcome = evaluator(found, tmp_path, convert, run)(candidate(found, 0.4, "static_wi8_ai8"), number=0, fidelity=1.0)
    assert outcome.state == "complete"
    metrics = outcome.metrics
    assert (metrics["size_bytes"], metrics["macs"], metrics["effective_macs"]) == (20_000, 5000, 3000)
    assert 0.0 < (metrics["accuracy"] or 0.0) < 1.0
    assert metrics["latency_ratio"] == pytest.approx(0.45, rel=0.05)
    low, high = outcome.intervals["latency_ratio"]
    assert low < (metrics["latency_ratio"] or 0.0) < high
    assert outcome.variant == f"{BASE}.tflite.prune_0.4_epochs-0+static_wi8_ai8"
    # No meter was asked for, so none is missed.
    assert "energy_total_uj" not in metrics


def test_the_base_is_always_beside_it_and_converted_once(tmp_path: Path, data: Dataset) -> None:
    found, convert, run = planned(tmp_path, data), Converter(), Sessions()
    evaluate = evaluator(found, tmp_path, convert, run)
    for number, sparsity in enumerate((0.1, 0.5)):
        evaluate(candidate(found, sparsity), number=number, fidelity=1.0)
    timed = [spec for spec in run.specs if spec.name == "trial"]
    assert [next(iter(spec.artifacts)) for spec in timed] == [f"{BASE}.tflite.fp32"] * 2
    assert [len(spec.artifacts) for spec in timed] == [2, 2]
    recipes = [recipe.name for request in convert.requests for recipe in request.recipes]
    assert recipes.count("fp32") == 1
    assert all(request.ledger for request in convert.requests)


def test_the_base_as_a_candidate_is_measured_alone(tmp_path: Path, data: Dataset) -> None:
    found, run = planned(tmp_path, data), Sessions()
    plain = found.task.space.candidate({"recipe": found.task.space.templates[1].text, "precision": "fp32"})
    outcome = evaluator(found, tmp_path, Converter(), run)(plain, number=0, fidelity=1.0)
    assert outcome.metrics["latency_ratio"] == 1.0
    assert [len(spec.artifacts) for spec in run.specs] == [1, 1]


def test_no_test_row_is_seen(tmp_path: Path, data: Dataset) -> None:
    found, convert, run = planned(tmp_path, data), Converter(), Sessions()
    evaluator(found, tmp_path, convert, run)(candidate(found, 0.4), number=0, fidelity=1.0)
    test = {row.tobytes() for row in data.inputs["x"]}
    for request in convert.requests:
        assert request.dataset is not None
        assert not test & {row.tobytes() for row in request.dataset.inputs["x"]}
    for spec in run.specs:
        assert spec.inputs is not None
        assert not test & {row.tobytes() for row in spec.inputs["image"]}


def test_on_fewer_rows_it_is_trained_with_less_and_not_timed(tmp_path: Path, data: Dataset) -> None:
    found, convert, run = planned(tmp_path, data), Converter(), Sessions()
    outcome = evaluator(found, tmp_path, convert, run)(candidate(found, 0.4, epochs=1), number=3, fidelity=0.25)
    assert outcome.state == "complete"
    assert outcome.variant is None
    assert "accuracy" in outcome.metrics
    assert "latency_ns" not in outcome.metrics
    assert [spec.name for spec in run.specs] == ["answers"]
    trained = convert.requests[-1].dataset
    assert trained is not None
    assert trained.training is not None
    assert data.training is not None
    assert trained.training.rows < data.training.rows
    assert not convert.requests[-1].out.exists()


def test_what_cannot_be_made_is_a_failed_trial(tmp_path: Path, data: Dataset) -> None:
    found = planned(tmp_path, data)
    evaluate = evaluator(found, tmp_path, Converter(fails="static"), Sessions())
    outcome = evaluate(candidate(found, 0.4, "static_wi8_ai8"), number=0, fidelity=1.0)
    assert (outcome.state, outcome.error) == ("failed", "Crashed: the tool was killed by SIGSEGV")


def test_a_device_that_cannot_measure_the_base_ends_the_search(tmp_path: Path, data: Dataset) -> None:
    found = planned(tmp_path, None, "  objectives: [size_bytes, latency_ns]\n")
    with pytest.raises(DeviceError, match="local could not measure the base model"):
        evaluator(found, tmp_path, Converter(), Sessions(broken=True))(candidate(found, 0.4), number=0, fidelity=1.0)
    del data


def test_a_metric_that_the_device_does_not_give_ends_the_search(tmp_path: Path, data: Dataset) -> None:
    found = planned(tmp_path, data, "  objectives: [accuracy, energy_total_uj]\n")
    run = Sessions()
    with pytest.raises(SpecError, match="local gives no energy_total_uj"):
        evaluator(found, tmp_path, Converter(), run)(candidate(found, 0.4), number=0, fidelity=1.0)
    assert run.specs[-1].protocol.energy


def test_instructions_are_counted_where_a_guest_counts_them(tmp_path: Path, data: Dataset) -> None:
    more = "  objectives: [accuracy, virtual_time_ns]\n  device: qemu-arm64-icount\n"
    found, run = planned(tmp_path, data, more), Sessions(counted=True)
    outcome = evaluator(found, tmp_path, Converter(), run)(candidate(found, 0.4), number=0, fidelity=1.0)
    assert outcome.metrics["virtual_time_ns"] is not None
    assert outcome.metrics["virtual_time_ratio"] == pytest.approx(0.9, rel=0.05)
    assert "latency_ns" not in outcome.metrics
    # Answers come from this host, whatever counts the instructions.
    assert [spec.devices[0].name for spec in run.specs] == ["local", "qemu-arm64-icount"]


# Turns


def test_nothing_is_converted_while_one_measures(tmp_path: Path, data: Dataset) -> None:
    found, convert = planned(tmp_path, data, TIMED + "  trials: 6\n  workers: 3\n  sampler: random\n"), Converter()
    busy: list[int] = []
    at_once: list[int] = []
    lock = threading.Lock()

    def meanwhile() -> None:
        if run.specs[-1].name == "trial":
            with lock:
                at_once.append(1)
            busy.append(convert.at_work)
            assert sum(at_once) == 1
            with lock:
                at_once.pop()

    run = Sessions(meanwhile)
    finished = search.run(found, InMemory(), lambda _event: None, evaluate=evaluator(found, tmp_path, convert, run))
    assert [trial.outcome.state for trial in finished.trials] == ["complete"] * 6
    assert busy == [0] * 6


def test_a_device_elsewhere_does_not_stop_the_host(tmp_path: Path) -> None:
    far = Turns(load_profile("ssh://pi.example"), tmp_path)
    with far.measuring(), far.working():
        pass
    here = Turns(load_profile("local"), tmp_path)
    with here.working(), here.working():
        pass
    assert here.here
    assert not far.here
    assert Turns(load_profile("qemu-arm64-icount"), tmp_path).here


class Emulator:
    def __init__(self, profile: DeviceProfile) -> None:
        self.profile, self.told = profile, [f"start {profile.name}"]

    def revive(self) -> DeviceProfile:
        self.told.append("revive")
        return self.profile

    def rest(self) -> None:
        self.told.append("rest")

    def wake(self) -> None:
        self.told.append("wake")

    def stop(self) -> None:
        self.told.append("stop")


def test_an_emulator_is_started_once_and_stopped_at_the_end() -> None:
    profile, started = load_profile("qemu-arm64-icount"), []

    def start(wanted: DeviceProfile) -> Emulator:
        started.append(Emulator(wanted))
        return started[-1]

    with KeptEmulators(start) as kept:
        kept.lend(profile).stop()
        kept.lend(profile).stop()
    (emulator,) = started
    assert emulator.told == ["start qemu-arm64-icount", "rest", "wake", "revive", "rest", "stop"]


# The best


def tried(number: int, accuracy: float, size: float) -> Trial:
    metrics = {"accuracy": accuracy, "size_bytes": size, "accuracy_drop_pp": 100 * (0.9 - accuracy)}
    return Trial(number, Candidate({}, f"r{number}", f"k{number}"), Outcome("complete", metrics), variant=f"v{number}")


def test_the_best_are_of_the_front_evenly_spread_then_the_next(tmp_path: Path, data: Dataset) -> None:
    task = planned(tmp_path, data, "  constraints: ['accuracy_drop_pp <= 10']\n").task
    front = [tried(n, 0.9 - n / 100, 100 - 10 * n) for n in range(5)]
    worse = [tried(5, 0.85, 99), tried(6, 0.84, 98), tried(7, 0.1, 1)]
    trials = [*front, *worse]
    assert [trial.number for trial in search.front_of(trials, task)] == [0, 1, 2, 3, 4]
    assert [trial.number for trial in search.best(trials, task, 3)] == [0, 2, 4]
    assert [trial.number for trial in search.best(trials, task, 1)] == [0]
    assert {trial.number for trial in search.best(trials, task, 6)} > {0, 1, 2, 3, 4}
    # What misses the limit is not taken to fill up.
    assert 7 not in {trial.number for trial in search.best(trials, task, 8)}


def test_what_a_trial_means_has_an_address(tmp_path: Path, data: Dataset) -> None:
    one = planned(tmp_path, data)
    assert planned(tmp_path, data).content_sha256 == one.content_sha256
    other = planned(tmp_path, data, TIMED + "  protocol: {preset: standard}\n")
    assert other.content_sha256 != one.content_sha256
    stored = json.loads(json.dumps(one.content))
    assert search.differences(stored, one.content) == []
    assert search.differences(stored, other.content) == ["protocol"]
    # How much is tried, and by whom, is no matter.
    more = planned(tmp_path, data, TIMED + "  trials: 99\n  sampler: grid\n  workers: 2\n")
    assert more.content_sha256 == one.content_sha256
    assert one.document["judged_rows"] == 10


def with_files(tmp_path: Path, dataset: Dataset) -> Planned:
    """A search whose second option of a choice names a file, with a training function of the user's own."""
    path = tmp_path / "files.yaml"
    words = experiment_text().replace('"{precision} @ tflite"', '"distill(0.5, student={student}, epochs=1) @ tflite"')
    words += "    student: {choice: [mobilenet_v2, small.keras]}\ntraining: {function: 'own:fit'}\n"
    # The section's parameters stand last in SPACE, so that one more can follow them.
    path.write_text(words, encoding="utf-8")
    loaded = load_experiment(path)
    return search.plan(loaded, path, search.section_of(loaded, path, {}), dataset, tmp_path / "out", cache=False)


def test_a_file_that_a_trial_may_name_is_part_of_what_it_means(tmp_path: Path, data: Dataset) -> None:
    (tmp_path / "own.py").write_text("def fit(*_): ...\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"student 'small.keras': there is no file"):
        with_files(tmp_path, data)
    (tmp_path / "small.keras").write_bytes(b"one")
    one = with_files(tmp_path, data)
    assert with_files(tmp_path, data).content_sha256 == one.content_sha256
    assert set(one.content["files"]) == {"small.keras", "training function"}
    (tmp_path / "small.keras").write_bytes(b"another")
    other = with_files(tmp_path, data)
    assert search.differences(one.content, other.content) == ["files"]
    (tmp_path / "own.py").write_text("def fit(*_): return None\n", encoding="utf-8")
    assert with_files(tmp_path, data).content["files"]["small.keras"] == other.content["files"]["small.keras"]
    assert with_files(tmp_path, data).content_sha256 != other.content_sha256
