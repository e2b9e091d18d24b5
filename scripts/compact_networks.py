"""Compact networks and input transforms: that all of them convert and train, and what each transform costs and saves on this device.

    python scripts/compact_networks.py networks --data DIR [--work DIR] [--only efficientnet]
    python scripts/compact_networks.py transforms --data DIR [--work DIR] [--only fashion]

DIR holds fashion_mnist_dev.npz and watch_imu_dev.npz. `networks`: every network of `converters.networks` at a quarter (or the narrowest
fit) of its width, built for 28 × 28 gray images, trained for one epoch by the step `fine_tune`, exported to the three formats and measured:
results/reference/compact_networks.json. `transforms`: every input transform on the demo's CNN, on the same network for coloured
images (`tinted` below) and on the reference CNN for motion, beside fine-tuning for as many epochs, and each transform as a network of
its own: results/reference/input_transforms.json. Rows are kept after each network or model, and those that are there are not made
again (unless --again), so a run that was killed goes on; conversions come out of the cache.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from _reference_models import MODELS, ROOT, fashion_arrays, prepare
from _wall_time import command, note
from train_demo_model import build as demo_network

from converters.recipe_words import parse_recipes
from converters.variant import MANIFEST_NAME, Variant, load_variant

FORMATS = ("tflite", "onnx", "openvino")
REFERENCE = ROOT / "results" / "reference"
WIDTH = 0.25
# Its channels are tabulated from 0.5 on.
WIDTHS = {"shufflenet_v2": 0.5}
EPOCH = "fine_tune(1, learning_rate=0.003)"
# Of 12,000: one epoch shows that a network trains, not how good it gets.
TRAINING_ROWS = 6000
INT8 = "static_wi8_ai8"
CONTROL = "fine_tune(3)"
HALF, THIRD, BILINEAR = "lower_resolution(0.5)", "lower_resolution(0.33)", "lower_resolution(0.75, method=bilinear)"
LOW, BANDS = "haar(low)", "haar(all)"
RELAXED = ("lower_resolution(0.5, stride=relax)", "haar(all, stride=relax)")
GRAY, MIX = "grayscale(luma)", "grayscale(trained)"
TRANSFORMS: dict[str, tuple[str, ...]] = {
    "fashion": (HALF, THIRD, BILINEAR, LOW, BANDS, *RELAXED),
    "colour": (GRAY, MIX, BANDS),
    "imu": (HALF, BILINEAR, LOW, BANDS, *RELAXED),
}
INTEGERS = {"fashion": (INT8, f"{HALF} > {INT8}", f"{BANDS} > {INT8}")}
NOTHING = "nothing"
COLOUR_SEED = 17
LEAST_CONTRAST = 0.5


def colour() -> Any:
    """The demo's network with a stem for three channels."""
    return demo_network(3)


def tinted(images: np.ndarray, seed: int) -> np.ndarray:
    """Gray images [n, h, w, 1] in colour, [n, h, w, 3]: each has an ink and a paper, drawn evenly from all colours that differ by
    `LEAST_CONTRAST` in a channel at least. Without colour some lose most of their contrast: that is what grayscale may cost."""
    rng = np.random.default_rng(seed)
    ink, paper = rng.random((2, len(images), 3))
    while True:
        faint = np.abs(ink - paper).max(1) < LEAST_CONTRAST
        if not faint.any():
            break
        paper[faint] = rng.random((int(faint.sum()), 3))
    ink, paper = (x.astype(np.float32)[:, None, None] for x in (ink, paper))
    return np.asarray(paper + (ink - paper) * images, np.float32)


def colour_arrays(data: Path) -> dict[str, np.ndarray]:
    """Fashion-MNIST in colour."""
    arrays = fashion_arrays(data)
    return arrays | {
        name: tinted(arrays[name], COLOUR_SEED + place) for place, name in enumerate(("x_train", "x_test"))
    }


MODELS["colour"] = (colour, colour_arrays, 12)


def harness(*argv: str) -> str:
    """What the command prints. Raises SystemExit with its words when it could not do its work."""
    words = [str(Path(sys.executable).with_name("harness")), *argv]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    # 1 and 4: some rows failed, which the rows tell.
    if done.returncode not in (0, 1, 4):
        raise SystemExit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout[-4000:]}")
    return done.stdout


def measured(name: str, work: Path, **told: Any) -> list[dict[str, Any]]:
    """Rows of an experiment with the preset quick."""
    path = work / f"{name}.yaml"
    # JSON is YAML too.
    experiment = {"name": name, "devices": ["local"], "protocol": {"preset": "quick", "run_s": 0.2}, "seed": 0, **told}
    path.write_text(json.dumps(experiment, indent=1), encoding="utf-8")
    found = json.loads(harness("run", str(path), "--results", str(work / "results"), "--json"))
    return list(found["rows"] if isinstance(found, dict) else found)


def variant_of(name: str, row: dict[str, Any], work: Path) -> Variant | None:
    """The variant of a row; None where it was not made."""
    folder = work / "results" / "variants" / name / row["variant"]
    return load_variant(folder) if (folder / MANIFEST_NAME).is_file() else None


