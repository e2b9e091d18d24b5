"""What goes into a bundle, as data: per architecture its Debian name, its loader, its wheels, and which engines exist for it.

The first step of a build: `harness.devices.bundle.lock` turns this into versions and hashes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.errors import SpecError
from harness.yamlfile import suggest

ENGINES = ("litert", "onnxruntime", "openvino")
# Where the parts of the bundle are, below its own folder.
LIB, SITE, LICENSES = "lib", "site", "licenses"
# The newest glibc that wheels may ask for: that of the distribution's release which the locks are made from.
_MANYLINUX = (36, 35, 34, 31, 28, 27, 26, 24, 17)


@dataclass(frozen=True, slots=True)
class Arch:
    """One architecture. `engines`: engine → wheel; `refused`: engine → why there is none; `elf`: (class, machine)."""

    name: str
    debian: str
    triplet: str
    loader: str
    elf: tuple[int, int]
    engines: Mapping[str, str]
    refused: Mapping[str, str] = field(default_factory=dict)
    numpy_wheel: bool = True
    extra_debian: tuple[str, ...] = ()
    also_called: tuple[str, ...] = ()

    @property
    def wheel_platforms(self) -> list[str]:
        """Platform tags of wheels that run there, the newest first."""
        return [*(f"manylinux_2_{minor}_{self.name}" for minor in _MANYLINUX), f"manylinux2014_{self.name}"]


_WHEELS = {"litert": "ai-edge-litert", "onnxruntime": "onnxruntime", "openvino": "openvino"}
_NO_ARMV7 = "its makers publish no wheel for 32-bit ARM"
ARCHES: dict[str, Arch] = {
    "aarch64": Arch(
        "aarch64", "arm64", "aarch64-linux-gnu", "ld-linux-aarch64.so.1", (2, 183), _WHEELS, also_called=("arm64",)
    ),
    "armv7l": Arch(
        "armv7l",
        "armhf",
        "arm-linux-gnueabihf",
        "ld-linux-armhf.so.3",
        (1, 40),
        {"litert": "tflite-runtime"},
        refused={"onnxruntime": _NO_ARMV7, "openvino": _NO_ARMV7},
        # No numpy wheel either: the distribution's own, of the generation that tflite-runtime was built for.
        numpy_wheel=False,
        extra_debian=("python3-numpy",),
        also_called=("armv8l", "armhf"),
    ),
    "x86_64": Arch(
        "x86_64", "amd64", "x86_64-linux-gnu", "ld-linux-x86-64.so.2", (2, 62), _WHEELS, also_called=("amd64",)
    ),
}

# Packages every bundle starts from; {v} is Python's version. Their libraries follow, except those only left-out modules need.
DEBIAN_ROOTS = (
    "python{v}-minimal",
    "libpython{v}-minimal",
    "libpython{v}-stdlib",
    "libc6",
    "libgcc-s1",
    "libstdc++6",
    "zlib1g",
    "libzstd1",
    # Only for the full texts of the licences that the others' copyright files refer to.
    "base-files",
)
DEBIAN_SKIPPED = re.compile(
    r"lib(ssl|db\d|ncurses|readline|tinfo|nsl|tirpc|sqlite|uuid|crypt|lzma|bz2|gssapi|krb5|com-err|keyutils|quadmath)"
)


def arch_of(name: str) -> Arch:
    """An architecture by what `uname -m` or people call it. Raises SpecError."""
    for arch in ARCHES.values():
        if name == arch.name or name in arch.also_called:
            return arch
    raise SpecError(f"there are no bundles for the architecture {name!r}", remedy=suggest(name, list(ARCHES)))


def check_engines(arch: Arch, engines: Sequence[str]) -> tuple[str, ...]:
    """The engines in their usual order, once each. Raises SpecError for one that cannot be had."""
    for engine in engines:
        if engine not in ENGINES:
            raise SpecError(f"there is no engine {engine!r}", remedy=suggest(engine, list(ENGINES)))
        if engine not in arch.engines:
            raise SpecError(
                f"{engine} cannot be put into a bundle for {arch.name}: {arch.refused[engine]}",
                remedy=f"build with --engines {','.join(arch.engines)}",
            )
    if not engines:
        raise SpecError("a bundle needs at least one engine", remedy=f"give --engines {','.join(arch.engines)}")
    return tuple(engine for engine in ENGINES if engine in engines)
