"""Where bundles, their downloads and their intermediate products are on the host, and the lock that keeps builds apart."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


def cache_folder() -> Path:
    """`ondevice-harness/bundles` in the user's cache folder; made when missing."""
    home = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(home) if home else Path.home() / ".cache") / "ondevice-harness" / "bundles"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def downloads_folder() -> Path:
    """Packages and wheels as they came, named by their sha256."""
    return _below("downloads")


def layers_folder() -> Path:
    """Compressed layers, named by what they were made from."""
    return _below("layers")


def toolbox_folder() -> Path:
    """Unpacked toolboxes."""
    return _below("toolbox")


def built_folder() -> Path:
    """Finished bundles."""
    return _below("built")


def scratch_folder() -> Path:
    """Where temporary folders are made: on the same file system, so that a finished thing is only renamed."""
    return _below("scratch")


def user_locks_folder() -> Path:
    """Lock files that `harness bundle lock` wrote; they win over the shipped ones."""
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "ondevice-harness" / "bundle-locks"


def _below(name: str) -> Path:
    folder = cache_folder() / name
    folder.mkdir(exist_ok=True)
    return folder


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Hold the cache folder for this process alone: a second build of the same waits, then finds it done."""
    with (cache_folder() / "lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
