"""TFMOT as an independent judge of pruning and weight sharing: the same weights go, and ours are shared at no greater loss.

Its packages (pinned in scripts/_judge.py) know the old Keras only and must not lie beside ours: they are put into a folder of the user's
cache, and used by a process of its own. The judge of quantization-aware training is scripts/qat_reference.py, which trains.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.compress.cluster import share
from converters.compress.prune import magnitude_masks, pattern_mask

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "scripts"))
from _judge import install  # noqa: E402

pytestmark = [pytest.mark.compression, pytest.mark.slow]
CLUSTERS = 8
SPARSITIES = (0.3, 0.6, 0.95)
WAYS = ("linear", "density", "kmeans++")
TASKS: dict[str, dict[str, Any]] = {
    **{f"prune{sparsity}": {"do": "prune", "sparsity": sparsity} for sparsity in SPARSITIES},
    "pattern": {"do": "pattern", "keep": 2, "of": 4},
    **{
        way: {
            "do": "cluster",
            "clusters": CLUSTERS,
            "initialisation": way.replace("density", "density_based").replace("++", "_plus_plus"),
        }
        for way in WAYS
    },
}


def kernels() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    shapes = {"dense": (24, 16), "conv": (3, 3, 8, 12)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def packages() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "ondevice-harness" / "tfmot-0.8.1"
    try:
        install(folder)
    except subprocess.CalledProcessError:
        pytest.skip("TFMOT cannot be installed: no package index can be reached")
    return folder


@pytest.fixture(scope="module")
def judged(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """What TFMOT makes of the kernels, by "task kernel"."""
    work = tmp_path_factory.mktemp("judge")
    np.savez(work / "kernels.npz", **kernels())
    (work / "tasks.json").write_text(json.dumps(TASKS), encoding="utf-8")
    files = [str(work / name) for name in ("kernels.npz", "tasks.json", "made.npz")]
    environment = os.environ | {"TF_USE_LEGACY_KERAS": "1", "PYTHONPATH": str(packages), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("tfmot_judge.py")), *files],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(work / "made.npz", allow_pickle=False) as made:
        return {name: made[name] for name in made.files}


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_the_same_weights_are_pruned(judged: dict[str, np.ndarray], sparsity: float) -> None:
    for name, kernel in kernels().items():
        (mask,) = magnitude_masks([kernel], sparsity, "layer")
        np.testing.assert_array_equal(np.where(mask, 0, kernel), judged[f"prune{sparsity} {name}"])


def test_the_same_weights_of_four_neighbours_stay(judged: dict[str, np.ndarray]) -> None:
    for name, kernel in kernels().items():
        mask = pattern_mask(kernel, range(kernel.ndim - 1), 2, 4)
        np.testing.assert_array_equal(np.where(mask, 0, kernel), judged[f"pattern {name}"])


@pytest.mark.parametrize("way", WAYS)
def test_shared_values_lose_no_more(judged: dict[str, np.ndarray], way: str) -> None:
    for name, kernel in kernels().items():
        theirs = judged[f"{way} {name}"]
        ours = share(kernel, None, CLUSTERS, way, np.random.default_rng(0))
        assert ours is not None
        assert len(np.unique(ours)) == len(np.unique(theirs)) == CLUSTERS
        assert np.square(ours - kernel).sum() <= np.square(theirs - kernel).sum()
