"""Runs inside the toolbox, a locked Python of this host's architecture: compiles and compresses to the same bytes everywhere.

Standard library only; started as a program by `toolbox` with one JSON argument, answers with one JSON line. Also imported by
nobody. The compressor is the toolbox's own libzstd and zlib, so that another host's version cannot change the bytes.
"""

from __future__ import annotations

import ctypes
import gzip
import importlib._bootstrap_external as machinery
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

_LEVEL, _WINDOW_LOG, _CHECKSUM, _WORKERS = 100, 101, 201, 400
# What a device must keep in memory to decompress: 2 to that power bytes.
_WINDOW = 24


def compile_tree(job: dict[str, Any]) -> dict[str, Any]:
    """Replace each .py below `root` by its .pyc, never checked against a source again. Those that do not compile stay away."""
    root = Path(job["root"])
    refused = []
    for source in sorted(root.rglob("*.py")):
        text = source.read_bytes()
        inside = source.relative_to(root).as_posix()
        try:
            code = compile(text, inside, "exec", dont_inherit=True, optimize=0)
        except (SyntaxError, ValueError, UnicodeError):
            refused.append(inside)  # templates, and samples of older languages
        else:
            data = machinery._code_to_hash_pyc(code, importlib.util.source_hash(text), False)  # type: ignore[attr-defined] # noqa: SLF001
            source.with_suffix(".pyc").write_bytes(data)
        source.unlink()
    return {"refused": refused}


def modules(job: dict[str, Any]) -> dict[str, Any]:
    """Names of all modules that importing some modules brings with it."""
    for name in job["names"]:
        __import__(name)
    return {"modules": sorted(sys.modules)}


def zstd(job: dict[str, Any]) -> dict[str, Any]:
    """Compress a file into one frame with a checksum."""
    library = ctypes.CDLL("libzstd.so.1")
    for name in ("ZSTD_createCCtx", "ZSTD_compressBound", "ZSTD_compress2", "ZSTD_CCtx_setParameter"):
        getattr(library, name).restype = ctypes.c_void_p if name == "ZSTD_createCCtx" else ctypes.c_size_t
    library.ZSTD_compressBound.argtypes = [ctypes.c_size_t]
    context = ctypes.c_void_p(library.ZSTD_createCCtx())
    # The number of workers does not show in the bytes, that there are any does: at least one everywhere.
    settings = {_LEVEL: job["level"], _WINDOW_LOG: _WINDOW, _CHECKSUM: 1, _WORKERS: max(1, job["workers"])}
    for key, value in settings.items():
        check(library, library.ZSTD_CCtx_setParameter(context, key, value))
    data = Path(job["source"]).read_bytes()
    target = ctypes.create_string_buffer(library.ZSTD_compressBound(len(data)))
    size = library.ZSTD_compress2(context, target, ctypes.c_size_t(len(target)), data, ctypes.c_size_t(len(data)))
    check(library, size)
    Path(job["target"]).write_bytes(memoryview(target)[:size])
    return {"size_bytes": size}


def check(library: Any, code: int) -> None:
    """Raise OSError for one of the library's error codes."""
    library.ZSTD_isError.argtypes = library.ZSTD_getErrorName.argtypes = [ctypes.c_size_t]
    library.ZSTD_getErrorName.restype = ctypes.c_char_p
    if library.ZSTD_isError(code):
        raise OSError(library.ZSTD_getErrorName(code).decode())


def squeeze(job: dict[str, Any]) -> dict[str, Any]:
    """Compress a file with gzip, without name and time."""
    data = gzip.compress(Path(job["source"]).read_bytes(), compresslevel=9, mtime=0)
    # The tenth byte names the system that wrote it; it is no part of the contents.
    Path(job["target"]).write_bytes(data[:9] + b"\xff" + data[10:])
    return {"size_bytes": len(data)}


def main() -> None:
    """Do what the one argument asks."""
    job = json.loads(sys.argv[1])
    does = {"compile": compile_tree, "modules": modules, "zstd": zstd, "gzip": squeeze}
    os.umask(0o022)
    sys.stdout.write(json.dumps(does[job["do"]](job)) + "\n")


if __name__ == "__main__":
    main()
