"""Reads of an ELF file what a bundle must know: its machine, the libraries it needs, the pages it was laid out for.

Pure; used by `assemble` to prove that a bundle is complete before it is pushed to a device where the loader would complain.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

_LOAD, _DYNAMIC = 1, 2
_NEEDED, _STRTAB, _SONAME, _RPATH, _RUNPATH = 1, 5, 14, 15, 29


@dataclass(frozen=True, slots=True)
class Elf:
    """A shared library or program. `machine`: (class, e_machine); `align_bytes`: the smallest alignment of a loaded segment."""

    machine: tuple[int, int]
    needed: tuple[str, ...]
    soname: str | None
    paths: tuple[str, ...]
    align_bytes: int


def is_elf(path: Path) -> bool:
    """Whether a file begins as ELF files do."""
    with path.open("rb") as stream:
        return stream.read(4) == b"\x7fELF"


def read_elf(path: Path) -> Elf:
    """Parse a little-endian ELF file. Raises ValueError for anything else."""
    data = path.read_bytes()
    if data[:4] != b"\x7fELF" or data[5] != 1:
        raise ValueError(f"{path} is no little-endian ELF file")
    wide = data[4] == 2  # noqa: PLR2004 - ELFCLASS64
    machine = struct.unpack_from("<H", data, 18)[0]
    offset = struct.unpack_from("<Q" if wide else "<I", data, 32 if wide else 28)[0]
    size, count = struct.unpack_from("<HH", data, 54 if wide else 42)
    loads: list[tuple[int, int, int, int]] = []  # address, offset, length, alignment
    dynamic: tuple[int, int] | None = None
    for index in range(count):
        kind, at, address, length, align = _segment(data, offset + index * size, wide=wide)
        if kind == _LOAD:
            loads.append((address, at, length, align))
        elif kind == _DYNAMIC:
            dynamic = (at, length)
    entries = [] if dynamic is None else _entries(data, *dynamic, wide=wide)
    strings = next((_file_offset(loads, value) for tag, value in entries if tag == _STRTAB), 0)

    def text(value: int) -> str:
        return data[strings + value : data.index(b"\0", strings + value)].decode()

    paths = [text(value) for tag, value in entries if tag in {_RPATH, _RUNPATH}]
    return Elf(
        machine=(data[4], machine),
        needed=tuple(text(value) for tag, value in entries if tag == _NEEDED),
        soname=next((text(value) for tag, value in entries if tag == _SONAME), None),
        paths=tuple(part for path_list in paths for part in path_list.split(":")),
        align_bytes=min((align for *_, align in loads), default=0),
    )


def _segment(data: bytes, at: int, *, wide: bool) -> tuple[int, int, int, int, int]:
    """Type, file offset, address, length in the file, alignment of one program header."""
    if wide:
        kind, _, offset, address, _, length, _, align = struct.unpack_from("<IIQQQQQQ", data, at)
    else:
        kind, offset, address, _, length, _, _, align = struct.unpack_from("<IIIIIIII", data, at)
    return kind, offset, address, length, align


def _entries(data: bytes, at: int, length: int, *, wide: bool) -> list[tuple[int, int]]:
    form = "<qQ" if wide else "<iI"
    step = struct.calcsize(form)
    found = []
    for place in range(at, at + length, step):
        tag, value = struct.unpack_from(form, data, place)
        if tag == 0:
            break
        found.append((tag, value))
    return found


def _file_offset(loads: list[tuple[int, int, int, int]], address: int) -> int:
    for start, offset, length, _ in loads:
        if start <= address < start + length:
            return address - start + offset
    raise ValueError(f"address {address:#x} is in no loaded segment")
