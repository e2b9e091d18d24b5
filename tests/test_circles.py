"""Which runs would be made in turns, and why some cannot be. The turns themselves: tests/test_together.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from harness.plan import LatencyJob
from harness.session.together import MeetingPlaces, circles


def device(name: str, *, host: str | None = "h", **changes: Any) -> Any:
    facts = {"cpus": 4, "memory_available_bytes": 1000} | changes.pop("facts", {})
    profile = SimpleNamespace(name=name, **({"emulated": False, "counts_instructions": False} | changes))
    return SimpleNamespace(profile=profile, record=SimpleNamespace(host_id=host, facts=facts))


def job(where: str, engine: str) -> LatencyJob:
    return LatencyJob(where, engine, 0, ("v",), (("v",),))


def test_all_engines_and_devices_of_a_machine_are_a_circle() -> None:
    devices = {
        "local": device("local"),
        "ssh": device("ssh"),
        "board": device("board", host="other"),
        "guest": device("guest", emulated=True),
        "unknown": device("unknown", host=None),
    }
    jobs = [job(name, engine) for engine in ("litert", "onnxruntime") for name in devices]
    found = [{(item.device, item.engine) for item in circle} for circle in circles(jobs, devices)]
    engines = ("litert", "onnxruntime")
    assert found == [
        {(name, engine) for engine in engines for name in ("local", "ssh")},
        *({(name, engine) for engine in engines} for name in ("board", "guest", "unknown")),
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"counts_instructions": True}, "counts instructions"),
        ({"emulated": True}, "is emulated"),
        ({"facts": {"cpus": 1}}, "one core"),
        ({"facts": {"cpus": None}}, "one core"),
        ({"facts": {"memory_available_bytes": 600}}, "all engines at once need 500 bytes"),
    ],
)
def test_where_turns_cannot_be_taken_it_says_why(changes: dict[str, Any], words: str) -> None:
    places = MeetingPlaces()
    places._found[frozenset({"good", "bad"})] = "/folder"
    assert places.why_not([device("good"), device("bad")], 500) is None
    assert words in str(places.why_not([device("good"), device("bad", **changes)], 500))
    places._found[frozenset({"good", "bad"})] = None
    assert "named pipes" in str(places.why_not([device("good"), device("bad")], 500))
