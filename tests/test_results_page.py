"""docs/search-results.md: each section with figures and without, what counts as kept, and what the calls are written down as."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
DAY = {"date": "2026-11-22", "command": "python scripts/made.py"}
FORMATS = ("tflite", "onnx", "openvino")


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Modules of scripts/ by name."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module


def refinement_row(method: str, accuracy: float | None, **told: Any) -> dict[str, Any]:
    row = {"model": "hard", "format": "onnx", "granularity": "per_channel", "weight_bits": 8, "method": method}
    drop = None if accuracy is None else 100 * (0.9 - accuracy)
    return row | DAY | {"accuracy": accuracy, "drop_pp": drop, "size_bytes": 1000, "error": None} | told


def refinement_rows(better: float | None, size: int = 1000, refined: float = 0.89) -> list[dict[str, Any]]:
    other = None if better is None else refined - better / 100
    told = {"ours_better_pp": better, "ours_better_low_pp": better, "ours_better_high_pp": better, "size_bytes": size}
    return [
        refinement_row("fp32", 0.9, weight_bits=32),
        refinement_row("ours, plain", 0.87),
        refinement_row("ours, refined", refined),
        refinement_row("ONNX Runtime MinMax", other, error="it broke" if better is None else None, **told),
    ]


def mixed_row(method: str, bits: float, accuracy: float | None, **told: Any) -> dict[str, Any]:
    row = {"format": "openvino", "method": method, "bits_wanted": bits, "status": "ok", "error": None}
    figures = {
        "accuracy_low": 0.8,
        "accuracy_high": 0.95,
        "mean_weight_bits": bits,
        "size_bytes": 9,
        "step_seconds": 2.0,
    }
    return row | DAY | figures | {"accuracy": accuracy, "size_entropy_bytes": None} | told


def network_row(fmt: str, **told: Any) -> dict[str, Any]:
    row = {"network": "squeezenet", "format": fmt, "status": "ok", "error": None, "epochs": 1, "accuracy": 0.7}
    figures = {
        "model_parameters": 5000,
        "macs": 70000,
        "size_bytes": 9000,
        "training_seconds": 12.0,
        "training_rows": 6000,
    }
    return row | DAY | figures | {"format_relative_error": 1e-6, "latency_median_ns": 250_000} | told


def transform_row(fmt: str) -> dict[str, Any]:
    row = {"model": "imu", "steps": "haar(low)", "format": fmt, "accuracy": 0.9, "macs": 100, "transform_macs": 10}
    lost = {f"drop_to_control{end}_pp": value for end, value in (("", 1.0), ("_low", 0.5), ("_high", 1.5))}
    return (
        row
        | DAY
        | lost
        | {"transform_alone_ns": 5000, "nothing_ns": 2000, "latency_ratio": 0.5, "latency_saved_ns": 40_000}
    )


def sampler_rows() -> list[dict[str, Any]]:
    table = [
        {"source": "table", "sampler": "tpe", "trial": trial, "seeds": 10, "seeds_with_a_feasible_one": found}
        | {"mean": mean, "low_95": None if mean is None else mean - 0.01, "near_the_best": 4, "best_there_is": 0.85}
        | {"size_limit_bytes": 30000.0}
        | DAY
        for trial, found, mean in ((5, 7, None), (10, 10, 0.8))
    ]
    live = {"source": "live", "sampler": "tpe", "trial": 10, "value": 0.84, "trials_as_recorded": 9}
    return [*table, live | {"trials_in_the_table": 10} | DAY]


def fronts_document() -> dict[str, Any]:
    row = {"recipe": "fp32 @ tflite", "on_local_front": True, "on_guest_front": False, "accuracy_test": 0.9}
    ratios = {
        "latency_ratio": 1.0,
        "virtual_time_ratio": 1.0,
        "clocks_disagree": 1.0,
        "size_bytes": 7,
    }
    kill = {"ended_before_the_kill": 5, "at_work_when_killed": 1, "trials_in_the_end": 16, "unchanged": 5}
    return {
        "kill": kill | {"recipes_tried_twice": 0, "taken_up_again": 1} | DAY,
        "differences": ["they differ"],
        "rows": [row | ratios | DAY],
    }


FILES: dict[str, Any] = {
    "refinement.json": refinement_rows(0.5),
    "mixed_precision.json": [mixed_row("single", 4.0, 0.8), mixed_row("mixed", 4.0, 0.82)],
    "compact_networks.json": [network_row(fmt) for fmt in FORMATS],
    "input_transforms.json": [transform_row(fmt) for fmt in FORMATS],
    "search_samplers.json": sampler_rows(),
    "search_fronts.json": fronts_document(),
    "wall_time.json": [{"command": "python scripts/made.py", "seconds": 90.0, "cpus": 2} | DAY],
}


def written(folder: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_sections_without_figures_say_which_script_makes_them(scripts: Any, tmp_path: Path) -> None:
    text = scripts("_search_page").page(tmp_path)
    assert text.count("Not measured yet") == len(FILES)
    named = re.findall(r"`(scripts/\w+\.py)", text)
    assert [name for name in named if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("name", FILES)
def test_a_section_needs_no_other_sections_figures(scripts: Any, tmp_path: Path, name: str) -> None:
    text = scripts("_search_page").page(written(tmp_path, {name: FILES[name]}))
    assert text.count("Not measured yet") == len(FILES) - 1


def test_figures_stand_in_the_tables(scripts: Any, tmp_path: Path) -> None:
    text = scripts("_search_page").page(written(tmp_path, FILES))
    for cell in (
        "| +3.00 | +1.00 | ONNX Runtime MinMax | +1.50 | +0.50 [+0.5, +0.5] | 1.00 |",  # refinement
        "| OpenVINO | 4 | mixed | 4.00 | 82.00% [80.0%, 95.0%] |",
        "| `squeezenet` | 5,000 | 70,000 | 9,000 | 12 | 70.0% | 0.250 / 0.250 / 0.250 | 1e-06 |",
        "| `haar(low)` | 90.00% | +1.00 [+0.5, +1.5] | +1.00 | +1.00 | 100 | 10 | 3.0 / 3.0 / 3.0 | 40.0 / 40.0 / 40.0 | 0.50",
        "| `tpe` | 7 of 10 found any | 80.00 ± 1.00 | 4 of 10 | 84.00% (9 of 10 as recorded) |",
        "| `fp32 @ tflite` | host | 90.0% | 1.000 | 1.000 | 1.000 | 7 |",
        "killed (SIGKILL) after 5 trials had ended",
        "| `python scripts/made.py` | 1.5 | 2 |",
    ):
        assert cell in text


def test_pictures_are_linked_only_where_they_are(scripts: Any, tmp_path: Path) -> None:
    page = scripts("_search_page").page
    assert "![" not in page(written(tmp_path, FILES))
    (tmp_path / "search_fronts.svg").write_text("<svg/>", encoding="utf-8")
    assert page(tmp_path).count("](../results/reference/search_fronts.svg)") == 1


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        (refinement_rows(-0.19), "at equal size: **1 of 1**."),
        (refinement_rows(-0.21), "at equal size: **0 of 1**.\n  - not: the same, outlier channels, ONNX"),
        (refinement_rows(0.5, size=900), "at equal size: **0 of 0**."),
        (refinement_rows(0.5, size=900), "not of equal size:\n  - the same, outlier channels, ONNX"),
        (refinement_rows(-0.5, size=1300), "not of equal size:\n  - the same, outlier channels, ONNX"),
        (refinement_rows(0.5, size=1300), "at equal size: **1 of 1**."),
        (refinement_rows(None), "could not be compared:\n  - the same, outlier channels, ONNX"),
        (refinement_rows(0.5), "hard to quantize: **1 of 1**."),
        (refinement_rows(0.5), "better there than another tool: **1 of 1**."),
        (refinement_rows(-0.1), "better there than another tool: **0 of 1**.\n  - not: the same"),
        (refinement_rows(0.5, refined=0.86), "hard to quantize: **0 of 1**.\n  - not: the same"),
    ],
)
def test_refinement_is_judged_by_what_its_rows_say(scripts: Any, rows: list[dict[str, Any]], line: str) -> None:
    assert line in "\n".join(scripts("_refinement_page").refinement_verdicts(rows))


def test_curves_of_mixed_precision_are_judged_below_eight_bits_only(scripts: Any) -> None:
    rows = [
        mixed_row("single", 8.0, 0.85),
        mixed_row("mixed", 8.0, 0.84),
        mixed_row("single", 4.0, 0.80),
        mixed_row("mixed", 4.0, 0.82),
        mixed_row("gradient", 4.0, 0.81, over_mixed_pp=-1.0, over_mixed_low_pp=-1.5, over_mixed_high_pp=-0.5),
        mixed_row("mixed", 3.0, None),
    ]
    assert scripts("_refinement_page").mixed_verdicts(rows) == [
        "- OpenVINO, below 8 bits: mixed not below single precision: **1 of 1**.",
        "- OpenVINO, below 8 bits: mixed + gradient not below mixed: **0 of 1**.\n  - not: 4 bits: -1.00 [-1.5, -0.5] points",
    ]


def test_failed_rows_stay_in_the_tables(scripts: Any, tmp_path: Path) -> None:
    lost = mixed_row("mixed", 3.0, None, status="failed", error="no solution")
    networks = [network_row("tflite"), network_row("onnx", status="failed", error="it broke")]
    files = {"mixed_precision.json": [lost], "compact_networks.json": networks}
    text = scripts("_search_page").page(written(tmp_path, files))
    assert "| OpenVINO | 3 | mixed | 3.00 | failed: no solution |" in text
    assert "squeezenet, ONNX: failed: it broke" in text
    assert "squeezenet, OpenVINO: missing" in text


def test_a_call_is_told_without_the_folders_of_one_machine(scripts: Any, tmp_path: Path) -> None:
    module = scripts("_wall_time")
    argv = ["/a/made.py", "record", "--data", "/a/b", "--limit", "6", "--work=/c", "--out", "/d", "tpe"]
    assert module.command(argv) == "python scripts/made.py record --limit 6 tpe"
    for seconds in (30.0, 90.0, 2.0):
        module.note(tmp_path, seconds, argv)
    (row,) = json.loads((tmp_path / "wall_time.json").read_text(encoding="utf-8"))
    assert row["seconds"] == 90.0
