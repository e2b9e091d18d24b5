"""The step `cluster`: lets the weights of each tensor share few values, found by k-means, and trains these values on.

Trained quantization of Han et al., arXiv:1510.00149, section 3: all kernels and embedding tables, each with a codebook of its own.
While training, the weights of a cluster move together (`converters.compress.preserve`). What that saves, index bits plus codebook,
is counted here; `entropy` writes it down, and a format that does not know codebooks only shows it when compressed.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from converters.compress.context import CLUSTERS, ZEROS, Array, Context, History, StepResult
from converters.compress.kernels import Kernel, find
from converters.compress.kmeans import kmeans, nearest
from converters.compress.norms import measured_again
from converters.compress.preserve import zeros
from converters.errors import RefusedError


def apply(model: Any, parameters: Mapping[str, Any], context: Context) -> StepResult:
    """Cluster the kernels and tables of `model` in place, then train for `epochs` with the sharing kept; without epochs, measure
    its batch norms again (`converters.compress.norms`).

    A tensor gets at most `clusters` distinct values, the zero among them where `keep_zeros` holds zeros of an earlier pruning
    apart; and at most half as many as it has weights that are not such zeros: fewer than two weights to a value share nothing.
    Raises RefusedError when no tensor can be clustered, ToolError from training.
    """
    kernels, left_alone = find(model)
    treated, kept_zeros, squared_error, squares = [], False, 0.0, 0.0
    for kernel in kernels:
        values = kernel.values
        mask = zeros(values) if parameters["keep_zeros"] else None
        seed = [context.seed, zlib.crc32(kernel.name.encode())]
        shared = share(values, mask, parameters["clusters"], parameters["initialisation"], np.random.default_rng(seed))
        if shared is None:
            left_alone[kernel.name] = "it has too few weights (or only one value) to share"
            continue
        kernel.variable.assign(shared)
        treated.append(kernel)
        kept_zeros |= mask is not None
        wide = values.astype(np.float64)
        squared_error += float(((shared - wide) ** 2).sum())
        squares += float((wide**2).sum())
    if not treated:
        raise RefusedError("no layer of this model has weights that could share values")
    preserve = (context.preserve - {ZEROS}) | {CLUSTERS} | ({ZEROS} if kept_zeros else frozenset())
    history = _trained(model, parameters, replace(context, preserve=preserve))
    figures = _figures(model, treated) | {
        "relative_squared_error": squared_error / squares,
        "keeps_zeros": kept_zeros,
        "norms_measured": 0 if history else measured_again(model, context),
        "epochs": history.epochs if history else 0,
        "training_seconds": history.seconds if history else 0.0,
        "validation_scores": list(history.scores) if history else [],
    }
    return StepResult(model, figures, preserve, left_alone)


def share(
    values: Array, mask: Array | None, clusters: int, initialisation: str, rng: np.random.Generator
) -> Array | None:
    """`values` with at most `clusters` distinct ones, in their shape and dtype; where `mask` is true they stay zero, and the zero
    is one of the clusters. None where there is nothing to share."""
    counted = values[~mask] if mask is not None else values.reshape(-1)
    budget = min(clusters - (1 if mask is not None else 0), counted.size // 2)
    if budget < 1 or len(np.unique(counted)) == 1:
        return None
    centroids = kmeans(counted, budget, initialisation, rng)
    wide = values.astype(np.float64)
    shared = centroids[nearest(wide, centroids)]
    return np.where(mask, 0, shared).astype(values.dtype) if mask is not None else shared.astype(values.dtype)


def _trained(model: Any, parameters: Mapping[str, Any], context: Context) -> History | None:
    if not parameters["epochs"]:
        return None
    return context.fit(
        model, context, epochs=parameters["epochs"], learning_rate=parameters["learning_rate"], label="cluster"
    )


@dataclass(frozen=True, slots=True)
class Storage:
    """What one tensor costs as indices into a codebook. `index_bits` per weight; sizes in bytes."""

    values: int
    index_bits: int
    index_bytes: int
    codebook_bytes: int


def storage(values: Array) -> Storage:
    """Storage of an array as one index per weight and a codebook of its distinct values."""
    distinct = len(np.unique(values.reshape(-1).view(f"u{values.dtype.itemsize}")))
    bits = (distinct - 1).bit_length()
    return Storage(distinct, bits, -(-values.size * bits // 8), distinct * values.dtype.itemsize)


def _figures(model: Any, kernels: Sequence[Kernel]) -> dict[str, Any]:
    """Values and true storage per tensor and in all, counted in the weights."""
    layers, saved = [], 0
    for kernel in kernels:
        values = kernel.values
        cost = storage(values)
        saved += values.nbytes - cost.index_bytes - cost.codebook_bytes
        layers.append(
            {
                "tensor": kernel.name,
                "weights": int(values.size),
                "zeros": int(values.size - np.count_nonzero(values)),
                "values": cost.values,
                "index_bits": cost.index_bits,
                "index_bytes": cost.index_bytes,
                "codebook_bytes": cost.codebook_bytes,
                "bytes_before": int(values.nbytes),
            }
        )
    before = sum(int(np.asarray(variable.value).nbytes) for variable in model.weights)
    return {
        "weights_bytes": before,
        "weights_bytes_shared": before - saved,
        "ratio": before / (before - saved),
        "layers": layers,
    }
