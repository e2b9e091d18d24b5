"""Stopping when the verdict pleases must not make it wrong more often: A/A and the hardest cases, with the rule that really stops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from stopping_lab import AT_DIFFERENCE, AT_EQUIVALENCE, NOISES, RULES, SAME, pair, rates, verdict

from harness.stats import compare

TRIALS = 400
# Three standard errors of a true 5 % over that many trials.
LIMIT = 0.05 + 3 * math.sqrt(0.05 * 0.95 / TRIALS)


def test_the_lab_takes_the_ratio_that_comparisons_take() -> None:
    made = pair("normal", 1.1, 6, np.random.default_rng(1))
    ratios = [compare.run_log_ratio(a, b) for a, b in zip(made.candidate, made.base, strict=True)]
    assert np.allclose(np.median(np.log(made.candidate / made.base), axis=1), ratios)
    assert verdict(RULES["verdict 6–12"], made) == ("slower", 6)


@pytest.mark.stats
@pytest.mark.slow
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("rule", ["verdict 6–12", "verdict 6–48"])
def test_false_verdicts_stay_within_five_percent(rule: str, noise: str) -> None:
    same = rates(RULES[rule], noise, SAME, TRIALS, 20261122)
    assert same["false"] / TRIALS <= 0.05
    for ratio in (AT_DIFFERENCE, AT_EQUIVALENCE):
        assert rates(RULES[rule], noise, ratio, TRIALS, 20261122)["false"] / TRIALS <= LIMIT


@pytest.mark.stats
@pytest.mark.slow
def test_plain_intervals_at_every_look_would_not() -> None:
    """The control: without the adjustment the same rule is wrong more often than it may be."""
    rule = RULES["verdict 6–48"]
    honest = rates(rule, "run effect 3 %", AT_DIFFERENCE, TRIALS, 7)
    plain = rates(rule, "run effect 3 %", AT_DIFFERENCE, TRIALS, 7, honest=False)
    assert plain["false"] > 2 * honest["false"]
    assert plain["false"] / TRIALS > 0.05


@pytest.mark.stats
@pytest.mark.slow
def test_what_is_far_off_stops_at_the_first_look_and_is_found() -> None:
    found = rates(RULES["verdict 6–48"], "run effect 3 %", 3.0, TRIALS, 3)
    assert found["slower"] == TRIALS
    assert found["runs"] == 6 * TRIALS
