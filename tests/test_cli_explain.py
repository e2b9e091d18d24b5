"""`harness explain` from outside: on a stored session with profiles, on artifacts, and what it says when it cannot."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from profile_samples import stored
from sshd import Sshd
from typer.testing import CliRunner

from harness.cli.main import app
from harness.records import PROFILE
from harness.store import Store

DATA = Path(__file__).parent / "data"


def harness(*words: str | Path):
    return CliRunner().invoke(app, ["explain", *map(str, words)])


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A session with profiles; nobody here adds to it."""
    return stored(tmp_path_factory.mktemp("results"))


def refused(done, *said: str) -> None:
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    for text in said:
        assert text in lines[0]


def test_a_stored_session_is_explained_without_a_device(results: Path) -> None:
    done = harness("m.onnx.dynamic", "--results", results)
    assert done.exit_code == 0, done.stderr
    assert "9.4 times slower" in done.stdout
    assert "ConvInteger (86 %)" in done.stdout


def test_json(results: Path) -> None:
    done = harness("m.onnx.dynamic", "--json", "--results", results)
    data = json.loads(done.stdout)
    assert data["direction"] == "slower"
    assert data["base"]["variant"] == "m.onnx.fp32"


def test_the_base_itself_is_explained_alone(results: Path) -> None:
    done = harness("m.onnx.fp32", "--json", "--results", results)
    assert json.loads(done.stdout)["base"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["m.onnx.dynamc"], ["no variant 'm.onnx.dynamc'", "did you mean m.onnx.dynamic"]),
        (["m.onnx.broken"], ["was never made"]),
        (["m.onnx.dynamic", "--against", "m.onnx.f"], ["no variant 'm.onnx.f'", "m.onnx.fp32"]),
        (["m.onnx.dynamic", "--against", "m.tflite.int8"], ["different engines", "harness compare"]),
        (["m.tflite.int8"], ["no fp32 variant in tflite", "give two files"]),
        (["m.onnx.dynamic", "--device", "phone"], ["no device 'phone'", "local"]),
        (["m.onnx.dynamic", "--method", "magic"], ["no method 'magic'", "ablation"]),
        (["m.onnx.dynamic", "--again"], ["files of m.onnx.dynamic", "--artifacts FOLDER"]),
        (["nothing.onnx"], ["no variant 'nothing.onnx', and there is no such file"]),
    ],
)
def test_what_is_wrong_is_said_with_a_remedy(words: list[str], said: list[str], results: Path) -> None:
    refused(harness(*words, "--results", results), *said)


def test_no_session_yet(tmp_path: Path) -> None:
    refused(harness("m.onnx.fp32", "--results", tmp_path), "there are no sessions")
    refused(harness("nothing.tflite", "--results", tmp_path), "nothing.tflite: no such file")


def test_several_devices_are_asked_about(tmp_path: Path) -> None:
    done = harness("m.onnx.dynamic", "--results", stored(tmp_path, devices=("local", "phone")))
    refused(done, "several devices", "local, phone")


def test_files_of_two_formats_are_not_compared() -> None:
    refused(harness(DATA / "tiny.onnx", "--against", DATA / "tiny_fp32.tflite"), "different engines")


def engines(*names: str) -> None:
    for name in names:
        pytest.importorskip(name, reason=f"{name} is missing")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "base", "package", "method"),
    [
        ("tiny_qdq.onnx", "tiny.onnx", "onnxruntime", "auto"),
        ("tiny_int8.tflite", "tiny_fp32.tflite", "ai_edge_litert", "profiler"),
        ("tiny_dynamic.tflite", "tiny_fp32.tflite", "ai_edge_litert", "ablation"),
        ("tiny_ov_int8.xml", "tiny_ov.xml", "openvino", "auto"),
    ],
)
def test_real_engines_on_artifacts(variant: str, base: str, package: str, method: str, tmp_path: Path) -> None:
    engines(package)
    done = harness(
        DATA / variant, "--against", DATA / base, "--json", "--runs", "1", "--method", method, "--results", tmp_path
    )
    assert done.exit_code == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["variant"]["operators"] >= 2
    # LiteRT tells whole µs, rounded down: so small a model may take none.
    assert data["variant"]["operators_ns"] > 0 or method == "profiler"
    assert data["variant"]["latency_ns"] > 0
    assert {"compute"} <= set(data["variant"]["roles"])
    assert ("ablation" in data["variant"]["method"]) == (method == "ablation")
    assert sum(item["share"] for item in data["types"]) == pytest.approx(1 if data["variant"]["operators_ns"] else 0)
    assert list(tmp_path.iterdir()) == []  # nothing is stored of bare files


@pytest.mark.slow
def test_profiles_are_added_to_a_session_and_change_no_row(tmp_path: Path) -> None:
    engines("onnxruntime")
    models = tmp_path / "models"
    models.mkdir()
    for name in ("tiny.onnx", "tiny_qdq.onnx"):
        shutil.copy(DATA / name, models)
    results = tmp_path / "results"
    runner = CliRunner()
    done = runner.invoke(
        app, ["bench", *map(str, sorted(models.iterdir())), "--runs", "1", "--results", str(results), "--json"]
    )
    assert done.exit_code == 0, done.stderr
    rows = json.loads(runner.invoke(app, ["table", "--json", "--results", str(results)]).stdout)
    words = ("tiny_qdq.onnx", "--against", "tiny.onnx", "--results", results, "--json", "--runs", "1")
    first = json.loads(harness(*words).stdout)
    with Store.open(results / "harness.sqlite") as store:
        runs = [run for run in store.load(store.resolve("latest")).runs if run.kind == PROFILE]
    assert {profile.variant for run in runs for profile in run.profiles} == {"tiny.onnx", "tiny_qdq.onnx"}
    assert all(len(o.times_ns) == len(p.profiled_ns) for run in runs for p in run.profiles for o in p.operators)
    # From the store now, to the last digit, although the files are gone; and the table is what it was.
    shutil.rmtree(models)
    assert json.loads(harness(*words).stdout) == first
    assert json.loads(runner.invoke(app, ["table", "--json", "--results", str(results)]).stdout) == rows
    refused(harness(*words, "--again"), "gone or changed", "--artifacts")
    assert (
        harness(*words, "--again", "--artifacts", DATA / "tiny.onnx", "--artifacts", DATA / "tiny_qdq.onnx").exit_code
        == 0
    )


@pytest.mark.slow
def test_a_model_that_cannot_be_profiled_is_told_with_the_engines_words(tmp_path: Path) -> None:
    engines("onnxruntime")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    done = harness(broken, "--runs", "1")
    assert done.exit_code == 2
    assert "broken.onnx could not be profiled" in done.stderr
    assert "convert it again" in done.stderr


@pytest.mark.slow
@pytest.mark.ssh
def test_a_profile_over_ssh(sshd: Sshd, tmp_path: Path) -> None:
    engines("onnxruntime")
    profile = tmp_path / "board.yaml"
    described = sshd.profile(python=sys.executable).model_dump(mode="json", exclude_defaults=True)
    profile.write_text(json.dumps(described), encoding="utf-8")  # JSON is YAML
    done = harness(DATA / "tiny_qdq.onnx", "--device", profile, "--json", "--runs", "1")
    assert done.exit_code == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["device"] == "loopback"
    assert data["variant"]["operators"] == 6
