"""What devices say, and what must be made of it: one JSON file per case in tests/golden/facts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.devices.facts.summary import describe
from harness.devices.facts.words import battery_words, cluster_words, cpu_list, recorded

CASES = sorted((Path(__file__).parent / "golden" / "facts").glob("*.json"))


def texts_of(case: Mapping[str, Any]) -> dict[str, str]:
    return {name: text if isinstance(text, str) else "\n".join(text) for name, text in case["texts"].items()}


def load(name: str) -> dict[str, Any]:
    path = next(path for path in CASES if path.stem == name)
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["facts"]
    return facts


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_facts(path: Path) -> None:
    case = json.loads(path.read_text(encoding="utf-8"))
    assert describe(texts_of(case), case["reasons"]) == case["facts"]


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_facts_of_texts_with_the_line_ends_of_a_terminal(path: Path) -> None:
    """Shells of old Androids put a carriage return at each line's end; `look` takes it away, the parsers must not mind blanks."""
    case = json.loads(path.read_text(encoding="utf-8"))
    padded = {name: text + "\n\n" for name, text in texts_of(case).items()}
    assert describe(padded, case["reasons"]) == case["facts"]


def test_there_are_enough_of_all_kinds() -> None:
    names = [path.stem for path in CASES]
    assert len(names) >= 40
    for version in range(5, 17):
        assert any(name.startswith(f"android-{version:02d}-") for name in names), f"no Android {version}"


@pytest.mark.parametrize(
    ("name", "clusters"),
    [
        ("android-14-pixel-8", ["4 × Cortex-A510", "4 × Cortex-A715", "1 × Cortex-X3"]),
        ("rock-5b", ["4 × Cortex-A55", "2 × Cortex-A76", "2 × Cortex-A76"]),
        ("jetson-orin-nano", ["6 × Cortex-A78AE"]),
        ("laptop-hybrid", ["8 × E-core", "8 × P-core"]),
        ("android-06-xperia-z5-compact", ["4 × Cortex-A53", "4 × Cortex-A57"]),
        ("raspberry-pi-3b", ["4 × Cortex-A53"]),
    ],
)
def test_clusters_by_hand(name: str, clusters: list[str]) -> None:
    assert [cluster_words(entry).split(" up to ")[0] for entry in load(name)["clusters"]] == clusters


def test_what_is_no_temperature_is_none() -> None:
    shown = {sensor["name"] for sensor in load("android-10-pixel-3a")["temperatures"]}
    assert shown.isdisjoint({"lmh-dcvs-00", "pm660l-vbat-lvl0", "ibat-high", "vbat", "soc", "pa-therm0-adc"})
    assert load("android-10-pixel-3a")["temperature_sensor"] == "cpu0-gold-usr"
    assert "PMIC-Die" not in {sensor["name"] for sensor in load("jetson-nano")["temperatures"]}
    assert "cv0-thermal" not in {sensor["name"] for sensor in load("jetson-orin-nano")["temperatures"]}


def test_what_is_hidden_is_said() -> None:
    assert load("android-13-galaxy-s23")["unreadable"]["battery gauge"] == "permission denied"
    assert load("laptop-thinkpad-t480")["unreadable"] == {"rapl": "permission denied"}
    assert "current_ua" not in load("android-12-realme-dimensity")["battery"]  # 345 of what?
    assert "battery" not in load("desktop-ryzen")
    assert "battery" not in load("android-11-tv-box")


def test_lies_are_called_so() -> None:
    assert load("android-14-pixel-8-unplugged-by-hand")["battery"]["updates_stopped"] is True
    assert battery_words(load("android-14-pixel-8-unplugged-by-hand")["battery"]) == "83 % charging (set by hand)"
    assert load("android-14-pixel-8-thermal-by-hand")["thermal_status_overridden"] is True


def test_words() -> None:
    assert cpu_list([0, 1, 2, 3]) == "0-3"
    assert cpu_list([0, 2, 3, 7]) == "0,2-3,7"
    assert cpu_list([]) == ""
    kept = recorded(load("rock-5b"))
    assert kept["clusters"]["CPU 4-5"] == "2 × Cortex-A76 up to 2.35 GHz"
    assert "temperatures" not in kept
