"""Side by side with the vendors' own tools: does the harness read the same time off the same file?

    python scripts/side_by_side.py --openvino m.xml --litert m.tflite --pairs 20 --out results/fidelity

Each pair runs `harness bench` and the vendor's tool one after the other in random order: same engine, one thread, one
stream, f32, sync. Printed and written: the ratio of medians (ours / theirs) with its 95 % interval over pairs, and the
ratio of minima. Take a model of 5 ms or more: the tools print two decimals of a millisecond.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

BIN = Path(sysconfig.get_path("scripts"))
ENV = {**os.environ, "OMP_NUM_THREADS": "1"}


def run(argv: list[str], timeout_s: float = 300) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, env=ENV, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(argv)} failed ({done.returncode}):\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done.stdout


def ours(model: Path, seconds: float) -> tuple[float, float]:
    """Median and minimum of one run of the harness, in ms."""
    with tempfile.TemporaryDirectory() as results:
        argv = [
            str(BIN / "harness"),
            "bench",
            str(model),
            "--runs",
            "1",
            "--probes",
            "1",
            "--json",
            "--results",
            results,
        ]
        (row,) = json.loads(run([*argv, "--run-s", str(seconds)]))
    if row["status"] != "ok" or row["precision"] not in {"f32", "fp32"} or row["threads"] != 1:
        sys.exit(f"not comparable: {row}")
    return row["latency_median_ns"] / 1e6, row["latency_min_ns"] / 1e6


def benchmark_app(model: Path, seconds: float) -> tuple[float, float]:
    """Median and minimum as OpenVINO's benchmark_app says them, in ms."""
    with tempfile.TemporaryDirectory() as folder:
        argv = [str(BIN / "benchmark_app"), "-m", str(model), "-d", "CPU", "-hint", "none", "-nstreams", "1"]
        argv += ["-nthreads", "1", "-api", "sync", "-t", str(max(1, round(seconds))), "-infer_precision", "f32"]
        # A free batch is 1, as the harness's agent sets it.
        argv += ["-shape", ",".join(f"{name}{shape}" for name, shape in static_shapes(model).items())]
        argv += ["-report_type", "no_counters", "-json_stats", "-report_folder", folder]
        run(argv)
        (report,) = Path(folder).glob("*.json")
        results = json.loads(report.read_text())["execution_results"]
    return float(results["latency (ms)"]), float(results["min latency"])


def static_shapes(model: Path) -> dict[str, list[int]]:
    import openvino as ov

    inputs = ov.Core().read_model(model).inputs
    return {
        item.any_name: [1 if size.is_dynamic else size.get_length() for size in item.partial_shape] for item in inputs
    }


def litert_benchmark(model: Path, seconds: float) -> tuple[float, float]:
    """Median and minimum as ai-edge-litert's litert-benchmark says them, in ms."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        argv = [str(BIN / "litert-benchmark"), "--model", str(model), "--num_threads", "1", "--warmup_runs", "10"]
        run([*argv, "--num_runs", str(max(50, round(seconds / 0.01))), "--result_json", str(out)])
        data = json.loads(out.read_text())
    return float(data["latency"]["median_ms"]), float(data["latency"]["min_ms"])


def interval(logs: list[float]) -> tuple[float, float]:
    """95 % t interval of the mean log ratio, as ratios."""
    from scipy import stats

    mean, error = statistics.fmean(logs), statistics.stdev(logs) / math.sqrt(len(logs))
    reach = float(stats.t.ppf(0.975, len(logs) - 1)) * error
    return math.exp(mean - reach), math.exp(mean + reach)


def compare(name: str, model: Path, tool: Any, pairs: int, seconds: float, rng: random.Random) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for index in range(pairs):
        order = [("ours", ours), (name, tool)]
        rng.shuffle(order)
        figures = {who: measure(model, seconds) for who, measure in order}
        (our_median, our_min), (their_median, their_min) = figures["ours"], figures[name]
        rows.append({"first": order[0][0], "ours_ms": figures["ours"], "theirs_ms": figures[name]})
        print(
            f"{name} {index + 1}/{pairs}: ours {our_median:.3f} ({our_min:.3f}), theirs {their_median:.3f} ({their_min:.3f})"
        )
    return summary(name, model.name, rows)


def summary(name: str, model: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Ratios ours / theirs. Of minima both the median over pairs, and that of the least of all: extremes of extremes."""
    medians = [math.log(row["ours_ms"][0] / row["theirs_ms"][0]) for row in rows]
    minima = [math.log(row["ours_ms"][1] / row["theirs_ms"][1]) for row in rows]
    least = {who: min(row[f"{who}_ms"][1] for row in rows) for who in ("ours", "theirs")}
    return {
        "tool": name,
        "model": model,
        "pairs": len(rows),
        "ratio_of_medians": round(math.exp(statistics.fmean(medians)), 4),
        "ratio_of_medians_95": [round(value, 4) for value in interval(medians)],
        "median_of_ratios": round(math.exp(statistics.median(medians)), 4),
        "ratio_of_minima": round(math.exp(statistics.median(minima)), 4),
        "ratio_of_minima_95": [round(value, 4) for value in interval(minima)],
        "ratio_of_least": round(least["ours"] / least["theirs"], 4),
        "least_ms": least,
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--openvino", type=Path, help="an OpenVINO .xml")
    parser.add_argument("--litert", type=Path, help="a .tflite")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/fidelity"))
    args = parser.parse_args()
    rng = random.Random(args.seed)  # noqa: S311
    found = []
    if args.openvino:
        found.append(compare("benchmark_app", args.openvino, benchmark_app, args.pairs, args.seconds, rng))
    if args.litert:
        found.append(compare("litert-benchmark", args.litert, litert_benchmark, args.pairs, args.seconds, rng))
    versions = {name: metadata.version(name) for name in ("ondevice-harness", "openvino", "ai-edge-litert")}
    today = datetime.now(UTC).date().isoformat()
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{today}-side-by-side.json"
    path.write_text(json.dumps({"date": today, "versions": versions, "comparisons": found}, indent=2) + "\n")
    for item in found:
        print({key: value for key, value in item.items() if key != "rows"})
    print(path)


if __name__ == "__main__":
    main()
