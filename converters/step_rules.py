"""Which chains of compression steps exist, as data; and the true reason when one does not.

Read by `converters.support`, before any work: what a chain needs of the precision behind it, of the order of its steps, of
the kind of the base model and of the data. No toolchain is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from converters.steps import Step

# Facts about the base model and the data that refusals of chains depend on.
FACT_BASE_KIND = "base_kind"  # "keras", "h5" or "saved_model"
FACT_TRAINING_ROWS = "training_rows"  # whether the data hold labelled rows to train on
FACT_CALIBRATION_ROWS = "calibration_rows"  # whether there are rows to calibrate by, labelled or not

# What to do when there are none; rows of `x` are tested by, and a model must not have seen those.
TRAINING_ROWS_WANTED = (
    "rows of x and x_test only test, so put some of their own into x_train, y_train (images: a folder train)"
)

# Steps that leave a fake-quantised model, with the ranges and scales that go into every format.
ROUNDING = ("qat", "mixed", "calibrate", "adaround", "correct_bias")
# Those that decide by themselves how many bits weights have, where no step before them has.
BITS_DEFAULT = 8

_ONCE = {
    "qat": "the rounding of integers is already in the training loop",
    "mixed": "each layer has its bits already",
    "calibrate": "the ranges are chosen already",
    "adaround": "the rounding is learnt already",
    "correct_bias": "the biases are corrected already",
    "entropy": "the file holds the weights as they are in the end",
}
_LAST = {"entropy": "it writes the weights as they are in the end"}
# (later, earlier): why the one cannot follow the other.
_NOT_AFTER: dict[tuple[str, str], str] = {
    (later, "qat"): f"{what}, and the ranges that qat has learnt belong to the tensors as they were"
    for later, what in (
        ("prune_structured", "it removes tensors"),
        ("factorize", "it splits layers into others"),
        ("lower_resolution", "it makes the network again for other maps"),
        ("grayscale", "it makes the network again for other channels"),
        ("haar", "it makes the network again for other maps"),
        ("cluster", "it moves the weights after the training with rounding: put it before qat, which keeps it"),
        ("prune", "it moves the weights after the training with rounding: put it before qat, which keeps it"),
        ("distill", "it trains without the rounding: put it before qat, or write qat(8, teacher=base)"),
        ("fine_tune", "it trains without the rounding: put it before qat, or give qat more epochs"),
    )
}
_REFINING = ("calibrate", "adaround", "correct_bias")
_NOT_AFTER |= {
    (later, earlier): f"{what}, and {earlier} has fitted the model to its integers as it was"
    for earlier in ("mixed", *_REFINING)
    for later, what in (
        ("prune_structured", "it removes tensors"),
        ("factorize", "it splits layers into others"),
        ("lower_resolution", "it makes the network again for other maps"),
        ("grayscale", "it makes the network again for other channels"),
        ("haar", "it makes the network again for other maps"),
        ("cluster", "it moves the weights"),
        ("prune", "it moves the weights"),
        ("distill", "it trains without the rounding"),
        ("fine_tune", "it trains without the rounding"),
        ("equalize", "it moves factors between layers"),
        ("qat", "it finds ranges and rounding by training, from the float model"),
    )
}
_NOT_AFTER |= {
    ("distill", "mixed"): "it trains without the rounding: put it before mixed, or write mixed(4.5, teacher=base, epochs=3)",
    ("calibrate", "mixed"): "it chooses ranges and bits from the float model, as mixed has done",
    **{("mixed", each): f"it chooses bits by the float model, which {each} has rounded" for each in ("qat", *_REFINING)},
    ("equalize", "qat"): "it moves factors between layers, and the scales that qat has learnt belong to them as they were",
    ("calibrate", "qat"): "the ranges that qat has trained would be lost",
    ("adaround", "qat"): "qat has trained the weights with their rounding: another would undo that",
    ("correct_bias", "qat"): "qat has trained the biases with the rounding of the weights, and there is no float model to compare with",
    ("calibrate", "adaround"): "the weights are rounded for the ranges that they were learnt with: put calibrate before adaround",
    ("calibrate", "correct_bias"): "the biases are corrected for the ranges that there were: put calibrate before correct_bias",
    ("adaround", "correct_bias"): "the biases are corrected for the rounding that there was: put adaround before correct_bias",
    ("equalize", "cluster"): "each channel gets a factor of its own, so that weights which share a value no longer would",
    ("adaround", "cluster"): "each weight is rounded by itself, so that weights which share a value no longer would",
}  # fmt: skip
# Parameters with which a step reads training rows although it may not train: (step, parameter) -> values, None for any.
_READS_ROWS: dict[tuple[str, str], tuple[Any, ...] | None] = {
    ("prune_structured", "by"): ("taylor", "activation"),
    ("prune_structured", "max_drop"): None,
}
_QAT_ACTIVATIONS = ("i8", "u8")
_INTEGERS_WANTED = "a static precision with 8-bit activations must follow it, for example static_wi8_ai8"
_QAT_WANTS = f"qat trains weights and activations for integer kernels: {_INTEGERS_WANTED}"
_REFINING_WANTS = f"fits weights and activations to integer kernels: {_INTEGERS_WANTED}"
_BITS_TWICE = "has the weights' bits from the step before it: give weight_bits there"
# What a training learns from a teacher, and how; `distill` always has one.
_OF_TEACHERS = ("temperature", "alpha", "method")
_NO_TEACHER = "is about a teacher, and there is none: give teacher=base"
_NOTHING_TAUGHT = "with epochs=0 a teacher has nothing to teach: give epochs"
_SAVED_MODEL = "steps work on the layers of a Keras model, and a SavedModel holds a graph without layers: give the .keras or .h5 file"


def refusals() -> list[tuple[str, str]]:
    """What never goes together, in words: (chain, reason), for the documents."""
    lines = [(f"`{name}` twice", why) for name, why in _ONCE.items()]
    lines += [(f"`{name}` before another step", why) for name, why in _LAST.items()]
    lines += [(f"`{earlier} > {later}`", why) for (later, earlier), why in _NOT_AFTER.items()]
    lines += [("`qat` before any other precision", _QAT_WANTS)]
    lines += [(f"`{name}` before any other precision", f"{name} {_REFINING_WANTS}") for name in ("mixed", *_REFINING)]
    lines += [(f"`calibrate > {name}(weight_bits=…)`", f"{name} {_BITS_TWICE}") for name in _REFINING[1:]]
    lines += [("`qat(…)` or `mixed(…)` with temperature, alpha or method, without teacher", f"that {_NO_TEACHER}")]
    lines += [("`mixed(teacher=…)` without epochs", _NOTHING_TAUGHT)]
    return [*lines, ("any step on a SavedModel", _SAVED_MODEL)]


def trains(step: Step) -> bool:
    """Whether this step trains, with the parameters it has."""
    values = step.values
    return step.info.trains or any((values.get(name) or 0) > 0 for name in step.info.trains_if)


def weight_bits(steps: Sequence[Step]) -> int | None:
    """Bits of the weights of the fake-quantised model that these steps leave; None when they leave another."""
    step = next((step for step in steps if step.name in ROUNDING), None)
    return None if step is None else int(step.values.get("weight_bits") or BITS_DEFAULT)


def needs_rows(step: Step) -> bool:
    """Whether this step needs labelled training rows: it trains, or it judges by them."""
    values = step.values
    reads = any(
        step.name == name and (values[key] is not None if choices is None else values[key] in choices)
        for (name, key), choices in _READS_ROWS.items()
    )
    return reads or trains(step)


def chain_reason(
    steps: Sequence[Step], mode: str, activations: str, facts: Mapping[str, Any] | None = None
) -> str | None:
    """Why these steps before this precision cannot be carried out, in one line; None when they can.

    `facts`: what is known of the base model and its data (`FACT_…` above).
    """
    if not steps:
        return None
    found = _order_reason(steps)
    integer = mode == "static" and activations in _QAT_ACTIVATIONS
    rounding = next((step.name for step in steps if step.name in ROUNDING), None)
    if found is None and not integer and rounding is not None:
        found = _QAT_WANTS if rounding == "qat" else f"{rounding} {_REFINING_WANTS}"
    return found or _facts_reason(steps, facts or {})


def _order_reason(steps: Sequence[Step]) -> str | None:
    for position, step in enumerate(steps):
        earlier = [before.name for before in steps[:position]]
        if step.name in _ONCE and step.name in earlier:
            return f"{step.name} stands twice in the chain: {_ONCE[step.name]}"
        for before in earlier:
            if (step.name, before) in _NOT_AFTER:
                return f"{step.name} cannot follow {before}: {_NOT_AFTER[step.name, before]}"
        if step.name in _REFINING and step.values["weight_bits"] and set(earlier).intersection(ROUNDING):
            return f"{step.name} {_BITS_TWICE}"
        found = _teacher_reason(step)
        if found is not None:
            return found
        if step.name in _LAST and position + 1 < len(steps):
            return f"{step.name} must be the last step: {_LAST[step.name]}"
    return None


def _teacher_reason(step: Step) -> str | None:
    """Why the parameters of a teacher make no sense together."""
    values = step.values
    if "teacher" not in values:
        return None
    idle = [key for key, _ in step.parameters if key in _OF_TEACHERS]
    if idle and not values["teacher"]:
        return f"{step.text}: {idle[0]} {_NO_TEACHER}"
    return f"{step.text}: {_NOTHING_TAUGHT}" if values["teacher"] and not trains(step) else None


def _facts_reason(steps: Sequence[Step], facts: Mapping[str, Any]) -> str | None:
    if facts.get(FACT_BASE_KIND) == "saved_model":
        return f"{steps[0].name}: {_SAVED_MODEL}"
    if facts.get(FACT_CALIBRATION_ROWS) is False:
        step = next((step for step in steps if step.name in ("mixed", *_REFINING)), None)
        if step is not None:
            return (
                f"{step.text} fits the model to calibration rows, and there are none: give data, labels are not needed"
            )
    if facts.get(FACT_TRAINING_ROWS) is False:
        step = next((step for step in steps if needs_rows(step)), None)
        if step is not None:
            doing = "trains" if trains(step) else "judges by training rows"
            without = f"; {step.name} trains nothing with epochs=0" if _can_do_without(step) else ""
            return f"{step.text} {doing}, and the data hold no labelled training rows: {TRAINING_ROWS_WANTED}{without}"
    return None


def _can_do_without(step: Step) -> bool:
    """Whether the step exists without training: its epochs may be 0."""
    return not step.info.trains and any(item.name == "epochs" and item.low == 0 for item in step.info.parameters)
