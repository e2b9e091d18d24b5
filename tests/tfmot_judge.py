"""Runs TFMOT, the judge of pruning and weight sharing, in a process of its own: it knows the old Keras only. Not part of the product.

    TF_USE_LEGACY_KERAS=1 PYTHONPATH=PACKAGES python tests/tfmot_judge.py KERNELS.npz TASKS.json OUT.npz

KERNELS.npz: kernels by name, of dense layers [in, out] and convolutions [height, width, in, out]. TASKS.json: by name {"do": "prune",
"sparsity"} or {"do": "pattern", "keep", "of"} or {"do": "cluster", "clusters", "initialisation"}. OUT.npz: what it makes of each kernel
by each task, as "task kernel".
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

DENSE = 2
Array = np.ndarray[Any, np.dtype[Any]]


def layer_of(name: str, kernel: Array) -> Any:
    """A built layer with this kernel."""
    import tf_keras

    shape = kernel.shape
    if kernel.ndim == DENSE:
        layer = tf_keras.layers.Dense(shape[1], use_bias=False, name=name, input_shape=(shape[0],))
    else:
        layer = tf_keras.layers.Conv2D(
            shape[3], shape[:2], use_bias=False, name=name, padding="same", input_shape=(8, 8, shape[2])
        )
    return layer


def treated(name: str, kernel: Array, task: dict[str, Any]) -> Array:
    """The kernel that TFMOT makes of this one, without any training: a step at rate zero, where it acts in steps."""
    import tensorflow_model_optimization as tfmot
    import tf_keras

    model = tf_keras.Sequential([layer_of(name, kernel)])
    model.set_weights([kernel])
    if task["do"] == "cluster":
        way = tfmot.clustering.keras.CentroidInitialization[task["initialisation"].upper()]
        shared = tfmot.clustering.keras.cluster_weights(model, task["clusters"], way)
        return tfmot.clustering.keras.strip_clustering(shared).get_weights()[0]
    sparsity = tfmot.sparsity.keras
    if task["do"] == "pattern":
        wrapped = sparsity.prune_low_magnitude(model, sparsity_m_by_n=(task["of"] - task["keep"], task["of"]))
    else:
        always = sparsity.ConstantSparsity(task["sparsity"], begin_step=0, frequency=1)
        wrapped = sparsity.prune_low_magnitude(model, pruning_schedule=always)
    wrapped.compile(tf_keras.optimizers.SGD(0.0), "mse")
    rows = np.ones((2, *model.input_shape[1:]), np.float32)
    wanted = np.zeros((2, *model.output_shape[1:]), np.float32)
    wrapped.fit(rows, wanted, epochs=1, verbose=0, callbacks=[sparsity.UpdatePruningStep()])
    return sparsity.strip_pruning(wrapped).get_weights()[0]


def main() -> None:
    given, told, out = map(Path, sys.argv[1:])
    tasks = json.loads(told.read_text(encoding="utf-8"))
    with np.load(given, allow_pickle=False) as kernels:
        made = {f"{how} {name}": treated(name, kernels[name], task) for how, task in tasks.items() for name in kernels}
    np.savez(out, **made)


if __name__ == "__main__":
    main()
