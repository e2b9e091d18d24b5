"""What goes into the store comes out as it was, whatever happens to the process that put it in."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_session import VARIANTS, sample_session

from harness.errors import HarnessError, SpecError, StoreError
from harness.records import Block, Failure, Run, SessionData, VariantRecord
from harness.store import Store
from harness.store.codec import BlobError, pack, unpack
from harness.store.engine import file_url, make_engine

ROOT = Path(__file__).resolve().parent.parent


def fill(store: Store, data: SessionData) -> str:
    store.add_session(data.session, data.variants, data.devices, data.reference)
    for run in data.runs:
        store.add_run(run)
    return data.session.id


def assert_equal(one: object, other: object, path: str = "data") -> None:
    """Deep equality of records, arrays compared with dtype and shape."""
    if isinstance(one, np.ndarray):
        assert isinstance(other, np.ndarray), path
        assert one.dtype == other.dtype, path
        assert np.array_equal(one, other), path
    elif dataclasses.is_dataclass(one):
        assert type(one) is type(other), path
        for field in dataclasses.fields(one):
            assert_equal(getattr(one, field.name), getattr(other, field.name), f"{path}.{field.name}")
    elif isinstance(one, (tuple, list)):
        assert isinstance(other, (tuple, list)), path
        assert len(one) == len(other), path
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal(a, b, f"{path}[{index}]")
    else:
        assert one == other, path


@pytest.fixture(scope="module")
def small() -> SessionData:
    return sample_session(runs=2, rounds=2, block_s=0.01, broken_device=True, variants=VARIANTS[3:6])


@pytest.fixture
def where(tmp_path: Path) -> str:
    """An empty place for a store. test_store_postgres runs the same tests with a database of a server here."""
    return str(tmp_path / "results" / "harness.sqlite")


@pytest.fixture
def store(where: str) -> Iterator[Store]:
    with Store.open(where) as opened:
        yield opened


def raw(where: str, command: str) -> list[tuple[Any, ...]]:
    """What the database itself says, past the store."""
    import sqlalchemy as sa

    engine = make_engine(sa.make_url(where) if "://" in where else file_url(Path(where)))
    try:
        with engine.begin() as connection:
            found = connection.exec_driver_sql(command)
            return [tuple(row) for row in found] if found.returns_rows else []
    finally:
        engine.dispose()


@pytest.mark.parametrize("task", ["classification", "regression", "none"])
def test_a_session_comes_back_as_it_was(store: Store, task: str) -> None:
    data = sample_session(
        runs=2, rounds=2, block_s=0.01, task=task, broken_device=True, interrupted=True, variants=VARIANTS[:6]
    )
    fill(store, data)
    assert_equal(store.load(data.session.id), data)


def test_it_comes_back_from_another_process_too(small: SessionData, where: str) -> None:
    with Store.open(where) as store:
        fill(store, small)
    with Store.open(where) as store:
        assert_equal(store.load(small.session.id), small)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=300))
@settings(max_examples=60, deadline=None)
def test_samples_survive_to_the_last_bit(values: list[int]) -> None:
    array = np.array(values, dtype=np.int64)
    back = unpack(pack(array), "int64", array.shape)
    assert back.dtype == np.int64
    assert np.array_equal(back, array)


def test_a_blob_of_another_length_is_noticed() -> None:
    blob = pack(np.arange(5, dtype=np.int64))
    for damaged, shape in ((blob, [4]), (blob, [6]), (blob[:-3], [5]), (b"junk", [5])):
        with pytest.raises(BlobError):
            unpack(damaged, "int64", shape)
    with pytest.raises(BlobError):
        unpack(blob, "object", [5])


def test_samples_that_do_not_pair_are_refused_and_leave_nothing(store: Store, small: SessionData) -> None:
    store.add_session(small.session)
    run = next(run for run in small.runs if run.blocks)
    block = dataclasses.replace(run.blocks[0], cpu_ns=run.blocks[0].cpu_ns[:-1])
    with pytest.raises(ValueError, match="samples of"):
        store.add_run(dataclasses.replace(run, blocks=(block,)))
    assert store.load(small.session.id).runs == ()


def test_a_damaged_row_is_an_error_that_says_so(small: SessionData, where: str) -> None:
    with Store.open(where) as store:
        fill(store, small)
    raw(where, "UPDATE block SET samples = samples + 1 WHERE position = 3")
    with Store.open(where) as store, pytest.raises(SpecError, match=r"is damaged: .*bytes"):
        store.load(small.session.id)


def test_variants_and_devices_are_replaced_in_place(store: Store, small: SessionData) -> None:
    store.add_session(small.session, small.variants, small.devices)
    changed = dataclasses.replace(small.variants[1], status="failed", failure=Failure("conversion", "X", "no"))
    store.add_variant(small.session.id, changed)
    store.add_variant(small.session.id, VariantRecord("new", "onnx"))
    store.add_device(small.session.id, dataclasses.replace(small.devices[0], facts={"cpu": "other"}))
    back = store.load(small.session.id)
    assert [v.name for v in back.variants] == [*(v.name for v in small.variants), "new"]
    assert back.variants[1] == changed
    assert back.devices[0].facts == {"cpu": "other"}


def test_ids_are_taken_once_and_sessions_must_exist(store: Store, small: SessionData) -> None:
    fill(store, small)
    with pytest.raises(SpecError, match="exists already"):
        store.add_session(small.session)
    with pytest.raises(SpecError, match="exists already, or its session"):
        store.add_run(small.runs[0])
    with pytest.raises(SpecError, match="does not"):
        store.add_run(dataclasses.replace(small.runs[0], id="r", session_id="nowhere"))
    with pytest.raises(SpecError, match="no session"):
        store.add_variant("nowhere", small.variants[0])
    for act in (lambda: store.finish_session("nowhere", "done"), lambda: store.delete_session("nowhere")):
        with pytest.raises(SpecError, match="no session 'nowhere'"):
            act()
    with pytest.raises(SpecError, match="no session 'nowhere'"):
        store.load("nowhere")


def test_status_and_deletion(store: Store, small: SessionData, where: str) -> None:
    fill(store, small)
    store.finish_session(small.session.id, "interrupted")
    assert store.sessions()[0].status == "interrupted"
    store.delete_session(small.session.id)
    assert store.session_ids() == []
    assert all(raw(where, f"SELECT * FROM {table}") == [] for table in ("run", "block", "load"))  # noqa: S608


def named(store: Store, *sessions: tuple[str, str, str]) -> None:
    template = sample_session(runs=1, rounds=1, block_s=0.01, devices=()).session
    for identity, name, created in sessions:
        store.add_session(dataclasses.replace(template, id=identity, name=name, created_at=created))


def test_resolve(store: Store) -> None:
    with pytest.raises(SpecError, match="no sessions"):
        store.resolve("latest")
    named(
        store, ("2026a-1", "demo", "2026-01-01"), ("2026b-2", "demo", "2026-03-01"), ("2026b-3", "phone", "2026-02-01")
    )
    assert store.session_ids() == ["2026b-2", "2026b-3", "2026a-1"]
    assert store.resolve("latest") == "2026b-2"
    assert store.resolve("2026a") == "2026a-1"
    assert store.resolve("2026b-3") == "2026b-3"
    assert store.resolve("demo") == "2026b-2"
    with pytest.raises(SpecError, match=r"begins 2 sessions.*2026b-2.*2026b-3"):
        store.resolve("2026b")
    with pytest.raises(SpecError, match="did you mean 'phone'"):
        store.resolve("phnoe")
    with pytest.raises(SpecError, match="or 'latest'"):
        store.resolve("zzzz")
    with pytest.raises(SpecError, match="no session ''"):
        store.resolve("")


def test_summaries_count(store: Store, small: SessionData) -> None:
    fill(store, small)
    summary = store.sessions()[0]
    assert (summary.variants, summary.devices, summary.runs) == (5, 3, len(small.runs))
    assert (summary.name, summary.status) == ("demo", "done")


@pytest.mark.parametrize(
    "content", [b"this is no database at all, only text" * 30, b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_a_file_that_is_no_store_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.sqlite"
    path.write_bytes(content)
    with pytest.raises(SpecError, match="no session store, or is damaged"):
        Store.open(path)


def test_a_truncated_store_is_one_clear_error(tmp_path: Path, small: SessionData) -> None:
    path = tmp_path / "x.sqlite"
    with Store.open(path) as store:
        fill(store, small)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size // 2)

    def use() -> None:
        with Store.open(path) as store:
            store.load(small.session.id)

    with pytest.raises(SpecError, match="damaged"):
        use()


def test_folders_and_urls_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="is a folder"):
        Store.open(tmp_path)
    with pytest.raises(SpecError, match="no session store"):
        Store.open(tmp_path / "missing.sqlite", create=False)
    with pytest.raises(SpecError, match="is no store"):
        Store.open("nonsense://x")
    (tmp_path / "file").touch()
    with pytest.raises(SpecError, match="cannot be made"):
        Store.open(tmp_path / "file" / "s.sqlite")


def test_a_missing_driver_names_its_package() -> None:
    with pytest.raises(SpecError, match="pip install") as caught:
        Store.open("oracle+oracledb://someone:secret@nowhere/db")
    assert "secret" not in str(caught.value)


def test_a_newer_store_asks_for_an_update(where: str) -> None:
    Store.open(where).close()
    raw(where, "UPDATE harness_store SET version = 99")
    with pytest.raises(SpecError, match=r"newer harness \(store version 99.*update"):
        Store.open(where)


def test_another_database_is_refused(where: str) -> None:
    if "://" not in where:
        Path(where).parent.mkdir(parents=True)
    raw(where, "CREATE TABLE session (id TEXT)")
    with pytest.raises(SpecError, match="not one of this harness"):
        Store.open(where)


def test_a_read_only_store_can_be_read(tmp_path: Path, small: SessionData, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "odd name %?#.sqlite"
    with Store.open(path) as store:
        fill(store, small)
    path.chmod(0o444)
    # root may write anything, so the answer of the system is made up here; the open itself is then really read-only.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with Store.open(path) as store:
        assert_equal(store.load(small.session.id), small)
        with pytest.raises(SpecError, match="cannot be written"):
            store.finish_session(small.session.id, "done")


def test_a_full_disk_is_an_error_that_says_so_and_keeps_what_was_there(tmp_path: Path, small: SessionData) -> None:
    import sqlalchemy as sa

    path = tmp_path / "s.sqlite"
    with Store.open(path) as store:
        store.add_session(small.session)

        def small_disk(connection: sa.Connection) -> None:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

        sa.event.listen(store._engine, "begin", small_disk)
        block = Block("v", 0, "measure", 1, *(np.random.default_rng(1).integers(0, 2**62, 9000) for _ in range(2)))
        run = dataclasses.replace(small.runs[0], blocks=(block,))
        with pytest.raises(StoreError, match="full"):
            store.add_run(run)
    with Store.open(path) as store:
        assert store.load(small.session.id).runs == ()


def test_threads_share_a_store(store: Store, small: SessionData) -> None:
    store.add_session(small.session, small.variants, small.devices)
    errors: list[BaseException] = []

    def write(runs: list[Run]) -> None:
        try:
            for run in runs:
                store.add_run(run)
        except BaseException as error:  # noqa: BLE001 - handed to the test below
            errors.append(error)

    halves = [list(small.runs[0::2]), list(small.runs[1::2])]
    threads = [threading.Thread(target=write, args=(half,)) for half in halves]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert {run.id for run in store.load(small.session.id).runs} == {run.id for run in small.runs}


WRITER = """
import dataclasses, sys
sys.path[:0] = [{tests!r}, {root!r}]
from sample_session import sample_session
from harness.store import Store

