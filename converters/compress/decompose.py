"""Writes a matrix or a convolution kernel as a product of smaller ones: truncated SVD, spatial SVD and Tucker-2. Pure numpy.

Used by `converters.compress.factorize` through `converters.compress.ranks`, which chooses the ranks; CP has a module of its own,
`converters.compress.decompose_cp`. Kernels are [height, width, in, out]; a one-dimensional one has width 1, a dense layer's
matrix is a kernel of height and width 1. All arithmetic is float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
SVD, SPATIAL_SVD, TUCKER, CP = "svd", "spatial_svd", "tucker", "cp"
HOOI_ITERATIONS = 20
HOOI_TOLERANCE = 1e-7
# The axes of length 1 in the factors of CP.
_CP_AXES = ((0, 1), (1, 3), (0, 3), (0, 1))


def channel_matrix(kernel: Array) -> Array:
    """[height, width, in, out] → [height·width·in, out]: its low rank is a smaller convolution and a 1×1 one."""
    return np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1])


def spatial_matrix(kernel: Array) -> Array:
    """[height, width, in, out] → [height·in, width·out]: its low rank is a vertical and a horizontal convolution."""
    height, width, inputs, outputs = kernel.shape
    return np.asarray(kernel, np.float64).transpose(0, 2, 1, 3).reshape(height * inputs, width * outputs)


def tail_errors(singular_values: Array) -> Array:
    """Squared relative error of keeping 0, 1, … all of the singular values [n]: float64 [n + 1], from 1 down to 0.

    Eckart and Young, Psychometrika 1(3), 1936: the truncated SVD reaches it, and nothing of that rank is better.
    """
    energy = np.append(np.asarray(singular_values, np.float64) ** 2, 0.0)
    tails = energy[::-1].cumsum()[::-1]
    return np.asarray(tails / tails[0] if tails[0] > 0 else np.zeros_like(tails))


def rank_by_energy(errors: Array, energy: float) -> int:
    """The smallest rank, at least 1, whose share of the squared singular values is `energy` or more."""
    enough = np.flatnonzero(errors <= 1 - energy + 1e-12)
    return max(1, int(enough[0])) if len(enough) else len(errors) - 1


def truncated_svd(matrix: Array, rank: int) -> tuple[Array, Array]:
    """[m, n] → ([m, rank], [rank, n]), whose product is the nearest matrix of that rank.

    Denton et al., arXiv:1404.0736. Both share the singular values evenly, so that training moves them at like rates.
    """
    left, values, right = np.linalg.svd(np.asarray(matrix, np.float64), full_matrices=False)
    root = np.sqrt(values[:rank])
    return left[:, :rank] * root, root[:, None] * right[:rank]


def channel_svd(kernel: Array, rank: int) -> tuple[Array, Array]:
    """→ ([height, width, in, rank], [1, 1, rank, out]). For kernels of 1×1 (and dense layers) the plain SVD."""
    height, width, inputs, outputs = kernel.shape
    left, right = truncated_svd(channel_matrix(kernel), rank)
    return left.reshape(height, width, inputs, -1), right.reshape(1, 1, -1, outputs)


def spatial_svd(kernel: Array, rank: int) -> tuple[Array, Array]:
    """→ (vertical [height, 1, in, rank], horizontal [1, width, rank, out]). Jaderberg et al., arXiv:1405.3866, scheme 2,
    solved by SVD."""
    height, width, inputs, outputs = kernel.shape
    left, right = truncated_svd(spatial_matrix(kernel), rank)
    return left.reshape(height, 1, inputs, -1), right.reshape(-1, width, outputs).transpose(1, 0, 2)[None]


def unfold(tensor: Array, mode: int) -> Array:
    """The tensor as a matrix with one row per index of that mode."""
    return np.moveaxis(tensor, mode, 0).reshape(tensor.shape[mode], -1)


def mode_errors(kernel: Array, mode: int) -> Array:
    """`tail_errors` of one mode's unfolding: what cutting that mode alone costs."""
    return tail_errors(np.linalg.svd(unfold(np.asarray(kernel, np.float64), mode), compute_uv=False))


def tucker2(kernel: Array, rank_in: int, rank_out: int) -> tuple[Array, Array, Array]:
    """→ (1×1 [1, 1, in, rank_in], core [height, width, rank_in, rank_out], 1×1 [1, 1, rank_out, out]).

    Kim et al., arXiv:1511.06530 (Tucker-2 of a convolution); the factors by HOSVD, then improved by HOOI
    (De Lathauwer et al., SIAM J. Matrix Anal. Appl. 21(4), 2000) until the error stands still.
    """
    tensor = np.asarray(kernel, np.float64)
    basis_in, basis_out = _leading(tensor, 2, rank_in), _leading(tensor, 3, rank_out)
    kept = 0.0
    for _ in range(HOOI_ITERATIONS):
        basis_in = _leading(np.einsum("hwio,ob->hwib", tensor, basis_out), 2, rank_in)
        half = np.einsum("hwio,ia->hwao", tensor, basis_in)
        basis_out = _leading(half, 3, rank_out)
        # With orthonormal factors the core holds exactly the energy that is kept.
        before, kept = kept, float(np.sum(np.einsum("hwao,ob->hwab", half, basis_out) ** 2))
        if kept - before <= HOOI_TOLERANCE * max(kept, 1e-300):
            break
    core = np.einsum("hwio,ia,ob->hwab", tensor, basis_in, basis_out, optimize=True)
    return basis_in[None, None], core, basis_out.T[None, None]


def _leading(tensor: Array, mode: int, rank: int) -> Array:
    """The leading left singular vectors [size of the mode, rank] of an unfolding."""
    left = np.linalg.svd(unfold(tensor, mode), full_matrices=False)[0]
    return left[:, :rank]


def multiplied(method: str, factors: tuple[Array, ...]) -> Array:
    """The kernel [height, width, in, out] that the factors of `method` stand for."""
    found: Array
    if method == SVD:
        found = np.einsum("hwir,ro->hwio", factors[0], factors[1][0, 0])
    elif method == SPATIAL_SVD:
        found = np.einsum("hir,wro->hwio", factors[0][:, 0], factors[1][0])
    elif method == TUCKER:
        found = np.einsum("ia,hwab,bo->hwio", factors[0][0, 0], factors[1], factors[2][0, 0], optimize=True)
    else:
        first, vertical, horizontal, last = (f.squeeze(axis) for f, axis in zip(factors, _CP_AXES, strict=True))
        found = np.einsum("ir,hr,wr,ro->hwio", first, vertical, horizontal, last, optimize=True)
    return found


def relative_error(kernel: Array, found: Array) -> float:
    """‖kernel − found‖² / ‖kernel‖² (0 for a kernel of zeros that is met)."""
    whole = float(np.sum(np.asarray(kernel, np.float64) ** 2))
    off = float(np.sum((np.asarray(kernel, np.float64) - found) ** 2))
    return off / whole if whole > 0 else off
