"""The command line from outside: help, exit codes, one-line errors, clean stdout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow  # each test starts the command anew

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "harness" / "demo"
ONNX = sorted((ROOT / "tests" / "data").glob("*.onnx"))
COMMANDS = (
    "demo",
    "convert",
    "decode",
    "run",
    "bench",
    "table",
    "report",
    "choose",
    "compare",
    "explain",
    "export",
    "import",
    "devices",
    "doctor",
)


def harness(*words: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder of its own."""
    argv = [sys.executable, "-m", "harness.cli.main", *map(str, words)]
    return subprocess.run(
        argv,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "COLUMNS": "120", **env},
    )


def refused(done: subprocess.CompletedProcess[str], *said: str) -> None:
    """The user's input was wrong: exit code 2, one line, no traceback, nothing on stdout."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.strip().splitlines() if not line.startswith("converting ")]
    assert len(lines) == 1, done.stderr
    for text in said:
        assert text in lines[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, tmp_path: Path) -> None:
    done = harness(command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "Usage" in done.stdout


def test_version(tmp_path: Path) -> None:
    done = harness("--version", cwd=tmp_path)
    assert done.stdout.startswith("ondevice-harness 0.")


def test_no_sessions_yet(tmp_path: Path) -> None:
    refused(harness("table", cwd=tmp_path), "there are no sessions in results", "harness demo")


def test_missing_artifact(tmp_path: Path) -> None:
    refused(harness("bench", "nothing.tflite", cwd=tmp_path), "nothing.tflite: no such file")


def test_not_an_artifact(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    refused(harness("bench", "notes.txt", cwd=tmp_path), "not an artifact")


def test_weights_of_openvino_missing(tmp_path: Path) -> None:
    (tmp_path / "m.xml").write_text("<net/>")
    refused(harness("bench", "m.xml", cwd=tmp_path), "its weights m.bin are missing")


def test_unknown_device(tmp_path: Path) -> None:
    refused(harness("bench", ONNX[0], "--device", "locl", cwd=tmp_path), "did you mean 'local'?")


def test_unknown_preset(tmp_path: Path) -> None:
    refused(harness("bench", ONNX[0], "--preset", "quik", cwd=tmp_path), "preset")


def test_misspelt_key_in_an_experiment(tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text("base: m.keras\nrecipies: all\n")
    refused(harness("run", "e.yaml", cwd=tmp_path), "e.yaml:2: unknown key 'recipies' — did you mean 'recipes'?")


def test_missing_experiment(tmp_path: Path) -> None:
    refused(harness("run", "e.yaml", cwd=tmp_path), "e.yaml: no such file")


def test_missing_base(tmp_path: Path) -> None:
    refused(harness("convert", "m.keras", "--out", "o", cwd=tmp_path), "m.keras: no such file")


def test_truncated_base(tmp_path: Path) -> None:
    (tmp_path / "m.keras").write_bytes((DEMO / "model.keras").read_bytes()[:5000])
    refused(harness("convert", "m.keras", "--out", "o", cwd=tmp_path), "m.keras")


def test_recipe_that_does_not_exist(tmp_path: Path) -> None:
    done = harness("convert", DEMO / "model.keras", "--out", "o", "--recipes", "static_wi8_a8", cwd=tmp_path)
    refused(done, "static_wi8_a8", "did you mean")


def data(path: Path, **changes: object) -> Path:
    """The demo's data with changes, as an .npz."""
    with np.load(DEMO / "data.npz", allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    arrays.update(changes)  # type: ignore[arg-type]
    np.savez(path, **arrays)
    return path


@pytest.mark.convert
def test_data_of_a_wrong_shape(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 255, (1200, 20, 20), np.uint8)
    path = data(tmp_path / "d.npz", x_test=rows[:1000], calibration=rows[1000:])
    done = harness(
        "convert", DEMO / "model.keras", "--data", path, "--out", "o", "--recipes", "onnx:fp32", cwd=tmp_path
    )
    refused(done, "20", "28")


def test_labels_out_of_range(tmp_path: Path) -> None:
    path = data(tmp_path / "d.npz", y_test=np.full(1000, 12))
    done = harness(
        "convert", DEMO / "model.keras", "--data", path, "--out", "o", "--recipes", "onnx:fp32", cwd=tmp_path
    )
    refused(done, "12")


def test_nan_in_calibration(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).random((1200, 28, 28), np.float32)
    rows[1100] = np.nan
    path = data(tmp_path / "d.npz", x_test=rows[:1000], calibration=rows[1000:])
    done = harness(
        "convert", DEMO / "model.keras", "--data", path, "--out", "o", "--recipes", "onnx:fp32", cwd=tmp_path
    )
    refused(done, "NaN")


def test_missing_data(tmp_path: Path) -> None:
    done = harness("convert", DEMO / "model.keras", "--data", "d.npz", "--out", "o", cwd=tmp_path)
    refused(done, "d.npz: no such file")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one session of a tiny model in `results`."""
    folder = tmp_path_factory.mktemp("measured")
    done = harness("bench", ONNX[0], "--run-s", "0.01", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["status"] == "ok"
    assert row["runs"] == 6
    return folder


def test_table_as_json_csv_and_markdown(measured: Path) -> None:
    rows = json.loads(harness("table", "--json", cwd=measured).stdout)
    assert [row["engine"] for row in rows] == ["onnxruntime"]
    header = harness("table", "latest", "--csv", cwd=measured).stdout.splitlines()[0]
    assert header.split(",") == list(rows[0])
    assert "| " in harness("table", "--markdown", cwd=measured).stdout
    assert harness("table", "--csv", "--json", cwd=measured).returncode == 2


def test_reports_were_written(measured: Path) -> None:
    (session,) = json.loads(harness("table", "--list", "--json", cwd=measured).stdout)
    folder = measured / "results" / session["id"]
    assert {"report.html", "report.md", "rows.csv", "rows.json", "harness.log"} <= {p.name for p in folder.iterdir()}


def test_choose_meets_or_misses_a_limit(measured: Path) -> None:
    assert harness("choose", "--max-latency", "10s", cwd=measured).returncode == 0
    done = harness("choose", "latest", "--max-latency-p90", "1ns", cwd=measured)
    assert done.returncode == 1
    assert ONNX[0].name in done.stdout


def test_choose_refuses_a_limit_without_unit(measured: Path) -> None:
    refused(harness("choose", "--max-size", "12", cwd=measured), "write it like 500kB")


def test_unknown_session(measured: Path) -> None:
    refused(harness("table", "nosuch", cwd=measured), "nosuch")


def test_garbage_artifacts_cost_a_row_each(tmp_path: Path) -> None:
    for suffix in ("tflite", "onnx"):
        (tmp_path / f"garbage.{suffix}").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "garbage.xml").write_text("<net")
    (tmp_path / "garbage.bin").write_bytes(b"")
    words = ["garbage.tflite", "garbage.onnx", "garbage.xml", ONNX[0], "--run-s", "0.01", "--json"]
    done = harness("bench", *words, cwd=tmp_path)
    assert done.returncode == 4, done.stderr
    rows = {row["variant"]: row for row in json.loads(done.stdout)}
    assert [row["status"] for row in rows.values()].count("failed") == 3
    assert all(row["error"] for row in rows.values() if row["status"] == "failed")
    assert rows[ONNX[0].name]["status"] == "ok"
