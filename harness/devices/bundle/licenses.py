"""The licences in a bundle: their files, kept below `licenses/PACKAGE/`, and their short names for the manifest.

Used by `assemble`, before trimming removes what came with a package beside its code.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from harness.devices.bundle.spec import LICENSES
from harness.errors import BundleError

_SEE = "see the copyright file"
_NAMES = re.compile(r"(licen[cs]e|copying|notice|thirdparty|third[-_]party|copyright)", re.IGNORECASE)


def of_debian(unpacked: Path, name: str, root: Path) -> tuple[str, list[str]]:
    """Keep a Debian package's copyright file; (the licences it names, the files kept, relative to `root`)."""
    folder = unpacked / "usr" / "share" / "doc" / name
    if folder.is_symlink():  # packages from one source share the file of one of them
        return _SEE, [f"{LICENSES}/{folder.readlink().name}/copyright"]
    source = folder / "copyright"
    if not source.is_file():
        raise BundleError(f"the package {name} has no copyright file")
    text = source.read_text(encoding="utf-8", errors="replace")
    told = text.startswith("Format:")  # only then are its fields what they are called
    names = dict.fromkeys(re.findall(r"^License:[ \t]*(\S.*)$", text, re.MULTILINE)) if told else {}
    target = root / LICENSES / name / "copyright"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    return "; ".join(names) or _SEE, [str(target.relative_to(root))]


def common(unpacked: Path, root: Path) -> None:
    """Keep the full texts that Debian's copyright files refer to."""
    folder = unpacked / "usr" / "share" / "common-licenses"
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.is_file() and not path.is_symlink():
            _keep(path, root / LICENSES / "common-licenses" / path.name)


def of_wheel(unpacked: Path, name: str, root: Path) -> tuple[str, list[str]]:
    """Keep a wheel's licence files; (what its metadata says, the files kept, relative to `root`)."""
    kept = []
    for path in sorted(unpacked.rglob("*")):
        inside = path.relative_to(unpacked)
        below = ".dist-info" in inside.parts[0]
        if (
            path.is_file()
            and _NAMES.search(path.name if not below else str(inside))
            and path.suffix not in {".py", ".so"}
        ):
            target = root / LICENSES / name / "-".join(inside.parts[1:])
            _keep(path, target)
            kept.append(str(target.relative_to(root)))
    metadata = next(iter(sorted(unpacked.glob("*.dist-info/METADATA"))), None)
    text = "" if metadata is None else metadata.read_text(encoding="utf-8", errors="replace")
    said = re.search(r"^License(?:-Expression)?: (.+)$", text, re.MULTILINE)
    if not kept and said is not None and "apache" in said[1].lower():
        kept.append(f"{LICENSES}/common-licenses/Apache-2.0")
    if said is not None:
        return said[1], kept
    classified = re.findall(r"^Classifier: License :: (?:OSI Approved :: )?(.+)$", text, re.MULTILINE)
    return "; ".join(classified) or "see the licence files", kept


def _keep(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
