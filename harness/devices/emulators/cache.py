"""Where emulators keep what they build: one folder per kind, each entry named by the contents it was made from.

An entry is built once, under a lock, in a folder of its own that is renamed when it is complete: a killed build leaves nothing
that could be taken for an image. Used by the modules beside it that build; nothing here knows what is built.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

# An entry not used for so long is removed when another is built: kernels and bundles get new versions.
UNUSED_S = 60 * 24 * 3600.0


def cache_root() -> Path:
    """`$XDG_CACHE_HOME/ondevice-harness/emulators`, made private."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = base / "ondevice-harness" / "emulators"
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    return root


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file's lock: one process builds, the others wait for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def key_of(inputs: Mapping[str, Any]) -> str:
    """The name of an entry: a digest of everything it is made from (JSON values)."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:24]


def built(kind: str, inputs: Mapping[str, Any], build: Callable[[Path], None], *, what: str) -> Path:
    """The folder of an entry, built by `build(folder)` where it is not there. `what` names it in the log."""
    parent = cache_root() / kind
    place = parent / key_of(inputs)
    if not place.is_dir():
        with locked(parent / "lock"):
            if not place.is_dir():
                _build(place, build, what)
                _forget_unused(parent, keep=place)
    os.utime(place)
    return place


def _build(place: Path, build: Callable[[Path], None], what: str) -> None:
    started = time.monotonic()
    log.info("building %s (once; kept in %s)", what, place)
    for left in place.parent.glob("building-*"):
        shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix="building-", dir=place.parent))
    try:
        build(folder)
        folder.rename(place)
    finally:
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
    log.info("built %s in %.1f s", what, time.monotonic() - started)


def _forget_unused(parent: Path, keep: Path) -> None:
    """Remove entries that nobody has used for long. A running emulator has its files open: it does not need their names."""
    for folder in parent.iterdir():
        if folder.is_dir() and folder != keep and time.time() - folder.stat().st_mtime > UNUSED_S:
            shutil.rmtree(folder, ignore_errors=True)
