"""k-means of numbers on a line: the codebook of shared weights. Pure numpy.

Lloyd's iteration (IEEE Trans. Inf. Theory 28(2), 1982) on sorted values, where a cluster is a run: each round costs a binary search per
centroid, however many values there are. Beginnings: linear and density-based after Han et al., arXiv:1510.00149, section 3.2;
k-means++ after Arthur and Vassilvitskii, SODA 2007.
"""

from __future__ import annotations

import numpy as np

from converters.compress.context import Array

LINEAR, DENSITY, PLUS_PLUS = "linear", "density", "kmeans++"
MAX_ROUNDS = 300
# Distances to every value for every centroid: on more values than this, k-means++ draws from a sample of them.
PLUS_PLUS_SAMPLE = 100_000


def kmeans(values: Array, clusters: int, initialisation: str, rng: np.random.Generator) -> Array:
    """Centroids of `values` [n]: float64, ascending, at most `clusters` ≥ 1 of them, none empty, each the mean of the values that are
    nearer to it than to another. Where there are no more distinct values than clusters, these values themselves.

    `initialisation`: LINEAR spreads the first centroids evenly between the extremes, which serves the few large weights best; DENSITY
    puts as many values on each; PLUS_PLUS draws them apart. A centroid that loses its values moves to the value worst served.
    """
    ordered = np.sort(np.asarray(values, np.float64).reshape(-1))
    distinct, first = np.unique(ordered, return_index=True)
    if len(distinct) <= clusters:
        return distinct
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    centroids = _begin(ordered, clusters, initialisation, rng)
    before = np.empty(0, np.int64)
    for _ in range(MAX_ROUNDS):
        bounds = _bounds(ordered, centroids)
        if np.array_equal(bounds, before):
            break
        counts = np.diff(bounds)
        if len(centroids) < clusters or not counts.all():
            full = centroids[counts > 0]
            served = np.repeat(full, counts[counts > 0])[first]
            # Distinct values only: equal ones would make clusters that are empty again.
            worst = np.argsort(-np.abs(distinct - served), kind="stable")[: clusters - len(full)]
            centroids = np.unique(np.concatenate([full, distinct[worst]]))
            continue
        before = bounds
        centroids = np.diff(sums[bounds]) / counts
    return np.unique(centroids)


def nearest(values: Array, centroids: Array) -> Array:
    """For each of `values` the index of the nearest of the ascending `centroids`: int64, in the shape of `values`. A value half way
    belongs to the upper one."""
    return np.asarray(np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values, side="right"))


def _bounds(ordered: Array, centroids: Array) -> Array:
    """Where the run of each centroid begins, and the end: int64 [k + 1]."""
    inner = np.searchsorted(ordered, (centroids[1:] + centroids[:-1]) / 2, side="left")
    return np.concatenate([[0], inner, [len(ordered)]])


def _begin(ordered: Array, clusters: int, initialisation: str, rng: np.random.Generator) -> Array:
    if initialisation == LINEAR:
        return np.linspace(ordered[0], ordered[-1], clusters)
    if initialisation == DENSITY:
        return np.unique(np.quantile(ordered, (np.arange(clusters) + 0.5) / clusters))
    return _plus_plus(ordered, clusters, rng)


def _plus_plus(ordered: Array, clusters: int, rng: np.random.Generator) -> Array:
    sample = ordered
    if len(ordered) > PLUS_PLUS_SAMPLE:
        sample = ordered[rng.choice(len(ordered), PLUS_PLUS_SAMPLE, replace=False)]
    chosen = [float(sample[rng.integers(len(sample))])]
    distance = (sample - chosen[0]) ** 2
    while len(chosen) < clusters and (total := distance.sum()) > 0:
        chosen.append(float(sample[rng.choice(len(sample), p=distance / total)]))
        distance = np.minimum(distance, (sample - chosen[-1]) ** 2)
    return np.unique(chosen)
