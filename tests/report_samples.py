"""Rows and recommendations made by hand, for tests of the reports alone."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import numpy as np

from harness.report.advice import Advice
from harness.row import FAILED, OK, REFUSED, Row

HOSTILE = '<script>alert("x")</script>\x1b[31m|`*&amp;\n</script><img src=http://evil.example/x onerror=alert(1)>'


def row(recipe: str = "fp32", form: str = "tflite", device: str = "laptop", **values: Any) -> Row:
    """An ok row with every figure of the default table set."""
    plain = Row(
        session="20261121-221500-a1b2c3",
        variant=f"dscnn.{form}.{recipe}",
        base="dscnn",
        format=form,
        recipe=recipe,
        device=device,
        engine={"tflite": "litert", "onnx": "onnxruntime", "openvino": "openvino"}[form],
        status=OK,
        size_bytes=169_432,
        size_gzip_bytes=144_017,
        parameters=41_290,
        latency_median_ns=2_104_331.5,
        latency_median_low_ns=2_081_000.0,
        latency_median_high_ns=2_139_000.0,
        latency_min_ns=2_001_000.0,
        latency_p90_ns=2_301_000.0,
        latency_p90_low_ns=2_270_000.0,
        latency_p90_high_ns=2_340_000.0,
        load_ns=4_100_000.0,
        first_inference_ns=6_300_000.0,
        memory_peak_bytes=61_204_480,
        memory_peak_delta_bytes=1_204_480,
        accuracy=0.8834,
        accuracy_drop_pp=0.31,
        accuracy_drop_low_pp=-0.12,
        accuracy_drop_high_pp=0.74,
        agreement=0.9912,
        runs=6,
        samples=3000,
        threads=1,
        precision="f32",
        grade="A",
    )
    return dataclasses.replace(plain, **values)


def failed(recipe: str = "static_wi8_ai16", device: str = "laptop", **values: Any) -> Row:
    plain = Row(
        session="20261121-221500-a1b2c3",
        variant=f"dscnn.tflite.{recipe}",
        base="dscnn",
        format="tflite",
        recipe=recipe,
        device=device,
        engine=None,
        status=FAILED,
        error="ToolCrashed: the converter was killed by SIGSEGV",
        remedy="try the recipe without 16-bit activations",
    )
    return dataclasses.replace(plain, **values)


def refused(recipe: str = "static_wi4_ai4", device: str = "laptop", **values: Any) -> Row:
    plain = failed(recipe, device, status=REFUSED, error="no kernel has 4-bit activations", remedy=None)
    return dataclasses.replace(plain, **values)


def many(devices: tuple[str, ...] = ("laptop", "board")) -> list[Row]:
    """Seven rows a device: five ok (one of them with reasons), one failed, one refused."""
    rows = []
    for device in devices:
        factor = 1 if device == "laptop" else 4.2
        for form, recipe, ms, size, accuracy in (
            ("tflite", "fp32", 2.10, 169_432, 0.8834),
            ("tflite", "static_wi8_ai8", 1.15, 62_016, 0.8791),
            ("onnx", "fp32", 2.42, 168_870, 0.8834),
            ("onnx", "weight_only_wi4_afp32", 2.46, 120_018, 0.8770),
            ("openvino", "static_wi8_ai8", 1.18, 131_775, 0.8802),
        ):
            middle = ms * factor * 1e6
            loose = recipe.startswith("weight")
            rows.append(
                row(
                    recipe,
                    form,
                    device,
                    latency_median_ns=middle,
                    latency_median_low_ns=middle * 0.991,
                    latency_median_high_ns=middle * 1.012,
                    latency_p90_ns=None if loose else middle * 1.09,
                    latency_p90_low_ns=None if loose else middle * 1.07,
                    latency_p90_high_ns=None if loose else middle * 1.12,
                    size_bytes=size,
                    size_gzip_bytes=round(size * 0.83),
                    accuracy=accuracy,
                    accuracy_drop_pp=round((0.8834 - accuracy) * 100, 4),
                    accuracy_drop_low_pp=(0.8834 - accuracy) * 100 - 0.4,
                    accuracy_drop_high_pp=(0.8834 - accuracy) * 100 + 0.4,
                    grade="B" if loose else "A",
                    grade_reasons=("not converged: half-width 4.1 % > 3 %",) if loose else (),
                    null_reasons=("latency_p90_ns: n/a (n=30)",) if loose else (),
                )
            )
        rows += [failed(device=device), refused(device=device)]
    return rows


def advice(device: str = "laptop") -> Advice:
    """What the reports show of a recommendation; none of them looks at the recommendation itself."""
    return Advice(
        device=device,
        winner="dscnn.tflite.static_wi8_ai8",
        sentence=f"Deploy dscnn.tflite.static_wi8_ai8 on {device}: the fastest within the limits. Limits: p90 ≤ 2.50 ms.",
        runner_up="dscnn.openvino.static_wi8_ai8",
        tie=(),
        excluded=(("dscnn.onnx.fp32", ("p90 2.64 ms > 2.50 ms",)),),
        pareto=("dscnn.tflite.static_wi8_ai8", "dscnn.openvino.static_wi8_ai8", "dscnn.tflite.fp32"),
        recommendation=cast("Any", None),
    )


def samples(rows: list[Row], runs: int = 3) -> dict[str, dict[str, list[np.ndarray]]]:
    """Made-up times around each ok row's median: device → variant → one array of ns per run."""
    rng = np.random.default_rng(0)
    found: dict[str, dict[str, list[np.ndarray]]] = {}
    for one in rows:
        if one.status == OK and one.latency_median_ns is not None:
            spread = np.exp(np.abs(rng.normal(scale=0.05, size=(runs, 400))) - 0.03)
            found.setdefault(one.device, {})[one.variant] = list((one.latency_median_ns * spread).astype(np.int64))
    return found
