"""Runs on the device (or in the toolbox), under the bundle's own first-stage Python: unpacks the rest, or verifies all.

Sent as text to `python -` with one JSON argument, so it imports nothing of its package, and only what the first stage
holds (FIRST_STAGE_MODULES in `build`). Answers with one JSON line.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import sys
from typing import Any, BinaryIO

MARKER = "complete"
# A file system rounds every file up to its blocks.
BLOCK_BYTES = 4096


class Stream:
    """What zstd gives back of a list of parts that make one frame. Raises OSError for damaged ones."""

    def __init__(self, parts: list[str]) -> None:
        library = self.library = ctypes.CDLL("libzstd.so.1")
        library.ZSTD_createDStream.restype = ctypes.c_void_p
        library.ZSTD_decompressStream.restype = ctypes.c_size_t
        library.ZSTD_decompressStream.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
        library.ZSTD_isError.argtypes = library.ZSTD_getErrorName.argtypes = [ctypes.c_size_t]
        library.ZSTD_getErrorName.restype = ctypes.c_char_p
        self.parts = list(parts)
        self.context = ctypes.c_void_p(library.ZSTD_createDStream())
        self.room = ctypes.create_string_buffer(1 << 20)
        self.view = memoryview(self.room)
        self.source = Buffer(None, 0, 0)
        self.kept: Any = None
        self.ready = memoryview(b"")

    def fill(self) -> None:
        """Decompress the next piece into `ready`."""
        if self.source.pos == self.source.size:
            if not self.parts:
                raise OSError("the parts end too early")
            with open(self.parts.pop(0), "rb") as stream:  # noqa: PTH123 - pathlib is not in the first stage
                data = stream.read()
            self.kept = ctypes.create_string_buffer(data, len(data))
            self.source = Buffer(ctypes.cast(self.kept, ctypes.c_void_p), len(data), 0)
        target = Buffer(ctypes.cast(self.room, ctypes.c_void_p), len(self.room), 0)
        code = self.library.ZSTD_decompressStream(self.context, ctypes.byref(target), ctypes.byref(self.source))
        if self.library.ZSTD_isError(code):
            raise OSError("zstd: " + self.library.ZSTD_getErrorName(code).decode())
        self.ready = self.view[: target.pos]

    def copy(self, size: int, target: BinaryIO) -> None:
        """Write the next `size` bytes to a file."""
        while size:
            if not self.ready:
                self.fill()
            piece = self.ready[:size]
            target.write(piece)
            size -= len(piece)
            self.ready = self.ready[len(piece) :]


class Buffer(ctypes.Structure):
    """ZSTD_inBuffer and ZSTD_outBuffer."""

    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_size_t), ("pos", ctypes.c_size_t))


def write_file(root: str, entry: list[Any], stream: Stream) -> None:
    """One file of a layer: [path, size, executable, sha256]."""
    path = os.path.join(root, entry[0])  # noqa: PTH118
    os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
    with open(path, "wb") as target:  # noqa: PTH123
        stream.copy(entry[1], target)
        os.fchmod(target.fileno(), 0o755 if entry[2] else 0o644)


def unpack(job: dict[str, Any]) -> dict[str, Any]:
    """All layers into `root`, where the first stage and manifest.json are already; then the marker.

    "space" only says whether there is room. Raises OSError.
    """
    root = job["root"]
    with open(os.path.join(root, "manifest.json"), "rb") as stream:  # noqa: PTH118, PTH123
        manifest = json.loads(stream.read())
    need = sum(entry[1] + BLOCK_BYTES for layer in manifest["layers"] for entry in layer["files"])
    facts = os.statvfs(root)
    free = facts.f_bavail * facts.f_frsize
    if free < need:
        return {"full": True, "need_bytes": need, "free_bytes": free}
    if job["do"] == "space":
        return {"need_bytes": need, "free_bytes": free}
    for layer in manifest["layers"]:
        source = Stream([os.path.join(job["parts"], name) for name in layer["parts"]])  # noqa: PTH118
        for entry in layer["files"]:
            write_file(root, entry, source)
    os.sync()  # the marker must not outlive a power cut that takes what it vouches for
    with open(os.path.join(root, MARKER), "w") as stream:  # noqa: PTH118, PTH123
        stream.write(job["digest"] + "\n")
    return {"files": sum(len(layer["files"]) for layer in manifest["layers"])}


def verify(job: dict[str, Any]) -> dict[str, Any]:
    """Names of files of an unpacked bundle that are missing or differ."""
    root = job["root"]
    with open(os.path.join(root, "manifest.json"), "rb") as stream:  # noqa: PTH118, PTH123
        manifest = json.loads(stream.read())
    wrong = []
    for entry in manifest["stage1"]["files"] + [entry for layer in manifest["layers"] for entry in layer["files"]]:
        digest = hashlib.sha256()
        try:
            with open(os.path.join(root, entry[0]), "rb") as stream:  # noqa: PTH118, PTH123
                while True:
                    chunk = stream.read(1 << 20)
                    if not chunk:
                        break
                    digest.update(chunk)
        except OSError:
            wrong.append(entry[0])
            continue
        if digest.hexdigest() != entry[3]:
            wrong.append(entry[0])
    return {"wrong": wrong}


def main() -> None:
    """Do what the one argument asks."""
    job = json.loads(sys.argv[1])
    try:
        answer = verify(job) if job["do"] == "verify" else unpack(job)
    except OSError as error:
        answer = {"error": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
