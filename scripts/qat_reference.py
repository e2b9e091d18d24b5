"""Quantization-aware training against post-training quantization and against TFMOT, measured in the exported formats on the test rows.

    python scripts/qat_reference.py --data DIR [--cases CASE …] [--judge JUDGE_DIR] [--epochs 1] [--work DIR]

DIR holds fashion_mnist_dev.npz and watch_imu_dev.npz; the cases are explained in `_qat_cases.py`. Converts with the public command
`harness convert`, so what was made before, and every finished epoch, comes out of the cache when the script is started again. With
--judge, TFMOT (`_judge.py`) trains the same model on the same rows for as many epochs at the same rate and batch size. Adds one flat
row per case × format × method × seed to results/reference/qat.json, case by case; rows of the same key are replaced:

accuracy, base_accuracy, drop_pp [low, high]   share right; what is lost against fp32 in the same format, with its paired 95 % interval
over_ptq_pp [over_ptq_low, over_ptq_high]      share right less that of post-training quantization in the same format, likewise
over_tfmot_pp [...]                            less that of TFMOT's file, TFLite only
held                                           whether the method is the one that must not lose against ptq (see `held_bits`)
integer_only, float_tensors                    TFLite only, read from the file's tensors: how many are not integers, beside the file's
                                               own inputs and outputs, and whether that is none
seconds                                        of the training alone

Exit code 1 when a bound is missed: 8-bit training below post-training where that loses a point, TFMOT better by more than 0.3
points, or a file that is not integer-only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from _evaluate import outputs
from _judge import install, judge
from _qat_cases import CASES, ORDINARY, Case, make, methods, recipe_names, training_rows
from _reference_models import ROOT
from int8_accuracy import has_vnni

from converters.variant import load_variant
from harness.stats.proportions import paired_difference

LEARNING_RATE = 2e-4  # the step's own
PTQ_LOSES_PP, JUDGE_MARGIN_PP = 1.0, 0.3
NO_TENSORS = "whether its pairs become integer kernels is the engine's choice, which the tests look at"


def held_bits(fmt: str) -> int:
    """Bits of the weights for which a format is held to the bound. Without VNNI, products of 8-bit weights saturate in ONNX Runtime and
    OpenVINO (docs/decisions/0005), which is why their post-training weights have 7 bits too."""
    return 8 if fmt == "tflite" or has_vnni() else 7


def convert(case: Case, model: Path, data: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of `harness convert --json`, each with its `method`."""
    words = methods(case, arguments.epochs, arguments.rate)
    command = [str(Path(sys.executable).with_name("harness")), "convert", str(model), "--data", str(data), "--json"]
    command += ["--out", str(arguments.work / case.name / "variants"), "--name", case.name]
    command += ["--calibration-size", str(case.calibration_rows), "--seed", str(arguments.seed)]
    for text in words.values():
        command += ["--recipe", text]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 4):
        raise SystemExit(f"exit code {done.returncode}\n{done.stdout[-4000:]}")
    names = recipe_names(words)
    rows = json.loads(done.stdout)
    failed = [f"{row['variant']}: {row['error']}" for row in rows if row["status"] != "ok"]
    if failed:
        raise SystemExit("\n".join(failed))
    return [row | {"method": names[row["format"], row["recipe"]][1]} for row in rows]


def float_tensors(data: bytes) -> int:
    """How many tensors of a .tflite file are not of integers, beside its own inputs and outputs; constants of integers without a
    scale count too, unless they are shapes and axes (int32 that no scale belongs to)."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(data, 0)
    kinds = schema.TensorType
    found = 0
    for graph in model.subgraphs:
        doors = {int(index) for index in (*graph.inputs, *graph.outputs)}
        for index, tensor in enumerate(graph.tensors):
            if index in doors:
                continue
            scaled = tensor.quantization is not None and tensor.quantization.scale is not None
            integer = tensor.type in (kinds.INT4, kinds.INT8) and scaled
            found += not (integer or tensor.type in (kinds.INT32, kinds.INT64))
    return found


def tflite_classes(path: Path, x: np.ndarray) -> np.ndarray:
    """Class of each row by a .tflite file of one input, float32 in and out."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    given, wanted = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    found = []
    for row in x:
        interpreter.set_tensor(given["index"], row[None])
        interpreter.invoke()
        found.append(int(interpreter.get_tensor(wanted["index"]).argmax()))
    return np.array(found)


def points(first: np.ndarray, second: np.ndarray, *names: str) -> dict[str, float]:
    """Share right of `first` less that of `second`, in points, under three names: value, low, high."""
    found = paired_difference(first, second)
    return dict(zip(names, (100 * found.value, 100 * found.low, 100 * found.high), strict=True))


