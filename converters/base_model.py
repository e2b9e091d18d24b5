"""The base model a user brings: which kind it is, whether its file is whole and safe to open, and its fingerprint.

First look of the conversion flow, without any toolchain; `converters.export.keras_base` loads the model afterwards. A
base model comes from anywhere, so nothing in it is trusted: an archive's paths and sizes are checked before it is opened.
"""

from __future__ import annotations

import hashlib
import re
import stat
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from converters.errors import BaseModelError
from converters.variant import FORMAT_OF_SUFFIX, sha256_file

KERAS, H5, SAVED_MODEL = "keras", "h5", "saved_model"
KIND_OF_SUFFIX = {".keras": KERAS, ".h5": H5, ".hdf5": H5}
MAX_UNPACKED_BYTES = 16 * 2**30

_KERAS_MEMBERS = {"config.json", "metadata.json", "model.weights.h5"}
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
# Where an HDF5 superblock keeps the end-of-file address, by its version (HDF5 file format specification, II.A).
_HDF5_END = {0: 40, 1: 44, 2: 28, 3: 28}


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A base model on disk. `kind`: "keras", "h5" or "saved_model". `sha256`: of the file, or of the folder's files."""

    path: Path
    kind: str
    name: str
    sha256: str
    size_bytes: int


def inspect_base(path: Path, *, name: str | None = None) -> BaseModel:
    """Check a base model's file and fingerprint it. Raises BaseModelError with one line that says what is wrong.

    `name` (default: the file's stem) is reduced to letters, digits, `_`, `-` and `.`, since it names folders.
    """
    try:
        if not path.exists():
            raise BaseModelError(f"{path}: no such file or folder", remedy="check the path of the base model")
        kind = _kind(path)
        checks = {KERAS: _check_keras, H5: _check_h5, SAVED_MODEL: _check_saved_model}
        checks[kind](path)
        files = [path] if path.is_file() else _folder_files(path)
        size_bytes = sum(file.stat().st_size for file in files)
        digest = sha256_file(path) if path.is_file() else _folder_sha256(path, files)
    except OSError as error:
        raise BaseModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    return BaseModel(path, kind, plain_name(name or path.stem), digest, size_bytes)


def plain_name(text: str) -> str:
    """A name that is safe as part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text).strip("._") or "model"


def _kind(path: Path) -> str:
    if path.is_dir():
        if (path / "saved_model.pb").is_file():
            return SAVED_MODEL
        raise BaseModelError(
            f"{path}: a folder without saved_model.pb is no base model", remedy="give a SavedModel folder"
        )
    if path.suffix in KIND_OF_SUFFIX:
        return KIND_OF_SUFFIX[path.suffix]
    if path.suffix in FORMAT_OF_SUFFIX:
        raise BaseModelError(
            f"{path}: {path.suffix} is already a converted artifact", remedy="measure it as it is with `harness bench`"
        )
    raise BaseModelError(
        f"{path}: a base model is a .keras or .h5 file or a SavedModel folder, not {path.suffix or 'a file without suffix'}"
    )


def _check_keras(path: Path) -> None:
    truncated = BaseModelError(
        f"{path}: not a whole .keras archive (truncated or damaged)", remedy="copy or save the model again"
    )
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(path, members)
            if archive.testzip() is not None:
                raise truncated
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError) as error:
        raise truncated from error


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    for member in members:
        parts = PurePosixPath(member.filename.replace("\\", "/"))
        is_link = stat.S_ISLNK(member.external_attr >> 16)
        if parts.is_absolute() or ".." in parts.parts or is_link or re.match(r"[A-Za-z]:", member.filename):
            raise BaseModelError(f"{path}: refused: the archive's member {member.filename!r} leads out of it")
    if sum(member.file_size for member in members) > MAX_UNPACKED_BYTES:
        raise BaseModelError(f"{path}: refused: it unpacks to more than {MAX_UNPACKED_BYTES // 2**30} GiB")
    missing = _KERAS_MEMBERS - {member.filename for member in members}
    if missing:
        raise BaseModelError(f"{path}: not a Keras 3 model: the archive has no {min(missing)}")


def _check_h5(path: Path) -> None:
    """The superblock names where the file ends; a shorter file was cut off."""
    with path.open("rb") as stream:
        head = stream.read(64)
    if not head.startswith(_HDF5_MAGIC):
        raise BaseModelError(f"{path}: not an HDF5 file", remedy="copy or save the model again")
    at = _HDF5_END.get(head[8] if len(head) > 8 else -1)  # noqa: PLR2004  offset of the superblock's version
    end = None if at is None else int.from_bytes(head[at : at + 8], "little")
    if end is None or path.stat().st_size < end:
        raise BaseModelError(f"{path}: the HDF5 file is truncated", remedy="copy or save the model again")


def _check_saved_model(path: Path) -> None:
    if not (path / "saved_model.pb").stat().st_size:
        raise BaseModelError(f"{path}: saved_model.pb is empty", remedy="copy or save the model again")


def _folder_files(path: Path) -> list[Path]:
    files = sorted(file for file in path.rglob("*") if not file.is_dir())
    for file in files:
        if file.is_symlink() and not file.resolve().is_relative_to(path.resolve()):
            raise BaseModelError(f"{path}: refused: the link {file.name!r} leads out of the folder")
    return files


def _folder_sha256(path: Path, files: list[Path]) -> str:
    """SHA-256 over the sorted lines `relative path, NUL, sha256 of the file`."""
    lines = sorted(f"{file.relative_to(path).as_posix()}\0{sha256_file(file)}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
