"""Runs a small real session in a process of its own, so that tests can interrupt or kill it: events go to stdout.

python session_driver.py STORE.db PROFILE.json RUNS [--resume]
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import numpy as np

from converters.variant import FORMAT_OF_SUFFIX, Manifest, Signature, TensorSpec, Variant, sha256_file
from harness.plan import MeasurementProtocol
from harness.profiles import DeviceProfile
from harness.records import Reference, VariantRecord
from harness.runner import SessionSpec, run_session
from harness.store import Store

DATA = Path(__file__).resolve().parent / "data"
FILES = ("tiny_fp32.tflite", "tiny_int8.tflite", "tiny.onnx", "tiny_qdq.onnx", "tiny_ov.xml", "tiny_ov_int8.xml")
ROWS = 40


def artifacts(files: tuple[str, ...] = FILES) -> dict[str, Variant]:
    """The committed tiny models as variants. Data come in NHWC; the ONNX and OpenVINO models want NCHW."""
    found = {}
    for file in files:
        path = DATA / file
        format_ = FORMAT_OF_SUFFIX[path.suffix]
        names = [file, *([path.with_suffix(".bin").name] if format_ == "openvino" else [])]
        signature = None
        if format_ != "tflite":
            image = TensorSpec("image", (None, 1, 8, 8), "float32", source="image", axes=(0, 3, 1, 2))
            signature = Signature((image,), ())
        manifest = Manifest(file, format_, file, {n: sha256_file(DATA / n) for n in names}, signature, 1, 1)
        found[file] = Variant(DATA, manifest)
    return found


def spec(devices: list[DeviceProfile], protocol: MeasurementProtocol, files: tuple[str, ...] = FILES) -> SessionSpec:
    made = artifacts(files)
    return SessionSpec(
        name="real",
        variants=[VariantRecord(name, variant.manifest.format) for name, variant in made.items()],
        artifacts=made,
        devices=devices,
        protocol=protocol,
        inputs={"image": np.random.default_rng(0).normal(size=(ROWS, 8, 8, 1)).astype(np.float32)},
        reference=Reference("classification", ROWS, labels=np.zeros(ROWS, np.int64)),
    )


def protocol(runs: int = 1) -> MeasurementProtocol:
    return MeasurementProtocol(
        runs=runs, max_runs=runs, probes=1, rounds=2, run_samples=10, run_s=0.02, warmup_s=0.01, hang_s=60.0
    )


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started us with it ignored
    path, profile, runs = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
    with Store.open(path) as store:
        resume = store.load(store.resolve("latest")) if "--resume" in sys.argv else None
        run_session(
            spec([DeviceProfile.model_validate(profile)], protocol(runs), ("tiny_fp32.tflite", "tiny.onnx")),
            store,
            lambda event: print(event.kind, event.done, event.text, flush=True),  # noqa: T201
            resume=resume,
        )


if __name__ == "__main__":
    main()
