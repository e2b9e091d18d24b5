"""What a parser gives back instead of a value: why there is none. Never zero, never a guess."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A reading that could not be had: the `reason` in words, and what the user can do about it."""

    reason: str
    remedy: str | None = None

    def __str__(self) -> str:
        return self.reason if self.remedy is None else f"{self.reason}; {self.remedy}"
