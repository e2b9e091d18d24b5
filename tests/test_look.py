"""The script that looks at a device: in every shell there is, on whatever a device throws at it."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from harness.devices.facts.summary import describe
from harness.devices.look import NOT_THERE, Look, look, parse_sections
from harness.devices.transport.base import Completed
from harness.devices.transport.fake import FakeTransport, Script
from harness.devices.transport.local import LocalTransport
from harness.errors import TransportError

SCRIPT = (Path(__file__).resolve().parent.parent / "harness" / "devices" / "look.sh").read_text(encoding="utf-8")
TOKEN = "@token"  # noqa: S105 - parts sections, keeps no secret


def applets(folder: Path, box: str) -> Path:
    """A folder with a link to every program of a box: the only programs there are."""
    program = shutil.which(box)
    if program is None:
        pytest.skip(f"{box} is missing: install Debian's package {box}")
    listing = [program] if box == "toybox" else [program, "--list"]
    folder.mkdir()
    for name in subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split():
        (folder / name).symlink_to(program)
    return folder


def shell_of(kind: str, folder: Path) -> tuple[list[str], str]:
    """A shell and its PATH: `android` is mksh with toybox's programs, as on a phone; `busybox` has nothing else."""
    if kind == "android":
        mksh = shutil.which("mksh")
        if mksh is None:
            pytest.skip("mksh is missing: install Debian's package mksh")
        bin_ = applets(folder / "toybox", "toybox")
        (bin_ / "sh").symlink_to(mksh)
        return [str(bin_ / "sh")], str(bin_)
    if kind == "busybox":
        bin_ = applets(folder / "busybox", "busybox")
        return [str(bin_ / "sh")], str(bin_)
    program = shutil.which(kind)
    if program is None:
        pytest.skip(f"{kind} is missing: install it")
    return [program], os.environ["PATH"]


