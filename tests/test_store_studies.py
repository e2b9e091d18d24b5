"""Trials outlive their process: what was tried is never tried again, and what a dead process left is taken up once."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from converters.search.trial import Candidate, Outcome, Rung, Trial
from harness.errors import SpecError
from harness.store import Store
from harness.store.studies import (
    SqlMemory,
    StudyRecord,
    add_study,
    load_study,
    resolve_study,
    studies,
)

ROOT = Path(__file__).resolve().parent.parent
STUDY = StudyRecord("20260101-000000-shop-search-ab12", "shop", "f" * 64, {"objectives": ["accuracy"]})


def candidate(number: int) -> Candidate:
    return Candidate(
        {"ratio": number / 10, "recipe": "prune({ratio})"}, f"prune({number / 10}) @ tflite", f"key{number}"
    )


@pytest.fixture
def where(tmp_path: Path) -> str:
    """An empty place for a store. test_store_postgres runs the same tests with a database of a server here."""
    return str(tmp_path / "harness.sqlite")


@pytest.fixture
def store(where: str) -> Iterator[Store]:
    with Store.open(where) as opened:
        add_study(opened, STUDY)
        yield opened


def ended(number: int, found: Candidate) -> Trial:
    metrics = {"accuracy": 0.9, "latency_ns": 1.5e6, "macs": None}
    outcome = Outcome("complete", metrics, {"macs": "no layers"}, {"latency_ns": (1.4e6, 1.6e6)}, None, "m.tflite.x")
    return Trial(number, found, outcome, 1.0, 12.5, "m.tflite.x", (Rung(0.25, {"accuracy": 0.8}),))


def test_a_trial_comes_back_as_it_was(store: Store) -> None:
    memory = SqlMemory(store, STUDY.id)
    assert memory.begin(candidate(0)) == 0
    (begun,) = memory.trials()
    assert (begun.outcome.state, begun.fidelity, begun.candidate) == ("running", 0.0, candidate(0))
    rung = dataclasses.replace(begun, rungs=(Rung(0.25, {"accuracy": 0.8}),), seconds=3.0)
    memory.note(rung)
    assert memory.trials() == [rung]
    memory.end(ended(0, candidate(0)))
    assert memory.trials() == [ended(0, candidate(0))]


def test_a_candidate_is_begun_once(store: Store) -> None:
    memory, other = SqlMemory(store, STUDY.id), SqlMemory(store, STUDY.id)
    assert memory.begin(candidate(0)) == 0
    assert other.begin(candidate(0)) is None
    assert other.begin(candidate(1)) == 1
    with pytest.raises(SpecError, match="no study 'nowhere'"):
        SqlMemory(store, "nowhere").begin(candidate(0))
    with pytest.raises(SpecError, match="no trial 7"):
        memory.end(ended(7, candidate(7)))


def test_threads_never_share_a_number(where: str, store: Store) -> None:
    del store
    numbers: list[int | None] = []

    def work(first: int) -> None:
        with Store.open(where) as mine:
            memory = SqlMemory(mine, STUDY.id)
            numbers.extend(memory.begin(candidate(each)) for each in range(first, first + 6))

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 3, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    begun = [number for number in numbers if number is not None]
    assert sorted(begun) == list(range(12))
    assert numbers.count(None) == 6


def test_what_still_runs_is_not_adopted_and_what_was_released_is_once(store: Store) -> None:
    with SqlMemory(store, STUDY.id) as memory:
        memory.begin(candidate(0))
        memory.begin(candidate(1))
        memory.end(ended(1, candidate(1)))
        assert SqlMemory(store, STUDY.id).adopt() == []
    heir, late = SqlMemory(store, STUDY.id), SqlMemory(store, STUDY.id)
    assert [trial.number for trial in heir.adopt()] == [0]
    assert late.adopt() == []


DIES = """
import os, sys
sys.path.insert(0, "tests")
from harness.store import Store
from harness.store.studies import SqlMemory
from test_store_studies import STUDY, candidate, ended
memory = SqlMemory(Store.open(sys.argv[1]), STUDY.id)
memory.begin(candidate(0))
memory.end(ended(0, candidate(0)))
memory.begin(candidate(1))
os.kill(os.getpid(), 9)
"""


def test_a_killed_process_leaves_its_trial_to_the_next(where: str, store: Store) -> None:
    mine = SqlMemory(store, STUDY.id)
    assert subprocess.run([sys.executable, "-c", DIES, where], cwd=ROOT, check=False).returncode == -9
    assert mine.begin(candidate(0)) is None
    assert mine.begin(candidate(1)) is None
    assert [trial.candidate for trial in mine.adopt()] == [candidate(1)]
    mine.end(ended(1, candidate(1)))
    assert [trial.outcome.state for trial in mine.trials()] == ["complete", "complete"]


def test_studies_are_listed_and_found(store: Store) -> None:
    SqlMemory(store, STUDY.id).begin(candidate(0))
    add_study(store, dataclasses.replace(STUDY, id="20260102-000000-shop-search-cd34", created_at="2999"))
    assert [(item.id[:8], dict(item.states)) for item in studies(store)] == [
        ("20260102", {}),
        ("20260101", {"running": 1}),
    ]
    assert load_study(store, STUDY.id).document == STUDY.document
    assert resolve_study(store, "latest") == resolve_study(store, "shop") == "20260102-000000-shop-search-cd34"
    assert resolve_study(store, "20260101") == STUDY.id
    with pytest.raises(SpecError, match="begins 2 studies"):
        resolve_study(store, "202601")
    with pytest.raises(SpecError, match=r"no study 'shpo'.*did you mean 'shop'"):
        resolve_study(store, "shpo")
    with pytest.raises(SpecError, match="exists already"):
        add_study(store, STUDY)
    with pytest.raises(SpecError, match="no study 'x'"):
        load_study(store, "x")
