"""The judges of the test device: the adb client of Debian, and the newer one that adbutils brings along."""

from __future__ import annotations

import filecmp
import hashlib
import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from adbd import ADB, AdbServer, make_adb_key, require_adb

from harness.devices.transport.testing import (
    OLD_FEATURES,
    DaemonOptions,
    DropConnection,
    NoSpace,
    Offline,
    Reboot,
    RunningDaemon,
    SlowLink,
    Unauthorized,
    chroot_prefix,
)

pytestmark = pytest.mark.adb
BIG_BYTES = 100_000_000
TIME_S = 1_600_000_000


def bundled_adb() -> str:
    adbutils = pytest.importorskip("adbutils", reason="adbutils is missing: install the extra 'adb'")
    path = Path(adbutils.__file__).parent / "binaries" / "adb"
    if not path.exists():
        pytest.skip("this adbutils brings no adb binary")
    return str(path)


@pytest.fixture(scope="module", params=["debian", "bundled"])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdbServer]:
    if request.param == "debian":
        require_adb()
    server = AdbServer(tmp_path_factory.mktemp("adb-home"), ADB if request.param == "debian" else bundled_adb())
    (server.home / ".android").mkdir(mode=0o700)
    make_adb_key(server.home / ".android")
    yield server
    server.stop()


@pytest.fixture
def key(client: AdbServer) -> str:
    return (client.home / ".android" / "adbkey.pub").read_text(encoding="utf-8")


@pytest.fixture
def phone(client: AdbServer, tmp_path: Path) -> Iterator[RunningDaemon]:
    """A connected device; its files are this host's."""
    with RunningDaemon(DaemonOptions()) as device:
        client.connect(device)
        yield device
        client.run("disconnect", device.serial)


def until(done: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)


def on(device: RunningDaemon, *argv: str | Path) -> tuple[str | Path, ...]:
    return ("-s", device.serial, *argv)


def test_the_device_is_listed_with_its_properties(client: AdbServer) -> None:
    options = DaemonOptions(props={"ro.product.model": "Pixel 8", "ro.product.name": "shiba"})
    with RunningDaemon(options) as device:
        client.connect(device)
        listed = client.run("devices", "-l").stdout.decode()
        features = client.run(*on(device, "features")).stdout.decode().split()
        client.run("disconnect", device.serial)
    line = next(line for line in listed.splitlines() if line.startswith(device.serial))
    assert "product:shiba" in line
    assert "model:Pixel_8" in line
    assert {"shell_v2", "stat_v2"} <= set(features)


def test_a_command_has_its_exit_code_and_a_stderr_of_its_own(client: AdbServer, phone: RunningDaemon) -> None:
    ended = client.run(*on(phone, "shell", "echo out; echo err >&2; exit 7"))
    assert (ended.returncode, ended.stdout, ended.stderr) == (7, b"out\n", b"err\n")
    killed = client.run(*on(phone, "shell", "kill -9 $$"))
    assert killed.returncode == 128 + 9


def test_a_command_reads_binary_stdin_to_its_end(client: AdbServer, phone: RunningDaemon) -> None:
    data = bytes(range(256)) * 4096
    ended = client.run(*on(phone, "shell", "sha256sum; echo done"), stdin=data)
    assert ended.stdout.decode().split()[0] == hashlib.sha256(data).hexdigest()
    assert client.run(*on(phone, "shell", "cat"), stdin=data).stdout == data
    # a command that reads nothing ends all the same
    assert client.run(*on(phone, "shell", "exec 0<&-; echo deaf"), stdin=data).stdout == b"deaf\n"


def test_binary_output_comes_unchanged(client: AdbServer, phone: RunningDaemon, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(range(256)) * 8192)
    for verb in ("shell", "exec-out"):
        assert client.run(*on(phone, verb, f"cat {tmp_path}/data")).stdout == (tmp_path / "data").read_bytes(), verb


def test_a_shell_without_the_protocol_merges_its_streams(client: AdbServer, phone: RunningDaemon) -> None:
    ended = client.run(*on(phone, "shell", "-x", "echo out; echo err >&2; exit 7"))
    assert ended.stdout.splitlines() == [b"out", b"err"]
    assert ended.returncode == 0  # the first protocol has no exit code


def test_a_terminal_is_given_where_it_is_asked_for(client: AdbServer, phone: RunningDaemon) -> None:
    assert client.run(*on(phone, "shell", "-T", "test -t 0; echo $?")).stdout == b"1\n"
    assert client.run(*on(phone, "shell", "-t", "-t", "test -t 0; echo $?; stty -a >/dev/null && echo tty")).stdout == (
        b"0\r\ntty\r\n"
    )


