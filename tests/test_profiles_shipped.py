"""Every device profile that ships: valid, documented, and true to itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.devices.facts.cores import core_name
from harness.devices.facts.socs import soc_name
from harness.errors import SpecError
from harness.profiles import DeviceProfile, load_profile, profile_from_data

FOLDER = Path(__file__).resolve().parent.parent / "device_profiles"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
PROMISED = {
    "local", "generic-ssh", "raspberry-pi-3", "raspberry-pi-4", "raspberry-pi-5", "raspberry-pi-zero-2", "jetson-orin-nano",
    "rock-5b", "generic-adb", "pixel-6", "pixel-8", "galaxy-s23", "galaxy-s24", "android-emulator", "qemu-arm64", "qemu-armhf",
    "qemu-x86-64",
}  # fmt: skip


def load(name: str) -> DeviceProfile:
    """A shipped profile; a template gets the one thing that it lacks."""
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    lacks_host = "transport: ssh" in text and "emulator:" not in text
    data = {"extends": str(FOLDER / f"{name}.yaml")} | ({"host": "board.example"} if lacks_host else {})
    return profile_from_data(data, Path("mine.yaml"))


def test_all_that_were_promised_are_there() -> None:
    assert set(NAMES) >= PROMISED


@pytest.mark.parametrize("name", NAMES)
def test_it_loads_and_says_what_it_is(name: str) -> None:
    profile = load(name)
    assert profile.description
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("#"), "say in a comment what the device is and what to give"


@pytest.mark.parametrize("name", NAMES)
def test_clusters_do_not_overlap_and_stand_slowest_first(name: str) -> None:
    clusters = load(name).clusters
    cpus = [cpu for cluster in clusters for cpu in cluster.cpus]
    assert sorted(cpus) == list(range(len(cpus)))
    speeds = [cluster.max_khz for cluster in clusters]
    assert speeds == sorted(speeds, key=lambda khz: khz or 0)


@pytest.mark.parametrize("name", NAMES)
def test_limits_make_sense(name: str) -> None:
    thermal = load(name).thermal
    if thermal.start_below_c is not None and thermal.limit_c is not None:
        assert 20 < thermal.start_below_c < thermal.limit_c < 110


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name.startswith(("raspberry", "jetson", "rock", "pixel", "galaxy"))]
)
def test_what_was_not_seen_on_hardware_says_so(name: str) -> None:
    assert "not verified on hardware" in load(name).description


def test_phones_load_as_they_are_and_boards_ask_for_a_host() -> None:
    assert load_profile("pixel-8").pinned_to == (4, 5, 6, 7)
    assert load_profile("galaxy-s24-exynos").power.current_scale == 1000
    with pytest.raises(SpecError, match="host"):
        load_profile("raspberry-pi-4")


def test_names_of_cores_and_chips() -> None:
    assert core_name(0x41, 0xD03) == "Cortex-A53"
    assert core_name(0x51, 0x001) == "Oryon"
    assert core_name(0x41, 0xFFF) == "implementer 0x41 part 0xfff"
    assert soc_name("sm8550", "QTI") == "Qualcomm SM8550 (Snapdragon 8 Gen 2)"
    assert soc_name("exynos2100") == "Samsung Exynos 2100"
    assert soc_name("rk3588", "rockchip") == "Rockchip RK3588"
    assert soc_name("Weird-1") == "Weird-1"
