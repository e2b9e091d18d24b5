"""A variant: one artifact made from a base model by a recipe, and its manifest.

This is the seam between `converters` (which writes variant folders) and `harness` (which reads them, wherever they were
made). Standard library only, so that a host that merely measures can read a manifest without any toolchain.

A variant folder holds the artifact (`model.tflite`, `model.onnx`, or `model.xml` + `model.bin`) and `variant.json`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MANIFEST_NAME = "variant.json"
# History of the manifest's schema: 1 = first.
MANIFEST_SCHEMA = 1

FORMATS = ("tflite", "onnx", "openvino")
FORMAT_OF_SUFFIX = {".tflite": "tflite", ".onnx": "onnx", ".xml": "openvino"}


class ManifestError(ValueError):
    """A `variant.json` that is missing, unreadable, or does not describe what lies beside it."""


@dataclass(frozen=True, slots=True)
class Quantization:
    """Affine quantization of a tensor: real = scale * (q - zero_point), one value per tensor or per slice of `axis`."""

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None = None


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of an artifact, as the engine sees it.

    `shape` has None for a free dimension (the batch). `dtype` is numpy's name ("float32", "int8"). `source` names the
    dataset input (for an input) or the base model's output (for an output) that this tensor carries. `axes` is the
    transposition from the base model's layout to the artifact's: `artifact = numpy.transpose(base, axes)`; None means
    the layouts are the same. For an input: feed `quantize(transpose(x, axes))`. For an output, `axes` leads from the
    artifact's layout back to the base model's: `base = numpy.transpose(dequantize(y), axes)`.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    source: str | None = None
    layout: str | None = None
    axes: tuple[int, ...] | None = None
    quantization: Quantization | None = None


@dataclass(frozen=True, slots=True)
class Signature:
    """Inputs and outputs of an artifact, in the engine's order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Numeric agreement of a variant with its base on the same `rows` inputs.

    `max_abs_error`, `mean_abs_error`: over all outputs. `spread`: max − min of the base's outputs.
    `relative_error` = worst output's max_abs_error / that output's spread. `argmax_agreement`: share of rows with the
    same arg max (None where outputs are no class scores). `per_output` has the relative error of each output by name.
    """

    rows: int
    max_abs_error: float
    mean_abs_error: float
    spread: float
    relative_error: float
    argmax_agreement: float | None
    per_output: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What `variant.json` says. Every value that is not known is None, never a guess."""

    name: str
    format: str
    artifact: str
    files: dict[str, str]  # file name -> sha256, the artifact and what belongs to it
    signature: Signature | None
    size_bytes: int
    size_gzip_bytes: int
    schema: int = MANIFEST_SCHEMA
    base: str | None = None
    base_sha256: str | None = None
    recipe: dict[str, Any] | None = None
    parameters: int | None = None
    dataset_sha256: str | None = None
    preprocessing: dict[str, Any] | None = None
    tool_versions: dict[str, str] = field(default_factory=dict)
    seeds: dict[str, int] = field(default_factory=dict)
    agreement: Agreement | None = None
    weight_dtypes: dict[str, int] = field(default_factory=dict)  # what the tensors hold: dtype -> elements
    notes: tuple[str, ...] = ()
    lineage: tuple[dict[str, Any], ...] = ()  # the compression steps, each with what it did (docs/compression)
    # What it costs (docs/compression); empty: was not counted.
    ledger: dict[str, Any] = field(default_factory=dict)
    # Of its weights, entropy-coded; None: not counted, or the ledger's artifact_missing says why.
    size_entropy_bytes: int | None = None
    extras: dict[str, str] = field(default_factory=dict)  # file name -> sha256 of files that no engine reads

    @property
    def recipe_name(self) -> str | None:
        """The recipe's name, or None for an artifact made elsewhere."""
        return None if self.recipe is None else str(self.recipe.get("name"))

    def to_json(self) -> str:
        """Serialise with stable key order."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"


@dataclass(frozen=True, slots=True)
class Variant:
    """A variant folder on disk (or a bare artifact made elsewhere) with its manifest."""

    folder: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """The variant's name."""
        return self.manifest.name

    @property
    def artifact(self) -> Path:
        """Path of the main artifact file."""
        return self.folder / self.manifest.artifact

    def paths(self) -> list[Path]:
        """All files the engine needs, the main artifact first."""
        others = sorted(name for name in self.manifest.files if name != self.manifest.artifact)
        return [self.artifact, *(self.folder / name for name in others)]


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _plain_name(name: object) -> str:
    """A file name from a manifest, refused when it could lead out of the folder."""
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise ManifestError(f"file name {name!r} in the manifest is not a plain name")
    return name


