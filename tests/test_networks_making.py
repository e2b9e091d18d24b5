"""Compact networks as files: built and trained in a worker process, and resumed when that was cut off."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from harness.cli import networks
from harness.cli.main import app

pytestmark = [pytest.mark.compression, pytest.mark.slow]
pytest.importorskip("keras")


def arrays(rows: int = 120) -> dict[str, np.ndarray]:
    """Noisy 8×8 images whose brighter half is the class."""
    rng = np.random.default_rng(0)
    y = np.arange(rows) % 2
    x = rng.normal(0, 0.3, (rows, 8, 8)).astype(np.float32)
    x[y == 1, :4] += 1
    x[y == 0, 4:] += 1
    # Its own, else calibration would take all the training rows there are.
    return {"x_train": x[:90], "y_train": y[:90], "x_test": x[100:], "y_test": y[100:], "calibration": x[90:100]}


def test_the_command_trains_a_network_and_goes_on_after_an_interruption(tmp_path: Path, monkeypatch):
    np.savez(tmp_path / "d.npz", **arrays())
    out = tmp_path / "m.keras"
    words = ["networks", "squeezenet", "--width", "0.25", "--data", str(tmp_path / "d.npz"), "--epochs", "40"]

    def interrupt(text: str) -> None:
        if "epoch 1" in text:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(networks, "_quiet", interrupt)
        done = CliRunner().invoke(app, [*words, "--out", str(out), "--json"])
    assert done.exit_code == 130, done.output
    assert not out.exists()
    assert not list(tmp_path.glob(".m.keras.*/data-*"))
    done = CliRunner().invoke(app, [*words, "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert 1 <= report["resumed"] < report["epochs"] <= 40
    assert (report["input_shape"], report["classes"]) == ([8, 8, 1], 2)
    assert report["train_rows"] + report["validation_rows"] <= 90
    assert 0 <= report["validation_score"] <= 1
    assert report["size_bytes"] == out.stat().st_size
    assert report["macs"] > 0
    # Nothing is left beside the model.
    assert {path.name for path in tmp_path.iterdir()} == {"d.npz", "m.keras"}
