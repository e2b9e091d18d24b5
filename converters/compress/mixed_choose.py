"""Chooses one option for each of many items so that their losses add up to the least within given budgets: an integer program.

The solver of `converters.compress.mixed_precision`, and nothing of networks: items, what each option loses and uses, and limits. As in
HAWQ-V3 (Yao et al., arXiv:2011.10680, section 3.4); solved by HiGHS through `scipy.optimize.milp`, to optimality. numpy only at import.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
# Sums of float64 may exceed a limit that they meet exactly.
_ROUNDING = 1e-9
# HiGHS calls a limit kept that is exceeded by 1e-6 of it; a choice that makes use of that is sought again below it.
_TIGHTER = 2e-6


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """Something to choose for. `losses`: of each option, at least one. `uses`: of each option, by budget; a budget that is not named is
    not used. `follows`: the number of another item and, for each option, the option of that item with which alone it goes."""

    losses: Floats
    uses: Mapping[str, Floats] = field(default_factory=dict)
    follows: tuple[int, tuple[int, ...]] | None = None


def choose(items: Sequence[Item], limits: Mapping[str, float]) -> list[int]:
    """The number of the option chosen for each item: of all choices within the limits one whose losses add up to the least.

    Raises ValueError when no choice keeps them; the text names each budget's limit and the least that can be used of it.
    """
    limits = {name: limit for name, limit in limits.items() if any(name in item.uses for item in items)}
    share = 1.0
    for _ in range(3):
        chosen = _solved(items, limits, share)
        if chosen is None:
            break
        if all(used(items, chosen, name) <= limit * (1 + _ROUNDING) for name, limit in limits.items()):
            return chosen
        share -= _TIGHTER
    told = [f"{name} {limit:.10g} (the least alone is {least(items, name):.10g})" for name, limit in limits.items()]
    raise ValueError("no choice keeps " + " and ".join(told))


def used(items: Sequence[Item], chosen: Sequence[int], budget: str) -> float:
    """What a choice uses of a budget."""
    return float(
        sum(item.uses[budget][option] for item, option in zip(items, chosen, strict=True) if budget in item.uses)
    )


def lost(items: Sequence[Item], chosen: Sequence[int]) -> float:
    """The sum of a choice's losses."""
    return float(sum(item.losses[option] for item, option in zip(items, chosen, strict=True)))


def least(items: Sequence[Item], budget: str) -> float:
    """The least that any choice could use of one budget, whatever the others and whatever follows what."""
    return float(sum(np.min(item.uses[budget]) for item in items if budget in item.uses))


def _solved(items: Sequence[Item], limits: Mapping[str, float], share: float) -> list[int] | None:
    """The best choice that uses at most this share of each limit; None when there is none."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    begins = np.cumsum([0, *(len(item.losses) for item in items)])
    losses = np.concatenate([item.losses for item in items]).astype(np.float64)
    largest = float(np.abs(losses).max(initial=0)) or 1.0
    rows: list[Floats] = []
    low: list[float] = []
    high: list[float] = []

    def add(row: Floats, least_: float, most: float) -> None:
        rows.append(row)
        low.append(least_)
        high.append(most)

    for number, item in enumerate(items):
        own = slice(begins[number], begins[number + 1])
        row = np.zeros(len(losses))
        row[own] = 1
        add(row, 1, 1)
        if item.follows is not None:
            leader, goes_with = item.follows
            for option in range(len(items[leader].losses)):
                row = np.zeros(len(losses))
                row[own] = np.asarray(goes_with) == option
                row[begins[leader] + option] -= 1
                add(row, 0, 0)
    for name, limit in limits.items():
        row = np.concatenate([item.uses.get(name, np.zeros(len(item.losses))) for item in items]).astype(np.float64)
        # In units of the limit, where the solver's tolerances mean the same for bits and for bytes.
        unit = abs(limit) or 1.0
        add(row / unit, -np.inf, limit / unit - (1 - share))
    found = milp(
        losses / largest,
        constraints=LinearConstraint(np.stack(rows), np.array(low), np.array(high)),
        integrality=np.ones(len(losses)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    if found.x is None:
        return None
    return [int(np.argmax(found.x[begins[i] : begins[i + 1]])) for i in range(len(items))]
