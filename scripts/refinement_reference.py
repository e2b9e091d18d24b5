"""Post-training refinement against the quantizers of NNCF, ONNX Runtime and ai-edge-quantizer: same model, data and format.

    python scripts/refinement_reference.py MODEL… --data DIR [--work DIR]

MODEL: fashion (the demo's network), hard (the same with outlier channels: every eighth channel of three depthwise layers times 30, undone
in the next layer, so that its answers stay), resnet, imu. DIR holds fashion_mnist_dev.npz and watch_imu_dev.npz. One model a call takes at
most twelve minutes on two cores; what was made before is not made again. Ours go through the public command `harness convert`, theirs through
their own functions (`_peer_quantizers.py`) on our fp32 file, with the same CALIBRATION rows, which have no labels for either. Every file is
then run by its own engine on all test rows. One flat row per model × format × granularity × bits × method goes into
results/reference/refinement.json; rows of the same kind are replaced.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from _evaluate import outputs
from _peer_quantizers import PER_CHANNEL, PER_TENSOR, peers, run_tflite
from _reference_models import ROOT, prepare
from _refinement_page import refinement_verdicts
from _wall_time import command, note

from converters.dataset import Dataset, load_dataset
from converters.variant import TensorSpec, Variant, load_variant
from harness.stats.proportions import paired_difference

FORMATS = ("tflite", "onnx", "openvino")
CALIBRATION = 256
OUT = ROOT / "results" / "reference" / "refinement.json"
MODELS = ("fashion", "hard", "resnet", "imu")
OUTLIER, EVERY, LAYERS = 30.0, 8, 3
# Bits of weights that ours take for "8 bits": 7 where this CPU's integer sums would saturate, as the others do too.
BITS = {"tflite": 8, "onnx": 7, "openvino": 7}
INT8 = "static_wi8_ai8"
# A file larger than that of float32 times this is none of integers.
FLOAT_SHARE = 0.8


def chains(fmt: str, granularity: str, bits: int) -> dict[str, str]:
    """Our recipes by the words of a row's `method`: the plain precision, then one step of refinement after the other."""
    weights = bits if bits < 8 else BITS[fmt]
    calibrate = f"calibrate(mse, weight_bits={weights}" + (
        ")" if granularity == PER_CHANNEL else ", granularity=per_tensor)"
    )
    precision = INT8 if bits == 8 else "static_wi4_ai8"
    plain = INT8 if granularity == PER_CHANNEL else f"{INT8}_per_tensor"
    found = {} if bits < 8 else {"ours, plain": plain, "ours, equalize": f"equalize > {plain}"}
    between = {
        "ours, calibrate": f"{calibrate} > {precision}",
        "ours, equalize > calibrate": f"equalize > {calibrate} > {precision}",
        "ours, equalize > calibrate > adaround": f"equalize > {calibrate} > adaround > {precision}",
    }
    # What each step is worth is told by the usual granularity.
    found |= between if granularity == PER_CHANNEL else {}
    return found | {"ours, refined": f"equalize > {calibrate} > adaround > correct_bias > {precision}"}


def settings(model: str) -> list[tuple[str, str, int]]:
    """Format, granularity and bits of what is compared."""
    found = [(fmt, PER_CHANNEL, 8) for fmt in FORMATS] + [("tflite", PER_CHANNEL, 4)]
    return found + ([(fmt, PER_TENSOR, 8) for fmt in FORMATS] if model == "hard" else [])


def make_hard(source: Path, target: Path) -> None:
    """The model with outlier channels; run in a process of its own, since it loads TensorFlow."""
    import keras

    from converters.compress.equalize import move
    from converters.compress.equalize_pairs import DEPTHWISE, find_pairs
    from converters.compress.graph import read_graph

    model = keras.models.load_model(source, compile=False)
    pairs = [pair for pair in find_pairs(read_graph(model))[0] if type(pair.first).__name__ in DEPTHWISE][:LAYERS]
    if len(pairs) < LAYERS:
        raise SystemExit(f"{source}: only {len(pairs)} depthwise layers whose channels may be scaled")
    for pair in pairs:
        factors = np.ones(pair.channels)
        factors[::EVERY] = 1 / OUTLIER
        move(pair, factors)
    model.save(target)


def bases(name: str, arguments: argparse.Namespace) -> tuple[Path, Path]:
    """The model's file and its data."""
    folder = arguments.work / "bases"
    if name != "hard":
        return prepare(name, arguments.data, folder, arguments.seed)
    model, data = prepare("fashion", arguments.data, folder, arguments.seed)
    target = folder / "hard.keras"
    if not target.exists():
        subprocess.run([sys.executable, __file__, "--make-hard", str(model), str(target)], check=True)
    return target, data


