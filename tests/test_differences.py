"""What reports say of the same artifact's outputs on several devices: identical, or how many rows changed, and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from report_samples import HOSTILE
from sample_session import VARIANTS, sample_session

from harness.compare.differences import output_differences
from harness.records import Evaluation, Run, SessionData
from harness.report.bundle import write_reports
from harness.report.differences import paragraphs
from harness.report.html import render_html, unavailable
from harness.report.markdown import render_markdown
from harness.report.terminal import render_text
from harness.table import build_rows

X86 = {"machine": "x86_64", "isa": ["avx2", "fma", "sse4_2"], "engine_version": "2.3.0"}
VNNI = {"machine": "x86_64", "isa": ["avx2", "avx512_vnni", "fma"], "engine_version": "2.3.0"}
ARM = {"machine": "aarch64", "isa": ["asimd", "asimddp"], "engine_version": "2.3.0"}
FP32, STATIC = VARIANTS[0].name, VARIANTS[3].name
ONNX_STATIC = VARIANTS[7].name


def session(environments: dict[str, dict[str, Any]], edit: Callable[[str, Evaluation], Evaluation]) -> SessionData:
    """Devices that give the same outputs, but for what `edit` changes, in these environments."""
    made = sample_session(
        devices=tuple(environments), variants=(VARIANTS[0], VARIANTS[3], VARIANTS[7]), runs=1, block_s=0.01, rows=200
    )
    same: dict[str, Evaluation] = {}

    def of(run: Run) -> Run:
        evaluations = tuple(edit(run.device, same.setdefault(item.variant, item)) for item in run.evaluations)
        return dataclasses.replace(run, environment=environments[run.device], evaluations=evaluations)

    return dataclasses.replace(made, runs=tuple(of(run) for run in made.runs))


def flipped(item: Evaluation, rows: int) -> Evaluation:
    """The evaluation with another best class in so many rows."""
    assert item.top is not None
    top = item.top.copy()
    top[:rows, 0] = (top[:rows, 0] + 1) % 10
    return dataclasses.replace(item, top=top, outputs_sha256=f"other {rows}")


def on_guest(**rows: int) -> Callable[[str, Evaluation], Evaluation]:
    def edit(device: str, item: Evaluation) -> Evaluation:
        count = rows.get(item.variant.split(".")[1] + "_" + item.variant.split(".")[2].split("_")[0])
        return item if device != "guest" or count is None else flipped(item, count)

    return edit


def test_identical_outputs_are_said_to_be(tmp_path: Any) -> None:
    data = session({"here": X86, "there": X86, "guest": X86}, on_guest())
    assert all(item.identical and item.changed == 0 for item in output_differences(data))
    (text,) = paragraphs(output_differences(data))
    assert text == (
        "here against there and guest: the outputs of all 3 variants are identical, bit for bit, on all 200 rows."
    )


def test_architectures_differ_with_reasons_and_numbers() -> None:
    data = session({"here": X86, "guest": ARM}, on_guest(tflite_fp32=0, tflite_static=3, onnx_static=2))
    numbers, why = paragraphs(output_differences(data))
    assert "these differ: dscnn.tflite.fp32 (LiteRT 2.3.0): no row changed class;" in numbers
    assert f"{STATIC} (LiteRT 2.3.0): 3 of 200 rows changed class (accuracy " in numbers
    assert "here is x86_64 with avx2, fma, guest is aarch64 with asimd, asimddp." in numbers
    assert why.startswith("Why outputs differ between here and guest: Floating point (dscnn.tflite.fp32): each")
    assert f"Integers ({STATIC}, {ONNX_STATIC}): sums of 8-bit products are exact" in why
    assert "here has no VNNI" in why
    assert "guest: int8 dot-product instructions" in why


def test_what_does_not_apply_is_not_said() -> None:
    _, why = paragraphs(output_differences(session({"here": VNNI, "guest": ARM}, on_guest(tflite_static=1))))
    assert "VNNI" not in why
    assert "Floating point" not in why
    _, only_litert = paragraphs(output_differences(session({"here": X86, "guest": ARM}, on_guest(tflite_static=1))))
    assert "saturates" not in only_litert


def test_same_architecture_and_other_versions_are_named() -> None:
    newer = X86 | {"engine_version": "2.4.0"}
    _, why = paragraphs(output_differences(session({"here": X86, "guest": newer}, on_guest(tflite_fp32=1))))
    assert "LiteRT is 2.3.0 on the one and 2.4.0 on the other" in why
    assert "Both have the same architecture and extensions; what else can differ" in why
    numbers, why = paragraphs(output_differences(session({"here": X86, "guest": X86}, on_guest(tflite_fp32=1))))
    assert "the outputs of 2 of 3 variants are identical, bit for bit; these differ" in numbers
    assert "a kernel that is not deterministic" in why


def test_a_regression_tells_the_largest_difference() -> None:
    def edit(device: str, item: Evaluation) -> Evaluation:
        outputs = np.linspace(0, 10, 200, dtype=np.float32).reshape(200, 1)
        if device == "guest":
            outputs[7] += 0.5
        return dataclasses.replace(item, top=None, outputs=outputs, outputs_sha256=device)

    numbers, _ = paragraphs(output_differences(session({"here": X86, "guest": ARM}, edit)))
    assert "by 0.05 of the outputs' spread at most" in numbers


def test_one_device_or_other_rows_are_no_comparison() -> None:
    assert output_differences(session({"here": X86}, on_guest())) == []

    def fewer(device: str, item: Evaluation) -> Evaluation:
        return item if device == "here" else dataclasses.replace(item, rows=10)

    assert output_differences(session({"here": X86, "guest": ARM}, fewer)) == []
    assert paragraphs([]) == []


def test_every_report_has_the_paragraphs(tmp_path: Any) -> None:
    data = session({"here": X86, "guest": ARM}, on_guest(tflite_static=3))
    rows, told = build_rows(data), paragraphs(output_differences(data))
    assert "Outputs across devices\n– here and guest" in render_text(rows, differences=told)
    assert "Outputs across devices" not in render_text(rows)
    assert "## Outputs across devices\n\nhere and guest" in render_markdown(rows, differences=told)
    paths = write_reports(tmp_path, "s", rows, (), data)
    assert "3 of 200 rows changed class" in paths["markdown"].read_text(encoding="utf-8")
    if unavailable() is not None:
        pytest.skip(str(unavailable()))
    page = paths["html"].read_text(encoding="utf-8")
    assert "<h2>Outputs across devices</h2>" in page
    assert "Why outputs differ between here and guest" in page
    hostile = render_html(rows, differences=[HOSTILE])
    assert "<script>alert" not in hostile


def test_a_hostile_device_cannot_draw() -> None:
    data = session(
        {"here": X86, "guest": ARM | {"machine": HOSTILE, "engine_version": HOSTILE}}, on_guest(tflite_fp32=1)
    )
    for text in paragraphs(output_differences(data)):
        assert "\x1b" not in text
        assert "\n" not in text
