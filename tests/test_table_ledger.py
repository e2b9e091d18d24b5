"""What conversions have counted of a variant reaches its rows and every report, each missing count with its reason."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest
from report_samples import HOSTILE, advice, failed, many, refused, row
from rich.cells import cell_len
from sample_session import FAILED, VARIANTS, sample_session

from harness.records import SessionData
from harness.report.html import render_html
from harness.report.json_rows import render_json
from harness.report.ledger import TITLE
from harness.report.markdown import render_markdown
from harness.report.terminal import render_text
from harness.row import Row, row_fields
from harness.table import build_rows
from harness.table.ledger import LEDGER_FIELDS, NOT_COUNTED, ledger_counts

LEDGER = {
    "parameters": 41_000,
    "non_zeros": 4_100,
    "unique_values": 64,
    "weights_bytes": 41_000,
    "size_entropy_bytes": 3_456,
    "arena_bytes": 23_000,
    "arena_missing": None,
    "artifact_missing": None,
    "macs": 2_500_000,
    "effective_macs": 300_000,
    "macs_missing": None,
}
COUNTED = {
    "size_entropy_bytes": 3_456,
    "artifact_parameters": 41_000,
    "non_zeros": 4_100,
    "unique_values": 64,
    "weights_bytes": 41_000,
    "macs": 2_500_000,
    "effective_macs": 300_000,
    "arena_planned_bytes": 23_000,
}


def session(ledger: Any) -> SessionData:
    """A session whose first variant has this in its manifest."""
    data = sample_session(devices=("laptop",), variants=VARIANTS[:2], runs=1, rounds=1, block_s=0.0)
    first, *others = data.variants
    first = dataclasses.replace(first, manifest=first.manifest | {"ledger": ledger})
    return dataclasses.replace(data, variants=(first, *others))


def reasons(found: Row) -> dict[str, str]:
    return {name: why for name, why in (entry.split(": ", 1) for entry in found.null_reasons) if name in LEDGER_FIELDS}


def test_rows_have_what_the_manifest_counted() -> None:
    assert set(COUNTED) == set(LEDGER_FIELDS) <= set(row_fields())
    first, second, *_ = rows = build_rows(session(LEDGER))
    assert {name: getattr(first, name) for name in LEDGER_FIELDS} == COUNTED
    assert reasons(first) == {}
    assert reasons(second) == dict.fromkeys(LEDGER_FIELDS, NOT_COUNTED)
    assert [getattr(second, name) for name in LEDGER_FIELDS] == [None] * len(LEDGER_FIELDS)
    (unmade,) = (found for found in rows if found.variant == FAILED.name)
    assert set(reasons(unmade).values()) == {"the variant does not exist"}
    told = json.loads(render_json(rows))[0]
    assert {name: told[name] for name in LEDGER_FIELDS} == COUNTED


def test_a_missing_count_has_the_reason_that_the_manifest_gives() -> None:
    onnx = LEDGER | {"arena_bytes": None, "arena_missing": "onnx has no arena to tell"}
    assert reasons(build_rows(session(onnx))[0]) == {"arena_planned_bytes": "onnx has no arena to tell"}
    no_macs = {"macs": None, "effective_macs": None, "macs_missing": "sides stay free"}
    unread = {"artifact_missing": "ToolError: no such operator", **no_macs}
    found = reasons(build_rows(session(unread))[0])
    assert found["macs"] == found["effective_macs"] == "sides stay free"
    others = set(LEDGER_FIELDS) - {"macs", "effective_macs"}
    assert {found[name] for name in others} == {"ToolError: no such operator"}
    assert reasons(build_rows(session(LEDGER | {"macs": None}))[0]) == {"macs": "the manifest does not say"}


@pytest.mark.parametrize("wrong", [-1, True, 2.5, float("nan"), "9", [9], None])
def test_what_is_no_count_is_none(wrong: Any) -> None:
    counts, why = ledger_counts({"ledger": LEDGER | {"macs": wrong}})
    assert counts == {name: value for name, value in COUNTED.items() if name != "macs"}
    assert why == {"macs": "the manifest does not say"}
    assert ledger_counts({"ledger": wrong}) == ({}, dict.fromkeys(LEDGER_FIELDS, NOT_COUNTED))


def compressed() -> list[Row]:
    """Rows of two devices: one variant counted whole, one without arena, others not at all."""
    why = ("arena_planned_bytes: onnx has no arena to tell",)
    found = []
    for device in ("laptop", "board"):
        found += [
            row("fp32", device=device, **COUNTED),
            row("prune_0.9+fp32", "onnx", device, **COUNTED | {"arena_planned_bytes": None}, null_reasons=why),
            row("fp16", device=device),
            failed(device=device),
            refused(device=device),
        ]
    return found


def test_the_terminal_shows_each_variant_once() -> None:
    text = render_text(compressed())
    table = text.partition(TITLE)[2].partition("★")[0]
    grid = table.partition("Counted in")[0]
    assert grid.count("tflite.fp32") == grid.count("onnx.prune_0.9+fp32") == 1
    assert "fp16" not in table
    for words in ("3.46 kB", "41,000", "4,100 (10.0 %)", "2,500,000", "300,000 (12.0 %)", "23.0 kB", "n/a"):
        assert words in table
    assert "n/a planned arena: onnx has no arena to tell (dscnn.onnx.prune_0.9+fp32)" in table
    assert TITLE not in render_text(many(), [advice()])


@pytest.mark.parametrize("width", [80, 100, 140])
def test_what_has_no_room_is_named(width: int) -> None:
    text = render_text(compressed(), width=width)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    table = text.partition(TITLE)[2].partition("Counted in")[0]
    shown = [name for name in ("entropy-coded", "effective MACs", "planned arena") if name in table]
    assert "entropy-coded" in shown
    unsaid = " ".join(text.partition("No room here for")[2].split())
    for name in {"effective MACs", "planned arena"} - set(shown):
        assert name in unsaid


def test_markdown_and_page_have_the_table() -> None:
    lines = render_markdown(compressed()).partition(f"## {TITLE}")[2].splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 2
    assert table[2].startswith("| `dscnn.tflite.fp32` | 169 kB | 144 kB | 3.46 kB | 41,000 | 4,100 (10.0 %) |")
    assert any(line.startswith("- n/a: planned arena: onnx has no arena") for line in lines)
    page = render_html(compressed())
    section = page.partition('<section id="ledger">')[2].partition("</section>")[0]
    assert section.count("<tr>") == 1 + 2
    assert "4,100 <small>(10.0 %)</small>" in section
    assert 'title="onnx has no arena to tell"' in section
    assert TITLE not in render_markdown(many())
    assert '<section id="ledger">' not in render_html(many())


def test_hostile_names_stay_words() -> None:
    rows = [row(variant=HOSTILE, **COUNTED)]
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", render_text(rows, width=100))
    assert "<script" not in render_markdown(rows)
    assert '<script>alert("x")' not in render_html(rows)
