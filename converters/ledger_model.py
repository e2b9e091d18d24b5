"""The ledger of a Keras model: parameters, non-zeros, distinct values, entropy-coded size, MACs and effective MACs.

What unstructured sparsity and weight sharing save stands in the entropy-coded size alone, and what they might save in products in the
effective MACs; what an engine makes of it is measured. Used by the chain of compression steps for each step's lineage. Keras at call
time only; sizes of files are `converters.ledger`'s, tensors of exported files `converters.ledger_artifact`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from converters import entropy_file
from converters.compress.context import Array


def model_ledger(model: Any, shapes: Sequence[tuple[int | None, ...]] | None = None) -> dict[str, Any]:
    """What a Keras model with fixed inputs costs, as JSON types.

    `parameters`, `non_zeros` and `unique_values` (distinct bit patterns, counted in each tensor and added up), `weights_bytes`,
    `size_entropy_bytes` (as the step `entropy` would write them), `macs` and `effective_macs` for one row, with `macs_uncounted`
    (layer → why it counts 0), and `macs_missing`, the reason when they are None. `shapes`: of a row of each input where the model
    leaves sides free.
    """
    from converters.compress.entropy import weights_by_name
    from converters.ledger_macs import count_macs

    ledger = tensors_ledger(weights_by_name(model))
    try:
        macs = count_macs(model, shapes)
    except ValueError as error:
        return ledger | _no_macs(" ".join(str(error).split())[:300])
    return ledger | {
        "macs": macs.total,
        "effective_macs": macs.effective,
        "macs_uncounted": macs.uncounted,
        "macs_missing": None,
    }


def _no_macs(reason: str) -> dict[str, Any]:
    return {"macs": None, "effective_macs": None, "macs_uncounted": {}, "macs_missing": reason}


def tensors_ledger(arrays: Mapping[str, Array], zero_points: Mapping[str, Array] | None = None) -> dict[str, Any]:
    """The part of the ledger that tensors alone tell, of arrays by name.

    `zero_points`: of quantized tensors, the integers [broadcastable] that stand for 0 where that is not 0 itself.
    """
    non_zeros = unique = 0
    for name, array in arrays.items():
        zero = 0 if zero_points is None else zero_points.get(name, 0)
        non_zeros += int(np.count_nonzero(array != zero))
        bits = np.ascontiguousarray(array).reshape(-1).view(f"u{array.dtype.itemsize}")
        unique += len(np.unique(bits))
    return {
        "parameters": sum(int(array.size) for array in arrays.values()),
        "non_zeros": non_zeros,
        "unique_values": unique,
        "weights_bytes": sum(int(array.nbytes) for array in arrays.values()),
        "size_entropy_bytes": entropy_file.coded_size_bytes(arrays),
    }
