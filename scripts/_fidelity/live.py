"""Live pairs: one real artifact under two names, through the harness's own road from session to verdict.

Whatever the harness then says of the two is known to be right or wrong: they are the same file, and differ only by the slowdown that
was put into the engine on purpose (`harness/agent/engines/injected.py`). Used by G2, G4, G5, G6 and `scripts/rival_rules.py`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from trials import path, series

from converters import pipeline
from converters.cache import default_cache
from converters.recipe_words import parse_recipes
from converters.variant import Variant, load_variant
from harness.cli.artifacts import record
from harness.compare import Pair, compare_variants
from harness.plan import PRESETS, MeasurementProtocol
from harness.profiles import DeviceProfile
from harness.records import LATENCY, SessionData
from harness.runner import SessionSpec, run_session
from harness.store import Store

DEMO = Path(__file__).resolve().parent.parent.parent / "harness" / "demo" / "model.keras"
BASE, CANDIDATE = "base", "candidate"
RECIPE = "tflite:fp32"

# The rules of the standard preset (six runs at least, ten at most, looked at after each) in short runs, so that a pair fits into
# 15 s; the interleaving is as fine as it can be. Memory and cold start are not asked for more than once.
PROTOCOL = dataclasses.replace(
    PRESETS["standard"],
    runs=6,
    max_runs=10,
    stop_on="verdict",
    probes=1,
    memory_invokes=1,
    warmup_s=0.05,
    run_s=0.1,
    rounds=25,
)


@cache
def demo(recipe: str = RECIPE) -> Variant:
    """The demo's model in one format, converted once and from then on out of the user's cache (kept below it)."""
    out = default_cache() / "fidelity"
    request = pipeline.ConversionRequest(DEMO, parse_recipes([recipe]), out, dataset=None, cache=default_cache())
    (row,) = pipeline.convert(request).rows
    if row.folder is None:
        raise RuntimeError(f"{recipe}: {row.message}")
    return load_variant(row.folder)


def named(variant: Variant, name: str) -> Variant:
    """The same artifact under another name."""
    return dataclasses.replace(variant, manifest=dataclasses.replace(variant.manifest, name=name))


def measured(
    variant: Variant,
    seed: int,
    *,
    protocol: MeasurementProtocol = PROTOCOL,
    options: Mapping[str, Any] | None = None,
    names: tuple[str, ...] = (BASE, CANDIDATE),
) -> SessionData:
    """One session of the artifact under these names on this host, out of a store on disk."""
    twins = {name: named(variant, name) for name in names}
    with tempfile.TemporaryDirectory(prefix="fidelity-") as folder, Store.open(Path(folder) / "pair.sqlite") as store:
        spec = SessionSpec(
            name="fidelity",
            variants=[record(twin) for twin in twins.values()],
            artifacts=twins,
            devices=[DeviceProfile(name="local", transport="local")],
            protocol=protocol,
            seed=seed,
            options=dict(options or {}),
        )
        return store.load(run_session(spec, store))


def judged(data: SessionData, candidate: str = CANDIDATE) -> Pair:
    """The harness's own comparison of a candidate with the base."""
    (pair,) = compare_variants(data, "local", BASE, [candidate]).pairs
    return pair


def trial(
    seed: int, slowdown: float, *, protocol: MeasurementProtocol = PROTOCOL, recipe: str = RECIPE
) -> dict[str, Any]:
    """One pair, the candidate slower by that share: what was said of it, and what it cost (`seconds`, wall)."""
    # Converting is no part of a pair's cost.
    variant = demo(recipe)
    begun = time.monotonic()
    options = {"inject": {"slowdown": {CANDIDATE: slowdown}}}
    data = measured(variant, seed, protocol=protocol, options=options)
    seconds = time.monotonic() - begun
    pair = judged(data)
    found = pair.comparison
    runs = [run for run in data.runs if run.kind == LATENCY and run.status == "ok"]
    return {
        "seed": seed,
        "slowdown": slowdown,
        "verdict": found.verdict,
        "ratio": found.ratio,
        "low": found.low,
        "high": found.high,
        "runs": len(runs),
        "method": pair.method,
        "median_ns": pair.reference.latency_median_ns,
        "grade_reasons": pair.reference.grade_reasons,
        "seconds": round(seconds, 2),
        "in_runs_s": round(math.fsum(run.duration_s for run in data.runs), 2),
    }


def quiet() -> None:
    """No warnings of a busy machine for each of hundreds of sessions: the load stands in every trial."""
    logging.getLogger("harness").setLevel(logging.ERROR)


def setting(recipe: str = RECIPE, protocol: MeasurementProtocol = PROTOCOL) -> str:
    """What makes two trials trials of the same thing."""
    text = json.dumps([recipe, dataclasses.asdict(protocol), demo(recipe).manifest.files], sort_keys=True)
    return f"{recipe} {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def trials_of(seed: int, counts: Mapping[float, int]) -> dict[float, list[dict[str, Any]]]:
    """So many pairs of each slowdown, in random order; those that the day has already are not made again."""
    quiet()
    keys = {f"pair {size:g} #{number}": size for size, wanted in counts.items() for number in range(wanted)}

    def shown(entry: Mapping[str, Any]) -> str:
        if entry["ratio"] is None:
            return "no ratio"
        interval = f"[{entry['low']:.4f}, {entry['high']:.4f}]"
        return f"{entry['verdict']} {entry['ratio']:.4f} {interval}, {entry['runs']} runs, {entry['seconds']} s"

    entries = series(list(keys), lambda key, own: trial(own, keys[key]), setting=setting(), seed=seed, shown=shown)
    return {size: [entry for entry in entries if entry["slowdown"] == size] for size in counts}


def trials(seed: int, slowdown: float, number: int) -> list[dict[str, Any]]:
    """So many pairs of one slowdown."""
    return trials_of(seed, {slowdown: number})[slowdown]


def note(entries: Sequence[Mapping[str, Any]]) -> str:
    """In one sentence, what a pair was and what it cost."""
    typical = statistics.median(entry["median_ns"] for entry in entries if entry["ratio"]) / 1e6
    seconds, runs = [entry["seconds"] for entry in entries], [entry["runs"] for entry in entries]
    return (
        f"demo {RECIPE}, {typical:.2f} ms; a pair took {statistics.median(seconds):.1f} s (at most {max(seconds):.1f}) and "
        f"{statistics.median(runs):g} runs of {PROTOCOL.run_s:g} s (at most {max(runs)}), shorter than rule 1 asks"
    )


def details(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Verdicts and how far the ratios lie apart."""
    logs = [math.log(entry["ratio"]) for entry in entries if entry["ratio"]]
    return {
        "verdicts": dict(Counter(str(entry["verdict"]) for entry in entries)),
        "runs": dict(Counter(entry["runs"] for entry in entries)),
        "ratio_mean": math.exp(statistics.fmean(logs)),
        "ratio_standard_deviation": statistics.stdev(logs) if len(logs) > 1 else None,
        "seconds": sum(entry["seconds"] for entry in entries),
        "file": path().name,
    }
