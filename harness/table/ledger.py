"""What a variant costs whatever it runs on: weights, products and planned memory, as its manifest's ledger has counted them.

Counted at the conversion (`converters.ledger_artifact`, `converters.ledger_model`), where a chain has compression steps. Nothing here is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.records import VariantRecord
from harness.row import OK

NOT_COUNTED = "not counted: only conversions with compression steps are"
# Field of the row, key of the ledger, and the keys of which one says why it is missing.
_FIELDS = (
    ("size_entropy_bytes", "size_entropy_bytes", ("artifact_missing",)),
    ("artifact_parameters", "parameters", ("artifact_missing",)),
    ("non_zeros", "non_zeros", ("artifact_missing",)),
    ("unique_values", "unique_values", ("artifact_missing",)),
    ("weights_bytes", "weights_bytes", ("artifact_missing",)),
    ("macs", "macs", ("macs_missing",)),
    ("effective_macs", "effective_macs", ("macs_missing",)),
    ("arena_planned_bytes", "arena_bytes", ("arena_missing", "artifact_missing")),
)
LEDGER_FIELDS = tuple(name for name, _, _ in _FIELDS)


def ledger_counts(manifest: Mapping[str, Any]) -> tuple[dict[str, int], dict[str, str]]:
    """Counts by the row's field, and the reason of each that is missing, of a manifest as plain data.

    A manifest may come from anywhere: what is no count in it is none here.
    """
    ledger = manifest.get("ledger")
    ledger = ledger if isinstance(ledger, Mapping) else {}
    counts: dict[str, int] = {}
    reasons: dict[str, str] = {}
    for field, key, whys in _FIELDS:
        value = ledger.get(key, manifest.get(field))
        # A bool is an int to Python, and no count.
        if type(value) is int and value >= 0:
            counts[field] = value
            continue
        told = next((ledger[why] for why in whys if isinstance(ledger.get(why), str) and ledger[why]), None)
        reasons[field] = told or (NOT_COUNTED if not ledger else "the manifest does not say")
    return counts, reasons


def ledger_figures(variant: VariantRecord, figures: dict[str, Any], reasons: dict[str, str]) -> None:
    """Fill in what the manifest has counted; a variant that does not exist has nothing to count."""
    if variant.status == OK:
        counts, missing = ledger_counts(variant.manifest)
        figures |= counts
        reasons |= missing
