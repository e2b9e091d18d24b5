"""A verdict in a sentence, and the number of runs that an open one is said to need: held against simulated further runs."""

from __future__ import annotations

import numpy as np
import pytest

from harness.compare.verdicts import MOST_RUNS, explain, further_runs
from harness.stats.compare import Comparison, holm, paired


def of(mean: float, spread: float, n: int = 6, seed: int = 0) -> Comparison:
    """A comparison of `n` log ratios with exactly this mean and standard deviation."""
    values = np.random.default_rng(seed).normal(size=n)
    values = (values - values.mean()) / values.std(ddof=1)
    return paired(list(mean + spread * values))


def test_settled_verdicts_name_their_bound() -> None:
    assert explain(of(-0.5, 0.01)) == "the interval [0.600–0.613] lies wholly below 0.99"
    assert "wholly above 1.01" in explain(of(0.5, 0.01))
    assert "wholly between 0.98 and 1.02" in explain(of(0.0, 0.005))
    assert further_runs(of(0.5, 0.01)) == 0


def test_an_open_verdict_says_how_many_runs_would_settle_it() -> None:
    found = of(0.03, 0.04)
    more = further_runs(found)
    assert more is not None
    assert explain(found) == (
        f"the interval [{found.low:.3f}–{found.high:.3f}] is too wide: it may be faster, the same or slower; "
        f"about {more} more runs would settle it"
    )
    # With so many more runs of the same mean and scatter it is settled; with half of them it is not.
    assert paired_of(0.03, 0.04, 6 + more) == "slower"
    assert paired_of(0.03, 0.04, 6 + more // 2 - 2) == "inconclusive"


def paired_of(mean: float, spread: float, n: int) -> str:
    return of(mean, spread, n).verdict


def test_holm_asks_for_more_runs_than_a_comparison_alone() -> None:
    alone, among = further_runs(of(0.03, 0.04)), further_runs(of(0.03, 0.04), family=12)
    assert alone is not None
    assert among is not None
    assert among > alone
    taken_back = holm([of(0.03, 0.018), *(of(0.0, 0.2) for _ in range(11))])[0]
    assert "not after Holm's correction" in explain(taken_back, 12)
    assert "would settle it" in explain(taken_back, 12)


def test_a_ratio_at_a_bound_is_not_promised_a_verdict() -> None:
    # In the middle between ±1 % and ±2 % each claim is half a point away; this scatter would need thousands of runs.
    found = of(0.0149, 0.12)
    assert further_runs(found) is None
    assert "hardly be settled" in explain(found)
    assert MOST_RUNS >= 100


def test_too_few_runs_say_how_many_give_an_interval() -> None:
    assert explain(of(0.0, 0.1, n=2)).endswith("1 more run would give one")
    none = Comparison(None, None, None, 0, None, None, "inconclusive", "no latency run of it ended")
    assert further_runs(none) is None
    assert explain(none) == "no latency run of it ended"


@pytest.mark.parametrize(("mean", "said"), [(-0.011, "faster or the same"), (0.011, "slower or the same")])
def test_it_says_what_the_interval_leaves_open(mean: float, said: str) -> None:
    assert said in explain(of(mean, 0.012))