identity, forever = sys.argv[2], sys.argv[3] == "forever"
data = sample_session(session_id=identity, runs=1, rounds=2, block_s=0.01, devices=("laptop",))
store = Store.open(sys.argv[1])
store.add_session(dataclasses.replace(data.session, status="running"), data.variants, data.devices, data.reference)
count = 0
while forever or count < 10:
    for run in data.runs:
        store.add_run(dataclasses.replace(run, id=f"{{identity}}-{{count}}"))
        print(f"{{identity}}-{{count}}", flush=True)
        count += 1
"""


def writer(where: str, identity: str, how: str) -> subprocess.Popen[str]:
    code = WRITER.format(tests=str(ROOT / "tests"), root=str(ROOT))
    return subprocess.Popen([sys.executable, "-c", code, where, identity, how], stdout=subprocess.PIPE, text=True)


def test_a_killed_writer_loses_no_finished_run(where: str) -> None:
    process = writer(where, "killed", "forever")
    assert process.stdout is not None
    finished = [process.stdout.readline().strip() for _ in range(7)]
    process.send_signal(signal.SIGKILL)
    finished += process.stdout.read().split()
    process.wait(10)
    process.stdout.close()
    with Store.open(where) as store:
        data = store.load(store.resolve("latest"))
    assert data.session.status == "running"
    stored = [run.id for run in data.runs]
    assert len(finished) >= 7
    # The process may have died between the commit and the line that told of it, never the other way round.
    assert stored[: len(finished)] == finished
    assert len(stored) <= len(finished) + 1
    assert all(run.loads for run in data.runs)


@pytest.mark.slow
def test_two_processes_write_at_once(where: str) -> None:
    processes = [writer(where, name, "some") for name in ("one", "two")]
    for process in processes:
        assert process.communicate(timeout=60)[0].count("\n") >= 10
        assert process.returncode == 0
    with Store.open(where) as store:
        assert sorted(store.session_ids()) == ["one", "two"]
        for name in ("one", "two"):
            assert len(store.load(name).runs) >= 10


def test_errors_are_the_harness_own(store: Store) -> None:
    store._engine.dispose()
    Path(store._where).unlink()
    Path(store._where).write_bytes(b"x" * 4096)
    for suffix in ("-wal", "-shm"):
        Path(store._where + suffix).unlink(missing_ok=True)
    with pytest.raises(HarnessError):
        store.sessions()
