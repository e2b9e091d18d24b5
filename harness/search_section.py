"""The `search:` section of an experiment: what `harness search` varies, by what it judges, and how much it may spend.

Beside `harness.experiment`, which holds it. What the parameters' words mean is `converters.search.space`'s business, who carries a
search out is `harness.tune`. METRICS has everything a trial can be judged by.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    field_validator,
    model_validator,
)

from converters.search.trial import Constraint, Goal, Objective
from harness.experiment_parts import ProtocolSpec, Seconds, Strict
from harness.units import parse_duration_ns, parse_points, parse_share, parse_size_bytes
from harness.yamlfile import suggest

# Where a figure comes from: the variant's answers to the validation rows, its files, or a measurement on the device.
Source = Literal["answers", "files", "device"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure of a trial. `parse`: how a bound with a unit is read. `row`: the field of a row that it is, where the device tells it."""

    goal: Goal
    source: Source
    words: str
    parse: Callable[[str], float]
    row: str | None = None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number") from None


METRICS: dict[str, Metric] = {
    "accuracy": Metric("maximise", "answers", "share of the validation rows answered rightly", parse_share, "accuracy"),
    "accuracy_drop_pp": Metric(
        "minimise", "answers", "points of accuracy lost against the base model", parse_points, "accuracy_drop_pp"
    ),
    "rmse": Metric("minimise", "answers", "root mean square error (regression)", _number, "rmse"),
    "rmse_ratio": Metric("minimise", "answers", "RMSE over the base model's (regression)", _number, "rmse_ratio"),
    "size_bytes": Metric("minimise", "files", "the artifact's files", parse_size_bytes),
    "size_gzip_bytes": Metric("minimise", "files", "the artifact's files, gzipped", parse_size_bytes),
    "size_entropy_bytes": Metric("minimise", "files", "the weights, entropy-coded", parse_size_bytes),
    "parameters": Metric("minimise", "files", "weights of the artifact", _number),
    "macs": Metric("minimise", "files", "multiply-accumulates of one inference", _number),
    "effective_macs": Metric("minimise", "files", "those that are not by a zero", _number),
    "latency_ns": Metric("minimise", "device", "median latency", parse_duration_ns, "latency_median_ns"),
    "latency_p90_ns": Metric("minimise", "device", "90th percentile of latency", parse_duration_ns, "latency_p90_ns"),
    "latency_ratio": Metric("minimise", "device", "latency over that of the fp32 variant in the same runs", _number),
    "load_ns": Metric("minimise", "device", "time to load the artifact", parse_duration_ns, "load_ns"),
    "memory_bytes": Metric(
        "minimise", "device", "peak resident memory over the bare engine's", parse_size_bytes, "memory_peak_delta_bytes"
    ),
    "virtual_time_ns": Metric(
        "minimise",
        "device",
        "instructions counted by a deterministic guest, in its time",
        parse_duration_ns,
        "virtual_time_ns",
    ),
    "virtual_time_ratio": Metric("minimise", "device", "virtual time over that of the fp32 variant", _number),
    "energy_total_uj": Metric("minimise", "device", "energy of one inference, µJ", _number, "energy_total_uj"),
    "energy_dynamic_uj": Metric(
        "minimise", "device", "the same without the idle power, µJ", _number, "energy_dynamic_uj"
    ),
}
COUNTED = ("virtual_time_ns", "virtual_time_ratio")
TIMED = ("latency_ns", "latency_p90_ns", "latency_ratio", "load_ns")
ENERGY = ("energy_total_uj", "energy_dynamic_uj")
_BOUND = re.compile(r"\s*(?P<metric>\w+)\s*(?P<relation><=|>=)\s*(?P<bound>\S.*?)\s*")


def read_constraint(text: str) -> Constraint:
    """`accuracy_drop_pp <= 1`, `latency_ns <= 2ms`, `size_bytes <= 100kB` → a Constraint in base units. Raises ValueError."""
    match = _BOUND.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no limit; write it like 'accuracy_drop_pp <= 1' or 'latency_ns <= 2ms'")
    metric = known_metric(match["metric"])
    relation: Literal["<=", ">="] = "<=" if match["relation"] == "<=" else ">="
    bound = match["bound"]
    try:
        return Constraint(metric, relation, float(METRICS[metric].parse(bound)))
    except ValueError as error:
        # A plain number is taken as the metric's own unit, which its name says.
        try:
            return Constraint(metric, relation, float(bound))
        except ValueError:
            raise error from None


def known_metric(name: str) -> str:
    """The name itself. Raises ValueError with a suggestion when there is no such metric."""
    if name not in METRICS:
        raise ValueError(f"there is no metric '{name}' — {suggest(name, METRICS)}")
    return name


def objective_of(metric: str) -> Objective:
    """The metric as an objective: every metric has but one good direction."""
    return Objective(metric, METRICS[metric].goal)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Number = StrictInt | StrictFloat
Words = Annotated[list[str], BeforeValidator(_listed)]


