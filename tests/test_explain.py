"""Explanations: what two profiles say about each other, and the words for it."""

from __future__ import annotations

import dataclasses
import json

import pytest
from profile_samples import base, dynamic, operator, profile, run_of

from harness.explain import Explanation, explain, explanation_to_dict, profiles_in
from harness.records import Failure, Profile
from harness.report.explain import render_explanation


def explained(variant: Profile, against: Profile | None = None, engine: str = "onnxruntime") -> Explanation:
    others = [] if against is None else [against]
    return explain([variant], others, device="local", engine=engine, format_="onnx")


def test_dynamic_convolutions_are_blamed_with_their_share() -> None:
    found = explained(dynamic(), base())
    assert found.direction == "slower"
    assert found.ratio == pytest.approx(3000 / 320)
    assert found.matched_by == "tensor and node names"
    total = 2 * (100 + 40 + 60) + 900 + 1600 + 5
    assert found.variant.operators_ns == pytest.approx(total * 1000)
    assert found.operators_difference_ns == pytest.approx((total - 315) * 1000)
    assert found.variant.unexplained == pytest.approx(1 - total / 3000)
    assert found.types[0].type == "ConvInteger"
    assert found.types[0].share == pytest.approx(2500 / total)
    assert sum(item.difference_share or 0 for item in found.types) == pytest.approx(1)
    change = found.changes[0]
    assert change.layers == 2
    assert [kind for kind, _ in change.base_types] == ["Conv", "ReorderOutput"] or change.base_types[0][0] == "Conv"
    assert change.time_ns == pytest.approx((total - 5) * 1000)
    assert [finding.code for finding in found.findings] == ["dynamic_onnx"]
    assert found.findings[0].share == pytest.approx(2700 / total)
    assert found.variant.moved_bytes == 2 * 1500


def test_every_operator_belongs_to_one_layer_and_layers_add_up() -> None:
    found = explained(dynamic(), base())
    assert sum(layer.time_ns for layer in found.layers) == pytest.approx(found.variant.operators_ns)
    assert found.base is not None
    assert sum(layer.base_time_ns for layer in found.layers) == pytest.approx(found.base.operators_ns)
    assert sum(change.layers for change in found.changes) == len(found.layers)


def test_words_name_operators_shares_and_what_to_do() -> None:
    text = render_explanation(explained(dynamic(), base()))
    assert text.startswith("m.onnx.dynamic takes 3.00 ms on local, m.onnx.fp32 320 µs: 9.4 times slower (onnxruntime).")
    assert "ConvInteger (86 %)" in text
    assert "which the base does not have" in text
    assert "onnx:static_wi8_au8" in text
    assert "method: ONNX Runtime's profiler" in text
    assert "2 DynamicQuantizeLinear" in text
    assert "3 % is not in any operator" in text
    assert "badly" not in text


def test_a_variant_by_itself() -> None:
    found = explained(dynamic())
    assert found.direction is None
    assert found.changes == ()
    text = render_explanation(found)
    assert text.startswith("m.onnx.dynamic takes 3.00 ms on local (onnxruntime).")
    assert "base" not in text


def test_the_other_way_round_it_is_faster_and_nothing_is_to_blame() -> None:
    found = explained(base(), dynamic())
    assert found.direction == "faster"
    text = render_explanation(found)
    assert "9.4 times faster" in text
    assert "→" not in text


def test_the_same_is_alike() -> None:
    found = explained(base("a"), base("b"))
    assert found.direction == "alike"
    assert "about the same (1.00" in render_explanation(found)


def test_a_sum_that_misses_the_latency_is_said_to_explain_badly() -> None:
    text = render_explanation(explained(dynamic(latency_us=6000), base()))
    assert "52 % is not in any operator" in text
    assert "explain this latency badly" in text


def test_disturbed_inferences_are_left_out_and_told() -> None:
    made = dynamic()
    wall = list(made.plain_ns)
    wall[2] = wall[5] = wall[6] = 90_000_000
    busy = dataclasses.replace(made, plain_ns=tuple(wall))
    found = explained(busy, base())
    assert found.variant.latency_ns == pytest.approx(3_000_000)
    assert found.variant.disturbed == pytest.approx(3 / 16)


