"""Chooses by which method and to which ranks each layer is factorized. Pure numpy.

Between `converters.compress.factorize`, which knows the layers, and `converters.compress.decompose`, which does the algebra.
A layer's options are all ranks of its methods that save both parameters and multiply-accumulates (MACs), with the error that
each would leave. For a wanted size, a price per parameter is sought at which the cheapest option of every layer (error + price ×
parameters, doing nothing included) adds up to it: layers whose spectra are flat, or small ones, keep more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from converters.compress import decompose, decompose_cp
from converters.compress.decompose import CP, SPATIAL_SVD, SVD, TUCKER

Array = npt.NDArray[Any]
PRICES = np.geomspace(1e-14, 1e3, 400)
# CP has no spectrum to read errors from, so a few ranks are tried.
CP_RANKS = 7
CP_TRIAL_ITERATIONS = 15


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """A kernel that may be factorized. `kernel` float [height, width, in, out]; `strides` (vertical, horizontal);
    `size_in`, `size_out`: (height, width) of the feature maps before and after, (1, 1) for dense layers."""

    kernel: Array
    strides: tuple[int, int] = (1, 1)
    size_in: tuple[int, int] = (1, 1)
    size_out: tuple[int, int] = (1, 1)

    @property
    def parameters(self) -> int:
        """Of the kernel as it is."""
        return int(self.kernel.size)

    @property
    def macs(self) -> int:
        """Of the kernel as it is, for one row."""
        return int(self.kernel.size) * self.size_out[0] * self.size_out[1]


@dataclass(frozen=True, slots=True, eq=False)
class Options:
    """What one method offers at one site. `ranks` int64 [n, 1 or 2]; `parameters`, `macs` int64 [n]; `errors` float64 [n]:
    squared relative errors (for Tucker-2 the bound that HOSVD keeps; the factors found are at least as good)."""

    method: str
    ranks: Array
    parameters: Array
    macs: Array
    errors: Array

    def only(self, which: Array) -> Options:
        """Those that `which` (bool [n]) names."""
        return Options(self.method, self.ranks[which], self.parameters[which], self.macs[which], self.errors[which])


@dataclass(frozen=True, slots=True)
class Choice:
    """A method with its ranks, what it costs and what error it is thought to leave."""

    method: str
    ranks: tuple[int, ...]
    parameters: int
    macs: int
    error: float


def costs(site: Site, method: str, ranks: Array) -> tuple[Array, Array]:
    """Parameters and MACs [n] of the factors at `ranks` int64 [n, 1 or 2], biases apart."""
    height, width, inputs, outputs = site.kernel.shape
    before, after = site.size_in[0] * site.size_in[1], site.size_out[0] * site.size_out[1]
    between = site.size_out[0] * site.size_in[1]  # after a vertical stride, before the horizontal one
    rank, last = ranks[:, 0], ranks[:, -1]
    if method == SVD:
        parts = [(height * width * inputs * rank, after), (rank * outputs, after)]
    elif method == SPATIAL_SVD:
        parts = [(height * inputs * rank, between), (width * rank * outputs, after)]
    elif method == TUCKER:
        parts = [(inputs * rank, before), (height * width * rank * last, after), (last * outputs, after)]
    else:
        merged = site.strides != (1, 1)
        middle = [(height * width * rank, after)] if merged else [(height * rank, between)]
        # A kernel of width 1 needs no horizontal part.
        middle += [(width * rank, after)] if not merged and width > 1 else []
        parts = [(inputs * rank, before), *middle, (rank * outputs, after)]
    return np.sum([p for p, _ in parts], axis=0), np.sum([p * positions for p, positions in parts], axis=0)


def options(site: Site, method: str, rank: int | None = None) -> Options:
    """All ranks of `method` (of CP a few, or `rank`) that save parameters and MACs here."""
    if method == TUCKER:
        errors_in, errors_out = (decompose.mode_errors(site.kernel, mode) for mode in (2, 3))
        first, second = np.meshgrid(np.arange(1, len(errors_in)), np.arange(1, len(errors_out)), indexing="ij")
        ranks = np.stack([first.ravel(), second.ravel()], axis=1)
        errors = np.minimum(errors_in[ranks[:, 0]] + errors_out[ranks[:, 1]], 1.0)
    elif method == CP:
        tried = np.geomspace(1, highest_cp_rank(site), CP_RANKS) if rank is None else np.array([rank])
        ranks = np.unique(tried.astype(np.int64))[:, None]
        errors = np.array([_cp_error(site.kernel, int(rank)) for rank in ranks[:, 0]])
    else:
        matrix = decompose.channel_matrix if method == SVD else decompose.spatial_matrix
        found = decompose.tail_errors(np.linalg.svd(matrix(site.kernel), compute_uv=False))
        ranks, errors = np.arange(1, len(found))[:, None], found[1:]
    parameters, macs = costs(site, method, ranks)
    every = Options(method, ranks, parameters, macs, errors)
    return every.only((parameters < site.parameters) & (macs < site.macs))


def highest_cp_rank(site: Site, parameters: int | None = None) -> int:
    """The largest rank, at least 1, whose factors have at most that many parameters (fewer than the kernel by default)."""
    per_rank = int(costs(site, CP, np.ones((1, 1), np.int64))[0][0])
    return max(1, (site.parameters - 1 if parameters is None else parameters) // per_rank)


def _cp_error(kernel: Array, rank: int) -> float:
    factors = decompose_cp.cp(kernel, rank, iterations=CP_TRIAL_ITERATIONS)
    return 1.0 if factors is None else decompose.relative_error(kernel, decompose.multiplied(CP, factors))


def _choice(found: Options, index: int) -> Choice:
    ranks = tuple(int(rank) for rank in found.ranks[index])
    return Choice(found.method, ranks, int(found.parameters[index]), int(found.macs[index]), float(found.errors[index]))


def by_rank(site: Site, every: Sequence[Options], rank: int) -> Choice | None:
    """The option of that rank with the least error (Tucker-2: of both ranks, or of all channels where there are fewer); None
    if none of them saves anything."""
    found = []
    for item in every:
        wanted = np.minimum(rank, site.kernel.shape[2:]) if item.method == TUCKER else np.array([rank])
        index = np.flatnonzero((item.ranks == wanted).all(axis=1))
        found += [_choice(item, int(index[0]))] if len(index) else []
    return min(found, key=lambda choice: choice.error, default=None)


def by_energy(every: Sequence[Options], energy: float) -> Choice | None:
    """The option with the fewest parameters that keeps that share of the kernel's squared values, or None."""
    found = [_choice(item, k) for item in every for k in _cheapest_within(item, 1 - energy)]
    return min(found, key=lambda choice: choice.parameters, default=None)


