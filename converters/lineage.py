"""What a variant's manifest says of how it came about: the compression steps, what they ship, and what the variant costs.

Used by the worker when it has exported a variant. Light: who reads the artifact's tensors is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from converters.cache import link_or_copy
from converters.compress.record import KEEP, plain, read_record
from converters.variant import sha256_file

# What is counted before the export, of the Keras model: the exported file has no layers to count products in.
_OF_THE_MODEL = ("macs", "effective_macs", "macs_uncounted", "macs_missing")
ENTROPY_BYTES = "size_entropy_bytes"
LedgerOf = Callable[[Path, str], dict[str, Any]]


def chain_fields(steps: Sequence[str], folder: Path) -> dict[str, Any]:
    """The manifest's `lineage` and `extras` of a variant in `folder`; the files that steps ship are brought there.

    `steps`: folders of finished steps, in order. A name that is taken gets the step's number in front.
    """
    lineage = []
    extras: dict[str, str] = {}
    for number, step in enumerate(map(Path, steps), 1):
        record = read_record(step)
        lineage.append(record.lineage())
        for file in record.files:
            name = f"{number}_{file}" if (folder / file).exists() else file
            link_or_copy(step / KEEP / file, folder / name)
            extras[name] = sha256_file(folder / name)
    return {"lineage": tuple(lineage), "extras": extras}


def ledger_fields(of_model: Mapping[str, Any], artifact: Path, fmt: str, ledger_of: LedgerOf) -> dict[str, Any]:
    """The manifest's `ledger` and `size_entropy_bytes`: products of the model, everything else of the artifact's own tensors.

    `of_model`: as `converters.ledger_model.model_ledger` says, with `parameters` and `non_zeros` under `model_…`; empty for a
    base without layers. An artifact that cannot be read has its reason as `artifact_missing`, and None for the sizes.
    """
    ledger: dict[str, Any] = {key: of_model.get(key) for key in _OF_THE_MODEL}
    ledger |= {f"model_{key}": of_model.get(key) for key in ("parameters", "non_zeros")}
    if not of_model:
        ledger |= {"macs_uncounted": {}, "macs_missing": "a SavedModel has no layers to count products in"}
    try:
        ledger |= ledger_of(artifact, fmt)
        ledger["artifact_missing"] = None
    except Exception as error:  # noqa: BLE001  a variant that works is not lost because its tensors cannot be counted
        ledger["artifact_missing"] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return {"ledger": plain(ledger), ENTROPY_BYTES: ledger.get(ENTROPY_BYTES)}
