"""A bundle as one file on the host: a plain tar of its manifest, its first stage, and the content-named parts of its layers.

    manifest.json   what is inside, with versions, licences and the sha256 of everything; its own sha256 is the bundle's digest
    stage1.tar.gz   loader, C library, Python, libzstd: what a device unpacks with its own tar
    parts/SHA256    pieces of the layers, each layer one zstd frame over the contents of its files in the manifest's order

Written by `build`, read by `deploy`, `store` and `unpack_bundle`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.devices.bundle.spec import ARCHES, LIB, SITE
from harness.errors import BundleError

SCHEMA = 1
SUFFIX = ".bundle"
MANIFEST, STAGE1, PARTS = "manifest.json", "stage1.tar.gz", "parts"
# Below a device's work folder: bundles unpacked, parts on their way.
RUNTIMES, INCOMING = "runtimes", "runtimes/incoming"
MARKER = "complete"
# Temporary files of what runs on the device.
SCRATCH = "tmp"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle's file, its manifest and its digest."""

    path: Path
    manifest: dict[str, Any]
    digest: str

    @property
    def arch(self) -> str:
        """Its architecture, as `uname -m` says."""
        return str(self.manifest["arch"])

    @property
    def engines(self) -> dict[str, str]:
        """Engine → version."""
        return dict(self.manifest["engines"])

    @property
    def parts(self) -> list[str]:
        """Names of the parts, which are their sha256, once each."""
        return list(dict.fromkeys(name for layer in self.manifest["layers"] for name in layer["parts"]))

    @property
    def unpacked_bytes(self) -> int:
        """Sum of all its files."""
        layers = [*self.manifest["layers"], self.manifest["stage1"]]
        return sum(entry[1] for layer in layers for entry in layer["files"])

    def argv(self, root: str) -> tuple[str, ...]:
        """What starts its Python once it is unpacked at `root`; nothing of the device's own is loaded or read."""
        lib = f"{root}/{LIB}"
        loader = f"{lib}/{ARCHES[self.arch].loader}"
        python = f"{root}/bin/python{self.manifest['python']}"
        # -S -s: `site` would look for packages of the device and of its user.
        return (loader, "--inhibit-cache", "--library-path", lib, python, "-S", "-s")

    def environment(self, root: str, work: str) -> dict[str, str]:
        """Its Python's environment. `work`: the one folder that may be written."""
        return {
            "PYTHONHOME": root,
            "PYTHONPATH": f"{root}/{SITE}",
            "PYTHONUTF8": "1",
            "LC_ALL": "C.UTF-8",
            # Not the work folder itself: libraries leave things in their user's home.
            "HOME": f"{work}/{SCRATCH}",
            "TMPDIR": f"{work}/{SCRATCH}",
            # What the device sets for its own C library would be taken for ours.
            "LD_PRELOAD": "",
            "LD_LIBRARY_PATH": "",
        }

    @contextmanager
    def extracted(self, names: Iterable[str]) -> Iterator[dict[str, Path]]:
        """Some of its members as files of their own, for as long as the context lasts. Raises BundleError."""
        with tempfile.TemporaryDirectory(prefix="harness-bundle-") as scratch:
            folder = Path(scratch)
            found: dict[str, Path] = {}
            wanted = set(names)
            with _tar(self.path) as tar:
                for member in tar:
                    if member.name in wanted and (stream := tar.extractfile(member)) is not None:
                        found[member.name] = folder / member.name.replace("/", "-")
                        with found[member.name].open("wb") as target:
                            shutil.copyfileobj(stream, target)
            missing = wanted - found.keys()
            if missing:
                raise BundleError(f"{self.path} lacks {min(missing)}", remedy="build it again: harness bundle build")
            yield found


@contextmanager
def _tar(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path, "r:") as tar:
            yield tar
    except (OSError, tarfile.TarError, EOFError) as error:
        raise BundleError(f"{path} is no bundle: {error}", remedy="build one with `harness bundle build`") from error


def open_bundle(path: Path) -> Bundle:
    """Read a bundle's manifest. Raises BundleError for a file that is none, or of another version of the harness."""
    with _tar(path) as tar:
        member = tar.next()
        stream = None if member is None or member.name != MANIFEST else tar.extractfile(member)
        data = b"" if stream is None else stream.read()
    try:
        manifest = json.loads(data)
        schema = manifest["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path} is no bundle", remedy="build one with `harness bundle build`") from error
    if schema != SCHEMA:
        raise BundleError(f"{path} has schema {schema}, this harness reads {SCHEMA}", remedy="build it again")
    return Bundle(path, manifest, hashlib.sha256(data).hexdigest())


def encode_manifest(manifest: dict[str, Any]) -> bytes:
    """The manifest's bytes, always the same for the same manifest."""
    return json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def write_tar(target: Path, members: Sequence[tuple[str, Path | bytes, bool]]) -> None:
    """A tar whose bytes depend on names and contents alone. `members`: name, file or bytes, whether it may be executed."""
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as tar:
        folders: set[str] = set()
        for name, content, executable in members:
            for parent in [str(part) for part in reversed(Path(name).parents) if str(part) != "."]:
                if parent not in folders:
                    folders.add(parent)
                    entry = tarfile.TarInfo(parent)
                    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                    tar.addfile(entry)
            entry = tarfile.TarInfo(name)
            entry.mode = 0o755 if executable else 0o644
            data = content if isinstance(content, bytes) else content.read_bytes()
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def unpack_bundle(archive: Path, folder: Path) -> Path:
    """Unpack a bundle on the host into a work folder, as deploying it there would leave it; the unpacked bundle's folder.

    For images of emulated devices: a device whose work folder holds it is not sent it again. Harmless when it is there.
    Raises BundleError.
    """
    from harness.devices.bundle.toolbox import open_toolbox

    bundle = open_bundle(archive)
    root = folder / RUNTIMES / bundle.digest
    if (root / MARKER).is_file():
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    toolbox = open_toolbox()
    part = Path(tempfile.mkdtemp(prefix=f"{bundle.digest}.new-", dir=root.parent))
    part.chmod(0o755)
    try:
        with bundle.extracted([MANIFEST, STAGE1, *(f"{PARTS}/{name}" for name in bundle.parts)]) as files:
            shutil.copyfile(files[MANIFEST], part / MANIFEST)
            with tarfile.open(files[STAGE1], "r:gz") as tar:
                tar.extractall(part, filter="data")
            parts = files[MANIFEST].parent / "named"
            parts.mkdir()
            for name in bundle.parts:
                os.link(files[f"{PARTS}/{name}"], parts / name)
            job = {"do": "unpack", "root": str(part), "parts": str(parts), "digest": bundle.digest}
            answer = toolbox.run("on_device_unpack.py", json.dumps(job))
        raise_for(answer, str(folder))
        part.rename(root)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return root


def raise_for(answer: dict[str, Any], where: str) -> None:
    """Raise BundleError for an answer of `on_device_unpack.unpack` that tells of a failure."""
    if answer.get("full"):
        need, free = answer["need_bytes"] / 1e6, answer["free_bytes"] / 1e6
        raise BundleError(
            f"{where}: the bundle needs {need:.0f} MB, {free:.0f} MB are free",
            remedy="free some space there, choose another 'work_folder', or build a bundle with fewer engines",
        )
    if "error" in answer:
        raise BundleError(f"{where}: the bundle could not be unpacked: {answer['error']}", transient=True)
