"""`harness compare`, `export` and `import`: what two names mean, what is refused and with what advice."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from sample_session import VARIANTS, sample_session
from test_store import fill
from typer.testing import CliRunner, Result

from harness.cli.main import app
from harness.records import SessionData
from harness.store import Store

# Whole sessions or processes: seconds together.
pytestmark = pytest.mark.slow

FP32, FP16, INT8 = (VARIANTS[index].name for index in (0, 1, 3))
MADE = tuple(VARIANTS[index] for index in (0, 1, 3))
OLD, NEW = "20260101-000000-old", "20260201-000000-new"


def session(identity: str, name: str, **options: object) -> SessionData:
    made = sample_session(session_id=identity, name=name, variants=MADE, rounds=4, block_s=0.01, **options)
    created = f"{identity[:4]}-{identity[4:6]}-{identity[6:8]}T00:00:00+00:00"
    return dataclasses.replace(made, session=dataclasses.replace(made.session, created_at=created))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    with Store.open(folder / "harness.sqlite") as store:
        fill(store, session(OLD, "before", seed=1))
        fill(store, session(NEW, "after", seed=2, slowdown={FP32: 1.1}))
        other = session("20250101-000000-other", FP16, seed=3)
        fill(store, dataclasses.replace(other, variants=(*other.variants[:2], *other.variants[3:])))
    return folder


def harness(results: Path, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--results", str(results)])


def compared(results: Path, *words: str) -> list[dict[str, object]]:
    done = harness(results, "compare", *words, "--json")
    assert done.exit_code == 0, done.output
    tables = json.loads(done.stdout)
    assert isinstance(tables, list)
    return tables


def test_two_sessions_by_beginning_name_or_latest(results: Path) -> None:
    for first, second in ((NEW, OLD), ("latest", "before"), ("202602", "202601")):
        (table,) = compared(results, first, second)
        assert (table["candidate"], table["reference"]) == (NEW, OLD)
    pairs = {(pair["candidate_variant"], pair["candidate_device"]): pair for pair in table["pairs"]}
    assert pairs[FP32, "laptop"]["verdict"] == "slower"
    # Two devices are too few for one ratio over devices.
    assert table["overall"]["ratio"] is None
    (swapped,) = compared(results, OLD, NEW)
    assert any("the older one" in words for words in swapped["differences"])


def test_two_variants_on_every_device_or_one(results: Path) -> None:
    (table,) = compared(results, INT8, FP32, "--session", "before")
    assert [(pair["candidate_variant"], pair["candidate_device"]) for pair in table["pairs"]] == [
        (INT8, "laptop"),
        (INT8, "board"),
    ]
    assert {pair["verdict"] for pair in table["pairs"]} == {"faster"}
    (one,) = compared(results, INT8, FP32, "--session", OLD, "--device", "board")
    assert [pair["candidate_device"] for pair in one["pairs"]] == ["board"]


def test_two_devices(results: Path) -> None:
    (table,) = compared(results, "before", "--devices", "laptop", "board")
    assert {pair["verdict"] for pair in table["pairs"]} == {"faster"}
    assert table["overall"]["verdict"] == "faster"


def test_text_and_markdown_explain_every_verdict(results: Path) -> None:
    text = harness(results, "compare", INT8, FP32)
    assert text.exit_code == 0
    assert "faster: the interval" in text.stdout
    assert "overall: n/a (n=2): an overall ratio needs at least 5 devices" in text.stdout
    markdown = harness(results, "compare", INT8, FP32, "--markdown")
    assert "| on | verdict | time ratio [95 %] |" in markdown.stdout
    assert "wholly below 0.99" in markdown.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((INT8, "before"), ("is a variant", "is a session", "--session says which")),
        ((INT8, "dscnn.tflite.fp33"), ("no variant of that name", f"did you mean the variant '{FP32}'")),
        ((INT8, "zzz"), ("no session 'zzz'", "no variant of that name")),
        ((INT8, INT8), ("compared with itself",)),
        ((OLD, OLD), ("compared with itself",)),
        ((OLD, NEW, "--device", "board"), ("compared as a whole", "leave out --device")),
        ((INT8, FP32, "--reference", FP16), ("two variants are given",)),
        ((INT8, FP32, "--device", "nowhere"), ("no device 'nowhere'", "laptop, board")),
        (("--json", "--markdown"), ("exclude each other",)),
        ((FP16, FP16), ("compared with itself",)),
    ],
)
def test_what_is_unclear_is_refused_with_advice(results: Path, words: tuple[str, ...], said: tuple[str, ...]) -> None:
    done = harness(results, "compare", *words)
    assert done.exit_code == 2
    assert done.stdout == ""
    for text in said:
        assert text in done.stderr


@pytest.mark.slow
def test_names_that_are_sessions_and_variants_are_ambiguous(tmp_path: Path) -> None:
    with Store.open(tmp_path / "harness.sqlite") as store:
        for identity, name in ((OLD, FP32), (NEW, INT8)):
            fill(store, session(identity, name, devices=("laptop",), runs=2))
    done = harness(tmp_path, "compare", INT8, FP32)
    assert done.exit_code == 2
    assert "are sessions and also variants" in done.stderr
    assert f"full ids ({NEW}, {OLD})" in done.stderr
    assert harness(tmp_path, "compare", NEW, OLD).exit_code == 0


@pytest.mark.slow
def test_a_session_goes_through_a_file_unchanged(results: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    done = harness(results, "export", "before", str(tmp_path / "one.sqlite"))
    assert done.exit_code == 0, done.output
    for said in ("was imported", "is there already"):
        done = harness(there, "import", str(tmp_path / "one.sqlite"))
        assert done.exit_code == 0, done.output
        assert said in done.stderr
    tables = [harness(folder, "table", OLD, "--json").stdout for folder in (results, there)]
    assert tables[0] == tables[1]
    listed = harness(there, "table", "--list")
    assert listed.stdout.count("\n") == 1, listed.output
    again = harness(results, "export", "before", str(tmp_path / "one.sqlite"))
    assert again.exit_code == 2
    assert "exists already" in again.stderr
    assert harness(there, "import", str(tmp_path / "none.sqlite")).exit_code == 2
