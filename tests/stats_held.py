"""Property tests of the statistics: 2,000 cases each, and a list of which public function is held against what.

`held(function, "what it is held against", …strategies)` makes a test function a property test and puts it on the list;
test_stats_properties_table.py holds the list against the package and against docs/statistics.md, which is made from it:

    python tests/stats_held.py
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import harness.stats

CASES = 2000
PAGE = Path(__file__).resolve().parent.parent / "docs" / "statistics.md"
SEEDS = st.integers(0, 2**32 - 1)
# Public function ("module.name") → what it is held against.
HELD: dict[str, str] = {}
# Functions of harness.stats that compute no statistic.
NO_STATISTIC = {
    "attribution.role_of": "a word for a type of operator",
    "attribution.match_layers": "pairs operators by their names and order",
    "looks.looks_of": "reads two numbers of a protocol",
}
_TESTS = ("test_stats_properties", "test_stats_properties_time")


def held(name: str, against: str, **strategies: st.SearchStrategy[Any]) -> Callable[[Any], Any]:
    """Mark a test as the property test of `name`: 2,000 cases, part of the `stats` tests."""
    HELD[name] = against

    def mark(test: Any) -> Any:
        quick = settings(max_examples=CASES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        return pytest.mark.stats(quick(given(**strategies)(test)))

    return mark


def numbers(seed: int, n: int, *, low: float = 1.0) -> np.ndarray:
    """float64 [n], ≥ `low`, of one of six kinds: normal, lognormal, uniform, full of ties, all equal, with far outliers."""
    rng = np.random.default_rng(seed)
    kinds = (
        lambda: rng.normal(100.0, 5.0, n),
        lambda: 50.0 * rng.lognormal(0.0, 0.7, n),
        lambda: rng.uniform(1.0, 1e6, n),
        lambda: rng.integers(1, 5, n) * 10.0,
        lambda: np.full(n, 42.0),
        lambda: np.where(rng.random(n) < 0.1, 1e9, rng.normal(1e3, 10.0, n)),
    )
    return np.maximum(kinds[seed % len(kinds)](), low)


def public() -> set[str]:
    """Every public function of harness.stats."""
    found = set()
    for module in pkgutil.iter_modules(harness.stats.__path__):
        loaded = importlib.import_module(f"harness.stats.{module.name}")
        for name, value in vars(loaded).items():
            inner = inspect.unwrap(value) if callable(value) else value
            if inspect.isfunction(inner) and inner.__module__ == loaded.__name__ and not name.startswith("_"):
                found.add(f"{module.name}.{name}")
    return found


def page() -> str:
    """docs/statistics.md."""
    for name in _TESTS:
        importlib.import_module(name)
    lines = [
        "# What each statistic is held against",
        "",
        f"Every public function of `harness/stats` has a property test (`pytest -m stats`) of {CASES:,} random cases: sizes from one up, ties, constants,",
        "outliers. It is held against scipy, or against the plainest possible writing of its definition. A test fails when a function is missing here.",
        "How the intervals cover, and how often drift is found, is simulated apart (`scripts/fidelity G3 G7`).",
        "",
        "| function | held against |",
        "| --- | --- |",
        *(f"| `{name}` | {HELD[name]} |" for name in sorted(HELD)),
        "",
        "Without a property test, because they compute no statistic: "
        + "; ".join(f"`{name}` ({why})" for name, why in sorted(NO_STATISTIC.items()))
        + ".",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    # The tests import this file by its own name, so that there is one list.
    sys.path.insert(0, str(Path(__file__).parent))
    PAGE.write_text(importlib.import_module("stats_held").page(), encoding="utf-8")
