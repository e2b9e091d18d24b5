"""Preprocessing: how stored data become the base model's input. First half of `dataset.py`; numpy only.

Definition, in this order, on a batch `x` as stored:

1. `layout="NCHW"`: transpose to NHWC; `add_channel=True`: append an axis of one channel;
2. `channels`: 1 → 3 repeats the channel, 3 → 1 takes the luma (0.299 R + 0.587 G + 0.114 B);
3. `resize=(h, w)`: bilinear, Pillow's (it averages when it shrinks);
4. `(x * scale - mean) / std` in float32; `mean` and `std` have one value, or one per channel (the last axis here);
5. `model_layout="NCHW"` with a declared `layout`: transpose to NCHW.

With nothing declared, integers stay integers (token ids) and every float becomes float32.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from converters.errors import ConversionInputError

Array = np.ndarray[Any, np.dtype[Any]]

LAYOUTS = ("NHWC", "NCHW")
MAX_RESIZED_BYTES = 8 * 2**30
LUMA = (0.299, 0.587, 0.114)


class DatasetError(ConversionInputError, ValueError):
    """The user's data, or what is declared about them, are wrong. `remedy` says what to do next."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel between processes with the remedy."""
        return (_rebuild_error, (self.message, self.remedy))


def _rebuild_error(message: str, remedy: str | None) -> DatasetError:
    return DatasetError(message, remedy=remedy)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?` for the closest of `known`, else the list of all that exist."""
    choices = list(known)
    close = difflib.get_close_matches(name, choices, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(choices)}"


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How stored data become the model's input; the module's docstring gives the definition and the order.

    `layout` is the layout in the data (None: not images, or nothing to transpose); `model_layout` what the base wants.
    `add_channel=None` appends a channel axis only where the model's input has just that one axis more.
    Raises DatasetError for values that make no sense.
    """

    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: str | None = None
    model_layout: str = "NHWC"
    resize: tuple[int, int] | None = None
    channels: int | None = None
    add_channel: bool | None = None

    def __post_init__(self) -> None:
        for name, values in (("scale", (self.scale,)), ("mean", self.mean), ("std", self.std)):
            if not all(_is_number(v) for v in values):
                raise DatasetError(f"preprocessing: {name} must be finite numbers, not {values!r}")
        if self.scale == 0 or any(v == 0 for v in self.std):
            raise DatasetError("preprocessing: scale and std must not be 0")
        if self.layout not in (None, *LAYOUTS) or self.model_layout not in LAYOUTS:
            raise DatasetError(f"preprocessing: a layout is one of {', '.join(LAYOUTS)}")
        if self.channels not in (None, 1, 3):
            raise DatasetError(f"preprocessing: channels must be 1 or 3, not {self.channels!r}")
        if self.add_channel not in (None, True, False):
            raise DatasetError(f"preprocessing: add_channel must be true or false, not {self.add_channel!r}")
        if self.resize is not None and (len(self.resize) != 2 or not all(_is_side(v) for v in self.resize)):  # noqa: PLR2004
            raise DatasetError(f"preprocessing: resize must be [height, width] in pixels, not {list(self.resize)!r}")

    @property
    def arithmetic(self) -> bool:
        """Whether values change (scale, mean or std); if not, integers are kept."""
        return self.scale != 1.0 or bool(self.mean) or bool(self.std)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; inverse of `preprocessing_from_dict`."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    def apply(self, x: Array) -> Array:
        """Model input for a batch [n, …] as stored: float32 in the base's layout, or integers when nothing is declared.

        Raises DatasetError when the batch does not have the axes the declaration needs.
        """
        if self.layout == "NCHW":
            x = _image_axes(x, "layout NCHW").transpose(0, 2, 3, 1)
        if self.add_channel:
            x = x[..., np.newaxis]
        if self.channels is not None:
            x = to_channels(_image_axes(x, "channels"), self.channels)
        if self.resize is not None and x.shape[1:3] != tuple(self.resize):
            x = resized(_image_axes(x, "resize"), self.resize)
        x = self._calculated(x)
        if self.layout is not None and self.model_layout == "NCHW":
            x = _image_axes(x, "model_layout NCHW").transpose(0, 3, 1, 2)
        return np.ascontiguousarray(x)

    def _calculated(self, x: Array) -> Array:
        """Step 4. Never writes into the caller's array."""
        if not self.arithmetic:
            return x.astype(np.uint8) if x.dtype.kind == "b" else x if x.dtype.kind in "iu" else _as_float32(x)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) > 1 and (x.ndim < 2 or len(values) != x.shape[-1]):  # noqa: PLR2004
                raise DatasetError(f"preprocessing: {name} has {len(values)} values for {x.shape[-1]} channels")
        with np.errstate(all="ignore"):  # what overflows becomes inf or NaN, which the data check names
            out = np.multiply(_as_float32(x), np.float32(self.scale))
            if self.mean:
                out -= np.asarray(self.mean, np.float32)
            if self.std:
                out /= np.asarray(self.std, np.float32)
        return out


def preprocessing_from_dict(data: Mapping[str, Any]) -> Preprocessing:
    """A Preprocessing from YAML or JSON. An unknown key or a value of the wrong kind is a DatasetError."""
    known = [f.name for f in dataclasses.fields(Preprocessing)]
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key not in known:
            raise DatasetError(f"preprocessing: unknown key {key!r}", remedy=did_you_mean(str(key), known))
        if key in ("mean", "std"):
            values[key] = tuple(value) if isinstance(value, list | tuple) else () if value is None else (value,)
        elif key == "resize" and value is not None:
            if not isinstance(value, list | tuple):
                raise DatasetError(f"preprocessing: resize must be [height, width] in pixels, not {value!r}")
            values[key] = tuple(value)
        else:
            values[key] = value
    return Preprocessing(**values)


def to_channels(x: Array, channels: int) -> Array:
    """NHWC batch [n, h, w, 1 or 3] with `channels` channels, dtype kept (luma of integers is rounded)."""
    have = x.shape[-1]
    if have == channels:
        return x
    if have == 1:
        return np.repeat(x, channels, axis=-1)
    if have != len(LUMA):
        raise DatasetError(f"preprocessing: cannot make {channels} channels of {have}")
    luma = np.tensordot(x.astype(np.float32), np.asarray(LUMA, np.float32), axes=1)[..., np.newaxis]
    return (np.rint(luma) if x.dtype.kind in "iu" else luma).astype(x.dtype)


def resized(x: Array, size: tuple[int, int]) -> Array:
    """NHWC batch resized to `size` = (h, w), bilinear by Pillow: uint8 stays uint8, anything else becomes float32."""
    from PIL import Image

    height, width = size
    if 4 * len(x) * height * width * x.shape[-1] > MAX_RESIZED_BYTES:
        raise DatasetError(f"preprocessing: {len(x)} rows of {height}×{width} need more than 8 GiB")
    dtype = np.uint8 if x.dtype == np.uint8 else np.float32
    out = np.empty((len(x), height, width, x.shape[-1]), dtype)
    for row, image in enumerate(x.astype(dtype, copy=False)):
        for channel in range(x.shape[-1]):
            plane = Image.fromarray(np.ascontiguousarray(image[..., channel]))
            out[row, ..., channel] = np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR))
    return out


def _image_axes(x: Array, what: str) -> Array:
    if x.ndim != 4:  # noqa: PLR2004
        raise DatasetError(
            f"preprocessing: {what} needs images with three axes, the rows have {x.ndim - 1}",
            remedy="set add_channel: true for greyscale images without a channel axis" if x.ndim == 3 else None,  # noqa: PLR2004
        )
    return x


def _as_float32(x: Array) -> Array:
    with np.errstate(over="ignore"):  # an overflow becomes inf, which the data check names
        return x.astype(np.float32, copy=False)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_side(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 16384  # noqa: PLR2004
