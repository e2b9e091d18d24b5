"""Sessions in SQL: what was measured goes in run by run and comes back exactly as it was.

Place in the flow: `harness.runner` writes, `harness.table` reads what `load` returns. One SQLite file by default, any
SQLAlchemy URL instead. A run is one transaction, on disk before `add_run` returns (SQLite: write-ahead log, every commit
synced), so a harness killed at any moment loses no finished run. Several processes may write at once: a writer waits up
to a minute for another. Importing this module imports SQLAlchemy; import it where it is used.

Schema of the database: `harness.store.tables`. Searches: `harness.store.studies`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from harness.errors import HarnessError, SpecError, StoreError
from harness.records import SETTLE, DeviceRecord, Reference, Run, Session, SessionData, VariantRecord
from harness.store import schema
from harness.store.codec import BlobError
from harness.store.engine import DEFAULT_PATH, file_url, hold, make_engine, prepare_file
from harness.store.tables import (
    ADDED,
    BLOCKS,
    DEVICES,
    EVALUATIONS,
    LOADS,
    METADATA,
    RUNS,
    SESSIONS,
    STORE_SCHEMA,
    VARIANTS,
    VERSION,
    columns_of,
)

_MOST_SUGGESTIONS = 5


@dataclass(frozen=True, slots=True)
class SessionSummary:
    """One line of the list of sessions; `runs` counts all runs, of any status."""

    id: str
    name: str
    created_at: str
    status: str
    harness_version: str
    variants: int
    devices: int
    runs: int


class Store:
    """Sessions in one database. Use `Store.open`; usable as a context manager; safe to share between threads."""

    def __init__(self, engine: sa.Engine, where: str) -> None:
        self._engine = engine
        self._where = where

    @classmethod
    def open(cls, url_or_path: str | Path = DEFAULT_PATH, *, create: bool = True) -> Self:
        """Open a database, making its file and tables where there are none (unless `create` is False).

        Raises SpecError for a missing file without `create`, a file that is no database of ours or is damaged, a
        database of a newer version, and a URL whose driver is not installed.
        """
        text = str(url_or_path)
        path = None if "://" in text else Path(url_or_path)
        if path is not None:
            prepare_file(path, create=create)
        try:
            url = sa.make_url(text) if path is None else file_url(path)
            where = url.render_as_string(hide_password=True) if path is None else str(path)
            engine = make_engine(url)
        except (ArgumentError, NoSuchModuleError) as error:
            raise SpecError(f"{text!r} is no store: {error}", remedy="give a path or an SQLAlchemy URL") from error
        except ModuleNotFoundError as error:
            package = "'ondevice-harness[postgres]'" if error.name == "psycopg" else error.name
            remedy = f"install the driver: pip install {package}"
            raise SpecError(f"the store {url.drivername} needs the package {error.name}", remedy=remedy) from error
        store = cls(engine, where)
        try:
            store._check_schema()
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        """Give back all connections."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Writing

    def add_session(
        self,
        session: Session,
        variants: Sequence[VariantRecord] = (),
        devices: Sequence[DeviceRecord] = (),
        reference: Reference | None = None,
    ) -> None:
        """Begin a session. Raises SpecError when its id is taken."""
        with self.writing(f"session {session.id!r} exists already") as connection:
            row = schema.session_row(session) | schema.reference_columns(reference)
            connection.execute(sa.insert(SESSIONS), row)
            for variant in variants:
                _put(connection, VARIANTS, session.id, variant.name, schema.variant_json(variant))
            for device in devices:
                _put(connection, DEVICES, session.id, device.name, schema.device_json(device))

    def add_variant(self, session_id: str, variant: VariantRecord) -> None:
        """Add a variant, or replace the one of the same name in its place."""
        with self.writing(f"there is no session {session_id!r}") as connection:
            _put(connection, VARIANTS, session_id, variant.name, schema.variant_json(variant))

    def add_device(self, session_id: str, device: DeviceRecord) -> None:
        """Add a device, or replace the one of the same name in its place."""
        with self.writing(f"there is no session {session_id!r}") as connection:
            _put(connection, DEVICES, session_id, device.name, schema.device_json(device))

    def add_run(self, run: Run) -> None:
        """Add a whole run in one transaction: after this returns, nothing short of a lost disk takes it away.

        Raises SpecError when the run's id is taken or its session does not exist, ValueError for samples that are not
        int64 or whose wall and CPU times differ in number.
        """
        parts = (
            (LOADS, [schema.load_row(run.id, i, load) for i, load in enumerate(run.loads)]),
            (BLOCKS, [schema.block_row(run.id, i, block) for i, block in enumerate(run.blocks)]),
            (EVALUATIONS, [schema.evaluation_row(run.id, i, item) for i, item in enumerate(run.evaluations)]),
        )
        with self.writing(f"run {run.id!r} exists already, or its session does not") as connection:
            upgrade(connection)
            position = _next_position(connection, RUNS, run.session_id)
            connection.execute(sa.insert(RUNS), schema.run_row(run) | {"position": position})
            for table, rows in parts:
                if rows:
                    connection.execute(sa.insert(table), rows)

    def finish_session(self, session_id: str, status: str) -> None:
        """Set a session's status: "done", "interrupted" or "failed". Raises SpecError when there is no such session."""
        with self.writing() as connection:
            found = connection.execute(sa.update(SESSIONS).where(SESSIONS.c.id == session_id).values(status=status))
            if found.rowcount == 0:
                raise SpecError(f"there is no session {session_id!r} in {self._where}")

    def delete_session(self, session_id: str) -> None:
        """Remove a session with all its runs. Raises SpecError when there is no such session."""
        with self.writing() as connection:
            if connection.execute(sa.delete(SESSIONS).where(SESSIONS.c.id == session_id)).rowcount == 0:
                raise SpecError(f"there is no session {session_id!r} in {self._where}")

    # Reading

    def session_ids(self) -> list[str]:
        """Ids of all sessions, newest first."""
        return [summary.id for summary in self.sessions()]

    def sessions(self) -> list[SessionSummary]:
        """All sessions, newest first."""

        def count(table: sa.Table) -> Any:
            return sa.select(sa.func.count()).where(table.c.session_id == SESSIONS.c.id).scalar_subquery()

        columns = [SESSIONS.c[name] for name in ("id", "name", "created_at", "status", "harness_version")]
        query = sa.select(*columns, count(VARIANTS), count(DEVICES), count(RUNS)).order_by(
            SESSIONS.c.created_at.desc(), SESSIONS.c.id.desc()
        )
        with self.reading() as connection:
            return [SessionSummary(*tuple(row)) for row in connection.execute(query)]

    def resolve(self, text: str) -> str:
        """The id meant by "latest", an id, a unique beginning of one, or a name (then the newest session of that name).

        Raises SpecError, with suggestions, when nothing or more than one session is meant.
        """
        sessions = self.sessions()
        if not sessions:
            raise SpecError(f"there are no sessions in {self._where}", remedy="measure something first")
        if text == "latest":
            return sessions[0].id
        ids = [item.id for item in sessions]
        if text in ids:
            return text
        for item in sessions:
            if item.name == text:
                return item.id
        found = [item for item in ids if text and item.startswith(text)]
        if len(found) == 1:
            return found[0]
        if found:
            raise SpecError(f"{text!r} begins {len(found)} sessions", remedy=f"did you mean {_one_of(found)}?")
        near = difflib.get_close_matches(
            text, [*ids, *(item.name for item in sessions)], n=_MOST_SUGGESTIONS, cutoff=0.5
        )
        remedy = f"did you mean {_one_of(near)}?" if near else f"there are {_one_of(ids)}, or 'latest'"
        raise SpecError(f"there is no session {text!r} in {self._where}", remedy=remedy)

    def load(self, session_id: str, *, settling: bool = True) -> SessionData:
        """Everything of a session; runs in the order in which they were added.

        Without `settling`, the blocks of phase "settle" are left where they are: half of all blocks, and no figure reads them.

        Raises SpecError when there is no such session or what is stored of it is damaged.
        """
        with self.reading() as connection:
            row = connection.execute(sa.select(SESSIONS).where(SESSIONS.c.id == session_id)).mappings().one_or_none()
            if row is None:
                raise SpecError(f"there is no session {session_id!r} in {self._where}")
            variants, devices = (
                connection.execute(
                    sa.select(table.c.document).where(table.c.session_id == session_id).order_by(table.c.position)
                ).scalars()
                for table in (VARIANTS, DEVICES)
            )
            try:
                return SessionData(
                    session=schema.session_from_row(row),
                    variants=tuple(schema.variant_from_json(text) for text in variants),
                    devices=tuple(schema.device_from_json(text) for text in devices),
                    runs=_runs(connection, session_id, settling=settling),
                    reference=schema.reference_from_row(row),
                )
            except (BlobError, KeyError, TypeError, ValueError) as error:
                raise SpecError(f"session {session_id!r} in {self._where} is damaged: {error}") from error

    # Inside

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection to read by, for the modules of this package."""
        with self._translated(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self, conflict: str = "") -> Iterator[sa.Connection]:
        """One transaction, for the modules of this package. SQLite's write lock is taken at once: one that begins by reading could not
        wait for it."""
        with self._translated(conflict), self._engine.connect() as plain:
            connection = plain.execution_options(harness_writes=True)
            with connection.begin():
                yield connection

    @contextmanager
    def _translated(self, conflict: str = "") -> Iterator[None]:
        """The database's errors in our words: what the user can put right is a SpecError."""
        try:
            yield
        except IntegrityError as error:
            raise SpecError(f"{conflict or error.orig} ({self._where})") from error
        except DBAPIError as error:
            raise self._error(str(error.orig)) from error
        except SQLAlchemyError as error:
            raise SpecError(f"the store {self._where} cannot be used: {error}") from error

    def _error(self, words: str) -> HarnessError:
        if "not a database" in words or "malformed" in words:
            return SpecError(f"{self._where} is no session store, or is damaged: {words}")
        if "full" in words or "disk I/O" in words:
            return StoreError(f"the store {self._where} cannot be written: {words}", remedy="free some space")
        if "readonly" in words or "unable to open" in words:
            return SpecError(f"the store {self._where} cannot be written: {words}", remedy="check its permissions")
        if "connection" in words and ("failed" in words or "refused" in words or "closed" in words):
            remedy = "is the server running, and may you connect to it?"
            return StoreError(
                f"the store {self._where} cannot be reached: {words.strip()}", remedy=remedy, transient=True
            )
        if "locked" in words:
            remedy = "another process holds it; try again"
            return StoreError(f"the store {self._where} is locked", remedy=remedy, transient=True)
        return SpecError(f"the store {self._where} cannot be used: {words}")

    def _check_schema(self) -> None:
        """Make the tables in an empty database; refuse one that is not ours or is newer than this harness."""
        with self.reading() as connection:
            tables = set(sa.inspect(connection).get_table_names())
        if VERSION.name not in tables:
            if tables & set(METADATA.tables):
                raise SpecError(f"{self._where} is a database, but not one of this harness")
            self._create()
        with self.reading() as connection:
            found = connection.execute(sa.select(VERSION.c.version)).scalars().all()
        if len(found) != 1:
            raise SpecError(f"{self._where} does not say which version of the store it is")
        if found[0] > STORE_SCHEMA:
            raise SpecError(
                f"{self._where} was written by a newer harness (store version {found[0]}, this one reads {STORE_SCHEMA})",
                remedy="update: pip install -U ondevice-harness",
            )

    def _create(self) -> None:
        with self.writing() as connection:
            # Two processes may both find the database empty; the write lock is held now, so look again.
            hold(connection)
            if VERSION.name in sa.inspect(connection).get_table_names():
                return
            METADATA.create_all(connection)
            connection.execute(sa.insert(VERSION), {"version": STORE_SCHEMA})


