"""Does a guest's server answer? QEMU accepts connections long before the guest does, so that the server's own words are asked for."""

from __future__ import annotations

import socket
import struct

_CNXN = 0x4E584E43
_AUTH = 0x48545541
_STLS = 0x534C5453


def answers(serve: str, port: int, timeout_s: float) -> bool:
    """Whether an SSH or ADB server speaks at that port of this host within `timeout_s`."""
    return _speaks_ssh(port, timeout_s) if serve == "ssh" else _speaks_adb(port, timeout_s)


def _speaks_ssh(port: int, timeout_s: float) -> bool:
    return _exchange(port, b"", 4, timeout_s) == b"SSH-"


def _speaks_adb(port: int, timeout_s: float) -> bool:
    """Send CNXN; a daemon answers with CNXN, or asks for authentication."""
    identity = b"host::\0"
    checksum = sum(identity) & 0xFFFFFFFF
    head = struct.pack("<6I", _CNXN, 0x01000000, 4096, len(identity), checksum, _CNXN ^ 0xFFFFFFFF)
    said = _exchange(port, head + identity, 4, timeout_s)
    return said in {struct.pack("<I", word) for word in (_CNXN, _AUTH, _STLS)}


def _exchange(port: int, send: bytes, size: int, timeout_s: float) -> bytes:
    """Up to `size` bytes of the answer; empty when there is none."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
            connection.sendall(send)
            return connection.recv(size, socket.MSG_WAITALL)
    except OSError:
        return b""
