"""Recipes with compression steps: how chains are written and read back, and which cannot exist."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.errors import RecipeError
from converters.recipe import MAX_NAME_CHARS, matrix, parse_name, with_steps
from converters.recipe_words import parse_recipes, recipe_from_dict
from converters.step_catalogue import STEPS, Parameter
from converters.step_rules import _NOT_AFTER, _READS_ROWS, chain_reason, needs_rows, weight_bits
from converters.steps import chain_slug, chain_text, make_step, parse_chain
from converters.support import reason
from converters.variant import FORMATS


def keys(spec) -> list[str]:
    return [recipe.key for recipe in parse_recipes(spec)]


def value_of(parameter: Parameter):
    """Any value that the parameter takes."""
    if parameter.choices:
        return st.sampled_from(parameter.choices)
    if parameter.kind is bool:
        return st.booleans()
    low, high = parameter.low, parameter.high
    if parameter.kind is int:
        return st.integers(int(low or 0), int(high if high is not None else 10_000))
    if parameter.kind is float:
        return st.floats(low, high, exclude_min=parameter.open_ended, exclude_max=parameter.open_ended)
    if parameter.syntax is not None:
        return st.just(parameter.syntax[1].rpartition("like ")[2])  # its own example
    return st.sampled_from(("2:4", "a.keras", "models/my student.keras"))


@st.composite
def any_step(draw):
    info = draw(st.sampled_from(list(STEPS.values())))
    chosen = draw(st.lists(st.sampled_from(info.parameters), unique=True, max_size=4)) if info.parameters else []
    return make_step(info.name, {parameter.name: draw(value_of(parameter)) for parameter in chosen})


@settings(max_examples=60)
@given(st.lists(any_step(), min_size=1, max_size=3), st.sampled_from(matrix()))
def test_a_key_and_plain_data_spell_every_parameter(steps, plain):
    if len(chain_slug(steps)) + len(plain.name) + 1 > MAX_NAME_CHARS:  # they do not fit into a folder's name
        with pytest.raises(RecipeError, match="characters"):
            with_steps(plain, steps)
        return
    recipe = with_steps(plain, steps)
    assert parse_recipes(recipe.key) == [recipe]
    assert recipe_from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert recipe.precision == plain.name
    assert "/" not in recipe.name
    assert " " not in recipe.name
    assert parse_chain(chain_text(steps)) == tuple(steps)


@given(any_step(), any_step())
def test_steps_that_differ_have_names_that_differ(one, other):
    assert (chain_slug([one]) == chain_slug([other])) == (one == other)


def test_the_words_of_the_issue():
    text = "prune_structured(0.5) > distill > static_wi8_ai8 @ tflite"
    assert keys(text) == ["tflite:prune_structured(0.5)>distill>static_wi8_ai8"]
    assert keys("tflite:prune(0.5)>cluster(16)>static_wi8_ai8") == ["tflite:prune(0.5)>cluster(16)>static_wi8_ai8"]
    (recipe,) = parse_recipes("prune( 0.5 , scope = layer ) > cluster (16) @ onnx")
    assert recipe.name == "prune_0.5_scope-layer+cluster_16+fp32"
    assert recipe.variant_name("demo") == "demo.onnx.prune_0.5_scope-layer+cluster_16+fp32"


def test_no_format_means_every_format_that_has_it():
    assert keys("prune(0.5)") == [f"{fmt}:prune(0.5)>fp32" for fmt in FORMATS]
    assert keys("prune > static_wi8_ai16") == ["tflite:prune(0.5)>static_wi8_ai16"]
    assert keys("static_wi8_ai8 @ onnx, fp32@tflite") == ["onnx:static_wi8_ai8", "tflite:fp32"]
    # Steps that only some precisions can follow leave out the others.
    assert {key.rpartition(">")[2] for key in keys("qat > all @ tflite")} == {
        "static_wi8_ai8",
        "static_wi8_ai8_int_io",
    }
    assert len(keys("prune(0.5) > all")) == len(matrix())


def test_commas_inside_brackets_separate_nothing():
    text = "prune(0.5, epochs=0) > cluster(16, epochs=0) > fp16 @ tflite, onnx:fp32 tflite:prune(0.9)>entropy>fp32"
    assert keys(text) == [
        "tflite:prune(0.5, epochs=0)>cluster(16, epochs=0)>fp16",
        "onnx:fp32",
        "tflite:prune(0.9)>entropy>fp32",
    ]


def test_mappings_take_steps():
    steps = [{"step": "prune", "sparsity": 0.5, "epochs": 0}, "cluster(16)"]
    assert keys({"format": "tflite", "name": "static_wi8_ai8", "steps": steps}) == [
        "tflite:prune(0.5, epochs=0)>cluster(16)>static_wi8_ai8"
    ]
    assert keys(
        [{"steps": "prune(0.5) > cluster(16)", "format": "onnx"}, {"steps": {"step": "qat"}, "name": "static_wi8_ai8"}]
    ) == [
        "onnx:prune(0.5)>cluster(16)>fp32",
        *(f"{fmt}:qat(8)>static_wi8_ai8" for fmt in FORMATS),
    ]
    assert keys({"name": "prune(0.5) > static_wi8_ai8", "format": "onnx", "granularity": "per_tensor"}) == [
        "onnx:prune(0.5)>static_wi8_ai8_per_tensor"
    ]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("prunee(0.5)", "did you mean 'prune'"),
        ("prune(0.5", "bracket"),
        ("prune)0.5(", "bracket"),
        ("prune(1.5)", "must be in (0, 1)"),
        ("prune(0.5) > static_wi8_ai", "did you mean 'static_wi8_ai8'"),
        ("prune(0.5) > static_wi8_ai @ tflite", "did you mean 'static_wi8_ai8'"),
        ("prune(0.5) > tflite", "'tflite' is no precision"),
        ("prune(0.5) >", "'' is no precision"),
        ("static_wi8_ai8 > prune(0.5)", "the precision static_wi8_ai8 comes last"),
        ("prune(0.5) @ tflit", "did you mean 'tflite'"),
        ("prune(0.5) @", "no format behind the @"),
        ("tflite:prune(0.5) @ onnx", "names a format twice"),
        ("qat > fp32", "tflite, onnx, openvino: qat trains"),
        ("prun", "did you mean 'prune'"),
        ({"steps": [17]}, "not 17"),
        ({"steps": [{"sparsity": 0.5}]}, "with the key step"),
        ({"name": "prune(0.5)", "steps": "cluster(16)"}, "steps are given too"),
        ("distill(teacher=mobilenet_v2)", "has learnt nothing yet, the file of a trained model like big.keras"),
        ("qat(teacher=models/saved_model) > static_wi8_ai8", "the file of a trained model"),
        ({"steps": {"step": "distill", "student": "a,b.keras"}}, "cannot be written"),
        ({"steps": ["distill(student=" + "x" * 200 + ".keras)"], "format": "onnx"}, "characters"),
    ],
)
def test_what_means_nothing_is_an_error_with_a_hint(spec, words):
    with pytest.raises(RecipeError) as caught:
        parse_recipes(spec)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_teacher_is_the_base_or_a_file_whose_content_counts(tmp_path, monkeypatch):
    from converters.base_model import BaseModel
    from converters.chains import chain_of, step_files
    from converters.export.base import WORKSHOP
    from converters.jobs import ConversionRequest

    monkeypatch.setenv("HOME", str(tmp_path))
    base = BaseModel(tmp_path / "m.keras", "keras", "m", "0" * 64, 1)
    request = ConversionRequest(base.path, (), tmp_path, folder=tmp_path / "experiment")
    workshop = dataclasses.replace(WORKSHOP, compression_packages=("numpy",))
    (tmp_path / "experiment").mkdir()

    def key(chain):
        return chain_of(parse_chain(chain), request, base, workshop).key

    for chain in ("distill(teacher={})", "qat(4, teacher={})", "mixed(4, teacher={}, epochs=1)"):
        assert step_files(parse_chain(chain.format("base"))[0], request.folder) == {}
        seen = {key(chain.format("base"))}
        for place, named in ((request.folder / "big.keras", "big.keras"), (tmp_path / "big.h5", "~/big.h5")):
            place.unlink(missing_ok=True)
            with pytest.raises(RecipeError, match=r"teacher .*there is no file .*big\."):
                key(chain.format(named))
            for content in (b"one", b"two"):
                place.write_bytes(content)
                assert step_files(parse_chain(chain.format(named))[0], request.folder) == {"teacher": place.resolve()}
                seen.add(key(chain.format(named)))
        assert len(seen) == 5
    assert key("distill") == key("distill(teacher=base)")
    assert make_step("distill", {"teacher": "base"}) == make_step("distill")
    assert chain_slug(parse_chain("qat(4, teacher=base)")) == "qat_4_teacher-base"


def test_recipes_without_steps_are_what_they_were():
    for recipe in matrix():
        assert "steps" not in recipe.to_dict()
        assert recipe.key == f"{recipe.format}:{recipe.name}"
        assert parse_name(recipe.format, recipe.precision) == recipe


@pytest.mark.parametrize(
    ("chain", "facts", "words"),
    [
        ("prune(0.5)", {"base_kind": "saved_model"}, "a SavedModel holds a graph without layers"),
        ("prune(0.5)", {"training_rows": False}, "prune(0.5) trains, and the data hold no labelled training rows"),
        ("prune(0.5)", {"training_rows": False}, "prune trains nothing with epochs=0"),
        ("cluster(16, epochs=0) > distill", {"training_rows": False}, "distill trains"),
        ("prune_structured(0.5, by=taylor, epochs=0)", {"training_rows": False}, "judges by training rows"),
        ("prune_structured(0.5, max_drop=0.01, epochs=0)", {"training_rows": False}, "judges by training rows"),
        ("entropy > prune(0.5)", {}, "entropy must be the last step"),
        ("entropy > entropy", {}, "entropy must be the last step"),
        ("qat > qat", {}, "qat stands twice"),
        ("calibrate > calibrate(minmax)", {}, "calibrate stands twice"),
        ("calibrate > adaround(4)", {}, "give weight_bits there"),
        ("qat(4, alpha=0.5)", {}, "alpha is about a teacher, and there is none: give teacher=base"),
        ("mixed(4, method=hints, epochs=1)", {}, "method is about a teacher"),
        ("mixed(4, teacher=base)", {}, "with epochs=0 a teacher has nothing to teach"),
        ("equalize > correct_bias", {"calibration_rows": False}, "correct_bias fits the model to calibration rows"),
    ],
)
def test_impossible_chains_have_their_reason(chain, facts, words):
    found = chain_reason(parse_chain(chain), "static", "i8", facts)
    assert found is not None
    assert words in found


def test_every_order_that_is_refused_is_refused_for_its_reason():
    for (later, earlier), why in _NOT_AFTER.items():
        assert why in (chain_reason(parse_chain(f"{earlier} > {later}"), "static", "i8") or "")
    for (name, key), values in _READS_ROWS.items():
        info = next(item for item in STEPS[name].parameters if item.name == key)
        assert values is None or set(values) <= set(info.choices)


def test_possible_chains_have_none():
    facts = {"base_kind": "keras", "training_rows": True}
    for text in (
        "prune(0.9) > cluster(16) > entropy",
        "prune_structured(0.5) > distill",
        "factorize(0.5) > fine_tune",
        "prune(0.5) > cluster(16) > qat",
        "qat > entropy",
        "prune(0.5) > qat(4, teacher=big.keras, alpha=0.5) > entropy",
        "mixed(4, teacher=base, epochs=1)",
        "distill(teacher=big.h5, alpha=0.5)",
    ):
        assert chain_reason(parse_chain(text), "static", "i8", facts) is None
    (recipe,) = parse_recipes("qat(4) > static_wi8_ai8 @ openvino")
    assert reason(recipe) is None
    assert not needs_rows(make_step("entropy"))
    assert not needs_rows(make_step("prune", {"epochs": 0}))
    assert needs_rows(make_step("prune"))


def test_refinement_fits_integers_and_needs_no_training_rows():
    facts = {"base_kind": "keras", "training_rows": False, "calibration_rows": True}
    for text in (
        "equalize > calibrate(mse) > adaround > correct_bias",
        "adaround(4)",
        "prune(0.5, epochs=0) > calibrate",
    ):
        assert chain_reason(parse_chain(text), "static", "i8", facts) is None
    assert chain_reason(parse_chain("equalize"), "float", "f32", {"calibration_rows": False}) is None
    for name in ("calibrate", "adaround", "correct_bias"):
        found = chain_reason(parse_chain(f"equalize > {name}"), "float", "f32", facts)
        assert f"{name} fits weights and activations" in str(found)
    assert keys("calibrate(weight_bits=4) > adaround > static_wi4_ai8 @ tflite") == [
        "tflite:calibrate(mse, weight_bits=4)>adaround>static_wi4_ai8"
    ]
    assert keys("adaround(4) > static_wi4_ai8 @ tflite") == ["tflite:adaround(4)>static_wi4_ai8"]
    (eight,) = parse_recipes("correct_bias > static_wi8_ai8 @ tflite")
    assert weight_bits(eight.steps) == 8
    (four,) = parse_recipes("correct_bias > static_wi4_ai8 @ tflite")
    assert "use calibrate(weight_bits=4)" in str(reason(four))
