"""How a store's database is reached: which file or URL, and what SQLite is told when a connection begins.

Below `harness.store`. SQLite: write-ahead log, every commit synced, a minute's patience for other writers. PostgreSQL: as its
server is set up. Importing this module imports SQLAlchemy; import it where it is used.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from harness.errors import SpecError

DEFAULT_PATH = Path("results") / "harness.sqlite"
BUSY_TIMEOUT_MS = 60_000
# Any number that other programs in the same PostgreSQL database will hardly take.
_LOCK = 0x6861726E657373


def prepare_file(path: Path, *, create: bool) -> None:
    """See that the file of a store can be opened. Raises SpecError for a folder, or a missing file without `create`."""
    if path.is_dir():
        raise SpecError(f"{path} is a folder, not a session store", remedy=f"give {path / DEFAULT_PATH.name}")
    if path.exists():
        return
    if not create:
        raise SpecError(f"there is no session store {path}", remedy="measure something first, e.g. `harness demo`")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(f"the folder {path.parent} cannot be made: {error.strerror}") from error


def file_url(path: Path) -> sa.URL:
    """The URL of a store in a file; read-only where the file is."""
    if os.access(path, os.W_OK) or not path.exists():
        return sa.URL.create("sqlite", database=str(path))
    # A committed or shared store may be read-only. Without a log beside it nothing can change, so no lock is needed,
    # and none could be taken in a read-only folder.
    alone = not path.with_name(path.name + "-wal").exists()
    options = {"mode": "ro", "uri": "true"} | ({"immutable": "1"} if alone else {})
    return sa.URL.create("sqlite", database=path.absolute().as_uri(), query=options)


def _with_driver(url: sa.URL) -> sa.URL:
    """PostgreSQL by the driver that the extra `postgres` installs, unless the user names another."""
    return url.set(drivername="postgresql+psycopg") if url.drivername in ("postgresql", "postgres") else url


def make_engine(url: sa.URL) -> sa.Engine:
    """An engine whose SQLite connections behave as this module's head says. Raises what SQLAlchemy does for a bad URL."""
    if url.get_backend_name() != "sqlite":
        return sa.create_engine(_with_driver(url), pool_pre_ping=True)
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})
    sa.event.listen(engine, "connect", _sqlite_connect)
    if url.query.get("mode") != "ro":
        sa.event.listen(engine, "connect", _sqlite_log)
    sa.event.listen(engine, "begin", _sqlite_begin)
    return engine


def hold(connection: sa.Connection) -> None:
    """Wait until no other writer of the database's tables is at work, to the end of the transaction.

    SQLite needs nothing: whoever writes has the only write lock from the beginning.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))


def _sqlite_connect(connection: Any, _record: Any) -> None:
    # Python's own transaction handling would begin late and commit behind our back; `_sqlite_begin` does it instead.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _sqlite_log(connection: Any, _record: Any) -> None:
    # Readers and one writer at a time do not block each other; FULL syncs the log at every commit.
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()


def _sqlite_begin(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("harness_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
