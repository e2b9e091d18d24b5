"""What the runner tells while it works: for a progress bar, a log, or a test. Carries no results; those are in the store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# Kinds of event.
CONNECTED = "connected"  # a device answered
UNREACHABLE = "unreachable"  # a device did not, or was lost for good
WARNING = "warning"  # something may disturb the measurement on a device
COOLING = "cooling"  # a device is too hot for the next run, and is waited for
STARTED = "started"  # a run begins
FINISHED = "finished"  # a run ended well and is stored
FAILED = "failed"  # a run, or a variant in it, failed; stored too
RETRY = "retry"  # a lost connection, or survivors of a crash, are tried again
STOPPED = "stopped"  # a target needs no more runs; the text says why
ENDED = "ended"  # the session is over


@dataclass(frozen=True, slots=True)
class Event:
    """One step. `done` of `total` runs are made (`total` may grow or shrink on the way); `remaining_s` is an estimate,
    None before there is anything to estimate from."""

    kind: str
    text: str
    done: int
    total: int
    remaining_s: float | None = None
    device: str | None = None
    engine: str | None = None
    variant: str | None = None


OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """An OnEvent for those who do not care."""
    del event