def copy_session(source: Store, target: Store, session_id: str) -> None:
    """Put a session of one store into another, as it is. Raises SpecError when its id is taken there; then nothing changes."""
    data = source.load(session_id)
    target.add_session(data.session, data.variants, data.devices, data.reference)
    try:
        for run in data.runs:
            target.add_run(run)
    except BaseException:
        target.delete_session(session_id)
        raise


# Part of a run → how its rows are read.
_PARTS: tuple[tuple[sa.Table, Callable[[schema.Row], Any]], ...] = (
    (LOADS, schema.load_from_row),
    (BLOCKS, schema.block_from_row),
    (EVALUATIONS, schema.evaluation_from_row),
)
# Rows fetched at a time: the stored bytes of a large session are never in memory all at once.
_FETCHED = 256


def _runs(connection: sa.Connection, session_id: str, *, settling: bool) -> tuple[Run, ...]:
    of_session = sa.select(RUNS.c.id).where(RUNS.c.session_id == session_id)
    version = version_of(connection)
    parts: list[dict[str, list[Any]]] = []
    for table, read in _PARTS:
        columns = columns_of(table, version)
        query = sa.select(*columns).where(table.c.run_id.in_(of_session)).order_by(table.c.run_id, table.c.position)
        if table is BLOCKS and not settling:
            query = query.where(BLOCKS.c.phase != SETTLE)
        by_run: dict[str, list[Any]] = {}
        # Closed at once even where a row is damaged: on a server the rows not yet fetched are kept for us.
        with connection.execute(query, execution_options={"yield_per": _FETCHED}) as found:
            for row in found.mappings():
                by_run.setdefault(row["run_id"], []).append(read(row))
        parts.append(by_run)
    query = sa.select(RUNS).where(RUNS.c.session_id == session_id).order_by(RUNS.c.position)
    return tuple(
        schema.run_from_rows(row, *(by_run.get(row["id"], []) for by_run in parts))
        for row in connection.execute(query).mappings()
    )


