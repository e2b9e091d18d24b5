"""Recipes: names that spell parameters and back, the matrix, and suggestions for what is misspelt."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.errors import RecipeError
from converters.recipe import CHOICES, make_recipe, matrix, parse_name
from converters.recipe_words import parse_recipes, recipe_from_dict
from converters.support import ABSENT, SUPPORTED, reason, support, toolchain_of
from converters.variant import FORMATS


def keys(spec) -> list[str]:
    return [recipe.key for recipe in parse_recipes(spec)]


def test_the_matrix_has_what_the_formats_have_and_all_of_it_exists():
    recipes = matrix()
    assert len(recipes) == len({recipe.key for recipe in recipes}) == 24
    assert [sum(recipe.format == fmt for recipe in recipes) for fmt in FORMATS] == [8, 10, 6]
    assert [recipe.key for recipe in recipes if reason(recipe) is not None] == []
    assert matrix(["openvino"]) == tuple(recipe for recipe in recipes if recipe.format == "openvino")


@st.composite
def any_recipe(draw):
    control = draw(st.booleans())
    return make_recipe(
        *(draw(st.sampled_from(CHOICES[key])) for key in ("format",)),
        draw(st.sampled_from(("dynamic", "static", "weight_only"))),
        draw(st.sampled_from(("i8", "i4"))),
        draw(st.sampled_from(CHOICES["activations"])),
        io=draw(st.sampled_from(CHOICES["io"])),
        granularity=draw(st.sampled_from(CHOICES["granularity"])),
        calibration=draw(st.sampled_from(CHOICES["calibration"])),
        symmetric_activations=draw(st.booleans()),
        symmetric_weights=draw(st.booleans()),
        reduce_range=draw(st.booleans()),
        group_size=draw(st.none() | st.integers(1, 9999)),
        accuracy_control=control,
        max_drop=draw(st.none() | st.sampled_from((0.001, 0.005, 0.01, 0.025, 0.2))) if control else None,
    )


@given(any_recipe())
def test_a_name_spells_every_parameter(recipe):
    assert parse_name(recipe.format, recipe.name) == recipe
    assert recipe_from_dict(recipe.to_dict()) == recipe
    assert parse_recipes(recipe.key) == [recipe]


def test_float_recipes_name_their_precision():
    assert [parse_name(fmt, "fp16").activations for fmt in FORMATS] == ["f32", "f16", "f32"]
    assert parse_name("onnx", "fp32").variant_name("demo") == "demo.onnx.fp32"


def test_words():
    assert keys("all") == [recipe.key for recipe in matrix()]
    assert keys("tflite") == [recipe.key for recipe in matrix(["tflite"])]
    assert keys("onnx:static_wi8_ai8_entropy") == ["onnx:static_wi8_ai8_entropy"]
    assert keys("static_wi8_ai8") == ["tflite:static_wi8_ai8", "onnx:static_wi8_ai8", "openvino:static_wi8_ai8"]
    assert keys("static_wi8_ai16, fp32 tflite:fp32") == [
        "tflite:static_wi8_ai16",
        "tflite:fp32",
        "onnx:fp32",
        "openvino:fp32",
    ]


def test_mappings_change_parameters_of_a_name():
    spec = {"format": "onnx", "name": "static_wi8_ai8", "granularity": "per_tensor", "calibration": "entropy"}
    assert keys(spec) == ["onnx:static_wi8_ai8_per_tensor_entropy"]
    assert keys([{"name": "static_wi8_ai8", "granularity": "per_tensor"}, "onnx:fp32"]) == [
        "tflite:static_wi8_ai8_per_tensor",
        "onnx:static_wi8_ai8_per_tensor",
        "openvino:static_wi8_ai8_per_tensor",
        "onnx:fp32",
    ]
    spelled = {"format": "openvino", "mode": "static", "weights": "i8", "activations": "i8", "accuracy_control": True}
    (recipe,) = parse_recipes({**spelled, "max_drop": 0.005})
    assert recipe.name == "static_wi8_ai8_accuracy_control_drop0.5"
    (plain,) = parse_recipes({"format": "openvino", "name": recipe.name, "accuracy_control": False})
    assert plain.name == "static_wi8_ai8"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("onx", "did you mean 'onnx'"),
        ("onx:fp32", "did you mean 'onnx'"),
        ("tflite:fp23", "did you mean 'fp32'"),
        ("static_wi8_ai", "did you mean 'static_wi8_ai8'"),
        ("weight_only_wi8_ai16", "no format has"),
        ("", "no recipe given"),
        ({"format": "onnx", "nme": "fp32"}, "did you mean 'name'"),
        ({"format": "onnx", "name": "static_wi8_ai8", "granularity": "per_chanel"}, "did you mean 'per_channel'"),
        ({"format": "onnx", "mode": "static", "weights": "i8"}, "missing: activations"),
        ({"format": "onnx", "name": "static_wi8_ai8", "max_drop": 0.1}, "without accuracy_control"),
        ({"format": "openvino", "name": "static_wi8_ai8_accuracy_control", "max_drop": 3}, "fraction"),
        ({"format": "onnx", "name": "weight_only_wi4_afp32", "group_size": "many"}, "group_size"),
        ({"format": "onnx", "name": "static_wi8_ai8", "reduce_range": 1}, "true or false"),
        ([17], "not 17"),
        ({"format": "onnx", "mode": "float", "weights": "i8", "activations": "f32"}, "mode float has f32 or f16"),
        ({"format": "onnx", "mode": "static", "weights": "f32", "activations": "i8"}, "mode static has i8 or i4"),
        ({"format": "onnx", "name": "fp32", "calibration": "entropy"}, "takes no calibration"),
        ({"format": "tflite", "name": "fp16", "activations": "f16"}, "takes no activations"),
    ],
)
def test_what_means_nothing_is_an_error_with_a_hint(spec, words):
    with pytest.raises(RecipeError) as caught:
        parse_recipes(spec)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_whose_name_lies_is_refused():
    data = make_recipe("onnx", "static", "i8", "u8").to_dict() | {"name": "static_wi8_ai8"}
    with pytest.raises(RecipeError, match="spell 'static_wi8_au8'"):
        recipe_from_dict(data)


def made(fmt, mode, weights, activations, parameters):
    """The recipe, or None where the words contradict each other."""
    try:
        return make_recipe(fmt, mode, weights, activations, **parameters)
    except RecipeError:
        return None


@pytest.mark.slow
def test_every_combination_is_supported_or_has_a_reason():
    """All of them: none may fall through the table of reasons."""
    spaces = [CHOICES[key] for key in ("format", "mode", "weights", "activations", "io", "granularity", "calibration")]
    for fmt, mode, weights, activations, io, granularity, calibration in itertools.product(*spaces):
        if mode == "float" or weights in ("f32", "f16"):
            continue  # float recipes take no parameters: made() has no say there
        for flags in itertools.product((True, False), repeat=4):
            names = ("symmetric_activations", "symmetric_weights", "accuracy_control", "reduce_range")
            parameters = {"io": io, "granularity": granularity, "calibration": calibration}
            parameters |= dict(zip(names, flags, strict=True))
            recipe = made(fmt, mode, weights, activations, parameters)
            if recipe is None:
                continue
            why = reason(recipe)
            assert (why is None) == (support(recipe) is not None)
            assert why is None or why.strip()


@pytest.mark.slow
def test_every_reason_can_be_given():
    """A reason that no recipe ever gets would be dead text; each is reached by the fields it names."""
    spaces = {
        key: CHOICES[key] for key in ("format", "mode", "weights", "activations", "io", "granularity", "calibration")
    }
    flags = ("symmetric_activations", "symmetric_weights", "accuracy_control", "reduce_range")
    spaces |= dict.fromkeys(flags, (True, False))
    spaces["group_size"] = (None, 32, 48)
    given = set()
    for fields, text in ABSENT:
        free = {key: (fields[key],) if key in fields else values for key, values in spaces.items()}
        for values in itertools.product(*free.values()):
            named = dict(zip(free, values, strict=True))
            core = [named.pop(key) for key in ("format", "mode", "weights", "activations")]
            recipe = made(*core, named)
            if recipe is not None and reason(recipe) == text:
                given.add(text)
                break
    assert given == {text for _, text in ABSENT}


def test_every_supported_line_makes_its_own_default():
    for line in SUPPORTED:
        recipe = make_recipe(line.format, line.mode, line.weights, line.activations)
        assert support(recipe) is line
        assert toolchain_of(recipe) == line.toolchain


def test_reasons_that_depend_on_the_model():
    int4, control = parse_recipes("onnx:weight_only_wi4_afp32, openvino:static_wi8_ai8_accuracy_control")
    assert reason(int4, {}) is None
    assert "MatMulNBits" in reason(int4, {"onnx_constant_matmuls": 0})
    assert "labelled" in reason(control, {"calibration_labels": False})
    static, sixteen = parse_recipes("tflite:static_wi8_ai8, tflite:static_wi8_ai16")
    assert "loops" in reason(static, {"loops": True})
    assert reason(static, {"loops": True, "unrolled_steps": 20}) is None
    assert "tokens" in reason(sixteen, {"integer_inputs": ["tokens"]})
