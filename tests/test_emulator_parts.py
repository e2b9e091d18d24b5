"""What emulators are made of, piece by piece: archives, packages, keys, caches, watched processes, command lines."""

from __future__ import annotations

import base64
import io
import lzma
import os
import signal
import stat
import struct
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from harness.devices.emulators import acceleration, cache, cpio, debian, initrd, keys
from harness.devices.emulators.answers import answers
from harness.devices.emulators.cpus import cpu_of, cpuinfo_text
from harness.devices.emulators.instance import Instance, free_port, sweep
from harness.errors import DeviceError, SpecError
from harness.profiles import DeviceProfile, load_profile

pytestmark = pytest.mark.slow  # many real processes: not in the part that ends within a minute

NAMES = (
    "qemu-arm64",
    "qemu-arm64-icount",
    "qemu-arm64-adb",
    "qemu-user-arm64",
    "qemu-armhf",
    "qemu-x86-64",
    "android-emulator",
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ondevice-harness" / "emulators"


def read_cpio(data: bytes) -> dict[str, tuple[int, bytes]]:
    """An independent reader of newc: name → mode, contents."""
    found, at = {}, 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name_at, name_size, size = at + 110, fields[11], fields[6]
        name = data[name_at : name_at + name_size - 1].decode()
        body = (name_at + name_size + 3) & ~3
        if name == "TRAILER!!!":
            assert (body + size) % 4 == 0
            return found
        found[name] = (fields[1], data[body : body + size])
        at = (body + size + 3) & ~3


def test_a_cpio_archive_holds_what_was_put_in() -> None:
    entries = [
        cpio.folder("bin"),
        cpio.file("bin/odd", b"12345", 0o755),
        cpio.link("sh", "bin/odd"),
        cpio.file("empty", b""),
    ]
    data = cpio.archive([*entries, cpio.character("dev-null", 1, 3, 0o666)])
    found = read_cpio(data)
    assert found["bin"] == (stat.S_IFDIR | 0o755, b"")
    assert found["bin/odd"] == (stat.S_IFREG | 0o755, b"12345")
    assert found["sh"] == (stat.S_IFLNK | 0o777, b"bin/odd")
    assert found["empty"] == (stat.S_IFREG | 0o644, b"")
    assert found["dev-null"][0] == stat.S_IFCHR | 0o666
    assert len(data) % 4 == 0, "archives are laid one after the other"


def test_an_instance_brings_its_names_keys_and_lines() -> None:
    files = {"root/.ssh/authorized_keys": (b"key\n", 0o600)}
    found = read_cpio(initrd.instance(name="guest-1", serve="exec serve it", at_boot=["echo 'a b'"], files=files))
    assert found["etc/hostname"][1] == b"guest-1\n"
    assert found["etc/guest/serve"] == (stat.S_IFREG | 0o755, b"#!/bin/sh\nexec serve it\n")
    assert found["etc/guest/at-boot"][1].endswith(b"echo 'a b'\n")
    assert found["root/.ssh"][0] == stat.S_IFDIR | 0o700, "sshd takes no keys from a folder that others may read"
    assert list(found).index("root/.ssh") < list(found).index("root/.ssh/authorized_keys")


def make_deb(path: Path, files: dict[str, bytes | str]) -> Path:
    """A Debian package: bytes are files, text is the target of a link."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"./{name}")
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                tar.addfile(entry)
            else:
                entry.size, entry.mode = len(content), 0o755
                tar.addfile(entry, io.BytesIO(content))
    parts = [
        (b"debian-binary", b"2.0\n"),
        (b"control.tar.xz", b"odd"),
        (b"data.tar.xz", lzma.compress(stream.getvalue())),
    ]
    raw = b"!<arch>\n"
    for name, data in parts:
        raw += b"%-16s%-12d%-6d%-6d%-8o%-10d`\n" % (name, 0, 0, 0, 0o644, len(data)) + data + b"\n" * (len(data) % 2)
    path.write_bytes(raw)
    return path


def test_a_package_is_read_member_by_member(tmp_path: Path) -> None:
    deb = make_deb(tmp_path / "x.deb", {"usr/bin/tool": b"ELF", "usr/bin/alias": "tool", "usr/share/doc": b"no"})
    found = {member.name: member for member in debian.members(deb, lambda name: name.startswith("usr/bin/"))}
    assert found.keys() == {"usr/bin/tool", "usr/bin/alias"}
    assert (found["usr/bin/tool"].data, found["usr/bin/tool"].mode) == (b"ELF", 0o755)
    assert found["usr/bin/alias"].target == "tool"


@pytest.mark.parametrize("damage", [lambda raw: raw[:-40], lambda raw: b"<html>" + raw, lambda raw: raw[:8]])
def test_a_damaged_package_is_named(tmp_path: Path, damage) -> None:
    deb = make_deb(tmp_path / "x.deb", {"usr/bin/tool": os.urandom(4096)})
    deb.write_bytes(damage(deb.read_bytes()))
    with pytest.raises(DeviceError, match=r"x\.deb") as caught:
        list(debian.members(deb, lambda _: True))
    assert caught.value.remedy is not None
    assert "fetched anew" in caught.value.remedy


def test_packages_that_are_there_need_no_connection(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "_apt", lambda *_: pytest.fail("the network was asked"))
    debs = own_cache / "debian" / "bookworm-arm64" / "debs"
    debs.mkdir(parents=True)
    names = ["linux-image-6.1.0-9-cloud-arm64_6.1.1-1_arm64.deb", "linux-image-6.1.0-9-arm64_6.1.1-1_arm64.deb"]
    for name in [*names, "zlib1g_1%3a1.2_arm64.deb"]:
        (debs / name).touch()
    found = debian.fetch("aarch64", ["linux-image-cloud-arm64", "linux-image-arm64", "zlib1g"])
    assert [path.name for path in found.values()] == [*names, "zlib1g_1%3a1.2_arm64.deb"]


def test_without_a_connection_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    if debian.shutil.which("apt-get") is None or not debian.KEYRING.exists():
        pytest.skip("apt and debian-archive-keyring are missing")
    monkeypatch.setenv("HARNESS_DEBIAN_MIRROR", f"http://127.0.0.1:{free_port()}/debian")
    with pytest.raises(DeviceError, match="busybox-static") as caught:
        debian.fetch("aarch64", ["busybox-static"])
    assert "HARNESS_DEBIAN_MIRROR" in str(caught.value.remedy)
    assert "Connection refused" in caught.value.message


def test_without_apt_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "KEYRING", Path("/nowhere"))
    with pytest.raises(DeviceError, match="keyring is not installed") as caught:
        debian.fetch("armv7l", ["busybox-static"])
    assert "debian-archive-keyring" in str(caught.value.remedy)


def module(depends: str, softdep: str = "") -> bytes:
    return (
        b"\x7fELF\0license=GPL\0depends="
        + depends.encode()
        + b"\0"
        + (f"softdep=pre: {softdep}\0".encode() if softdep else b"")
    )


def test_modules_come_after_what_they_need(tmp_path: Path) -> None:
    tree = "lib/modules/6.1/kernel"
    deb = make_deb(
        tmp_path / "kernel.deb",
        {
            "boot/vmlinuz-6.1": b"kernel",
            "lib/modules/6.1/modules.builtin": b"kernel/fs/ext4/ext4.ko\n",
            f"{tree}/virtio_net.ko": module("net_failover,virtio"),
            f"{tree}/net_failover.ko": module("failover"),
            f"{tree}/failover.ko": module(""),
            f"{tree}/virtio.ko": module(""),
            f"{tree}/i2c-stub.ko": module("", "crc32c"),
            f"{tree}/crc32c.ko": module(""),
        },
    )
    entries = {
        entry.name: entry for entry in initrd._kernel(deb, tmp_path, ["virtio_net", "ext4", "i2c-stub chip_addr=0x40"])
    }
    assert (tmp_path / "kernel").read_bytes() == b"kernel"
    order = [line.split()[0] for line in entries["modules/order"].data.decode().splitlines()]
    assert order == ["failover.ko", "net_failover.ko", "virtio.ko", "virtio_net.ko", "crc32c.ko", "i2c_stub.ko"]
    assert b"i2c_stub.ko chip_addr=0x40\n" in entries["modules/order"].data
    with pytest.raises(DeviceError, match="no module nonsense"):
        list(initrd._kernel(deb, tmp_path, ["nonsense"]))


def test_the_guest_gets_the_host_key_that_the_harness_trusts(tmp_path: Path) -> None:
    asyncssh = pytest.importorskip("asyncssh", reason="asyncssh is missing: install the extra 'ssh'")
    made = keys.make_keys(tmp_path / "id")
    assert stat.S_IMODE((tmp_path / "id").stat().st_mode) == 0o600
    user = asyncssh.read_private_key(str(tmp_path / "id"))
    assert user.export_public_key().split()[1] == made.authorized.encode().split()[1]
    # dropbear's format: the type, then 64 bytes, of which the second half is the public key
    size = struct.unpack(">I", made.host_key[:4])[0]
    assert made.host_key[4 : 4 + size] == b"ssh-ed25519"
    assert struct.unpack(">I", made.host_key[4 + size : 8 + size])[0] == 64
    assert base64.b64decode(made.host_public.split()[1])[-32:] == made.host_key[-32:]
    (tmp_path / "known_hosts").write_text(keys.known_hosts_line(2222, made), encoding="ascii")
    assert len(asyncssh.read_known_hosts(str(tmp_path / "known_hosts")).match("[127.0.0.1]:2222", "", None)[0]) == 1


def test_an_entry_is_built_once_and_never_half() -> None:
    made: list[Path] = []

    def build(folder: Path) -> None:
        made.append(folder)
        (folder / "file").write_text("x", encoding="ascii")

    def die(folder: Path) -> None:
        (folder / "half").touch()
        raise DeviceError("no space")

    with pytest.raises(DeviceError):
        cache.built("things", {"a": 1}, die, what="a thing")
    place = cache.built("things", {"a": 1}, build, what="a thing")
    assert sorted(path.name for path in place.iterdir()) == ["file"]
    assert cache.built("things", {"a": 1}, build, what="a thing") == place
    assert cache.built("things", {"a": 2}, build, what="another") != place
    assert len(made) == 2
    os.utime(place, (0, 0))
    cache.built("things", {"a": 3}, build, what="a third")
    assert not place.exists(), "what nobody used for months goes"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def eventually(condition, timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(condition())


# An emulator that leaves a child in a session of its own, as an ADB daemon's commands are.
_SPAWNING = (
    "import os, subprocess, sys, time\n"
    "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
    "open(sys.argv[1], 'w').write(str(child.pid))\n"
    "time.sleep(600)\n"
)


def started(instance: Instance) -> tuple[int, int]:
    """The process numbers of an instance's emulator and of its child."""
    note = instance.folder / "child"
    instance.start([sys.executable, "-c", _SPAWNING, str(note)])
    assert eventually(lambda: note.exists() and note.read_text(encoding="ascii"))
    return int((instance.folder / "pid").read_text(encoding="ascii")), int(note.read_text(encoding="ascii"))


def test_stopping_ends_all_processes_and_removes_the_folder() -> None:
    instance = Instance("x")
    pids = started(instance)
    assert instance.alive
    assert all(map(alive, pids))
    instance.remove()
    assert not any(map(alive, pids))
    assert not instance.folder.exists()
    instance.remove()


def test_an_ended_emulator_can_be_started_again_in_its_folder() -> None:
    instance = Instance("x")
    first = started(instance)
    (instance.folder / "overlay").write_text("kept", encoding="ascii")
    instance.end()
    assert not any(map(alive, first))
    assert (instance.folder / "overlay").read_text(encoding="ascii") == "kept"
    assert sweep(instance.folder.parent) == [], "it is still ours"
    started(instance)
    assert instance.alive
    instance.remove()


def test_a_program_that_ends_or_is_missing_is_told() -> None:
    instance = Instance("x")
    instance.start(["sh", "-c", "echo 'no such machine' >&2; exit 7"])
    assert eventually(lambda: not instance.alive)
    assert instance.exit_code == 7
    assert instance.tail("emulator.log") == "no such machine"
    with pytest.raises(DeviceError, match="qemu-system-none is not installed"):
        instance.start(["qemu-system-none"])
    instance.remove()


@pytest.mark.parametrize("victim", ["harness", "watcher and harness"])
def test_a_killed_harness_leaves_nothing(victim: str, own_cache: Path) -> None:
    code = (
        "import sys, time\nfrom harness.devices.emulators.instance import Instance\n"
        f"instance = Instance('x')\ninstance.start([sys.executable, '-c', {_SPAWNING!r}, str(instance.folder / 'child')])\n"
        "print(instance.folder, instance._watcher.pid, flush=True)\ntime.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as harness:
        assert harness.stdout is not None
        folder_name, watcher = harness.stdout.readline().split()
        folder = Path(folder_name)
        assert eventually(lambda: (folder / "child").exists() and (folder / "child").read_text(encoding="ascii"))
        emulator, child = (int((folder / name).read_text(encoding="ascii")) for name in ("pid", "child"))
        if victim != "harness":
            os.kill(int(watcher), signal.SIGKILL)
        harness.kill()
    assert eventually(lambda: not alive(emulator))
    if victim == "harness":
        assert eventually(lambda: not alive(child) and not folder.exists())
        return
    os.kill(child, signal.SIGKILL)  # what escaped both; an emulator without a daemon has no such child
    assert folder.exists()
    Instance("y").remove()
    assert not folder.exists(), "the next start sweeps"


def test_kvm_is_for_the_same_architecture_and_where_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARNESS_KVM", raising=False)
    monkeypatch.setattr(acceleration.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(acceleration.os, "access", lambda *_: True)
    assert acceleration.choose("x86_64", counting=False) == "kvm"
    assert acceleration.choose("aarch64", counting=False) == "tcg"
    assert acceleration.choose("x86_64", counting=True) == "tcg"
    acceleration.remember_failure()
    assert acceleration.choose("x86_64", counting=False) == "tcg"
    monkeypatch.setenv("HARNESS_KVM", "on")
    assert acceleration.choose("x86_64", counting=False) == "kvm"
    monkeypatch.setenv("HARNESS_KVM", "off")
    assert acceleration.choose("x86_64", counting=False) == "tcg"
    monkeypatch.setenv("HARNESS_KVM", "yes")
    with pytest.raises(SpecError, match="HARNESS_KVM"):
        acceleration.choose("x86_64", counting=False)


def test_nobody_answers_at_a_closed_port() -> None:
    assert not answers("ssh", free_port(), 1.0)
    assert not answers("adb", free_port(), 1.0)


def test_a_cpu_is_shown_as_the_kernel_shows_it() -> None:
    from harness.devices.facts.cpu import parse_cpuinfo

    for machine, part in (("aarch64", "0xd08"), ("armv7l", "0xc0f")):
        found = parse_cpuinfo(cpuinfo_text(machine, cpu_of(machine, None), 2))
        assert {number: fields["CPU part"] for number, fields in found.items()} == {0: part, 1: part}
    with pytest.raises(DeviceError, match="plays no pentium"):
        cpu_of("aarch64", "pentium")


@pytest.mark.parametrize("name", NAMES)
def test_the_shipped_profiles_are_of_emulators(name: str) -> None:
    profile = load_profile(name)
    assert profile.emulated
    assert profile.emulator is not None
    assert profile.counts_instructions == (name == "qemu-arm64-icount")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arch": "armv7l"}, "no QEMU guest is made for"),
        ({"work_folder": "/root/work"}, "is a folder in /data"),
    ],
)
def test_a_guest_that_cannot_be_made_is_refused(
    changes: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.devices.emulators import qemu_system, start_emulator

    monkeypatch.setattr(qemu_system.initrd, "base", lambda *_, **__: Path("/nowhere"))
    with pytest.raises(DeviceError, match=words):
        start_emulator(load_profile("qemu-arm64").model_copy(update=changes))


def test_a_root_that_cannot_be_made_is_refused() -> None:
    from harness.devices.emulators import start_emulator

    profile = load_profile("qemu-user-arm64")
    with pytest.raises(DeviceError, match="over ADB"):
        start_emulator(profile.model_copy(update={"transport": "ssh"}))
    with pytest.raises(DeviceError, match="only /data/local/tmp can be written"):
        start_emulator(profile.model_copy(update={"work_folder": "/home/x"}))
    with pytest.raises(DeviceError, match="is no emulator"):
        start_emulator(DeviceProfile(name="here", transport="local"))


def test_an_emulator_stands_still_between_jobs_and_ends_all_the_same() -> None:
    def state() -> str:
        pid = (instance.folder / "pid").read_text(encoding="ascii").strip()
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]

    def becomes(letters: str) -> bool:
        deadline = time.monotonic() + 5
        while state() not in letters and time.monotonic() < deadline:
            time.sleep(0.01)
        return state() in letters

    instance = Instance("still")
    instance.signal(signal.SIGSTOP)  # nothing runs yet: nothing happens
    try:
        instance.start(["sleep", "60"])
        instance.signal(signal.SIGSTOP)
        assert becomes("T")
        instance.signal(signal.SIGCONT)
        assert becomes("SR")
        instance.signal(signal.SIGSTOP)
    finally:
        instance.remove()
    assert not instance.alive
