"""The bundle's parts without building one: what may go in, locks, ELF files, trimming, the file format, deploying, cleaning."""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import sys
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from harness.devices import on_device
from harness.devices.bundle import debian, wheels
from harness.devices.bundle.archive import MANIFEST, STAGE1, Bundle, encode_manifest, open_bundle, write_tar
from harness.devices.bundle.clean import clean
from harness.devices.bundle.deploy import deploy_bundle, runtime_of
from harness.devices.bundle.elf import is_elf, read_elf
from harness.devices.bundle.lock import Lock, Package, decode_lock, encode_lock, load_lock
from harness.devices.bundle.pack import split_first_stage
from harness.devices.bundle.places import built_folder
from harness.devices.bundle.spec import ARCHES, arch_of, check_engines
from harness.devices.bundle.store import bundle_for, find, latest
from harness.devices.bundle.trim import EVERYWHERE, OF_PACKAGE, STDLIB, left_out, patterns_of
from harness.devices.transport.base import Completed
from harness.devices.transport.fake import Call, FakeTransport
from harness.devices.transport.local import LocalTransport
from harness.errors import BundleError, DeviceError, PackageGoneError, SpecError
from harness.profiles import DeviceProfile


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


# -- what may go in ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("said", "name"), [("aarch64", "aarch64"), ("arm64", "aarch64"), ("armv8l", "armv7l")])
def test_an_architecture_is_known_by_what_devices_call_it(said, name) -> None:
    assert arch_of(said).name == name


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(SpecError, match="riscv64"):
        arch_of("riscv64")


def test_an_engine_without_wheels_is_refused_by_name_with_the_reason() -> None:
    with pytest.raises(
        SpecError, match="openvino cannot be put into a bundle for armv7l: its makers publish no wheel"
    ) as caught:
        check_engines(ARCHES["armv7l"], ["litert", "openvino"])
    assert caught.value.remedy == "build with --engines litert"
    with pytest.raises(SpecError, match="there is no engine"):
        check_engines(ARCHES["aarch64"], ["litrt"])
    assert check_engines(ARCHES["aarch64"], ["openvino", "litert", "openvino"]) == ("litert", "openvino")


def test_the_commands_say_it_too(tmp_path) -> None:
    from harness.cli.main import app

    done = CliRunner().invoke(app, ["bundle", "build", "--arch", "armv7l", "--engines", "onnxruntime"])
    assert done.exit_code == 2
    assert "onnxruntime cannot be put into a bundle for armv7l" in done.output
    empty = CliRunner().invoke(app, ["bundle", "list"])
    assert empty.exit_code == 0
    assert "harness bundle build" in empty.output
    assert CliRunner().invoke(app, ["bundle", "show", "abc"]).exit_code == 2
    assert CliRunner().invoke(app, ["bundle", "remove"]).exit_code == 2


# -- locks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(ARCHES))
def test_the_shipped_locks_are_whole(name) -> None:
    arch = ARCHES[name]
    lock = load_lock(arch)
    assert decode_lock(encode_lock(lock), "again") == lock
    assert {package.part for package in lock.packages} == {"python", "numpy", *arch.engines}
    for package in lock.packages:
        assert len(package.sha256) == 64
        assert package.size_bytes > 0
        assert not package.path.startswith(("/", "http")), "the mirror is the user's choice"
        assert "://" not in package.path
    names = {package.name for package in lock.packages}
    assert {"libc6", "libzstd1", "base-files", f"python{lock.python}-minimal"} <= names
    assert lock.python == load_lock(ARCHES["x86_64"]).python, "the toolbox compiles for all of them"


def test_a_lock_of_the_users_own_wins(tmp_path) -> None:
    arch = ARCHES["aarch64"]
    own = Lock("aarch64", "3.11", "mine", load_lock(arch).packages)
    path = tmp_path / "config/ondevice-harness/bundle-locks/aarch64.json"
    path.parent.mkdir(parents=True)
    path.write_text(encode_lock(own))
    assert load_lock(arch).release == "mine"
    with pytest.raises(SpecError, match="locks aarch64, not x86_64"):
        load_lock(ARCHES["x86_64"], path)
    path.write_text('{"schema": 9}')
    with pytest.raises(SpecError, match="schema 9"):
        load_lock(arch)
    path.write_text("{}")
    with pytest.raises(SpecError, match="no lock file"):
        load_lock(arch)


