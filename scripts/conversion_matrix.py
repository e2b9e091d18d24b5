"""Convert several models by every recipe through the public command, and write docs/conversion-matrix.md.

    python scripts/conversion_matrix.py --work DIR [--only lstm,transformer]

Models, data and variants go to DIR; models that are there are not built again. The
rows go to results/conversion/DATE-matrix.json, from which the page is written.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from _matrix_models import MODELS, MatrixModel, make

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "conversion-matrix.md"
RESULTS = ROOT / "results" / "conversion"
PACKAGES = ("tensorflow", "keras", "tf2onnx", "onnx", "onnxslim", "onnxruntime", "openvino", "nncf", "ai-edge-litert",
            "ai-edge-quantizer", "numpy")  # fmt: skip
FP32_LIMIT = 1e-4


def convert(
    name: str, model: Path, data: Path, preprocessing: dict[str, Any], work: Path, timeout_s: float
) -> dict[str, Any]:
    """One `harness convert … --recipes all --json`, its rows and its wall time in seconds; no cache."""
    command = [str(Path(sys.executable).with_name("harness")), "convert", str(model), "--data", str(data)]
    command += ["--recipes", "all", "--out", str(work / "variants" / name), "--json", "--no-cache"]
    command += ["--timeout-s", f"{timeout_s:g}"]
    for key in ("scale", "mean"):
        if key in preprocessing:
            value = preprocessing[key]
            command += [f"--{key}", ",".join(map(repr, value)) if isinstance(value, list) else repr(value)]
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - started
    if done.returncode not in (0, 4):
        raise SystemExit(f"{name}: exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    rows = [{key: value for key, value in row.items() if key != "folder"} for row in json.loads(done.stdout)]
    print(f"{name}: {len(rows)} rows in {seconds:.0f} s", flush=True)
    return {"model": name, "seconds": seconds, "exit_code": done.returncode, "rows": rows}


def versions() -> dict[str, str]:
    """Versions of what decides the result."""
    found = {"python": platform.python_version()}
    return found | {package: metadata.version(package) for package in PACKAGES}


def cell(row: dict[str, Any] | None, notes: dict[str, int]) -> str:
    """A row of `convert` in one cell: the relative error, or the state and the number of its reason."""
    if row is None:
        return "–"
    if row["status"] == "ok":
        error = row["relative_error"]
        return "ok" if error is None else f"{error:.1e}"
    reason = f"{row['error']}" + (f" — {row['remedy']}" if row["remedy"] else "")
    return f"{row['status']} [{notes.setdefault(reason, len(notes) + 1)}]"


def table(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    """A Markdown table, first two columns left, others right."""
    rule = "|" + "|".join([":---", ":---", *["---:"] * (len(head) - 2)]) + "|"
    return ["| " + " | ".join(head) + " |", rule, *("| " + " | ".join(row) + " |" for row in rows)]


def page(record: dict[str, Any]) -> str:
    """docs/conversion-matrix.md of a record (see `main`)."""
    runs = {run["model"]: run for run in record["runs"]}
    by_key = {name: {(r["format"], r["recipe"]): r for r in run["rows"]} for name, run in runs.items()}
    keys = list(dict.fromkeys(key for rows in by_key.values() for key in rows))
    titles = [record["titles"][name] for name in runs]
    notes: dict[str, int] = {}
    head = ["format", "recipe", *titles]
    matrix = [[f, f"`{r}`", *(cell(rows.get((f, r)), notes) for rows in by_key.values())] for f, r in keys]
    sizes = [
        [f, f"`{r}`", *(_size(rows.get((f, r))) for rows in by_key.values())]
        for f, r in keys
    ]  # fmt: skip
    seconds = [
        [f, f"`{r}`", *(_seconds(rows.get((f, r))) for rows in by_key.values())]
        for f, r in keys
    ]  # fmt: skip
    classes = [[f, f"`{r}`", *(_classes(rows.get((f, r))) for rows in by_key.values())] for f, r in keys]
    lines = [
        "# Conversion matrix",
        "",
        f"Written by `python scripts/conversion_matrix.py` on {record['date']} ({record['machine']}). Each column is one",
        "`harness convert MODEL --data DATA.npz --recipes all --out DIR --no-cache --timeout-s 180 --json`. The models come from",
        "`keras.applications` or from layers, with seeded random weights, batch-normalisation statistics taken from the data",
        "and logits as outputs, so int8 errors are those of an untrained network: trained models lose less (see",
        "`results/conversion`). fp32 rows show whether the conversion is right, the others how much the precision costs.",
        "",
        "## Agreement with the base",
        "",
        "Largest error against Keras on the same rows, relative to the spread (max − min) of the base's outputs; the worst",
        f"output counts. The fp32 rows must stay below {FP32_LIMIT:g}: {_verdict(by_key)}",
        "",
        *table(head, matrix),
        "",
        *[f"[{number}] {_cell_text(reason)}  " for reason, number in notes.items()],
        "",
        "OpenVINO's accuracy control needs no time on a model that keeps its accuracy in int8 anyway. Where an untrained network",
        "loses more than a point, NNCF measures every quantizer in turn, which the time limit ends.",
        "",
        "## Rows with the base's class, %",
        "",
        *table(head, classes),
        "",
        "## Size, kB",
        "",
        *table(head, sizes),
        "",
        "## Seconds per variant",
        "",
        *table(head, seconds),
        "",
        "Whole command: " + ", ".join(f"{record['titles'][n]} {run['seconds']:.0f} s" for n, run in runs.items()) + ".",
        "",
        "## Versions",
        "",
        ", ".join(f"{name} {version}" for name, version in record["versions"].items()) + ".",
    ]
    return "\n".join(lines) + "\n"


def _verdict(by_key: dict[str, dict[tuple[str, str], dict[str, Any]]]) -> str:
    fp32 = [(n, r) for n, rows in by_key.items() for (_, recipe), r in rows.items() if recipe == "fp32"]
    bad = [f"{n} {r['format']}" for n, r in fp32 if r["status"] != "ok" or r["relative_error"] >= FP32_LIMIT]
    return "all do." if not bad else f"**not so for {', '.join(bad)}.**"


def _size(row: dict[str, Any] | None) -> str:
    return "–" if row is None or row["size_bytes"] is None else f"{row['size_bytes'] / 1000:,.0f}"


def _classes(row: dict[str, Any] | None) -> str:
    return "–" if row is None or row["argmax_agreement"] is None else f"{row['argmax_agreement'] * 100:.1f}"


def _seconds(row: dict[str, Any] | None) -> str:
    return "–" if row is None or row["seconds"] is None else f"{row['seconds']:.1f}"


def _cell_text(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def record_of(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What is known so far, for `page` and for the JSON file."""
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": versions(),
        "titles": {spec.name: spec.title for spec in MODELS},
        "runs": runs,
    }