def run(shell: list[str], path: str, *, script: str = SCRIPT, depth: str = "full", work: str = "/") -> str:
    done = subprocess.run(
        [*shell, "-s", TOKEN, work, depth],
        input=script.encode(),
        env={"PATH": path, "HOME": "/root"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    return done.stdout.decode("utf-8", "replace")


@pytest.mark.parametrize("kind", ["dash", "bash", "busybox", "android"])
def test_every_shell_reads_the_same(kind: str, tmp_path: Path) -> None:
    facts = describe(*parse_sections(run(*shell_of(kind, tmp_path)), TOKEN))
    here = os.uname()
    assert facts["machine"] == here.machine
    assert facts["kernel"] == f"Linux {here.release}"
    assert facts["cpus"] == os.cpu_count()
    assert facts["memory_total_bytes"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert facts["free_bytes"] > 0
    assert abs(facts["clock_s"] - time.time()) < 3600
    assert len(facts["load_average"]) == 3


def test_quick_leaves_out_what_costs_processes(tmp_path: Path) -> None:
    texts, _ = parse_sections(run(["sh"], os.environ["PATH"], depth="quick"), TOKEN)
    assert "/proc/cpuinfo" in texts
    assert not {"df", "id", "lscpu"} & set(texts)


@pytest.mark.parametrize("kind", ["dash", "busybox", "android"])
def test_nodes_that_cannot_be_read(kind: str, tmp_path: Path) -> None:
    """A node that fails when read says why; a pipe is left alone, else the look would hang; odd values stay as they are."""
    thermal = tmp_path / "sys" / "class" / "thermal"
    for number, name in enumerate(("broken", "pipe", "good")):
        (thermal / f"thermal_zone{number}").mkdir(parents=True)
        (thermal / f"thermal_zone{number}" / "type").write_text(f"{name} \\n 100%\n")
    (thermal / "thermal_zone0" / "temp").symlink_to("/proc/self/mem")
    os.mkfifo(thermal / "thermal_zone1" / "temp")
    (thermal / "thermal_zone2" / "temp").write_text("41000")
    shell, path = shell_of(kind, tmp_path)
    said = run(shell, path, script=SCRIPT.replace("/sys/", f"{tmp_path}/sys/"), depth="quick")
    texts, reasons = parse_sections(said, TOKEN)
    zone = f"{tmp_path}/sys/class/thermal/thermal_zone"
    assert texts[f"{zone}2/temp"] == "41000"
    assert texts[f"{zone}2/type"] == "good \\n 100%"
    assert "error" in reasons[f"{zone}0/temp"].lower()
    assert f"{zone}1/temp" not in texts
    assert f"{zone}1/temp" not in reasons


def test_commands_that_fail_or_hang(tmp_path: Path) -> None:
    """An Android whose battery service is missing and whose thermal service never answers."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "getprop").write_text("#!/bin/sh\necho '[ro.build.version.release]: [9]'\n")
    (bin_ / "dumpsys").write_text(
        '#!/bin/sh\n[ $1 = battery ] && { echo "Can\'t find service: battery"; exit 20; }\nexec sleep 60\n'
    )
    for name in ("getprop", "dumpsys"):
        (bin_ / name).chmod(0o755)
    said = run(["sh"], f"{bin_}:{os.environ['PATH']}", script=SCRIPT.replace("timeout 5", "timeout 1"))
    texts, reasons = parse_sections(said, TOKEN)
    assert describe(texts)["os"] == "Android 9"
    assert reasons["dumpsys battery"] == "Can't find service: battery"
    assert reasons["dumpsys thermalservice"] == "no answer within 5 s"
    assert "id" in texts
    assert Look(texts, reasons).why_not("dumpsys thermal*") == "dumpsys thermalservice: no answer within 5 s"


def test_a_work_folder_that_is_not_made_yet(tmp_path: Path) -> None:
    said = run(["sh"], os.environ["PATH"], work=f"{tmp_path}/not/yet made")
    assert describe(*parse_sections(said, TOKEN))["free_bytes"] == pytest.approx(
        shutil.disk_usage(tmp_path).free, rel=0.1
    )


def test_sections() -> None:
    said = (
        "a banner\r\n@token=a\r\none\r\ntwo\r\n\r\n@token.0\r\n@token=b\r\ncat: b: Permission denied\r\n\r\n@token.1\r\n"
        "@token=/sys/class/thermal/\r\npermission denied\r\n@token.1\r\n@token=c\r\nhalf a lin"
    )
    texts, reasons = parse_sections(said, TOKEN)
    assert texts == {"a": "one\ntwo"}
    assert reasons == {"b": "permission denied", "/sys/class/thermal/": "permission denied", "c": "cut off"}
    found = Look(texts, reasons)
    assert found.why_not("/sys/class/thermal/*") == "/sys/class/thermal/: permission denied"
    assert found.why_not("/sys/class/hwmon/*") == NOT_THERE
    assert "in time" in Look(complete=False).why_not("x")


def test_a_device_that_stops_talking_keeps_what_it_said() -> None:
    def handler(call: object) -> Script:
        token = call.argv[2]  # type: ignore[attr-defined]
        return Script([f"{token}=uname -s -r -m\nLinux 6.1 aarch64\n{token}.0\n{token}=id".encode()], hangs=True)

    found = look(FakeTransport(handler), "/w")
    assert not found.complete
    assert found.facts()["machine"] == "aarch64"
    assert found.reasons == {"id": "cut off"}


def test_a_lost_connection_is_an_error() -> None:
    with pytest.raises(TransportError):
        look(FakeTransport(lambda _: Script(lost=True)), "/w")


def test_a_device_without_a_shell_has_no_facts() -> None:
    found = look(FakeTransport(lambda _: Completed(127, b"", b"no sh")), "/w")
    assert found.facts() == {}


def test_looking_at_this_machine_is_quick() -> None:
    found = look(LocalTransport(), "~")
    assert found.complete
    assert found.ended_ns > found.started_ns
    assert found.facts()["cpus"] == os.cpu_count()