def test_a_package_that_no_mirror_has_any_more_names_the_ways_out(tmp_path, monkeypatch) -> None:
    package = Package("libc6", "2.36-9", "pool/main/g/glibc/libc6_2.36-9_arm64.deb", "0" * 64, 5, "python")
    asked: list[str] = []

    def call(_self, *argv, remedy=None):
        if "indextargets" in argv:
            return "http://one.invalid/debian/\nhttp://two.invalid/debian/\n"
        asked.append(argv[3])
        raise BundleError("apt-helper failed: 404 Not Found")

    monkeypatch.setattr(debian.Apt, "call", call)
    with pytest.raises(BundleError, match=r"libc6 2.36-9 \(arm64\) cannot be had") as caught:
        debian.fetch([package], ARCHES["aarch64"], None)
    assert "harness bundle lock --arch aarch64" in caught.value.remedy
    assert "--unlocked" in caught.value.remedy
    assert asked == [f"http://{host}.invalid/debian/{package.path}" for host in ("one", "two")]


def test_what_a_mirror_sends_must_be_what_is_locked(monkeypatch) -> None:
    package = Package("libc6", "2", "pool/libc6_2_arm64.deb", hashlib.sha256(b"good").hexdigest(), 4, "python")
    sends = {"one": b"evil", "two": b"good"}

    def call(_self, *argv, remedy=None):
        if "indextargets" in argv:
            return "http://one.invalid/\nhttp://two.invalid/\n"
        Path(argv[4]).write_bytes(sends["one" if "one." in argv[3] else "two"])
        assert argv[5] == f"SHA256:{package.sha256}"
        return ""

    monkeypatch.setattr(debian.Apt, "call", call)
    assert debian.fetch([package], ARCHES["aarch64"], None)["libc6"].read_bytes() == b"good"
    sends["two"] = b"gone"  # from the cache now
    assert debian.fetch([package], ARCHES["aarch64"], None)["libc6"].read_bytes() == b"good"


def test_a_wheel_may_not_write_outside_itself(tmp_path) -> None:
    wheel = tmp_path / "evil-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("../outside", "x")
    with pytest.raises(BundleError, match="outside itself"):
        wheels.unpack(wheel, tmp_path / "in")
    assert not (tmp_path / "outside").exists()
    wheel.write_bytes(b"no zip")
    with pytest.raises(BundleError, match="is no wheel"):
        wheels.unpack(wheel, tmp_path / "in")


# -- ELF and trimming --------------------------------------------------------------------------------------------------


def test_an_elf_file_tells_its_machine_and_needs() -> None:
    import math

    path = Path(os.path.realpath(sys.executable))
    assert is_elf(path)
    elf = read_elf(path)
    machine = {arch.name: arch.elf for arch in ARCHES.values()}.get(platform.machine())
    assert machine is None or elf.machine == machine
    libraries = [
        read_elf(Path(line.split()[-1]))
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "libc.so.6" in line
    ]
    assert math.pi
    assert libraries[0].soname == "libc.so.6"
    assert libraries[0].align_bytes >= 4096
    assert any(name.startswith("ld-linux") for name in libraries[0].needed)


def test_what_is_no_elf_file_is_refused(tmp_path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"#!/bin/sh\n")
    assert not is_elf(path)
    with pytest.raises(ValueError, match="no little-endian ELF"):
        read_elf(path)


