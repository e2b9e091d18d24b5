"""Content-addressed store of conversions: same base, recipe, data, seed and tool versions → same files, no work.

An entry is a folder of files beside `entry.json`, which names each file's sha256. Entries appear by one rename, so two
processes may write at once; they are verified whenever they are read, and a damaged one is dropped and made again.
Standard library only.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from converters.variant import sha256_file

# The code that decides what is written is part of every key, so that nobody can forget to raise a number.
_CODE = (
    "export/*.py",
    "check.py",
    "worker.py",
    "variant.py",
    "recipe.py",
    "lineage.py",
    "ledger*.py",
    "entropy_*.py",
    "huffman.py",
)
_LAYOUT = "v1"
_ENTRY = "entry.json"
_FORGOTTEN_S = 30 * 86_400


def default_cache() -> Path:
    """The user's cache folder: $HARNESS_CACHE, else ~/.cache/ondevice-harness/conversions."""
    given = os.environ.get("HARNESS_CACHE")
    if given:
        return Path(given).expanduser()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "ondevice-harness" / "conversions"


@functools.cache
def code_sha256(patterns: tuple[str, ...] = _CODE) -> str:
    """SHA-256 over this project's own converter code, or over the files of this package that `patterns` name."""
    folder = Path(__file__).parent
    files = sorted(path for pattern in patterns for path in folder.glob(pattern))
    return hashlib.sha256("".join(f"{path.name} {sha256_file(path)}\n" for path in files).encode()).hexdigest()


def key_of(values: Mapping[str, Any]) -> str:
    """The address of what `values` (JSON types) decide."""
    text = json.dumps({"code": code_sha256(), **values}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Cache:
    """Entries under one root folder, by kind and key."""

    def __init__(self, root: Path) -> None:
        self._root = root / _LAYOUT

    def _folder(self, kind: str, key: str) -> Path:
        return self._root / kind / key[:2] / key

    def get(self, kind: str, key: str, into: Path) -> bool:
        """Link (or copy) an entry's files into the folder `into`; False when there is none that is whole.

        On False nothing of the entry is left in `into`.
        """
        entry = self._folder(kind, key)
        try:
            files = json.loads((entry / _ENTRY).read_text(encoding="utf-8"))["files"]
        except FileNotFoundError:
            return False
        except (OSError, ValueError, KeyError, TypeError):
            self._drop(entry)
            return False
        if not self._whole(entry, files):
            self._drop(entry)
            return False
        for name in files:
            target = into / name
            target.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(entry / name, target)
        return True

    def unfinished(self, key: str) -> Path:
        """Where work on what `key` decides may lie unfinished, to be taken up again after a kill. Its parent exists.

        What nobody came back to for a month is removed.
        """
        parent = self._root / "unfinished"
        parent.mkdir(parents=True, exist_ok=True)
        for folder in parent.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                if time.time() - folder.stat().st_mtime > _FORGOTTEN_S:
                    shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
        return parent / key

    @staticmethod
    def _whole(entry: Path, files: Mapping[str, str]) -> bool:
        try:
            return all(sha256_file(entry / name) == digest for name, digest in files.items())
        except OSError:
            return False

    def put(self, kind: str, key: str, folder: Path, names: Iterable[str]) -> None:
        """Store the files `names` of `folder` (a folder stands for all in it; what is not there is left out).

        Raises OSError (a full disk, for one); nothing half-written becomes visible.
        """
        final = self._folder(kind, key)
        if final.is_dir():
            return
        draft = self._root / "tmp" / uuid.uuid4().hex
        draft.mkdir(parents=True)
        try:
            files = {}
            for path in _files_of(folder, names):
                relative = path.relative_to(folder)
                target = draft / relative
                target.parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(path, target)
                files[relative.as_posix()] = sha256_file(target)
            (draft / _ENTRY).write_text(json.dumps({"files": files}, indent=1, sort_keys=True), encoding="utf-8")
            final.parent.mkdir(parents=True, exist_ok=True)
            try:
                draft.rename(final)
            except OSError:
                # Another process was faster: its entry has the same content.
                if not final.is_dir():
                    raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _drop(self, entry: Path) -> None:
        """Take a damaged entry away in one step, so that no reader sees it half removed."""
        grave = self._root / "tmp" / uuid.uuid4().hex
        grave.parent.mkdir(parents=True, exist_ok=True)
        try:
            entry.rename(grave)
        except FileNotFoundError:
            return
        shutil.rmtree(grave, ignore_errors=True)


def _files_of(folder: Path, names: Iterable[str]) -> list[Path]:
    files: list[Path] = []
    for name in names:
        path = folder / name
        if path.is_dir():
            files += sorted(file for file in path.rglob("*") if file.is_file())
        elif path.is_file():
            files.append(path)
    return files


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link where the file system allows one, else a copy. Artifacts are never changed in place."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
