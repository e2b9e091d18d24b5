"""A recipe: what is done to the base model, and what format and precision a variant gets, under a name that says it.

First step of the conversion flow: text, YAML data or the default matrix in, `Recipe` values out. Whether a recipe can be
carried out is `converters.support`'s question. No toolchain is imported here.

A name is made of the precision and of every parameter that differs from the format's default, in this order::

    fp32 | fp16 | MODE_wWEIGHTS_aACTIVATIONS                  static_wi8_ai8
      [_int_io] [_per_tensor|_per_channel]                    static_wi8_ai8_int_io
      [_symmetric|_asymmetric] [_asymmetric_weights|_symmetric_weights]
      [_minmax|_entropy|_percentile] [_gN] [_full_range|_reduced_range]
      [_accuracy_control] [_dropP]                            static_wi8_ai8_accuracy_control_drop0.5

Compression steps that come before the export stand in front: `prune_0.5+cluster_16+static_wi8_ai8` (`converters.steps`).
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from converters.errors import RecipeError
from converters.steps import Step, chain_slug, chain_text, parse_chain
from converters.variant import FORMATS

Mode = Literal["float", "dynamic", "static", "weight_only"]
Weights = Literal["f32", "f16", "i8", "i4"]
Activations = Literal["f32", "f16", "i8", "u8", "i16"]
Interface = Literal["float", "int"]
Granularity = Literal["per_channel", "per_tensor"]
Calibration = Literal["minmax", "entropy", "percentile"]

CHOICES: dict[str, tuple[str, ...]] = {
    "format": FORMATS,
    "mode": get_args(Mode),
    "weights": get_args(Weights),
    "activations": get_args(Activations),
    "io": get_args(Interface),
    "granularity": get_args(Granularity),
    "calibration": get_args(Calibration),
}
DEFAULT_MAX_DROP = 0.01
MAX_GROUP_SIZE = 99_999
DEFAULT_GROUP_SIZE = {"onnx": 32, "openvino": 64}
# Variants are folders: their names, of the base's and the recipe's, must fit into what file systems take (255 bytes).
MAX_NAME_CHARS = 180


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to compress a base model into one format.

    `steps`: what is done to the model before it is exported, in order. `mode`: float (no quantization), dynamic (weights quantized, activations at run time), static (both, with calibration
    data) or weight_only (weights stored small, computed in float). `io`: whether the artifact takes and gives floats or
    the quantized integers. `granularity` and `symmetric_weights` are of the weights; `symmetric_activations` pins zero
    points of activations to 0. `calibration` picks activation ranges (static only). `accuracy_control` gives layers back
    to float until the calibration rows' metric has dropped by at most `max_drop` (a fraction: 0.01 is one point).
    `group_size`: weights that share one scale in int4 weight-only blocks. `reduce_range`: 7-bit weights, so that u8×s8
    products do not saturate on x86 CPUs without VNNI.
    """

    format: str
    name: str
    mode: Mode
    weights: Weights
    activations: Activations
    io: Interface = "float"
    granularity: Granularity = "per_channel"
    symmetric_activations: bool = False
    symmetric_weights: bool = True
    calibration: Calibration = "minmax"
    accuracy_control: bool = False
    max_drop: float | None = None
    group_size: int | None = None
    reduce_range: bool = False
    steps: tuple[Step, ...] = ()

    def variant_name(self, base_name: str) -> str:
        """Name of the variant this recipe makes of the base model `base_name`."""
        return f"{base_name}.{self.format}.{self.name}"

    @property
    def key(self) -> str:
        """`format:name`, or `format:prune(0.5)>name` with steps, which `parse_recipes` reads back to an equal recipe."""
        return ":".join((self.format, ">".join([*(step.text for step in self.steps), self.precision])))

    @property
    def precision(self) -> str:
        """The name without the steps."""
        return self.name.rpartition("+")[2]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON and YAML, `steps` only where there are some; `recipe_from_dict` is the inverse."""
        data = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "steps"}
        return data | ({"steps": [step.to_dict() for step in self.steps]} if self.steps else {})


# Parameters a user may give beside format and name, and the values they take when nothing is said.
PARAMETERS = tuple(f.name for f in dataclasses.fields(Recipe) if f.name not in ("format", "name"))
_BITS = {"f32": "fp32", "f16": "fp16"}
_NAME = re.compile(
    r"(?P<float>fp32|fp16)"
    r"|(?P<mode>dynamic|static|weight_only)_w(?P<weights>i8|i4)_a(?P<activations>fp32|fp16|i8|u8|i16)"
    r"(?P<int_io>_int_io)?(?P<granularity>_per_tensor|_per_channel)?"
    r"(?P<activation_symmetry>_symmetric|_asymmetric)??"
    r"(?P<weight_symmetry>_symmetric_weights|_asymmetric_weights)?"
    r"(?P<calibration>_minmax|_entropy|_percentile)?(?:_g(?P<group>[1-9]\d{0,4}|0))?"
    r"(?P<range>_full_range|_reduced_range)?"
    r"(?P<accuracy_control>_accuracy_control)?(?:_drop(?P<drop>\d+(?:\.\d+)?))?"
)


def _defaults(fmt: str, mode: str, weights: str, activations: str) -> dict[str, Any]:
    """Each format's own habits: what its official converter does when told nothing."""
    weight_only_int4 = mode == "weight_only" and weights == "i4"
    return {
        "io": "float",
        "granularity": "per_channel",
        # TFLite's 16-bit activations are symmetric by its specification; NNCF's performance preset is symmetric.
        "symmetric_activations": activations == "i16" or (fmt == "openvino" and mode == "static"),
        "symmetric_weights": True,
        "calibration": "minmax",
        "accuracy_control": False,
        "max_drop": None,
        "group_size": DEFAULT_GROUP_SIZE.get(fmt) if weight_only_int4 else None,
        # Full-range weights saturate in ONNX Runtime on x86 CPUs without VNNI, for u8 and s8 activations alike.
        "reduce_range": fmt == "onnx" and mode == "static",
    }