def measure(models: list[MatrixModel], work: Path, timeout_s: float) -> Path:
    """Make and convert the models; after each, write what there is: a long run that is stopped loses one model at most."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{record_of([])['date']}-matrix.json"
    kept = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else []
    runs = {run["model"]: run for run in kept}
    for spec in models:
        runs[spec.name] = convert(spec.name, *make(spec, work), spec.preprocessing, work, timeout_s)
        ordered = [runs[model.name] for model in MODELS if model.name in runs]
        path.write_text(json.dumps(record_of(ordered), indent=1) + "\n", encoding="utf-8")
    return path


def main() -> None:
    """Convert, store the rows, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for models, data and variants")
    parser.add_argument("--only", default="", help="names of models, comma-separated; today's other rows stay")
    parser.add_argument("--timeout-s", type=float, default=180, help="time limit of one variant")
    parser.add_argument("--page-from", type=Path, help="only write the page, from this JSON")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    path = arguments.page_from
    if path is None:
        wanted = set(filter(None, arguments.only.split(",")))
        path = measure([m for m in MODELS if not wanted or m.name in wanted], arguments.work, arguments.timeout_s)
    record = json.loads(path.read_text(encoding="utf-8"))
    PAGE.write_text(page(record), encoding="utf-8")


if __name__ == "__main__":
    main()