def _cheapest_within(item: Options, error: float) -> list[int]:
    enough = np.flatnonzero(item.errors <= error + 1e-12)
    return [int(enough[np.argmin(item.parameters[enough])])] if len(enough) else []


def by_size(
    sites: Mapping[str, Site], every: Mapping[str, Sequence[Options]], wanted: float
) -> dict[str, Choice | None]:
    """For each site an option, or None to leave it as it is, so that all their parameters together come to at most `wanted`
    with a small sum of errors; where even the smallest options are larger, those."""

    def at(price: float) -> dict[str, Choice | None]:
        return {
            name: _best(sites[name], every[name], lambda item: item.errors + price * item.parameters, price)
            for name in sites
        }

    low, high = 0, len(PRICES) - 1
    while low < high:
        middle = (low + high) // 2
        if _size(sites, at(PRICES[middle])) <= wanted:
            high = middle
        else:
            low = middle + 1
    chosen = at(PRICES[low])
    return _spend(sites, every, chosen, wanted - _size(sites, chosen))


def _size(sites: Mapping[str, Site], chosen: Mapping[str, Choice | None]) -> int:
    return sum(sites[name].parameters if choice is None else choice.parameters for name, choice in chosen.items())


def _best(site: Site, every: Sequence[Options], cost: Callable[[Options], Array], price: float) -> Choice | None:
    best, least = None, price * site.parameters
    for item in every:
        if len(item.ranks):
            values = cost(item)
            index = int(np.argmin(values))
            if values[index] < least:
                best, least = _choice(item, index), float(values[index])
    return best


def _spend(
    sites: Mapping[str, Site], every: Mapping[str, Sequence[Options]], chosen: dict[str, Choice | None], left: float
) -> dict[str, Choice | None]:
    """What the price left over, given to the layers with the largest errors first."""
    for name in sorted(chosen, key=lambda name: -(choice.error if (choice := chosen[name]) else 0.0)):
        now = chosen[name]
        if now is None:
            continue
        if now.parameters + left >= sites[name].parameters:
            left -= sites[name].parameters - now.parameters
            chosen[name] = None
            continue
        better = best_within(every[name], now.parameters + left)
        if better is not None and better.error < now.error:
            left -= better.parameters - now.parameters
            chosen[name] = better
    return chosen


def best_within(every: Sequence[Options], parameters: float) -> Choice | None:
    """The option of at most that many parameters with the least error."""
    found = []
    for item in every:
        fits = np.flatnonzero(item.parameters <= parameters)
        found += [_choice(item, int(fits[np.argmin(item.errors[fits])]))] if len(fits) else []
    return min(found, key=lambda choice: choice.error, default=None)
