"""The step `adaround`: learns on calibration rows whether each weight is rounded up or down, layer by layer.

Nagel et al., arXiv:2004.10568. Each layer learns to give from the quantized network's tensors, as the layers before it now leave them, what
the float layer gives from the float network's (their asymmetric reconstruction), at places drawn from all rows. An eighth of the rows is
kept to judge: where learnt rounding is not better there than rounding to the nearest, the layer keeps the latter. `refine` does this to any
fake-quantised model, whatever the bits of its layers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from converters.compress import rounding
from converters.compress.context import Array, Context, Rows, StepResult
from converters.compress.float_twin import FloatTwin, Site, answers, chunk_rows, chunks, gain, rounded_sites
from converters.compress.patches import (
    Positions,
    Window,
    as_kernel,
    as_matrices,
    by_group,
    chosen_positions,
    patches,
    window_of,
)
from converters.compress.refining import begin

PATCHES = 8192
PATCH_BYTES = 128 * 2**20
_JUDGED = 8  # every eighth row


def apply(model: Any, parameters: Mapping[str, Any], context: Context) -> StepResult:
    """Learn the rounding; see `converters.step_catalogue` for the parameters.

    Raises RefusedError for a model without a layer whose kernel could be rounded, ToolError without calibration rows.
    """
    started = begin(model, parameters["weight_bits"], context, "adaround")
    wanted = answers(started.twin.model, started.rows)
    before = answers(started.model, started.rows)
    begun = time.monotonic()
    layers = refine(
        started.model,
        started.twin,
        started.rows,
        iterations=parameters["iterations"],
        seed=context.seed,
        say=context.say,
    )
    figures = {
        "implied": started.made,
        "iterations": parameters["iterations"],
        "calibration_rows": started.rows.count,
        "learning_seconds": time.monotonic() - begun,
        **summary(layers),
        **gain(before, answers(started.model, started.rows), wanted),
        "layers": {name: each.figures() for name, each in layers.items()},
    }
    return StepResult(started.model, figures, context.preserve, started.twin.plan.left_alone)


@dataclass(frozen=True, slots=True)
class Refined:
    """One layer. `nearest`, `learnt`: its error on rows that nothing was learnt from, as a share of the float answers' mean square,
    with either rounding. `kept`: whether the learnt one was taken. `moved`: the share of weights that it rounds otherwise."""

    nearest: float
    learnt: float
    kept: bool
    moved: float

    def figures(self) -> dict[str, Any]:
        """As JSON types."""
        return {"error_nearest": self.nearest, "error_learnt": self.learnt, "kept": self.kept, "moved": self.moved}


def summary(layers: Mapping[str, Refined]) -> dict[str, Any]:
    """Figures over all layers: means of the errors before and after, and how many took the learnt rounding."""
    before = [each.nearest for each in layers.values()]
    after = [each.learnt if each.kept else each.nearest for each in layers.values()]
    return {
        "rounded_layers": len(layers),
        "refined_layers": sum(each.kept for each in layers.values()),
        "layer_error_before": float(np.mean(before)) if before else None,
        "layer_error": float(np.mean(after)) if after else None,
    }


def refine(
    model: Any,
    twin: FloatTwin,
    rows: Rows,
    *,
    iterations: int = 1000,
    seed: int = 0,
    say: Callable[[str], None] | None = None,
) -> dict[str, Refined]:
    """Learn the rounding of every layer of a fake-quantised `model` in place; what became of each, by name.

    `model`: as `quantize_build.finished` leaves it, with kernels on their grids, of any bits. `twin`: `float_twin` of the float model
    that it was built from. `rows`: to learn by; labels are not read. Scales, ranges and biases stay.
    """
    theirs = rounded_sites(twin.model)
    schedule = rounding.Schedule(iterations=iterations)
    found: dict[str, Refined] = {}
    sites = rounded_sites(model)
    for number, (name, site) in enumerate(sites.items()):
        found[name] = _refine_layer(model, site, twin.model, theirs[name], rows, schedule, seed + number)
        if say is not None:
            each = found[name]
            say(f"{number + 1} of {len(sites)}: {name}: error {each.nearest:.3g} -> {each.learnt:.3g}")
    return found


def _refine_layer(
    model: Any, site: Site, twin: Any, wanted: Site, rows: Rows, schedule: rounding.Schedule, seed: int
) -> Refined:
    window = window_of(site.layer)
    layer = _layer(site.layer, wanted.layer, window)
    learn, judge = _split(rows)
    own, held = (_samples(model, site, twin, wanted, part, window, seed) for part in (learn, judge))
    plain = rounding.nearest(layer)
    integers = rounding.learnt(layer, own, schedule, seed)
    errors = [rounding.error(layer, each, held) for each in (plain, integers)]
    kept = errors[1] < errors[0]
    chosen = integers if kept else plain
    values = (chosen * layer.scale).astype(np.float32)
    site.layer.kernel.assign(as_kernel(values, window, tuple(site.layer.kernel.shape)))
    return Refined(errors[0], errors[1], kept, float(np.mean(integers != plain)))


def _layer(quantized: Any, unrounded: Any, window: Window) -> rounding.Layer:
    """The layer as matrices: kernel of the float twin, scale and bias of the quantized model."""
    kernel = as_matrices(unrounded.kernel.numpy(), window)
    scale = np.asarray(quantized.kernel_scale.numpy(), np.float32)
    full = np.broadcast_to(scale, (quantized.channels,))
    bias = quantized.bias.numpy() if quantized.use_bias else np.zeros(quantized.channels, np.float32)
    name = getattr(quantized.activation, "__name__", "linear")
    return rounding.Layer(
        kernel,
        by_group(full[None], window, len(kernel)),
        quantized.top,
        by_group(bias[None], window, len(kernel)),
        name if name in rounding.ACTIVATIONS else "linear",
    )


def _split(rows: Rows) -> tuple[Rows, Rows]:
    """Rows to learn by and rows to judge by; the same where there are too few to part."""
    if rows.count < 2 * _JUDGED:
        return rows, rows
    numbers = np.arange(rows.count)
    return rows.take(numbers[numbers % _JUDGED != 0]), rows.take(numbers[numbers % _JUDGED == 0])


def _samples(
    model: Any, site: Site, twin: Any, wanted: Site, rows: Rows, window: Window, seed: int
) -> rounding.Samples:
    """Patches of what the layer is given in the quantized model, and the twin's answers at the same places."""
    rng = np.random.default_rng([seed, rows.count])
    groups, values = as_matrices(site.layer.kernel.numpy(), window).shape[:2]
    most = max(256, min(PATCHES, PATCH_BYTES // (4 * groups * values)))
    taken: list[Array] = []
    given: list[Array] = []
    size = min(chunk_rows(model, [site.taken]), chunk_rows(twin, [wanted.given]))
    both = zip(chunks(model, [site.taken], rows, size), chunks(twin, [wanted.given], rows, size), strict=True)
    for (inputs,), (targets,) in both:
        places: Positions = chosen_positions(targets.shape, -(-most * len(targets) // rows.count), rng)
        taken.append(patches(inputs, window, places))
        given.append(by_group(targets[places], window, groups))
    return rounding.Samples(np.concatenate(taken, axis=1), np.concatenate(given, axis=1))
