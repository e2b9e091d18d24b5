"""No statistic without a property test, and the documented list is the true one."""

from __future__ import annotations

import stats_held


def test_every_public_function_is_held_against_something() -> None:
    documented = stats_held.page()
    assert stats_held.public() - set(stats_held.HELD) - set(stats_held.NO_STATISTIC) == set()
    assert set(stats_held.HELD) | set(stats_held.NO_STATISTIC) <= stats_held.public()
    assert stats_held.CASES >= 2000
    assert stats_held.PAGE.read_text(encoding="utf-8") == documented, "python tests/stats_held.py"