def test_an_interactive_shell_takes_commands(client: AdbServer, phone: RunningDaemon) -> None:
    ended = client.run(*on(phone, "shell"), stdin=b"echo $((40 + 2))\nexit 5\n")
    assert b"42" in ended.stdout
    assert ended.returncode == 5


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, BIG_BYTES], ids=str)
def test_a_file_comes_back_as_it_went(client: AdbServer, phone: RunningDaemon, tmp_path: Path, size: int) -> None:
    source, there, back = tmp_path / "source", tmp_path / "there", tmp_path / "back"
    source.write_bytes(os.urandom(size))
    source.chmod(0o750)
    os.utime(source, (TIME_S, TIME_S))
    pushed = client.run(*on(phone, "push", source, there))
    assert pushed.returncode == 0, pushed
    assert filecmp.cmp(source, there, shallow=False)
    # a device gives everybody the owner's rights
    assert (stat.S_IMODE(there.stat().st_mode), there.stat().st_mtime) == (0o777, TIME_S)
    pulled = client.run(*on(phone, "pull", "-a", there, back))
    assert pulled.returncode == 0, pulled
    assert filecmp.cmp(source, back, shallow=False)
    assert back.stat().st_mtime == TIME_S


def test_a_folder_goes_and_comes_with_all_in_it(client: AdbServer, phone: RunningDaemon, tmp_path: Path) -> None:
    source, there, back = tmp_path / "source", tmp_path / "there", tmp_path / "back"
    for name in ("a/one", "a/b/two", "ünï cödé/with space", "deep/er/and/deeper/three"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(os.urandom(1000))
    assert client.run(*on(phone, "push", source, there)).returncode == 0
    assert client.run(*on(phone, "pull", there, back)).returncode == 0
    for path in source.rglob("*"):
        if path.is_file():
            name = path.relative_to(source)
            assert (there / name).read_bytes() == (back / name).read_bytes() == path.read_bytes()
    assert client.run(*on(phone, "push", source, there)).returncode == 0  # into the folder that is there now
    synced = client.run(*on(phone, "push", "--sync", source, there))
    assert b"0 files pushed, 4 skipped" in synced.stdout + synced.stderr


def test_a_folder_is_listed(client: AdbServer, phone: RunningDaemon, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    os.utime(tmp_path / "file", (TIME_S, TIME_S))
    (tmp_path / "link").symlink_to("file")
    lines = client.run(*on(phone, "ls", tmp_path)).stdout.decode().splitlines()
    found = {line.split()[3]: line.split()[:3] for line in lines}
    assert found["file"] == [f"{stat.S_IFREG | 0o644:08x}", f"{5:08x}", f"{TIME_S:08x}"]
    assert found["link"][0].startswith("0000a")
    assert {".", ".."} <= set(found)


def test_a_size_beyond_32_bits_is_told(client: AdbServer, phone: RunningDaemon, tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(5 << 30)
    lines = client.run(*on(phone, "ls", tmp_path)).stdout.decode()
    assert f"{5 << 30:08x}" in lines


def test_errors_say_why(client: AdbServer, phone: RunningDaemon, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 300_000)
    pushed = client.run(*on(phone, "push", tmp_path / "file", "/proc/none/file"))
    assert pushed.returncode != 0
    assert b"secure_mkdirs failed: No such file or directory" in pushed.stdout + pushed.stderr
    pulled = client.run(*on(phone, "pull", tmp_path / "none", tmp_path / "back"))
    assert pulled.returncode != 0
    assert b"No such file or directory" in pulled.stdout + pulled.stderr
    assert client.run(*on(phone, "shell", "echo still here")).stdout == b"still here\n"


def test_a_shell_that_is_interrupted_takes_its_process_with_it(client: AdbServer, phone: RunningDaemon) -> None:
    shell = client.start(*on(phone, "shell", "sleep 300 & echo started; wait"))
    assert shell.stdout is not None
    assert shell.stdout.readline() == b"started\n"
    assert len(phone.process_ids()) == 2
    shell.send_signal(signal.SIGINT)
    shell.communicate(timeout=10)
    until(lambda: not phone.process_ids(), "the processes of the shell are gone")


def test_children_survive_where_they_do_on_a_phone(client: AdbServer) -> None:
    with RunningDaemon(DaemonOptions(children_survive=True)) as device:
        client.connect(device)
        shell = client.start(*on(device, "shell", "sleep 300 & echo $!; wait"))
        assert shell.stdout is not None
        child = int(shell.stdout.readline())
        shell.kill()
        shell.communicate(timeout=10)
        until(lambda: device.process_ids() == [child], "only the shell is gone")
        detached = client.run(*on(device, "shell", "setsid sleep 300 >/dev/null 2>&1 </dev/null & echo $!"))
        assert detached.returncode == 0
        assert len(device.process_ids()) == 2
    assert device.process_ids() == []  # the power is off


def test_several_devices_at_once(client: AdbServer) -> None:
    with (
        RunningDaemon(DaemonOptions(environment={"WHO": "one"})) as one,
        RunningDaemon(DaemonOptions(environment={"WHO": "two"})) as two,
    ):
        client.connect(one)
        client.connect(two)
        running = [client.start(*on(device, "shell", "sleep 0.3; echo $WHO")) for device in (one, two, one, two)]
        assert [process.communicate(timeout=20)[0] for process in running] == [b"one\n", b"two\n"] * 2
        client.run("disconnect")


def test_a_known_key_is_let_in(client: AdbServer, key: str) -> None:
    with RunningDaemon(DaemonOptions(keys=(key,))) as device:
        client.connect(device)
        assert client.run(*on(device, "shell", "echo in")).stdout == b"in\n"
        client.run("disconnect", device.serial)


def test_an_unknown_key_is_unauthorized_until_it_is_accepted(client: AdbServer, tmp_path: Path) -> None:
    _, other = make_adb_key(tmp_path)
    with RunningDaemon(DaemonOptions(keys=(other,))) as device:
        client.run("connect", device.serial)
        until(lambda: client.states().get(device.serial) == "unauthorized", "the device says unauthorized")
        refused = client.run(*on(device, "shell", "echo in"))
        assert refused.returncode != 0
        assert b"unauthorized" in refused.stderr
        assert device.accept_keys() == 1
        until(lambda: client.states().get(device.serial) == "device", "the device lets us in")
        assert client.run(*on(device, "shell", "echo in")).stdout == b"in\n"
        client.run("disconnect", device.serial)


def test_authorization_can_be_lost(client: AdbServer, key: str) -> None:
    with RunningDaemon(DaemonOptions(keys=(key,))) as device:
        client.connect(device)
        device.inject(Unauthorized())
        client.run("disconnect", device.serial)
        client.run("connect", device.serial)
        until(lambda: client.states().get(device.serial) == "unauthorized", "the device says unauthorized")
        device.clear()
        client.run("disconnect", device.serial)
        client.connect(device)
        client.run("disconnect", device.serial)


def test_tls_lets_the_known_key_in_and_no_other(client: AdbServer, key: str, tmp_path: Path) -> None:
    if client.binary == ADB:
        pytest.skip("Debian's adb 29 cannot do TLS")
    _, other = make_adb_key(tmp_path)
    (tmp_path / "file").write_bytes(os.urandom(3_000_000))
    with RunningDaemon(DaemonOptions(keys=(key,), tls=True)) as device:
        # Not at once: adb 36 writes STLS and its TLS greeting from two threads, and now and then in the wrong order.
        until(lambda: b"connected to" in client.run("connect", device.serial).stdout, "adb connects over TLS")
        assert client.run(*on(device, "shell", "echo out; exit 3")).returncode == 3
        client.run(*on(device, "push", tmp_path / "file", tmp_path / "there"))
        assert filecmp.cmp(tmp_path / "file", tmp_path / "there", shallow=False)
        client.run("disconnect", device.serial)
    with RunningDaemon(DaemonOptions(keys=(other,), tls=True)) as device:
        assert b"failed to connect" in client.run("connect", device.serial).stdout
        client.run("disconnect", device.serial)


def test_an_old_device_has_neither_exit_codes_nor_checksum_skipping(client: AdbServer, tmp_path: Path) -> None:
    with RunningDaemon(DaemonOptions(version=0x01000000, features=OLD_FEATURES, max_data_bytes=4096)) as device:
        client.connect(device)
        ended = client.run(*on(device, "shell", "echo out; echo err >&2; exit 7"))
        assert (ended.returncode, ended.stdout.splitlines()) == (0, [b"out", b"err"])
        (tmp_path / "file").write_bytes(os.urandom(1_000_000))
        assert client.run(*on(device, "push", tmp_path / "file", tmp_path / "there")).returncode == 0
        assert client.run(*on(device, "pull", tmp_path / "there", tmp_path / "back")).returncode == 0
        assert filecmp.cmp(tmp_path / "file", tmp_path / "back", shallow=False)
        client.run("disconnect", device.serial)


def test_a_client_comes_back_after_a_drop(client: AdbServer, phone: RunningDaemon, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(20_000_000))
    phone.inject(DropConnection(where="push", after_bytes=5_000_000))
    pushed = client.run(*on(phone, "push", tmp_path / "file", tmp_path / "there"))
    assert pushed.returncode != 0
    until(lambda: not (tmp_path / "there").exists(), "half a file is removed, as adbd does")
    client.run("disconnect", phone.serial)
    client.connect(phone)
    assert client.run(*on(phone, "push", tmp_path / "file", tmp_path / "there")).returncode == 0
    assert filecmp.cmp(tmp_path / "file", tmp_path / "there", shallow=False)


def test_a_full_device_says_so(client: AdbServer, phone: RunningDaemon, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(3_000_000))
    phone.inject(NoSpace(after_bytes=1_000_000))
    pushed = client.run(*on(phone, "push", tmp_path / "file", tmp_path / "there"))
    assert pushed.returncode != 0
    assert b"No space left on device" in pushed.stdout + pushed.stderr
    assert not (tmp_path / "there").exists()
    phone.clear()
    assert client.run(*on(phone, "push", tmp_path / "file", tmp_path / "there")).returncode == 0


@pytest.mark.quiet
def test_a_slow_link_is_slow(client: AdbServer, phone: RunningDaemon, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(1_000_000))
    phone.inject(SlowLink(bytes_per_s=1_000_000))
    start = time.monotonic()
    assert client.run(*on(phone, "push", tmp_path / "file", tmp_path / "there")).returncode == 0
    assert 0.9 < time.monotonic() - start < 5


def test_a_silent_device_is_offline(client: AdbServer) -> None:
    with RunningDaemon(DaemonOptions()) as device:
        device.inject(Offline())
        connecting = client.start("connect", device.serial)
        until(lambda: client.states().get(device.serial) in {"offline", "connecting"}, "the device is offline")
        connecting.kill()  # it would wait for ten seconds
        connecting.communicate()
        client.run("disconnect", device.serial)
        device.clear()
        client.connect(device)
        client.run("disconnect", device.serial)


def test_a_reboot_ends_processes_and_connections(client: AdbServer) -> None:
    with RunningDaemon(DaemonOptions()) as device:
        client.connect(device)
        shell = client.start(*on(device, "shell", "setsid sleep 300 & sleep 300"))
        until(lambda: len(device.process_ids()) >= 2, "the command runs")
        device.inject(Reboot(down_s=0.5))
        assert device.process_ids() == []
        shell.communicate(timeout=10)  # adb 29 exits with 0 here: the code of a lost connection says nothing
        client.run("disconnect", device.serial)
        assert b"refused" in client.run("connect", device.serial).stdout
        until(lambda: b"connected to" in client.run("connect", device.serial).stdout, "the device is back")
        client.run(*on(device, "reboot"))
        client.run("disconnect", device.serial)
        until(lambda: b"connected to" in client.run("connect", device.serial).stdout, "the device is back again")
        client.run("disconnect", device.serial)


def make_root(root: Path) -> Path:
    """A root with busybox, the libraries it needs, and a folder that belongs to uid 2000."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox is missing: install Debian's package busybox")
    needs = subprocess.run(["ldd", busybox], capture_output=True, text=True, check=False).stdout.split()
    for library in [word for word in needs if word.startswith("/")]:  # none for a static one
        (root / library[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, root / library[1:])
    (root / "bin").mkdir(parents=True, exist_ok=True)
    shutil.copy(busybox, root / "bin/busybox")
    (root / "bin/sh").symlink_to("busybox")
    work = root / "data/local/tmp"
    work.mkdir(parents=True)
    os.chown(work, 2000, 2000)
    (root / "sdcard").symlink_to("/data/local/tmp")
    return root


@pytest.mark.skipif(os.getuid() != 0, reason="only root may chroot")
def test_files_and_shell_share_a_root_and_a_user(client: AdbServer, tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    options = DaemonOptions(
        root=root, shell_prefix=chroot_prefix(root, uid=2000), uid=2000, environment={"PATH": "/bin"}
    )
    (tmp_path / "file").write_bytes(b"hello")
    with RunningDaemon(options) as device:
        client.connect(device)
        assert client.run(*on(device, "push", tmp_path / "file", "/sdcard/file")).returncode == 0
        seen = client.run(*on(device, "shell", "busybox stat -c '%u %g %s' /data/local/tmp/file; busybox id -u"))
        assert seen.stdout == b"2000 2000 5\n2000\n", seen
        refused = client.run(*on(device, "push", tmp_path / "file", "/bin/file"))
        assert b"Permission denied" in refused.stdout + refused.stderr
        assert client.run(*on(device, "pull", "/../../sdcard/file", tmp_path / "back")).returncode == 0
        assert b"sdcard" in client.run(*on(device, "shell", "busybox ls /")).stdout.split()
        assert (tmp_path / "back").read_bytes() == b"hello"
        client.run("disconnect", device.serial)
