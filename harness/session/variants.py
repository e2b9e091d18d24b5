"""Variants as a session knows them: the record of each, and the base model's inputs as they carry them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from converters.variant import TensorSpec, Variant
from harness.records import VariantRecord


def record(variant: Variant) -> VariantRecord:
    """How a variant enters a session."""
    manifest = variant.manifest
    return VariantRecord(
        name=manifest.name,
        format=manifest.format,
        base=manifest.base,
        recipe=manifest.recipe_name,
        artifact_sha256=manifest.files.get(manifest.artifact),
        size_bytes=manifest.size_bytes,
        size_gzip_bytes=manifest.size_gzip_bytes,
        parameters=manifest.parameters,
        manifest=dataclasses.asdict(manifest),
        folder=str(variant.folder.resolve()),
    )


def base_inputs(variants: Iterable[Variant]) -> tuple[TensorSpec, ...]:
    """The base model's inputs as the first variant with a signature carries them; () where none has one."""
    for variant in variants:
        signature = variant.manifest.signature
        if signature is not None and all(spec.source is not None for spec in signature.inputs):
            return tuple(_of_the_base(spec) for spec in signature.inputs)
    return ()


def _of_the_base(spec: TensorSpec) -> TensorSpec:
    """The tensor before the artifact transposed and quantized it (a quantized tensor was float32)."""
    shape = list(spec.shape)
    for position, axis in enumerate(spec.axes or ()):
        shape[axis] = spec.shape[position]
    dtype = spec.dtype if spec.quantization is None else "float32"
    return TensorSpec(name=str(spec.source), shape=tuple(shape), dtype=dtype)
