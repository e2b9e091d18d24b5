"""A tool's own words on one line, for the errors and notes of all toolchains."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from converters.errors import ToolError

T = TypeVar("T")


def one_line(error: BaseException, limit: int = 500) -> str:
    """The message of `error` on one line, cut to `limit` characters; its type where it has none."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def with_words(tool: str, work: Callable[[], T]) -> T:
    """Run a tool; whatever it raises becomes a ToolError with its own words."""
    try:
        return work()
    except Exception as error:
        raise ToolError(f"{tool} failed: {one_line(error)}") from error