def latency(row: dict[str, Any]) -> dict[str, Any]:
    """The median and its interval."""
    return {name: row[name] for name in ("latency_median_ns", "latency_median_low_ns", "latency_median_high_ns")}


def keep(rows: list[dict[str, Any]], path: Path, keys: tuple[str, ...]) -> None:
    """Put the rows beside the others; those with the same keys are replaced."""
    new = {tuple(row[key] for key in keys): row for row in [*stored(path), *rows]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([new[key] for key in sorted(new)], indent=1) + "\n", encoding="utf-8")


def stored(path: Path) -> list[dict[str, Any]]:
    """The rows that are there."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


# Networks.


def network_rows(name: str, data: Path, work: Path) -> list[dict[str, Any]]:
    """One network: built, trained for an epoch, in three formats."""
    from converters.networks import build

    width = WIDTHS.get(name, WIDTH)
    base = work / "compact" / f"{name}.keras"  # another study trains one of the same name under bases
    if not base.is_file():
        base.parent.mkdir(parents=True, exist_ok=True)
        build(name, (28, 28, 1), 10, width, 1.0, seed=1).save(base)
    experiment = f"compact-{name}"
    recipes = [f"{EPOCH} @ {fmt}" for fmt in FORMATS]
    told = {"path": str(data), "training_limit": TRAINING_ROWS}
    rows = measured(experiment, work, base=str(base), base_name=name, recipes=recipes, data=told)
    found = []
    for row in rows:
        variant = variant_of(experiment, row, work)
        ledger = {} if variant is None else variant.manifest.ledger or {}
        step = {} if variant is None or not variant.manifest.lineage else variant.manifest.lineage[0]
        agreement = None if variant is None else variant.manifest.agreement
        found.append(
            {
                "network": name,
                "width": width,
                "format": row["format"],
                "status": row["status"],
                "error": row["error"],
                "model_parameters": ledger.get("model_parameters"),
                "macs": ledger.get("macs"),
                "epochs": step.get("figures", {}).get("epochs"),
                "training_rows": TRAINING_ROWS,
                "training_seconds": step.get("seconds"),
                "validation_accuracy": step.get("score_after"),
                "accuracy": row["accuracy"],
                "format_relative_error": None if agreement is None else agreement.relative_error,
                "size_bytes": row["size_bytes"],
                **latency(row),
            }
        )
    return found


# Transforms.


def alone(name: str, steps: tuple[str, ...], shape: tuple[int, ...], work: Path) -> dict[tuple[str, str], float | None]:
    """Median latency in ns of networks that consist of a transform alone, by (steps, format); NOTHING: of one that only gives its
    input back as one line, which is what handing the tensors over costs by itself."""
    folder = work / "alone" / name
    for place, step in enumerate((NOTHING, *steps)):
        base = folder / f"alone{place}.keras"
        if not base.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            only(step, shape).save(base)
        harness("convert", str(base), "--recipes", "fp32", "--out", str(folder / "out"))
    made = sorted((folder / "out").glob("alone*.fp32"))
    rows = measured(f"alone-{name}", work, artifacts=[str(path) for path in made])
    every = (NOTHING, *steps)
    return {
        (every[int(row["variant"].partition(".")[0].removeprefix("alone"))], row["format"]): row["latency_median_ns"]
        for row in rows
    }


def only(step: str, shape: tuple[int, ...]) -> Any:
    """A network of one transform."""
    import keras

    from converters.compress import transform_layers
    from converters.steps import parse_chain

    image = keras.Input(shape, name="input")
    if step == NOTHING:
        return keras.Model(image, keras.layers.Flatten(name="line")(image))
    parsed = parse_chain(step)[0]
    wanted = {
        "lower_resolution": ("scale", "method"),
        "grayscale": ("weights",),
        "haar": ("bands",),
    }[parsed.name]
    values = [parsed.values[key] for key in wanted]
    make: Callable[..., Any] = getattr(transform_layers, parsed.name)
    return keras.Model(image, make(shape, *values, lambda word: f"{transform_layers.PREFIX}{word}")(image))


def right(variant: Variant, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which test rows the exported file has right, bool [n]."""
    from converters.check import run_artifact

    manifest = variant.manifest
    assert manifest.signature is not None  # noqa: S101  converted here
    source = manifest.signature.inputs[0].source or manifest.signature.inputs[0].name
    (answers,) = run_artifact(variant.artifact, manifest.format, manifest.signature, {source: rows}).values()
    return np.asarray(answers.argmax(1) == labels)


