"""`harness decode`: entropy-coded weights become the model again, and what is no such thing is refused in a line."""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from converters import decoding, entropy_file
from converters.decoding import CodedModel, find_coded
from converters.errors import ConversionInputError
from converters.variant import Manifest, save_manifest, sha256_file
from converters.worker_process import Limits, WorkerLostError
from harness.cli.main import app

HARMLESS = json.dumps({"class_name": "Functional", "config": {}})


def coded(folder: Path, number: str = "", architecture: str = HARMLESS) -> Path:
    """Both files, as a step leaves them; the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    entropy_file.write(folder / f"{number}weights.huf", {"w": np.arange(12, dtype=np.float32).reshape(3, 4)})
    (folder / f"{number}architecture.json").write_text(architecture)
    return folder


def variant(folder: Path, *extras: str) -> Path:
    """A variant's folder whose manifest names the files that lie in it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.tflite").write_bytes(b"TFL3")
    files = {"model.tflite": sha256_file(folder / "model.tflite")}
    manifest = Manifest(
        name="m.tflite.entropy+fp32",
        format="tflite",
        artifact="model.tflite",
        files=files,
        signature=None,
        size_bytes=4,
        size_gzip_bytes=24,
        extras={name: sha256_file(folder / name) for name in extras},
    )
    save_manifest(folder, manifest)
    return folder


def refused(*words: str | Path) -> str:
    """What the command says when the input is wrong: exit code 2, one line, nothing on stdout."""
    done = CliRunner().invoke(app, ["decode", *map(str, words)])
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


def test_the_files_are_found_where_steps_leave_them(tmp_path: Path) -> None:
    plain = coded(tmp_path / "plain")
    both = CodedModel(plain / "weights.huf", plain / "architecture.json")
    assert find_coded(plain) == find_coded(plain / "weights.huf") == both
    folder = coded(coded(coded(tmp_path / "v"), "2_"), "10_")
    names = [f"{number}{name}" for number in ("", "2_", "10_") for name in ("weights.huf", "architecture.json")]
    variant(folder, *names)
    # Of several codings of one chain, the last.
    last = CodedModel(folder / "10_weights.huf", folder / "10_architecture.json", "m.tflite.entropy+fp32")
    assert find_coded(folder) == last
    assert find_coded(folder / "2_weights.huf").architecture == folder / "2_architecture.json"
    elsewhere = tmp_path / "other.json"
    elsewhere.write_text(HARMLESS)
    assert find_coded(plain / "weights.huf", elsewhere).architecture == elsewhere


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    out = tmp_path / "m.keras"
    assert "no such file or folder" in refused(tmp_path / "none", "--out", out)
    assert "has no entropy-coded weights — convert with the step entropy" in refused(variant(tmp_path / "v"), "-o", out)
    empty = tmp_path / "variants"
    coded(empty / "one")
    assert "there is no weights.huf in it; there is in one" in refused(empty, "--out", out)
    (empty / "one" / "architecture.json").unlink()
    assert "give the architecture.json" in refused(empty / "one", "--out", out)
    folder = coded(tmp_path / "plain")
    assert "saved as a .keras file" in refused(folder, "--out", tmp_path / "m.h5")
    (tmp_path / "folder.keras").mkdir()
    assert "a folder of that name" in refused(folder, "--out", tmp_path / "folder.keras")
    wrong = CliRunner().invoke(app, ["decode", str(folder), "--out", str(out), "--limit", "4"])
    assert wrong.exit_code == 2
    assert not out.exists()


