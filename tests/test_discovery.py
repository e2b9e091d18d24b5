"""What is connected: own profiles, adb's list, emulators; and what is said of devices that are not there."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path

import pytest
from adbd import AdbServer, make_adb_key
from sshd import Sshd, free_port
from typer.testing import CliRunner, Result

from harness.cli.main import app
from harness.devices import discovery
from harness.devices.capture import golden_case
from harness.devices.discovery import Found, adb_devices, discover, emulators, missing_for, own_profiles, probe
from harness.devices.look import Look
from harness.devices.preflight.journal import new_entry
from harness.devices.transport.base import Completed
from harness.devices.transport.fake import Call, FakeTransport, Script
from harness.devices.transport.testing import DaemonOptions, RunningDaemon
from harness.errors import HostKeyError, TransportError
from harness.profiles import DeviceProfile, load_profile
from harness.report.devices import render_device, render_devices


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without profiles, in an empty folder, without an adb server; the folder of their profiles."""
    folder = tmp_path / "config" / "ondevice-harness" / "devices"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(free_port()))
    return folder


def says(texts: dict[str, str], modules: dict[str, str | None] | None = None) -> FakeTransport:
    """A device whose shell says these texts, and whose Python has these modules (None: no Python)."""

    def handler(call: Call) -> Completed | Script:
        if call.argv[0] == "sh":
            token = call.argv[2]
            said = "".join(f"{token}={name}\n{text}\n{token}.0\n" for name, text in texts.items())
            return Completed(0, said.encode(), b"")
        if modules is None:
            return Completed(127, b"", b"sh: python3: not found")
        return Completed(0, json.dumps({"python": "3.11", "modules": modules}).encode(), b"")

    return FakeTransport(handler)


PI = {"uname -s -r -m": "Linux 6.6 aarch64", "/proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4"}


def board(**changes: object) -> DeviceProfile:
    return DeviceProfile.model_validate({"name": "pi", "transport": "ssh", "host": "pi.local"} | changes)


def test_only_own_profiles_that_name_a_device_are_looked_for(home: Path) -> None:
    (home / "kitchen.yaml").write_text("extends: raspberry-pi-4\nhost: kitchen.local\nuser: pi\n")
    (home / "guest.yaml").write_text("extends: qemu-arm64\n")
    (home / "broken.yaml").write_text("transport: ssh\nhots: x\n")
    profiles, invalid = own_profiles()
    assert [profile.name for profile in profiles] == ["kitchen"]
    assert [(item.name, item.state) for item in invalid] == [("broken", "invalid")]
    assert "hots" in str(invalid[0].reason)


def test_a_board_with_its_own_python(home: Path) -> None:
    found = probe(board(), opener=lambda _: says(PI, {"numpy": "1.26", "onnxruntime": "1.20"}))
    assert found.state == "ready"
    assert found.facts["model"] == "Raspberry Pi 4 Model B Rev 1.4"
    assert found.runtime == "own"
    assert found.engines == {"onnxruntime": "1.20"}


@pytest.mark.parametrize("modules", [None, {"numpy": None, "onnxruntime": "1.20"}, {"numpy": "1.26"}])
def test_a_board_without_one_gets_the_bundle(modules: dict[str, str | None] | None, home: Path) -> None:
    found = probe(board(), opener=lambda _: says(PI, modules))
    assert found.runtime == "bundle"
    assert set(found.engines or ()) <= {"litert", "onnxruntime", "openvino"}
    old = probe(board(), opener=lambda _: says({"uname -s -r -m": "Linux 6.1 armv7l"}, None))
    assert set(old.engines or ()) == {"litert"}
    odd = probe(board(), opener=lambda _: says({"uname -s -r -m": "Linux 6.6 riscv64"}, None))
    assert odd.engines == {}


