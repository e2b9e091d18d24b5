"""Show `harness explain` on two variants of MobileNetV2 that are slower than their base on x86.

The base is keras.applications' MobileNetV2 with random weights: which operators run, and how long, does not depend on them. Variants:
ONNX with every operator that ONNX Runtime can quantize dynamically (`quantize_dynamic` on all its types, Conv among
them), and TFLite's dynamic range. Both are held against fp32 of the same format; the TFLite pair a second time by ablation, to
hold that against LiteRT's own profiler. Writes results/fidelity/DATE-explain.json with the whole explanations, their words,
and whether the operators add up to the latency within 15 %; and the words into docs/explain.md (unless --out says where else).

python scripts/explain_mobilenet.py [--size 224] [--work FOLDER] [--runs 3] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
HARNESS = Path(sys.executable).with_name("harness")
RECIPES = "onnx:fp32,tflite:fp32,tflite:dynamic_wi8_afp32"
WITHIN = 0.15

MAKE_BASE = """
import sys, keras
keras.utils.set_random_seed(0)
keras.applications.MobileNetV2(input_shape=(int(sys.argv[1]),) * 2 + (3,), weights=None).save(sys.argv[2])
"""
# All types of operators that the dynamic quantizer knows; its default is the same, said here so that nobody need look.
QUANTIZE = """
import sys
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.registry import IntegerOpsRegistry
quantize_dynamic(sys.argv[1], sys.argv[2], op_types_to_quantize=list(IntegerOpsRegistry), weight_type=QuantType[sys.argv[3]])
"""


def run(*argv: str | Path) -> str:
    done = subprocess.run([str(part) for part in argv], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, argv[:4]))} … failed:\n{done.stderr[-2000:]}")
    return done.stdout


def make(work: Path, size: int, weights: str) -> None:
    """The base and its variants in `work`, unless they are there."""
    if not (work / "mobilenet_v2.keras").is_file():
        run(sys.executable, "-c", MAKE_BASE, str(size), work / "mobilenet_v2.keras")
    if not (work / "out").is_dir():
        run(HARNESS, "convert", work / "mobilenet_v2.keras", "--recipes", RECIPES, "--out", work / "out")
    if not (work / f"mobilenet_v2_dynamic_all_{weights}.onnx").is_file():
        fp32 = work / "out" / "mobilenet_v2.onnx.fp32" / "model.onnx"
        run(sys.executable, "-c", QUANTIZE, fp32, work / f"mobilenet_v2_dynamic_all_{weights}.onnx", weights)


def explain(variant: Path, base: Path, runs: int, method: str) -> dict[str, Any]:
    """The explanation as data, with its words, and whether the operators add up."""
    text = run(HARNESS, "explain", variant, "--against", base, "--runs", str(runs), "--method", method, "--json")
    found = json.loads(text)
    sides = [found["variant"], found["base"]]
    unexplained = {side["variant"]: side["unexplained"] for side in sides}
    return {
        "ratio": found["ratio"],
        "method": found["variant"]["method"],
        "matched_by": found["matched_by"],
        "unexplained": unexplained,
        "adds_up": all(abs(share) <= WITHIN for share in unexplained.values()),
        "disturbed": {side["variant"]: side["disturbed"] for side in sides},
        "words": words(found),
        "explanation": found,
    }


def words(found: dict[str, Any]) -> str:
    """The explanation as a terminal shows it, made from the same data."""
    from harness.explain import Change, Explanation, LayerTime, Side, TypeTime
    from harness.explain.findings import Finding
    from harness.report.explain import render_explanation

    def side(data: dict[str, Any]) -> Side:
        pairs = {key: {k: tuple(v) for k, v in data[key].items()} for key in ("roles", "outside_delegate")}
        return Side(**{**data, **pairs})

    data = {key: value for key, value in found.items() if key != "direction"}
    kinds = {"types": TypeTime, "changes": Change, "layers": LayerTime, "findings": Finding}
    lists = {key: tuple(kind(**item) for item in data[key]) for key, kind in kinds.items()}
    explanation = Explanation(**{**data, **lists, "variant": side(data["variant"]), "base": side(data["base"])})
    return render_explanation(explanation)


def filled(text: str, cases: dict[str, Any], out: Path, load: list[str]) -> str:
    """The document with the words of each case between its marks."""
    parts = [
        (
            f"`python scripts/explain_mobilenet.py`, {out.stem[:10]}, two cores, load {' '.join(load)}; base: keras.applications, random weights. "
            f"Every figure is in [the file](../results/fidelity/{out.name}).\n"
        )
    ]
    for name, case in cases.items():
        missed = ", ".join(f"{side} {abs(share):.1%}" for side, share in case["unexplained"].items())
        verdict = "" if case["adds_up"] else f" (more than the {WITHIN:.0%} that would do)"
        parts.append(
            f"**{name.replace('_', ' ')}**: {case['ratio']:.1f} times. The operators' sum misses the latency by: {missed}{verdict}.\n"
        )
        parts.append(f"```text\n{case['words']}```\n")
    begin, end = "<!-- explain: begin, made by scripts/explain_mobilenet.py -->\n", "<!-- explain: end -->"
    before, _, rest = text.partition(begin)
    return before + begin + "\n" + "\n".join(parts) + "\n" + end + rest.partition(end)[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--work", type=Path, help="where models are kept (default: a temporary folder)")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--weights", choices=("QInt8", "QUInt8"), default="QInt8", help="quantize_dynamic's default: QInt8"
    )
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    out = arguments.out or ROOT / "results" / "fidelity" / f"{day}-explain.json"
    with tempfile.TemporaryDirectory() as scratch:
        work = arguments.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        make(work, arguments.size, arguments.weights)
        onnx = work / "onnx_dynamic_all_operators.onnx", work / "onnx_fp32.onnx"
        _link(onnx[0], work / f"mobilenet_v2_dynamic_all_{arguments.weights}.onnx")
        _link(onnx[1], work / "out" / "mobilenet_v2.onnx.fp32" / "model.onnx")
        tflite = [work / "out" / f"mobilenet_v2.tflite.{name}" for name in ("dynamic_wi8_afp32", "fp32")]
        cases = {
            "onnx_dynamic_all_operators": explain(*onnx, arguments.runs, "auto"),
            "tflite_dynamic_range": explain(*tflite, arguments.runs, "auto"),
            "tflite_dynamic_range_by_ablation": explain(*tflite, 1, "ablation"),
        }
    import platform

    load = Path("/proc/loadavg").read_text(encoding="ascii").split()[:3]
    made = {
        "day": day,
        "machine": platform.processor() or platform.machine(),
        "load_after": load,
        "size": arguments.size,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({**made, "cases": cases}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, case in cases.items():
        print(f"== {name}\n{case['words']}")
        print(f"adds up within {WITHIN:.0%}: {case['adds_up']}\n")
    if arguments.out is None:
        document = ROOT / "docs" / "explain.md"
        document.write_text(filled(document.read_text(encoding="utf-8"), cases, out, load), encoding="utf-8")


def _link(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target.resolve())


if __name__ == "__main__":
    main()
