"""The answers of one row: accuracy, drop and agreement against labels and base model."""

from __future__ import annotations

from typing import Any

from harness.records import Evaluation, Reference
from harness.stats import proportions
from harness.table.cells import Cell

_LABELLED = ("accuracy", "accuracy_top5", "macro_f1")
_DROP = ("accuracy_drop_pp", "accuracy_drop_low_pp", "accuracy_drop_high_pp")
_CLASSIFICATION = (*_LABELLED, *_DROP, "agreement")
_REGRESSION = ("mae", "rmse", "rmse_ratio")
_TOP5 = 5


def answer_figures(cell: Cell, reference: Reference | None, figures: dict[str, Any], reasons: dict[str, str]) -> None:
    """Fill in what the answers are worth; `reasons` for what cannot be told."""
    task = "none" if reference is None else reference.task
    everything = (*_CLASSIFICATION, *_REGRESSION)
    if not cell.evaluations:
        reason = "there are no labelled data" if task == "none" else "no probe run gave its outputs"
        reasons |= dict.fromkeys((*everything, "outputs_sha256"), reason)
        return
    evaluation = cell.evaluations[0]
    figures["outputs_sha256"] = evaluation.outputs_sha256
    if reference is None or task == "none":
        reasons |= dict.fromkeys(everything, "there are no labelled data")
    elif evaluation.rows != reference.rows:
        reasons |= dict.fromkeys(everything, f"outputs of {evaluation.rows} of {reference.rows} rows")
    elif task == "regression":
        reasons |= dict.fromkeys(_CLASSIFICATION, "a regression has no classes")
        _regression(evaluation, reference, figures, reasons)
    else:
        reasons |= dict.fromkeys(_REGRESSION, "a classification has no such error")
        _classification(evaluation, reference, figures, reasons)


def _classification(
    evaluation: Evaluation, reference: Reference, figures: dict[str, Any], reasons: dict[str, str]
) -> None:
    top, labels, base = evaluation.top, reference.labels, reference.base_top
    if top is None:
        reasons |= dict.fromkeys(_CLASSIFICATION, "the outputs are no class scores")
        return
    if base is None:
        reasons |= dict.fromkeys((*_DROP, "agreement"), "the base model's own outputs are not known")
    else:
        figures["agreement"] = proportions.agreement(top[:, 0], base[:, 0])
    if labels is None:
        reasons |= dict.fromkeys((*_LABELLED, *_DROP), "the data have no labels")
        return
    right = proportions.top_k_right(top, labels, 1)
    figures |= {"accuracy": float(right.mean()), "macro_f1": proportions.macro_f1(top[:, 0], labels)}
    if top.shape[1] >= _TOP5:
        figures["accuracy_top5"] = float(proportions.top_k_right(top, labels, _TOP5).mean())
    reasons["accuracy_top5"] = f"there are only {top.shape[1]} classes"
    if base is not None:
        lost = proportions.paired_difference(proportions.top_k_right(base, labels, 1), right)
        figures |= {"accuracy_drop_pp": 100 * lost.value, "accuracy_drop_low_pp": 100 * lost.low}
        figures["accuracy_drop_high_pp"] = 100 * lost.high


def _regression(evaluation: Evaluation, reference: Reference, figures: dict[str, Any], reasons: dict[str, str]) -> None:
    outputs, labels, base = evaluation.outputs, reference.labels, reference.base_outputs
    if outputs is None or labels is None or outputs.size != labels.size:
        why = "the data have no labels" if labels is None else "the outputs do not match the labels' shape"
        reasons |= dict.fromkeys(_REGRESSION, why)
        return
    mae, rmse = proportions.errors(outputs, labels)
    figures |= {"mae": mae, "rmse": rmse}
    base_rmse = proportions.errors(base, labels)[1] if base is not None and base.size == labels.size else 0.0
    figures["rmse_ratio"] = rmse / base_rmse if base_rmse > 0.0 else None
    reasons["rmse_ratio"] = "the base model's own error is not known, or zero"
