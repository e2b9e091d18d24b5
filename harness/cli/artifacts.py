"""Variants from the command line: variant folders, folders of them, and bare artifacts made elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.variant import FORMAT_OF_SUFFIX, MANIFEST_NAME, Manifest, Variant, load_variant, sha256_file
from harness.errors import SpecError
from harness.session.variants import base_inputs, record

if TYPE_CHECKING:
    from harness.records import VariantRecord

__all__ = ["base_inputs", "collect", "record", "unmade"]


def _bare(path: Path, name: str) -> Variant:
    """A manifest for an artifact made elsewhere: what the file itself says, nothing more."""
    from converters.ledger import gzip_size_bytes

    files = [path]
    if path.suffix == ".xml":
        weights = path.with_suffix(".bin")
        if not weights.is_file():
            raise SpecError(
                f"{path}: its weights {weights.name} are missing", remedy="an OpenVINO model is .xml and .bin"
            )
        files.append(weights)
    return Variant(
        path.parent,
        Manifest(
            name=name,
            format=FORMAT_OF_SUFFIX[path.suffix],
            artifact=path.name,
            files={file.name: sha256_file(file) for file in files},
            signature=None,
            size_bytes=sum(file.stat().st_size for file in files),
            size_gzip_bytes=gzip_size_bytes(files),
        ),
    )


def _find(path: Path) -> list[Path]:
    """Variant folders below a folder (one level), or the path itself."""
    if not path.exists():
        raise SpecError(
            f"{path}: no such file or folder", remedy="give a .tflite, .onnx or .xml file, or a variant folder"
        )
    if path.is_file():
        if path.suffix not in FORMAT_OF_SUFFIX:
            raise SpecError(
                f"{path}: not an artifact", remedy="give a .tflite, .onnx or .xml file, or a variant folder"
            )
        return [path]
    if (path / MANIFEST_NAME).is_file():
        return [path]
    found = sorted(child for child in path.iterdir() if (child / MANIFEST_NAME).is_file())
    if not found:
        raise SpecError(f"{path}: there is no {MANIFEST_NAME} in it or in the folders below it")
    return found


def collect(paths: Iterable[Path]) -> list[Variant]:
    """All variants named, with different names. Raises SpecError, ManifestError."""
    variants: list[Variant] = []
    taken: dict[str, int] = {}
    for given in paths:
        for path in _find(given):
            variant = load_variant(path) if path.is_dir() else _bare(path, path.name)
            name = variant.name
            if name in taken:
                taken[name] += 1
                numbered = dataclasses.replace(variant.manifest, name=f"{name}#{taken[name]}")
                variant = dataclasses.replace(variant, manifest=numbered)
            else:
                taken[name] = 1
            variants.append(variant)
    return variants


def unmade(row: Any, base: str) -> VariantRecord:
    """A recipe that came to nothing, from the converters' row: it stands in the table with its reason."""
    from harness.records import Failure, VariantRecord

    failure: Failure = Failure("conversion", row.error_class or "RefusedError", row.message or "", row.remedy)
    return VariantRecord(
        name=row.variant, format=row.format, base=base, recipe=row.recipe, status=row.status, failure=failure
    )