@pytest.mark.parametrize(
    ("package", "path", "gone"),
    [
        ("numpy", "numpy/_core/tests/test_x.py", True),
        ("numpy", "numpy/typing/__init__.py", False),
        ("numpy", "numpy.libs/libscipy_openblas64_-7220728c.so", False),
        ("openvino", "openvino/libs/libopenvino_ir_frontend.so.2641", False),
        ("openvino", "openvino/libs/libopenvino_onnx_frontend.so.2641", True),
        ("openvino", "openvino/libs/libopenvino_arm_cpu_plugin.so", False),
        ("onnxruntime", "onnxruntime/capi/onnxruntime_pybind11_state.cpython-311-aarch64-linux-gnu.so", False),
        ("onnxruntime", "onnxruntime/capi/libonnxruntime.so.1.31.1", True),
        ("ai-edge-litert", "ai_edge_litert/interpreter.py", False),
        ("ai-edge-litert", "ai_edge_litert-2.3.0.dist-info/METADATA", False),
        ("ai-edge-litert", "ai_edge_litert-2.3.0.dist-info/RECORD", True),
        ("ai-edge-litert", "ai_edge_litert/libLiteRtWebGpuAccelerator.so", True),
        ("python3-numpy", "numpy/core/tests/test_x.py", True),
    ],
)
def test_trimming(package, path, gone) -> None:
    assert left_out(path, patterns_of(package)) is gone


def test_trimming_keeps_what_the_agent_imports() -> None:
    assert not [
        name
        for name in ("json/__init__.py", "ctypes/util.py", "platform.py", "importlib/metadata/__init__.py")
        if left_out(name, STDLIB)
    ]
    assert set(OF_PACKAGE) == {"numpy", *{wheel for arch in ARCHES.values() for wheel in arch.engines.values()}}
    assert left_out("x/py.typed", EVERYWHERE)


def test_the_first_stage_takes_what_the_unpacker_needs() -> None:
    home = "lib/python3.11"
    names = [
        "bin/python3.11",
        "lib/ld-linux-aarch64.so.1",
        "lib/libc.so.6",
        "lib/libzstd.so.1",
        f"{home}/json/__init__.pyc",
    ]
    rest = [
        "lib/libstdc++.so.6",
        f"{home}/email/__init__.pyc",
        "site/numpy/__init__.pyc",
        f"{home}/lib-dynload/_csv.cpython-311.so",
    ]
    native = f"{home}/lib-dynload/_ctypes.cpython-311-aarch64-linux-gnu.so"
    linked = {names[0]: ["libc.so.6", "libgcc_s.so.1"], "lib/libgcc_s.so.1": ["libc.so.6", "libdeep.so"]}
    names += ["lib/libgcc_s.so.1", "lib/libdeep.so"]
    entries = [[name, 1, False, "0"] for name in [*names, native, *rest]]
    first, others = split_first_stage(
        ARCHES["aarch64"], "3.11", entries, ["json", "ctypes"], lambda path: linked.get(path, [])
    )
    assert [entry[0] for entry in first] == [*names, native]
    assert [entry[0] for entry in others] == rest


# -- the file ----------------------------------------------------------------------------------------------------------


def make_bundle(arch: str = "aarch64", engines: tuple[str, ...] = ("litert",), note: str = "") -> Bundle:
    """A file of the right form with nothing in it."""
    manifest = {
        "schema": 1,
        "arch": arch,
        "python": "3.11",
        "engines": dict.fromkeys(engines, "1"),
        "packages": [],
        "left_out": [],
        "layers": [],
        "page_bytes": 65536,
        "note": note,
        "release": "x",
        "stage1": {"sha256": "0" * 64, "size_bytes": 1, "files": []},
        "made_with": {"toolbox": "t", "compiler": "c", "level": 3},
    }
    data = encode_manifest(manifest)
    path = built_folder() / f"{arch}-{hashlib.sha256(data).hexdigest()[:16]}.bundle"
    write_tar(path, [(MANIFEST, data, False), (STAGE1, b"x", False)])
    return open_bundle(path)


def test_the_archive_depends_on_names_and_contents_alone(tmp_path, monkeypatch) -> None:
    source = tmp_path / "b"
    source.write_bytes(b"bytes")
    members = [("a/one", source, True), ("a/two", b"2", False)]
    write_tar(tmp_path / "1.tar", members)
    os.utime(source, (1, 1))
    source.chmod(0o600)
    monkeypatch.setattr(os, "getuid", lambda: 4242)
    write_tar(tmp_path / "2.tar", members)
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()
    with tarfile.open(tmp_path / "1.tar") as tar:
        assert [(m.name, m.mode, m.mtime, m.uid) for m in tar] == [
            ("a", 0o755, 0, 0),
            ("a/one", 0o755, 0, 0),
            ("a/two", 0o644, 0, 0),
        ]


