"""docs/result-schema.md leaves nothing out, and its recipe for reading samples works."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sample_session import VARIANTS, sample_session

from converters.variant import Manifest
from harness.agent.protocol import FIELDS
from harness.choose import recommend, recommendation_to_dict
from harness.compare import compare_variants, comparison_to_dict
from harness.row import row_fields
from harness.store import Store
from harness.store.tables import METADATA
from harness.table import build_rows

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "result-schema.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def words(text: str) -> list[str]:
    return re.findall(r"`([A-Za-z_0-9]+)`", text)


def test_every_field_of_a_row_is_described_in_order() -> None:
    table = section("Row").partition("\n### ")[0]
    first_cells = [word for line in re.findall(r"^\| (`[^|]*)\|", table, flags=re.MULTILINE) for word in words(line)]
    assert first_cells == list(row_fields())


def test_every_table_and_column_of_the_store_is_described() -> None:
    lines = {words(line)[0]: words(line) for line in section("Store").splitlines() if line.startswith("| `")}
    assert set(lines) == set(METADATA.tables)
    for name, table in METADATA.tables.items():
        assert {column.name for column in table.columns} <= set(lines[name])


def test_manifest_messages_and_json_are_described() -> None:
    assert {field.name for field in dataclasses.fields(Manifest)} <= set(words(section("Manifest")))
    for kind, fields in FIELDS.items():
        (line,) = (line for line in section("Agent protocol").splitlines() if line.startswith(f"| `{kind}`"))
        assert set(fields) <= set(words(line))
    data = sample_session(devices=("laptop",), variants=VARIANTS[:2], block_s=0.01)
    (found,) = recommend(build_rows(data))
    assert set(recommendation_to_dict(found)) <= set(words(section("Recommendation")))
    (pair,) = comparison_to_dict(compare_variants(data, "laptop", VARIANTS[0].name))["pairs"]
    described = set(words(section("Comparison")))
    assert {re.sub("^(candidate|reference)_", "", key) for key in pair} <= described


def test_samples_can_be_read_without_the_harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = sample_session(devices=("laptop",), variants=VARIANTS[:2], runs=1, rounds=1, block_s=0.01)
    with Store.open() as store:
        store.add_session(data.session)
        for run in data.runs:
            store.add_run(run)
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - the document's own example
    names["rows"].connection.close()
    expected = [b for run in data.runs for b in run.blocks if b.phase == "measure"]
    assert len(names["samples"]) == len(expected)
    assert all(np.array_equal(got, block.wall_ns) for (_, got), block in zip(names["samples"], expected, strict=True))
