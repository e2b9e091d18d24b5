"""Base models as files: what is whole and safe is fingerprinted, all else is one clear line. No toolchain is imported."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile

import pytest

from converters.base_model import inspect_base, plain_name
from converters.errors import BaseModelError

MEMBERS = {"config.json": b"{}", "metadata.json": b"{}", "model.weights.h5": b"weights" * 100}


def archive(path, members):
    with zipfile.ZipFile(path, "w") as zipped:
        for name, data in members.items():
            zipped.writestr(zipfile.ZipInfo(name), data)
    return path


def h5(path, version, length, stated):
    at = {0: 40, 1: 44, 2: 28, 3: 28}[version]
    head = bytearray(length)
    head[:9] = b"\x89HDF\r\n\x1a\n" + bytes([version])
    head[at : at + 8] = stated.to_bytes(8, "little")
    path.write_bytes(head)
    return path


def test_the_fingerprint_is_of_the_bytes(tmp_path):
    one = inspect_base(archive(tmp_path / "my model.keras", MEMBERS))
    two = inspect_base(archive(tmp_path / "b.keras", MEMBERS), name="x/y")
    three = inspect_base(archive(tmp_path / "c.keras", MEMBERS | {"config.json": b"{ }"}))
    assert (one.kind, one.name, two.name) == ("keras", "my_model", "x_y")
    assert one.sha256 == two.sha256 != three.sha256
    assert one.size_bytes == one.path.stat().st_size


def test_a_saved_model_is_its_files_wherever_it_lies(tmp_path):
    digests = []
    for name in ("a", "b"):
        folder = tmp_path / name
        (folder / "variables").mkdir(parents=True)
        (folder / "saved_model.pb").write_bytes(b"graph")
        (folder / "variables" / "v").write_bytes(b"1")
        digests.append(inspect_base(folder).sha256)
    (tmp_path / "b" / "variables" / "v").rename(tmp_path / "b" / "variables" / "w")
    assert digests[0] == digests[1] != inspect_base(tmp_path / "b").sha256


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_h5_knows_its_own_length(tmp_path, version):
    assert inspect_base(h5(tmp_path / "m.h5", version, 200, 200)).kind == "h5"
    with pytest.raises(BaseModelError, match="truncated"):
        inspect_base(h5(tmp_path / "m.h5", version, 199, 200))


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/../../b", "C:\\evil", "..\\evil"])
def test_paths_that_lead_out_are_refused(tmp_path, name):
    with pytest.raises(BaseModelError, match="leads out of it"):
        inspect_base(archive(tmp_path / "m.keras", MEMBERS | {name: b"x"}))


def test_links_are_refused(tmp_path):
    path = archive(tmp_path / "m.keras", MEMBERS)
    with zipfile.ZipFile(path, "a") as zipped:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        zipped.writestr(link, "/etc/passwd")
    with pytest.raises(BaseModelError, match="leads out of it"):
        inspect_base(path)
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "assets").symlink_to("/etc/hostname")
    with pytest.raises(BaseModelError, match="leads out of the folder"):
        inspect_base(folder)


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("converters.base_model.MAX_UNPACKED_BYTES", 500)
    with pytest.raises(BaseModelError, match="unpacks to more"):
        inspect_base(archive(tmp_path / "m.keras", MEMBERS))


def test_every_cut_of_an_archive_is_found(tmp_path):
    whole = archive(tmp_path / "m.keras", MEMBERS).read_bytes()
    cut = tmp_path / "cut.keras"
    for length in range(0, len(whole), 37):
        cut.write_bytes(whole[:length])
        with pytest.raises(BaseModelError, match="truncated or damaged"):
            inspect_base(cut)
    flipped = bytearray(whole)
    flipped[whole.index(b"weights" * 3)] ^= 1
    cut.write_bytes(flipped)
    with pytest.raises(BaseModelError, match="truncated or damaged"):
        inspect_base(cut)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("m.onnx", "already a converted artifact"),
        ("m.pt", "not .pt"),
        ("m", "without suffix"),
        ("missing.keras", "no such"),
    ],
)
def test_what_is_no_base_is_said_so(tmp_path, name, words):
    path = tmp_path / name
    if "missing" not in name:
        path.write_bytes(b"x")
    with pytest.raises(BaseModelError) as caught:
        inspect_base(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_archive_that_is_no_model(tmp_path):
    with pytest.raises(BaseModelError, match=r"has no model\.weights\.h5"):
        inspect_base(archive(tmp_path / "m.keras", {k: v for k, v in MEMBERS.items() if "weights" not in k}))
    (tmp_path / "folder").mkdir()
    with pytest.raises(BaseModelError, match="without saved_model"):
        inspect_base(tmp_path / "folder")


def test_names_are_safe_in_paths():
    assert [plain_name(text) for text in ("a b", "../..", "", "ü", "mobilenet-v2_1.0")] == [
        "a_b",
        "model",
        "model",
        "model",
        "mobilenet-v2_1.0",
    ]


def test_the_pipeline_imports_no_toolchain():
    code = "import json, sys, converters.pipeline, converters.export.faults; print(json.dumps(sorted(sys.modules)))"
    modules = json.loads(
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    )
    heavy = {
        "tensorflow",
        "keras",
        "onnx",
        "onnxruntime",
        "openvino",
        "nncf",
        "ai_edge_litert",
        "ai_edge_quantizer",
        "scipy",
    }
    assert not heavy & set(modules)
