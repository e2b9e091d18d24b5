"""What can go wrong in a conversion, each with a remedy where there is one.

ConverterError
├── ConversionInputError   the user's input is wrong; raised before any work
│   ├── RecipeError            a recipe that does not exist or contradicts itself
│   └── BaseModelError         a base model that is missing, truncated, hostile, or of an unknown kind
└── VariantError           one variant came to nothing; the pipeline turns it into a row and goes on
    ├── ToolError              a toolchain failed; the message carries its own words
    └── RefusedError           this combination cannot exist for this model; the message is the reason
"""

from __future__ import annotations

import errno
import re
from typing import Any

# Besides the errno: how native tools, and numpy's short writes, word it.
_DISK_FULL = re.compile(r"no space left on device|\d+ requested and \d+ written", re.IGNORECASE)


class ConverterError(Exception):
    """Base of all. `message` is one line; `remedy` says what to do next, or is None where nothing is known to help."""

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return self.message if self.remedy is None else f"{self.message} — {self.remedy}"


class ConversionInputError(ConverterError):
    """The user's input is wrong: a file, a shape, a value, a combination."""


class RecipeError(ConversionInputError):
    """A recipe that is not known, or whose parameters contradict each other."""


class BaseModelError(ConversionInputError):
    """A base model that cannot be read, or must not be."""


class VariantError(ConverterError):
    """One variant came to nothing."""


class ToolError(VariantError):
    """A toolchain failed; the message carries its own words."""


class RefusedError(VariantError):
    """A combination that cannot exist for this model; the message is the reason."""


def describe_error(error: BaseException) -> dict[str, Any]:
    """An answer for a job that failed: one line, and what kind of failure it is."""
    text = " ".join(str(error).split())
    kind, message, remedy = "tool", text[:500] or type(error).__name__, None
    if (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or _DISK_FULL.search(text):
        return disk_full_answer(type(error).__name__)
    if isinstance(error, ConverterError):
        message, remedy = " ".join(error.message.split()), error.remedy
        kind = (
            "input"
            if isinstance(error, ConversionInputError)
            else "refused"
            if isinstance(error, RefusedError)
            else kind
        )
    elif isinstance(error, ImportError):
        kind, message = "missing", f"a converter package is not installed: {text}"
        remedy = "install the extra: pip install 'ondevice-harness[convert]'"
    elif isinstance(error, MemoryError):
        message, remedy = "out of memory", "convert with fewer jobs, or on a machine with more memory"
    return {"ok": False, "kind": kind, "class": type(error).__name__, "message": message, "remedy": remedy}


def disk_full_answer(error_class: str) -> dict[str, Any]:
    """The answer for a job that a full disk spoilt, whatever the tool made of it."""
    return {
        "ok": False,
        "kind": "disk",
        "class": error_class,
        "message": "the disk is full: no space left on device",
        "remedy": "free some space, or choose another folder for the output (and for the cache: HARNESS_CACHE)",
    }
