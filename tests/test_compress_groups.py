"""Removing channels from a graph equals zeroing them in the weights, for every pattern of layers."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("tensorflow", exc_type=ImportError)
pytestmark = pytest.mark.compression

import keras  # noqa: E402
import pruning_zoo as zoo  # noqa: E402

from converters.compress.blocks import residual_blocks  # noqa: E402
from converters.compress.graph import read_graph  # noqa: E402
from converters.compress.groups import Structure, read_structure  # noqa: E402
from converters.compress.rebuild import rebuild, values  # noqa: E402
from converters.compress.removal import sequence  # noqa: E402
from converters.errors import RefusedError  # noqa: E402

ZERO_STAYS_ZERO = {
    "plain", "one_dimensional", "residual", "inverted_residual", "squeeze_excite", "dense_concat", "u_net",
    "three_dimensional", "shared", "nested", "bare_operations",
}  # fmt: skip


def outputs(model, rows):
    given = keras.tree.pack_sequence_as(model.input, list(rows)) if not isinstance(model, keras.Sequential) else rows[0]
    return [np.asarray(y) for y in keras.tree.flatten(model(given, training=False))]


def some_units(structure: Structure, share: float, seed: int = 3) -> np.ndarray:
    scores = np.random.default_rng(seed).random(structure.unit_count)
    pieces = sequence(structure, scores, "global", structure.parameters)
    return np.concatenate([np.empty(0, np.int64), *pieces[: round(share * len(pieces))]])


def with_zeros(model, slices, rows):
    """The answers of the same network with zeros in slices of its weights; the weights are put back."""
    before = [values(weight) for weight in model.weights]
    for site, positions in slices:
        weight = getattr(site.operation, site.variable)
        array = values(weight)
        array[(slice(None),) * site.axis + (positions,)] = 0
        weight.assign(array)
    found = outputs(model, rows)
    for weight, array in zip(model.weights, before, strict=True):
        weight.assign(array)
    return found


def makers(structure: Structure, units):
    gone = structure.gone(units)
    sites = [site for site in structure.sites if site.role != "takes" and "moving" not in site.variable]
    return [(site, np.flatnonzero(gone[site.ids])) for site in sites]


def flat_structure(model) -> tuple[keras.Model, Structure]:
    flat = rebuild(read_graph(model))
    return flat, read_structure(read_graph(flat))


@pytest.mark.parametrize("name", zoo.FACTORIES)
def test_removed_equals_masked(name: str) -> None:
    model = zoo.build(name)
    rows = zoo.rows(model)
    flat, structure = flat_structure(model)
    for a, b in zip(outputs(model, rows), outputs(flat, rows), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    units = some_units(structure, 0.6)
    assert len(units) >= 2
    pruned = rebuild(structure.graph, structure.cuts(units))
    assert pruned.count_params() == structure.parameters(units) < flat.count_params() == structure.parameters(units[:0])
    assert [layer.name for layer in pruned.layers] == [layer.name for layer in flat.layers]
    assert 0 < structure.macs(units) < structure.macs(units[:0])
    if name in zoo.RENORMALISED:
        assert structure.renormalised
        return
    found = outputs(pruned, rows)
    for a, b in zip(with_zeros(flat, structure.takers(units), rows), found, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(outputs(model, rows), found, strict=True))
    # Where zero stays zero on its way, filters of zeros are as good as none: this judge knows nothing of who takes them.
    if name in ZERO_STAYS_ZERO:
        for a, b in zip(with_zeros(flat, makers(structure, units), rows), found, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", zoo.FACTORIES)
def test_everything_that_may_go_leaves_every_layer_a_filter(name: str) -> None:
    flat, structure = flat_structure(zoo.build(name))
    pruned = rebuild(structure.graph, structure.cuts(some_units(structure, 1.0)))
    rows = zoo.rows(flat)
    assert all(np.isfinite(y).all() for y in outputs(pruned, rows))
    assert all(min(weight.shape, default=1) >= 1 for weight in pruned.weights)
    assert {layer.filters for layer in pruned.layers if type(layer).__name__ == "Conv2D"} <= set(range(1, 9))


@pytest.mark.parametrize("seed", range(12))
def test_removed_equals_masked_in_random_graphs(seed: int) -> None:
    keras.utils.set_random_seed(seed)
    model = zoo.randomized(zoo.random_graph(seed), seed)
    rows = zoo.rows(model)
    flat, structure = flat_structure(model)
    units = some_units(structure, 0.5, seed)
    pruned = rebuild(structure.graph, structure.cuts(units))
    assert pruned.count_params() == structure.parameters(units)
    for a, b in zip(with_zeros(flat, structure.takers(units), rows), outputs(pruned, rows), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def groups_of(name: str) -> dict[str, tuple[int, int]]:
    _, structure = flat_structure(zoo.build(name))
    return {group.name: (len(group.units), len(group.layers)) for group in structure.groups}


def test_groups_hold_what_goes_together() -> None:
    assert groups_of("plain") == {"c1": (6, 1), "c2": (8, 1), "d1": (7, 1)}
    # Stem and first block; the widening block's shortcut with the two blocks after it; three branches inside.
    assert sorted(groups_of("residual").values()) == [(6, 1), (6, 2), (10, 1), (10, 1), (10, 3)]
    # Expansions go with their depthwise filters, the narrow stream with all its projections.
    assert sorted(groups_of("inverted_residual").values()) == [(6, 3), (18, 1), (18, 1)]
    # Gates go with what they multiply.
    assert sorted(groups_of("squeeze_excite").values()) == [(3, 1), (4, 1), (4, 1), (5, 1), (8, 4)]
    assert sorted(groups_of("dense_concat").values()) == [(4, 1), (4, 1), (4, 1), (6, 1), (7, 1)]
    assert groups_of("groups_of_norm") == {"conv2d": (4, 1), "conv2d_1": (8, 1)}
    assert groups_of("shared") == {"twin": (6, 1), "second": (5, 1), "dense": (6, 1)}


def test_counts_are_those_of_paper_and_pencil() -> None:
    flat, structure = flat_structure(zoo.build("plain"))
    nothing = np.empty(0, np.int64)
    # 8×6 positions of 3×3×3×6, then 4×3 of 3×3×6×8, then 4·3·8 → 7 → 4.
    assert structure.macs(nothing) == 48 * 162 + 12 * 432 + 96 * 7 + 28
    assert structure.parameters(nothing) == (162 + 6) + (432 + 8) + 4 * 8 + (672 + 7) + 32
    group = next(group for group in structure.groups if group.name == "c2")
    units = group.units[[1, 4, 5]]
    assert structure.filters_gone(units) == {"c2": [1, 4, 5]}
    assert structure.macs(units) == 48 * 162 + 12 * 270 + 60 * 7 + 28
    assert structure.parameters(units) == (162 + 6) + (270 + 5) + 4 * 5 + (420 + 7) + 32
    pruned = rebuild(structure.graph, structure.cuts(units))
    assert pruned.get_layer("c2").filters == 5
    kept = [0, 2, 3, 6, 7]
    np.testing.assert_array_equal(values(pruned.get_layer("c2").kernel), values(flat.get_layer("c2").kernel)[..., kept])
    rows_kept = np.concatenate([np.array(kept) + 8 * place for place in range(12)])
    np.testing.assert_array_equal(values(pruned.get_layer("d1").kernel), values(flat.get_layer("d1").kernel)[rows_kept])


def test_what_is_not_known_is_left_alone_and_named() -> None:
    left = {name: dict(flat_structure(zoo.build(name))[1].left_alone) for name in ("custom", "recurrent", "attention")}
    assert "Twisted" in left["custom"]["into"]
    assert set(left["custom"]) == {"twisted", "into"}
    assert set(left["recurrent"]) == {"lstm", "into"}
    assert set(left["attention"]) == {"attention", "embedding", "down", "head"}
    # A softmax at the end, a normalized input and noise of one value per row are no reasons.
    for name in ("one_dimensional", "inverted_residual"):
        assert not flat_structure(zoo.build(name))[1].left_alone
    fenced = flat_structure(zoo.build("fenced"))[1]
    assert "grouped convolution" in fenced.left_alone["grouped"]
    assert "softmax" not in fenced.left_alone
    assert {"grouped", "grouped_in", "gate", "mixing", "shuffled"} <= set(fenced.left_alone)
    assert {group.name for group in fenced.groups} == {"free", "last"}


def test_a_model_without_a_graph_is_refused() -> None:
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(RefusedError, match="no graph"):
        read_graph(Own())


def test_names_structures_and_training_stay() -> None:
    model = zoo.build("nested")
    flat, structure = flat_structure(model)
    assert set(flat.output) == {"score"}
    assert flat.name == model.name
    twin = zoo.build("shared")
    assert [tensor.name for tensor in flat_structure(twin)[0].inputs] == ["left", "right"]
    model = zoo.build("plain")
    model.get_layer("bn").trainable = False
    flat, structure = flat_structure(model)
    assert not flat.get_layer("bn").trainable
    units = some_units(structure, 0.5)
    pruned = rebuild(structure.graph, structure.cuts(units))
    assert not pruned.get_layer("bn").trainable
    states = [[values(v) for v in each.variables if "seed" in v.path] for each in (model, pruned)]
    assert len(states[0]) == 1
    np.testing.assert_array_equal(states[0], states[1])


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_pruned_model_is_saved_and_loaded(tmp_path) -> None:
    for name in ("squeeze_excite", "bare_operations", "nested"):
        _, structure = flat_structure(zoo.build(name))
        pruned = rebuild(structure.graph, structure.cuts(some_units(structure, 0.5)))
        pruned.save(tmp_path / "pruned.keras")
        again = keras.models.load_model(tmp_path / "pruned.keras", compile=False, safe_mode=True)
        rows = zoo.rows(pruned)
        for a, b in zip(outputs(pruned, rows), outputs(again, rows), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_removing_a_block_leaves_its_shortcut() -> None:
    flat, _ = flat_structure(zoo.build("residual"))
    graph = read_graph(flat)
    blocks = residual_blocks(graph)
    # The widening block has a convolution on its shortcut.
    assert [len(block.layers) for block in blocks] == [4, 4]
    rows = zoo.rows(flat)
    for block in blocks:
        short = rebuild(graph, instead=block.instead)
        assert short.count_params() == flat.count_params() - block.parameters
        # The judge: the branch's last normalization silenced in the whole model.
        last = flat.get_layer(block.layers[-1])
        before = values(last.gamma), values(last.beta), values(last.moving_mean)
        for weight in (last.gamma, last.beta):
            weight.assign(np.zeros(weight.shape))
        for a, b in zip(outputs(flat, rows), outputs(short, rows), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
        last.gamma.assign(before[0])
        last.beta.assign(before[1])
    assert residual_blocks(read_graph(zoo.build("dense_concat"))) == []
    assert len(residual_blocks(read_graph(zoo.build("inverted_residual")))) == 2
