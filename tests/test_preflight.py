"""The knobs on a sysfs in a folder and on scripted Android commands: set, read back, recorded, put back; the journal; the gate."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_android import UNTOUCHED, Android, Sysfs

from harness.devices.preflight import Preflight, leftovers, restore_leftovers
from harness.devices.preflight.background import background, parse_busiest, parse_load, parse_pressure
from harness.devices.preflight.cpufreq import choose_khz
from harness.devices.preflight.journal import entries, journal_folder
from harness.devices.preflight.knobs import KNOBS
from harness.devices.preflight.session import shell_of
from harness.devices.preflight.thermal import choose, cool_down, parse_zones, read_temperatures
from harness.devices.transport.local import LocalTransport
from harness.profile_parts import Knob, Thermal
from harness.profiles import DeviceProfile


@pytest.fixture(autouse=True)
def _own_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg-state"))


@pytest.fixture
def transport() -> Iterator[LocalTransport]:
    with LocalTransport("here") as made:
        yield made


def profile(environment: dict[str, str], *knobs: str, **more: Any) -> DeviceProfile:
    values = {"name": "here", "transport": "local", "environment": environment, "may_change": knobs}
    return DeviceProfile.model_validate(values | more)


def preflight(made: DeviceProfile, tmp_path: Path) -> Preflight:
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    return Preflight(made, str(work), "s1")


def guardians(folder: Path) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes()
        except OSError:
            continue
        if b"harness-guardian" in text and str(folder).encode() in text:
            found.append(int(path.parts[2]))
    return found


def eventually(condition: Any, timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return bool(condition())


def test_every_knob_a_profile_may_name_has_its_class() -> None:
    assert set(KNOBS) == set(Knob.__args__)
    assert all(made.name == name for name, made in KNOBS.items())


def test_governor_and_frequency_are_set_guarded_and_put_back(transport: LocalTransport, tmp_path: Path) -> None:
    sysfs = Sysfs(tmp_path / "a sys")
    session = preflight(profile(sysfs.environment, "governor", "frequency"), tmp_path)
    session.begin(transport)
    assert sysfs.cpufreq() == {
        "scaling_governor": ["performance", "performance"],
        "scaling_min_freq": ["1200000", "1800000"],
        "scaling_max_freq": ["1200000", "1800000"],
    }
    assert session.outcomes == {
        "governor": "performance (was schedutil)",
        "frequency": "fixed at 1200000, 1800000 kHz (was 600000 to 1800000, 2400000 kHz)",
    }
    (entry,) = entries(session.profile)
    assert entry.alive
    assert leftovers() == []
    assert len(guardians(tmp_path)) == 1
    assert session.restore(transport) == []
    assert sysfs.cpufreq() == UNTOUCHED
    assert eventually(lambda: guardians(tmp_path) == [])
    assert list((tmp_path / "work").iterdir()) == []
    assert len(entries()) == 1, "until the session's files are gone, too"
    session.end()
    assert list(journal_folder().iterdir()) == []
    assert session.restore(transport) == []


def test_what_a_device_forbids_is_said(transport: LocalTransport, tmp_path: Path) -> None:
    sysfs = Sysfs(tmp_path / "sys", offered="powersave schedutil")
    governor = tmp_path / "sys/devices/system/cpu/cpufreq/policy4/scaling_max_freq"
    governor.unlink()
    governor.mkdir()  # nobody can write to it, not even root
    session = preflight(profile(sysfs.environment, "governor", "frequency", "airplane_mode"), tmp_path)
    session.begin(transport)
    assert session.outcomes["governor"].startswith("the kernel offers no governor 'performance', only powersave")
    assert "not permitted" in session.outcomes["frequency"]
    assert session.outcomes["airplane_mode"] == "this is no Android: there is no 'cmd'"
    session.restore(transport)
    session.end()
    assert sysfs.get("scaling_governor") == UNTOUCHED["scaling_governor"]
    nothing = preflight(profile({"HARNESS_SYSFS": str(tmp_path / "none")}, "governor"), tmp_path)
    nothing.begin(transport)
    assert nothing.outcomes == {"governor": "the kernel offers no cpufreq here"}
    nothing.end()
    assert guardians(tmp_path) == []
    assert entries() == []


def test_a_device_that_takes_a_value_and_ignores_it(transport: LocalTransport, tmp_path: Path) -> None:
    sysfs = Sysfs(tmp_path / "sys")
    target = tmp_path / "sys/devices/system/cpu/cpufreq/policy0/scaling_governor"
    target.unlink()
    target.symlink_to("/dev/null")
    session = preflight(profile(sysfs.environment, "governor"), tmp_path)
    session.begin(transport)
    assert session.outcomes["governor"].startswith("no effect: it reads back as ")
    session.restore(transport)
    session.end()
    assert sysfs.get("scaling_governor")[1] == "schedutil"


ALL_ANDROID = ("fixed_performance", "stay_awake", "screen", "airplane_mode", "suspend_charging")


def test_android_is_set_and_put_back(transport: LocalTransport, tmp_path: Path) -> None:
    phone = Android(tmp_path / "phone")
    before = phone.values()
    session = preflight(profile(phone.environment, *ALL_ANDROID), tmp_path)
    session.begin(transport)
    assert phone.values() == before | {
        "fixed": "true",
        "stayon": "15",
        "wakefulness": "Awake",
        "airplane": "enabled",
        "battery": "3",
    }
    assert session.outcomes == {
        "fixed_performance": "on (was off, as far as is known: Android does not tell)",
        "stay_awake": "15 (was 0)",
        "screen": "Awake (was Asleep)",
        "airplane_mode": "enabled (was disabled)",
        "suspend_charging": "suspended (was charging)",
    }
    assert session.restore(transport) == []
    assert phone.values() == before


GOLDEN = [
    ("fixed_performance", ("unsupported",), "Failed to set FIXED_PERFORMANCE mode This is likely because"),
    ("fixed_performance", ("old",), "Unknown command: set-fixed-performance-mode-enabled"),
    ("airplane_mode", ("airplane-usage",), "usage: cmd connectivity"),
    ("suspend_charging", ("no-suspend", "deaf"), "only allowed on debuggable builds; `setprop"),
]


@pytest.mark.parametrize(("knob", "quirks", "words"), GOLDEN)
def test_what_a_phone_lacks_is_kept_in_its_own_words(
    transport: LocalTransport, tmp_path: Path, knob: str, quirks: tuple[str, ...], words: str
) -> None:
    phone = Android(tmp_path / "phone", *quirks)
    before = phone.values()
    session = preflight(profile(phone.environment, knob), tmp_path)
    session.begin(transport)
    assert words in session.outcomes[knob]
    session.restore(transport)
    session.end()
    assert phone.values() == before


def test_a_release_build_may_still_suspend_through_the_property(transport: LocalTransport, tmp_path: Path) -> None:
    phone = Android(tmp_path / "phone", "no-suspend")
    session = preflight(profile(phone.environment, "suspend_charging"), tmp_path)
    session.begin(transport)
    assert session.outcomes["suspend_charging"] == "suspended (was charging)"
    session.restore(transport)
    session.end()
    assert phone.value("battery") == "2"


def test_values_that_nobody_set_are_deleted_again(transport: LocalTransport, tmp_path: Path) -> None:
    phone = Android(tmp_path / "phone", stayon="null", wakefulness="Awake")
    session = preflight(profile(phone.environment, "stay_awake", "screen"), tmp_path)
    session.begin(transport)
    session.restore(transport)
    session.end()
    assert (phone.value("stayon"), phone.value("wakefulness")) == ("null", "Awake")


@pytest.mark.parametrize(
    "way",
    [
        {"transport": "ssh", "host": "phone.local"},
        {"transport": "adb", "host": "10.0.0.7"},
        {"transport": "adb", "serial": "10.0.0.7:5555"},
        {"transport": "adb", "serial": "adb-2A._adb-tls-connect._tcp"},
    ],
)
def test_the_radio_we_come_by_is_left_alone(transport: LocalTransport, tmp_path: Path, way: dict[str, str]) -> None:
    phone = Android(tmp_path / "phone")
    session = preflight(profile(phone.environment, "airplane_mode", **way), tmp_path)
    session.begin(transport)
    assert session.outcomes["airplane_mode"].startswith("left alone: the device is reached over the network")
    assert phone.value("airplane") == "disabled"


def test_a_second_session_leaves_the_knobs_of_the_first_alone(transport: LocalTransport, tmp_path: Path) -> None:
    sysfs = Sysfs(tmp_path / "sys")
    made = profile(sysfs.environment, "governor")
    first, second = preflight(made, tmp_path), preflight(made, tmp_path)
    first.begin(transport)
    second.begin(transport)
    assert second.outcomes["governor"].startswith("left alone: session s1 of this host is measuring")
    second.restore(transport)
    second.end()
    assert sysfs.get("scaling_governor") == ["performance"] * 2
    first.restore(transport)
    first.end()
    assert sysfs.cpufreq() == UNTOUCHED


def test_the_guardian_of_a_lost_connection_does_not_undo_its_successors_work(tmp_path: Path) -> None:
    sysfs = Sysfs(tmp_path / "sys")
    session = preflight(profile(sysfs.environment, "governor"), tmp_path)
    first, second = LocalTransport("here"), LocalTransport("here")
    session.begin(first)
    (stale,) = guardians(tmp_path)
    session.resume(second)
    assert sysfs.get("scaling_governor") == ["performance"] * 2
    (guard,) = guardians(tmp_path)
    assert guard != stale
    assert len(list((tmp_path / "work").iterdir())) == 1
    session.restore(second)
    session.end()
    assert sysfs.cpufreq() == UNTOUCHED
    assert list((tmp_path / "work").iterdir()) == []
    first.close()
    second.close()


DRIVER = """
import sys, json, time
from harness.devices.preflight import Preflight
from harness.devices.transport.local import LocalTransport
from harness.profiles import DeviceProfile
session = Preflight(DeviceProfile.model_validate(json.loads(sys.argv[1])), sys.argv[2], "dead")
session.begin(LocalTransport("here"))
print("begun", flush=True)
time.sleep(60)
"""


def killed_host(made: DeviceProfile, work: Path) -> None:
    """A host that turns the knobs and is killed by SIGKILL."""
    work.mkdir(exist_ok=True)
    host = subprocess.Popen(
        [sys.executable, "-c", DRIVER, json.dumps(made.model_dump(mode="json")), str(work)], stdout=subprocess.PIPE
    )
    assert host.stdout is not None
    assert host.stdout.readline() == b"begun\n"
    host.send_signal(signal.SIGKILL)
    host.wait()
    host.stdout.close()


def test_a_killed_host_leaves_the_guardian_to_put_back(tmp_path: Path) -> None:
    sysfs = Sysfs(tmp_path / "sys")
    work = tmp_path / "work"
    killed_host(profile(sysfs.environment, "governor", "frequency"), work)
    assert eventually(lambda: sysfs.cpufreq() == UNTOUCHED)
    assert eventually(lambda: guardians(work) == [])
    assert list(work.iterdir()) == []


def test_where_the_guardian_died_too_the_journal_puts_back(transport: LocalTransport, tmp_path: Path) -> None:
    sysfs = Sysfs(tmp_path / "sys")
    made = profile(sysfs.environment, "governor")
    session = preflight(made, tmp_path)
    session.begin(transport)
    os.kill(guardians(tmp_path)[0], signal.SIGKILL)
    (entry,) = entries(made)
    dataclasses.replace(entry, pid=2**22 - 1).write()  # as if another process, long gone, had written it
    assert sysfs.get("scaling_governor") == ["performance"] * 2
    (told,) = restore_leftovers(made, transport)
    assert told == "after session s1, which died: put back governor to schedutil"
    assert sysfs.cpufreq() == UNTOUCHED
    assert entries() == []
    assert list((tmp_path / "work").iterdir()) == []
    assert restore_leftovers(made, transport) == []


def test_entries_of_other_devices_and_damaged_ones_are_left_alone(transport: LocalTransport, tmp_path: Path) -> None:
    sysfs = Sysfs(tmp_path / "sys")
    work = tmp_path / "work"
    made = profile(sysfs.environment, "governor")
    killed_host(made, work)
    journal_folder().joinpath("odd.json").write_text("{", encoding="utf-8")
    assert restore_leftovers(made.model_copy(update={"name": "other"}), transport) == []
    assert len(leftovers(made)) == 1


@pytest.mark.parametrize(
    ("top", "base", "steps", "wanted"),
    [
        ("1800000", None, "300000 600000 1200000 1800000", "1200000"),
        ("2841600", None, "825600 940800 2131200 2841600", "2131200"),
        ("4200000", "2600000", "800000 4200000", "2600000"),
        ("2401500", None, None, "1801000"),
        ("1000000", None, "900000 1000000", "900000"),
    ],
)
def test_the_fixed_frequency_can_be_held(top: str, base: str | None, steps: str | None, wanted: str) -> None:
    assert choose_khz(top, base, steps) == wanted


def test_temperatures_come_from_zones_or_the_thermal_service(transport: LocalTransport, tmp_path: Path) -> None:
    sysfs = Sysfs(tmp_path / "sys")
    assert read_temperatures(shell_of(profile(sysfs.environment), transport)) == {"cpu-0-0-usr": 41.0}
    assert read_temperatures(shell_of(profile(sysfs.environment), transport), ("battery",)) == {}
    phone = Android(tmp_path / "phone")
    bare = phone.environment | {"HARNESS_SYSFS": str(tmp_path / "none")}
    assert read_temperatures(shell_of(profile(bare), transport)) == {"CPU0": 31.0}


def test_limits_and_dead_sensors_are_no_temperatures() -> None:
    types = ["cpu-1-2", "lmh-dcvs-01", "battery", "dead", "old", "cpu-1-2"]
    assert parse_zones(types, ["45100", "75000", "29000", "-40000", "38", "51000"]) == {
        "cpu-1-2": 51.0,
        "battery": 29.0,
        "old": 38.0,
    }
    assert choose({"cpu-1-2": 45.1, "battery": 29.0}, ()) == {"cpu-1-2": 45.1}
    assert choose({"zone": 45.1, "battery": 29.0}, ()) == {"zone": 45.1, "battery": 29.0}


def test_the_gate_waits_and_records_how_it_ended() -> None:
    readings = iter([{"cpu": 61.4}, {"cpu": 55.0}, {"cpu": 49.9}])
    pauses: list[float] = []
    said: list[str] = []
    limits = Thermal(start_below_c=50, wait_s=60)
    found = cool_down(limits, lambda: next(readings), pause=pauses.append, tell=said.append)
    assert found == {
        "sensor": "cpu", "start_c": 61.4, "below_c": 50.0, "end_c": 49.9, "waited_s": 10.0, "reached": True,
    }  # fmt: skip
    assert said == ["cooling: 61 °C, waiting for < 50 °C", "cooling: 55 °C, waiting for < 50 °C"]
    never = cool_down(
        Thermal(start_below_c=50, wait_s=12), lambda: {"cpu": 70.0}, pause=pauses.append, tell=said.append
    )
    assert never is not None
    assert (never["waited_s"], never["reached"]) == (12.0, False)
    blind = cool_down(limits, dict, pause=pauses.append, tell=said.append)
    assert blind is not None
    assert blind["reason"] == "no temperature sensor can be read"
    assert cool_down(Thermal(), dict, pause=pauses.append, tell=said.append) is None


def test_a_busy_device_is_warned_of() -> None:
    texts = {
        "loadavg": "3.10 2.00 1.00 2/300 1234\n",
        "pressure": "some avg10=22.50 avg60=1.00 avg300=0.00 total=5\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
        "meminfo": "MemTotal: 1000000 kB\nMemAvailable: 100000 kB\n",
    }
    found = background(texts, 4, 50 << 20)
    assert (found["load_1min"], found["pressure_percent"]) == (3.1, 22.5)
    assert [words.partition(":")[0] for words in found["warnings"]] == [
        "busy", "busy", "only 97 MiB of memory are free", "only 50 MiB of space are free in the work folder",
    ]  # fmt: skip
    assert background({"loadavg": "0.10 0 0 1/2 3"}, 4, None) == {"load_1min": 0.1}
    assert (parse_load("?"), parse_pressure("")) == (None, None)


def test_the_busiest_processes_are_named() -> None:
    line = "{} ({}) S 1 1 1 0 -1 0 0 0 0 0 {} {} 0 0 20 0 1 0 5 0 0"
    first = "\n".join([line.format(1, "init", 10, 0), line.format(7, "a (b) c", 100, 50), line.format(9, "idle", 5, 5)])
    second = "\n".join(
        [line.format(1, "init", 16, 0), line.format(7, "a (b) c", 150, 90), line.format(9, "idle", 5, 5)]
    )
    assert parse_busiest(f"{first}\n\n{second}\n") == ["a (b) c 90 %", "init 6 %"]
