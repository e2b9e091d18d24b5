import mmap

import pytest

from harness.agent import memory

MIB = 1024 * 1024


def touch(size):
    held = mmap.mmap(-1, size)
    for place in range(0, size, mmap.PAGESIZE):
        held[place] = 1
    return held


@pytest.fixture
def peak():
    counter = memory.PeakCounter()
    counter.reset()
    if not counter.resettable:
        pytest.skip(f"this kernel does not let the high-water mark be set back: {counter.how}")
    return counter


@pytest.mark.parametrize("size", [64 * MIB, 256 * MIB])
def test_a_short_spike_is_caught_within_two_percent(peak, size):
    before = memory.resident_bytes()
    peak.reset()
    touch(size).close()
    assert abs(peak.read() - before - size) <= max(2 * MIB, 0.02 * size)
    assert memory.resident_bytes() - before < size / 2


def test_a_reset_forgets_what_was_before(peak):
    touch(64 * MIB).close()
    peak.reset()
    assert peak.read() - memory.resident_bytes() < 2 * MIB


def test_without_permission_the_mark_since_the_start_stands_in(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_CLEAR_REFS", tmp_path)  # a folder cannot be written
    counter = memory.PeakCounter()
    counter.reset()
    assert not counter.resettable
    assert "since the process began" in counter.how
    assert counter.read() >= memory.resident_bytes() - 2 * MIB

    monkeypatch.setattr(memory, "_STATUS", tmp_path / "missing")
    assert counter.read() == memory.max_resident_bytes()
    assert "ru_maxrss" in counter.how


def test_a_missing_value_has_its_reason(monkeypatch, tmp_path):
    report = memory.MemoryReport()
    report.put_resident("baseline")
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "missing")
    report.put_resident("after_load")
    assert report.values["baseline"] > MIB
    assert report.values["after_load"] is None
    assert "missing" in report.values["after_load_reason"]
