"""The table as text: terminal, Markdown, CSV, JSON."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re

import pytest
from report_samples import HOSTILE, advice, failed, many, refused, row
from rich.cells import cell_len

from harness.report.conversion import render_conversion
from harness.report.csv_rows import render_csv
from harness.report.json_rows import render_json
from harness.report.markdown import escape, render_markdown
from harness.report.terminal import render_recommendations, render_text
from harness.report.textgrid import fold
from harness.row import row_fields, row_to_dict

ADVICE = [advice("laptop"), advice("board")]
# A figure of the table: a number and its unit, whole.
FIGURE = re.compile(r"(?<!\S)[−+]?\d[\d.]* (?:ns|µs|ms|s|B|kB|MB|GB|%|pp)(?!\S)")


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 120, 140, 200])
def test_no_figure_is_cut_at_any_width(width: int) -> None:
    whole = set(FIGURE.findall(render_text(many(), ADVICE)))
    lines = render_text(many(), ADVICE, width=width).splitlines()
    table = [line for line in lines if "ms [" in line]
    assert len(table) == 10
    for line in table:
        assert set(FIGURE.findall(line)) <= whole
        assert "…" not in line
        assert re.search(r"\d ms \[[\d.]+–[\d.]+\]", line)


@pytest.mark.parametrize("width", [80, 100, 140])
def test_lines_fit_the_terminal(width: int) -> None:
    lines = render_text(many(), ADVICE, width=width).splitlines()
    assert max(cell_len(line) for line in lines) <= width


def test_columns_come_with_the_width() -> None:
    def header(width: int) -> str:
        return " ".join(render_text(many(), ADVICE, width=width).splitlines()[3:5])

    assert "accuracy" in header(80)
    assert "size" in header(80)
    assert "p90" not in header(80)
    assert "p90" in header(100)
    assert "agreement" in header(140)
    assert "first" in header(200)
    assert "No room here for: p90, load" in render_text(many(), ADVICE, width=80)
    assert "No room" not in render_text(many(), ADVICE, width=200)


def test_piped_output_is_complete_and_plain() -> None:
    text = render_text(many(), ADVICE)
    assert "\x1b" not in text
    assert "dscnn.onnx.weight_only_wi4_afp32" in text
    for column in ("p90", "load", "first", "gzip", "agreement", "grade"):
        assert column in text
    assert "61.2 MB (+1.20 MB)" in text
    assert "+0.64 pp [+0.24, +1.04]" in text


def test_colour_only_where_asked() -> None:
    assert "\x1b[" in render_text(many(), ADVICE, width=100, color=True)
    assert "\x1b" not in render_text(many(), ADVICE, width=100)


def test_rows_are_sorted_by_latency_and_the_winner_is_marked() -> None:
    text = render_text(many(("laptop",)), [advice()])
    order = [line.split()[1] if line[0] in "★☆" else line.split()[0] for line in text.splitlines() if "ms [" in line]
    assert order == [
        "dscnn.tflite.static_wi8_ai8",
        "dscnn.openvino.static_wi8_ai8",
        "dscnn.tflite.fp32",
        "dscnn.onnx.fp32",
        "dscnn.onnx.weight_only_wi4_afp32",
    ]
    assert re.search(r"^★ dscnn\.tflite\.static_wi8_ai8 ", text, re.MULTILINE)
    assert len(re.findall(r"^☆ ", text, re.MULTILINE)) == 2


def test_a_row_without_latency_comes_last() -> None:
    rows = [row("b", latency_median_ns=None), row("a")]
    text = render_text(rows)
    assert text.index("dscnn.tflite.a") < text.index("dscnn.tflite.b")


def test_failures_refusals_and_reasons_are_told_once() -> None:
    text = render_text(many(), ADVICE)
    assert text.count("ToolCrashed: the converter was killed by SIGSEGV") == 2
    assert text.count("try the recipe without 16-bit activations") == 2
    assert text.count("no kernel has 4-bit activations") == 1
    assert text.count("not converged: half-width 4.1 % > 3 %") == 1
    assert "B 1" in text
    assert "p90: n/a (n=30) (dscnn.onnx.weight_only_wi4_afp32)" in text


def test_a_refusal_on_one_device_names_it() -> None:
    rows = [row(), row(device="board"), refused(device="board")]
    assert "dscnn.tflite.static_wi4_ai4 on board" in render_text(rows)


def test_columns_nobody_measured_are_left_out_and_explained() -> None:
    plain = [
        dataclasses.replace(
            r, accuracy=None, accuracy_drop_pp=None, agreement=None, null_reasons=("accuracy: no labels",)
        )
        for r in (row("a"), row("b"))
    ]
    text = render_text(plain)
    assert "accuracy drop" not in text
    assert "accuracy: no labels (all variants)" in text


def test_no_rows_at_all() -> None:
    assert render_text([]).endswith("\n")
    assert render_markdown([]).endswith("\n")
    assert json.loads(render_json([])) == []


def test_hostile_names_cannot_move_the_cursor() -> None:
    rows = [row(variant=HOSTILE), failed(error=HOSTILE, variant="\x1b]0;owned\x07"), refused(error="\u202egnp.exe")]
    text = render_text(rows, width=100)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)


def test_recommendations_alone() -> None:
    text = render_recommendations(ADVICE)
    assert text.startswith("Deploy dscnn.tflite.static_wi8_ai8 on laptop")
    assert "Limits: p90 ≤ 2.50 ms." in text
    assert "dscnn.onnx.fp32: p90 2.64 ms > 2.50 ms" in text


def test_fold_breaks_at_separators_and_loses_nothing() -> None:
    lines = fold("openvino.static_wi8_ai8_accuracy_control", 20)
    assert max(map(len, lines)) <= 20
    assert "".join(line.strip() for line in lines) == "openvino.static_wi8_ai8_accuracy_control"
    assert lines[0] == "openvino.static_wi8_"
    assert "".join(line.strip() for line in fold("x" * 50, 1)) == "x" * 50


# Markdown


def test_markdown_is_a_github_table() -> None:
    lines = render_markdown(many(("laptop",)), [advice()], title="demo").splitlines()
    assert lines[0] == "# demo"
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 5
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    assert table[2].startswith("| ★ | `dscnn.tflite.static_wi8_ai8` | 1.15 ms [1.14–1.16] |")


def test_markdown_escapes_what_is_hostile() -> None:
    text = render_markdown([row(variant=HOSTILE), failed(error="@everyone | <b>x</b> [a](http://evil.example)")])
    assert "<script" not in text
    assert "<img" not in text
    assert "<b>" not in text
    assert "@everyone" not in text
    assert "http://" not in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1


@pytest.mark.parametrize(
    ("plain", "escaped"),
    [("1. x", "1\\. x"), ("- x", "\\- x"), ("# x", "\\# x"), ("a_b", "a\\_b"), ("a&lt;", "a&amp;lt;")],
)
def test_markdown_escape(plain: str, escaped: str) -> None:
    assert escape(plain) == escaped


# CSV and JSON


def test_csv_reads_back() -> None:
    rows = many()
    read = list(csv.DictReader(io.StringIO(render_csv(rows))))
    assert tuple(read[0]) == row_fields()
    assert len(read) == len(rows)
    for text, original in zip(read, rows, strict=True):
        for name, value in row_to_dict(original).items():
            if value is None:
                assert text[name] == ""
            elif isinstance(value, list):
                assert text[name] == "; ".join(value)
            elif isinstance(value, float):
                assert float(text[name]) == value
            else:
                assert text[name] == str(value)


def test_csv_holds_hostile_text_in_one_cell_and_disarms_formulas() -> None:
    read = list(csv.DictReader(io.StringIO(render_csv([row(variant='a,"b"\nc'), row(variant="=HYPERLINK(1)")]))))
    assert read[0]["variant"] == 'a,"b"\nc'
    assert read[1]["variant"] == "'=HYPERLINK(1)"


def test_csv_leaves_negative_figures_alone() -> None:
    assert next(csv.DictReader(io.StringIO(render_csv([row(accuracy_drop_pp=-0.5)]))))["accuracy_drop_pp"] == "-0.5"


def test_json_is_flat_and_in_public_order() -> None:
    read = json.loads(render_json(many()))
    assert [tuple(item) for item in read] == [row_fields()] * len(read)
    assert not any(isinstance(value, dict) for item in read for value in item.values())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_has_no_nan(value: float) -> None:
    with pytest.raises(ValueError):
        render_json([row(accuracy=value)])


# Conversion


def test_conversion_tells_made_refused_and_failed() -> None:
    base = {
        "size_bytes": 62_016, "size_gzip_bytes": 51_000, "relative_error": 0.00123, "argmax_agreement": 0.99,
        "seconds": 1.234, "cached": False, "notes": ["input is int8"], "error": None, "remedy": None,
    }  # fmt: skip
    rows = [
        {**base, "variant": "m.tflite.fp32", "status": "ok", "notes": []},
        {**base, "variant": "m.tflite.static_wi8_ai8", "status": "ok", "cached": True},
        {**base, "variant": "m.onnx.x", "status": "failed", "error": "Crash: \x1b[2J SIGSEGV", "remedy": "do that"},
        {**base, "variant": "m.onnx.y", "status": "refused", "error": "no such kernel"},
    ]
    text = render_conversion(rows)
    assert re.search(r"m\.tflite\.fp32 +62\.0 kB +51\.0 kB +0\.00123 +99\.00 % +1\.23 s", text)
    assert re.search(r"m\.tflite\.static_wi8_ai8 .* cached", text)
    assert "m.tflite.static_wi8_ai8: input is int8" in text
    assert "m.onnx.y: no such kernel" in text
    assert "do that" in text
    assert "\x1b" not in text
    assert text.index("SIGSEGV") > text.index("no such kernel")


def test_failures_with_the_same_words_are_told_together() -> None:
    lost = [failed(f"r{number}", error="TransportError: no route", remedy="check the cable") for number in range(5)]
    text = render_text([row(), *lost])
    assert text.count("no route") == 1
    assert text.count("check the cable") == 1
    for number in range(5):
        assert f"dscnn.tflite.r{number}" in text


def test_what_most_sessions_lack_is_not_explained() -> None:
    reasons = (
        "energy_total_uj: no power source",
        "mae: a classification has no such error",
        "load_ns: the probe crashed",
    )
    text = render_text([row(load_ns=None, null_reasons=reasons), failed(null_reasons=("accuracy: it failed",))])
    assert "n/a load: the probe crashed" in text
    assert "power source" not in text
    assert "MAE" not in text
    assert "accuracy: it failed" not in text


def test_columns_missing_for_the_same_reason_are_named_together() -> None:
    reasons = ("accuracy: no labels", "accuracy_drop_pp: no labels")
    text = render_text([row("a", accuracy=None, accuracy_drop_pp=None, null_reasons=reasons), row("b")])
    assert "n/a accuracy, drop: no labels (dscnn.tflite.a)" in text
