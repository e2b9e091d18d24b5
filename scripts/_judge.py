"""Gets TFMOT a folder of its own, and has it train the model of a case. Not part of the product.

tensorflow-model-optimization asks for an absl-py that TensorFlow 2.21 no longer wants, so it is no dependency of anything: with
`--judge DIR` its packages are put into DIR without what they depend on, and only the process of `_tfmot_judge.py` sees them.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from _reference_models import ROOT

PACKAGES = ("tf-keras==2.21.0", "tensorflow-model-optimization==0.8.1", "dm-tree==0.1.10")
# The copy of the model must be the model.
SAME_LOGITS = 1e-2


def install(folder: Path) -> None:
    """The packages, where they are not there yet."""
    if (folder / "tensorflow_model_optimization").is_dir():
        return
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *PACKAGES]
    subprocess.run(command, check=True)


def judge(
    folder: Path, model: Path, rows: dict[str, Any], out: Path, *, epochs: int, rate: float, seed: int
) -> dict[str, Any]:
    """What TFMOT makes of the model, in `out` (model.tflite): {"copy_error", "seconds"}. Read from `out` when it is there."""
    told, made = out / "judge.json", out / "model.tflite"
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    key = {"model": digest, "epochs": epochs, "learning_rate": rate, "seed": seed, "rows": len(rows["y_train"])}
    if told.exists():
        kept: dict[str, Any] = json.loads(told.read_text(encoding="utf-8"))
        if kept["key"] == key:
            return kept
    out.mkdir(parents=True, exist_ok=True)
    np.savez(out / "rows.npz", **rows)
    paths = [str(ROOT), str(folder), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [
            *(sys.executable, str(Path(__file__).with_name("_tfmot_judge.py")), str(model), str(out / "rows.npz")),
            *(str(epochs), str(rate), str(seed), str(made)),
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env=os.environ | {"TF_USE_LEGACY_KERAS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    (out / "rows.npz").unlink()
    if done.returncode != 0:
        raise SystemExit(f"TFMOT ended with exit code {done.returncode}")
    found: dict[str, Any] = {"key": key, **json.loads(done.stdout.strip().splitlines()[-1])}
    if found["copy_error"] > SAME_LOGITS:
        raise SystemExit(f"the copy for TFMOT is another function: logits differ by {found['copy_error']:.3g}")
    told.write_text(json.dumps(found) + "\n", encoding="utf-8")
    return found
