"""Emulated devices for real: booted, reached, measured on, killed, started again, swept. Each is booted once and shared.

They run under plain emulation, so that the tests are the same on hosts with and without KVM.
"""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from bundle_root import built
from fake_device import MemoryStore
from session_driver import protocol, spec

from harness.devices.bundle.archive import RUNTIMES
from harness.devices.emulators import RunningEmulator, cache, start_emulator
from harness.devices.emulators.keys import known_hosts_line, make_keys
from harness.devices.emulators.qemu_system import QemuSystem
from harness.devices.emulators.qemu_user import QemuUser
from harness.devices.transport import open_transport
from harness.errors import DeviceError, HostKeyError
from harness.profiles import DeviceProfile, load_profile
from harness.records import LATENCY, PROBE
from harness.runner import run_session

pytestmark = [pytest.mark.emulator, pytest.mark.slow]

NEEDS = {
    "qemu-system-aarch64": "qemu-system-arm",
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "qemu-aarch64-static": "qemu-user-static",
    "apt-get": "apt",
}
MODELS = ("tiny_fp32.tflite", "tiny_int8.tflite")

Start = Callable[[str], RunningEmulator]


@pytest.fixture(scope="module", autouse=True)
def _emulated() -> Iterator[None]:
    lacking = [package for program, package in NEEDS.items() if shutil.which(program) is None]
    if lacking:
        pytest.skip(f"not installed: {', '.join(lacking)}")
    pytest.importorskip("asyncssh", reason="asyncssh is missing: install the extra 'ssh'")
    pytest.importorskip("adb_shell", reason="adb-shell is missing: install the extra 'adb'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_KVM", "off")
        yield


def profile_of(name: str) -> DeviceProfile:
    """A shipped profile, with a bundle that has LiteRT only."""
    profile = load_profile(name)
    assert profile.arch is not None
    return profile.model_copy(update={"bundle": str(built(profile.arch, "litert").path), "engines": ("litert",)})


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """Each emulator once, ended with the module."""
    running: dict[str, RunningEmulator] = {}
    with ExitStack() as stack:

        def get(name: str) -> RunningEmulator:
            if name not in running:
                running[name] = start_emulator(profile_of(name))
                stack.callback(running[name].stop)
            return running[name]

        yield get


def sh(profile: DeviceProfile, script: str) -> tuple[int, str]:
    with open_transport(profile) as transport:
        done = transport.run(["sh", "-c", script], timeout=60)
    return done.returncode, (done.stdout + done.stderr).decode().strip()


def measured(profile: DeviceProfile, models: tuple[str, ...] = MODELS) -> MemoryStore:
    """A session on a device that runs already; every run in it is ok."""
    store = MemoryStore()
    # It is started and stopped here, not by the session.
    spared = profile.model_copy(update={"emulator": None}) if not profile.counts_instructions else profile
    run_session(spec([spared], protocol(), models), store)
    assert store.status == "done"
    wrong = [run.failure or run.failed_variants for run in store.runs if run.status != "ok"]
    assert wrong == []
    assert {run.kind for run in store.runs} == {PROBE, LATENCY}
    return store


def digests(store: MemoryStore) -> dict[str, str]:
    return {e.variant: e.outputs_sha256 for run in store.kinds(kind=PROBE) for e in run.evaluations}


def test_an_arm64_guest_answers_ssh_with_the_key_known_before(start: Start, tmp_path: Path) -> None:
    running = start("qemu-arm64")
    profile = running.profile
    assert sh(profile, "uname -m; id -u; ls /usr") == (1, "aarch64\n0\nls: /usr: No such file or directory")
    other = make_keys(tmp_path / "other")
    (tmp_path / "known_hosts").write_text(known_hosts_line(profile.port or 0, other), encoding="ascii")
    with pytest.raises(HostKeyError, match="CHANGED"):
        open_transport(profile.model_copy(update={"known_hosts": str(tmp_path / "known_hosts")}))
    with pytest.raises(HostKeyError, match="is unknown"):
        open_transport(profile.model_copy(update={"known_hosts": str(tmp_path / "none")}))
    code, said = sh(profile, f"ls {profile.work_folder}/{RUNTIMES}")
    assert (code, said) == (0, built("aarch64", "litert").digest), "the bundle is there before anything was pushed"


