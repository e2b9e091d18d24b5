"""`harness search` at the command line: what goes wrong and how it is said; what is shown of a study; and one real, tiny search."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tune_lab import experiment_text, write_data
from typer.testing import CliRunner

from converters.search.trial import Candidate, Constraint, Objective, Outcome, Rung, Trial
from harness.cli.main import app
from harness.report.search import StudyView, best_words, figure, render_search, view_to_dict
from harness.report.search_figures import front_figure, parallel_figure, progress_figure
from harness.report.search_page import render_csv, render_search_page, write_search
from harness.store import Store
from harness.store.studies import SqlMemory, StudyRecord, add_study

ACCURACY, LATENCY = Objective("accuracy", "maximise"), Objective("latency_ns", "minimise")
LIMIT = Constraint("accuracy_drop_pp", "<=", 1.0)


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    write_data(tmp_path / "data.npz")
    path = tmp_path / "experiment.yaml"
    path.write_text(experiment_text("  sampler: random\n  trials: 2\n"), encoding="utf-8")
    return path


def search(path: Path, *words: str):
    return CliRunner().invoke(app, ["search", str(path), "--results", str(path.parent / "results"), *words])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--sampler", "bayes"], "command line: sampler"),
        (["--budget", "soon"], "'soon' is no time"),
        (["--resume", "latest"], "there are no studies in the store"),
        (["--device", "nowhere"], "no device profile is called 'nowhere'"),
    ],
)
def test_what_the_user_got_wrong_is_said_in_a_line(experiment: Path, words: list[str], said: str) -> None:
    done = search(experiment, *words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_without_a_search_and_one_without_a_base(experiment: Path) -> None:
    experiment.write_text("base: m.keras\n", encoding="utf-8")
    assert "there is no 'search' section" in search(experiment).stderr
    experiment.write_text(experiment_text().replace("base: ", "base: /nowhere"), encoding="utf-8")
    done = search(experiment)
    assert (done.exit_code, "no such file or folder" in done.stderr) == (2, True)


def test_a_study_goes_on_only_as_the_same_search(experiment: Path) -> None:
    results = experiment.parent / "results"
    results.mkdir()
    with Store.open(results / "harness.sqlite") as store:
        add_study(
            store, StudyRecord("20260101-shop-search-1", "shop", "0" * 64, {"objectives": ["accuracy"], "seed": 0})
        )
    done = search(experiment, "--resume", "shop")
    assert done.exit_code == 2
    assert "is of another search" in done.stderr
    assert "objectives" in done.stderr


def trial(number: int, state: str, accuracy: float | None, latency: float | None, **values: float | str) -> Trial:
    metrics = {
        "accuracy": accuracy,
        "latency_ns": latency,
        "accuracy_drop_pp": None if accuracy is None else 92 - 100 * accuracy,
    }
    intervals = {} if latency is None else {"latency_ns": (latency * 0.98, latency * 1.02)}
    outcome = Outcome(state, metrics, {}, intervals, "<b>the tool</b> died" if state == "failed" else None)  # type: ignore[arg-type]
    found = Candidate(values, f"prune({values.get('ratio', 0)}) @ tflite", f"k{number}")
    rungs = (Rung(0.25, {"accuracy": 0.5}),) if state == "pruned" else ()
    return Trial(number, found, outcome, 0.25 if state == "pruned" else 1.0, 2.0, None, rungs)


@pytest.fixture
def view() -> StudyView:
    trials = (
        trial(0, "complete", 0.92, 2.0e6, recipe="a", ratio=0.1),
        trial(1, "complete", 0.915, 1.0e6, recipe="b", by="l2"),
        trial(2, "complete", 0.80, 0.5e6, recipe="a", ratio=0.9),
        trial(3, "failed", None, None, recipe="a", ratio=0.5),
        trial(4, "pruned", 0.4, None, recipe="b", by="taylor"),
    )
    document = {
        "sampler": "tpe",
        "judged_by": "validation rows",
        "judged_rows": 500,
        "base": "<i>m</i>",
        "device_name": "local",
    }
    return StudyView(
        "s1", "shop", "2026-01-01T10:00", (ACCURACY, LATENCY), (LIMIT,), trials, (0, 1), (1,), document, "done"
    )


def test_the_text_has_front_and_verdicts(view: StudyView) -> None:
    text = render_search(view)
    assert "shop: 5 trials (3 complete, 1 given up early, 1 failed) by tpe, 10 s of work" in text
    assert "the 500 validation rows, which no test row is among" in text
    assert "★     1  prune(0) @ tflite" in text
    assert "1.00 ms [0.98–1.02]" in text
    assert "accuracy_drop_pp ≤ 1.00 pp: kept by 2 of 3 complete trials" in text
    assert "1 × <b>the tool</b> died" in text
    assert text.index("0  prune(0.1)") < text.index("1  prune(0)")


def test_where_nothing_keeps_the_limits_the_nearest_is_told(view: StudyView) -> None:
    hard = StudyView(
        view.id, view.name, "", view.objectives, (Constraint("accuracy_drop_pp", "<=", -1.0),), view.trials, ()
    )
    text = render_search(hard)
    assert "No trial keeps all constraints." in text
    assert "kept by 0 of 3 complete trials; the nearest misses it by 1.00 pp" in text
    assert "No trial came to its end." in render_search(StudyView("s", "n", "", (ACCURACY,), (), (), ()))


def test_the_best_so_far_in_a_few_words(view: StudyView) -> None:
    assert best_words(view.objectives, view.on_front()) == "front of 2: accuracy 92.00 %, latency_ns 1.00 ms at best"
    assert best_words((LATENCY,), [view.trials[1]]) == "best latency_ns 1.00 ms"
    assert best_words((LATENCY,), []) == "none keeps all limits yet"


@pytest.mark.parametrize(
    ("metric", "value", "words"),
    [
        ("size_bytes", 95_100.0, "95.1 kB"),
        ("accuracy", 0.9, "90.00 %"),
        ("macs", 5000.0, "5,000"),
        ("energy_total_uj", 812.0, "812 µJ"),
        ("latency_ratio", 0.5, "0.5"),
        ("accuracy_drop_pp", None, "n/a"),
    ],
)
def test_figures_have_their_units(metric: str, value: float | None, words: str) -> None:
    assert figure(metric, value) == words


def test_the_page_has_everything_and_trusts_nothing(view: StudyView, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("plotly")
    page = render_search_page(view, [0.92, 0.92, 0.92, 0.92, 0.92])
    body = page[: page.index('id="library"')]
    assert "<b>the tool</b>" not in body
    assert "&lt;b&gt;the tool&lt;/b&gt; died" in body
    assert "&lt;i&gt;m&lt;/i&gt;" in body
    assert body.count("data-plot=") == 3
    assert "given up early at 25% of the training rows" in body
    assert set(write_search(view, [None] * 5, tmp_path)) == {"json", "csv", "html"}
    assert json.loads((tmp_path / "study.json").read_text())["front"] == [0, 1]


def test_the_figures_join_the_front_and_draw_each_trial_once(view: StudyView) -> None:
    made = front_figure(view, LATENCY, ACCURACY)
    assert made is not None
    by_name = {trace["name"]: trace for trace in made["data"]}
    assert by_name["Pareto front"]["x"] == [1.0, 2.0]
    assert by_name["Pareto front"]["y"] == [91.5, 92.0]
    assert by_name["Pareto front"]["line"]["shape"] == "hv"
    assert by_name["misses a constraint"]["x"] == [0.5]
    lines = parallel_figure(view)
    assert lines is not None
    assert len(lines["data"]) == 3
    assert lines["layout"]["xaxis"]["ticktext"] == ["recipe", "ratio", "by", "accuracy", "latency_ns"]
    # What is not at work in a trial has a place of its own, below all values.
    places = {trace["y"][1] for trace in lines["data"]}
    assert 0.0 in places
    assert all(0.0 <= y <= 1.0 for trace in lines["data"] for y in trace["y"])
    steps = progress_figure(view, [0.92, 0.92, 0.92, 0.92, 0.92])
    assert steps is not None
    assert front_figure(StudyView("s", "n", "", (ACCURACY, LATENCY), (), (), ()), LATENCY, ACCURACY) is None
    assert parallel_figure(StudyView("s", "n", "", (ACCURACY,), (), view.trials[:1], ())) is None


def test_csv_and_json_are_flat(view: StudyView) -> None:
    lines = render_csv(view).splitlines()
    assert lines[0].startswith("trial,state,feasible,on_front,recipe,")
    assert lines[0].endswith("parameter recipe,parameter ratio,parameter by,accuracy,accuracy_drop_pp,latency_ns")
    assert lines[2].startswith("1,complete,True,True,")
    document = view_to_dict(view)
    assert document["constraints"] == [{"metric": "accuracy_drop_pp", "relation": "<=", "bound": 1.0, "kept": 2}]
    assert [item["feasible"] for item in document["trials"]] == [True, True, False, False, False]


def test_a_stored_study_is_reported_again(tmp_path: Path) -> None:
    with Store.open(tmp_path / "harness.sqlite") as store:
        document = {
            "objectives": ["accuracy", "latency_ns"],
            "constraints": ["accuracy_drop_pp <= 1"],
            "sampler": "tpe",
        }
        add_study(store, StudyRecord("20260101-shop-search-1", "shop", "0" * 64, document))
        memory = SqlMemory(store, "20260101-shop-search-1")
        found = trial(0, "complete", 0.92, 2.0e6, recipe="a", ratio=0.1)
        memory.begin(found.candidate)
        memory.end(found)
    done = CliRunner().invoke(app, ["report", "--study", "shop", "--results", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    written = json.loads(Path(json.loads(done.stdout)["json"]).read_text())
    assert (written["front"], written["trials"][0]["metrics"]["latency_ns"]) == ([0], 2.0e6)
    unknown = CliRunner().invoke(app, ["report", "--study", "shpo", "--results", str(tmp_path)])
    assert (unknown.exit_code, "did you mean 'shop'" in unknown.stderr) == (2, True)


@pytest.mark.convert
@pytest.mark.compression
def test_a_real_search_ends_and_repeats_nothing(tmp_path: Path) -> None:
    """A trial of the demo's model, converted, asked and measured beside the base; then the same study again."""
    from importlib import resources

    demo = Path(str(resources.files("harness.demo")))
    path = tmp_path / "experiment.yaml"
    path.write_text(
        f"name: tiny\nbase: {demo / 'model.keras'}\nbase_name: m\nseed: 3\n"
        f"data: {{path: {demo / 'data.npz'}, limit: 50, preprocessing: {{scale: 0.00392156862745098}}}}\n"
        "search:\n  recipes: ['{precision} @ tflite']\n"
        "  parameters: {precision: {choice: [static_wi8_ai8]}}\n"
        "  objectives: [accuracy, size_bytes]\n  constraints: ['latency_ratio <= 50']\n  sampler: grid\n  trials: 1\n"
        "  protocol: {preset: quick, runs: 3, max_runs: 3, rounds: 2, run_s: 0.02}\n  keep: 0\n",
        encoding="utf-8",
    )
    done = search(path, "--json")
    assert done.exit_code == 0, done.stderr
    first = json.loads(done.stdout)
    (found,) = first["trials"]
    assert (found["state"], found["feasible"], found["variant"]) == ("complete", True, "m.tflite.static_wi8_ai8")
    metrics = found["metrics"]
    assert metrics["accuracy"] > 0.8
    assert metrics["macs"] > 0
    low, high = found["intervals"]["latency_ratio"]
    assert 0 < low <= metrics["latency_ratio"] <= high
    assert first["document"]["judged_by"] == "calibration rows"
    again = json.loads(search(path, "--resume", "latest", "--json").stdout)
    assert (again["study"], again["trials"]) == (first["study"], first["trials"])
