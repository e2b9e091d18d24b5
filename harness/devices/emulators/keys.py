"""SSH keys of one guest: the host's, known before it boots, so that it is verified and never trusted blindly; and the user's."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from harness.errors import DeviceError


@dataclass(frozen=True, slots=True)
class GuestKeys:
    """`host_key`: the private host key as dropbear reads it; `authorized`: the line that lets the harness in."""

    host_key: bytes
    host_public: str
    authorized: str


def make_keys(identity: Path) -> GuestKeys:
    """New keys; the user's private one is written to `identity`, readable by its owner alone. Raises DeviceError."""
    try:
        from cryptography.hazmat.primitives import serialization as form
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError as error:
        raise DeviceError(
            "guests are reached over SSH, and asyncssh is not installed",
            remedy="install the extra 'ssh': pip install 'ondevice-harness[ssh]'",
        ) from error

    def public(key: Ed25519PrivateKey) -> str:
        return key.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH).decode()

    host, user = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    identity.touch(mode=0o600)
    identity.write_bytes(
        user.private_bytes(form.Encoding.PEM, form.PrivateFormat.OpenSSH, form.NoEncryption()),
    )
    raw = host.private_bytes_raw() + host.public_key().public_bytes_raw()
    return GuestKeys(_string(b"ssh-ed25519") + _string(raw), public(host), public(user))


def _string(data: bytes) -> bytes:
    """SSH's string: its length in four bytes, then the bytes."""
    return struct.pack(">I", len(data)) + data


def known_hosts_line(port: int, keys: GuestKeys) -> str:
    """The line that makes the guest's key the only one accepted."""
    return f"[127.0.0.1]:{port} {keys.host_public}\n"