def test_a_guest_cannot_reach_this_host(start: Start) -> None:
    """Its network ends at QEMU, which otherwise gives a guest all that listens on the host's loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code, said = sh(start("qemu-arm64").profile, f"nc -w 2 10.0.2.2 {port} </dev/null")
    assert code != 0, said


def test_files_go_both_ways(start: Start, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(data)
    for name in ("qemu-arm64", "qemu-user-arm64"):
        profile = start(name).profile
        with open_transport(profile) as transport:
            remote = f"{profile.work_folder}/a file"
            transport.push(tmp_path / "file", remote)
            transport.pull(remote, tmp_path / name)
            transport.remove(remote)
        assert (tmp_path / name).read_bytes() == data


def test_rows_of_one_architecture_agree_over_ssh_and_adb(start: Start) -> None:
    """The same code on a whole machine over SSH and in an empty root over ADB gives the same outputs, bit for bit."""
    over_ssh = measured(start("qemu-arm64").profile)
    over_adb = measured(start("qemu-user-arm64").profile)
    assert digests(over_ssh).keys() == set(MODELS)
    assert digests(over_ssh) == digests(over_adb)
    for store in (over_ssh, over_adb):
        (device,) = store.devices.values()
        assert device.emulated, "graded no better than C"
        assert device.facts["machine"] == "aarch64"


def test_a_guest_that_loses_its_power_comes_back_with_its_files(start: Start) -> None:
    running = start("qemu-arm64")
    assert isinstance(running, QemuSystem)
    work = running.profile.work_folder
    sh(running.profile, f"echo kept > {work}/note; sync")
    before = sh(running.profile, "cat /proc/sys/kernel/random/boot_id")
    running.kill()
    assert not running._instance.alive
    profile = running.revive()
    assert sh(profile, f"cat {work}/note") == (0, "kept")
    assert sh(profile, "cat /proc/sys/kernel/random/boot_id") != before


def test_a_guest_that_reboots_by_itself_is_awaited(start: Start) -> None:
    running = start("qemu-arm64")
    assert isinstance(running, QemuSystem)
    pid = (running._instance.folder / "pid").read_text(encoding="ascii")
    before = sh(running.profile, "cat /proc/sys/kernel/random/boot_id")
    sh(running.profile, "(sleep 0.2; reboot -f) >/dev/null 2>&1 &")
    time.sleep(1.5)
    assert sh(running.revive(), "cat /proc/sys/kernel/random/boot_id") != before
    assert (running._instance.folder / "pid").read_text(encoding="ascii") == pid, "QEMU itself went on"


@pytest.mark.quiet
def test_virtual_time_repeats_over_boots_and_orders_variants() -> None:
    """Three boots: each variant within half a per cent of its median, and the same one is always the faster."""
    found: dict[str, list[float]] = {}
    for _ in range(3):
        store = MemoryStore()
        run_session(spec([profile_of("qemu-arm64-icount")], protocol(), MODELS), store)
        assert [run.status for run in store.runs] == ["ok"] * 3, [r.failure or r.failed_variants for r in store.runs]
        for variant in MODELS:
            blocks = [b for run in store.kinds(kind=LATENCY) for b in run.blocks]
            samples = [ns for b in blocks if b.variant == variant and b.phase == "measure" for ns in b.wall_ns]
            found.setdefault(variant, []).append(statistics.median(samples))
    for variant, values in found.items():
        middle = statistics.median(values)
        assert max(abs(value / middle - 1) for value in values) <= 0.005, (variant, values)
    assert len({min(MODELS, key=lambda name: found[name][boot]) for boot in range(3)}) == 1, found


def test_a_root_under_qemu_user_is_an_unrooted_phone(start: Start) -> None:
    profile = start("qemu-user-arm64").profile
    assert sh(profile, "id -u; uname -m")[1] == "2000\naarch64"
    assert sh(profile, "ls -d /usr /lib /etc /tmp /dev/shm /lib64 2>/dev/null; command -v python3") == (127, "")
    for path in ("/x", "/bin/x", "/sys/kernel/x", "/proc/sys/kernel/hostname"):
        assert sh(profile, f"echo x > {path}")[0] != 0, path
    assert sh(profile, "echo x > /data/local/tmp/x && rm /data/local/tmp/x")[0] == 0
    assert "Cortex" not in sh(profile, "cat /proc/cpuinfo")[1]
    assert "0xd08" in sh(profile, "cat /proc/cpuinfo")[1]


def test_nothing_of_a_root_is_seen_on_the_host(start: Start) -> None:
    running = start("qemu-user-arm64")
    assert isinstance(running, QemuUser)
    assert "ondevice-harness/emulators" not in Path("/proc/self/mounts").read_text(encoding="utf-8")


def test_a_root_that_died_comes_back_with_its_files(start: Start) -> None:
    running = start("qemu-user-arm64")
    assert isinstance(running, QemuUser)
    sh(running.profile, f"echo kept > {running.profile.work_folder}/note")
    running.kill()
    assert sh(running.revive(), f"cat {running.profile.work_folder}/note") == (0, "kept")


def test_a_32_bit_root_gives_a_row(start: Start) -> None:
    # The static int8 model crashes tflite-runtime 2.14 there (SIGSEGV while loading): see the profile's quirks.
    store = measured(start("qemu-armhf").profile, MODELS[:1])
    (device,) = store.devices.values()
    assert device.facts["machine"] == "armv7l"


def test_a_guest_over_adb_gives_a_row_without_a_python_of_its_own(start: Start) -> None:
    profile = start("qemu-arm64-adb").profile
    assert sh(profile, "id -u; uname -m; ls -d /usr; command -v python3")[1].startswith("2000\naarch64")
    assert sh(profile, "command -v python3") == (127, "")
    assert sh(profile, "echo x > /bin/x")[0] != 0
    measured(profile, MODELS[:1])


def test_an_x86_64_guest_gives_a_row(start: Start) -> None:
    store = measured(start("qemu-x86-64").profile, MODELS[:1])
    (device,) = store.devices.values()
    assert device.facts["machine"] == "x86_64"


def test_a_guest_that_does_not_come_up_says_what_its_console_said() -> None:
    profile = profile_of("qemu-arm64")
    assert profile.emulator is not None
    spec_ = profile.emulator.model_copy(update={"boot_timeout_s": 4.0, "at_boot": ("echo odd words", "sleep 600")})
    with pytest.raises(DeviceError, match="did not answer within 4 s") as caught:
        start_emulator(profile.model_copy(update={"emulator": spec_, "name": "stuck"}))
    assert caught.value.transient
    left = list((cache.cache_root() / "instances").glob("stuck-*"))
    assert left == []


def test_a_killed_harness_leaves_no_guest() -> None:
    code = (
        "import sys, time\nfrom harness.profiles import DeviceProfile\n"
        "from harness.devices.emulators import start_emulator\n"
        "running = start_emulator(DeviceProfile.model_validate_json(sys.argv[1]))\n"
        "print((running._instance.folder / 'pid').read_text().strip(), running._instance.folder, flush=True)\n"
        "time.sleep(600)\n"
    )
    given = profile_of("qemu-arm64").model_dump_json()
    with subprocess.Popen([sys.executable, "-c", code, given], stdout=subprocess.PIPE, text=True) as harness:
        assert harness.stdout is not None
        pid, folder = harness.stdout.readline().split()
        assert Path(f"/proc/{pid}").exists()
        harness.kill()
    deadline = time.monotonic() + 10
    while (Path(f"/proc/{pid}").exists() or Path(folder).exists()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()
    assert not Path(folder).exists()