def transform_rows(name: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All transforms of one model, beside the base and the control, in three formats."""
    work = arguments.work
    model, data = prepare(name, arguments.data, work / "bases", 0)
    steps = TRANSFORMS[name]
    chains = ("fp32", CONTROL, *steps, *INTEGERS.get(name, ()))
    recipes = [f"{chain} @ {fmt}" for fmt in FORMATS for chain in chains]
    experiment = f"transforms-{name}"
    # In rows a recipe has its variant's name; here it is what one writes.
    told = {parse_recipes(f"{chain} @ {FORMATS[0]}")[0].name: chain for chain in chains}
    rows = [
        row | {"recipe": told[row["recipe"]]}
        for row in measured(
            experiment, work, base=str(model), base_name=name, recipes=recipes, data={"path": str(data)}
        )
    ]
    with np.load(data, allow_pickle=False) as file:
        x, labels = file["x_test"], file["y_test"]
    costs = alone(name, steps, x.shape[1:], work)
    variants = {(row["recipe"], row["format"]): variant_of(experiment, row, work) for row in rows}
    correct = {key: right(variant, x, labels) for key, variant in variants.items() if variant is not None}
    bases = {(row["recipe"], row["format"]): row for row in rows}
    found = []
    for row in rows:
        variant = variants[row["recipe"], row["format"]]
        integer = row["recipe"].endswith(INT8)
        base = bases[INT8 if integer else "fp32", row["format"]]
        control = correct.get((CONTROL, row["format"]))
        found.append({"model": name} | transform_row(row, base, variant, control, correct, costs))
    return found


def transform_row(
    row: dict[str, Any],
    base: dict[str, Any],
    variant: Variant | None,
    control: np.ndarray | None,
    correct: dict[tuple[str, str], np.ndarray],
    costs: dict[tuple[str, str], float | None],
) -> dict[str, Any]:
    """One flat row. The latency is held against the base's at the same precision; accuracy against the base's fp32 and, paired on
    the same test rows, against the control's."""
    from harness.stats.proportions import paired_difference

    recipe, fmt = row["recipe"], row["format"]
    ledger = {} if variant is None else variant.manifest.ledger or {}
    figures = {} if variant is None or not variant.manifest.lineage else variant.manifest.lineage[0]["figures"]
    own = correct.get((recipe, fmt))
    lost = None if own is None or control is None else paired_difference(control, own)
    times = row["latency_median_ns"], base["latency_median_ns"]
    cost = costs.get((recipe.partition(" > ")[0], fmt))
    return {
        "steps": recipe,
        "format": fmt,
        "status": row["status"],
        "error": row["error"],
        "accuracy": row["accuracy"],
        **{key: row[key] for key in ("accuracy_drop_pp", "accuracy_drop_low_pp", "accuracy_drop_high_pp")},
        "drop_to_control_pp": None if lost is None else 100 * lost.value,
        "drop_to_control_low_pp": None if lost is None else 100 * lost.low,
        "drop_to_control_high_pp": None if lost is None else 100 * lost.high,
        "score_untrained": figures.get("score_untrained"),
        "macs": ledger.get("macs"),
        "transform_macs": figures.get("transform_macs"),
        "map": json.dumps(figures["map"]) if "map" in figures else None,
        "size_bytes": row["size_bytes"],
        **latency(row),
        "latency_ratio": times[0] / times[1] if times[0] and times[1] else None,
        "latency_saved_ns": times[1] - times[0] if times[0] and times[1] else None,
        # Networks of a transform alone are in float; in integers it costs something else.
        "transform_alone_ns": None if recipe.endswith(INT8) else cost,
        "nothing_ns": costs.get((NOTHING, fmt)),
    }


def show(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    """The rows as a table."""
    print("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns))
    for row in rows:
        cells = [row[key] for key in columns]
        print("| " + " | ".join(f"{c:.4g}" if isinstance(c, float) else str(c) for c in cells) + " |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("what", choices=("networks", "transforms"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("compact-work"))
    parser.add_argument("--only", default="", help="only networks or models with this text in their names")
    parser.add_argument("--again", action="store_true", help="make rows anew that are there")
    parser.add_argument("--out", type=Path, default=REFERENCE)
    arguments = parser.parse_args()
    arguments.work = arguments.work.resolve()
    arguments.work.mkdir(parents=True, exist_ok=True)
    from converters.networks import NETWORKS

    networks = arguments.what == "networks"
    path = arguments.out / ("compact_networks.json" if networks else "input_transforms.json")
    key = "network" if networks else "model"
    done = set() if arguments.again else {row[key] for row in stored(path)}
    started = time.monotonic()
    _, fashion = prepare("fashion", arguments.data, arguments.work / "bases", 0)
    for name in NETWORKS if networks else TRANSFORMS:
        if arguments.only not in name or name in done:
            continue
        begun = time.monotonic()
        rows = network_rows(name, fashion, arguments.work) if networks else transform_rows(name, arguments)
        extra = {
            "command": command(),
            "date": datetime.now(UTC).date().isoformat(),
        }
        keep([row | extra for row in rows], path, (key, "format") if networks else (key, "steps", "format"))
        columns = (key, "format", "accuracy", "macs", "size_bytes", "latency_median_ns")
        more = () if networks else ("steps", "drop_to_control_pp", "latency_ratio", "transform_alone_ns", "nothing_ns")
        show(rows, (*columns, *more))
        print(f"{name}: {time.monotonic() - begun:.0f} s; {len(rows)} rows in {path}", flush=True)
    note(arguments.out, time.monotonic() - started)
    return 0


if __name__ == "__main__":
    sys.exit(main())