def test_operators_outside_the_delegate() -> None:
    graph = {
        "nodes": 2,
        "delegated_nodes": 1,
        "delegate": "XNNPACK",
        "operators": {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1},
    }
    mine = profile(
        "dynamic",
        [
            operator(
                "a",
                "Fully Connected (NC, QD8, F32, QC8W) GEMM",
                50,
                "x",
                "a",
                runner="XNNPACK",
                precision="int8-dynamic",
            ),
            operator("b", "DEPTHWISE_CONV_2D", 300, "a", "b", runner="LiteRT kernel", precision="int8-dynamic"),
        ],
        360,
        graph=graph,
    )
    its = profile(
        "fp32",
        [
            operator("a", "Fully Connected (NC, F32) GEMM", 60, "x", "a", runner="XNNPACK", precision="f32"),
            operator("b", "Convolution (NHWC, F32) DWConv", 80, "a", "b", runner="XNNPACK", precision="f32"),
        ],
        145,
        graph={**graph, "delegated_nodes": 2},
    )
    found = explained(mine, its, "litert")
    assert found.variant.outside_delegate == {"DEPTHWISE_CONV_2D": (1, 300_000.0)}
    # The product quantizes too, but is faster than in the base: it is not to blame.
    assert [finding.code for finding in found.findings] == ["outside_delegate"]
    text = render_explanation(found)
    assert "1 of 2 nodes delegated to XNNPACK; outside it: 1 DEPTHWISE_CONV_2D (300 µs)" in text
    assert "tflite:static_wi8_ai8" in text


def test_sixteen_bits_outside_the_delegate_have_a_remedy_of_their_own() -> None:
    graph = {"nodes": 1, "delegated_nodes": 0, "delegate": "XNNPACK"}
    mine = profile("w", [operator("a", "CONV_2D", 900, runner="LiteRT kernel", precision="int16x8")], 910, graph=graph)
    assert [finding.code for finding in explained(mine).findings] == ["wide_activations"]


@pytest.mark.parametrize(
    ("type_", "code"), [("QuantizeLinear", "quantizing"), ("Cast", "casting"), ("Transpose", "reordering")]
)
def test_what_only_moves_numbers_is_named_from_a_tenth_of_the_time_on(type_: str, code: str) -> None:
    def of(us: float) -> list[str]:
        made = profile("v", [operator("a", "Conv", 100), operator("b", type_, us)], 130)
        return [finding.code for finding in explained(made).findings]

    assert of(20) == [code]
    assert of(5) == []


def test_several_runs_are_averaged_and_strange_ones_left_out() -> None:
    other = profile("m.onnx.dynamic", [operator("z", "Conv", 1)], 9000)
    found = explain([other, dynamic(), dynamic()], [], device="d", engine="onnxruntime", format_="onnx")
    assert found.variant.operators == 9
    with pytest.raises(ValueError, match="no profile"):
        explain([], [], device="d", engine="onnxruntime", format_="onnx")


def test_ablation_times_are_not_one_for_each_inference() -> None:
    made = dynamic()
    three = tuple(dataclasses.replace(item, times_ns=item.times_ns[:3]) for item in made.operators)
    found = explained(dataclasses.replace(made, operators=three), base())
    assert found.variant.operators_ns == pytest.approx(2905 * 1000)


def test_only_good_runs_of_the_device_are_read() -> None:
    runs = [
        run_of(base(), 1),
        run_of(base(), 2, device="phone"),
        run_of(base(), 3, status="failed", failure=Failure("device", "X", "x")),
        run_of(dynamic(), 4),
    ]
    assert profiles_in(runs, "m.onnx.fp32", "local") == [base()]


def test_json_has_no_surprises() -> None:
    data = json.loads(json.dumps(explanation_to_dict(explained(dynamic(), base())), allow_nan=False))
    assert data["direction"] == "slower"
    assert data["variant"]["variant"] == "m.onnx.dynamic"
    assert data["types"][0]["type"] == "ConvInteger"


def test_hostile_names_are_made_harmless() -> None:
    made = profile("v\x1b[31m", [operator("a", "Co\x1bnv\nx", 100)], 110)
    assert "\x1b" not in render_explanation(explained(made))


def test_operators_that_fell_back_to_another_provider() -> None:
    gpu, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    mine = profile(
        "v",
        [operator("a", "Conv", 100, runner=gpu), operator("b", "ConvTranspose", 400, runner=cpu)],
        520,
        graph={"nodes": 2, "operators": {"Conv": 1, "ConvTranspose": 1}, "providers": [gpu, cpu]},
    )
    found = explained(mine)
    assert [finding.code for finding in found.findings] == ["other_provider"]
    assert "not on CUDAExecutionProvider: 1 ConvTranspose (400 µs)" in render_explanation(found)
