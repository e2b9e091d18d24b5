"""The bytes under the packets: a plain TCP connection, to which `tls.py` adds its layer."""

from __future__ import annotations

import asyncio
from typing import Protocol

# Larger than the largest packet, so that one fits into the reader's buffer.
READ_LIMIT_BYTES = 2 * 1024 * 1024


class Link(Protocol):
    """An ordered, reliable way for bytes."""

    async def read_exactly(self, size_bytes: int) -> bytes:
        """So many bytes. Raises ConnectionError at the end."""

    async def write(self, data: bytes) -> None:
        """Send bytes; returns when the buffer has room again. Raises ConnectionError."""

    async def close(self) -> None:
        """Send what is buffered, then close."""

    def abort(self) -> None:
        """Reset the connection."""


class PlainLink:
    """A TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def read_exactly(self, size_bytes: int) -> bytes:
        """So many bytes. Raises ConnectionError at the end."""
        try:
            return await self.reader.readexactly(size_bytes)
        except asyncio.IncompleteReadError as error:
            raise ConnectionError("the client closed the connection") from error

    async def write(self, data: bytes) -> None:
        """Send bytes; returns when the buffer has room again. Raises ConnectionError."""
        if self.writer.is_closing():
            raise ConnectionError("the connection is closed")
        self.writer.write(data)
        await self.writer.drain()

    async def close(self) -> None:
        """Send what is buffered, then close."""
        self.writer.close()

    def abort(self) -> None:
        """Reset the connection."""
        self.writer.transport.abort()