def _quantization(data: dict[str, Any] | None) -> Quantization | None:
    if data is None:
        return None
    return Quantization(
        tuple(float(v) for v in data["scale"]), tuple(int(v) for v in data["zero_point"]), data.get("axis")
    )


def _spec(data: dict[str, Any]) -> TensorSpec:
    axes = data.get("axes")
    return TensorSpec(
        name=str(data["name"]),
        shape=tuple(None if d is None else int(d) for d in data["shape"]),
        dtype=str(data["dtype"]),
        source=data.get("source"),
        layout=data.get("layout"),
        axes=None if axes is None else tuple(int(a) for a in axes),
        quantization=_quantization(data.get("quantization")),
    )


def signature_from_dict(data: dict[str, Any]) -> Signature:
    """Inverse of `dataclasses.asdict` for a Signature."""
    return Signature(tuple(_spec(item) for item in data["inputs"]), tuple(_spec(item) for item in data["outputs"]))


def manifest_from_json(text: str) -> Manifest:
    """Parse `variant.json`. Raises ManifestError with the reason; file names are checked to be plain names."""
    try:
        data = json.loads(text)
        if not isinstance(data, dict):
            raise ManifestError("not a JSON object")
        if data.get("schema") != MANIFEST_SCHEMA:
            raise ManifestError(f"schema {data.get('schema')!r} is not {MANIFEST_SCHEMA}, the one this version reads")
        if data["format"] not in FORMATS:
            raise ManifestError(f"unknown format {data['format']!r}")
        known = {f.name for f in dataclasses.fields(Manifest)}
        values = {key: value for key, value in data.items() if key in known}
        values["artifact"] = _plain_name(data["artifact"])
        values["files"] = {_plain_name(name): str(digest) for name, digest in data["files"].items()}
        values["signature"] = None if data.get("signature") is None else signature_from_dict(data["signature"])
        values["agreement"] = None if data.get("agreement") is None else Agreement(**data["agreement"])
        values["notes"] = tuple(data.get("notes", ()))
        values["lineage"] = tuple(dict(step) for step in data.get("lineage", ()))
        values["extras"] = {_plain_name(name): str(digest) for name, digest in data.get("extras", {}).items()}
        return Manifest(**values)
    except ManifestError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ManifestError(f"not a valid manifest: {error!r}") from error


def load_variant(folder: Path, *, verify: bool = True) -> Variant:
    """Read a variant folder. With `verify`, every file must have the sha256 the manifest names.

    Raises ManifestError.
    """
    path = folder / MANIFEST_NAME
    try:
        manifest = manifest_from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: {error}") from error
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from error
    variant = Variant(folder, manifest)
    if manifest.artifact not in manifest.files:
        raise ManifestError(f"{path}: the artifact {manifest.artifact!r} is not among the files")
    if verify:
        for name, digest in (manifest.files | manifest.extras).items():
            file = folder / name
            if not file.is_file():
                raise ManifestError(f"{path}: file {name!r} is missing")
            if sha256_file(file) != digest:
                raise ManifestError(f"{path}: file {name!r} does not have the sha256 the manifest names")
    return variant


def save_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `variant.json` so that a reader sees the old file or the new one, never half of it."""
    temporary = folder / (MANIFEST_NAME + ".part")
    temporary.write_text(manifest.to_json(), encoding="utf-8")
    temporary.replace(folder / MANIFEST_NAME)