def version_of(connection: sa.Connection) -> int:
    """The version that wrote the store, or brought it up to date."""
    return int(connection.execute(sa.select(VERSION.c.version)).scalar_one())


def upgrade(connection: sa.Connection) -> None:
    """Bring a store of an older version up to this one, in the caller's transaction; what is stored stays as it is."""
    if version_of(connection) == STORE_SCHEMA:
        return
    # Two writers may both find the old version; the second waits here, and looks again.
    hold(connection)
    found = version_of(connection)
    METADATA.create_all(connection)
    for since, added in sorted(ADDED.items()):
        for table, name in added if since > found else ():
            kind = table.c[name].type.compile(connection.dialect)
            connection.execute(sa.text(f"ALTER TABLE {table.name} ADD COLUMN {name} {kind}"))
    connection.execute(sa.update(VERSION).values(version=STORE_SCHEMA))


def _put(connection: sa.Connection, table: sa.Table, session_id: str, name: str, document: str) -> None:
    mine = (table.c.session_id == session_id) & (table.c.name == name)
    if connection.execute(sa.update(table).where(mine).values(document=document)).rowcount == 0:
        position = _next_position(connection, table, session_id)
        row = {"session_id": session_id, "name": name, "position": position, "document": document}
        connection.execute(sa.insert(table), row)


def _next_position(connection: sa.Connection, table: sa.Table, session_id: str) -> int:
    # Who writes to the session next waits for this one to end (SQLite has but one writer anyway).
    connection.execute(sa.select(SESSIONS.c.id).where(SESSIONS.c.id == session_id).with_for_update())
    query = sa.select(sa.func.coalesce(sa.func.max(table.c.position), -1)).where(table.c.session_id == session_id)
    return int(connection.execute(query).scalar_one()) + 1


def _one_of(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_MOST_SUGGESTIONS])
    return shown if len(names) <= _MOST_SUGGESTIONS else f"{shown}, …"
