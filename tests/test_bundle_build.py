"""Building a bundle from real packages: the same bytes twice, whatever the host has lying around; what is in it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from bundle_root import built, order

from harness.devices.bundle import debian, places
from harness.devices.bundle.archive import open_bundle, unpack_bundle
from harness.devices.bundle.build import Order, build_bundle, ensure_bundle
from harness.devices.bundle.lock import Package, encode_lock, load_lock
from harness.devices.bundle.spec import ARCHES
from harness.errors import BundleError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def litert():
    return built("x86_64", "litert")


def test_the_same_bytes_twice_in_another_place(litert, tmp_path, monkeypatch) -> None:
    """Nothing but the downloads is shared: toolbox, layers and folders are made anew elsewhere, under another environment."""
    shutil.copytree(places.downloads_folder(), tmp_path / "cache/ondevice-harness/bundles/downloads")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONHASHSEED", "123")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.chdir(tmp_path)
    before = os.umask(0o077)
    try:
        again = build_bundle(order("x86_64", "litert"), tmp_path / "out" / "x.bundle")
    finally:
        os.umask(before)
    assert again.path == tmp_path / "out" / "x.bundle"
    assert again.digest == litert.digest
    assert again.path.read_bytes() == litert.path.read_bytes()


@pytest.mark.quiet
def test_a_stored_bundle_is_found_again_at_once(litert) -> None:
    import time

    started = time.monotonic()
    assert ensure_bundle(order("x86_64", "litert")) == litert
    assert time.monotonic() - started < 1


def test_what_is_in_it(litert, tmp_path) -> None:
    root = unpack_bundle(litert.path, tmp_path)
    files = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    assert set(files) == {"manifest.json", "complete"} | {
        entry[0] for layer in [litert.manifest["stage1"], *litert.manifest["layers"]] for entry in layer["files"]
    }
    assert not [name for name in files if name.endswith((".py", ".pyi", ".h", ".a"))]
    assert not [path for path in root.rglob("*") if path.is_symlink()]
    compiled = root / "lib/python3.11/json/__init__.pyc"
    head = compiled.read_bytes()[:8]
    assert int.from_bytes(head[4:8], "little") == 0b01, "by hash, and never checked against a source"
    if head[:4] == importlib.util.MAGIC_NUMBER:
        assert str(places.scratch_folder()).encode() not in compiled.read_bytes()
    packages = {package["name"]: package for package in litert.manifest["packages"]}
    locked = load_lock(ARCHES["x86_64"])
    assert {name: package["sha256"] for name, package in packages.items()} == {
        package.name: package.sha256 for package in locked.of("python", "numpy", "litert")
    }
    for package in packages.values():
        assert package["license"]
        assert package["license_files"], package["name"]
        assert all((root / path).is_file() for path in package["license_files"])
    assert "GNU LESSER GENERAL PUBLIC LICENSE" in (root / "licenses/common-licenses/LGPL-2.1").read_text()
    first = sum(entry[1] for entry in litert.manifest["stage1"]["files"])
    assert first < 15e6
    assert litert.manifest["stage1"]["size_bytes"] < 6e6


def test_a_given_python_distribution(tmp_path) -> None:
    """Debian's own packages unpacked stand in for one: bin/ and lib/pythonX.Y in a folder, in an archive."""
    lock = load_lock(ARCHES["x86_64"])
    packages = [package for package in lock.of("python") if "python" in package.name]
    for file in debian.fetch(packages, ARCHES["x86_64"], None).values():
        debian.unpack(file, tmp_path / "unpacked")
    (tmp_path / "unpacked/usr/lib/python3.11/sitecustomize.py").unlink()  # a link to the distribution's /etc
    archive = shutil.make_archive(str(tmp_path / "python"), "gztar", tmp_path / "unpacked", "usr")
    mine = Order("x86_64", ("litert",), distribution=Path(archive), level=1)
    bundle = build_bundle(mine, tmp_path / "given.bundle")
    (given,) = [package for package in bundle.manifest["packages"] if package["kind"] == "given"]
    assert len(given["sha256"]) == 64
    root = unpack_bundle(bundle.path, tmp_path / "work")
    code = (
        "import numpy, ctypes, sys; from ai_edge_litert.interpreter import Interpreter; print(sys.version.split()[0])"
    )
    done = subprocess.run(
        [*bundle.argv(str(root)), "-c", code],
        env=bundle.environment(str(root), str(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith(f"{lock.python}."), done.stderr
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match="holds no Python distribution"):
        build_bundle(Order("x86_64", ("litert",), distribution=tmp_path / "empty"))
    with pytest.raises(BundleError, match="another architecture than aarch64"):
        build_bundle(Order("aarch64", ("litert",), distribution=tmp_path / "unpacked"))


def test_a_locked_version_that_is_gone_is_named(tmp_path) -> None:
    lock = load_lock(ARCHES["x86_64"])
    gone = Package("libc6", "2.36-0", "pool/main/g/glibc/libc6_2.36-0_amd64.deb", "0" * 64, 1, "python")
    changed = tmp_path / "lock.json"
    text = encode_lock(lock)
    (libc,) = [package for package in lock.packages if package.name == "libc6"]
    for old, new in ((libc.version, gone.version), (libc.path, gone.path), (libc.sha256, gone.sha256)):
        text = text.replace(old, new)
    changed.write_text(text)
    with pytest.raises(BundleError, match=r"libc6 2.36-0 \(amd64\) cannot be had") as caught:
        build_bundle(Order("x86_64", ("litert",), lock=changed, level=3))
    assert "harness bundle lock --arch x86_64" in caught.value.remedy


def test_the_bundle_says_what_it_was_made_with(litert) -> None:
    made = litert.manifest["made_with"]
    assert made["level"] == 3
    assert made["toolbox"].startswith("python 3.11")
    assert open_bundle(litert.path).engines == {"litert": load_lock(ARCHES["x86_64"]).of("litert")[0].version}
