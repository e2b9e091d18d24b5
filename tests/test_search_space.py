"""The space of a search: how it is read, what its candidates are, and what is wrong with one that cannot be searched."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import search_spaces as lab
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.errors import RecipeError
from converters.recipe_words import parse_recipes
from converters.search.domains import Choice, Range, read_domain
from converters.search.space import read_space

SHARES = st.floats(0, 1, exclude_max=True)
BOUNDS = st.floats(-1e4, 1e4).map(lambda value: round(value, 6))


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    whole, log = draw(st.booleans()), draw(st.booleans())
    low, high = sorted(draw(st.integers(1 if log else -50, 500)) if whole else abs(draw(BOUNDS)) + 1e-3 for _ in "ab")
    step = None if log or draw(st.booleans()) else draw(st.integers(1, 9)) if whole else draw(st.floats(0.01, 5))
    return Range(float(low), float(high), whole, log, step)


@settings(max_examples=80, deadline=None)
@given(ranges(), SHARES)
def test_every_value_of_a_range_is_of_the_range_and_keeps_its_place(domain: Range, share: float) -> None:
    for value in (domain.at(share), domain.drawn(share), *domain.levels(6)):
        assert domain.low <= value <= domain.high
        assert isinstance(value, int) == domain.whole
        assert domain.snapped(value) == value
        assert domain.holds(value)
        assert domain.at(domain.unit(value)) == pytest.approx(value, rel=1e-3, abs=1e-9)
    if domain.count is not None and domain.count < 100:
        assert len(domain.levels(domain.count)) == domain.count
        assert [domain.place(value) for value in domain.levels(domain.count)] == list(range(domain.count))


def test_a_step_counts_from_the_low_bound_and_never_leaves_the_high_one() -> None:
    domain = Range(0.1, 0.75, step=0.2)
    assert domain.levels(10) == (0.1, 0.3, 0.5, 0.7)
    assert domain.count == 4
    assert domain.at(1.0) == 0.7
    assert not domain.holds(0.4)


def test_draws_take_each_value_of_a_stepped_range_as_often() -> None:
    domain = Range(1.0, 4.0, whole=True)
    assert [domain.drawn(share / 8) for share in range(8)] == [1, 1, 2, 2, 3, 3, 4, 4]


def test_a_log_range_is_spread_by_ratio() -> None:
    assert Range(1.0, 10_000.0, log=True).levels(5) == (1.0, 10.0, 100.0, 1000.0, 10_000.0)
    assert Range(1.0, 64.0, whole=True, log=True).at(0.5) == 8


def test_options_that_python_calls_equal_are_told_apart() -> None:
    domain = Choice((1, "1.0", True, 2.0))
    assert [domain.unit(option) for option in domain.options] == [0.125, 0.375, 0.625, 0.875]
    assert not domain.holds(2)
    assert all(domain.at(domain.unit(option)) is option for option in domain.options)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([lab.plain(), lab.forked()]), st.lists(SHARES, min_size=8, max_size=8))
def test_every_draw_is_a_candidate_that_parses_and_is_found_again(space: Any, draws: list[float]) -> None:
    values = space.draw(iter(draws))
    candidate = space.candidate(values)
    (recipe,) = parse_recipes([candidate.recipe])
    assert candidate.key == recipe.key
    assert space.refusal(candidate) is None
    assert space.holds(candidate.values)
    again = space.candidate(candidate.values)
    assert (again.key, again.values, again.recipe) == (candidate.key, candidate.values, candidate.recipe)
    # What is not at work changes nothing.
    assert space.candidate(values | {"unheard of": 1}).key == candidate.key


def test_a_recipe_has_only_the_parameters_that_it_names() -> None:
    space = lab.forked()
    prune, factorize = (template.text for template in space.templates)
    assert space.active({"recipe": prune}) == ("recipe", "sparsity", "epochs")
    found = space.candidate({"recipe": factorize, "ratio": 0.123456, "rank": 9, "epochs": 0, "sparsity": 0.5})
    assert found.values == {"recipe": factorize, "ratio": 0.1235, "rank": 9, "epochs": 0}
    assert found.recipe == "factorize(0.1235, rank=9, epochs=0) @ onnx"
    assert found.key == "onnx:factorize(0.1235, rank=9, epochs=0)>fp32"
    assert not space.holds({**found.values, "sparsity": 0.5})
    assert not space.holds({**found.values, "recipe": "another"})
    assert space.size is None


def test_equal_recipes_have_equal_keys_whichever_template_they_are_of() -> None:
    space = read_space(
        {
            "recipes": ["prune({sparsity}, epochs=3) @ tflite", "tflite:prune({sparsity})>{precision}"],
            "parameters": {"sparsity": {"float": [0.1, 0.9]}, "precision": {"choice": ["fp32", "fp16"]}},
        }
    )
    one, other = (template.text for template in space.templates)
    keys = {space.candidate({"recipe": text, "sparsity": 0.5, "precision": "fp32"}).key for text in (one, other)}
    assert len(keys) == 1


def test_which_candidates_train() -> None:
    space = lab.plain()
    values = {"sparsity": 0.5, "scope": "layer", "precision": "fp32"}
    assert [space.trains(space.candidate({**values, "epochs": epochs})) for epochs in (0, 2)] == [False, True]


def test_all_of_a_finite_space() -> None:
    data = copy.deepcopy(lab.PLAIN)
    data["parameters"]["sparsity"]["step"] = 0.4
    space = read_space(data)
    assert space.size == 3 * 2 * 4 * 3
    assert len({candidate.key for candidate in space.everything()}) == space.size


def test_recipes_without_gaps_are_a_space_too() -> None:
    space = read_space({"recipes": ["fp32 @ tflite", "fp16 @ onnx"]})
    assert {candidate.key for candidate in space.everything()} == {"tflite:fp32", "onnx:fp16"}


def layered(**changes: Any) -> dict[str, Any]:
    ratio = {"float": [0.0, 0.8], "per_layer": ["conv1", "conv2"], "step": 0.1} | changes
    return {"recipes": ["prune_structured(ratios={ratio}, epochs=0) @ tflite"], "parameters": {"ratio": ratio}}


def test_a_value_for_each_layer() -> None:
    space = read_space(layered())
    assert list(space.parameters) == ["ratio.conv1", "ratio.conv2"]
    found = space.candidate({"ratio.conv1": 0.31, "ratio.conv2": 0.0})
    assert found.recipe == "prune_structured(ratios=conv1:0.3/conv2:0, epochs=0) @ tflite"
    assert space.size == 81


def changed(where: str, value: Any) -> dict[str, Any]:
    data = copy.deepcopy(lab.PLAIN)
    *path, last = where.split(".")
    inner: Any = data
    for key in path:
        inner = inner[key]
    inner[last] = value
    return data


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (changed("parameter", {}), "search: unknown key 'parameter'; did you mean 'parameters'"),
        (changed("recipes", []), r"search.recipes is \[\]"),
        (changed("recipes", ["fp32 @ tflite", "fp32 @ tflite"]), r"recipes\[1\] stands there twice"),
        (changed("recipes", ["prune({sparsty}) @ tflite"]), r"recipes\[0\]: {sparsty} is no parameter; did you mean 'sparsity'"),
        (changed("recipes", ["prune({sparsity) @ tflite"]), "a brace too many or too few"),
        (changed("recipes", ["prune({sparsity}) @ tflite"]), "parameters.scope stands in no recipe"),
        (changed("parameters.recipe", {"int": [1, 2]}), "the name 'recipe' is the name of the choice"),
        (changed("parameters.sparsity", {"float": [0.1, 1.5]}), r"recipes\[0\], with sparsity=1.5, .*sparsity is 1.5"),
        (changed("parameters.precision", {"choice": ["fp32", "fp23"]}), r"precision=fp23: unknown recipe 'fp23'.*'fp32'"),
        (changed("parameters.precision", {"choice": ["all"]}), "is 8 recipes"),
        (changed("parameters.precision", {"choice": ["static_wi8_au8"]}), r"recipes\[0\]: TFLite's quantization spec"),
        (changed("parameters.epochs", {"int": [0.5, 3]}), "parameters.epochs: int is .0.5, 3., but must be a low and a high"),
        (changed("parameters.epochs", {"int": [3, 0]}), "the low bound is above"),
        (changed("parameters.epochs", {"int": [0, 3], "log": True}), "must begin above 0"),
        (changed("parameters.epochs", {"int": [1, 9], "log": True, "step": 2}), "log and step exclude"),
        (changed("parameters.epochs", {"int": [0, 3], "step": -1}), "step is -1"),
        (changed("parameters.epochs", {"int": [0, 3], "choice": [1]}), "has int and choice"),
        (changed("parameters.epochs", {"steps": 1}), "unknown key 'steps'; did you mean 'step'"),
        (changed("parameters.epochs", 3), "epochs is 3"),
        (changed("parameters.scope", {"choice": ["layer", "layer"]}), "stands there twice"),
        (changed("parameters.scope", {"choice": ["layer"], "log": True}), "means nothing for a choice"),
        (changed("parameters.sparsity", {"float": [float("nan"), 1]}), "must be a low and a high"),
        (layered(per_layer="conv1"), "per_layer is 'conv1'"),
        (layered(per_layer=["a", "a"]), "each once"),
        (layered(per_layer=["a:b"]), "cannot be a part of a recipe"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_refused_by_its_place(data: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        read_space(data)


def test_a_combination_that_cannot_be_says_why() -> None:
    """A value that is possible only beside others is no mistake of the space; candidates with it are refused one by one."""
    space = read_space(
        {
            "recipes": ["{steps} {precision} @ tflite"],
            "parameters": {"steps": {"choice": ["", "qat >"]}, "precision": {"choice": ["static_wi8_ai8", "fp32"]}},
        }
    )
    refusals = {candidate.recipe: space.refusal(candidate) for candidate in space.everything()}
    assert [recipe for recipe, reason in refusals.items() if reason] == ["qat > fp32 @ tflite"]
    assert "qat trains weights and activations" in str(refusals["qat > fp32 @ tflite"])


@pytest.mark.parametrize(
    "ratios", ["conv1", "conv1:1.0", "conv1:0.5/", "conv1:-0.1", ":0.5", "conv1:0.3,conv2:0.5", "a:0.5b"]
)
def test_ratios_of_layers_are_checked_as_they_are_read(ratios: str) -> None:
    with pytest.raises(RecipeError):
        parse_recipes(f"prune_structured(ratios={ratios}) @ tflite")


def test_ratios_of_many_layers_fit_into_a_name() -> None:
    def named(ratio: float) -> str:
        layers = "/".join(f"block_{place}_project:{ratio}" for place in range(30))
        (recipe,) = parse_recipes(f"prune_structured(ratios={layers}, epochs=0) @ tflite")
        assert parse_recipes(recipe.key) == [recipe]
        return recipe.name

    assert named(0.5) != named(0.25)
    assert len(named(0.5)) < 80


def test_reading_a_domain() -> None:
    assert read_domain("x", {"float": [1, 2]}) == {"": Range(1.0, 2.0)}
    assert read_domain("x", {"choice": [1, "a"], "per_layer": ["p", "q"]}) == dict.fromkeys("pq", Choice((1, "a")))