def _name_of(values: Mapping[str, Any]) -> str:
    fmt, mode, weights, activations = (values[k] for k in ("format", "mode", "weights", "activations"))
    if mode == "float":
        return _BITS[weights]
    default = _defaults(fmt, mode, weights, activations)
    if values["accuracy_control"]:
        default["max_drop"] = DEFAULT_MAX_DROP
    parts = [f"{mode}_w{weights}_a{_BITS.get(activations, activations)}"]

    def add(key: str, text: str) -> None:
        if values[key] != default[key]:
            parts.append(text)

    add("io", "int_io")
    add("granularity", values["granularity"])
    add("symmetric_activations", "symmetric" if values["symmetric_activations"] else "asymmetric")
    add("symmetric_weights", "symmetric_weights" if values["symmetric_weights"] else "asymmetric_weights")
    add("calibration", values["calibration"])
    add("group_size", f"g{values['group_size'] or 0}")
    add("reduce_range", "reduced_range" if values["reduce_range"] else "full_range")
    add("accuracy_control", "accuracy_control")
    if values["max_drop"] is not None:
        add("max_drop", f"drop{values['max_drop'] * 100:g}")
    return "_".join(parts)


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    """Types and choices of every parameter, and the contradictions that no format could resolve."""
    for key, choices in CHOICES.items():
        if values[key] not in choices:
            raise RecipeError(f"{key} {values[key]!r} is not one of {', '.join(choices)}{hint(values[key], choices)}")
    for key in ("symmetric_activations", "symmetric_weights", "accuracy_control", "reduce_range"):
        if not isinstance(values[key], bool):
            raise RecipeError(f"{key} is {values[key]!r}, but must be true or false")
    drop, group = values["max_drop"], values["group_size"]
    if drop is not None and (isinstance(drop, bool) or not isinstance(drop, int | float) or not 0 < drop < 1):
        raise RecipeError(f"max_drop is {drop!r}, but must be a fraction between 0 and 1 (0.01 is one point)")
    if group is not None and (isinstance(group, bool) or not isinstance(group, int) or not 0 < group <= MAX_GROUP_SIZE):
        raise RecipeError(f"group_size is {group!r}, but must be a positive whole number or none")
    integer = values["weights"] in ("i8", "i4")
    if integer == (values["mode"] == "float"):
        wanted = "f32 or f16" if values["mode"] == "float" else "i8 or i4"
        raise RecipeError(f"mode {values['mode']} has {wanted} weights, not {values['weights']}")
    if drop is not None and not values["accuracy_control"]:
        raise RecipeError("max_drop means nothing without accuracy_control", remedy="add accuracy_control: true")
    return values


def make_recipe(fmt: str, mode: str, weights: str, activations: str, **parameters: Any) -> Recipe:
    """Build a recipe with its canonical name; what is not given takes the format's default.

    Raises RecipeError for an unknown parameter or a value out of its range.
    """
    for key in parameters:
        if key not in PARAMETERS:
            raise RecipeError(f"unknown recipe parameter {key!r}{hint(key, PARAMETERS)}")
    steps = _checked_steps(parameters.pop("steps", ()))
    values: dict[str, Any] = {"format": fmt, "mode": mode, "weights": weights, "activations": activations}
    defaults = _defaults(fmt, mode, weights, activations)
    values = _checked(values | defaults | parameters)
    if mode == "float":
        changed = [key for key in defaults if values[key] != defaults[key]]
        if changed or activations != _float_activations(fmt, weights):
            raise RecipeError(f"a float recipe quantizes nothing, so it takes no {(changed or ['activations'])[0]}")
    if values["accuracy_control"] and values["max_drop"] is None:
        values["max_drop"] = DEFAULT_MAX_DROP
    return with_steps(Recipe(name=_name_of(values), **values), steps)


