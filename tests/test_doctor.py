"""The doctor: every check on what it is made for, and a visit to real devices and to ones that are not there."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from adbd import AdbServer, make_adb_key
from sshd import Sshd, free_port
from test_discovery import harness, says
from test_facts_golden import CASES, texts_of

from harness.devices import doctor
from harness.devices.doctor import Check, check_look
from harness.devices.doctor_visit import Visit, execution, visit
from harness.devices.look import Look
from harness.devices.transport.base import Completed
from harness.devices.transport.fake import FakeTransport
from harness.devices.transport.testing import DaemonOptions, RunningDaemon
from harness.profiles import DeviceProfile
from harness.report.devices import render_checks

HERE = DeviceProfile(name="here", transport="local")


def golden(name: str, **profile: Any) -> dict[str, Check]:
    """The checks of a golden case by name."""
    case = json.loads(next(path for path in CASES if path.stem == name).read_text(encoding="utf-8"))
    texts = texts_of(case)
    now = int(texts["date +%s"]) * 10**9 if "date +%s" in texts else 0
    seen = Look(texts, case["reasons"], started_ns=now, ended_ns=now)
    made = DeviceProfile.model_validate({"name": "x", "transport": "adb"} | profile)
    return {check.name: check for check in check_look(made, seen)}


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_every_device_of_the_golden_cases_gets_an_answer(path: Path) -> None:
    for check in golden(path.stem).values():
        assert check.found
        assert check.status in {"ok", "warning", "failed", "skipped"}
        assert check.remedy or check.status in {"ok", "skipped"}, check


def test_a_pi_that_is_throttled_and_hot() -> None:
    checks = golden("raspberry-pi-4-throttled", thermal={"start_below_c": 60})
    assert checks["throttling"].status == "warning"
    assert "power supply" in str(checks["throttling"].remedy)
    assert checks["temperature"].status == "warning"
    assert "60 °C" in checks["temperature"].found
    assert golden("raspberry-pi-4")["throttling"] == Check("throttling", "ok", "none since boot")
    assert "since boot" in golden("raspberry-pi-zero-2")["throttling"].found
    assert "video" in str(golden("raspberry-pi-4-vcgencmd-denied")["throttling"].remedy)


def test_phones() -> None:
    assert golden("android-14-pixel-8")["battery"].status == "ok"
    assert "unplug" in str(golden("android-12-pixel-6")["battery"].remedy)
    assert "battery reset" in str(golden("android-14-pixel-8-unplugged-by-hand")["battery"].remedy)
    assert "thermalservice reset" in str(golden("android-14-pixel-8-thermal-by-hand")["temperature"].remedy)
    assert golden("android-13-galaxy-s23")["throttling"].status == "warning"
    assert "battery" not in golden("android-11-tv-box")
    assert golden("android-13-galaxy-s23")["power meters"].found.startswith("charge counter")
    assert (
        "RAPL" in golden("laptop-thinkpad-t480")["power meters"].found
        or "BAT0" in golden("laptop-thinkpad-t480")["power meters"].found
    )


def test_the_profile_against_the_device() -> None:
    assert golden("rock-5b", arch="x86_64")["architecture"].status == "failed"
    assert golden("android-07-moto-g5", arch="armv7l")["architecture"].status == "ok"
    assert golden("visionfive-2")["architecture"].status == "warning"
    assert golden("rock-5b", affinity=[4, 9])["processors"].status == "failed"
    assert "CPU 9" in golden("rock-5b", affinity=[4, 9])["processors"].found
    assert golden("android-06-xperia-z5-compact", affinity=[6])["processors"].status == "warning"


def test_emulators_are_not_blamed_for_having_no_sensors() -> None:
    assert golden("qemu-arm64-virt", emulated=True)["temperature"].status == "skipped"
    assert golden("qemu-arm64-virt")["temperature"].status == "warning"


@pytest.mark.parametrize(
    ("free_bytes", "profile", "status"),
    [
        (50 << 20, {"transport": "local"}, "failed"),
        (150 << 20, {"transport": "local"}, "warning"),
        (300 << 20, {"transport": "local"}, "ok"),
        (300 << 20, {"transport": "adb"}, "failed"),
        (2 << 30, {"transport": "adb"}, "ok"),
        (None, {"transport": "adb"}, "warning"),
    ],
)
def test_space(free_bytes: int | None, profile: dict[str, Any], status: str) -> None:
    facts = {} if free_bytes is None else {"free_bytes": free_bytes}
    assert doctor.space(DeviceProfile(name="x", **profile), facts).status == status


@pytest.mark.parametrize(
    ("told", "status", "word"),
    [(1000, "ok", "agrees"), (1090, "warning", "ahead"), (900, "warning", "behind"), (None, "warning", "not tell")],
)
def test_clock(told: int | None, status: str, word: str) -> None:
    found = doctor.clock({} if told is None else {"clock_s": told}, 1000 * 10**9, 1002 * 10**9)
    assert found.status == status
    assert word in found.found


def test_a_clock_that_was_never_set() -> None:
    assert doctor.clock({"clock_s": 42}, 1_700_000_000 * 10**9, 1_700_000_000 * 10**9).status == "failed"


def test_memory_load_and_frequency() -> None:
    assert doctor.memory({"memory_available_bytes": 30 << 20}).status == "failed"
    assert doctor.memory({"memory_available_bytes": 200 << 20}).status == "warning"
    assert doctor.load({"load_average": [3.0, 1, 1], "cpus": 4}).status == "warning"
    assert doctor.load({"load_average": [0.1, 1, 1], "cpus": 4, "cpu_pressure_percent": 40.0}).status == "warning"
    assert doctor.load({"load_average": [0.1, 1, 1], "cpus": 4}).status == "ok"
    capped = {"clusters": [{"cpus": [0], "khz": 600000, "max_khz": 1800000, "limit_khz": 1000000}]}
    assert "1.00 GHz" in doctor.frequency(capped, Look()).found
    slow = {"governor": "powersave", "clusters": [{"cpus": [0], "driver": "cpufreq-dt"}]}
    assert getattr(doctor.governor(HERE, slow), "status", None) == "warning"
    intel = {"governor": "powersave", "clusters": [{"cpus": [0], "driver": "intel_pstate"}]}
    assert getattr(doctor.governor(HERE, intel), "status", None) == "ok"


@pytest.mark.parametrize(
    ("code", "runtime", "status"),
    [(7, "bundle", "ok"), (126, "bundle", "failed"), (126, "own", "warning"), (3, "own", "failed")],
)
def test_programs_may_run_in_the_work_folder(code: int, runtime: str, status: str) -> None:
    profile = DeviceProfile.model_validate({"name": "x", "transport": "adb", "runtime": runtime})
    assert execution(profile, FakeTransport(lambda _: Completed(code, b"", b"Permission denied"))).status == status


def test_this_machine(tmp_path: Path) -> None:
    profile = DeviceProfile(name="here", transport="local", work_folder=str(tmp_path / "w"), engines=("litert",))
    found = visit(profile)
    told = {check.name: check for check in found.checks}
    assert found.healthy, told
    assert "ran a tiny model" in told["litert"].found
    assert told["affinity"].status == "ok"
    assert not list((tmp_path / "w").glob("sessions/*"))
    assert not list((tmp_path / "w").glob(".doctor*"))


def test_a_cpu_that_may_not_be_used_and_a_python_without_numpy(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E "$@"\n')
    python.chmod(0o755)
    profile = DeviceProfile(
        name="here", transport="local", work_folder=str(tmp_path / "w"), engines=("litert",), python=str(python),
        affinity=(4000,),
    )  # fmt: skip
    told = {check.name: check for check in visit(profile).checks}
    assert told["processors"].status == "failed"
    assert told["affinity"].status == "failed"
    assert told["runtime"].status == "failed"
    assert "pip install numpy" in str(told["runtime"].remedy)
    assert told["litert"].status == "failed" or told["litert"].status == "warning"


def test_a_work_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    profile = DeviceProfile(name="here", transport="local", work_folder=str(tmp_path / "file" / "w"))
    told = {check.name: check for check in visit(profile).checks}
    assert told["work folder"].status == "failed"
    assert told["runtime"].status == "failed"


def test_a_connection_lost_on_the_way_keeps_what_was_found() -> None:
    transport = says({"uname -s -r -m": "Linux 6.6 aarch64"})
    answer = transport.handler

    def handler(call: Any) -> Any:
        if len(transport.calls) > 1:
            transport.lose()
        return answer(call)

    transport.handler = handler
    found = visit(DeviceProfile(name="x", transport="adb"), opener=lambda _: transport)
    assert not found.healthy
    assert found.checks[0].status == "ok"
    assert any(check.name == "architecture" for check in found.checks)


def test_words() -> None:
    checks = (
        Check("reachable", "ok", "over ssh"),
        Check("clock", "warning", "behind", "set it"),
        Check("x", "failed", "y"),
    )
    text = render_checks("pi", checks)
    assert "✓ reachable  over ssh" in text
    assert "→ set it" in text
    assert "1 of 3 checks failed" in text
    assert "ready to be measured on; 1 warning" in render_checks("pi", checks[:2])


def refused(found: Visit, *words: str) -> None:
    """One failed check that says what to do, in less than five seconds."""
    assert found.seconds < 5
    (check,) = found.checks
    assert check.status == "failed"
    assert check.remedy
    for word in words:
        assert word in f"{check.found} {check.remedy}", check


def ssh_profile(**changes: Any) -> DeviceProfile:
    return DeviceProfile.model_validate({"name": "pi", "transport": "ssh", "host": "127.0.0.1"} | changes)


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port that takes connections and never says a word, as a hanging host does."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.ssh
def test_ssh_hosts_that_are_not_there(tmp_path: Path, deaf_port: int) -> None:
    refused(visit(ssh_profile(port=free_port())), "refuses connections", "port")
    refused(visit(ssh_profile(host="no-such-host.invalid")), "host")
    refused(visit(ssh_profile(port=deaf_port)), "no answer", "connect_timeout_s")


@pytest.mark.ssh
def test_an_ssh_host_with_an_unknown_key_or_another_user(sshd: Sshd, tmp_path: Path) -> None:
    refused(visit(sshd.profile(known_hosts=str(tmp_path / "none"))), "unknown", "ssh-keyscan")
    refused(visit(sshd.profile(user="nobody-here")), "refused to log in", "ssh-copy-id")


@pytest.mark.ssh
def test_a_host_over_ssh(sshd: Sshd) -> None:
    found = visit(sshd.profile(python=sys.executable))
    told = {check.name: check for check in found.checks}
    assert found.healthy, told
    for engine in ("litert", "onnxruntime", "openvino"):
        assert "ran a tiny model" in told[engine].found
    assert not list((sshd.folder / "work").glob("sessions/*"))


@pytest.mark.adb
def test_adb_devices_that_are_not_there(
    tmp_path: Path, adb_server: AdbServer, deaf_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(adb_server.port))
    adb_server.run("start-server")

    def phone(**changes: Any) -> DeviceProfile:
        return DeviceProfile.model_validate({"name": "phone", "transport": "adb"} | changes)

    refused(visit(phone(serial="DEADSERIAL")), "DEADSERIAL", "adb devices")
    refused(visit(phone(host="127.0.0.1", port=free_port())), "127.0.0.1")
    refused(visit(phone(host="127.0.0.1", port=deaf_port)), "127.0.0.1")
    _, stranger = make_adb_key(tmp_path, "stranger")
    with RunningDaemon(DaemonOptions(keys=(stranger,))) as locked:
        host, port = locked.serial.rsplit(":", 1)
        refused(visit(phone(host=host, port=int(port))), "unauthorized", "screen")
        adb_server.run("connect", locked.serial)
        refused(visit(phone(serial=locked.serial, adb_route="server")), "unauthorized", "screen")


@pytest.mark.slow
def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("here.yaml").write_text("transport: local\nengines: [litert]\n")
    done = harness("doctor", "./here.yaml", "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["healthy"] is True
    assert told["checks"][-1]["name"] == "energy"
    assert {"name", "status", "found", "remedy"} == set(told["checks"][0])
    done = harness("doctor", "./here.yaml")
    assert "ready to be measured on" in done.stdout
    assert harness("doctor", "locl").exit_code == 2


@pytest.mark.ssh
def test_the_command_on_a_closed_port() -> None:
    done = harness("doctor", f"ssh://127.0.0.1:{free_port()}")
    assert done.exit_code == 3
    assert "refuses connections" in done.stdout