def test_what_is_no_bundle_is_refused(tmp_path) -> None:
    path = tmp_path / "x.bundle"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(BundleError, match="is no bundle"):
        open_bundle(path)
    write_tar(path, [("other", b"", False)])
    with pytest.raises(BundleError, match="is no bundle"):
        open_bundle(path)
    write_tar(path, [(MANIFEST, b'{"schema": 99}', False)])
    with pytest.raises(BundleError, match="schema 99"):
        open_bundle(path)
    with pytest.raises(BundleError, match="is no bundle"):
        open_bundle(tmp_path / "absent")
    bundle = make_bundle()
    with pytest.raises(BundleError, match="lacks parts/x"), bundle.extracted(["parts/x"]):
        pass


def test_a_device_gets_the_last_built_bundle_of_its_architecture() -> None:
    old, new = make_bundle(note="old"), make_bundle(note="new")
    other = make_bundle("x86_64", ("litert", "openvino"))
    os.utime(old.path, (1, 1))
    assert latest(ARCHES["aarch64"]) == new
    assert latest(ARCHES["x86_64"], ("openvino",)) == other
    assert latest(ARCHES["x86_64"], ("onnxruntime",)) is None
    assert find(other.digest[:8]) == other
    assert find(other.path.name) == other
    with pytest.raises(SpecError, match="more than one bundle"):
        find("aarch64")
    both = make_bundle(engines=("litert", "openvino"), note="earlier, with more in it")
    os.utime(both.path, (2, 2))
    assert bundle_for(phone(engines=("litert",)), "aarch64") == new
    assert bundle_for(phone(engines=("openvino",)), "arm64") == both
    assert bundle_for(phone(), "aarch64") == new, "none has all: the last built"
    assert bundle_for(phone()) is None
    named = DeviceProfile(name="x", transport="adb", arch="aarch64", bundle=str(other.path))
    with pytest.raises(SpecError, match="is for x86_64"):
        bundle_for(named)


# -- deploying ---------------------------------------------------------------------------------------------------------


def fake(answer: str) -> FakeTransport:
    def handler(call: Call) -> Completed:
        assert call.argv[:2] == ("sh", "-c")
        return Completed(0, answer.encode(), b"")

    return FakeTransport(handler)


def phone(**changes) -> DeviceProfile:
    return DeviceProfile(name="phone", transport="adb", **changes)


def test_without_a_bundle_the_command_that_builds_it_is_named() -> None:
    with pytest.raises(BundleError, match="phone needs a runtime bundle for aarch64") as caught:
        deploy_bundle(phone(engines=("openvino", "litert")), fake("work=/data/w\narch=aarch64\n"))
    assert caught.value.remedy == "harness bundle build --arch aarch64 --engines openvino,litert"
    with pytest.raises(BundleError) as caught:
        deploy_bundle(phone(), fake("work=/data/w\narch=armv8l\n"))
    assert caught.value.remedy == "harness bundle build --arch armv7l --engines litert"
    with pytest.raises(SpecError, match="mips"):
        deploy_bundle(phone(), fake("work=/data/w\narch=mips\n"))
    with pytest.raises(DeviceError, match="does not say what it is"):
        deploy_bundle(phone(), fake("work=/data/w\narch=\n"))


def test_a_device_that_has_the_bundle_is_sent_nothing() -> None:
    bundle, _ = make_bundle(), make_bundle("x86_64")
    transport = fake(f"work=/data/w\narch=aarch64\nhave={bundle.digest}\n")
    runtime = deploy_bundle(phone(), transport)
    root = f"/data/w/runtimes/{bundle.digest}"
    assert transport.pushed == []
    assert (runtime.kind, runtime.digest, runtime.work) == ("bundle", bundle.digest, "/data/w")
    assert runtime.argv[0] == f"{root}/lib/ld-linux-aarch64.so.1"
    assert runtime.argv[runtime.argv.index("--library-path") + 1] == f"{root}/lib"
    assert f"{root}/bin/python3.11" in runtime.argv
    assert runtime.env["PYTHONHOME"] == root
    assert all(value == "" or value.startswith(("/data/w", "C.UTF-8", "1")) for value in runtime.env.values())
    assert runtime == runtime_of(bundle, "/data/w")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("nohome\n", "has no home folder"),
        ("refused=mkdir: Read-only file system\n", "Read-only file system"),
        ("", "cannot be made"),
    ],
)
def test_a_device_without_a_place_to_work_is_refused(said, words) -> None:
    with pytest.raises(DeviceError, match=words) as caught:
        deploy_bundle(phone(arch="aarch64"), fake(said))
    assert "work_folder" in caught.value.remedy


