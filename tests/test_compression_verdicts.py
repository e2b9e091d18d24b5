"""What the reference script says of its rows: each step by its own claim, and by no other's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


def row(steps: str, model: str = "m", **fields: Any) -> dict[str, Any]:
    sizes = dict.fromkeys(
        ("parameters", "size_bytes", "size_gzip_bytes", "size_entropy_bytes", "macs", "effective_macs"), 100
    )
    other = {"latency_ratio": 1.0, "accuracy_drop_pp": 0.0, "entropy_file_ratio": None}
    return {"model": model, "steps": steps, "format": "tflite", **sizes, **other, **fields}


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Any:
    """verdicts() of rows beside their base, as {claim: kept}."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.delitem(sys.modules, "_compression_verdicts", raising=False)
    from _compression_verdicts import verdicts

    return lambda found: {item.claim: item.kept for item in verdicts([row("fp32", found["model"]), found])}


def test_pruning_claims_storage_and_no_smaller_file(judged: Any) -> None:
    found = judged(row("prune_0.5+fp32", size_gzip_bytes=50, size_entropy_bytes=100, effective_macs=None))
    assert found == {
        "prune: size_gzip_bytes smaller": True,
        "prune: size_entropy_bytes smaller": False,
        "prune: effective_macs smaller": None,
    }


def test_structured_pruning_claims_shapes_and_latency(judged: Any) -> None:
    found = judged(row("prune_structured_0.5_by-taylor+fp32", parameters=50, size_bytes=50, macs=50, latency_ratio=1.1))
    assert found.pop("prune_structured: latency lower") is False
    assert set(found.values()) == {True}
    assert not any(claim.startswith("prune:") for claim in found)
    # Integers against floats say nothing of the pruning.
    assert "prune_structured: latency lower" not in judged(row("prune_structured_0.5+static_wi8_ai8"))


def test_only_a_narrower_student_claims_to_be_smaller(judged: Any) -> None:
    assert judged(row("distill+fp32")) == {}
    assert judged(row("distill_0.75+fp32", parameters=60))["distill: parameters smaller"] is True


def test_deep_compression_wants_ratio_and_accuracy(judged: Any) -> None:
    claim = "40 times smaller at ≤ 0.3 points"
    for ratio, drop, kept in ((41.0, 0.3, True), (39.9, 0.0, False), (41.0, 0.31, False)):
        found = judged(
            row("prune_0.92+cluster_16+entropy+fp32", "lenet300", entropy_file_ratio=ratio, accuracy_drop_pp=drop)
        )
        assert found[claim] is kept
    assert claim not in judged(row("fine_tune_50+fp32", "lenet300"))


def test_half_of_the_parameters(judged: Any) -> None:
    for parameters, drop, kept in ((50, 2.7, True), (51, 0.0, False), (50, 2.8, False)):
        found = judged(row("prune_structured_0.5+fp32", "resnet", parameters=parameters, accuracy_drop_pp=drop))
        assert found["half of the parameters at ≤ 2.7 points"] is kept
