"""The store's whole contract on a real PostgreSQL server, and rows of a session that are SQLite's to the last byte."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from postgres import Postgres, postgres
from sample_session import VARIANTS, sample_session
from test_store import (
    fill,
    raw,
    small,
    store,
    test_a_damaged_row_is_an_error_that_says_so,
    test_a_killed_writer_loses_no_finished_run,
    test_a_newer_store_asks_for_an_update,
    test_a_session_comes_back_as_it_was,
    test_another_database_is_refused,
    test_ids_are_taken_once_and_sessions_must_exist,
    test_it_comes_back_from_another_process_too,
    test_resolve,
    test_samples_that_do_not_pair_are_refused_and_leave_nothing,
    test_status_and_deletion,
    test_summaries_count,
    test_threads_share_a_store,
    test_two_processes_write_at_once,
    test_variants_and_devices_are_replaced_in_place,
)

from harness.errors import HarnessError, StoreError
from harness.records import SessionData
from harness.store import Store
from harness.table import build_rows

pytestmark = pytest.mark.slow

# What is taken from test_store runs here with this module's `where`.
__all__ = [
    "postgres",
    "small",
    "store",
    "test_a_damaged_row_is_an_error_that_says_so",
    "test_a_killed_writer_loses_no_finished_run",
    "test_a_newer_store_asks_for_an_update",
    "test_a_session_comes_back_as_it_was",
    "test_another_database_is_refused",
    "test_ids_are_taken_once_and_sessions_must_exist",
    "test_it_comes_back_from_another_process_too",
    "test_resolve",
    "test_samples_that_do_not_pair_are_refused_and_leave_nothing",
    "test_status_and_deletion",
    "test_summaries_count",
    "test_threads_share_a_store",
    "test_two_processes_write_at_once",
    "test_variants_and_devices_are_replaced_in_place",
]


@pytest.fixture
def where(postgres: Postgres) -> str:
    return postgres.url()


def harness(folder: Path, *words: str) -> bytes:
    """What the command prints, in a process of its own."""
    command = [str(Path(sys.executable).with_name("harness")), *words]
    return subprocess.run(command, capture_output=True, check=True, cwd=folder).stdout


def test_the_table_has_the_same_bytes_in_every_store(where: str, tmp_path: Path) -> None:
    """From samples in PostgreSQL, in SQLite, and in a store that they came to through a file: each time another process."""
    data = sample_session(broken_device=True, variants=VARIANTS[:6], block_s=0.03)
    direct, through = f"sqlite:///{tmp_path}/direct.sqlite", f"sqlite:///{tmp_path}/through.sqlite"
    for place in (where, direct):
        with Store.open(place) as store:
            fill(store, data)
    harness(tmp_path, "export", "latest", "file.sqlite", "--store", where)
    harness(tmp_path, "import", "file.sqlite", "--store", through)
    tables = [harness(tmp_path, "table", "latest", "--json", "--store", place) for place in (where, direct, through)]
    assert len(set(tables)) == 1
    assert [row["variant"] for row in json.loads(tables[0])] == [row.variant for row in build_rows(data)]


def test_runs_of_many_writers_have_places_of_their_own(where: str, small: SessionData) -> None:
    with Store.open(where) as store:
        store.add_session(small.session, small.variants, small.devices)
    parts = [small.runs[start::4] for start in range(4)]
    errors: list[BaseException] = []

    def write(part: int) -> None:
        try:
            with Store.open(where) as store:
                for run in parts[part]:
                    store.add_run(run)
        except BaseException as error:  # noqa: BLE001 - handed to the test below
            errors.append(error)

    threads = [threading.Thread(target=write, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(raw(where, "SELECT position FROM run")) == [(index,) for index in range(len(small.runs))]


def test_many_may_find_the_database_empty(where: str) -> None:
    begin, errors = threading.Barrier(6), []

    def create() -> None:
        begin.wait()
        try:
            Store.open(where).close()
        except HarnessError as error:
            errors.append(error)

    threads = [threading.Thread(target=create) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert raw(where, "SELECT version FROM harness_store") == [(3,)]


def test_a_store_of_the_first_version_is_brought_up_to_date(where: str, small: SessionData) -> None:
    with Store.open(where) as store:
        store.add_session(small.session, small.variants, small.devices)
        raw(where, "ALTER TABLE block DROP COLUMN document")
        raw(where, "UPDATE harness_store SET version = 1")
        assert store.load(small.session.id).runs == ()
        for run in small.runs:
            store.add_run(run)
        assert len(store.load(small.session.id).runs) == len(small.runs)
    assert raw(where, "SELECT version FROM harness_store") == [(3,)]


def test_a_server_that_is_gone_is_an_error_that_says_so(postgres: Postgres, where: str, small: SessionData) -> None:
    with Store.open(where) as store:
        fill(store, small)
        postgres.stop()
        try:
            for act in (store.sessions, lambda: Store.open(where)):
                with pytest.raises(StoreError, match="is the server running"):
                    act()
        finally:
            postgres.start()
        # What was committed is there, and the store finds its way back by itself.
        assert len(store.load(small.session.id).runs) == len(small.runs)