# -- cleaning ----------------------------------------------------------------------------------------------------------


def local(work: Path) -> DeviceProfile:
    return DeviceProfile(name="here", transport="local", work_folder=str(work))


def test_cleaning_removes_what_is_ours_and_nothing_else(tmp_path) -> None:
    work = tmp_path / "wo rk"
    for name in ("sessions/a", "blobs/b", "runtimes/c", "tmp", "bundles/built"):
        (work / name).mkdir(parents=True)
    (work / "notes.txt").write_text("the user's")
    cleaned = clean(local(work), opener=lambda _: LocalTransport())
    assert cleaned.work == str(work)
    assert set(cleaned.removed) == {"sessions", "blobs", "runtimes", "tmp"}
    assert sorted(path.name for path in work.iterdir()) == ["bundles", "notes.txt"]
    assert clean(local(work), opener=lambda _: LocalTransport()).removed == ()
    (work / "notes.txt").unlink()
    (work / "bundles/built").rmdir()
    (work / "bundles").rmdir()
    assert clean(local(work), opener=lambda _: LocalTransport()).removed == (".",)
    assert not work.exists()


def test_the_sweep_keeps_bundles_in_use(tmp_path) -> None:
    day = on_device.RECENT_S
    now = 100 * day
    ages = {"mine": 90, "lately": 2, "old": 8, "incoming": 90, "new-cut-off": 2, "new-at-work": 0.1}
    for name, age in ages.items():
        folder = tmp_path / "runtimes" / name
        folder.mkdir(parents=True)
        if name in {"mine", "lately", "old"}:
            (folder / "complete").touch()
            os.utime(folder / "complete", (now - age * day,) * 2)
        os.utime(folder, (now - age * day,) * 2)
    (tmp_path / "tmp/.cache").mkdir(parents=True)
    for name, age in {"runtimes/incoming/part": 2, "runtimes/incoming/fresh": 0.5, "tmp/x": 2, "tmp/.cache": 3}.items():
        path = tmp_path / name
        if not path.exists():
            path.touch()
        os.utime(path, (now - age * day,) * 2)
    removed = on_device.sweep_runtimes(tmp_path / "runtimes", "mine", now)
    assert sorted(removed) == [".cache", "new-cut-off", "old", "part", "x"]
    assert sorted(path.name for path in (tmp_path / "runtimes").iterdir()) == [
        "incoming",
        "lately",
        "mine",
        "new-at-work",
    ]
    assert on_device.sweep_runtimes(tmp_path / "absent", None, now) == []


def test_the_manifest_is_plain_json() -> None:
    bundle = make_bundle()
    with bundle.extracted([MANIFEST]) as files:
        data = files[MANIFEST].read_bytes()
    assert hashlib.sha256(data).hexdigest() == bundle.digest
    assert json.load(io.BytesIO(data)) == bundle.manifest


def test_an_emulator_gets_a_bundle_also_when_mirrors_dropped_a_locked_version(monkeypatch, tmp_path) -> None:
    from harness.devices.bundle import build

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked, told = [], []

    def build_bundle(order, out=None, tell=None):
        asked.append(order)
        if not order.unlocked:
            raise PackageGoneError("libc6 2.36 (arm64) cannot be had")
        return SimpleNamespace(path=tmp_path / "made")

    monkeypatch.setattr(build, "build_bundle", build_bundle)
    assert build.ensure_bundle(build.Order("aarch64"), told.append).path == tmp_path / "made"
    assert [order.unlocked for order in asked] == [False, True]
    assert "today's versions" in told[0]
    with pytest.raises(PackageGoneError):  # whoever names a lock means it
        build.ensure_bundle(build.Order("aarch64", lock=build.lock_path(build.arch_of("aarch64"))))