def study(case: Case, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows of one case."""
    model, data = make(case, arguments.data, arguments.work / "bases", arguments.seed)
    converted = convert(case, model, data, arguments)
    with np.load(data, allow_pickle=False) as file:
        x, labels = file["x_test"], file["y_test"]
    right: dict[tuple[str, str], np.ndarray] = {}
    told: dict[tuple[str, str], dict[str, Any]] = {}
    for row in converted:
        key = row["format"], row["method"]
        variant = load_variant(Path(row["folder"]))
        (spec,) = variant.manifest.signature.inputs
        right[key] = outputs(variant, {spec.source or spec.name: x}).argmax(1) == labels
        seconds = [step["seconds"] for step in row["lineage"]]
        told[key] = {"recipe": row["recipe"], "seconds": sum(seconds), "epochs": arguments.epochs if seconds else 0}
        if row["format"] == "tflite" and row["method"] != "fp32":
            told[key]["float_tensors"] = float_tensors(variant.artifact.read_bytes())
    if case.judged and arguments.judge is not None:
        out, budget = arguments.work / case.name / "tfmot", {"epochs": arguments.epochs, "rate": arguments.rate}
        learnt = training_rows(case, data, arguments.seed)
        made = judge(arguments.judge, model, learnt, out, seed=arguments.seed, **budget)
        key = "tflite", "tfmot"
        right[key] = tflite_classes(out / "model.tflite", x) == labels
        told[key] = {"recipe": None, "seconds": made["seconds"], "epochs": arguments.epochs}
        told[key]["float_tensors"] = float_tensors((out / "model.tflite").read_bytes())
    return [flat(case, key, right, told[key], arguments) for key in right]


def flat(
    case: Case,
    key: tuple[str, str],
    right: dict[tuple[str, str], np.ndarray],
    told: dict[str, Any],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """One row of qat.json. `right`: bool [test rows] by format and method."""
    fmt, method = key
    mine, base = right[key], right[fmt, "fp32"]
    judged = right.get((fmt, "tfmot"))
    over_tfmot = ("over_tfmot_pp", "over_tfmot_low", "over_tfmot_high")
    nothing = dict.fromkeys(over_tfmot)
    floats = told.get("float_tensors")
    reason = None if fmt == "tflite" else NO_TENSORS
    return {
        "model": case.model,
        "case": case.name,
        "method": method,
        "format": fmt,
        "granularity": case.granularity,
        "calibration_rows": case.calibration_rows,
        "test_rows": len(mine),
        "accuracy": float(mine.mean()),
        "base_accuracy": float(base.mean()),
        **points(base, mine, "drop_pp", "low", "high"),
        **points(mine, right[fmt, "ptq"], "over_ptq_pp", "over_ptq_low", "over_ptq_high"),
        **(nothing if judged is None else points(mine, judged, *over_tfmot)),
        "held": method == f"qat({held_bits(fmt)})",
        "epochs": told["epochs"],
        "learning_rate": arguments.rate if told["epochs"] else None,
        "seconds": told["seconds"],
        "integer_only": None if floats is None else floats == 0,
        "float_tensors": floats,
        "integer_only_missing": reason if method != "fp32" else "a float file",
        "cpu_vnni": has_vnni(),
        "recipe": told["recipe"],
        "seed": arguments.seed,
        "command": f"python scripts/qat_reference.py --cases {case.name} --epochs {arguments.epochs}"
        + (f" --seed {arguments.seed}" if arguments.seed else "")
        + (" --judge DIR" if judged is not None else ""),
        "date": datetime.now(UTC).date().isoformat(),
    }


def missed(rows: list[dict[str, Any]]) -> list[str]:
    """The bounds that do not hold, in words."""
    found = []
    lost = {(row["case"], row["format"]): row["drop_pp"] for row in rows if row["method"] == "ptq"}
    for row in rows:
        where = f"{row['case']} {row['format']} {row['method']}"
        if not row["held"]:
            continue
        if lost[row["case"], row["format"]] >= PTQ_LOSES_PP and row["over_ptq_pp"] < 0:
            found.append(f"{where}: {row['over_ptq_pp']:.2f} points below post-training quantization")
        if row["over_tfmot_pp"] is not None and row["over_tfmot_pp"] < -JUDGE_MARGIN_PP:
            found.append(f"{where}: {-row['over_tfmot_pp']:.2f} points below TFMOT")
        if row["integer_only"] is False:
            found.append(f"{where}: {row['float_tensors']} tensors are not integers")
    return found


def keep(rows: list[dict[str, Any]], path: Path) -> None:
    """Put the rows beside those of other cases and seeds; the same case, format, method and seed are replaced."""
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    new = {(row["case"], row["format"], row["method"], row["seed"]): row for row in [*old, *rows]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([new[key] for key in sorted(new)], indent=1) + "\n", encoding="utf-8")


def show(rows: list[dict[str, Any]]) -> None:
    """The rows as a table."""
    print("| case | format | method | accuracy | drop, points | over ptq | over TFMOT | integer-only | s |")
    for row in rows:
        told = "" if row["over_tfmot_pp"] is None else f"{row['over_tfmot_pp']:+.2f}"
        print(
            f"| {row['case']} | {row['format']} | {row['method']}{' *' if row['held'] else ''} | {row['accuracy']:.4f} "
            f"| {row['drop_pp']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}] "
            f"| {row['over_ptq_pp']:+.2f} [{row['over_ptq_low']:+.2f}, {row['over_ptq_high']:+.2f}] "
            f"| {told} | {row['integer_only']} | {row['seconds']:.0f} |",
            flush=True,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cases", nargs="+", choices=sorted(CASES), default=list(ORDINARY))
    parser.add_argument(
        "--judge", type=Path, help="folder of TFMOT's packages; installed into it where they are missing"
    )
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rate", type=float, default=LEARNING_RATE)
    parser.add_argument("--work", type=Path, default=Path("qat-work"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "reference" / "qat.json")
    arguments = parser.parse_args()
    arguments.work = arguments.work.resolve()
    if arguments.judge is not None:
        arguments.judge = arguments.judge.resolve()
        install(arguments.judge)
    found = []
    for name in arguments.cases:
        begun = time.monotonic()
        rows = study(CASES[name], arguments)
        keep(rows, arguments.out)
        show(rows)
        found += missed(rows)
        print(f"{name}: {time.monotonic() - begun:.0f} s; {len(rows)} rows in {arguments.out}", flush=True)
    for text in found:
        print(f"missed: {text}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
