"""Debian packages of another architecture, without touching the host's own package system: fetched, never installed.

A private apt configuration (lists, status and archives of its own) downloads and verifies named packages, which are then read
member by member. No foreign architecture is added, nothing is configured, no root is needed. Used to make guests and roots.
"""

from __future__ import annotations

import io
import logging
import lzma
import os
import re
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.devices.emulators.cache import cache_root, locked
from harness.errors import DeviceError

log = logging.getLogger(__name__)

SUITE = "bookworm"
MIRROR_VARIABLE = "HARNESS_DEBIAN_MIRROR"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
ARCH_OF_MACHINE = {"aarch64": "arm64", "armv7l": "armhf", "x86_64": "amd64"}
TRIPLET_OF_MACHINE = {"aarch64": "aarch64-linux-gnu", "armv7l": "arm-linux-gnueabihf", "x86_64": "x86_64-linux-gnu"}
INDEX_MAX_AGE_S = 24 * 3600.0
APT_TIMEOUT_S = 1800.0
_NO_MIRROR = (
    f"set {MIRROR_VARIABLE} to the address of a Debian mirror: an emulator's first start fetches packages from there"
)


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a package: `data` of a file, or `target` of a symbolic link."""

    name: str
    mode: int
    data: bytes = b""
    target: str | None = None


def fetch(machine: str, packages: Sequence[str]) -> dict[str, Path]:
    """The .deb files of packages (name → path), from the cache or downloaded. `linux-image-FLAVOUR` is the newest kernel.

    Raises DeviceError that names what is missing: apt, the keyring, a connection.
    """
    folder = cache_root() / "debian" / f"{SUITE}-{ARCH_OF_MACHINE[machine]}"
    with locked(folder / "lock"):
        missing = [name for name in packages if _find(folder, name) is None]
        if missing:
            log.info("fetching the Debian packages %s (%s)", " ".join(missing), ARCH_OF_MACHINE[machine])
            _download(folder, ARCH_OF_MACHINE[machine], missing)
        found = {name: _find(folder, name) for name in packages}
    lacking = [name for name, path in found.items() if path is None]
    if lacking:
        raise DeviceError(f"Debian {SUITE} ({ARCH_OF_MACHINE[machine]}) has no package {', '.join(lacking)}")
    return {name: path for name, path in found.items() if path is not None}


def _pattern(name: str) -> str:
    flavour = name.removeprefix("linux-image-")
    stem = re.escape(name) if flavour == name else rf"linux-image-\d[\d.]*-\d+-{re.escape(flavour)}"
    return rf"{stem}_[^_]+_\w+\.deb"


def _find(folder: Path, name: str) -> Path | None:
    """The newest file of a package among those fetched."""
    debs = folder / "debs"
    pattern = re.compile(_pattern(name))
    found = [path for path in debs.glob("*.deb") if pattern.fullmatch(path.name)] if debs.is_dir() else []
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _download(folder: Path, arch: str, packages: Sequence[str]) -> None:
    """Update the private index where it is old, then download; apt checks signature and digests."""
    if shutil.which("apt-get") is None or not KEYRING.exists():
        raise DeviceError(
            f"cannot fetch the Debian packages {', '.join(packages)}: apt or Debian's keyring is not installed here",
            remedy=f"apt install apt debian-archive-keyring, or put the {arch} .deb files into {folder / 'debs'}",
        )
    config = _configure(folder, arch)
    index = folder / "index-time"
    if not index.exists() or time.time() - index.stat().st_mtime > INDEX_MAX_AGE_S:
        _apt(config, folder, ["apt-get", "-qq", "-o", "APT::Update::Error-Mode=any", "update"], packages)
        index.touch()
    names = [_real_name(config, folder, name, packages) for name in packages]
    (folder / "debs").mkdir(exist_ok=True)
    part = folder / "part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    _apt(config, part, ["apt-get", "-qq", "download", *names], packages)
    for path in part.iterdir():
        path.rename(folder / "debs" / path.name)
    part.rmdir()


def _mirror() -> str:
    """The mirror that the user names, or else the one this host's own apt gets the suite from. Raises DeviceError.

    apt verifies the signed index, so that the way to it need not be trusted.
    """
    named = os.environ.get(MIRROR_VARIABLE)
    if named:
        return named
    argv = ["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages"]
    try:
        said = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=60, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceError(f"apt does not tell its sources: {error}", remedy=_NO_MIRROR) from error
    for line in said.splitlines():
        suite, _, uri = line.strip().partition(" ")
        if suite == SUITE and uri:
            return uri
    raise DeviceError(f"this host's apt sources have no Debian {SUITE}", remedy=_NO_MIRROR)


def _configure(folder: Path, arch: str) -> Path:
    """Write a configuration in which nothing is the host's; its path."""
    for name in ("lists/partial", "archives/partial", "sources"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()
    (folder / "sources" / "debian.sources").write_text(
        f"Types: deb\nURIs: {_mirror()}\nSuites: {SUITE}\nComponents: main\nSigned-By: {KEYRING}\n",
        encoding="utf-8",
    )
    config = folder / "apt.conf"
    config.write_text(
        f'APT::Architecture "{arch}";\nAPT::Architectures {{ "{arch}"; }};\nAPT::Sandbox::User "";\n'
        f'Dir::State "{folder}";\nDir::State::lists "{folder}/lists";\nDir::State::status "{folder}/status";\n'
        f'Dir::Cache "{folder}";\nDir::Cache::archives "{folder}/archives";\nDir::Etc::sourcelist "/dev/null";\n'
        f'Dir::Etc::sourceparts "{folder}/sources";\nDir::Etc::preferencesparts "/dev/null";\n'
        'Acquire::Languages "none";\nAcquire::Retries "1";\n',
        encoding="utf-8",
    )
    return config


def _real_name(config: Path, folder: Path, name: str, packages: Sequence[str]) -> str:
    """A kernel's metapackage depends on the one real package; others are what they are called."""
    if not name.startswith("linux-image-"):
        return name
    said = _apt(config, folder, ["apt-cache", "depends", name], packages)
    found = re.search(r"Depends: (linux-image-\S+)", said)
    return name if found is None else found[1]


def _apt(config: Path, cwd: Path, argv: list[str], packages: Sequence[str]) -> str:
    """Run apt with the private configuration; its stdout. Raises DeviceError with its own words."""
    try:
        done = subprocess.run(
            argv,
            cwd=cwd,
            env={**os.environ, "APT_CONFIG": str(config), "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=APT_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DeviceError(f"fetching Debian packages took more than {APT_TIMEOUT_S:.0f} s", transient=True) from error
    if done.returncode != 0:
        words = " | ".join(line for line in done.stderr.splitlines() if line.strip())[-500:]
        debs = config.parent / "debs"
        raise DeviceError(
            f"cannot fetch the Debian packages {', '.join(packages)}: {words}",
            remedy=f"the first start of an emulator needs a connection to a Debian mirror ({MIRROR_VARIABLE} names"
            f" another), or put the .deb files into {debs}",
        )
    return done.stdout


def members(deb: Path, wanted: Callable[[str], bool]) -> Iterator[Member]:
    """The files and symbolic links of a package whose name (without a leading ./) is wanted. Raises DeviceError."""
    try:
        with tarfile.open(fileobj=_data(deb), mode="r|xz") as archive:
            for entry in archive:
                name = entry.name.removeprefix("./")
                if not wanted(name):
                    continue
                if entry.issym():
                    yield Member(name, 0o777, target=entry.linkname)
                elif entry.isfile():
                    stream = archive.extractfile(entry)
                    yield Member(name, entry.mode & 0o7777, b"" if stream is None else stream.read())
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise DeviceError(f"{deb} is damaged: {error}", remedy="delete it: it is fetched anew") from error


def _data(deb: Path) -> io.BytesIO:
    """A package's data.tar.xz: the member of that name in the `ar` archive that a .deb is."""
    raw = deb.read_bytes()
    at = 8
    while raw.startswith(b"!<arch>\n") and at + 60 <= len(raw):
        name, size = raw[at : at + 16].decode("ascii", "replace").strip(" /"), int(raw[at + 48 : at + 58])
        if name == "data.tar.xz":
            data = raw[at + 60 : at + 60 + size]
            if len(data) < size:
                raise DeviceError(f"{deb} is damaged: it ends too early", remedy="delete it: it is fetched anew")
            return io.BytesIO(data)
        at += 60 + size + size % 2
    raise DeviceError(f"{deb} is no Debian package with data.tar.xz", remedy="delete it: it is fetched anew")
