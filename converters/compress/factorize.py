"""The step `factorize`: writes layers as products of smaller ones, where that saves both parameters and arithmetic.

Dense layers and 1×1 convolutions by SVD (Denton et al., arXiv:1404.0736), other convolutions by the SVD over channels (same paper),
spatial SVD (Jaderberg et al., arXiv:1405.3866), Tucker-2 (Kim et al., arXiv:1511.06530) or CP (Lebedev et al., arXiv:1412.6553).
Ranks: `converters.compress.ranks`; algebra: `decompose`, `decompose_cp`; layers: `factor_layers`; the graph: `rewrite`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from converters.compress import decompose, decompose_cp, factor_layers, norms, ranks, rewrite
from converters.compress.context import Context, StepResult
from converters.compress.decompose import CP, Array
from converters.compress.ranks import Choice, Options, Site
from converters.errors import RecipeError, RefusedError

NOT_WORTH = "no rank saves both parameters and multiply-accumulates"
KEEPS = "it is worth its parameters: at this size other layers lose less"


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """How one layer is factorized. `error`: squared relative error of the kernel, measured."""

    method: str
    factors: tuple[Array, ...]
    ranks: tuple[int, ...]
    parameters: int
    macs: int
    error: float


def apply(model: Any, parameters: Mapping[str, Any], context: Context) -> StepResult:
    """Factorize the Keras model and train it for `epochs`; without any, measure its batch norms again. Raises RefusedError when not a single layer would gain."""
    if parameters["energy"] is not None and parameters["rank"] is not None:
        raise RecipeError("factorize: energy and rank exclude each other", remedy="give one of them")
    layers, left_alone = _candidates(model, parameters["method"])
    sites = {path: factor_layers.site_of(layer) for path, (layer, _) in layers.items()}
    found, kept = _found(sites, {path: methods for path, (_, methods) in layers.items()}, parameters)
    left_alone |= kept
    if not found:
        raise RefusedError(
            "factorize: no layer of this model gains by it: "
            + ("; ".join(f"{name}: {why}" for name, why in list(left_alone.items())[:3]) or "it has no kernels")
        )
    chains = {id(layers[path][0]): _chain(layers[path][0], item) for path, item in found.items()}
    before = int(model.count_params())
    smaller = rewrite.replaced(model, lambda layer: chains.get(id(layer)))
    figures = _figures(sites, found) | {"parameters": [before, int(smaller.count_params())]}
    context.say(f"factorize: {len(found)} layers, {before:,} → {figures['parameters'][1]:,} parameters")
    if parameters["epochs"]:
        history = context.fit(
            smaller,
            context,
            epochs=parameters["epochs"],
            learning_rate=parameters["learning_rate"],
            label="factorize",
        )
        figures |= {
            "epochs": history.epochs,
            "stopped_early": history.stopped_early,
            "validation_score": max(history.scores, default=None),
            "seconds": history.seconds,
        }
    figures["norms_measured"] = 0 if parameters["epochs"] else norms.measured_again(smaller, context)
    return StepResult(smaller, figures, context.preserve, left_alone)


def _candidates(model: Any, method: str) -> tuple[dict[str, tuple[Any, tuple[str, ...]]], dict[str, str]]:
    """Layers that may be factorized, with the methods to try, by path; and those left alone, path → reason."""
    layers: dict[str, tuple[Any, tuple[str, ...]]] = {}
    left_alone: dict[str, str] = {}
    for layer in rewrite.walked_layers(model):
        reason = factor_layers.refusal(layer)
        methods: tuple[str, ...] = ()
        if reason is None:
            methods, reason = factor_layers.methods_of(layer, method)
        if methods:
            layers[layer.path] = (layer, methods)
        elif reason:
            left_alone[layer.path] = reason
    return layers, left_alone


def _found(
    sites: Mapping[str, Site], methods: Mapping[str, tuple[str, ...]], parameters: Mapping[str, Any]
) -> tuple[dict[str, Found], dict[str, str]]:
    """The factors of each layer that is worth it, and the others with their reason."""
    rank, energy = parameters["rank"], parameters["energy"]
    every = {path: _options(site, methods[path], rank) for path, site in sites.items()}
    kept = {path: NOT_WORTH for path, item in every.items() if not any(len(each.ranks) for each in item)}
    worth = {path: site for path, site in sites.items() if path not in kept}
    chosen: dict[str, Choice | None]
    if rank is not None:
        chosen = {path: ranks.by_rank(sites[path], every[path], rank) for path in worth}
    elif energy is not None:
        chosen = {path: ranks.by_energy(every[path], energy) for path in worth}
    else:
        wanted = parameters["ratio"] * sum(site.parameters for site in worth.values())
        chosen = ranks.by_size(worth, every, wanted)
    found = {}
    for path, choice in chosen.items():
        if choice is None:
            kept[path] = KEEPS if rank is None and energy is None else NOT_WORTH
        else:
            found[path] = _best(sites[path], choice, every[path], methods[path], same_size=rank is None)
    return found, kept


def _options(site: Site, methods: tuple[str, ...], rank: int | None) -> list[Options]:
    """CP costs minutes to look at, and has no spectrum: beside other methods it is only tried at the size that they came to."""
    tried = [method for method in methods if method != CP] or [CP]
    return [ranks.options(site, method, rank) for method in tried]


def _best(site: Site, choice: Choice, every: list[Options], methods: tuple[str, ...], *, same_size: bool) -> Found:
    """The method that really leaves the least error with at most the parameters of `choice`."""
    choices = [choice]
    if same_size:
        others = [ranks.best_within([item], choice.parameters) for item in every if item.method != choice.method]
        choices += [item for item in others if item is not None]
        if CP in methods and choice.method != CP:
            choices += _cp_choice(site, choice.parameters)
    found = [item for each in choices if (item := _factorized(site, each)) is not None]
    if not found:
        raise RefusedError(f"factorize: no sound CP of rank {choice.ranks[0]} was found", remedy="take method=auto")
    return min(found, key=lambda item: item.error)


def _cp_choice(site: Site, parameters: int) -> list[Choice]:
    rank = ranks.highest_cp_rank(site, parameters)
    if not decompose_cp.affordable(site.kernel, rank):
        return []
    choice = ranks.best_within([ranks.options(site, CP, rank)], parameters)
    return [] if choice is None else [choice]


def _factorized(site: Site, choice: Choice) -> Found | None:
    """None when CP found no sound sum."""
    factors: tuple[Array, ...] | None
    if choice.method == decompose.TUCKER:
        factors = decompose.tucker2(site.kernel, *choice.ranks)
    elif choice.method == CP:
        factors = decompose_cp.cp(site.kernel, choice.ranks[0])
    else:
        way = decompose.channel_svd if choice.method == decompose.SVD else decompose.spatial_svd
        factors = way(site.kernel, choice.ranks[0])
    if factors is None:
        return None
    error = decompose.relative_error(site.kernel, decompose.multiplied(choice.method, factors))
    return Found(choice.method, factors, choice.ranks, choice.parameters, choice.macs, error)


def _chain(layer: Any, found: Found) -> tuple[Any, ...]:
    return factor_layers.chain(layer, found.method, found.factors)


def _figures(sites: Mapping[str, Site], found: Mapping[str, Found]) -> dict[str, Any]:
    """What was done to each layer. `macs` where a size is free: relative to each other only."""
    return {
        "layers": {
            path: {
                "method": item.method,
                "ranks": list(item.ranks),
                "parameters": [sites[path].parameters, item.parameters],
                "macs": [sites[path].macs, item.macs],
                "error": item.error,
            }
            for path, item in found.items()
        },
        "kept_of_factorized": sum(item.parameters for item in found.values())
        / sum(sites[path].parameters for path in found),
    }
