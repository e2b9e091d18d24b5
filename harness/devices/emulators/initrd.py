"""The first and only root file system of a QEMU guest: busybox, the kernel's modules, a server; made of Debian packages.

Two archives that the kernel lays over each other: a base, cached by its inputs, and an instance's own (keys, names, what to do
at boot), written anew for every boot. The guest has no Python and no engines: those come in the bundle.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path, PurePosixPath

from harness.devices.emulators import cpio
from harness.devices.emulators.cache import built
from harness.devices.emulators.debian import TRIPLET_OF_MACHINE, Member, fetch, members
from harness.errors import DeviceError

# Raised when the layout changes in a way that the inputs do not show.
LAYOUT = 2
_SSH_PACKAGES = ("dropbear-bin", "libc6", "libcrypt1", "libgmp10", "libtomcrypt1", "libtommath1", "zlib1g")
_MODULES = ("virtio_mmio", "virtio_pci", "virtio_blk", "virtio_net", "ext4", "crc32c_generic", "rtc_pl031", "rtc_cmos")
# Of libc6 only what programs here need; the rest (iconv, NSS, locales) stays out.
_LIBC = re.compile(r"(?:ld-linux[^/]*|libc|libm|libdl|libpthread|librt|libresolv)\.so\.\d+")
_FLAVOUR = {"aarch64": "arm64", "x86_64": "amd64"}


def base(machine: str, *, serve: str, modules: Sequence[str], packages: Sequence[str]) -> Path:
    """A folder with `kernel` and `initrd` for a machine ("aarch64", "x86_64").

    `modules`: more kernel modules, each by its name with parameters after a space; any makes it Debian's full kernel, without
    them it is the smaller one for virtual machines. `packages`: more packages, of which programs and libraries are taken.
    Raises DeviceError.
    """
    flavour = _FLAVOUR[machine] if modules else f"cloud-{_FLAVOUR[machine]}"
    kernel = f"linux-image-{flavour}"
    names = ["busybox-static", *(_SSH_PACKAGES if serve == "ssh" else ()), *packages]
    debs = fetch(machine, [kernel, *dict.fromkeys(names)])
    inputs = {
        "layout": LAYOUT,
        "machine": machine,
        "debs": {name: path.name for name, path in debs.items()},
        "modules": list(modules),
        "guest": {name: hashlib.sha256(data).hexdigest() for name, data in _guest_files().items()},
    }

    def build(folder: Path) -> None:
        wanted = [*_MODULES, *modules]
        entries = [*_skeleton(), *_kernel(debs.pop(kernel), folder, wanted), *_programs(machine, debs)]
        packed = gzip.compress(cpio.archive(entries), 6, mtime=0)
        # The kernel looks for the instance's archive at a multiple of four bytes.
        (folder / "initrd").write_bytes(packed + b"\0" * (-len(packed) % 4))

    return built("guests", inputs, build, what=f"the {machine} guest's kernel and first file system")


def instance(*, name: str, serve: str, at_boot: Sequence[str], files: Mapping[str, tuple[bytes, int]]) -> bytes:
    """The archive of one boot: host name, the line of sh that becomes the server, those for boot, files (path → data, mode)."""
    lines = [f"date -s @{time.time():.0f} >/dev/null", *at_boot]
    machine_id = hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()
    contents = {
        "etc/hostname": (f"{name}\n".encode(), 0o644),
        "etc/machine-id": (f"{machine_id}\n".encode(), 0o644),
        "etc/guest/at-boot": ("\n".join(lines).encode() + b"\n", 0o644),
        "etc/guest/serve": (f"#!/bin/sh\n{serve}\n".encode(), 0o755),
        **files,
    }
    folders = sorted({str(parent) for path in contents for parent in PurePosixPath(path).parents} - {"."})
    entries = [cpio.folder(path, 0o700 if path.endswith(".ssh") else 0o755) for path in folders]
    entries += [cpio.file(path, data, mode) for path, (data, mode) in contents.items()]
    return cpio.archive(entries)


def _guest_files() -> dict[str, bytes]:
    place = resources.files("harness.devices.emulators").joinpath("guest")
    return {name: place.joinpath(name).read_bytes() for name in ("init.sh", "inittab")}


def _skeleton() -> Iterator[cpio.Entry]:
    """Folders, the account, and the console that the kernel opens before anything is mounted."""
    for name in (
        "bin",
        "data",
        "dev",
        "etc",
        "etc/guest",
        "lib",
        "modules",
        "proc",
        "root",
        "run",
        "sys",
        "tmp",
        "var",
    ):
        yield cpio.folder(name, 0o700 if name == "root" else 0o755)
    yield cpio.link("sbin", "bin")
    yield cpio.link("lib64", "lib")
    yield cpio.character("dev/console", 5, 1)
    yield cpio.character("dev/null", 1, 3, 0o666)
    guest = _guest_files()
    yield cpio.file("etc/inittab", guest["inittab"])
    yield cpio.file("etc/guest/init.sh", guest["init.sh"], 0o755)
    yield cpio.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nshell:x:2000:2000:shell:/data/local/tmp:/bin/sh\n")
    yield cpio.file("etc/group", b"root:x:0:\nshell:x:2000:\n")
    yield cpio.file("etc/shells", b"/bin/sh\n")
    yield cpio.file("etc/os-release", b'ID=busybox-guest\nNAME="busybox guest"\nPRETTY_NAME="busybox guest"\n')


def _programs(machine: str, debs: Mapping[str, Path]) -> Iterator[cpio.Entry]:
    """Busybox under its applets' names, and of the other packages the programs (to /bin) and libraries (to /lib)."""
    triplet = re.escape(TRIPLET_OF_MACHINE[machine])
    program = re.compile(r"(?:usr/)?s?bin/([^/]+)")
    library = re.compile(rf"(?:usr/)?lib(?:64)?/(?:{triplet}/)?([^/]+\.so(?:\.[\d.]+)?)")
    taken: set[str] = set()
    for package, path in debs.items():
        for member in members(path, lambda name: bool(program.fullmatch(name) or library.fullmatch(name))):
            found = program.fullmatch(member.name)
            place = "lib/" + PurePosixPath(member.name).name if found is None else "bin/" + found[1]
            if package == "libc6" and _LIBC.fullmatch(PurePosixPath(place).name) is None:
                continue
            if place not in taken:
                taken.add(place)
                yield _entry(place, member)
    yield cpio.link("init", "bin/busybox")
    # The kernel runs /init before any applet has a name of its own.
    for applet in ("sh", "mount", "init"):
        yield cpio.link(f"bin/{applet}", "busybox")


