"""The honest sizes of a variant: its files, and what gzip makes of them.

Used by the pipeline for `variant.json` and by the harness for artifacts made elsewhere. Standard library only.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path

_CHUNK_BYTES = 1 << 20
_GZIP_WBITS = 31  # zlib's way to ask for a gzip container


def size_bytes(files: Iterable[Path]) -> int:
    """Sum of the files' sizes."""
    return sum(file.stat().st_size for file in files)


def gzip_size_bytes(files: Iterable[Path]) -> int:
    """Sum of the files' sizes after `gzip -9` each, without name or time in the header: the same everywhere.

    Weights that were pruned, clustered or stored in few levels show only here.
    """
    total = 0
    for file in files:
        compressor = zlib.compressobj(9, zlib.DEFLATED, _GZIP_WBITS)
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                total += len(compressor.compress(chunk))
        total += len(compressor.flush())
    return total
