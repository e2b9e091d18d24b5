import mmap

import pytest

from harness.agent import memory
from harness.agent.accelerator import accelerator_bytes, parse_smi

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


def test_a_mark_that_cannot_be_set_back_still_tells_of_the_phase_in_which_it_rose(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_CLEAR_REFS", tmp_path)  # a folder cannot be written
    mark = tmp_path / "status"
    monkeypatch.setattr(memory, "_STATUS", mark)

    def at(high_kb, resident_kb):
        mark.write_text(f"VmHWM:\t{high_kb} kB\nVmRSS:\t{resident_kb} kB\n")

    at(900, 500)
    found = memory.ProbeMemory()
    at(900, 600)
    found.end("load")
    at(2000, 700)
    found.end("first")
    at(2000, 700)
    found.end("steady")
    values = found.close({"arena_bytes": 5}, (None, "no accelerator"))
    assert (values["load_peak"], values["first_peak"], values["steady_peak"]) == (None, 2000 * 1024, None)
    assert "did not rise" in values["load_peak_reason"]
    assert (values["peak"], values["inference_peak"], values["after_load"]) == (2000 * 1024, 2000 * 1024, 600 * 1024)
    assert (values["arena"], values["accelerator"], values["accelerator_reason"]) == (5, None, "no accelerator")


def test_a_spike_belongs_to_its_own_phase(peak):
    found = memory.ProbeMemory()
    touch(16 * MIB).close()
    found.end("load")
    held = touch(32 * MIB)
    found.end("first")
    held.close()
    found.end("steady")
    values = found.close({}, (7, "a driver"))
    grown = {phase: values[f"{phase}_peak"] - values["baseline"] for phase in ("load", "first", "steady")}
    assert abs(grown["load"] - 16 * MIB) <= 2 * MIB
    assert abs(grown["first"] - 32 * MIB) <= 2 * MIB
    assert values["after_first"] - values["after_load"] > 30 * MIB
    assert values["after_steady"] - values["baseline"] < 4 * MIB
    assert values["peak"] == values["first_peak"]
    assert values["accelerator_how"] == "a driver"


def test_the_proportional_set_is_read_or_has_its_reason(monkeypatch, tmp_path):
    rollup = tmp_path / "smaps_rollup"
    rollup.write_text("00-ff ---p 0 00:00 0 [rollup]\nRss:  1720 kB\nPss:  249 kB\nPss_Dirty: 1 kB\n")
    monkeypatch.setattr(memory, "_ROLLUP", rollup)
    report = memory.MemoryReport()
    report.put_proportional("pss")
    rollup.unlink()
    report.put_proportional("later")
    assert report.values["pss"] == 249 * 1024
    assert report.values["later"] is None
    assert "smaps_rollup" in report.values["later_reason"]


DRM = "pos:\t0\ndrm-driver:\tpanfrost\ndrm-client-id:\t{client}\n{lines}"


def drivers(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return accelerator_bytes(str(root), pid=42)


@pytest.mark.parametrize(
    ("files", "value", "word"),
    [
        ({}, None, "no accelerator's driver"),
        ({"proc/self/fdinfo/3": "pos:\t0\n"}, None, "no accelerator's driver"),
        (
            {  # the same client twice, as a program has it that duplicates its descriptor
                "proc/self/fdinfo/3": DRM.format(
                    client=7, lines="drm-total-memory:\t900 KiB\ndrm-resident-memory:\t64 KiB\n"
                ),
                "proc/self/fdinfo/4": DRM.format(
                    client=7, lines="drm-total-memory:\t900 KiB\ndrm-resident-memory:\t64 KiB\n"
                ),
                "proc/self/fdinfo/5": DRM.format(client=8, lines="drm-memory-vram:\t1 MiB\ndrm-memory-gtt:\t512\n"),
            },
            64 * 1024 + MIB + 512,
            "DRM",
        ),
        ({"sys/class/kgsl/kgsl/proc/42/kernel": "123456\n"}, 123456, "KGSL"),
        ({"sys/class/kgsl/kgsl/proc/43/kernel": "123456\n"}, None, "no accelerator's driver"),
        ({"sys/class/misc/mali0/device/kprcs/42/total_gpu_mem": "4096\n"}, 4096, "Mali"),
        ({"sys/class/misc/mali0/device/kprcs/42/total_gpu_mem": "\n"}, None, "Mali: "),
    ],
)
def test_the_memory_that_a_driver_holds_for_the_process(tmp_path, files, value, word):
    found, words = drivers(tmp_path, files)
    assert found == value
    assert word in words


def test_nvidias_list_of_processes():
    assert parse_smi("17, 12\n42, 305\n", 42) == 305 * MIB
    assert parse_smi("17, 12\n", 42) is None
    assert parse_smi("42, [N/A]\n", 42) is None
