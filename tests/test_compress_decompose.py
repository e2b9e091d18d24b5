"""Factorizations against numpy and brute force: the error is the tail's energy, falls with the rank, and is nil at full rank."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.compress import decompose, decompose_cp, ranks
from converters.compress.decompose import CP, SPATIAL_SVD, SVD, TUCKER
from converters.compress.ranks import Site

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))


def kernel_of(height: int, width: int, inputs: int, outputs: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((height, width, inputs, outputs))


def error_of(kernel: np.ndarray, method: str, *given_ranks: int) -> float:
    ways = {SVD: decompose.channel_svd, SPATIAL_SVD: decompose.spatial_svd, TUCKER: decompose.tucker2}
    return decompose.relative_error(kernel, decompose.multiplied(method, ways[method](kernel, *given_ranks)))


@settings(max_examples=25, deadline=None)
@given(SHAPES)
def test_svd_leaves_exactly_the_tail(shape):
    kernel = kernel_of(*shape)
    for method, matrix in ((SVD, decompose.channel_matrix), (SPATIAL_SVD, decompose.spatial_matrix)):
        found = np.linalg.svd(matrix(kernel), compute_uv=False)
        tails = decompose.tail_errors(found)
        errors = [error_of(kernel, method, rank) for rank in range(1, len(found) + 1)]
        np.testing.assert_allclose(errors, tails[1:], atol=1e-12)
        assert np.all(np.diff(errors) <= 1e-12)
        assert errors[-1] < 1e-20


@settings(max_examples=10, deadline=None)
@given(SHAPES)
def test_tucker_is_exact_at_full_rank_and_within_the_bound_of_hosvd(shape):
    kernel = kernel_of(*shape)
    _, _, inputs, outputs = kernel.shape
    assert error_of(kernel, TUCKER, inputs, outputs) < 1e-20
    tails_in, tails_out = decompose.mode_errors(kernel, 2), decompose.mode_errors(kernel, 3)
    for first, last in itertools.product(range(1, len(tails_in)), range(1, len(tails_out))):
        error = error_of(kernel, TUCKER, first, last)
        assert error <= tails_in[first] + tails_out[last] + 1e-12
        # No subspaces can lose less than cutting one mode alone does.
        assert error >= max(tails_in[first], tails_out[last]) - 1e-12


def test_hooi_improves_on_hosvd():
    kernel = kernel_of(3, 3, 12, 10, 1)
    basis_in = np.linalg.svd(decompose.unfold(kernel, 2), full_matrices=False)[0][:, :3]
    basis_out = np.linalg.svd(decompose.unfold(kernel, 3), full_matrices=False)[0][:, :3]
    core = np.einsum("hwio,ia,ob->hwab", kernel, basis_in, basis_out)
    hosvd = 1 - np.sum(core**2) / np.sum(kernel**2)
    assert error_of(kernel, TUCKER, 3, 3) < hosvd - 1e-3


def test_a_matrix_of_zeros_has_no_error():
    assert decompose.tail_errors(np.zeros(3)).tolist() == [0, 0, 0, 0]
    assert decompose.relative_error(np.zeros((1, 1, 2, 2)), np.zeros((1, 1, 2, 2))) == 0
    first, *rest = decompose_cp.cp(np.zeros((3, 3, 4, 4)), 2)
    assert first.shape == (1, 1, 4, 2)
    assert not any(np.any(item) for item in (first, *rest))


@pytest.mark.parametrize(("energy", "rank"), [(0.9, 1), (0.95, 2), (0.995, 2), (0.9999, 3)])
def test_rank_by_energy(energy, rank):
    assert decompose.rank_by_energy(decompose.tail_errors(np.sqrt([0.9, 0.096, 0.004])), energy) == rank


@pytest.mark.parametrize(("height", "width", "rank"), [(3, 3, 2), (5, 1, 3), (3, 3, 9)])
def test_cp_finds_a_sum_that_is_there(height, width, rank):
    rng = np.random.default_rng(3)
    parts = [rng.standard_normal((size, rank)) for size in (height, width, 10, 12)]
    kernel = np.einsum("hr,wr,ir,or->hwio", *parts)
    factors = decompose_cp.cp(kernel, rank)
    assert factors is not None
    assert decompose.relative_error(kernel, decompose.multiplied(CP, factors)) < 1e-3
    again = decompose_cp.cp(kernel, rank)
    assert all(np.array_equal(a, b) for a, b in zip(factors, again, strict=True))


def test_cp_gets_better_with_the_rank_and_shares_the_size_of_terms():
    kernel = kernel_of(3, 3, 8, 8, 5)
    errors = []
    for rank in (1, 4, 12, 30):
        factors = decompose_cp.cp(kernel, rank)
        errors.append(decompose.relative_error(kernel, decompose.multiplied(CP, factors)))
        norms = [np.linalg.norm(f.reshape(-1, rank), axis=0) for f in factors[:3]]
        np.testing.assert_allclose(norms[0], norms[1], rtol=1e-6)
        np.testing.assert_allclose(norms[0], norms[2], rtol=1e-6)
    assert np.all(np.diff(errors) < 0)
    assert errors[-1] < 0.2


def test_cp_without_a_sound_sum_is_none(monkeypatch):
    kernel = kernel_of(3, 3, 4, 4, 0)
    assert decompose_cp.cp(kernel, 3) is not None
    monkeypatch.setattr(decompose_cp, "DEGENERATE", 1e-3)  # terms as large as that are taken for cancelling ones
    assert decompose_cp.cp(kernel, 3) is None


def test_costs_count_factors_by_brute_force():
    kernel = kernel_of(3, 5, 4, 6, 0)
    site = Site(kernel, (1, 1), (10, 12), (10, 12))
    for method, given_ranks, factors in (
        (SVD, (2,), decompose.channel_svd(kernel, 2)),
        (SPATIAL_SVD, (2,), decompose.spatial_svd(kernel, 2)),
        (TUCKER, (2, 3), decompose.tucker2(kernel, 2, 3)),
        (CP, (2,), decompose_cp.cp(kernel, 2)),
    ):
        parameters, macs = ranks.costs(site, method, np.array([given_ranks]))
        assert parameters[0] == sum(f.size for f in factors)
        assert macs[0] == parameters[0] * 120


def test_a_stride_makes_what_stands_before_it_dear():
    site = Site(kernel_of(3, 3, 8, 8, 0), (2, 2), (8, 8), (4, 4))
    _, macs = ranks.costs(site, TUCKER, np.array([[8, 8]]))
    assert macs[0] == 64 * 64 + 16 * 9 * 64 + 16 * 64
    _, macs = ranks.costs(site, SPATIAL_SVD, np.array([[8]]))
    assert macs[0] == 4 * 8 * 3 * 64 + 16 * 3 * 64
    assert all(np.all(ranks.options(site, m).macs < site.macs) for m in (SVD, SPATIAL_SVD, TUCKER))


@settings(max_examples=20, deadline=None)
@given(st.lists(SHAPES, min_size=1, max_size=4), st.floats(0.2, 0.95))
def test_a_wanted_size_is_kept(shapes, ratio):
    sites = {str(k): Site(kernel_of(*shape)) for k, shape in enumerate(shapes)}
    every = {name: [ranks.options(site, m) for m in (SVD, SPATIAL_SVD, TUCKER)] for name, site in sites.items()}
    wanted = ratio * sum(site.parameters for site in sites.values())
    chosen = ranks.by_size(sites, every, wanted)
    sizes = [sites[name].parameters if c is None else c.parameters for name, c in chosen.items()]
    smallest = sum(
        min([sites[n].parameters, *(int(o.parameters.min()) for o in every[n] if len(o.ranks))]) for n in sites
    )
    assert sum(sizes) <= max(wanted, smallest)


def test_ranks_go_where_they_are_worth_most():
    rng = np.random.default_rng(0)
    low = rng.standard_normal((40, 2)) @ rng.standard_normal((2, 40)) + 0.01 * rng.standard_normal((40, 40))
    flat = np.linalg.qr(rng.standard_normal((40, 40)))[0]
    sites = {"low": Site(low[None, None]), "flat": Site(flat[None, None])}
    every = {name: [ranks.options(site, SVD)] for name, site in sites.items()}
    chosen = ranks.by_size(sites, every, 0.6 * 3200)
    assert chosen["flat"] is None
    assert 2 <= chosen["low"].ranks[0] <= 4


def test_rank_and_energy():
    site = Site(kernel_of(1, 1, 20, 20, 0))
    every = [ranks.options(site, SVD)]
    assert ranks.by_rank(site, every, 3).ranks == (3,)
    assert ranks.by_rank(site, every, 10) is None  # 2·20·10 is as much as 20·20
    thin = Site(kernel_of(3, 3, 4, 20, 0))
    assert ranks.by_rank(thin, [ranks.options(thin, TUCKER)], 6).ranks == (4, 6)
    choice = ranks.by_energy(every, 0.5)
    tails = decompose.tail_errors(np.linalg.svd(site.kernel[0, 0], compute_uv=False))
    assert choice.ranks == (decompose.rank_by_energy(tails, 0.5),)
    assert ranks.by_energy(every, 0.999) is None
