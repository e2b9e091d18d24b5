"""The step `mixed`: gives each layer the bits that it needs, chosen by measured sensitivity under a budget.

How far the answers move with fewer bits is measured layer by layer (`mixed_sensitivity`, after ZeroQ, arXiv:2001.00281, and HAWQ,
arXiv:1911.03852); an integer program chooses the bits that move them least within the budget (`mixed_budget`, `mixed_choose`, after
HAWQ-V3, arXiv:2011.10680); the network is then rounded so, and trained with that rounding when epochs are given
(`converters.compress.quantize_aware` says how; under a teacher where one is named). The result carries its scales to every exporter, as qat's does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converters.compress.context import CLUSTERS, Context, History, StepResult
from converters.compress.graph import read_graph
from converters.compress.mixed_budget import Layer, Problem, Wish, make_problem, read_times
from converters.compress.mixed_choose import choose, lost, used
from converters.compress.mixed_report import CSV, SVG, as_csv, as_svg
from converters.compress.mixed_sensitivity import Probe, Sensitivities
from converters.compress.objective import score
from converters.compress.record import KEEP
from converters.errors import RefusedError

LEARNING_RATE = 5e-4
DEFAULT_BITS = 4.5
LEAST_BITS, MOST_BITS = 2, 16
EIGHT, SIXTEEN = 8, 16
_FLOAT_BYTES = 4


def apply(model: Any, parameters: Mapping[str, Any], context: Context) -> StepResult:
    """Choose bits and round; see `converters.step_catalogue` for the parameters.

    Raises RefusedError for a model without a layer whose kernel could be rounded, for budgets that cannot be kept or counted, and for
    candidates that are none, or a teacher that does not fit; ToolError when training comes to nothing.
    """
    from converters.compress.quantize_bias import settle_biases
    from converters.compress.quantize_build import build, calibrate, finished
    from converters.compress.quantize_train import teacher_of, train

    candidates = _candidates(parameters["candidates"])
    activations = _activations(parameters)
    shared = CLUSTERS in context.preserve
    if parameters["epochs"]:
        context.needs_data("training")
    teacher = teacher_of(model, parameters, context)
    work = _Work(model, context, parameters)
    found = work.sensitivities(candidates, ranges=len(activations) > 1)
    problem = work.problem(found, candidates, activations)
    try:
        chosen = choose(problem.items, problem.limits)
    except ValueError as error:
        raise RefusedError(f"mixed: {error}", remedy="ask for more, or give smaller candidates") from error
    bits, wide = problem.bits_of(chosen), problem.wide(chosen)
    options = work.options(bits_of=bits, unrounded=wide, keep_shared=shared, live_norms=bool(parameters["epochs"]))
    rounded = build(model, work.graph, work.plan, options)
    calibrate(rounded, work.rows, context.seed)
    before = _score(rounded.model, context)
    history: History | None = None
    of_teacher: dict[str, Any] = {}
    if parameters["epochs"]:
        history, of_teacher = train(
            rounded.model, model, teacher, parameters, context, learning_rate=LEARNING_RATE, label="mixed"
        )
    result = finished(rounded.model)
    settle_biases(result)
    files = _plots(problem, found, bits, context.folder)
    figures = {
        **_figures(problem, chosen, found, bits),
        "wide_ranges": len(wide),
        "rounded_layers": len(rounded.layers),
        "validation_score_before_training": before,
        "validation_score": _score(result, context),
        "epochs": 0 if history is None else history.epochs,
        "seconds": None if history is None else history.seconds,
        **of_teacher,
    }
    return StepResult(result, figures, context.preserve, work.plan.left_alone, files)


def _score(model: Any, context: Context) -> float | None:
    """On the validation rows; None where there are none with labels."""
    data = context.data
    if data is None or data.validation.labels is None or not data.validation.count:
        return None
    return score(model, data.validation, data.task)


def _candidates(text: str) -> tuple[int, ...]:
    """Numbers of bits, most first, of a text such as "8/4/2". Raises RefusedError."""
    words = [word.strip() for word in str(text).split("/")]
    if not all(word.isdecimal() and LEAST_BITS <= int(word) <= MOST_BITS for word in words):
        raise RefusedError(
            f"mixed: {text!r} are no candidates: write numbers of {LEAST_BITS} to {MOST_BITS} bits as 8/4/2"
        )
    return tuple(sorted({int(word) for word in words}, reverse=True))


def _activations(parameters: Mapping[str, Any]) -> tuple[int, ...]:
    if parameters["activations"] == "8":
        return (EIGHT,)
    if parameters["bit_operations"] is None:
        raise RefusedError(
            "mixed: bits of activations take no room in a file, so only a budget of bit_operations chooses them",
            remedy="give bit_operations as well, for example mixed(bit_operations=0.6, activations=16/8)",
        )
    return (SIXTEEN, EIGHT)


class _Work:
    """The model as a plan of roundings, and what is measured on it."""

    def __init__(self, model: Any, context: Context, parameters: Mapping[str, Any]) -> None:
        from converters.compress.quantize_plan import make_plan

        self._model, self._context, self._parameters = model, context, parameters
        data = context.data
        # Ranges are those of the training rows where there are some; no step needs labels for them.
        self.rows = context.needs_calibration("choosing bits by sensitivity") if data is None else data.train
        self.graph = read_graph(model)
        self.plan = make_plan(self.graph)

    def options(self, **more: Any) -> Any:
        """How the network is built."""
        from converters.compress import fake_quant
        from converters.compress.quantize_build import Options

        return Options(
            weight_bits=EIGHT,
            granularity=self._parameters["granularity"],
            weight_mode=fake_quant.LARGEST,
            range_mode=fake_quant.MOVING,
            **more,
        )

    def sensitivities(self, candidates: tuple[int, ...], *, ranges: bool) -> Sensitivities:
        """Measured on the validation rows, or on those of the ranges where there are none."""
        from converters.compress.quantize_build import build, calibrate

        data = self._context.data
        rounded = build(self._model, self.graph, self.plan, self.options())
        if not rounded.layers:
            reasons = "; ".join(f"{name} ({why})" for name, why in list(self.plan.left_alone.items())[:3])
            raise RefusedError(
                f"mixed found no convolution or dense layer that it could round: {reasons or 'it has none'}",
                remedy="layers of your own, shared and recurrent ones stay in float",
            )
        calibrate(rounded, self.rows, self._context.seed)
        self._look(rounded)
        rows = self.rows if data is None or not data.validation.count else data.validation
        macs = (
            None
            if any(layer.macs is None for layer in self._layers)
            else sum(layer.macs or 0 for layer in self._layers)
        )
        task = None if data is None else data.task
        probe = Probe(rounded, rows, task, self._parameters["granularity"], macs)
        return probe.measure(candidates, ranges=ranges, folder=self._context.folder, say=self._context.say)

    def _look(self, rounded: Any) -> None:
        """What the budgets count of the network."""
        from converters.compress.fake_quant import FakeQuantize, is_rounded
        from converters.ledger_macs import count_macs

        try:
            by_path = count_macs(rounded.model, [x.shape[1:] for x in self.rows.inputs]).by_layer
        except ValueError:
            by_path = None  # sides of the input stay free: whoever asks for bit-operations is told
        self._layers, self._other = [], 0
        for layer in rounded.model.layers:
            if isinstance(layer, FakeQuantize):
                continue
            if not is_rounded(layer):
                self._other += sum(int(variable.shape.num_elements()) for variable in layer.weights)
                continue
            macs = None if by_path is None else by_path.get(layer.path, (0, 0))[0]
            size = int(layer.kernel.numpy().size)
            self._layers.append(Layer(layer.name, size, macs, rounded.reads[layer.name]))
            self._other += layer.scales + (layer.channels if layer.use_bias else 0)

    def problem(self, found: Sensitivities, candidates: tuple[int, ...], activations: tuple[int, ...]) -> Problem:
        """The integer program, with a default where no budget is given."""
        given = {name: self._parameters[name] for name in ("bits", "size_bytes", "bit_operations", "latency_ms")}
        if all(value is None for value in given.values()):
            given["bits"] = DEFAULT_BITS
        table, times = self._parameters["latency_table"], None
        if (given["latency_ms"] is None) != (not table):
            raise RefusedError("mixed: latency_ms and latency_table go together", remedy="give both")
        if table:
            times = read_times(Path(table), [layer.name for layer in self._layers])
        other = self._other * _FLOAT_BYTES
        return make_problem(self._layers, found, candidates, activations, Wish(**given, times=times), other)


def _plots(problem: Problem, found: Sensitivities, bits: Mapping[str, int], folder: Path) -> tuple[str, ...]:
    keep = folder / KEEP
    keep.mkdir(parents=True, exist_ok=True)
    mean = _mean_bits(problem, bits)
    title = f"Bits by layer: {mean:.3g} in the mean"
    (keep / CSV).write_text(as_csv(problem.layers, found, bits), encoding="utf-8")
    (keep / SVG).write_text(as_svg(problem.layers, found, bits, title), encoding="utf-8")
    return CSV, SVG


def _mean_bits(problem: Problem, bits: Mapping[str, int]) -> float:
    total = sum(layer.weights for layer in problem.layers)
    return sum(bits[layer.name] * layer.weights for layer in problem.layers) / total


def _figures(problem: Problem, chosen: list[int], found: Sensitivities, bits: Mapping[str, int]) -> dict[str, Any]:
    """What was asked for and what became of it. Budgets of bits are told as mean bits, those of bit-operations as they are."""
    budgets = {
        name: {
            "limit": limit + problem.constants[name],
            "used": used(problem.items, chosen, name) + problem.constants[name],
        }
        for name, limit in problem.limits.items()
    }
    return {
        "mean_weight_bits": _mean_bits(problem, bits),
        "bits": dict(bits),
        "budgets": budgets,
        "divergence_expected": lost(problem.items, chosen),
        "sensitivity_rows": found.rows,
    }
