"""Makes a narrower (or wider) copy of a model with weights begun anew: the student of `distill(width=…)`.

Which filters hang together, through additions, concatenations, flattening and so on, is what structured pruning found out
(`converters.compress.groups`); here each group gets another size instead of losing units. Inputs and outputs stay as they are, and so do
layers whose channels nobody knows how to follow.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from converters.compress.channels import Count, Ids, Shape
from converters.compress.graph import Call, Graph, Ref, read_graph
from converters.compress.groups import Structure, read_structure
from converters.compress.rebuild import needed, values
from converters.compress.transform_layers import is_transform
from converters.errors import RefusedError

SEED_RANGE = 2**32


def at_width(model: Any, width: float, seed: int) -> Any:
    """A new Keras model with `width` times the filters and neurons in each group, at least one, and fresh weights from the layers'
    own initialisers. The same seed gives the same weights. Normalization layers keep what they were adapted to.

    Raises RefusedError when nothing in the model could have another width, or a layer cannot be made again.
    """
    import keras

    graph = read_graph(model)
    structure = read_structure(graph)
    if not structure.groups:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(structure.left_alone.items())[:3])
        raise RefusedError(f"no layer of this model can have another width: {reasons or 'none has filters or neurons'}")
    keras.utils.set_random_seed(seed % SEED_RANGE)
    found = _built(graph, _settings(structure, _copies(structure, width)))
    for old, new in ((model.inputs, found.inputs), (model.outputs, found.outputs)):
        if [tuple(t.shape) for t in old] != [tuple(t.shape) for t in new]:
            raise RefusedError(f"at width {width:g} the model would take or give other shapes")
    return found


def _copies(structure: Structure, width: float) -> Ids:
    """How many channels take the place of each channel, by channel number; spread evenly over each group."""
    of_unit = np.ones(structure.unit_count + 1, dtype=np.int64)  # the last one: channels that must stay
    for group in structure.groups:
        count = len(group.units)
        wanted = max(1, round(width * count))
        of_unit[group.units] = np.diff(np.arange(count + 1) * wanted // count)
    return of_unit[structure.unit_of]


def _settings(structure: Structure, copies: Ids) -> dict[int, dict[str, Any]]:
    """The layers' settings at those numbers of channels, by `id` of the operation."""
    found: dict[int, dict[str, Any]] = {}
    for (key, name), setting in structure.settings.items():
        found.setdefault(key, {})[name] = _value(setting, copies)
    return found


def _value(setting: Count | Shape, copies: Ids) -> Any:
    if isinstance(setting, Count):
        return int(copies[setting.ids].sum()) // setting.per
    return [part if isinstance(part, int) else int(copies[part].sum()) for part in setting.parts]


def _built(graph: Graph, settings: dict[int, dict[str, Any]]) -> Any:
    import keras

    made = {index: _input(graph.tensors[index]) for index in graph.inputs}
    operations: dict[int, Any] = {}

    def filled(structure: Any) -> Any:
        return keras.tree.map_structure(lambda leaf: made[leaf.index] if isinstance(leaf, Ref) else leaf, structure)

    for call in needed(graph, {}):
        key = id(call.operation)
        try:
            if key not in operations:
                operations[key] = _again(call, settings.get(key, {}))
            results = operations[key](*filled(call.args), **filled(call.kwargs))
        except (NotImplementedError, TypeError, ValueError, KeyError, AttributeError) as error:
            words = " ".join(str(error).split())[:200]
            raise RefusedError(
                f"{call.name} ({type(call.operation).__name__}) allows no other width: {words}"
            ) from error
        made.update(zip(call.outputs, keras.tree.flatten(results), strict=True))
    found = keras.Model(filled(graph.input_structure), filled(graph.output_structure), name=graph.name)
    for call in graph.calls:
        _carry_statistics(call.operation, operations.get(id(call.operation)))
    return found


def _input(tensor: Any) -> Any:
    import keras

    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)


def _again(call: Call, changes: dict[str, Any]) -> Any:
    import keras

    # Bare operations hold no weights, so two models may share one; some cannot say how they were made.
    if not isinstance(call.operation, keras.layers.Layer) and not changes:
        return call.operation
    config = dict(call.operation.get_config())
    if "name" in config:
        config["name"] = call.name
    if is_transform(call.operation):
        return type(call.operation).from_config(config)
    return type(call.operation).from_config(_thawed(config | changes))


def _thawed(config: Any) -> Any:
    """The settings with nothing frozen, sublayers included: what was frozen in the model is fresh here."""
    if isinstance(config, dict):
        return {key: True if key == "trainable" else _thawed(value) for key, value in config.items()}
    return [_thawed(value) for value in config] if isinstance(config, list) else config


def _carry_statistics(old: Any, new: Any) -> None:
    """Layers that hold weights and none to train were adapted to the data, not trained; input transforms are as they were made."""
    if new is None or new is old or not getattr(new, "weights", None):
        return
    if new.trainable_weights and not is_transform(old):
        return
    for source, target in zip(old.weights, new.weights, strict=True):
        if tuple(source.shape) != tuple(target.shape):
            raise RefusedError(f"{new.name} holds statistics of channels that have another number at this width")
        target.assign(values(source))
    if hasattr(new, "finalize_state"):
        new.finalize_state()
