"""Packets of the ADB wire protocol: six little-endian words and a payload. Pure bytes; no sockets."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass


def _word(name: bytes) -> int:
    return int.from_bytes(name, "little")


CNXN, AUTH, STLS = _word(b"CNXN"), _word(b"AUTH"), _word(b"STLS")
OPEN, OKAY, WRTE, CLSE = _word(b"OPEN"), _word(b"OKAY"), _word(b"WRTE"), _word(b"CLSE")

AUTH_TOKEN, AUTH_SIGNATURE, AUTH_PUBLIC_KEY = 1, 2, 3
TOKEN_BYTES = 20

VERSION_CHECKSUM = 0x01000000  # every payload carries the sum of its bytes
VERSION_SKIP_CHECKSUM = 0x01000001  # since Android 9: the sum is not looked at
STLS_VERSION = 0x01000000
MAX_DATA_BYTES = 1024 * 1024

_ALL_ONES = 0xFFFFFFFF

HEADER = struct.Struct("<6I")


class WireError(Exception):
    """The other side does not speak the protocol; the connection is dropped."""


@dataclass(frozen=True, slots=True)
class Packet:
    """One message. `arg0` and `arg1` mean what the command says."""

    command: int
    arg0: int = 0
    arg1: int = 0
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before a payload."""

    command: int
    arg0: int
    arg1: int
    length_bytes: int
    checksum: int


def checksum(payload: bytes) -> int:
    """The sum of the bytes; the protocol calls it crc32, and it never was one.

    The low half of Adler-32 is one more than that sum modulo 65521, which 256 bytes cannot reach: several times faster.
    """
    view = memoryview(payload)
    return sum((zlib.adler32(view[at : at + 256]) & 0xFFFF) - 1 for at in range(0, len(view), 256)) & _ALL_ONES


def encode(packet: Packet, *, with_checksum: bool) -> bytes:
    """The packet as it goes over the wire."""
    total = checksum(packet.payload) if with_checksum else 0
    magic = packet.command ^ _ALL_ONES
    return HEADER.pack(packet.command, packet.arg0, packet.arg1, len(packet.payload), total, magic) + packet.payload


def decode_header(data: bytes, *, max_data_bytes: int) -> Header:
    """Read the 24 bytes before a payload. Raises WireError for a wrong magic or an oversized length."""
    command, arg0, arg1, length, total, magic = HEADER.unpack(data)
    if command ^ magic != _ALL_ONES:
        raise WireError(f"command {command:#010x} with magic {magic:#010x}")
    if length > max_data_bytes:
        raise WireError(f"a payload of {length} bytes; {max_data_bytes} were agreed")
    return Header(command, arg0, arg1, length, total)


def banner(serial: str, props: dict[str, str], features: tuple[str, ...]) -> bytes:
    """What a device says of itself in its CNXN."""
    told = "".join(f"{key}={value};" for key, value in props.items())
    return f"device:{serial}:{told}features={','.join(features)}".encode()
