"""Debian packages of another architecture, without touching the host: a private apt configuration, no root.

`resolve` finds versions and hashes for a lock; `fetch` downloads what a lock names, through apt's own download helper, so that
the user's mirrors, proxies and certificates hold; `unpack` lays a package's files out.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.devices.bundle.lock import Package
from harness.devices.bundle.places import downloads_folder, scratch_folder
from harness.devices.bundle.spec import DEBIAN_ROOTS, DEBIAN_SKIPPED, Arch
from harness.devices.bundle.tools import call, sha256_of
from harness.errors import BundleError, PackageGoneError

_HELPER = "/usr/lib/apt/apt-helper"
_FIELDS = ("Package", "Version", "Filename", "SHA256", "Size", "Depends")


@dataclass(frozen=True, slots=True)
class Apt:
    """An apt of its own in a folder: for one architecture, with the host's sources (or another file of sources)."""

    folder: Path
    arch: Arch

    @classmethod
    def make(cls, folder: Path, arch: Arch, sources: Path | None) -> Apt:
        """Write its configuration. `sources`: a sources.list to use instead of the host's."""
        for name in ("lists/partial", "cache/archives/partial", "empty"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "status").touch()
        lines = [
            f'APT::Architecture "{arch.debian}";',
            f'APT::Architectures {{"{arch.debian}";}};',
            f'Dir::State "{folder}"; Dir::State::lists "{folder}/lists"; Dir::State::status "{folder}/status";',
            f'Dir::Cache "{folder}/cache"; Acquire::Languages "none"; APT::Sandbox::User "";',
            # A mirror that is being updated gives an index other than it promised: ask again.
            'Acquire::Retries "3"; APT::Update::Post-Invoke-Success ""; APT::Update::Post-Invoke "";',
        ]
        if sources is not None:
            lines.append(f'Dir::Etc::sourcelist "{sources.resolve()}"; Dir::Etc::sourceparts "{folder}/empty";')
        (folder / "apt.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return cls(folder, arch)

    def call(self, *argv: str, remedy: str | None = None) -> str:
        """Run one of apt's tools under this configuration. Raises BundleError."""
        return call(argv, remedy=remedy, env={"APT_CONFIG": str(self.folder / "apt.conf")})

    def update(self) -> None:
        """Read the indexes. Raises BundleError."""
        self.call("apt-get", "update", "-q", remedy="try again when the mirror has settled, or give --apt-sources FILE")

    def roots(self) -> list[str]:
        """The addresses under which the configured mirrors keep their packages."""
        said = self.call(
            "apt-get", "indextargets", "--no-release-info", "--format", "$(REPO_URI)", "Created-By: Packages"
        )
        return list(dict.fromkeys(line.strip() for line in said.splitlines() if line.strip()))

    def release(self) -> str:
        """The code name of the release that the C library would come from."""
        said = self.call("apt-cache", "policy", "libc6")
        found = re.search(r"\d+ \S+ (\S+?)(?:-security|-updates)?/main ", said)
        return "unknown" if found is None else found[1]

    def show(self, name: str) -> dict[str, str]:
        """What the index says of the version that would be installed. Raises BundleError."""
        said = self.call(
            "apt-cache",
            "show",
            "--no-all-versions",
            name,
            remedy=f"your apt sources have no {name} for {self.arch.debian}: give --apt-sources FILE with a Debian mirror",
        )
        found: dict[str, str] = {}
        for line in said.splitlines():
            key, colon, value = line.partition(": ")
            if colon and key in _FIELDS:
                found.setdefault(key, value)
        return found


def resolve(apt: Apt) -> tuple[str, list[Package]]:
    """Python's version ("3.11") and all packages of the part "python". Raises BundleError."""
    python = re.search(r"libpython(3\.\d+)-stdlib", apt.show("libpython3-stdlib").get("Depends", ""))
    if python is None:
        raise BundleError("your apt sources do not say which Python 3 they have", remedy="give --apt-sources FILE")
    wanted = [root.format(v=python[1]) for root in DEBIAN_ROOTS] + list(apt.arch.extra_debian)
    packages: dict[str, Package] = {}
    while wanted:
        name = wanted.pop()
        if name in packages:
            continue
        facts = apt.show(name)
        packages[name] = Package(
            name=name,
            version=facts["Version"],
            path=facts["Filename"],
            sha256=facts["SHA256"],
            size_bytes=int(facts["Size"]),
            part="numpy" if name in apt.arch.extra_debian else "python",
        )
        wanted += _libraries(facts.get("Depends", ""))
    return python[1], sorted(packages.values(), key=lambda package: package.name)


def _libraries(depends: str) -> Iterator[str]:
    """The libraries among a package's dependencies, without those that only left-out modules need."""
    for choice in filter(None, (part.strip() for part in depends.split(","))):
        name = choice.split("|")[0].split()[0].partition(":")[0]
        # The base package of a compiler holds the licence of its libraries, and nothing else that matters here.
        if re.match(r"lib|zlib|gcc-\d+-base$", name) and not DEBIAN_SKIPPED.match(name):
            yield name


def fetch(packages: Sequence[Package], arch: Arch, sources: Path | None) -> dict[str, Path]:
    """Name → file of each package, downloaded where it is not in the cache, always of the locked bytes.

    Raises BundleError; a package that no mirror has any more names the way out.
    """
    found = {package.name: _cached(package) for package in packages}
    missing = [package for package in packages if not found[package.name].is_file()]
    if missing:
        with tempfile.TemporaryDirectory(dir=scratch_folder()) as folder:
            apt = Apt.make(Path(folder), arch, sources)
            roots = apt.roots()
            for package in missing:
                _download(apt, roots, package, Path(folder))
    return found


def _cached(package: Package) -> Path:
    return downloads_folder() / f"{package.sha256[:16]}-{package.file_name}"


def _download(apt: Apt, roots: list[str], package: Package, folder: Path) -> None:
    """From the first of the mirrors that has it; that one is asked first for the next package."""
    words = "no mirror is configured"
    for root in list(roots):
        target = folder / package.file_name
        try:
            apt.call(
                _HELPER,
                "-q",
                "download-file",
                f"{root.rstrip('/')}/{package.path}",
                str(target),
                f"SHA256:{package.sha256}",
            )
        except BundleError as error:
            words = error.message
            continue
        if sha256_of(target) != package.sha256:
            words = "its sha256 is not the locked one"
            continue
        target.replace(_cached(package))
        roots.remove(root)
        roots.insert(0, root)
        return
    raise PackageGoneError(
        f"{package.name} {package.version} ({apt.arch.debian}) cannot be had from your apt sources: {words}",
        remedy="a mirror drops a version when a newer one comes out: `harness bundle lock --arch "
        f"{apt.arch.name}` locks today's versions, `harness bundle build --unlocked` takes them once",
    )


def unpack(package: Path, folder: Path) -> None:
    """Lay a package's files out below a folder. Raises BundleError."""
    folder.mkdir(parents=True, exist_ok=True)
    call(["dpkg-deb", "-x", str(package), str(folder)])
