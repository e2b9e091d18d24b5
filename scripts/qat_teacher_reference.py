"""Training with rounding under a teacher against the same training by labels alone, on few rows and few bits.

    python scripts/qat_teacher_reference.py --data DIR [--bits 4] [--epochs 3] [--rows 2000] [--seeds 3] [--work DIR]

DIR holds fashion_mnist_dev.npz; the base is the demo's CNN. For each seed the step `qat` is done by each of METHODS on the same rows with the
same seed, and its fake-quantised network (which the exported files compute: docs/qat.md) is judged. Rows to train by, rows to stop by and rows to
judge by are three parts of the training rows; no test row is read. The base itself was trained on rows among them, so that its accuracy is
not one on new rows; the methods are compared with each other, paired by seed, with Student's t over seeds. What was judged is kept in the work folder, and
trainings that were cut off go on.

results/reference/qat_teacher.json gets one row per method × seed, and one with the seed null per method, with the gain over labels alone. Rows of other
settings stay.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from _reference_models import DEMO, ROOT, fashion_arrays
from distill_reference import mean_interval

from converters.compress.context import Context, Rows, TrainingData
from converters.steps import make_step

# The last is the control: everything as under the teacher, its answers not weighed.
LABELS = "labels_only"
METHODS: dict[str, dict[str, Any]] = {
    LABELS: {},
    "teacher": {"teacher": "base"},
    "teacher_hints": {"teacher": "base", "method": "hints"},
    "teacher_alpha_0": {"teacher": "base", "alpha": 0},
}
STOP_ROWS, JUDGE_ROWS = 500, 4000
ROW = "row.json"
NO_DIGEST = "0" * 64  # no cache is at work that would want a digest of the rows


def parts(arrays: dict[str, np.ndarray], rows: int, seed: int) -> tuple[TrainingData, Rows]:
    """Rows to train and to stop by, and rows to judge by."""
    order = np.random.default_rng(seed).permutation(len(arrays["x_train"]))
    ends = np.cumsum([rows, STOP_ROWS, JUDGE_ROWS])
    train, stop, judge = (
        Rows((arrays["x_train"][which],), arrays["y_train"][which]) for which in np.split(order, ends)[:3]
    )
    return TrainingData(train, stop, train, "classification", NO_DIGEST), judge


def load() -> Any:
    """The base."""
    from converters.export.keras_base import load_keras

    return load_keras(DEMO)


def command(arguments: argparse.Namespace) -> str:
    """What to type for these rows."""
    words = (f"--{name} {getattr(arguments, name)}" for name in ("bits", "epochs", "rows", "seeds"))
    return f"python scripts/qat_teacher_reference.py {' '.join(words)}"


def trained(method: str, data: TrainingData, judge: Rows, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: the step done, and its network judged."""
    import keras

    from converters.compress import objective, quantize_aware
    from converters.compress.training import fit

    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    folder = arguments.work / f"{arguments.bits}_{arguments.epochs}_{arguments.rows}" / method / str(seed)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / ROW).exists():
        return {**json.loads((folder / ROW).read_text(encoding="utf-8")), "command": command(arguments)}
    step = make_step("qat", {"weight_bits": arguments.bits, "epochs": arguments.epochs, **METHODS[method]})
    begun = time.monotonic()
    result = quantize_aware.apply(load(), step.values, Context(data, fit, load, folder, seed, say=lambda _text: None))
    answers, base = (objective.Predictor(model)(judge.inputs)[0] for model in (result.model, load()))
    row = {
        "model": "fashion",
        "method": method,
        "steps": step.text,
        "seed": seed,
        "train_rows": data.train.count,
        "judged_rows": judge.count,
        "accuracy": objective.score_of(answers, judge.labels, data.task),
        "base_accuracy": objective.score_of(base, judge.labels, data.task),
        "agreement_with_base": float(np.mean(answers.argmax(-1) == base.argmax(-1))),
        "seconds": time.monotonic() - begun,
        "command": command(arguments),
        "date": datetime.now(UTC).date().isoformat(),
    }
    (folder / ROW).write_text(json.dumps(row), encoding="utf-8")
    return row


def summary(rows: list[dict[str, Any]], method: str) -> dict[str, Any]:
    """What the seeds of a method say together, in percentage points over labels alone."""
    own, alone = ([row for row in rows if row["method"] == name] for name in (method, LABELS))
    gains = [100 * (a["accuracy"] - b["accuracy"]) for a, b in zip(own, alone, strict=True)]
    gain, low, high = mean_interval(gains)
    means = {
        key: float(np.mean([row[key] for row in own])) for key in ("accuracy", "base_accuracy", "agreement_with_base")
    }
    told = {key: own[0][key] for key in ("model", "method", "steps", "train_rows", "judged_rows", "command", "date")}
    return {**told, **means, "seed": None, "over_labels_pp": gain, "over_labels_low": low, "over_labels_high": high}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("compression-work") / "qat_teacher")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "reference" / "qat_teacher.json")
    for name, value in (("bits", 4), ("epochs", 3), ("rows", 2000), ("seeds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    arguments = parser.parse_args()
    arrays = fashion_arrays(arguments.data)
    rows = []
    for seed in range(arguments.seeds):
        data, judge = parts(arrays, arguments.rows, seed)
        for method in METHODS:
            rows.append(trained(method, data, judge, seed, arguments))
            told = {
                key: round(rows[-1][key], 4) for key in ("accuracy", "base_accuracy", "agreement_with_base", "seconds")
            }
            print(method, seed, told, flush=True)
    rows += [summary(rows, method) for method in METHODS]
    for row in rows[-len(METHODS) :]:
        print(row["method"], [row[f"over_labels_{end}"] for end in ("pp", "low", "high")])
    old = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else []
    kept = [row for row in old if row["command"] != rows[0]["command"]]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps([*kept, *rows], indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
