"""The step prune_structured: what it removes, in which order, how far, and what it says of it."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import numpy as np
import pytest

pytest.importorskip("tensorflow", exc_type=ImportError)
pytestmark = pytest.mark.compression

import keras  # noqa: E402
import pruning_zoo as zoo  # noqa: E402
from compress_tasks import context, digest, network, task  # noqa: E402
from keras import layers  # noqa: E402

from converters.compress import prune_structured  # noqa: E402
from converters.compress.context import History, Rows, TrainingData  # noqa: E402
from converters.compress.graph import read_graph  # noqa: E402
from converters.compress.groups import read_structure  # noqa: E402
from converters.compress.importance import unit_scores  # noqa: E402
from converters.compress.rebuild import rebuild, values  # noqa: E402
from converters.compress.removal import choose  # noqa: E402
from converters.compress.sensitivity import sensitivity  # noqa: E402
from converters.compress.silencing import WORDS, group_parts, silenced  # noqa: E402
from converters.errors import RefusedError, ToolError  # noqa: E402
from converters.steps import parse_chain  # noqa: E402

NOTHING = np.empty(0, np.int64)


def step(text: str, model, ctx):
    return prune_structured.apply(model, parse_chain(text)[0].values, ctx)


def counts(model) -> tuple[int, int | None]:
    structure = read_structure(read_graph(model))
    return structure.parameters(NOTHING), structure.macs(NOTHING)


def wide() -> keras.Model:
    """Layers of unlike sizes: 40, 64, 12 and 16 filters."""
    keras.utils.set_random_seed(1)
    x = i = keras.Input((8, 8, 1), name="image")
    for filters in (40, 64, 12):
        x = zoo.conv_bn(x, filters)
    x = layers.Dense(16, activation="relu")(layers.GlobalAveragePooling2D()(x))
    return zoo.randomized(keras.Model(i, layers.Dense(4)(x)))


@pytest.mark.parametrize("target", ["parameters", "macs"])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_the_share_is_really_gone(tmp_path, target: str, scope: str) -> None:
    model = wide()
    before = counts(model)
    result = step(f"prune_structured(0.6, target={target}, scope={scope}, epochs=0)", model, context(tmp_path, None))
    after = counts(result.model)
    which = target == "macs"
    assert after == (result.figures["parameters"], result.figures["macs"])
    assert (before[0], before[1]) == (result.figures["parameters_before"], result.figures["macs_before"])
    reached = 1 - after[which] / before[which]
    assert reached == pytest.approx(result.figures["reached"], abs=1e-4)
    # Four filters are worth at most a twentieth of this model, and what is too much is given back in smaller pieces.
    assert 0.6 <= reached < 0.63
    if scope == "layer":
        shares = [new / old for old, new in result.figures["filters"].values()]
        assert max(shares) - min(shares) < 0.2
    assert counts(model) == before


def test_wide_layers_keep_whole_vectors_where_that_is_fine_enough() -> None:
    widths = (64, 16, 300, 300, 4)
    model = keras.Sequential([keras.Input((4,)), *(layers.Dense(width) for width in widths)])
    structure = read_structure(read_graph(model))
    for seed in range(5):
        scores = np.random.default_rng(seed).random(structure.unit_count)
        found = choose(structure, scores, 0.4 * model.count_params(), target="parameters", scope="global")
        gone = [np.isin(group.units, found.units).sum() for group in structure.groups]
        # Eight of the first 64 neurons are 0.2 % of the model; eight of 300 would be 2.6 %, so those go by fours.
        assert gone[0] % 8 == 0
        assert all(number % 4 == 0 for number in gone)
        assert 0.38 * model.count_params() <= found.left <= 0.4 * model.count_params()


def test_the_threshold_is_the_first_that_meets_the_goal() -> None:
    model = wide()
    structure = read_structure(read_graph(model))
    scores = np.random.default_rng(0).random(structure.unit_count)
    for scope in ("global", "layer"):
        for goal in (0.9, 0.5, 0.1):
            whole = structure.parameters(NOTHING)
            found = choose(structure, scores, goal * whole, target="parameters", scope=scope)
            assert found.left == structure.parameters(found.units) <= goal * whole
            assert structure.parameters(found.units[:-8]) > goal * whole
    most = choose(structure, scores, 0, target="parameters", scope="global")
    assert not most.reached
    assert len(most.units) == structure.unit_count - 4


@pytest.mark.parametrize("rounds", [1, 3])
def test_each_layer_loses_the_share_that_is_given_for_it(tmp_path, rounds: int) -> None:
    model = wide()
    structure = read_structure(read_graph(model))
    names = [group.name for group in structure.groups]
    shares = dict(zip(names, (0.5, 0.25, 0.0, 0.5), strict=True))
    text = "/".join(f"{name}:{share}" for name, share in shares.items())
    result = step(f"prune_structured(ratios={text}, epochs=0, iterations={rounds})", model, context(tmp_path, None))
    # Of 40, 64, 12 and 16; wide layers by fours, the nearest number of them.
    assert result.figures["filters"] == {names[0]: [40, 20], names[1]: [64, 48], names[3]: [16, 8]}
    assert result.figures["ratios"] == shares
    assert "ratio" not in result.figures
    assert "why_less" not in result.figures


def test_layers_that_lose_the_same_filters_have_one_ratio(tmp_path) -> None:
    model = zoo.randomized(zoo.residual())
    group = max(read_structure(read_graph(model)).groups, key=lambda each: len(each.layers))
    one, other = list(group.layers)[:2]
    before = len(group.units)
    result = step(f"prune_structured(ratios={other}:0.5, epochs=0)", model, context(tmp_path, None))
    assert result.figures["filters"][one] == result.figures["filters"][other] == [before, before // 2]
    with pytest.raises(RefusedError, match="lose the same filters, so they have one ratio"):
        step(f"prune_structured(ratios={one}:0.5/{other}:0.25, epochs=0)", model, context(tmp_path, None))


def test_ratios_that_mean_nothing_are_refused(tmp_path) -> None:
    model = wide()
    first = read_structure(read_graph(model)).groups[0].name
    for text, words in (
        (f"ratios={first}x:0.5", f"did you mean '{first}'"),
        (f"ratios={model.layers[-1].name}:0.5", "no filter of .* can be removed"),
        (f"ratios={first}:0.5, blocks=true", "no share that whole blocks"),
    ):
        with pytest.raises((RefusedError, ToolError), match=words):
            step(f"prune_structured({text}, epochs=0)", model, context(tmp_path, task()))


@pytest.mark.parametrize("by", ["l1", "l2", "batch_norm", "taylor", "activation"])
def test_a_filter_that_does_nothing_goes_first(tmp_path, by: str) -> None:
    model = zoo.randomized(network(), 4)
    conv = next(layer for layer in model.layers if type(layer).__name__ == "Conv2D")
    if by in ("l1", "l2"):
        for layer in (x for x in model.layers if type(x).__name__ in ("Conv2D", "DepthwiseConv2D")):
            kernel = values(layer.kernel)
            kernel[(..., 5) if type(layer).__name__ == "Conv2D" else (slice(None), slice(None), 5)] *= 1e-3
            layer.kernel.assign(kernel)
    if by == "batch_norm":
        for layer in (x for x in model.layers if type(x).__name__ == "BatchNormalization"):
            layer.gamma.assign(values(layer.gamma) * np.where(np.arange(8) == 5, 1e-3, 1))
    structure = read_structure(read_graph(model))
    group = next(g for g in structure.groups if conv.name in g.layers)
    unit = int(group.layers[conv.name][5])
    if by == "taylor":
        for site, positions in structure.takers(np.array([unit])):
            kernel = values(site.operation.kernel)
            kernel[(slice(None),) * site.axis + (positions,)] = 0
            site.operation.kernel.assign(kernel)
    if by == "activation":
        # Nothing passes: the normalization's shift is far below zero, before the activation that follows each.
        for layer in (x for x in model.layers if type(x).__name__ == "BatchNormalization"):
            layer.beta.assign(np.where(np.arange(8) == 5, -1e3, values(layer.beta)))
        last = next(x for x in model.layers if type(x).__name__ == "Conv2D" and x is not conv)
        bias = values(last.bias)
        bias[5] = -1e3
        last.bias.assign(bias)
    scores = unit_scores(model, structure, by, context(tmp_path, task()))
    assert scores.shape == (structure.unit_count,)
    assert np.isfinite(scores).all()
    assert (scores >= 0).all()
    assert unit == group.units[np.argmin(scores[group.units])]


def test_importance_needs_its_rows(tmp_path) -> None:
    for text in (
        "prune_structured(by=taylor, epochs=0)",
        "prune_structured(0.5)",
        "prune_structured(max_drop=0.1, epochs=0)",
    ):
        with pytest.raises(ToolError, match="labelled training rows"):
            step(text, network(), context(tmp_path, None))


class Course:
    """Training that does nothing, and a score that follows from how much is left."""

    def __init__(self, monkeypatch, scores: dict[float, float], whole: int) -> None:
        self.labels: list[str] = []
        self.scores, self.whole = scores, whole
        monkeypatch.setattr(prune_structured, "score", self.score)

    def score(self, model, rows, task) -> float:
        share = model.count_params() / self.whole
        return next(value for least, value in sorted(self.scores.items(), reverse=True) if share >= least)

    def fit(self, model, ctx, *, epochs, learning_rate=None, label="train", **_) -> History:
        self.labels.append(label)
        return History((1.0,) * epochs, (0.5,) * epochs, epochs, 0.0)


def test_the_last_model_above_the_floor_comes_back(tmp_path, monkeypatch) -> None:
    model = wide()
    whole = counts(model)[0]
    course = Course(monkeypatch, {0.8: 0.95, 0.5: 0.94, 0.3: 0.90, 0: 0.5}, model.count_params())
    ctx = context(tmp_path, task())
    ctx.fit = course.fit
    result = step("prune_structured(0.9, iterations=8, max_drop=0.04, epochs=2)", model, ctx)
    rounds = result.figures["rounds"]
    assert [each["kept"] for each in rounds] == [True] * (len(rounds) - 1) + [False]
    assert len(rounds) < 8
    assert rounds[-1]["score"] == 0.90 < result.figures["floor"] == pytest.approx(0.91)
    assert counts(result.model)[0] == rounds[-2]["parameters"] >= 0.5 * whole > rounds[-1]["parameters"]
    assert "floor" in result.figures["why_less"]
    assert course.labels == [f"round{number}" for number in range(1, len(rounds) + 1)]
    sizes = [each["parameters"] for each in rounds]
    assert sizes == sorted(sizes, reverse=True)


def test_a_score_on_the_floor_is_kept_and_no_floor_means_all_rounds(tmp_path, monkeypatch) -> None:
    model = wide()
    course = Course(monkeypatch, {0.9: 0.95, 0: 0.91}, model.count_params())
    ctx = context(tmp_path, task())
    ctx.fit = course.fit
    result = step("prune_structured(0.5, max_drop=0.04, epochs=1)", model, ctx)
    assert len(result.figures["rounds"]) == prune_structured.ROUNDS_TO_A_FLOOR
    assert result.figures["reached"] >= 0.5
    course.scores = {0: 0.1}
    assert step("prune_structured(0.5, iterations=3, epochs=1)", wide(), ctx).figures["reached"] >= 0.5
    # Nothing above the floor: the model comes back whole.
    course.scores = {0.999: 0.9, 0: 0.1}
    untouched = step("prune_structured(0.5, max_drop=0.1, epochs=1)", wide(), ctx)
    assert untouched.figures["reached"] == 0
    assert untouched.model.count_params() == wide().count_params()


def test_a_block_that_does_nothing_goes_whole(tmp_path) -> None:
    keras.utils.set_random_seed(2)
    x = i = keras.Input((8, 8, 1), name="image")
    x = zoo.conv_bn(x, 12)
    for number in range(3):
        y = zoo.conv_bn(zoo.conv_bn(x, 12), 12, activation=None)
        x = layers.ReLU()(layers.Add(name=f"sum{number}")([x, y]))
    model = keras.Model(i, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))
    ctx = context(tmp_path, task(512))
    ctx.fit(model, ctx, epochs=4, learning_rate=5e-3)
    graph = read_graph(model)
    silent = prune_structured.residual_blocks(graph)[1]
    for name in silent.layers[-1:]:
        model.get_layer(name).gamma.assign(np.zeros(12))
        model.get_layer(name).beta.assign(np.zeros(12))
    result = step("prune_structured(0.35, blocks=true, epochs=0)", model, ctx)
    assert result.figures["blocks_removed"][0] == "sum1"
    assert result.figures["rounds"][0]["blocks"][0] == "sum1"
    assert not any(layer.name in silent.layers for layer in result.model.layers)
    assert result.figures["filters"][silent.layers[0]][1] == 0
    assert result.figures["reached"] >= 0.35


def test_sensitivity_is_measured_and_drawn(tmp_path) -> None:
    ctx = context(tmp_path, task(512))
    model = network(dropout=0.0)
    ctx.fit(model, ctx, epochs=4, learning_rate=5e-3)
    before = digest(model)
    result = step("prune_structured(0.3, epochs=0)", model, ctx)
    assert digest(model) == before
    table = result.figures["sensitivity"]
    assert table["score"] > 0.9
    assert len(table["groups"]) == len(read_structure(read_graph(model)).groups)
    assert min(min(line["scores"]) for line in table["groups"]) < table["score"]
    assert result.files == ("sensitivity.csv", "sensitivity.svg")
    lines = (tmp_path / "keep" / "sensitivity.csv").read_text().splitlines()
    assert len(lines) == 1 + 3 * len(table["groups"])
    root = ET.fromstring((tmp_path / "keep" / "sensitivity.svg").read_text())  # noqa: S314
    assert len(root.findall("{http://www.w3.org/2000/svg}rect")) == 1 + 3 * len(table["groups"])


def test_silencing_everything_of_a_group_is_seen_by_the_score(tmp_path) -> None:
    data = task(512)
    ctx = context(tmp_path, data)
    model = network(dropout=0.0)
    ctx.fit(model, ctx, epochs=4, learning_rate=5e-3)
    structure = read_structure(read_graph(model))
    parts = group_parts(structure, np.arange(structure.unit_count, dtype=float))
    found = sensitivity(model, WORDS, parts, data, lambda: None)
    assert not found.skipped
    before = digest(model)
    with silenced(structure, np.arange(structure.unit_count)):
        assert prune_structured.score(model, data.validation, data.task) < found.whole - 0.2
    assert digest(model) == before


def test_what_cannot_be_pruned_is_refused_with_the_reason(tmp_path) -> None:
    i = keras.Input((10, 3))
    whole = keras.Model(i, layers.Dense(3)(layers.LSTM(4)(i)))
    with pytest.raises(RefusedError, match="no filter of this model"):
        step("prune_structured(epochs=0)", whole, context(tmp_path, None))
    free = keras.Input((None, None, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3)(free))
    model = keras.Model(free, layers.Dense(2)(x))
    with pytest.raises(RefusedError, match="MACs"):
        step("prune_structured(target=macs, epochs=0)", model, context(tmp_path, None))
    assert step("prune_structured(epochs=0)", model, context(tmp_path, None)).figures["reached"] >= 0.5


def test_several_inputs_and_outputs_are_pruned_and_trained(tmp_path) -> None:
    model = zoo.build("shared")
    rng = np.random.default_rng(0)
    rows = Rows(tuple(rng.normal(size=(64, 9, 4)).astype(np.float32) for _ in range(2)), rng.integers(0, 2, 64))
    data = TrainingData(rows, rows, rows, "classification", "0" * 64)
    result = step("prune_structured(0.4, by=taylor, epochs=1)", model, context(tmp_path, data, base=model))
    assert [tensor.name for tensor in result.model.inputs] == ["left", "right"]
    assert result.model.output_names == ["one", "two"]
    assert result.figures["reached"] >= 0.4
    assert result.figures["rounds"][0]["epochs"] == 1


def test_layers_it_does_not_know_are_named(tmp_path) -> None:
    result = step("prune_structured(0.2, epochs=0)", zoo.build("custom"), context(tmp_path, None))
    assert {"twisted", "into"} <= set(result.left_alone)
    assert result.model.get_layer("into").filters == 5
    assert result.model.get_layer("before").filters + result.model.get_layer("after").filters < 12
    renormalised = step("prune_structured(0.3, epochs=0)", zoo.build("layer_norm"), context(tmp_path, None))
    assert len(renormalised.figures["normalized_otherwise"]) == 2


def test_half_precision_stays(tmp_path) -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = network()
    finally:
        keras.config.set_dtype_policy("float32")
    result = step("prune_structured(0.4, by=taylor, epochs=1)", model, context(tmp_path, task()))
    assert {layer.compute_dtype for layer in result.model.layers if layer.weights} == {"bfloat16"}
    assert result.figures["reached"] >= 0.4


def test_a_step_that_was_killed_ends_in_the_same_bytes(tmp_path) -> None:
    text = "prune_structured(0.6, by=taylor, iterations=2, epochs=2)"
    whole = step(text, network(), context(tmp_path / "whole", task()))
    ctx = context(tmp_path / "killed", task())
    fit = ctx.fit

    def killed(model, context, *, label, **more):
        if label == "round2":
            raise KeyboardInterrupt
        return fit(model, context, label=label, **more)

    ctx.fit = killed
    with pytest.raises(KeyboardInterrupt):
        step(text, network(), ctx)
    ctx.fit = fit
    again = step(text, network(), ctx)
    assert digest(again.model) == digest(whole.model)
    assert again.figures["rounds"][0]["parameters"] == whole.figures["rounds"][0]["parameters"]
    assert rebuild(read_graph(again.model)).count_params() == again.figures["parameters"]
