"""Several makers of compressed models: each step once, shared beginnings first, failures told to all chains behind them."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given, settings
from hypothesis import strategies as st

from converters.chains import Chain
from converters.step_order import StepOrder
from converters.steps import make_step

STEP = make_step("entropy")


def chain(*keys: str) -> Chain:
    return Chain((STEP,) * len(keys), keys)


def tree(paths: list[str]) -> list[Chain]:
    """Chains of texts: the address of a step is the text so far."""
    return [chain(*(path[: end + 1] for end in range(len(path)))) for path in paths]


def test_a_shared_beginning_is_made_once_and_waited_for() -> None:
    order = StepOrder(tree(["ab", "ac", "d"]), threading.Event())
    first, second = order.take(), order.take()
    assert first is not None
    assert second is not None
    # The second chain waits for the first's beginning; the third does not.
    assert (first[0].keys[first[1]], second[0].keys[second[1]]) == ("a", "d")
    assert [ended.key for ended in order.settle("d", failed=False)] == ["d"]
    found: list[str] = []

    def waiting() -> None:
        while (taken := order.take()) is not None:
            found.append(taken[0].keys[taken[1]])
            order.settle(found[-1], failed=False)

    thread = threading.Thread(target=waiting)
    thread.start()
    time.sleep(0.05)
    assert found == []
    assert order.settle("a", failed=False) == []
    thread.join(10)
    assert found == ["ab", "ac"]


def test_a_failure_ends_all_chains_behind_it_and_no_other() -> None:
    order = StepOrder(tree(["abc", "abd", "ae"]), threading.Event())
    for key in ("a", "ab"):
        taken = order.take()
        assert taken is not None
        assert taken[0].keys[taken[1]] == key
        ended = order.settle(key, failed=key == "ab")
    assert [each.key for each in ended] == ["abc", "abd"]
    taken = order.take()
    assert taken is not None
    assert taken[0].key == "ae"
    assert taken[1] == 1


def test_a_stop_ends_the_waiting() -> None:
    stop = threading.Event()
    order = StepOrder(tree(["ab"]), stop)
    assert order.take() is not None
    threading.Timer(0.05, stop.set).start()
    assert order.take() is None


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=6, unique=True), st.integers(1, 4))
def test_every_step_is_made_once_after_the_one_before_it(paths: list[str], makers: int) -> None:
    chains, made, ended, lock = tree(paths), [], [], threading.Lock()
    order = StepOrder(chains, threading.Event())

    def make() -> None:
        while (taken := order.take()) is not None:
            key = taken[0].keys[taken[1]]
            with lock:
                assert key[:-1] == "" or key[:-1] in made
                made.append(key)
            done = order.settle(key, failed=False)
            with lock:
                ended.extend(each.key for each in done)

    with ThreadPoolExecutor(makers) as pool:
        for future in [pool.submit(make) for _ in range(makers)]:
            future.result()
    assert sorted(made) == sorted({key for each in chains for key in each.keys})
    assert sorted(ended) == sorted(each.key for each in chains)
