"""Trains under another Keras dtype policy than the model was saved with, mixed precision included, and leaves no trace of it.

A wrapper around a training loop (`converters.compress.context.Fit`); the weights stay float32. Micikevicius et al., Mixed
Precision Training, arXiv:1710.03740, is where the method comes from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from converters.compress.context import Context, Fit, History
from converters.errors import ToolError


def under_policy(fit: Fit, name: str) -> Fit:
    """`fit` with every layer under the dtype policy `name` (such as mixed_float16) while it trains."""

    def trained(model: Any, context: Context, **options: Any) -> History:
        with policy(model, name):
            return fit(model, context, **options)

    return trained


@contextlib.contextmanager
def policy(model: Any, name: str) -> Iterator[None]:
    """While this lasts, the layers of `model` compute as the policy says. Raises ToolError for a policy that Keras does not
    know, or under which the weights themselves would not be float32."""
    import keras

    from converters.compress.objective import every_layer

    try:
        wanted = keras.dtype_policies.get(name)
    except ValueError as error:
        raise ToolError(f"Keras has no dtype policy {name!r}", remedy="try mixed_float16 or mixed_bfloat16") from error
    if wanted.variable_dtype != "float32":
        raise ToolError(
            f"under the policy {name} the weights would be {wanted.variable_dtype}", remedy="take a mixed_… policy"
        )
    changed = [layer for layer in every_layer(model) if layer.dtype_policy.compute_dtype == "float32"]
    before = [layer.dtype_policy for layer in changed]
    try:
        for layer in changed:
            layer.dtype_policy = wanted
        yield
    finally:
        for layer, old in zip(changed, before, strict=True):
            layer.dtype_policy = old
