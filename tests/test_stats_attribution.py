"""Roles of operators, central times, quiet inferences, and which operators of two graphs belong to the same layer."""

from __future__ import annotations

import pytest

from harness.stats.attribution import (
    BY_NAME,
    BY_ORDER,
    TimedOperator,
    central_ns,
    match_layers,
    quiet,
    role_of,
)


@pytest.mark.parametrize(
    ("type_", "role"),
    [
        ("Conv", "compute"),
        ("QLinearConv", "compute"),
        ("ConvInteger", "compute"),
        ("DynamicQuantizeMatMul", "compute"),
        ("DEPTHWISE_CONV_2D", "compute"),
        ("Fully Connected (NC, QD8, F32, QC8W) GEMM", "compute"),
        ("FullyConnectedCompressed", "compute"),
        ("UNIDIRECTIONAL_SEQUENCE_LSTM", "compute"),
        ("DynamicQuantizeLinear", "quantize"),
        ("QUANTIZE", "quantize"),
        ("FakeQuantize", "quantize"),
        ("Convert (NC, F32, QD8)", "quantize"),
        ("DequantizeLinear", "dequantize"),
        ("Convert (NC, QS8, F32)", "dequantize"),
        ("Convert (NC, F16, F32)", "cast"),
        ("Cast", "cast"),
        ("Convert", "cast"),
        ("ReorderOutput", "layout"),
        ("TRANSPOSE", "layout"),
        ("TRANSPOSE_CONV", "compute"),
        ("Static Reshape (NC)", "layout"),
        ("Softmax", "other"),
        ("", "other"),
    ],
)
def test_roles(type_: str, role: str) -> None:
    assert role_of(type_) == role


def test_the_central_time_is_the_mean_of_the_middle_half() -> None:
    assert central_ns([]) == 0.0
    assert central_ns([7]) == 7.0
    assert central_ns([3000, 4000, 3000, 90_000]) == 3500.0
    assert central_ns([1, 2, 3, 4, 5, 6, 7, 8]) == 4.5


def test_quiet_inferences_had_the_cpu() -> None:
    assert quiet([100] * 8, [100, 50, 99, 96, 94, 97, 98, 99]) == [0, 2, 3, 5, 6, 7]
    # Too few of them: the five with the largest share, in time order.
    assert quiet([100] * 7, [10, 20, 30, 40, 50, 60, 70]) == [2, 3, 4, 5, 6]
    assert quiet([0, 100], [0, 100]) == [0, 1]
    assert quiet([], []) == []


def op(name: str, type_: str, inputs: str = "", outputs: str = "", time_ns: float = 1.0) -> TimedOperator:
    return TimedOperator(name, type_, time_ns, tuple(inputs.split()), tuple(outputs.split()))


BASE = [
    op("c1_nchwc", "Conv", "x", "reorder_1"),
    op("c2_nchwc", "Conv", "reorder_1", "reorder_2"),
    op("out", "ReorderOutput", "reorder_2", "y"),
]


def test_layers_by_name_take_in_all_that_leads_to_them() -> None:
    variant = [
        op("q1", "DynamicQuantizeLinear", "x", "x_q x_s"),
        op("conv1", "ConvInteger", "x_q", "c1_q"),
        op("cast1", "Cast", "c1_q", "c1_f"),
        op("mul1", "Mul", "c1_f x_s", "c1"),
        op("q2", "DynamicQuantizeLinear", "c1", "c1_qq c1_s"),
        op("conv2", "ConvInteger", "c1_qq", "c2_q"),
        op("mul2", "Mul", "c2_q c1_s", "c2"),
    ]
    matched, mine, base = match_layers(variant, BASE)
    assert matched == BY_NAME
    assert [mine[place] for place in range(7)] == [0, 0, 0, 0, 1, 1, 1]
    assert base[0] == 0
    assert base[1] == 1


def test_layers_by_order_where_names_are_no_help() -> None:
    variant = [
        op("n0", "QUANTIZE"),
        op("n1", "CONV_2D"),
        op("n2", "RELU"),
        op("n3", "TRANSPOSE"),
        op("n4", "FULLY_CONNECTED"),
        op("n5", "SOFTMAX"),
    ]
    matched, mine, base = match_layers(variant, BASE)
    assert matched == BY_ORDER
    assert [mine[place] for place in range(6)] == [0, 0, 0, 1, 1, 1]
    assert [base[place] for place in range(3)] == [0, 1, 1]


def test_nothing_is_matched_by_guess() -> None:
    assert match_layers([op("a", "CONV_2D")], BASE) == (None, {}, {})
    assert match_layers([op("a", "Softmax")], [op("b", "Softmax")]) == (None, {}, {})
    assert match_layers([], BASE) == (None, {}, {})


def test_a_loop_in_a_damaged_graph_ends() -> None:
    variant = [
        op("a", "Conv", "t2", "t1"),
        op("b", "Conv", "t1", "t2"),
        op("c1", "Conv", "x", "c1"),
        op("c2", "Conv", "c1", "c2"),
    ]
    matched, mine, _ = match_layers(variant, BASE)
    assert matched == BY_NAME
    assert set(mine) == {0, 1, 2, 3}
