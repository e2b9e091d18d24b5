"""The Android emulator, with an SDK of scripts: no real one can be installed where the tests run.

The scripts stand for `emulator` (lists AVDs, runs until killed), `adb` (start-server, emu commands, all noted) and
`avdmanager` (makes an AVD). Whether Android has booted is asked through a transport, which is a fake one here.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from harness.devices.emulators import android, start_emulator
from harness.devices.emulators.android import SNAPSHOT, AndroidEmulator
from harness.devices.transport import Completed, Transport
from harness.devices.transport.fake import Call, FakeTransport, Script
from harness.errors import DeviceError, TransportError
from harness.profiles import DeviceProfile, load_profile

pytestmark = pytest.mark.slow  # many real processes: not in the part that ends within a minute

EMULATOR = """#!/bin/sh
here=$(dirname "$0")/..
if [ "$1" = -list-avds ]; then echo "INFO | Storing crashdata in: /tmp"; cat "$here/avds" 2>/dev/null; exit 0; fi
echo "$@" >> "$here/started"
if [ -e "$here/broken" ]; then echo "x86_64 emulation currently requires hardware acceleration!" >&2; exit 1; fi
exec sleep 600
"""
ADB = """#!/bin/sh
here=$(dirname "$0")/..
echo "$@" >> "$here/adb-said"
case "$*" in
*"snapshot list"*) cat "$here/snapshots" 2>/dev/null || true ;;
*"snapshot save"*) echo ondevice-harness-booted >> "$here/snapshots" ;;
esac
"""
AVDMANAGER = """#!/bin/sh
here=$(dirname "$0")/../../..
read -r answer
echo "$answer: $*" >> "$here/made"
while [ $# -gt 0 ]; do if [ "$1" = -n ]; then echo "$2" >> "$here/avds"; fi; shift; done
"""
IMAGE = "system-images;android-34;default;x86_64"


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="ascii")
    path.chmod(0o755)


@pytest.fixture
def sdk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "sdk"
    script(root / "emulator" / "emulator", EMULATOR)
    script(root / "platform-tools" / "adb", ADB)
    script(root / "cmdline-tools" / "latest" / "bin" / "avdmanager", AVDMANAGER)
    root.joinpath(*IMAGE.split(";")).mkdir(parents=True)
    monkeypatch.setenv("ANDROID_HOME", str(root))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HARNESS_KVM", "off")
    return root


@pytest.fixture
def nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ANDROID_HOME", raising=False)
    monkeypatch.delenv("ANDROID_SDK_ROOT", raising=False)


class Phone:
    """Answers after some tries, as an Android that boots: not seen, then not ready, then booted."""

    def __init__(self, *answers: bytes | None) -> None:
        self.answers = list(answers)
        self.asked: list[DeviceProfile] = []

    def open(self, profile: DeviceProfile) -> Transport:
        self.asked.append(profile)
        answer = self.answers.pop(0) if self.answers else b"1\n"
        if answer is None:
            raise TransportError(f"{profile.name}: no device {profile.serial}", transient=True)

        def handler(call: Call) -> Completed | Script:
            assert call.argv == ("getprop", "sys.boot_completed")
            return Completed(0, answer, b"")

        return FakeTransport(handler)


def profile(**changes: object) -> DeviceProfile:
    given = load_profile("android-emulator")
    assert given.emulator is not None
    return given.model_copy(
        update={"arch": "x86_64", "emulator": given.emulator.model_copy(update={"boot_timeout_s": 5.0, **changes})}
    )


def said(path: Path) -> list[str]:
    return path.read_text(encoding="ascii").splitlines() if path.exists() else []


def test_it_is_made_booted_awaited_saved_and_ended(sdk: Path) -> None:
    phone = Phone(None, None, b"\n", b"1\n")
    running = AndroidEmulator(profile(), opener=phone.open, poll_s=0.01)
    assert said(sdk / "made") == [f"no: create avd -n ondevice-harness -k {IMAGE}"]
    (started,) = said(sdk / "started")
    assert "-avd ondevice-harness" in started
    assert "-no-window" in started
    assert started.endswith("-accel off")
    serial = running.profile.serial
    assert serial is not None
    assert f"-port {serial.removeprefix('emulator-')} " in started
    assert running.profile.adb_route == "server"
    assert len(phone.asked) == 4
    assert f"-s {serial} emu avd snapshot save {SNAPSHOT}" in said(sdk / "adb-said")
    instance = running._instance
    running.stop()
    assert said(sdk / "adb-said")[-1] == f"-s {serial} emu kill"
    assert not instance.folder.exists()
    assert not instance.alive
    running.stop()


def test_the_second_time_there_is_an_avd_and_a_snapshot(sdk: Path) -> None:
    for _ in range(2):
        AndroidEmulator(profile(), opener=Phone().open, poll_s=0.01).stop()
    assert len(said(sdk / "made")) == 1
    assert sum("snapshot save" in line for line in said(sdk / "adb-said")) == 1
    assert all(f"-snapshot {SNAPSHOT}" in line for line in said(sdk / "started"))


def test_a_dead_one_is_started_again_and_a_rebooting_one_awaited(sdk: Path) -> None:
    phone = Phone()
    running = AndroidEmulator(profile(), opener=phone.open, poll_s=0.01)
    phone.answers = [None, b"\n", b"1\n"]
    running.revive()
    assert len(said(sdk / "started")) == 1
    running._instance.end()
    running.revive()
    assert len(said(sdk / "started")) == 2
    running.stop()


def test_one_that_dies_says_why(sdk: Path) -> None:
    (sdk / "broken").touch()

    def never(given: DeviceProfile) -> Transport:
        time.sleep(0.2)
        raise TransportError("no device", transient=True)

    with pytest.raises(DeviceError, match="ended with code 1: x86_64 emulation currently requires hardware") as caught:
        AndroidEmulator(profile(), opener=never, poll_s=0.01)
    assert "KVM" in str(caught.value.remedy)


def test_one_that_never_boots_is_given_up(sdk: Path, tmp_path: Path) -> None:
    phone = Phone(*[b"0\n"] * 1000)
    with pytest.raises(DeviceError, match=r"not booted within 0\.2 s: Android has not finished booting"):
        AndroidEmulator(profile(boot_timeout_s=0.2), opener=phone.open, poll_s=0.01)
    assert [path for path in (tmp_path / "cache").rglob("instances/*") if path.name != ".lock"] == []


def test_without_an_sdk_it_says_what_to_install(nothing: None) -> None:
    with pytest.raises(DeviceError, match="no Android SDK is installed") as caught:
        start_emulator(profile())
    assert "sdkmanager emulator platform-tools" in str(caught.value.remedy)


def test_what_the_sdk_lacks_is_named(sdk: Path, nothing: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANDROID_SDK_ROOT", str(sdk))
    with pytest.raises(DeviceError, match="has no system-images;android-99") as caught:
        AndroidEmulator(profile(system_image="system-images;android-99;google_apis;x86_64"), opener=Phone().open)
    assert "sdkmanager" in str(caught.value.remedy)
    (sdk / "cmdline-tools/latest/bin/avdmanager").unlink()
    with pytest.raises(DeviceError, match="no avdmanager"):
        AndroidEmulator(profile(), opener=Phone().open)
    (sdk / "emulator/emulator").unlink()
    with pytest.raises(DeviceError, match="lacks emulator") as caught:
        AndroidEmulator(profile(), opener=Phone().open)
    assert caught.value.remedy == "install with: sdkmanager emulator"


def test_ports_come_in_pairs() -> None:
    port = android._free_pair("x")
    assert port % 2 == 0