def test_devices_that_are_not_there_say_what_to_do(home: Path) -> None:
    limits: list[float] = []

    def opener(profile: DeviceProfile) -> FakeTransport:
        limits.append(profile.connect_timeout_s)
        if profile.host == "new.local":
            raise HostKeyError("pi: the host key is unknown", remedy="ssh-keyscan")
        raise TransportError("pi: no answer", remedy="check that it is on", transient=True)

    silent = probe(board(), opener=opener)
    assert (silent.state, silent.reason, silent.remedy) == ("unreachable", "pi: no answer", "check that it is on")
    assert probe(board(host="new.local"), opener=opener).state == "host key"
    assert max(limits) <= discovery.CONNECT_TIMEOUT_S < 5
    probe(board(connect_timeout_s=60), opener=opener)
    assert limits[-1] == 60, "a profile that asks for patience gets it"


def test_a_device_that_is_lost_while_looked_at() -> None:
    found = probe(board(), opener=lambda _: FakeTransport(lambda _call: Script(lost=True)))
    assert found.state == "unreachable"


def test_no_adb_server_is_started(home: Path) -> None:
    port = int(os.environ["ANDROID_ADB_SERVER_PORT"])
    devices, remark = adb_devices()
    assert devices == []
    assert str(port) in str(remark)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 1)


