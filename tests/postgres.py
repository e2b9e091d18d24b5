"""A private PostgreSQL server on a Unix socket of its own: nothing of the machine's other servers is used or touched."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SUPERUSER = "harness"
PATIENCE_S = 60.0


def binaries() -> Path | None:
    """Where initdb and postgres are; Debian keeps them out of the PATH."""
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "initdb").exists() and (place / "postgres").exists()), None)


def unprivileged() -> dict[str, object]:
    """How to start it: PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return {}
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = names.get("postgres") or names["nobody"]
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


class Postgres:
    """The server: `start`, `stop`, and the URL of a new database with `url`."""

    def __init__(self, bin_: Path) -> None:
        self.bin = bin_
        self.how = unprivileged()
        # Not below pytest's folders: another user could not reach it there, and a socket's path must be short.
        self.folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        if self.how:
            os.chown(self.folder, int(str(self.how["user"])), int(str(self.how["group"])))
        self.numbers = itertools.count()
        self.process: subprocess.Popen[bytes] | None = None
        self._run("initdb", "-D", str(self.folder / "data"), "-U", SUPERUSER, "-A", "trust", "-E", "UTF8",
                  "--locale=C", "--no-sync", "--no-instructions")  # fmt: skip

    def _run(self, name: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self.bin / name), *arguments], capture_output=True, text=True, check=False, cwd=self.folder, **self.how
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "fsync": "off",
            "max_connections": "50",
            "shared_buffers": "16MB",
        }
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(self.bin / "postgres"), "-D", str(self.folder / "data"), *options],
                stdout=log, stderr=log, cwd=self.folder, **self.how,
            )  # fmt: skip
        self._until_it_answers()

    def _until_it_answers(self) -> None:
        import psycopg

        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                self.sql("SELECT 1")
            except psycopg.OperationalError:
                assert self.process is not None
                assert self.process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < end, (self.folder / "log").read_text()
                time.sleep(0.05)
            else:
                return

    def sql(self, command: str, database: str = "postgres") -> None:
        import psycopg

        with psycopg.connect(host=str(self.folder), user=SUPERUSER, dbname=database, autocommit=True) as connection:
            connection.execute(command)

    def url(self) -> str:
        """A database of its own, empty."""
        name = f"store{next(self.numbers)}"
        self.sql(f"CREATE DATABASE {name}")
        return f"postgresql://{SUPERUSER}@/{name}?host={self.folder}"

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(PATIENCE_S)
            self.process = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running server; the tests that want it are skipped where PostgreSQL or its driver is not installed."""
    pytest.importorskip("psycopg")
    place = binaries()
    if place is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    server = Postgres(place)
    try:
        server.start()
        yield server
    finally:
        server.remove()
