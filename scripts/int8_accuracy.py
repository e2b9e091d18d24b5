"""What static int8 costs and saves: accuracy on all test images and file size, in every format.

    python scripts/train_large_model.py fashion_mnist.npz --out large.keras
    python scripts/int8_accuracy.py large.keras fashion_mnist.npz --work DIR

Converts through the public command (200 training images calibrate), runs every variant on all test images with plain
calls of its engine, and writes results/conversion/DATE-int8.json. Exit code 1 when a limit is missed.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from _evaluate import outputs

from converters.dataset import Dataset, Preprocessing, load_dataset
from converters.variant import TensorSpec, load_variant

ROOT = Path(__file__).resolve().parent.parent
SCALE = 1 / 255
FORMATS = ("tflite", "onnx", "openvino")
RECIPES = (
    *(f"{fmt}:fp32" for fmt in FORMATS),
    *(f"{fmt}:static_wi8_ai8" for fmt in FORMATS),
    "tflite:static_wi8_ai8_int_io",
    "onnx:static_wi8_ai8_full_range",
    "onnx:static_wi8_au8",
)
# Eight-bit weights overflow the 16-bit sums of x86 CPUs without VNNI: measured there for the record, not held to the limit.
FULL_RANGE = ("onnx", "static_wi8_ai8_full_range")
MOST_POINTS_LOST, LEAST_RATIO, LEAST_PARAMETERS = 0.5, 3.3, 1_000_000
PACKAGES = ("tensorflow", "keras", "onnxruntime", "openvino", "nncf", "ai-edge-litert", "tf2onnx", "numpy")


def has_vnni() -> bool:
    """Whether this CPU adds 8-bit products in 32 bits (x86 with VNNI, or not x86 at all)."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    return "vnni" in Path("/proc/cpuinfo").read_text(encoding="utf-8")


def convert(model: Path, data: Path, work: Path) -> list[dict[str, Any]]:
    """Rows of one `harness convert --json`."""
    command = [str(Path(sys.executable).with_name("harness")), "convert", str(model), "--data", str(data)]
    command += ["--recipes", ",".join(RECIPES), "--scale", repr(SCALE), "--out", str(work), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 4):
        raise SystemExit(f"exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def base_outputs(model: Path, data: Dataset) -> tuple[np.ndarray, Dataset, int]:
    """The base model's logits on all test rows, the data under its input's name, and its number of parameters."""
    import keras

    base = keras.models.load_model(model, compile=False)
    tensor = base.inputs[0]
    matched = data.matched_to([TensorSpec(tensor.name, tuple(tensor.shape), "float32")])
    logits = base.predict(matched.inputs[tensor.name], batch_size=250, verbose=0)
    return logits, matched, base.count_params()


def compared(row: dict[str, Any], logits: np.ndarray, data: Dataset, fp32_bytes: int) -> dict[str, Any]:
    """Accuracy of a variant against the base on the same rows, with the paired 95 % interval of the drop."""
    variant = load_variant(Path(row["folder"]))
    ours = outputs(variant, data.inputs).argmax(axis=1)
    base = logits.argmax(axis=1)
    lost = int(((base == data.labels) & (ours != data.labels)).sum())
    won = int(((base != data.labels) & (ours == data.labels)).sum())
    n = len(base)
    half = 1.96 * np.sqrt(max(lost + won - (lost - won) ** 2 / n, 0)) / n
    drop = (lost - won) / n
    return {
        "variant": row["variant"],
        "format": row["format"],
        "recipe": row["recipe"],
        "accuracy": float((ours == data.labels).mean()),
        "drop_points": drop * 100,
        "drop_points_low": (drop - half) * 100,
        "drop_points_high": (drop + half) * 100,
        "lost": lost,
        "won": won,
        "agreement": float((ours == base).mean()),
        "size_bytes": row["size_bytes"],
        "size_ratio_to_fp32": fp32_bytes / row["size_bytes"],
    }


def measure(model: Path, data_path: Path, work: Path) -> dict[str, Any]:
    """Convert and evaluate; the record that is stored."""
    rows = convert(model, data_path, work)
    failed = [f"{row['format']}:{row['recipe']}: {row['error']}" for row in rows if row["status"] != "ok"]
    if failed:
        raise SystemExit("\n".join(failed))
    stored = load_dataset(data_path, preprocessing=Preprocessing(scale=SCALE))
    logits, data, parameters = base_outputs(model, stored)
    fp32 = {row["format"]: row["size_bytes"] for row in rows if row["recipe"] == "fp32"}
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "versions": {package: metadata.version(package) for package in PACKAGES},
        "cpu_vnni": has_vnni(),
        "parameters": parameters,
        "base_accuracy": float((logits.argmax(axis=1) == data.labels).mean()),
        "test_rows": data.rows,
        "calibration_rows": data.calibration_rows,
        "dataset_sha256": data.sha256,
        "limits": {"points_lost": MOST_POINTS_LOST, "size_ratio": LEAST_RATIO, "parameters": LEAST_PARAMETERS},
        "rows": [compared(row, logits, data, fp32[row["format"]]) for row in rows],
    }


def missed(record: dict[str, Any]) -> list[str]:
    """The limits that were not met, in words."""
    out = [] if record["parameters"] >= LEAST_PARAMETERS else [f"only {record['parameters']:,} parameters"]
    for row in record["rows"]:
        if (row["format"], row["recipe"]) == FULL_RANGE and not record["cpu_vnni"]:
            continue
        if row["recipe"] != "fp32" and row["drop_points"] > MOST_POINTS_LOST:
            out.append(f"{row['variant']} loses {row['drop_points']:.2f} points")
        if row["recipe"] != "fp32" and row["size_ratio_to_fp32"] < LEAST_RATIO:
            out.append(f"{row['variant']} is only {row['size_ratio_to_fp32']:.2f} times smaller")
    return out


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder for the variants")
    arguments = parser.parse_args()
    record = measure(arguments.model, arguments.data, arguments.work)
    print(f"base: {record['parameters']:,} parameters, {record['base_accuracy']:.2%} of {record['test_rows']} images")
    for row in record["rows"]:
        print(
            f"{row['format']:9} {row['recipe']:28} {row['accuracy']:7.2%}  drop {row['drop_points']:+.2f} points "
            f"[{row['drop_points_low']:+.2f}, {row['drop_points_high']:+.2f}]  {row['size_bytes']:>9,} bytes  "
            f"{row['size_ratio_to_fp32']:.2f} times smaller than fp32"
        )
    folder = ROOT / "results" / "conversion"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record['date']}-int8.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(path)
    if missed(record):
        raise SystemExit("missed: " + "; ".join(missed(record)))


if __name__ == "__main__":
    main()
