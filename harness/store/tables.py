"""The store's tables.

Below `harness.store` and `harness.store.studies`, which read and write them; how records become rows is `harness.store.schema`'s.

Schema history (STORE_SCHEMA). A store is brought up to date by the first run or study written to it; until then it is read as it is.
  1  first: session, variant, device, run, load, block, evaluation.
  2  samples take two fifths less: byte planes, CPU times against wall times (the first kind is still read, block by block);
     block.document holds what blocks came to know later, such as counters (absent: nothing).
  3  searches: study and trial.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

STORE_SCHEMA = 3

METADATA = sa.MetaData()
_TEXT = sa.Text
_BIG = sa.BigInteger


def _document(name: str = "document") -> sa.Column[Any]:
    return sa.Column(name, _TEXT, nullable=False)


def _of_session() -> sa.Column[Any]:
    return sa.Column("session_id", sa.ForeignKey("session.id", ondelete="CASCADE"), primary_key=True)


def _of_run() -> tuple[sa.Column[Any], sa.Column[Any]]:
    parent = sa.ForeignKey("run.id", ondelete="CASCADE")
    return sa.Column("run_id", parent, primary_key=True), sa.Column("position", sa.Integer, primary_key=True)


VERSION = sa.Table("harness_store", METADATA, sa.Column("version", sa.Integer, primary_key=True))
SESSIONS = sa.Table(
    "session",
    METADATA,
    sa.Column("id", _TEXT, primary_key=True),
    sa.Column("name", _TEXT, nullable=False, index=True),
    sa.Column("created_at", _TEXT, nullable=False, index=True),
    sa.Column("harness_version", _TEXT, nullable=False),
    sa.Column("seed", _BIG, nullable=False),
    sa.Column("status", _TEXT, nullable=False),
    sa.Column("schema_version", sa.Integer, nullable=False),
    _document("protocol"),
    _document("experiment"),
    _document("environment"),
    sa.Column("reference", _TEXT),
    sa.Column("labels", sa.LargeBinary),
    sa.Column("base_top", sa.LargeBinary),
    sa.Column("base_outputs", sa.LargeBinary),
)
VARIANTS, DEVICES = (
    sa.Table(
        name,
        METADATA,
        _of_session(),
        sa.Column("name", _TEXT, primary_key=True),
        sa.Column("position", sa.Integer, nullable=False),
        _document(),
    )
    for name in ("variant", "device")
)
RUNS = sa.Table(
    "run",
    METADATA,
    sa.Column("id", _TEXT, primary_key=True),
    sa.Column("session_id", sa.ForeignKey("session.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("device", _TEXT, nullable=False),
    sa.Column("engine", _TEXT, nullable=False),
    sa.Column("kind", _TEXT, nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("started_at", _TEXT, nullable=False),
    sa.Column("duration_s", sa.Double, nullable=False),
    sa.Column("status", _TEXT, nullable=False),
    _document(),
)
LOADS = sa.Table(
    "load",
    METADATA,
    *_of_run(),
    sa.Column("variant", _TEXT, nullable=False),
    sa.Column("load_ns", _BIG, nullable=False),
    sa.Column("first_inference_ns", _BIG),
    _document(),
)
BLOCKS = sa.Table(
    "block",
    METADATA,
    *_of_run(),
    sa.Column("variant", _TEXT, nullable=False),
    sa.Column("round_index", sa.Integer, nullable=False),
    sa.Column("phase", _TEXT, nullable=False),
    sa.Column("started_ns", _BIG, nullable=False),
    sa.Column("cpu_clock", _TEXT, nullable=False),
    sa.Column("samples", sa.Integer, nullable=False),
    sa.Column("wall_ns", sa.LargeBinary, nullable=False),
    sa.Column("cpu_ns", sa.LargeBinary, nullable=False),
    sa.Column("document", _TEXT),
)
EVALUATIONS = sa.Table(
    "evaluation",
    METADATA,
    *_of_run(),
    sa.Column("variant", _TEXT, nullable=False),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("outputs_sha256", _TEXT, nullable=False),
    _document("arrays"),
    sa.Column("top", sa.LargeBinary),
    sa.Column("outputs", sa.LargeBinary),
)
STUDIES = sa.Table(
    "study",
    METADATA,
    sa.Column("id", _TEXT, primary_key=True),
    sa.Column("name", _TEXT, nullable=False, index=True),
    sa.Column("created_at", _TEXT, nullable=False, index=True),
    sa.Column("harness_version", _TEXT, nullable=False),
    # Of all that decides what a trial means: only a study of the same may be gone on with.
    sa.Column("content_sha256", _TEXT, nullable=False),
    _document(),
)
TRIALS = sa.Table(
    "trial",
    METADATA,
    sa.Column("study_id", sa.ForeignKey("study.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("key", _TEXT, nullable=False),
    sa.Column("recipe", _TEXT, nullable=False),
    sa.Column("state", _TEXT, nullable=False),
    # The process that tries it, or tried it.
    sa.Column("host", _TEXT, nullable=False),
    sa.Column("pid", _BIG, nullable=False),
    sa.Column("pid_started", _TEXT, nullable=False),
    sa.Column("started_at", _TEXT, nullable=False),
    sa.Column("ended_at", _TEXT),
    _document(),
    sa.UniqueConstraint("study_id", "key"),
)


# Columns that a store of an older version does not have: that version → (table, column).
ADDED: dict[int, tuple[tuple[sa.Table, str], ...]] = {2: ((BLOCKS, "document"),)}


def columns_of(table: sa.Table, version: int) -> list[sa.Column[Any]]:
    """The columns that a table has in a store of that version."""
    missing = {name for since, added in ADDED.items() if since > version for owner, name in added if owner is table}
    return [column for column in table.columns if column.name not in missing]
