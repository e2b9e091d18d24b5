"""The services `shell` and `exec`: a command with a stream in the place of its terminal.

Without the v2 protocol, output is one stream and the exit code is lost; with it, both ways carry packets: an id, a length, data.
"""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass

from .processes import Child, Processes, read_fd, write_fd
from .stream import Stream

STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN, WINDOW = range(6)
_FRAME = struct.Struct("<BI")
_CHUNK_BYTES = 64 * 1024
_CANNOT_START = 127


@dataclass(frozen=True, slots=True)
class ShellRequest:
    """What a service name asks for. An empty command: an interactive shell."""

    command: str
    framed: bool = False
    terminal: bool = False
    term: str = "dumb"


def parse_request(service: str) -> ShellRequest | None:
    """Read `shell:…`, `shell,v2,raw,TERM=…:…` or `exec:…`; None for anything else."""
    name, colon, command = service.partition(":")
    kind, *words = name.split(",")
    if not colon or kind not in {"shell", "exec"} or (kind == "exec" and words):
        return None
    framed, terminal, term = False, kind == "shell" and not command, "dumb"
    for word in words:
        if word == "v2":
            framed = True
        elif word in {"pty", "raw"}:
            terminal = word == "pty"
        elif word.startswith("TERM="):
            term = word[len("TERM=") :]
        elif word:
            return None
    return ShellRequest(command, framed=framed, terminal=terminal, term=term)


class FrameReader:
    """The packets of the v2 protocol out of arbitrary chunks. A packet may be given in parts: nothing is hoarded."""

    def __init__(self) -> None:
        self._head = b""
        self._kind = STDIN
        self._left = 0

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Add a chunk; (id, data) of the packets, or parts of packets, in it."""
        found = []
        view = data
        while view:
            if self._left:
                part, view = view[: self._left], view[self._left :]
                self._left -= len(part)
                found.append((self._kind, part))
                continue
            take = _FRAME.size - len(self._head)
            self._head, view = self._head + view[:take], view[take:]
            if len(self._head) == _FRAME.size:
                self._kind, self._left = _FRAME.unpack(self._head)
                self._head = b""
                if not self._left:
                    found.append((self._kind, b""))
        return found


def frame(kind: int, data: bytes) -> bytes:
    """A packet of the v2 protocol."""
    return _FRAME.pack(kind, len(data)) + data


def parse_window(text: bytes) -> tuple[int, int, int, int] | None:
    """Rows, columns, width and height in pixels of `ROWSxCOLS,WIDTHxHEIGHT`; None when it says something else."""
    sides = text.rstrip(b"\0").split(b",")
    try:
        rows, columns = (int(side) for side in sides[0].split(b"x"))
        width, height = (int(side) for side in sides[1].split(b"x"))
    except (ValueError, IndexError):
        return None
    values = (rows, columns, width, height)
    return values if all(0 <= value < 1 << 16 for value in values) else None


class ShellSession:
    """One command on one stream."""

    def __init__(self, stream: Stream, request: ShellRequest, processes: Processes, *, children_survive: bool) -> None:
        self._stream = stream
        self._request = request
        self._processes = processes
        self._children_survive = children_survive

    async def run(self) -> None:
        """Start the command, carry its bytes, end it when the stream closes first."""
        request = self._request
        try:
            # Without framing adbd uses a raw terminal: closing it is how such a process learns that nobody listens.
            child = self._processes.start(
                request.command,
                terminal=request.terminal or not request.framed,
                cooked=request.terminal,
                term=request.term,
            )
        except OSError as error:
            await self._cannot_start(error)
            return
        tasks = [asyncio.ensure_future(self._input(child)), asyncio.ensure_future(self._outputs(child))]
        hung_up = asyncio.ensure_future(self._stream.closed.wait())
        try:
            await asyncio.wait({tasks[1], hung_up}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            early = not tasks[1].done() or tasks[1].exception() is not None
            if early or child.terminal:  # a terminal that goes away hangs up on what still runs in it
                survive = self._children_survive or not early
                self._processes.hang_up(child, children_survive=survive)
            for task in (*tasks, hung_up):
                task.cancel()
            await asyncio.gather(*tasks, hung_up, return_exceptions=True)
            self._processes.release(child)
            await self._stream.close()

    async def _cannot_start(self, error: OSError) -> None:
        text = f"cannot start the shell: {error}\n".encode()
        if self._request.framed:
            text = frame(STDERR, text) + frame(EXIT, bytes([_CANNOT_START]))
        await self._stream.write(text)
        await self._stream.close()

    async def _outputs(self, child: Child) -> None:
        pumps = [self._pump(child.stdout_fd, STDOUT)]
        if child.stderr_fd is not None:
            pumps.append(self._pump(child.stderr_fd, STDERR))
        # When one fails the other must end, too: its descriptor is about to be closed, and its number used again.
        async with asyncio.TaskGroup() as group:
            for pump in pumps:
                group.create_task(pump)
        status = await child.wait()
        if self._request.framed:
            await self._stream.write(frame(EXIT, bytes([status & 0xFF])))

    async def _pump(self, fd: int, kind: int) -> None:
        while data := await read_fd(fd, _CHUNK_BYTES):
            await self._stream.write(frame(kind, data) if self._request.framed else data)

    async def _input(self, child: Child) -> None:
        frames = FrameReader()
        while data := await self._stream.read():
            for kind, part in frames.feed(data) if self._request.framed else [(STDIN, data)]:
                if kind == STDIN:
                    await self._type(child, part)
                elif kind == CLOSE_STDIN:
                    child.close_stdin()
                elif kind == WINDOW and (size := parse_window(part)):
                    child.resize(*size)

    @staticmethod
    async def _type(child: Child, data: bytes) -> None:
        if child.stdin_fd is None:
            return
        try:
            await write_fd(child.stdin_fd, data)
        except OSError:  # the command reads no more; it goes on, and so do we
            child.close_stdin()