class ParameterSpec(Strict):
    """What may stand in a gap: one of `float`, `int` (a low and a high bound) and `choice` (a list of values)."""

    float_: tuple[Number, Number] | None = Field(
        default=None, alias="float", description="Any number from low to high."
    )
    int_: tuple[StrictInt, StrictInt] | None = Field(
        default=None, alias="int", description="Whole numbers, both bounds included."
    )
    choice: list[StrictBool | StrictInt | StrictFloat | StrictStr] | None = Field(
        default=None, min_length=1, description="One of these values, in no order."
    )
    log: StrictBool = Field(default=False, description="Of a range: spread by ratio instead of by difference.")
    step: Number | None = Field(default=None, gt=0, description="Of a range: only low, low + step, …")
    per_layer: list[str] | None = Field(
        default=None, min_length=1, description="A value of its own for each of these layers: `conv1:0.3/conv2:0.5`."
    )

    @model_validator(mode="after")
    def _one_kind(self) -> ParameterSpec:
        kinds = [
            name
            for name in ("float", "int", "choice")
            if getattr(self, name if name == "choice" else f"{name}_") is not None
        ]
        if len(kinds) != 1:
            raise ValueError(f"give one of float, int and choice, not {' and '.join(kinds) or 'none of them'}")
        return self

    def words(self) -> dict[str, Any]:
        """As `converters.search.space` reads it."""
        return self.model_dump(by_alias=True, exclude_unset=True)


class PruningSpec(Strict):
    """Give up hopeless trials early: each is tried on shares of the training rows first, and goes on only while it is among the best."""

    shares: list[float] = Field(
        default=[0.25], min_length=1, description="Shares of the training rows to try on before all of them, rising."
    )
    keep: float = Field(
        default=0.5, gt=0, lt=1, description="The share of the trials at each of these that goes on, the best of them."
    )
    least: int = Field(default=4, ge=1, description="The first so many always go on.")

    @field_validator("shares")
    @classmethod
    def _rising(cls, shares: list[float]) -> list[float]:
        if shares != sorted(set(shares)) or not all(0 < share < 1 for share in shares):
            raise ValueError("must rise, and lie between 0 and 1")
        return shares


class SearchSpec(Strict):
    """What to search for and where (docs/search)."""

    recipes: Words = Field(
        min_length=1,
        description="Recipes with gaps in braces: 'prune({sparsity}) > {precision} @ tflite'. Several are a choice of their own.",
    )
    parameters: dict[str, ParameterSpec] = Field(description="What may stand in each gap, by its name.")
    objectives: Words = Field(
        default=["accuracy", "size_bytes"],
        min_length=1,
        description=f"Figures to make good, all at once where there are several: {', '.join(METRICS)}.",
    )
    constraints: Words = Field(
        default=[], description="Limits that a trial must keep to count: 'accuracy_drop_pp <= 1', 'latency_ns <= 2ms'."
    )
    sampler: Literal["grid", "random", "tpe", "gp", "nsga2", "tensor_train"] = Field(
        default="tpe", description="Who proposes what to try next."
    )
    trials: int = Field(default=30, ge=1, le=100_000, description="How many candidates are tried, at most.")
    workers: int = Field(
        default=1, ge=1, le=64, description="Trials at work at once; only one of them measures at a time."
    )
    seed: int | None = Field(default=None, ge=0, description="Seed of the sampler (default: the experiment's).")
    budget: Seconds | None = Field(default=None, gt=0, description="Begin no further trial after that time, e.g. 30m.")
    pruning: PruningSpec | None = Field(
        default=None,
        description="Give up hopeless trials after a try on fewer training rows (default: no trial is given up).",
    )
    device: str | dict[str, Any] | None = Field(
        default=None, description="Where trials are measured, if they must be (default: the experiment's first device)."
    )
    protocol: ProtocolSpec = Field(
        default=ProtocolSpec(preset="quick"),
        description="How much is measured of each trial; the experiment's own protocol is for the best ones, at the end.",
    )
    keep: int = Field(
        default=3,
        ge=0,
        le=100,
        description="How many of the best become variants, measured together at the end, on test rows.",
    )

    @field_validator("objectives")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        if len(set(names)) < len(names):
            raise ValueError("each objective once")
        return [known_metric(name) for name in names]

    @field_validator("constraints")
    @classmethod
    def _limits(cls, texts: list[str]) -> list[str]:
        for text in texts:
            read_constraint(text)
        return texts

    @model_validator(mode="after")
    def _one_clock(self) -> SearchSpec:
        metrics = self.metrics
        if any(name in metrics for name in COUNTED) and any(name in metrics for name in (*TIMED, *ENERGY)):
            raise ValueError(
                "a device that counts instructions has virtual time and no other: search by one or the other"
            )
        return self

    @property
    def metrics(self) -> frozenset[str]:
        """The metrics that objectives and constraints name."""
        return frozenset(self.objectives) | {limit.metric for limit in self.limits()}

    @property
    def measures(self) -> bool:
        """Whether trials must be measured on the device."""
        return any(METRICS[name].source == "device" for name in self.metrics)

    def limits(self) -> list[Constraint]:
        """The constraints, in base units."""
        return [read_constraint(text) for text in self.constraints]

    def goals(self) -> list[Objective]:
        """The objectives."""
        return [objective_of(name) for name in self.objectives]

    def space(self) -> dict[str, Any]:
        """Templates and parameters, as `converters.search.space` reads them."""
        return {"recipes": self.recipes, "parameters": {name: spec.words() for name, spec in self.parameters.items()}}
