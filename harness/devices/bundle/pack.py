"""Turns laid-out, compiled layers into what a bundle's file holds: the first stage as tar.gz, the rest as parts of zstd frames.

Compressed layers are kept in the cache by what they hold, so that another choice of engines compresses nothing twice.
Called by `build`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.devices.bundle.archive import write_tar
from harness.devices.bundle.places import layers_folder
from harness.devices.bundle.spec import LIB, Arch
from harness.devices.bundle.toolbox import Toolbox, workers
from harness.devices.bundle.tools import sha256_of

# Small enough to be sent again without regret after a lost connection, large enough for a connection with a long way.
PART_BYTES = 4 << 20
# What `on_device_unpack.py` imports, and what the interpreter reads when it starts.
FIRST_STAGE_MODULES = ("ctypes", "hashlib", "json", "os", "sys", "typing", "encodings.ascii", "encodings.latin_1")
# Modules that one build of Python has inside itself and another beside it.
_NATIVE = (
    "_ctypes",
    "_struct",
    "_json",
    "zlib",
    "math",
    "_sha2",
    "_sha256",
    "_sha1",
    "_sha3",
    "_sha512",
    "_md5",
    "_blake2",
)
Entry = list[Any]  # [path, size in bytes, executable, sha256]
_COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Packer:
    """Compresses with the toolbox. `scratch`: a folder that the caller removes; `tell`: hears what takes long."""

    toolbox: Toolbox
    scratch: Path
    level: int
    tell: Callable[[str], None]

    def first_stage(self, root: Path, entries: list[Entry]) -> Path:
        """The first stage as a tar.gz."""
        tar, squeezed = self.scratch / "stage1.tar", self.scratch / "stage1.tar.gz"
        write_tar(tar, [(path, root / path, executable) for path, _, executable, _ in entries])
        self.toolbox.ask(do="gzip", source=str(tar), target=str(squeezed))
        return squeezed

    def layer(self, name: str, root: Path, entries: list[Entry]) -> list[Path]:
        """The parts of a layer, in order, each file named by its sha256."""
        recipe = [entries, self.toolbox.label, self.level, PART_BYTES]
        folder = layers_folder() / hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:32]
        if not folder.is_dir():
            size = sum(entry[1] for entry in entries)
            self.tell(f"compressing {name}: {size / 1e6:.0f} MB")
            with tempfile.TemporaryDirectory(dir=self.scratch) as scratch:
                made = self._compress(Path(scratch), root, entries)
                shutil.move(made, folder)
        order = json.loads((folder / "order.json").read_text(encoding="utf-8"))
        return [folder / part for part in order]

    def _compress(self, scratch: Path, root: Path, entries: list[Entry]) -> Path:
        plain, frame, made = scratch / "plain", scratch / "frame", scratch / "made"
        with plain.open("wb") as target:
            for path, *_ in entries:
                with (root / path).open("rb") as source:
                    shutil.copyfileobj(source, target, _COPY_BYTES)
        self.toolbox.ask(do="zstd", source=str(plain), target=str(frame), level=self.level, workers=workers())
        made.mkdir()
        order = []
        with frame.open("rb") as stream:
            while piece := stream.read(PART_BYTES):
                order.append(hashlib.sha256(piece).hexdigest())
                (made / order[-1]).write_bytes(piece)
        (made / "order.json").write_text(json.dumps(order), encoding="utf-8")
        return made


def entries_of(root: Path, executable: Iterable[str]) -> list[Entry]:
    """All files below a folder in the order that compresses well: by kind, then by path."""
    runs = set(executable)
    paths = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
    paths.sort(key=lambda path: (path.suffix, path.as_posix()))
    return [
        [path.as_posix(), (root / path).stat().st_size, path.as_posix() in runs, sha256_of(root / path)]
        for path in paths
    ]


def split_first_stage(
    arch: Arch, python: str, entries: list[Entry], modules: list[str], needs: Callable[[str], Iterable[str]]
) -> tuple[list[Entry], list[Entry]]:
    """The entries of the base layer that the first stage takes, and the rest.

    `modules`: what importing FIRST_STAGE_MODULES brings; `needs`: an entry's path → names of the libraries it is linked to.
    """
    home = f"{LIB}/python{python}"
    wanted = {f"{LIB}/{arch.loader}", f"bin/python{python}", f"{LIB}/libzstd.so.1"}
    for module in (*modules, "os", *_NATIVE):
        path = module.replace(".", "/")
        wanted |= {f"{home}/{path}.pyc", f"{home}/{path}/__init__.pyc"}
    native = {*modules, *_NATIVE}
    paths = [str(entry[0]) for entry in entries]
    first = {path for path in paths if path in wanted}
    first |= {
        path for path in paths if path.startswith(f"{home}/lib-dynload/") and Path(path).name.split(".")[0] in native
    }
    linked = [path for path in first if not path.endswith(".pyc")]
    while linked:
        found = {f"{LIB}/{name}" for name in needs(linked.pop())}.intersection(paths) - first
        first |= found
        linked += found
    return [entry for entry in entries if entry[0] in first], [entry for entry in entries if entry[0] not in first]
