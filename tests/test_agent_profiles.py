"""What engines say of their operators → times: pure parsers on what real engines said, cuts of a .tflite, ablation."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from agent_process import of, run

from harness.agent.engines import litert_profile, onnx_profile, openvino_profile
from harness.agent.engines.litert_profile import Event, GraphOperator, by_ablation
from harness.agent.engines.onnx_graph import GraphNode, graph_nodes
from harness.agent.engines.openvino_profile import Counter
from harness.agent.engines.tflite_cut import Cutter
from harness.agent.protocol import Data, Job, Model, ProbePlan, ProfilePlan

GOLDEN = Path(__file__).parent / "golden" / "profiles"
DATA = Path(__file__).parent / "data"


def golden(name: str):
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


def plain(operators):
    return json.loads(json.dumps([dataclasses.asdict(operator) for operator in operators]))


def test_onnx_runtime_trace() -> None:
    case = golden("onnxruntime")
    nodes = [GraphNode(**{**n, "inputs": tuple(n["inputs"]), "outputs": tuple(n["outputs"])}) for n in case["nodes"]]
    found = onnx_profile.operators_of(case["events"], case["counted"], nodes)
    assert plain(found) == case["operators"]
    assert [operator.type for operator in found] == [
        "QuantizeLinear", "Transpose", "QLinearConv", "Flatten", "QGemm", "DequantizeLinear",
    ]  # fmt: skip
    # The first inference was none of those that count, and is not among the times.
    assert case["counted"] == [1, 2]
    kernels = [e for e in case["events"] if e["name"] == "image_QuantizeLinear_kernel_time"]
    assert found[0].times_ns == [e["dur"] * 1000 for e in kernels[1:]]
    assert found[0].moved_bytes == 256 + 5 + 64
    assert found[0].runner == "CPUExecutionProvider"


def test_onnx_runtime_trace_that_is_short_or_none() -> None:
    with pytest.raises(ValueError, match="has 3 inferences, not 8"):
        onnx_profile.operators_of(golden("onnxruntime")["events"], [7])
    with pytest.raises(ValueError, match="no list"):
        onnx_profile.read_trace("{}")


def test_an_operator_in_a_loop_counts_all_its_turns() -> None:
    node = {"cat": "Node", "name": "a_kernel_time", "dur": 3, "args": {"op_name": "Add"}}
    ends = {"cat": "Session", "name": "model_run", "dur": 9}
    found = onnx_profile.operators_of([node, node, ends, node, ends], [0, 1])
    assert [operator.times_ns for operator in found] == [[6000, 3000]]


def test_openvino_counters() -> None:
    case = golden("openvino")
    runs = [[Counter(**item) for item in run] for run in case["runs"]]
    found = openvino_profile.operators_of(runs, case["nodes"])
    assert plain(found) == case["operators"]
    kinds = {operator.type for operator in found}
    assert {"Convolution", "FullyConnected"} <= kinds
    # What was fused into another node, or is none, was not executed.
    assert "Parameter" not in kinds
    assert "FakeQuantize" not in kinds
    convolution = next(operator for operator in found if operator.type == "Convolution")
    assert convolution.precision == "int8"
    assert "r" in convolution.outputs


def test_litert_events() -> None:
    case = golden("litert")
    runs = [[Event(**item) for item in run] for run in case["runs"]]
    graph = [GraphOperator(g["type"], tuple(g["inputs"]), tuple(g["outputs"]), g["precision"]) for g in case["graph"]]
    found = litert_profile.operators_of(runs, graph)
    assert plain(found) == case["operators"]
    assert [operator.type for operator in found] == [
        "Convolution (NHWC, QC8) IGEMM", "Static Reshape (NC)", "Static Reshape (NC)", "Fully Connected (NC, QS8, QC8W) GEMM",
    ]  # fmt: skip
    # Telemetry and the call as a whole are no operators; convolution and product were given the names of their nodes.
    assert {operator.precision for operator in found if operator.precision} == {"int8"}
    assert found[0].outputs == graph[0].outputs
    assert found[1].outputs == ()


def test_litert_nodes_outside_the_delegate() -> None:
    graph = [
        GraphOperator("CONV_2D", ("x",), ("a",), "f32"),
        GraphOperator("DEPTHWISE_CONV_2D", ("a",), ("b",), "int8-dynamic"),
    ]
    run = [
        Event("Invoke", 1, 9000, 0),
        Event("TfLiteXNNPackDelegate", 4, 5000, 2),
        Event("Convolution (NHWC, F32) IGEMM", 8, 4000, 0),
        Event("DEPTHWISE_CONV_2D", 2, 3000, 1),
    ]
    found = litert_profile.operators_of([run, run], graph)
    assert [(o.name, o.runner, o.precision, o.times_ns) for o in found] == [
        ("a", "XNNPACK", "f32", [4000, 4000]),
        ("b", "LiteRT kernel", "int8-dynamic", [3000, 3000]),
    ]
    with pytest.raises(ValueError, match="1 operators in one inference and 2 in another"):
        litert_profile.operators_of([run, run[:3]], graph)


def test_a_delegate_that_tells_nothing_of_its_inside_counts_as_a_whole() -> None:
    run = [Event("TfLiteGpuDelegateV2", 4, 5000, 3)]
    (found,) = litert_profile.operators_of([run], [])
    assert (found.type, found.times_ns) == ("TfLiteGpuDelegateV2", [5000])


def test_ablation_gives_each_segment_what_its_end_adds() -> None:
    graph = [GraphOperator(kind, (f"i{n}",), (f"o{n}",)) for n, kind in enumerate(("CONV_2D", "ADD", "ADD", "SOFTMAX"))]
    found = by_ablation([2, 3, 4], [[108, 130, 150], [110, 105, 160]], graph)
    assert [operator.type for operator in found] == ["CONV_2D + ADD", "ADD", "SOFTMAX"]
    assert [operator.name for operator in found] == ["o1", "o2", "o3"]
    # The shortest of each cut: 108, 105 and 150. A longer beginning took 105, so the shorter one cannot have needed 108.
    assert [operator.times_ns for operator in found] == [[105], [0], [45]]


def test_onnx_nodes_by_name() -> None:
    nodes = graph_nodes((DATA / "tiny_qdq.onnx").read_bytes())
    kinds = [node.op for node in nodes]
    assert kinds.count("QuantizeLinear") == 5
    assert kinds.count("DequantizeLinear") == 7
    assert all(node.outputs for node in nodes)


def test_a_cut_file_keeps_what_is_still_needed() -> None:
    cutter = Cutter((DATA / "tiny_fp32.tflite").read_bytes())
    assert cutter.operators == 3
    cut = Cutter(cutter.after(1))
    assert cut.operators == 1
    assert Cutter(cutter.after(3)).operators == 3


@pytest.mark.parametrize("data", [b"", b"\x00" * 64, b"\x08\x00\x00\x00TFL3" + b"\xff" * 32])
def test_what_is_no_tflite_file_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"\.tflite"):
        Cutter(data)


def test_an_engine_without_a_profiler_is_told_for_each_model(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}", encoding="utf-8")
    models = tuple(Model(name, str(tmp_path / "a.json")) for name in ("a", "b"))
    code, messages, _ = run(Job("fault", models, Data(), profile=ProfilePlan()))
    assert code == 0
    assert [(m["id"], m["name"]) for m in of(messages, "error")] == [("a", "NoProfilerError"), ("b", "NoProfilerError")]
    assert "has no profiler" in of(messages, "error")[0]["message"]
    assert of(messages, "error")[0]["remedy"]
    assert of(messages, "profile") == []


def test_a_job_profiles_or_does_something_else() -> None:
    code, messages, _ = run(Job("fault", (Model("a", "a"),), Data(), probe=ProbePlan(), profile=ProfilePlan()))
    assert code == 1
    assert "exactly one of" in of(messages, "error")[0]["message"]
