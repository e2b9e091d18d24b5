import gc
import time

import pytest

from harness.agent.sampling import capacity_for, loop_cost, take, undisturbed

MS = 1_000_000


def counting():
    calls = []
    return calls, lambda: calls.append(1)


def test_both_minima_must_be_met():
    _, invoke = counting()
    samples = take(invoke, time.thread_time_ns, min_samples=7, min_ns=0, max_ns=10**12)
    assert samples.count == 7
    samples = take(lambda: time.sleep(0.002), time.thread_time_ns, min_samples=1, min_ns=9 * MS, max_ns=10**12)
    assert 1 <= samples.count <= 5  # nine milliseconds of at least two each
    assert sum(samples.wall_ns()) <= 9 * MS + max(samples.wall_ns())


def test_the_longest_time_ends_a_block_but_gives_at_least_one_sample():
    _, invoke = counting()
    assert take(invoke, time.thread_time_ns, min_samples=100, min_ns=10**12, max_ns=0).count == 1


def test_every_call_is_a_sample_in_time_order_beyond_the_first_capacity():
    calls, invoke = counting()
    samples = take(invoke, time.thread_time_ns, min_samples=1000, min_ns=0, max_ns=10**12, capacity=8)
    assert len(calls) == samples.count == len(samples.wall_ns()) == len(samples.cpu_ns()) == 1000
    assert min(samples.wall_ns()) > 0
    assert samples.stopped_by is None

    durations = iter([0.001, 0.006, 0.001])
    sleeps = take(lambda: time.sleep(next(durations)), time.thread_time_ns, min_samples=3, min_ns=0, max_ns=10**12)
    assert sleeps.wall_ns()[1] >= 6 * MS


def test_waiting_costs_wall_time_but_no_cpu_time():
    samples = take(lambda: time.sleep(0.005), time.thread_time_ns, min_samples=2, min_ns=0, max_ns=10**12)
    assert min(samples.wall_ns()) >= 5 * MS
    assert max(samples.cpu_ns()) < 4 * MS


def test_samples_before_a_failure_are_kept():
    calls, count = counting()

    def invoke():
        count()
        if len(calls) == 4:
            raise RuntimeError("fourth")

    samples = take(invoke, time.thread_time_ns, min_samples=10, min_ns=0, max_ns=10**12)
    assert samples.count == 3
    assert str(samples.stopped_by) == "fourth"


def test_garbage_waits_until_the_measurement_is_over():
    assert gc.isenabled()
    with undisturbed():
        assert not gc.isenabled()
        assert gc.get_freeze_count() > 0
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_the_loop_reports_its_own_cost():
    cost = loop_cost(time.thread_time_ns)
    assert set(cost) == {"wall_ns", "cpu_ns", "loop_ns", "reading_ns"}
    assert 0 < cost["wall_ns"] <= cost["loop_ns"]
    assert cost["reading_ns"] > 0


def test_short_samples_share_one_reading_of_the_cpu_clock_and_long_ones_have_their_own():
    now = time.perf_counter_ns
    calls = 0

    def clock():
        nonlocal calls
        calls += 1
        return 1_000_000 * calls

    def lasting(ns):
        def invoke():
            until = now() + ns
            while now() < until:
                pass

        return invoke

    short = take(lasting(2_000), clock, min_samples=200, min_ns=0, max_ns=10**12)
    assert calls < 100
    # What is shared out is no more than what was read, less the rounding of each share.
    assert 1_000_000 * (calls - 1) - 200 <= sum(short.cpu_ns()) <= 1_000_000 * (calls - 1)
    calls = 0
    longer = take(lasting(150_000), clock, min_samples=5, min_ns=0, max_ns=10**12)
    assert calls == 6
    assert longer.cpu_ns() == [1_000_000] * 5


@pytest.mark.parametrize(("shortest", "least"), [(10**9, 20), (10_000, 10_000)])
def test_room_is_made_for_the_expected_samples(shortest, least):
    assert least <= capacity_for(5, 100 * MS, shortest) <= 2 * least
