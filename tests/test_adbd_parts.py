"""The pure parts of the test device: sums, frames, names, paths, keys, faults, the command line."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.devices.transport.testing import (
    DropConnection,
    NoSpace,
    Offline,
    Reboot,
    SlowLink,
    Stall,
    TruncatePacket,
    Unauthorized,
    chroot_prefix,
)
from harness.devices.transport.testing.__main__ import read_options
from harness.devices.transport.testing.faults import parse_fault
from harness.devices.transport.testing.files import DeviceFiles
from harness.devices.transport.testing.keys import Keyring, PublicKey
from harness.devices.transport.testing.shell import FrameReader, ShellRequest, frame, parse_request, parse_window
from harness.devices.transport.testing.wire import (
    checksum,
)

STAT_2 = struct.Struct("<4sIQQIIIIQqqq")
DENT_2 = struct.Struct("<4sIQQIIIIQqqqI")


pytestmark = pytest.mark.adb


@given(st.binary(max_size=3000))
def test_the_checksum_is_the_sum_of_the_bytes(payload: bytes) -> None:
    assert checksum(payload) == sum(payload)


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        ("shell:ls", ShellRequest("ls")),
        ("shell:", ShellRequest("", terminal=True)),
        ("shell,v2,raw:a:b", ShellRequest("a:b", framed=True)),
        ("shell,v2,pty,TERM=xterm:top", ShellRequest("top", framed=True, terminal=True, term="xterm")),
        ("shell,v2:", ShellRequest("", framed=True, terminal=True)),
        ("shell,v2,raw:", ShellRequest("", framed=True)),
        ("exec:cat", ShellRequest("cat")),
        ("shell,zip:ls", None),
        ("shellfish:ls", None),
    ],
)
def test_service_names(service: str, expected: ShellRequest | None) -> None:
    assert parse_request(service) == expected


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=50))), st.integers(1, 13))
def test_frames_survive_any_cut(packets: list[tuple[int, bytes]], step: int) -> None:
    data = b"".join(frame(kind, body) for kind, body in packets)
    reader, found = FrameReader(), []
    for at in range(0, len(data), step):
        found += reader.feed(data[at : at + step])
    joined: list[tuple[int, bytes]] = []
    for kind, body in packets:  # parts of one packet come one by one
        taken = b""
        while len(taken) < len(body) or not taken:
            part = found.pop(0)
            assert part[0] == kind
            taken += part[1]
            if not body:
                break
        joined.append((kind, taken))
    assert joined == packets
    assert not found


@pytest.mark.parametrize("text", [b"", b"1x2", b"1x2,3", b"ax2,0x0", b"1x99999,0x0", b"-1x2,0x0", b"1x2x3,0x0"])
def test_a_window_that_makes_no_sense_is_ignored(text: bytes) -> None:
    assert parse_window(text) is None


def test_paths_stay_inside_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "data").mkdir(parents=True)
    (root / "up").symlink_to("../../../etc")
    (root / "abs").symlink_to("/data")
    (root / "loop").symlink_to("loop")
    files = DeviceFiles(root)
    assert files.host_path("/../../etc/passwd") == root / "etc/passwd"
    assert files.host_path("up/passwd") == root / "etc/passwd"
    assert files.host_path("/abs/x") == root / "data/x"
    assert files.host_path("/abs", follow=False) == root / "abs"
    assert files.host_path("/data/x\0/etc") == root / "data/x"
    with pytest.raises(OSError, match="Too many levels"):
        files.host_path("/loop/x")


def test_a_key_must_be_one_and_must_have_signed() -> None:
    for line in ("", "abc", "QUJD", "QUFB" * 175):
        with pytest.raises(ValueError, match="key"):
            PublicKey.parse(line)
    key = PublicKey(modulus=1 << 2047, exponent=65537)
    assert not key.signed(bytes(20), b"short")
    assert not key.signed(bytes(20), b"\xff" * 256)
    assert not key.signed(bytes(20), bytes(256))
    assert not Keyring([]).signed(bytes(20), bytes(256))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("drop where=pull after_bytes=5", DropConnection("pull", 5)),
        ("stall duration_s=0.5 times=3", Stall(duration_s=0.5, times=3)),
        ("truncate", TruncatePacket()),
        ("unauthorized", Unauthorized()),
        ("offline", Offline()),
        ("no-space after_bytes=10", NoSpace(10)),
        ("slow bytes_per_s=1e6 latency_s=0.1", SlowLink(1e6, 0.1)),
        ("reboot down_s=2", Reboot(2.0)),
    ],
)
def test_faults_have_a_written_form(text: str, fault: object) -> None:
    assert parse_fault(text) == fault


@pytest.mark.parametrize("text", ["flood", "drop where=there", "drop 5", "drop size=5", "reboot down_s=x"])
def test_a_fault_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_fault(text)


def test_the_command_line_describes_a_device(tmp_path: Path) -> None:
    given_, options = read_options(["--root", str(tmp_path), "--chroot", "--uid", "2000", "--prop", "a=b=c", "--old"])
    assert given_.port == 0
    assert options.shell_prefix == chroot_prefix(tmp_path, uid=2000)
    assert (options.props, options.keys, options.features) == ({"a": "b=c"}, None, ())
    assert read_options(["--accept-new-keys"])[1].keys == ()
    for wrong in (["--tls"], ["--prop", "x"], ["--chroot", "--shell-prefix", "sh"], ["--key", str(tmp_path / "none")]):
        with pytest.raises(SystemExit):
            read_options(wrong)
