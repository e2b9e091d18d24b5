"""Stored runs → rows: the only place that aggregates.

Place in the flow: `Store.load` → `build_rows` → reports, choice, comparison. Deterministic: the same SessionData gives the same
rows, to the last bit. Nothing is measured or guessed here; a figure that is missing says why.

A device that counts instructions has virtual time in a field of its own, and no latency, load or first-inference time at all.

What is read: latency from the "measure" blocks of latency runs that ended or were interrupted; cold start and memory from
probe runs; answers from the first evaluation, held against the session's reference.
"""

from harness.table.medians import block_medians, run_medians
from harness.table.rows import build_rows

__all__ = ["block_medians", "build_rows", "run_medians"]
