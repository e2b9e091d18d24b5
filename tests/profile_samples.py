"""Profiles made by hand, and a stored session that has them: a float base and a dynamically quantized variant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.records import PROFILE, DeviceRecord, OperatorTimes, Profile, Run, Session, VariantRecord
from harness.store import Store

INFERENCES = 8


def operator(name: str, type_: str, us: float, inputs: str = "", outputs: str = "", **more: Any) -> OperatorTimes:
    times = (round(us * 1000),) * INFERENCES
    return OperatorTimes(name, type_, times, inputs=tuple(inputs.split()), outputs=tuple(outputs.split()), **more)


def profile(variant: str, operators: list[OperatorTimes], latency_us: float, **more: Any) -> Profile:
    wall = (round(latency_us * 1000),) * INFERENCES
    slower = tuple(round(value * 1.1) for value in wall)
    return Profile(
        variant=variant,
        method=more.pop("method", "ONNX Runtime's profiler: kernel times of each node"),
        operators=tuple(operators),
        plain_ns=wall,
        plain_cpu_ns=more.pop("cpu_ns", wall),
        profiled_ns=slower,
        profiled_cpu_ns=slower,
        **more,
    )


def base(name: str = "m.onnx.fp32") -> Profile:
    return profile(
        name,
        [
            operator("c1_nchwc", "Conv", 100, "x", "reorder_1", precision="f32", moved_bytes=4000),
            operator("c2_nchwc", "Conv", 200, "reorder_1", "reorder_2", precision="f32", moved_bytes=4000),
            operator("out", "ReorderOutput", 10, "reorder_2", "y", moved_bytes=800),
            operator("s", "Softmax", 5, "y", "z", moved_bytes=80),
        ],
        320,
        graph={"nodes": 3, "operators": {"Conv": 2, "Softmax": 1}},
    )


def dynamic(name: str = "m.onnx.dynamic", latency_us: float = 3000) -> Profile:
    operators = []
    for place, (reads, us) in enumerate((("x", 900), ("c1", 1600)), start=1):
        operators += [
            operator(f"q{place}", "DynamicQuantizeLinear", 100, reads, f"q{place} s{place}", moved_bytes=1000),
            operator(f"i{place}", "ConvInteger", us, f"q{place}", f"i{place}", precision="int8", moved_bytes=2000),
            operator(f"f{place}", "Cast", 40, f"i{place}", f"f{place}", moved_bytes=500),
            operator(f"c{place}", "Mul", 60, f"f{place} s{place}", f"c{place}", moved_bytes=500),
        ]
    operators.append(operator("s", "Softmax", 5, "c2", "z", moved_bytes=80))
    return profile(name, operators, latency_us, graph={"nodes": 9, "operators": {"DynamicQuantizeLinear": 2}})


def run_of(made: Profile, number: int, *, session: str = "s1", device: str = "local", **more: Any) -> Run:
    values = {"engine": "onnxruntime", "kind": PROFILE, "round": 0, "started_at": "2026-01-01", "duration_s": 1.0}
    return Run(id=f"{session}.{number:05d}", session_id=session, device=device, profiles=(made,), **(values | more))


def stored(folder: Path, *, profiles: bool = True, devices: tuple[str, ...] = ("local",)) -> Path:
    """A results folder with one session "s1" of four variants, two of them profiled; the files of none are there."""
    folder.mkdir(exist_ok=True)
    session = Session("s1", "demo", "2026-01-01T00:00:00+00:00", "0.1.0", 0, {}, environment={"threads": 1})
    variants = [
        VariantRecord("m.onnx.fp32", "onnx", base="m", recipe="fp32", artifact_sha256="0" * 64),
        VariantRecord("m.onnx.dynamic", "onnx", base="m", recipe="dynamic_wi8_afp32", artifact_sha256="1" * 64),
        VariantRecord("m.tflite.int8", "tflite", base="m", recipe="static_wi8_ai8", folder=str(folder / "gone")),
        VariantRecord("m.onnx.broken", "onnx", base="m", recipe="fp16", status="failed"),
    ]
    with Store.open(folder / "harness.sqlite") as store:
        store.add_session(session, variants, [DeviceRecord(name, "local") for name in devices])
        if profiles:
            store.add_run(run_of(base(), 1))
            store.add_run(run_of(dynamic(), 2))
        store.finish_session("s1", "done")
    return folder
