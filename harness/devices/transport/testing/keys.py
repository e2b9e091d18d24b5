"""Whom the device trusts: RSA public keys in Android's format, and signatures of a token by them.

A public key is a line of base64, as in `~/.android/adbkey.pub`. Verifying is one power modulo n, so no library is needed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
from collections.abc import Iterable
from dataclasses import dataclass

KEY_BYTES = 256  # RSA-2048, the only size adb makes
_LAYOUT = struct.Struct(f"<II{KEY_BYTES}s{KEY_BYTES}sI")  # words in n, -1/n mod 2^32, n, R^2 mod n, exponent
# What PKCS #1 v1.5 puts before a SHA-1 digest. The token itself takes the digest's place.
_SHA1_PREFIX = bytes.fromhex("3021300906052b0e03021a05000414")


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An RSA key: modulus and exponent."""

    modulus: int
    exponent: int

    @classmethod
    def parse(cls, line: str) -> PublicKey:
        """Read a line of adbkey.pub, with or without the comment behind it. Raises ValueError."""
        words = line.split()
        try:
            raw = base64.b64decode(words[0] if words else "", validate=True)
        except binascii.Error as error:
            raise ValueError(f"the key is no base64: {error}") from error
        if len(raw) != _LAYOUT.size:
            raise ValueError(f"the key has {len(raw)} bytes, not {_LAYOUT.size}")
        words_in_n, _, modulus, _, exponent = _LAYOUT.unpack(raw)
        if words_in_n != KEY_BYTES // 4 or exponent not in {3, 65537}:
            raise ValueError("the key is no RSA-2048 key in Android's format")
        return cls(int.from_bytes(modulus, "little"), exponent)

    def signed(self, token: bytes, signature: bytes) -> bool:
        """Whether `signature` is this key's over `token`, a 20-byte value used as a SHA-1 digest."""
        number = int.from_bytes(signature, "big")
        if len(signature) != KEY_BYTES or number >= self.modulus:
            return False
        found = pow(number, self.exponent, self.modulus).to_bytes(KEY_BYTES, "big")
        digest = _SHA1_PREFIX + token
        expected = b"\x00\x01" + b"\xff" * (KEY_BYTES - 3 - len(digest)) + b"\x00" + digest
        return hmac.compare_digest(found, expected)

    def fingerprint(self) -> str:
        """A short name of the key for messages."""
        return hashlib.sha256(self.modulus.to_bytes(KEY_BYTES, "big")).hexdigest()[:16]


class Keyring:
    """The keys a device accepts. They may grow while it runs, as when a user taps "Allow"."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._keys = {PublicKey.parse(line) for line in lines}

    def add(self, key: PublicKey) -> None:
        """Trust a key from now on."""
        self._keys.add(key)

    def knows(self, modulus: int) -> bool:
        """Whether a key with that modulus is trusted."""
        return any(key.modulus == modulus for key in self._keys)

    def signed(self, token: bytes, signature: bytes) -> bool:
        """Whether one of the keys signed the token."""
        return any(key.signed(token, signature) for key in self._keys)