def _entry(place: str, member: Member) -> cpio.Entry:
    if member.target is not None:
        return cpio.link(place, PurePosixPath(member.target).name)
    return cpio.file(place, member.data, 0o755)


def _kernel(deb: Path, folder: Path, wanted: Sequence[str]) -> Iterator[cpio.Entry]:
    """Write `kernel` into the folder; the modules wanted and those they depend on, in the order to insert them."""
    modules: dict[str, bytes] = {}
    builtin: set[str] = set()
    for member in members(deb, lambda name: name.endswith((".ko", "/modules.builtin")) or "/vmlinuz-" in name):
        if member.name.endswith(".ko"):
            modules[_module_name(member.name)] = member.data
        elif member.name.endswith("modules.builtin"):
            builtin = {_module_name(line) for line in member.data.decode().splitlines()}
        else:
            (folder / "kernel").write_bytes(member.data)
    parameters = {_module_name(word[0]): word[2] for word in (text.partition(" ") for text in wanted)}
    order: list[str] = []
    for name in parameters:
        # Of the harness's own list each kernel has some; what the user asked for must be there.
        if name not in builtin and name not in modules and name not in map(_module_name, _MODULES):
            raise DeviceError(f"the guest's kernel has no module {name}", remedy="see 'kernel_modules' in the profile")
        _add_with_dependencies(name, modules, order)
    for name in order:
        yield cpio.file(f"modules/{name}.ko", modules[name])
    lines = [f"{name}.ko {parameters.get(name, '')}".rstrip() for name in order]
    yield cpio.file("modules/order", "".join(f"{line}\n" for line in lines).encode())


def _add_with_dependencies(name: str, modules: Mapping[str, bytes], order: list[str]) -> None:
    """Append a module after all it needs; those built into the kernel are in no file."""
    if name in order or name not in modules:
        return
    for needed in _dependencies(modules[name]):
        _add_with_dependencies(needed, modules, order)
    order.append(name)


def _dependencies(module: bytes) -> Iterable[str]:
    """What a module says in its .modinfo: `depends=a,b` and `softdep=pre: c`."""
    for found in re.finditer(rb"\0depends=([^\0]*)\0", module):
        yield from (_module_name(name) for name in found[1].decode().split(",") if name)
    for found in re.finditer(rb"\0softdep=pre: ([^\0]*)\0", module):
        yield from (_module_name(name) for name in found[1].decode().split() if not name.endswith(":"))


def _module_name(path: str) -> str:
    return PurePosixPath(path).name.removesuffix(".ko").replace("-", "_")
