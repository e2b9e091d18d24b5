"""A converter and a session that only pretend, so that the joints of a search can be tested without a toolchain or an engine."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from pathlib import Path
from typing import Any

import numpy as np
from sample_session import BASE, Made, sample_session

from converters.base_model import BaseModel
from converters.cache import key_of
from converters.jobs import ConversionReport, ConversionRequest, ConversionRow
from converters.recipe import Recipe
from converters.variant import Manifest, Signature, TensorSpec, Variant, save_manifest
from harness.records import SessionData
from harness.runner import SessionSpec

DEMO = Path(__file__).resolve().parent.parent / "harness" / "demo" / "model.keras"
SPACE = """
  recipes: ["prune({sparsity}, epochs={epochs}) > {precision} @ tflite", "{precision} @ tflite"]
  parameters:
    sparsity: {float: [0.1, 0.9], step: 0.1}
    epochs: {int: [0, 1]}
    precision: {choice: [fp32, static_wi8_ai8]}
"""


def experiment_text(more: str = "", data: str = "data: {path: data.npz}\n") -> str:
    """An experiment with a search; `more`: keys of the section, indented by two."""
    return f"name: shop\nbase: {DEMO}\nbase_name: {BASE}\n{data}search:{SPACE}{more}"


def write_data(path: Path, *, training: bool = True) -> None:
    """An npz with 40 test rows, and 100 training rows of five classes."""
    rng = np.random.default_rng(0)
    names = ("x_test", "y_test") if training else ("x", "y")
    arrays = dict(zip(names, (rng.random((40, 4, 4, 1), np.float32), np.arange(40) % 5), strict=True))
    if training:
        arrays |= {"x_train": rng.random((100, 4, 4, 1), np.float32), "y_train": np.arange(100) % 5}
    np.savez(path, **arrays)


def sparsity_of(recipe: Recipe) -> float:
    return float(recipe.steps[0].values["sparsity"]) if recipe.steps else 0.0


class Converter:
    """Makes variants that say what their recipe says; notes every request. `fails`: recipes with this in their name fail."""

    def __init__(self, fails: str = "never") -> None:
        self.requests: list[ConversionRequest] = []
        self.fails = fails
        self.at_work = 0
        self._lock = threading.Lock()

    def __call__(self, request: ConversionRequest) -> ConversionReport:
        with self._lock:
            self.requests.append(request)
            self.at_work += 1
        try:
            rows = [self._row(request, recipe) for recipe in request.recipes]
        finally:
            with self._lock:
                self.at_work -= 1
        base = BaseModel(request.base, "keras", BASE, "0" * 64, 1)
        return ConversionReport(rows, base, BASE, self._reference(request), 0.0)

    def _row(self, request: ConversionRequest, recipe: Recipe) -> ConversionRow:
        name = recipe.variant_name(BASE)
        if self.fails in recipe.name:
            return ConversionRow(
                name, recipe.format, recipe.name, "failed", "Crashed", "the tool was killed by SIGSEGV"
            )
        folder = request.out / name
        folder.mkdir(parents=True, exist_ok=True)
        content = key_of({"recipe": recipe.key}).encode()
        (folder / "model.tflite").write_bytes(content)
        size = (1.0 - sparsity_of(recipe) / 2) * (1.0 if recipe.mode == "float" else 0.25)
        image = TensorSpec("image", (None, 4, 4, 1), "float32", source="image")
        manifest = Manifest(
            name=name,
            format=recipe.format,
            artifact="model.tflite",
            files={"model.tflite": hashlib.sha256(content).hexdigest()},
            signature=Signature((image,), ()),
            size_bytes=round(100_000 * size),
            size_gzip_bytes=round(90_000 * size),
            base=BASE,
            recipe=recipe.to_dict(),
            parameters=1000,
            ledger={"macs": 5000, "effective_macs": round(5000 * (1 - sparsity_of(recipe))), "artifact_missing": None},
        )
        save_manifest(folder, manifest)
        return ConversionRow(name, recipe.format, recipe.name, "ok", folder=folder)

    def _reference(self, request: ConversionRequest) -> Path | None:
        if request.dataset is None:
            return None
        path = request.out / "reference.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **{"out:logits": np.random.default_rng(1).random((request.dataset.rows, 5), np.float32)})
        return path


def _made(artifact: Variant) -> Made:
    recipe = str(artifact.manifest.recipe_name)
    sparsity = 1 - float(artifact.manifest.ledger["effective_macs"]) / 5000
    time = (1.0 - sparsity / 4) * (0.5 if "wi8" in recipe else 1.0)
    return Made("tflite", recipe, time, artifact.manifest.size_bytes, sparsity / 5)


class Sessions:
    """Pretends to measure: the sparser, the faster and the more often wrong. Notes every session; `meanwhile`: called during each."""

    def __init__(self, meanwhile: Any = lambda: None, *, counted: bool = False, broken: bool = False) -> None:
        self.specs: list[SessionSpec] = []
        self.meanwhile, self.counted, self.broken = meanwhile, counted, broken

    def __call__(self, spec: SessionSpec, **_: Any) -> SessionData:
        self.specs.append(spec)
        self.meanwhile()
        variants = [_made(artifact) for artifact in spec.artifacts.values()]
        rows = 1 if spec.reference is None else spec.reference.rows
        data = sample_session(
            runs=4, rounds=3, block_s=0.01, devices=(spec.devices[0].name,), rows=rows, variants=variants
        )
        if self.counted:
            facts = [dataclasses.replace(device, facts={"counts_instructions": True}) for device in data.devices]
            data = dataclasses.replace(data, devices=tuple(facts))
        if self.broken:
            data = dataclasses.replace(data, runs=())
        # What stands in every sample session beside the variants asked for.
        return dataclasses.replace(data, variants=data.variants[: len(variants)])