def test_emulators_are_listed_with_what_they_lack(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("ANDROID_HOME", "/nowhere")
    found = {device.name: device for device in emulators()}
    assert found["qemu-arm64"].state == "not installed"
    assert "qemu-system-arm" in str(found["qemu-arm64"].remedy)
    assert "sdkmanager" in str(found["android-emulator"].remedy)
    assert all(device.emulated for device in found.values())
    assert missing_for(board()) is None


def test_words_for_people(home: Path) -> None:
    found = [
        probe(
            board(), opener=lambda _: says(PI | {"/proc/loadavg": "0.1 0.1 0.1 1/2 3"}, {"numpy": "1", "litert": None})
        ),
        Found("phone", "adb", "unauthorized", reason="it does not accept this key", remedy="accept it on its screen"),
        Found(
            "qemu", "ssh", "not installed", description="a guest", reason="x is not installed", remedy="apt install x"
        ),
    ]
    text = render_devices(found, ["no adb server runs"], width=100)
    assert "Raspberry Pi 4" in text
    assert "→ accept it on its screen" in text
    assert "apt install x" in text
    assert "no adb server runs" in text
    assert "\x1b" not in text
    assert "load average  0.1" in render_device(found[0])


def test_a_device_cannot_write_to_the_terminal(home: Path) -> None:
    evil = {"uname -s -r -m": "Linux 6.6 aarch64", "/proc/device-tree/model": "Pi\x1b]0;title\x07"}
    found = probe(board(), opener=lambda _: says(evil, None))
    assert "\x1b" not in render_devices([found], []) + render_device(found)


def test_a_saved_case_names_nobody() -> None:
    texts = {
        "getprop": "[ro.serialno]: [R5CW123]\n[ro.product.model]: [SM-S911B]\n[gsm.operator.alpha]: [Somebody]",
        "/proc/cpuinfo": "processor\t: 0\nSerial\t\t: 10000000abcdef01\nModel\t\t: Raspberry Pi 4",
        "/etc/machine-id": "0123456789abcdef",
        "id": "uid=1000(anna) gid=1000(anna) groups=1000(anna),44(video)",
        "sh": "ok /home/anna/x",
    }
    case = json.dumps(golden_case(Look(texts, {}), "a phone"))
    assert "SM-S911B" in case
    assert "Raspberry Pi 4" in case
    for secret in ("R5CW123", "Somebody", "10000000abcdef01", "0123456789abcdef", "anna"):
        assert secret not in case


def harness(*words: str) -> Result:
    """The command in this process: a new one would cost a second each time."""
    return CliRunner().invoke(app, words)


def test_the_command_lists_this_machine(home: Path) -> None:
    done = harness("devices", "--json")
    assert done.exit_code == 0, done.stderr
    told = {device["name"]: device for device in json.loads(done.stdout)["devices"]}
    assert told["local"]["state"] == "ready"
    assert told["local"]["facts"]["cpus"] == os.cpu_count()
    assert "qemu-arm64" in told


def test_the_command_shows_and_saves_one(home: Path) -> None:
    done = harness("devices", "show", "local", "--save", "case.json")
    assert done.exit_code == 0, done.stderr
    assert "memory total" in done.stdout
    case = json.loads(Path("case.json").read_text(encoding="utf-8"))
    assert case["captured"] is True
    assert case["facts"]["kernel"].startswith("Linux ")


def test_the_command_cleans_a_device_and_touches_nothing_else(home: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    for name in ("sessions/old", "blobs/abc", "mine"):
        (work / name).mkdir(parents=True)
    (home / "here.yaml").write_text(f"transport: local\nwork_folder: {work}\n")
    done = harness("devices", "clean", "here")
    assert done.exit_code == 0, done.stderr
    assert sorted(path.name for path in work.iterdir()) == ["mine"]
    assert "sessions" in done.stdout
    (work / "mine").rmdir()
    assert json.loads(harness("devices", "clean", "here", "--json").stdout)["removed"] == ["."]
    assert not work.exists()


def test_a_device_that_a_session_measures_on_is_not_cleaned(home: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    (work / "sessions" / "now").mkdir(parents=True)
    (home / "here.yaml").write_text(f"transport: local\nwork_folder: {work}\n")
    entry = new_entry(load_profile("here"), token="abc", session="now", undo=(), knobs={}, sign=None)  # noqa: S106 - part of a file name
    entry.write()
    done = harness("devices", "clean", "here")
    assert done.exit_code == 3
    assert "session now is measuring there" in done.stderr
    assert (work / "sessions" / "now").is_dir()
    entry.remove()
    assert harness("devices", "clean", "here").exit_code == 0
    assert not work.exists()


@pytest.mark.parametrize("work", ["/", "//", "/tmp/", "~", "/home", "/data/local/tmp", "{tmp}/x/.."])
def test_a_folder_that_others_use_too_is_not_cleaned(work: str, home: Path, tmp_path: Path) -> None:
    for name in ("sessions", "x"):
        (tmp_path / name).mkdir()
    (home / "here.yaml").write_text(f"transport: local\nwork_folder: '{work.replace('{tmp}', str(tmp_path))}'\n")
    done = harness("devices", "clean", "here")
    assert done.exit_code == 3
    assert "work_folder" in done.stderr
    assert (tmp_path / "sessions").is_dir()


@pytest.mark.ssh
def test_a_host_over_ssh_and_one_that_is_off(home: Path, sshd: Sshd) -> None:
    profile = sshd.profile()
    keys = "".join(
        f"{key}: {getattr(profile, key)}\n" for key in ("host", "port", "user", "identity_file", "known_hosts")
    )
    (home / "here.yaml").write_text(f"transport: ssh\n{keys}python: {sys.executable}\n")
    (home / "gone.yaml").write_text(f"transport: ssh\n{keys.replace(str(sshd.port), str(free_port()))}")
    found, _ = discover()
    told = {device.name: device for device in found}
    assert told["here"].state == "ready"
    assert set(told["here"].engines or ()) == {"litert", "onnxruntime", "openvino"}
    assert told["gone"].state == "unreachable"
    assert told["gone"].remedy


@pytest.mark.adb
def test_phones_that_the_adb_server_lists(
    home: Path, tmp_path: Path, adb_server: AdbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that lets the server in, one that does not; neither is in a profile."""
    _, stranger = make_adb_key(tmp_path, "stranger")
    props = {"ro.build.version.release": "14", "ro.product.model": "Pixel 8", "ro.product.manufacturer": "Google"}
    with (
        RunningDaemon(DaemonOptions(props=props)) as friendly,
        RunningDaemon(DaemonOptions(keys=(stranger,))) as locked,
    ):
        adb_server.connect(friendly)
        adb_server.run("connect", locked.serial)
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(adb_server.port))
        started = time.monotonic()
        found, remarks = discover()
        took_s = time.monotonic() - started
    told = {device.name: device for device in found}
    assert remarks == []
    assert told[f"adb://{friendly.serial}"].state == "ready"
    assert told[f"adb://{friendly.serial}"].runtime == "bundle"
    assert told[f"adb://{friendly.serial}"].facts["machine"] == os.uname().machine
    assert told[f"adb://{locked.serial}"].state == "unauthorized"
    assert "screen" in str(told[f"adb://{locked.serial}"].remedy)
    assert took_s < 10
    assert load_profile(f"adb://{friendly.serial}").transport == "adb"
