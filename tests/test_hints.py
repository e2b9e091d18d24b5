"""Advice: every kind fires where its evidence is, stays silent where it is not, and reports show the few that matter most."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sample_session import VARIANTS, sample_session

from harness.hints import KINDS, Hint, hints_of, shown, with_hints
from harness.records import SessionData
from harness.report.html import render_html
from harness.report.markdown import render_markdown
from harness.report.terminal import render_text
from harness.row import Row, row_to_dict
from harness.table import build_rows

GOLDEN = Path(__file__).parent / "golden" / "facts"
Rows = Callable[[Row], Row]


def made(
    facts: dict[str, Any] | None = None, *, emulated: bool = False, protocol: Any = None, **settings: Any
) -> SessionData:
    given = {"devices": ("laptop",), "variants": VARIANTS[:2], "block_s": 0.02, "run_effect": 0.0, "seed": 3} | settings
    data = sample_session(**given)
    device = dataclasses.replace(data.devices[0], emulated=emulated)
    device = dataclasses.replace(device, facts={**device.facts, **(facts or {})})
    session = dataclasses.replace(data.session, protocol={**data.session.protocol, **(protocol or {})})
    return dataclasses.replace(data, devices=(device,), session=session)


def golden(name: str, **more: Any) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())["facts"]
    return {**facts, **more}


def found(data: SessionData, change: dict[str, Any] | None = None) -> dict[str, list[str]]:
    """Kind → texts, of rows changed like that."""
    rows = [dataclasses.replace(row, **(change or {})) for row in build_rows(data)]
    texts: dict[str, list[str]] = {}
    for hint in hints_of(rows, data):
        texts.setdefault(hint.kind, []).append(hint.text)
    return texts


PIXEL, PI, HYBRID, THINKPAD = "android-14-pixel-8", "raspberry-pi-4", "laptop-hybrid", "laptop-thinkpad-t480"
ALL_CORES = {"affinity": "0,1,2,3,4,5,6,7,8"}
HOT = {"grade_reasons": ("started hot: 71.0 °C, not below 50 °C after waiting 300 s (2 runs)",)}
HELD = {"grade_reasons": ("held back: throttled",)}
CHARGING = {"battery": {"status": "charging", "level_percent": 80, "plugged": ["usb"]}}
NO_ENERGY = {"null_reasons": ("energy_total_uj: the battery is charging",)}
PRESSED = {"background": {"warnings": ["busy: a load of 3"], "busiest": ["chrome 90 %", "tar 40 %", "x 1 %"]}}
STOLEN = {
    "grade_reasons": ("contended: 9 of 60 blocks had to share their CPU (the hypervisor gave its CPUs to others)",)
}


@pytest.mark.parametrize(
    ("kind", "data", "change", "words"),
    [
        ("contention", made(PRESSED, contended={"laptop": 0.4}), {}, "close what else runs there: "),
        (
            "contention",
            made(PRESSED, contended={"laptop": 0.4}),
            {},
            "busiest before the session: chrome 90 %, tar 40 %",
        ),
        ("contention", made(contended={"laptop": 0.4}), STOLEN, "measure on a machine whose CPUs are its own"),
        ("heat", made(), HOT, "`thermal: {wait_s: …}` in its profile): started hot: 71.0 °C"),
        ("heat", made(), HELD, "`thermal: {start_below_c: …}` in its profile): held back: throttled"),
        (
            "pin",
            made(golden(PIXEL)),
            ALL_CORES,
            "pin to cores 4-7 (`affinity: [4, 5, 6, 7]` in its profile), Cortex-A715 at 2.37",
        ),
        ("pin", made(golden(PIXEL)), ALL_CORES | {"threads": 4}, "could run on 9 cores of 3 kinds"),
        (
            "governor",
            made(golden(PI)),
            {},
            "set the governor to performance (`may_change: [governor]` in its profile): it is ondemand",
        ),
        ("governor", made(golden(PIXEL)), {}, "`may_change: [fixed_performance]`"),
        (
            "charger",
            made(golden(PIXEL, **CHARGING)),
            HOT,
            "unplug the charger while measuring: the battery was charging",
        ),
        (
            "charger",
            made(protocol={"energy": True}),
            NO_ENERGY,
            "unplug the charger: no energy could be measured, the battery is",
        ),
        (
            "charger",
            made({"battery": {"level_percent": 9, "plugged": []}}),
            {},
            "plug in the charger: the battery was at 9 %",
        ),
        (
            "preset",
            made(preset="quick"),
            {},
            "use `--preset standard` before relying on it: quick is indicative, with 0.05 s",
        ),
        ("energy", made(golden(THINKPAD)), {}, "use `--energy` to have joules too: there is power_supply BAT0"),
    ],
)
def test_a_hint_is_given_with_its_evidence(kind: str, data: SessionData, change: dict[str, Any], words: str) -> None:
    texts = found(data, change)
    assert kind in texts, texts
    assert any(words in text for text in texts[kind]), texts[kind]


@pytest.mark.parametrize(
    ("kind", "data", "change"),
    [
        ("contention", made(PRESSED), {}),  # busy before, and yet no block was disturbed
        ("contention", made(contended={"laptop": 0.02}), {}),
        ("contention", made(contended={"laptop": 0.4}), {"uncontended_blocks": None}),
        ("heat", made(), {"grade_reasons": ("drift: +3.0% within each run (p = 0.001)",)}),
        ("heat", made(emulated=True), HOT),
        ("pin", made(golden(PIXEL)), {"affinity": "4,5,6,7"}),
        ("pin", made(golden(PI)), {"affinity": "0,1,2,3"}),  # four cores of one kind
        ("pin", made(golden(PIXEL), emulated=True), ALL_CORES),
        ("pin", made(golden(PIXEL)), {"affinity": None}),
        ("governor", made(golden(PI, governor="performance")), {}),
        ("governor", made(golden(PI, knobs={"governor": "performance (was ondemand)"})), {}),
        ("governor", made(golden(PI, knobs={"governor": "not permitted (policy0 is not writable for this user)"})), {}),
        ("governor", made(golden(PIXEL, knobs={"fixed_performance": "on (was off)"})), {}),
        ("governor", made({"governor": None}), {}),
        ("charger", made(golden(PIXEL)), HOT),
        ("charger", made(golden(PIXEL, **CHARGING)), {}),
        ("charger", made({"battery": {"level_percent": 9, "plugged": ["ac"]}}), {}),
        ("charger", made(), {"null_reasons": ("energy_total_uj: energy was not asked for (--energy)",)}),
        ("preset", made(), {}),
        ("energy", made(golden(THINKPAD), protocol={"energy": True}), {}),
        ("energy", made(golden(PI)), {}),
        ("more time", made(slowdown={"dscnn.tflite.fp16": 1.2}), {}),
    ],
)
def test_a_hint_is_not_given_without_evidence(kind: str, data: SessionData, change: dict[str, Any]) -> None:
    assert kind not in found(data, change)


def test_every_kind_has_a_case_above_or_below() -> None:
    cases = test_a_hint_is_given_with_its_evidence.pytestmark[0].args[1]  # type: ignore[attr-defined]
    assert {case[0] for case in cases} | {"more time"} == set(KINDS)


def scattered(ratio: float, scatter: float, runs: int = 6) -> SessionData:
    """fp16 against fp32 in runs whose ratios lie that far apart (by turns above and below)."""
    data = made(runs=runs)
    changed, number = [], 0
    for run in data.runs:
        blocks = []
        for block in run.blocks:
            # The made-up noise of the blocks is taken out, so that the spread is what is written here.
            factor = ratio * (1 + scatter * (-1) ** number) if block.variant.endswith("fp16") else 1.0
            wall = (block.wall_ns * 0 + int(2_000_000 * factor)).astype("int64")
            blocks.append(dataclasses.replace(block, wall_ns=wall, cpu_ns=wall))
        changed.append(dataclasses.replace(run, blocks=tuple(blocks)))
        number += bool(run.blocks)
    return dataclasses.replace(data, runs=tuple(changed))


def test_more_time_is_reckoned_from_the_spread_between_runs() -> None:
    (text,) = found(scattered(0.97, 0.03))["more time"]
    assert text.startswith(
        "less than a minute more would settle tflite.fp16 against tflite.fp32 (`--budget`): ratio 0.970 ["
    )
    assert " runs of " in text
    longer = found(scattered(0.97, 0.09))["more time"]
    assert any("more minutes would settle tflite.fp16 against tflite.fp32" in text for text in longer), longer


def test_what_no_time_would_settle_is_said_so() -> None:
    texts = found(scattered(1.0148, 0.09))["more time"]
    assert any(
        "would not be settled by more time" in text and "too near the bound of a claim" in text for text in texts
    )


def test_a_wide_interval_has_its_price() -> None:
    texts = found(scattered(1.5, 0.06))["more time"]
    assert any("would bring the interval of dscnn.tflite.fp16 from ±" in text and "to ±3%" in text for text in texts), (
        texts
    )


def test_a_settled_session_needs_no_more_time() -> None:
    assert "more time" not in found(scattered(0.9, 0.001))


def test_devices_that_count_instructions_get_none() -> None:
    data = made({"counts_instructions": True, **PRESSED}, preset="quick", emulated=True)
    assert hints_of(build_rows(data), data) == ()


def test_the_most_important_come_first_and_the_rest_is_counted() -> None:
    data = made(golden(PIXEL, **CHARGING, meters=["power_supply battery"]), preset="quick", contended={"laptop": 0.4})
    rows = [
        dataclasses.replace(row, **ALL_CORES, grade_reasons=(*row.grade_reasons, *HOT["grade_reasons"]))
        for row in build_rows(data)
    ]
    hints = hints_of(rows, data)
    kinds = [hint.kind for hint in hints]
    assert kinds == sorted(kinds, key=list(KINDS).index)
    lines = shown(hints, 5)
    assert len(lines) == 6
    assert lines[0].startswith("contention: close what else runs")
    assert lines[5].startswith(f"… and {len(hints) - 5} more")
    assert shown(hints[:2]) == [hint.words for hint in hints[:2]]


def test_the_same_words_for_several_devices_stand_once() -> None:
    hints = [Hint("preset", "a", "use standard"), Hint("preset", "b", "use standard"), Hint("energy", "b", "use it")]
    assert shown(hints) == ["a, b: preset: use standard", "b: energy: use it"]


def test_rows_carry_what_concerns_them_and_every_report_shows_it() -> None:
    data = made(preset="quick")
    rows = build_rows(data)
    hints = (*hints_of(rows, data), Hint("more time", "laptop", "<b>2 minutes</b> more", (rows[0].variant,)))
    marked = with_hints(rows, hints)
    assert any(words.startswith("preset: ") for words in marked[1].hints)
    assert "more time: <b>2 minutes</b> more" in marked[0].hints
    assert "more time: <b>2 minutes</b> more" not in marked[1].hints
    assert row_to_dict(marked[0])["hints"] == list(marked[0].hints)
    refused = next(row for row in marked if row.status == "refused")
    assert refused.hints == ()
    lines = shown(hints)
    assert "use `--preset standard`" in render_text(marked, hints=lines)
    assert "For better figures" not in render_text(marked)
    text = render_markdown(marked, hints=lines)
    assert "For better figures" in text
    assert "<b>" not in text
    page = render_html(marked, data=data, hints=lines)
    assert "For better figures" in page
    assert "&lt;b&gt;2 minutes" in page