def with_steps(recipe: Recipe, steps: Iterable[Step]) -> Recipe:
    """The same precision after these compression steps, under the name that says both. Raises RecipeError."""
    chain = _checked_steps(tuple(steps))
    name = "+".join([*([chain_slug(chain)] if chain else []), recipe.precision])
    if len(name) > MAX_NAME_CHARS:
        raise RecipeError(
            f"the recipe's name would have {len(name)} characters, more than {MAX_NAME_CHARS}",
            remedy="take fewer steps, or parameters nearer to their defaults",
        )
    return dataclasses.replace(recipe, name=name, steps=chain)


def _checked_steps(steps: Any) -> tuple[Step, ...]:
    """Steps that can be written down and read back."""
    if not isinstance(steps, tuple) or not all(isinstance(step, Step) for step in steps):
        raise RecipeError(
            f"steps are {steps!r}, but must be compression steps", remedy="write prune(0.5) > cluster(16)"
        )
    try:
        same = not steps or parse_chain(chain_text(steps)) == steps
    except RecipeError:
        same = False
    if not same:
        raise RecipeError(
            f"{chain_text(steps)} cannot be written as text", remedy="use no commas, brackets or '>' in its words"
        )
    return steps


def _float_activations(fmt: str, weights: str) -> str:
    """Only ONNX turns the computation itself into f16; TFLite and OpenVINO store f16 and let the engine decide."""
    return "f16" if fmt == "onnx" and weights == "f16" else "f32"


def parse_name(fmt: str, name: str) -> Recipe | None:
    """The recipe that `name` spells in format `fmt`, or None when it spells none."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    if match["float"]:
        weights = "f32" if match["float"] == "fp32" else "f16"
        return make_recipe(fmt, "float", weights, _float_activations(fmt, weights))
    activations = {"fp32": "f32", "fp16": "f16"}.get(match["activations"], match["activations"])
    given: dict[str, Any] = {}
    if match["int_io"]:
        given["io"] = "int"
    if match["granularity"]:
        given["granularity"] = match["granularity"][1:]
    if match["activation_symmetry"]:
        given["symmetric_activations"] = match["activation_symmetry"] == "_symmetric"
    if match["weight_symmetry"]:
        given["symmetric_weights"] = match["weight_symmetry"] == "_symmetric_weights"
    if match["calibration"]:
        given["calibration"] = match["calibration"][1:]
    if match["group"]:
        given["group_size"] = int(match["group"]) or None
    if match["range"]:
        given["reduce_range"] = match["range"] == "_reduced_range"
    if match["accuracy_control"]:
        given["accuracy_control"] = True
    if match["drop"]:
        given["max_drop"] = float(match["drop"]) / 100
    return make_recipe(fmt, match["mode"], match["weights"], activations, **given)


MATRIX_NAMES: dict[str, tuple[str, ...]] = {
    "tflite": (
        "fp32",
        "fp16",
        "dynamic_wi8_afp32",
        "static_wi8_ai8",
        "static_wi8_ai8_int_io",
        "static_wi8_ai16",
        "weight_only_wi8_afp32",
        "weight_only_wi4_afp32",
    ),
    "onnx": (
        "fp32",
        "fp16",
        "dynamic_wi8_afp32",
        "static_wi8_ai8",
        "static_wi8_ai8_per_tensor",
        "static_wi8_ai8_entropy",
        "static_wi8_ai8_percentile",
        "static_wi8_au8",
        "static_wi8_au8_per_tensor",
        "weight_only_wi4_afp32",
    ),
    "openvino": (
        "fp32",
        "fp16",
        "static_wi8_ai8",
        "static_wi8_ai8_accuracy_control",
        "weight_only_wi8_afp32",
        "weight_only_wi4_afp32",
    ),
}


def matrix(formats: Iterable[str] | None = None) -> tuple[Recipe, ...]:
    """The full default matrix, of all formats or of those named. Raises RecipeError for an unknown format."""
    recipes = []
    for fmt in FORMATS if formats is None else formats:
        if fmt not in MATRIX_NAMES:
            raise RecipeError(f"unknown format {fmt!r}{hint(fmt, FORMATS)}")
        recipes += [named(fmt, name) for name in MATRIX_NAMES[fmt]]
    return tuple(recipes)


def hint(word: object, known: Iterable[str]) -> str:
    """Words that ask "did you mean …?" where a known word is near, else none."""
    close = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def named(fmt: str, name: str) -> Recipe:
    """The recipe of that name. Raises RecipeError with a suggestion."""
    recipe = parse_name(fmt, name)
    if recipe is None:
        raise RecipeError(f"unknown recipe {name!r} for {fmt}{hint(name, MATRIX_NAMES[fmt])}")
    return recipe
