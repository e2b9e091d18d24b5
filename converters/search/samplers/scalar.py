"""Several objectives and constraints as one figure, for samplers that look for the best of one.

Under `gaussian` and `tensor_train`. The augmented Chebyshev sum (Knowles, 2006, doi:10.1109/TEVC.2005.851274): unlike a weighted sum it
reaches the hollow parts of a front too. Pure functions; standard library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from converters.search.front import Point

# Weight of the plain sum, which tells apart points that are equal in their worst objective.
AUGMENTATION = 0.05


@dataclass(frozen=True, slots=True)
class Scale:
    """Of each objective the smallest figure and the spread, so that all can be compared."""

    low: Point
    spread: Point

    def normal(self, point: Point) -> Point:
        """The point, in shares of the spread above the smallest."""
        return tuple((value - low) / spread for value, low, spread in zip(point, self.low, self.spread, strict=True))


def scale_of(points: Sequence[Point]) -> Scale:
    """The scale of these points, at least one; a figure that is the same in all has the spread 1."""
    columns = list(zip(*points, strict=True))
    spreads = tuple(max(column) - min(column) or 1.0 for column in columns)
    return Scale(tuple(map(min, columns)), spreads)


def chebyshev(point: Point, weights: Sequence[float]) -> float:
    """The largest weighted objective and a little of the sum of all; of one objective its own figure, scaled. `point`: normal."""
    weighted = [weight * value for weight, value in zip(weights, point, strict=True)]
    return max(weighted) + AUGMENTATION * sum(weighted)