def test_damaged_and_hostile_files_are_refused_before_any_toolchain(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(decoding, "WorkerProcess", None)
    out = tmp_path / "m.keras"
    folder = coded(tmp_path / "v")
    variant(folder, "weights.huf", "architecture.json")
    whole = (folder / "weights.huf").read_bytes()
    assert "unfold to more bytes than allowed" in refused(folder, "--out", out, "--limit", "47B")
    (folder / "weights.huf").write_bytes(whole + b"x")
    assert "does not have the sha256 the manifest names" in refused(folder, "--out", out)
    (folder / "variant.json").unlink()
    assert "its SHA-256 is another" in refused(folder, "--out", out)
    (folder / "weights.huf").write_bytes(b"PK" + whole[2:])
    assert "not a file of entropy-coded weights" in refused(folder, "--out", out)
    # One tensor of 2^40 values of which none is stored, in a file that is in order otherwise.
    directory = b"\x01\x01w\x00\x01" + b"\x80\x80\x80\x80\x80\x20" + b"\x01\x00\x00\x00"
    packed = zlib.compress(directory)
    body = len(directory).to_bytes(4, "little") + len(packed).to_bytes(4, "little") + packed
    bomb = whole[:8] + b"\x01" + hashlib.sha256(body).digest() + body
    (folder / "weights.huf").write_bytes(bomb)
    told = refused(folder, "--out", out)
    assert "may be" in told or "more bytes than allowed" in told
    (folder / "weights.huf").write_bytes(whole)
    for text, words in (("{", "not JSON"), ("[" * 200_000, "not JSON"), ("[]", "not a model's architecture")):
        (folder / "architecture.json").write_text(text)
        assert words in refused(folder, "--out", out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v"]


class Worker:
    """Stands for the process; `outcome`: what comes of asking it."""

    outcome: dict[str, Any] | Exception = AssertionError("no outcome was set")

    def __init__(self, _name: str, _config: Any, folder: Path, limits: Limits, *_: Any) -> None:
        self.folder, self.limits = folder, limits

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        assert self.limits.memory_bytes == (2 << 30) + 8 * 48
        if isinstance(self.outcome, Exception):
            raise self.outcome
        Path(job["request"]["out"]).write_bytes(b"made")
        return self.outcome

    def close(self) -> None:
        """It has nothing to end."""

    kill = close


@pytest.mark.parametrize(
    ("outcome", "code", "words"),
    [
        ({"ok": True}, 0, ""),
        ({"ok": False, "kind": "input", "message": "Keras cannot build it", "remedy": None}, 2, "cannot build"),
        ({"ok": False, "kind": "missing", "message": "no keras", "remedy": "install"}, 3, "no keras — install"),
        (WorkerLostError("Crashed", "killed by SIGSEGV", None), 3, "SIGSEGV"),
        (WorkerLostError("OutOfMemory", "out of memory", None), 2, "more memory than its 48 bytes of weights explain"),
    ],
)
def test_what_the_worker_says_becomes_an_exit_code(
    outcome: Any, code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Worker, "outcome", outcome)
    monkeypatch.setattr(decoding, "WorkerProcess", Worker)
    out = tmp_path / "m.keras"
    out.write_bytes(b"old")
    done = CliRunner().invoke(app, ["decode", str(coded(tmp_path / "v")), "--out", str(out), "--json"])
    assert done.exit_code == code, done.output
    assert words in done.stderr
    assert out.read_bytes() == (b"made" if code == 0 else b"old")
    # Nothing is left beside it.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.keras", "v"]
    if code == 0:
        report = json.loads(done.stdout)
        assert (report["parameters"], report["weights_bytes"], report["tensors"]) == (12, 48, 1)
        assert report["ratio"] == 48 / report["size_entropy_bytes"]


@pytest.mark.compression
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_the_model_comes_back_bit_for_bit(tmp_path: Path) -> None:
    import keras
    from keras import layers

    from converters.compress import entropy
    from converters.compress.context import Context

    keras.utils.set_random_seed(0)
    i = keras.Input((6,))
    model = keras.Model(i, layers.Dense(3)(layers.BatchNormalization()(layers.Dense(8, name="first")(i))))
    step = tmp_path / "step"
    step.mkdir()
    context = Context(None, None, lambda: None, step, seed=1, say=lambda _: None)  # type: ignore[arg-type]
    names = entropy.apply(model, {}, context).files
    folder = variant(step / "keep", *names)
    out = tmp_path / "again" / "m.keras"
    done = CliRunner().invoke(app, ["decode", str(folder), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert f"{out}: {model.count_params()} parameters, {4 * model.count_params()} B of weights out of " in done.stdout
    again = keras.models.load_model(out, compile=False)
    for before, after in zip(model.weights, again.weights, strict=True):
        assert np.asarray(before).tobytes() == np.asarray(after).tobytes()
    assert [path.name for path in out.parent.iterdir()] == ["m.keras"]
    # The same files give the same bytes, here too.
    entropy.rebuild(folder / names[0], folder / names[1], tmp_path / "twice.keras")
    assert (tmp_path / "twice.keras").read_bytes() == out.read_bytes()


@pytest.mark.compression
def test_an_architecture_that_keras_breaks_at_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("keras")
    from converters.compress.entropy import rebuild

    shape: Any = None
    for _ in range(250):
        shape = {"module": "keras", "class_name": "Sequential", "config": {"layers": [shape]}, "registered_name": None}
    enormous = {
        "module": "keras",
        "class_name": "Sequential",
        "registered_name": None,
        "config": {
            "layers": [
                {"module": "keras.layers", "class_name": "InputLayer", "config": {"batch_shape": [None, 2]}},
                {"module": "keras.layers", "class_name": "Dense", "config": {"units": 10**18}},
            ]
        },
    }
    for told in (shape, enormous, {"module": "builtins", "class_name": "eval", "config": "1"}):
        folder = coded(tmp_path / "v", architecture=json.dumps(told))
        with pytest.raises(ConversionInputError, match="Keras cannot build it"):
            rebuild(folder / "weights.huf", folder / "architecture.json", tmp_path / "x.keras")
    assert not (tmp_path / "x.keras").exists()