class Study:
    """One model: its data, its fp32 variants, and what was found so far."""

    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        self.name = name
        self._arguments = arguments
        self._model, self._data = bases(name, arguments)
        self._formats = tuple(arguments.formats.split(","))
        self._work = arguments.work / (
            "refinement-" + name + ("" if arguments.limit is None else f"-{arguments.limit}")
        )
        self._work.mkdir(parents=True, exist_ok=True)
        self._store = self._work / "peers.json"
        self.data: Dataset = load_dataset(
            self._data, seed=arguments.seed, calibration_size=CALIBRATION, limit=arguments.limit
        )
        self.rows: list[dict[str, Any]] = []
        self._float: dict[str, tuple[Variant, np.ndarray]] = {}
        self._right: dict[tuple[Any, ...], np.ndarray] = {}

    def run(self) -> list[dict[str, Any]]:
        """All rows."""
        wanted = {(f, g, b): chains(f, g, b) for f, g, b in settings(self.name) if f in self._formats}
        recipes = [("fp32", fmt) for fmt in self._formats]
        made = self._convert([*recipes, *((c, f) for (f, _, _), own in wanted.items() for c in own.values())])
        for fmt in self._formats:
            variant = load_variant(Path(made["fp32", fmt]["folder"]))
            self._matched(variant)
            self._float[fmt] = variant, self._judged(outputs(variant, self.data.inputs))
            self._add((fmt, PER_CHANNEL, 32), "fp32", self._float[fmt][1], made["fp32", fmt])
        for kind, own in wanted.items():
            for method, chain in own.items():
                row, right = made[chain, kind[0]], None
                if row["status"] == "ok":
                    right = self._judged(outputs(load_variant(Path(row["folder"])), self.data.inputs))
                self._add(kind, method, right, row, chain)
            self._peers(kind)
        return self.rows

    def _convert(self, recipes: list[tuple[str, str]]) -> dict[tuple[str, str], dict[str, Any]]:
        """Rows of `harness convert --json`, by recipe and format."""
        command = [
            str(Path(sys.executable).with_name("harness")),
            "convert",
            str(self._model),
            "--data",
            str(self._data),
        ]
        for chain, fmt in recipes:
            command += ["--recipe", f"{chain} @ {fmt}"]
        command += ["--out", str(self._work / "variants"), "--cache-folder", str(self._arguments.work / "cache")]
        command += [
            "--calibration-size",
            str(CALIBRATION),
            "--seed",
            str(self._arguments.seed),
            "--name",
            self.name,
            "--json",
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode not in (0, 4):
            raise SystemExit(f"exit code {done.returncode}\n{done.stdout[-4000:]}")
        return dict(zip(recipes, json.loads(done.stdout), strict=True))

    def _matched(self, variant: Variant) -> None:
        """Give the data the names of the model's inputs."""
        signature = variant.manifest.signature
        assert signature is not None  # noqa: S101  every variant of ours has one
        names = [spec.source or spec.name for spec in signature.inputs]
        arrays = list(self.data.inputs.values())
        specs = [TensorSpec(name, (None, *x.shape[1:]), str(x.dtype)) for name, x in zip(names, arrays, strict=True)]
        self.data = self.data.matched_to(specs)

    def _judged(self, answers: np.ndarray) -> np.ndarray:
        return np.asarray(answers.argmax(-1) == self.data.labels)

    def _add(
        self,
        kind: tuple[str, str, int],
        method: str,
        right: np.ndarray | None,
        made: dict[str, Any],
        chain: str | None = None,
    ) -> None:
        fmt, granularity, bits = kind
        row: dict[str, Any] = {
            "model": self.name,
            "format": fmt,
            "granularity": granularity,
            "weight_bits": bits,
            "method": method,
            "steps": chain,
            "accuracy": None if right is None else float(right.mean()),
            **lost(self._float[fmt][1], right, "drop"),
            "size_bytes": made.get("size_bytes"),
            "seconds": made.get("seconds"),
            "step_seconds": [step["seconds"] for step in made.get("lineage") or []],
            "cached": bool(made.get("cached")),
            "status": made["status"],
            "error": made.get("error"),
            "test_rows": self.data.rows,
            "calibration_rows": self.data.calibration_rows,
            "seed": self._arguments.seed,
            "command": command(),
            "date": datetime.now(UTC).date().isoformat(),
        }
        if right is not None:
            self._right[(*kind, method)] = right
        if not method.startswith("ours") and bits < 32:
            # How much better ours is on the same rows.
            row |= lost(self._right.get((*kind, "ours, refined")), right, "ours_better")
        self.rows.append(row)
        print(f"{self.name} {fmt} {granularity} {bits}: {method}: {row['accuracy']} {row['error'] or ''}", flush=True)

    def _peers(self, kind: tuple[str, str, int]) -> None:
        fmt, granularity, bits = kind
        known: dict[str, Any] = json.loads(self._store.read_text()) if self._store.exists() else {}
        for method, quantize in peers(fmt, granularity, bits).items():
            key = f"{fmt} {granularity} {bits} {method}"
            if key not in known:
                known[key] = self._peer(fmt, quantize, self._work / "peers" / key.replace(" ", "_").replace(",", ""))
                self._store.write_text(json.dumps(known), encoding="utf-8")
            made = known[key]
            right = None if made["right"] is None else np.array(made["right"], bool)
            self._add(kind, method, right, made)

    def _peer(self, fmt: str, quantize: Any, folder: Path) -> dict[str, Any]:
        """Let another tool quantize, and run what it wrote."""
        folder.mkdir(parents=True, exist_ok=True)
        variant, _ = self._float[fmt]
        target = folder / {"tflite": "model.tflite", "onnx": "model.onnx", "openvino": "model.xml"}[fmt]
        begun = time.monotonic()
        try:
            quantize(variant, self.data.calibration, target)
        except Exception as error:  # noqa: BLE001  whatever it raises is what it has to say
            words = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            return {"status": "failed", "error": words, "right": None, "seconds": None, "size_bytes": None}
        seconds = time.monotonic() - begun
        size = sum(path.stat().st_size for path in folder.iterdir())
        if size > FLOAT_SHARE * variant.manifest.size_bytes:
            # As GPTQ does, which knows no convolutions: its answers are the float model's.
            words = f"left most weights in float: {size} of the {variant.manifest.size_bytes} bytes of float32"
            return {"status": "failed", "error": words, "right": None, "seconds": seconds, "size_bytes": size}
        if fmt == "tflite":
            answers = run_tflite(target, next(iter(self.data.inputs.values())))
        else:
            other: Any = SimpleNamespace(manifest=variant.manifest, artifact=target, name=folder.name)
            answers = outputs(other, self.data.inputs)
        right = self._judged(answers).tolist()
        return {"status": "ok", "error": None, "right": right, "seconds": seconds, "size_bytes": size}


def lost(first: np.ndarray | None, second: np.ndarray | None, name: str) -> dict[str, Any]:
    """Points by which the first is more accurate, with the paired 95 % interval; None where either is missing."""
    if first is None or second is None:
        return {f"{name}_pp": None, f"{name}_low_pp": None, f"{name}_high_pp": None}
    found = paired_difference(first, second)
    return {f"{name}_pp": found.value * 100, f"{name}_low_pp": found.low * 100, f"{name}_high_pp": found.high * 100}


def keep(rows: list[dict[str, Any]], path: Path) -> None:
    """Put the rows beside those of other models and formats; those of the same are replaced."""
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    new = {(row["model"], row["format"]) for row in rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps([*(row for row in old if (row["model"], row["format"]) not in new), *rows], indent=1) + "\n",
        encoding="utf-8",
    )


def show(rows: list[dict[str, Any]]) -> None:
    """The rows as a table, and which claims they keep."""
    columns = (
        "format",
        "granularity",
        "weight_bits",
        "method",
        "accuracy",
        "drop_pp",
        "ours_better_pp",
        "size_bytes",
        "seconds",
    )
    print("| " + " | ".join(columns) + " |")
    for row in rows:
        cells = [row.get(key) for key in columns]
        print("| " + " | ".join(f"{c:.4g}" if isinstance(c, float) else str(c) for c in cells) + " |")
    print("\n".join(refinement_verdicts(rows)))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("models", nargs="*", choices=[*MODELS, []])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("refinement-work"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="only that many test rows, to try the script")
    parser.add_argument("--formats", default=",".join(FORMATS), help="only these, to try the script")
    parser.add_argument("--make-hard", nargs=2, type=Path, metavar=("MODEL", "TARGET"))
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    if arguments.make_hard:
        make_hard(*arguments.make_hard)
        return 0
    if arguments.limit is not None and arguments.out == OUT:
        parser.error("--limit is to try the script: give --out as well")
    arguments.work = arguments.work.resolve()
    started = time.monotonic()
    for name in arguments.models:
        begun = time.monotonic()
        rows = Study(name, arguments).run()
        keep(rows, arguments.out)
        show(rows)
        print(f"{name}: {time.monotonic() - begun:.0f} s; {len(rows)} rows in {arguments.out}")
    note(arguments.out.parent, time.monotonic() - started)
    return 0


if __name__ == "__main__":
    sys.exit(main())
