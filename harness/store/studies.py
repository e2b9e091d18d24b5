"""Searches in SQL: studies and their trials, so that a search that was killed goes on and repeats nothing.

Beside `harness.store`, whose database it uses; `harness.tune` and `harness search` write, reports read. A trial is on disk before it
begins to cost anything. The same candidate cannot be begun twice in a study, whichever processes try; one that a killed process
left running is handed to whoever asks for it first. Importing this module imports SQLAlchemy; import it where it is used.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import platform
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import sqlalchemy as sa

from converters.search.trial import Candidate, Outcome, Rung, Trial
from harness import __version__
from harness.devices.preflight.journal import process_started
from harness.errors import SpecError
from harness.store import Store, upgrade, version_of
from harness.store.schema import dump
from harness.store.tables import STUDIES, TRIALS

RUNNING = "running"
_SINCE = 3
# Nobody can look at the processes of another host: what it began longer ago than this is taken for lost.
_ELSEWHERE = timedelta(days=1)
_MOST_SUGGESTIONS = 5


@dataclass(frozen=True, slots=True)
class StudyRecord:
    """One search. `content_sha256`: of all that decides what its trials mean. `document`: what was searched, how and by what, JSON types."""

    id: str
    name: str
    content_sha256: str
    document: Mapping[str, Any]
    created_at: str = ""
    harness_version: str = __version__


@dataclass(frozen=True, slots=True)
class StudySummary:
    """One line of the list of studies; `states`: how many trials are in each state."""

    id: str
    name: str
    created_at: str
    states: Mapping[str, int]


def add_study(store: Store, study: StudyRecord) -> None:
    """Begin a study. Raises SpecError when its id is taken."""
    row = {
        "id": study.id,
        "name": study.name,
        "created_at": study.created_at or _now(),
        "harness_version": study.harness_version,
        "content_sha256": study.content_sha256,
        "document": dump(study.document),
    }
    with store.writing(f"study {study.id!r} exists already") as connection:
        upgrade(connection)
        connection.execute(sa.insert(STUDIES), row)


def load_study(store: Store, study_id: str) -> StudyRecord:
    """A study by its id. Raises SpecError when there is none."""
    with store.reading() as connection:
        query = sa.select(STUDIES).where(STUDIES.c.id == study_id)
        row = connection.execute(query).mappings().one_or_none() if version_of(connection) >= _SINCE else None
    if row is None:
        raise SpecError(f"there is no study {study_id!r}")
    plain = {name: row[name] for name in ("id", "name", "created_at", "harness_version", "content_sha256")}
    return StudyRecord(**plain, document=json.loads(row["document"]))


def studies(store: Store) -> list[StudySummary]:
    """All studies, newest first; none in a store that is older than searches are."""
    with store.reading() as connection:
        if version_of(connection) < _SINCE:
            return []
        query = sa.select(TRIALS.c.study_id, TRIALS.c.state, sa.func.count()).group_by(
            TRIALS.c.study_id, TRIALS.c.state
        )
        counts: dict[str, dict[str, int]] = {}
        for study_id, state, count in connection.execute(query):
            counts.setdefault(study_id, {})[state] = count
        order = (STUDIES.c.created_at.desc(), STUDIES.c.id.desc())
        found = connection.execute(sa.select(STUDIES.c.id, STUDIES.c.name, STUDIES.c.created_at).order_by(*order))
        return [StudySummary(id_, name, at, counts.get(id_, {})) for id_, name, at in found]


def resolve_study(store: Store, text: str) -> str:
    """The id meant by "latest", an id, a unique beginning of one, or a name (then the newest study of that name).

    Raises SpecError, with suggestions, when nothing or more than one study is meant.
    """
    found = studies(store)
    if not found:
        raise SpecError("there are no studies in the store", remedy="begin one: `harness search EXPERIMENT.yaml`")
    ids = [item.id for item in found]
    if text == "latest":
        return ids[0]
    exact = [item.id for item in found if text in (item.id, item.name)]
    begun = exact[:1] or [item for item in ids if text and item.startswith(text)]
    if len(begun) == 1:
        return begun[0]
    near = begun or difflib.get_close_matches(
        text, [*ids, *(item.name for item in found)], n=_MOST_SUGGESTIONS, cutoff=0.5
    )
    shown = ", ".join(repr(item) for item in near[:_MOST_SUGGESTIONS])
    words = f"{text!r} begins {len(begun)} studies" if begun else f"there is no study {text!r}"
    raise SpecError(
        words, remedy=f"did you mean {shown}?" if near else f"there are {', '.join(ids[:_MOST_SUGGESTIONS])}"
    )


class SqlMemory:
    """The trials of one study: `converters.search.trial.Memory` in SQL. Use it as a context manager: at its end the trials that are still
    running here are let go, for whoever goes on with the study. Safe to share between threads."""

    def __init__(self, store: Store, study_id: str) -> None:
        self._store = store
        self._study = study_id
        self._mine: set[int] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def trials(self) -> list[Trial]:
        """All trials so far, by number; those that are being tried, here or elsewhere, have the state "running"."""
        query = sa.select(TRIALS).where(TRIALS.c.study_id == self._study).order_by(TRIALS.c.number)
        with self._store.reading() as connection:
            return [_trial(row) for row in connection.execute(query).mappings()]

    def adopt(self) -> list[Trial]:
        """Take over the running trials whose process is dead; each is given to one caller only."""
        query = sa.select(TRIALS).where(TRIALS.c.study_id == self._study, TRIALS.c.state == RUNNING)
        with self._store.writing() as connection:
            self._hold(connection)
            found = [row for row in connection.execute(query.order_by(TRIALS.c.number)).mappings() if not _alive(row)]
            for row in found:
                connection.execute(self._one(row["number"]).values(**_process(), started_at=_now()))
        with self._lock:
            self._mine |= {row["number"] for row in found}
        return [_trial(row) for row in found]

    def begin(self, candidate: Candidate) -> int | None:
        """Write down that this candidate is being tried, and give its number; None when its key is there already."""
        mine = TRIALS.c.study_id == self._study
        with self._store.writing(f"there is no study {self._study!r}") as connection:
            self._hold(connection)
            if connection.execute(sa.select(TRIALS.c.number).where(mine, TRIALS.c.key == candidate.key)).first():
                return None
            highest = connection.execute(sa.select(sa.func.coalesce(sa.func.max(TRIALS.c.number), -1)).where(mine))
            number = int(highest.scalar_one()) + 1
            row = {"study_id": self._study, "number": number, "key": candidate.key, "recipe": candidate.recipe}
            row |= {"state": RUNNING, "started_at": _now(), "ended_at": None, **_process()}
            trial = Trial(number, candidate, Outcome("running"), 0.0)
            connection.execute(sa.insert(TRIALS), row | {"document": dump(_document(trial))})
        with self._lock:
            self._mine.add(number)
        return number

    def note(self, trial: Trial) -> None:
        """Write down what a trial that goes on has come to."""
        self._write(trial, ended_at=None)

    def end(self, trial: Trial) -> None:
        """Write down what came of it in the end."""
        self._write(trial, ended_at=_now())
        with self._lock:
            self._mine.discard(trial.number)

    def release(self) -> None:
        """Let go of the trials that are still running here: no process tries them now."""
        with self._lock:
            left, self._mine = sorted(self._mine), set()
        if left:
            mine = (TRIALS.c.study_id == self._study) & TRIALS.c.number.in_(left) & (TRIALS.c.state == RUNNING)
            with self._store.writing() as connection:
                connection.execute(sa.update(TRIALS).where(mine).values(pid=0, pid_started=""))

    def _write(self, trial: Trial, *, ended_at: str | None) -> None:
        values = {"state": trial.outcome.state, "ended_at": ended_at, "document": dump(_document(trial))}
        with self._store.writing() as connection:
            if connection.execute(self._one(trial.number).values(**values)).rowcount == 0:
                raise SpecError(f"study {self._study!r} has no trial {trial.number}")

    def _one(self, number: int) -> sa.Update:
        return sa.update(TRIALS).where(TRIALS.c.study_id == self._study, TRIALS.c.number == number)

    def _hold(self, connection: sa.Connection) -> None:
        """Who numbers or adopts trials of this study next waits for us to end (SQLite has but one writer anyway)."""
        connection.execute(sa.select(STUDIES.c.id).where(STUDIES.c.id == self._study).with_for_update())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _process() -> dict[str, Any]:
    return {"host": platform.node(), "pid": os.getpid(), "pid_started": process_started(os.getpid())}


def _alive(row: Mapping[Any, Any]) -> bool:
    """Whether the process that tries it still runs, as far as can be told from here."""
    if not row["pid"]:
        return False
    if row["host"] == platform.node():
        return process_started(row["pid"]) == str(row["pid_started"])
    return datetime.now(UTC) - datetime.fromisoformat(row["started_at"]) < _ELSEWHERE


def _document(trial: Trial) -> dict[str, Any]:
    """What has no column of its own, as JSON types."""
    outcome = dataclasses.asdict(trial.outcome)
    return {
        "values": dict(trial.candidate.values),
        **{key: outcome[key] for key in ("metrics", "reasons", "intervals", "error")},
        "fidelity": trial.fidelity,
        "seconds": trial.seconds,
        "variant": trial.variant,
        "rungs": [dataclasses.asdict(rung) for rung in trial.rungs],
    }


def _trial(row: Mapping[Any, Any]) -> Trial:
    """Inverse of `_document` and the row's columns."""
    data = json.loads(row["document"])
    outcome = Outcome(
        state=row["state"],
        metrics=data["metrics"],
        reasons=data["reasons"],
        intervals={name: (low, high) for name, (low, high) in data["intervals"].items()},
        error=data["error"],
        variant=data["variant"],
    )
    return Trial(
        number=row["number"],
        candidate=Candidate(data["values"], row["recipe"], row["key"]),
        outcome=outcome,
        fidelity=data["fidelity"],
        seconds=data["seconds"],
        variant=data["variant"],
        rungs=_rungs(data["rungs"]),
    )


def _rungs(data: Sequence[Mapping[str, Any]]) -> tuple[Rung, ...]:
    return tuple(Rung(item["fidelity"], item["metrics"]) for item in data)
