"""The integer program of mixed precision: equal to trying every choice, within its budgets, and its counting of them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.compress.mixed_budget import (
    BITS,
    LATENCY,
    OPERATIONS,
    SIZE,
    Layer,
    Wish,
    make_problem,
    read_times,
)
from converters.compress.mixed_choose import Item, choose, lost, used
from converters.compress.mixed_report import as_csv, as_svg
from converters.compress.mixed_sensitivity import Sensitivities, divergence
from converters.errors import RefusedError

COSTS = st.floats(0, 100).map(lambda x: round(x, 3))


@st.composite
def programs(draw: Any) -> tuple[list[Item], dict[str, float]]:
    """One to five items of one to four options, two budgets; some follow the first."""
    items: list[Item] = []
    first = draw(st.integers(1, 3))
    for number in range(draw(st.integers(1, 5))):
        options = first if number == 0 else draw(st.integers(1, 4))
        some = st.lists(COSTS, min_size=options, max_size=options).map(np.array)
        uses = {name: draw(some) for name in ("time", "room") if draw(st.booleans())}
        follows = None
        if number and draw(st.booleans()):
            follows = (0, tuple(draw(st.lists(st.integers(0, first - 1), min_size=options, max_size=options))))
        items.append(Item(draw(some), uses, follows))
    return items, {name: draw(COSTS) * 2 for name in ("time", "room") if draw(st.booleans())}


def fits(items: list[Item], choice: tuple[int, ...], limits: dict[str, float]) -> bool:
    kept = all(used(items, choice, name) <= limit + 1e-9 for name, limit in limits.items())
    return kept and all(
        item.follows is None or item.follows[1][option] == choice[item.follows[0]]
        for item, option in zip(items, choice, strict=True)
    )


@settings(max_examples=60, deadline=None)
@given(programs())
def test_it_is_the_best_of_all_choices(program: tuple[list[Item], dict[str, float]]) -> None:
    items, limits = program
    every = itertools.product(*(range(len(item.losses)) for item in items))
    possible = [choice for choice in every if fits(items, choice, limits)]
    if not possible:
        with pytest.raises(ValueError, match="no choice keeps"):
            choose(items, limits)
        return
    best = min(lost(items, choice) for choice in possible)
    chosen = choose(items, limits)
    assert fits(items, tuple(chosen), limits)
    largest = max(float(item.losses.max()) for item in items)
    assert lost(items, chosen) == pytest.approx(best, abs=2e-6 * max(largest, 1))


def test_a_limit_that_is_met_exactly_is_kept_and_a_smaller_one_refused() -> None:
    weights = [100_003, 7, 50_021]
    items = [Item(np.array([0.0, float(n)]), {"bits": np.array([8.0 * n, 4.0 * n])}) for n in weights]
    assert choose(items, {"bits": 4.0 * sum(weights)}) == [1, 1, 1]
    # One weight's bits less than everything: the smallest layer pays.
    assert choose(items, {"bits": 8.0 * sum(weights) - 1}) == [0, 1, 0]
    with pytest.raises(ValueError, match=r"bits 600123 \(the least alone is 600124\)"):
        choose(items, {"bits": 4.0 * sum(weights) - 1})


LAYERS = (Layer("stem", 100, 1000, 5), Layer("head", 901, 10, None))
FOUND = Sensitivities({"stem": {8: 0.1, 4: 0.05, 2: 3.0}, "head": {8: 0.0, 4: 0.2, 2: 0.9}}, {5: 0.7}, 64)


def problem(activations: tuple[int, ...] = (8,), **wish: Any) -> Any:
    return make_problem(LAYERS, FOUND, (8, 4, 2), activations, Wish(**wish), 44)


def test_budgets_are_counted_in_their_own_units() -> None:
    made = problem(bits=4.0, size_bytes=600, bit_operations=0.5)
    assert made.limits == {BITS: 4.0, SIZE: 556.0, OPERATIONS: 0.5 * 1010 * 64}
    assert made.items[1].uses[SIZE].tolist() == [901, 451, 226]  # the last byte is begun
    assert made.items[0].uses[OPERATIONS].tolist() == [64_000, 32_000, 16_000]
    # What 8 bits lose more than 4 is noise of the measurement.
    assert made.items[0].losses.tolist() == [0.05, 0.05, 3.0]
    chosen = choose(made.items, made.limits)
    assert made.bits_of(chosen) == {"stem": 4, "head": 4}


def test_activations_are_chosen_with_the_layers_that_read_them() -> None:
    made = problem((16, 8), bit_operations=1.0)
    # 16 × 4 bits for the stem is what 8 × 8 cost, and 0.05 less lost than 0.7 more.
    chosen = choose(made.items, made.limits)
    assert made.bits_of(chosen) == {"stem": 4, "head": 8}
    assert made.wide(chosen) == {5}
    made = problem((16, 8), bit_operations=0.6)
    chosen = choose(made.items, made.limits)
    assert made.wide(chosen) == frozenset()
    unknown = (Layer("stem", 100, None),)
    with pytest.raises(RefusedError, match="bit_operations cannot be counted"):
        make_problem(unknown, FOUND, (8,), (8,), Wish(bit_operations=0.5), 0)


def test_a_latency_table_is_read_from_times_or_from_explain(tmp_path: Path) -> None:
    explained = {
        "variant": {"latency_ns": 9e6},
        "layers": [
            {"name": "m/stem/Conv2D;m/relu/Relu", "types": ["CONV_2D"], "time_ns": 5e6},
            {"name": "m/stems/Conv2D", "types": ["CONV_2D"], "time_ns": 1e6},
        ],
    }
    path = tmp_path / "times.json"
    path.write_text(json.dumps({"8": {"stem_1": 3.0, "m/head/x": 5.0, "stem_2x": 1.0}}), encoding="utf-8")
    times = read_times(path, ["stem", "head_raw"])
    assert (times.of("stem", 8), times.of("head_raw", 4), times.rest_ns) == (3.0, 5.0, 1.0)
    path.write_text(json.dumps({"8": explained, "4": {"stem": 2e6, "head": 5e5}}), encoding="utf-8")
    times = read_times(path, ["stem", "head"])
    assert times.rest_ns == 4e6
    assert [times.of("stem", bits) for bits in (8, 6, 4, 2)] == [5e6, 5e6, 2e6, 2e6]
    assert times.of("unknown", 8) == 0
    with pytest.raises(RefusedError, match="no time of head with 8 bits"):
        times.of("head", 8)
    made = make_problem(LAYERS[:1], FOUND, (8, 4), (8,), Wish(latency_ms=6.5, times=times), 0)
    assert made.limits[LATENCY] == pytest.approx(2.5)
    assert made.bits_of(choose(made.items, made.limits)) == {"stem": 4}
    for text, why in (("[1]", "cannot be read"), ('{"8": {"else": 1}}', "no layer of this model")):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(RefusedError, match=why):
            read_times(path, ["stem"])


def test_the_divergence_is_zero_for_equal_answers_and_counts_what_moved() -> None:
    rng = np.random.default_rng(0)
    logits, more = rng.normal(0, 2, (50, 4)), rng.normal(0, 1, (50, 3))
    for scores in ("logits", None):
        assert divergence([logits, more], [logits, more], scores=scores) == 0
        assert divergence([logits + 5, more], [logits, more], scores="logits") == pytest.approx(0, abs=1e-12)
    small, large = (divergence([logits + d * rng.normal(0, 1, (50, 4))], [logits], scores="logits") for d in (0.1, 1))
    assert 0 < small < large
    # Two classes as one logit, as one probability, and as two logits.
    one, moved = rng.normal(0, 2, (50, 1)), rng.normal(0, 2, (50, 1))
    both, both_moved = (np.concatenate([np.zeros_like(x), x], -1) for x in (one, moved))
    wanted = divergence([both_moved], [both], scores="logits")
    assert divergence([moved], [one], scores="logits") == pytest.approx(wanted)
    shares = [1 / (1 + np.exp(-x)) for x in (moved, one)]
    assert divergence([shares[0]], [shares[1]], scores="probabilities") == pytest.approx(wanted, rel=1e-6)
    assert divergence([more * 2], [more], scores=None) == pytest.approx(np.mean(more**2) / np.var(more))


def test_the_table_and_the_plot_frame_what_was_chosen() -> None:
    chosen = {"stem": 8, "head": 2}
    lines = as_csv(LAYERS, FOUND, chosen).splitlines()
    assert lines[0].split(",")[3:6] == ["bits", "divergence", "chosen"]
    assert [line.split(",")[:6] for line in lines if ",1,64" in line] == [
        ["stem", "100", "1000", "8", "0.1", "1"],
        ["head", "901", "10", "2", "0.9", "1"],
    ]
    svg = as_svg(LAYERS, FOUND, chosen, "a < b")
    assert svg.count('stroke="black"') == 2
    assert "a &lt; b" in svg
    assert svg.count("<rect") == 1 + 6
