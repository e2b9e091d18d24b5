"""Writes a convolution kernel as a sum of outer products (CP), by alternating least squares. Pure numpy.

Used by `converters.compress.factorize` beside `converters.compress.decompose`, whose conventions it keeps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from converters.compress.decompose import unfold

Array = npt.NDArray[Any]
ITERATIONS = 60
TOLERANCE = 1e-6
STARTS = 3
# A little ridge keeps components from growing against one another without bound, which plain ALS of CP is known for.
RIDGE = 1e-8
# Terms far larger than what they add up to cannot be trained, nor rounded to int8.
DEGENERATE = 1e3
# What one run of ALS may cost in multiply-accumulates: about a minute on one core.
AFFORDABLE = 2e11


def affordable(kernel: Array, rank: int) -> bool:
    """Whether ALS at that rank ends within about a minute on one core."""
    return kernel.size * rank * 4 * ITERATIONS <= AFFORDABLE


def cp(kernel: Array, rank: int, *, iterations: int = ITERATIONS) -> tuple[Array, ...] | None:
    """[height, width, in, out] → (1×1 [1, 1, in, rank], vertical [height, 1, rank, 1], horizontal [1, width, rank, 1],
    1×1 [1, 1, rank, out]), or None where no start led to a sound sum.

    Lebedev et al., arXiv:1412.6553. The same input gives the same factors: the first start is the leading singular vectors of
    each mode (filled up with seeded noise where the rank is larger), and seeded random starts follow only if that one failed:
    not finite, no better than zero, or with terms that cancel one another (degenerate).
    """
    tensor = np.asarray(kernel, np.float64)
    scale = float(np.sqrt(np.sum(tensor**2)))
    if scale == 0:
        return _as_layers([np.zeros((size, rank)) for size in tensor.shape])
    for start in range(STARTS):
        factors = _alternate(tensor / scale, _start(tensor, rank, start), iterations)
        if factors is not None:
            return _as_layers(_balanced(factors, scale))
    return None


def _start(tensor: Array, rank: int, number: int) -> list[Array]:
    rng = np.random.default_rng([number, rank])
    factors = []
    for mode, size in enumerate(tensor.shape):
        noise = rng.standard_normal((size, rank)) / np.sqrt(size)
        if number == 0:
            leading = np.linalg.svd(unfold(tensor, mode), full_matrices=False)[0][:, :rank]
            noise[:, : leading.shape[1]] = leading
        factors.append(noise)
    return factors


def _alternate(tensor: Array, factors: list[Array], iterations: int) -> list[Array] | None:
    """ALS on a tensor of norm 1. None where it failed."""
    letters = "hwio"
    error = 1.0
    for _ in range(iterations):
        for mode in range(len(factors)):
            others = [k for k in range(len(factors)) if k != mode]
            gram = np.prod([factors[k].T @ factors[k] for k in others], axis=0)
            terms = ",".join(f"{letters[k]}r" for k in others)
            product = np.einsum(
                f"{letters},{terms}->{letters[mode]}r", tensor, *(factors[k] for k in others), optimize=True
            )
            ridge = RIDGE * np.trace(gram) / len(gram) + 1e-300
            try:
                factors[mode] = np.linalg.solve(gram + ridge * np.eye(len(gram)), product.T).T
            except np.linalg.LinAlgError:  # a start that came to nothing; the caller has others
                return None
            if not np.isfinite(factors[mode]).all():
                return None
        # The last mode was solved exactly: ‖t − x‖² = ‖t‖² − 2⟨t, x⟩ + ‖x‖², of which everything is at hand.
        whole = float(np.sum(np.prod([f.T @ f for f in factors], axis=0)))
        before, error = error, 1 - 2 * float(np.sum(product * factors[-1])) + whole
        if abs(before - error) <= TOLERANCE:
            break
    largest = float(np.prod([np.linalg.norm(f, axis=0) for f in factors], axis=0).max())
    return factors if error < 1 and largest <= DEGENERATE else None


def _balanced(factors: list[Array], scale: float) -> list[Array]:
    """Each term's size shared evenly by the four factors, the kernel's own `scale` included."""
    norms = [np.maximum(np.linalg.norm(f, axis=0), 1e-300) for f in factors]
    share = (np.prod(norms, axis=0) * scale) ** (1 / len(factors))
    return [f / norm * share for f, norm in zip(factors, norms, strict=True)]


def _as_layers(factors: list[Array]) -> tuple[Array, ...]:
    height, width, inputs, outputs = factors
    return inputs[None, None], height[:, None, :, None], width[None, :, :, None], outputs.T[None, None]
