"""What a device is: pure parsers, on texts of real kinds of machines; and the script that reads and cleans there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness.devices import on_device
from harness.devices.device import Device
from harness.devices.facts import (
    engines_of,
    facts_of,
    host_id,
    parse_cpu_model,
    parse_memory_total_bytes,
    parse_os_name,
)
from harness.errors import TransportError
from harness.profiles import DeviceProfile

X86 = "processor\t: 0\nmodel name\t: Intel(R) Core(TM) i5-8250U CPU @ 1.60GHz\nflags\t: fpu avx2\n\nprocessor\t: 1\n"
PI = "processor\t: 0\nBogoMIPS\t: 108.00\nCPU implementer\t: 0x41\nCPU part\t: 0xd08\n\nHardware\t: BCM2835\nModel\t: Raspberry Pi 4 Model B Rev 1.1\n"
ARM_SERVER = "processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (X86, "Intel(R) Core(TM) i5-8250U CPU @ 1.60GHz"),
        (PI, "BCM2835"),
        (ARM_SERVER, "implementer 0x41 part 0xd0c"),
        ("Processor\t: AArch64 Processor rev 4 (aarch64)\nprocessor\t: 0\n", "AArch64 Processor rev 4 (aarch64)"),
        ("processor\t: 0\nuarch\t: sifive,u74-mc\n", "sifive,u74-mc"),
        ("", None),
        ("model name\t:\n", None),
    ],
)
def test_cpu_model(text: str, expected: str | None) -> None:
    assert parse_cpu_model(text) == expected


def test_memory_total() -> None:
    assert parse_memory_total_bytes("MemTotal:        3884296 kB\nMemFree: 1 kB\n") == 3884296 * 1024
    assert parse_memory_total_bytes("MemFree: 1 kB\n") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('NAME="Debian GNU/Linux"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n', "Debian GNU/Linux 12 (bookworm)"),
        ("PRETTY_NAME=Buildroot\\ 2024\n", "Buildroot 2024"),
        ("PRETTY_NAME='unfinished\n", "'unfinished"),
        ('PRETTY_NAME=""\n', None),
        ("", None),
    ],
)
def test_os_name(text: str, expected: str | None) -> None:
    assert parse_os_name(text) == expected


def test_the_same_machine_has_the_same_host_id() -> None:
    boot = {"boot_id": "6c1a\n", "machine_id": "x"}
    assert host_id(boot, "a") == host_id({"boot_id": "6c1a", "machine_id": None}, "container")
    assert host_id(boot, "a") != host_id({"boot_id": "other"}, "a")
    assert host_id({"machine_id": "x"}, "a") == host_id({"boot_id": "", "machine_id": "x"}, "b")
    assert host_id({}, "a") != host_id({}, "b")
    assert "6c1a" not in host_id(boot, "a")


def test_engines_prefer_the_successor() -> None:
    modules = {"ai_edge_litert": "2.3.0", "tflite_runtime": "2.14.0", "onnxruntime": "", "openvino": None}
    assert engines_of(modules) == {"litert": "2.3.0", "onnxruntime": ""}
    assert engines_of({"tflite_runtime": "2.14.0"}) == {"litert": "2.14.0"}


def test_unknown_facts_are_left_out() -> None:
    raw: dict[str, Any] = {
        "work": "/w", "free_bytes": 1, "python": "3.11.2", "system": "Linux", "release": "6.1", "machine": "aarch64",
        "hostname": "pi", "cpus": 4, "texts": {"cpuinfo": PI, "board": "Raspberry Pi 4 Model B Rev 1.1\0"},
        "modules": {"numpy": "1.26.4"},
    }  # fmt: skip
    facts = facts_of(raw)
    assert facts["board"] == "Raspberry Pi 4 Model B Rev 1.1"
    assert facts["engines"] == {}
    assert "os" not in facts
    assert "memory_total_bytes" not in facts


def test_this_machine_says_what_it_is(tmp_path: Path) -> None:
    device = Device.open(DeviceProfile(name="here", transport="local", work_folder=str(tmp_path / "w")), "s1")
    assert device.record.facts["cpus"] == os.cpu_count()
    assert device.record.facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert device.record.facts["free_bytes"] > 0
    assert (tmp_path / "w" / "sessions" / "s1").is_dir()
    assert (tmp_path / "w").stat().st_mode & 0o777 == 0o700
    device.close()
    assert not (tmp_path / "w" / "sessions" / "s1").exists()


def test_a_work_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TransportError, match="file") as caught:
        Device.open(DeviceProfile(name="here", transport="local", work_folder=str(tmp_path / "file" / "w")), "s1")
    assert "work_folder" in str(caught.value)


def test_a_python_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="no/such/python") as caught:
        Device.open(DeviceProfile(name="here", transport="local", python="/no/such/python"))
    assert "'python'" in str(caught.value)
    with pytest.raises(TransportError, match="false failed"):
        Device.open(DeviceProfile(name="here", transport="local", python="false"))
    with pytest.raises(TransportError, match="gave no answer"):
        Device.open(DeviceProfile(name="here", transport="local", python="true"))


def blob(work: Path, name: str, size: int, age_s: float) -> None:
    folder = work / "blobs" / name / "agent"
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(b"x" * size)
    then = time.time() - age_s
    os.utime(folder / "file", (then, then))


def sweep(work: Path, **changes: Any) -> dict[str, Any]:
    job = {"do": "sweep", "work": str(work), "session": "s1", "mine": ["mine"], "keep": True, "limit_bytes": 250}
    done = subprocess.run(
        [sys.executable, "-", json.dumps(job | changes)],
        input=Path(on_device.__file__).read_bytes(),
        capture_output=True,
        check=True,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_sweeping_keeps_what_is_in_use_and_drops_the_oldest(tmp_path: Path) -> None:
    day = 86400.0
    for name, size, age in (
        ("mine", 100, 30 * day),
        ("old", 100, 20 * day),
        ("older", 100, 25 * day),
        ("new", 100, 10),
    ):
        blob(tmp_path, name, size, age)
    for name in ("s1", "dead", "running"):
        (tmp_path / "sessions" / name).mkdir(parents=True)
    long_ago = time.time() - 8 * day
    os.utime(tmp_path / "sessions" / "dead", (long_ago, long_ago))
    answer = sweep(tmp_path)
    assert sorted(answer["removed"]) == ["dead", "old", "older", "s1"]
    assert answer["kept_bytes"] == 200
    assert sorted(path.name for path in (tmp_path / "blobs").iterdir()) == ["mine", "new"]
    assert [path.name for path in (tmp_path / "sessions").iterdir()] == ["running"]
    assert sweep(tmp_path, keep=False)["removed"] == ["mine"]
    assert sweep(tmp_path / "nothing")["removed"] == []
