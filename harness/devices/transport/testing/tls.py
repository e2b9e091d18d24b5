"""TLS under the packets, as wireless debugging has it: the device is the server, and the client's certificate is its key.

The client's certificate signs itself, is made anew at each start of adb, and is no stranger only if its RSA key is one of
those the device trusts. Python's ssl module has no hook for that decision but the one that shows handshake messages: it
sees the client's Certificate before it is verified, and puts it among the trusted ones when its key is known.

Two memory buffers stand between TLS and the socket, because asyncio's start_tls loses what the client sent right after STLS.
"""

from __future__ import annotations

import datetime as dt
import functools
import ssl
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .keys import Keyring
from .link import Link, PlainLink

if TYPE_CHECKING:
    from collections.abc import Callable

_READ_BYTES = 256 * 1024
_CERTIFICATE = 11  # the handshake message that carries certificates
_VALID_DAYS = 365


class TlsLink:
    """A TCP connection with TLS over it."""

    def __init__(self, plain: PlainLink, context: ssl.SSLContext) -> None:
        self._plain = plain
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._buffer = bytearray()

    async def handshake(self) -> None:
        """Agree on keys, and check the client's. Raises ConnectionError."""
        try:
            while True:
                try:
                    self._tls.do_handshake()
                    await self._flush()
                except ssl.SSLWantReadError:
                    await self._flush()
                    await self._fill()
                else:
                    return
        except (ssl.SSLError, ValueError) as error:
            await self._flush()  # the alert says why
            raise ConnectionError(f"TLS: {error}") from error

    async def read_exactly(self, size_bytes: int) -> bytes:
        """So many bytes. Raises ConnectionError at the end."""
        while len(self._buffer) < size_bytes:
            try:
                data = self._tls.read(_READ_BYTES)
            except ssl.SSLWantReadError:
                await self._fill()
                continue
            except ssl.SSLError as error:
                raise ConnectionError(f"TLS: {error}") from error
            if not data:
                raise ConnectionError("the client closed the connection")
            self._buffer += data
        data = bytes(self._buffer[:size_bytes])
        del self._buffer[:size_bytes]
        return data

    async def write(self, data: bytes) -> None:
        """Send bytes; returns when the buffer has room again. Raises ConnectionError."""
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            raise ConnectionError(f"TLS: {error}") from error
        await self._flush()

    async def close(self) -> None:
        """Send what is buffered, then close."""
        await self._plain.close()

    def abort(self) -> None:
        """Reset the connection."""
        self._plain.abort()

    async def _fill(self) -> None:
        data = await self._plain.reader.read(_READ_BYTES)
        if not data:
            raise ConnectionError("the client closed the connection")
        self._incoming.write(data)

    async def _flush(self) -> None:
        if data := self._outgoing.read():
            await self._plain.write(data)


async def secure(link: Link, keyring: Keyring) -> TlsLink:
    """The link with TLS over it. Raises ConnectionError when the client's key is not in the keyring."""
    if not isinstance(link, PlainLink):
        raise ConnectionError("TLS inside TLS was asked for")
    tls = TlsLink(link, _context(keyring))
    await tls.handshake()
    return tls


def _context(keyring: Keyring) -> ssl.SSLContext:
    """A context for one connection, which asks for the client's certificate and trusts it when its key is known."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:  # load_cert_chain takes only files
        file.write(_device_identity())
        file.flush()
        context.load_cert_chain(Path(file.name))
    # The only place where the standard library shows the certificate before it judges it.
    context._msg_callback = _truster(context, keyring)  # type: ignore[attr-defined]  # noqa: SLF001
    return context


def _truster(context: ssl.SSLContext, keyring: Keyring) -> Callable[..., None]:
    def see(_connection: object, direction: str, _version: object, _kind: object, message: object, data: bytes) -> None:
        if direction == "read" and message == _CERTIFICATE and (der := _first_certificate(data)):
            from cryptography import x509
            from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

            key = x509.load_der_x509_certificate(der).public_key()
            if isinstance(key, RSAPublicKey) and keyring.knows(key.public_numbers().n):
                context.load_verify_locations(cadata=der)

    return see


def _first_certificate(message: bytes) -> bytes:
    """The first certificate (DER) of a TLS 1.3 Certificate message; empty when it has none."""
    context_end = 5 + message[4]
    start = context_end + 6  # the list's length and the certificate's, three bytes each
    length = int.from_bytes(message[context_end + 3 : start], "big")
    return message[start : start + length]


@functools.cache
def _device_identity() -> bytes:
    """A key and a certificate of the device's own (PEM), made once a process."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.x509.oid import NameOID

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Android"),
            x509.NameAttribute(NameOID.COMMON_NAME, "Adb"),
        ]
    )
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=_VALID_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)
