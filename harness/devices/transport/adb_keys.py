"""The key by which a device knows this host: `~/.android/adbkey`, shared with adb itself, made when missing.

Used by `adb_connect.py` for connections without an adb server.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Protocol

from harness.errors import TransportError

DEFAULT_KEY = "~/.android/adbkey"


class Signer(Protocol):
    """What the handshake needs of a key (names as adb-shell has them)."""

    def Sign(self, data: bytes) -> bytes:  # noqa: N802
        """The signature of a token."""

    def GetPublicKey(self) -> bytes:  # noqa: N802
        """The public key as the device stores it."""


def load_signer(label: str, key: str | None) -> Signer:
    """The signer of a private key, which is made (mode 0600) when it is missing. Raises TransportError."""
    from adb_shell.auth.keygen import write_public_keyfile
    from adb_shell.auth.sign_cryptography import CryptographySigner

    path = Path(key or DEFAULT_KEY).expanduser()
    public = path.with_name(f"{path.name}.pub")
    try:
        if not path.exists():
            _make_key(path)
        if not public.exists():
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                write_public_keyfile(str(path), f"{folder}/key.pub")
                shutil.move(f"{folder}/key.pub", public)
        signer: Signer = CryptographySigner(str(path))
    except (OSError, ValueError, TypeError) as error:  # TypeError: the key has a passphrase
        raise TransportError(
            f"{label}: cannot use the key {path}: {error}",
            remedy="check 'adb_key', or move the file away and let adb make a new one",
        ) from error
    return signer


def _make_key(path: Path) -> None:
    """Make a pair where nobody else can read it on the way; if another process was faster, its key stands."""
    from adb_shell.auth.keygen import keygen

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # mode 0700
        keygen(f"{folder}/key")
        Path(folder, "key").chmod(0o600)
        try:
            os.link(f"{folder}/key", path)
        except FileExistsError:
            return
        Path(folder, "key.pub").chmod(0o644)
        shutil.move(f"{folder}/key.pub", f"{path}.pub")
