"""Progress of long work on stderr: a bar at a terminal, a line now and then in a log, nothing when quiet."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from harness.cli.common import say

# In a log (CI), one line at most that often.
LOG_INTERVAL_S = 10.0


@contextmanager
def _bar(title: str, total: int) -> Iterator[Callable[[int, int, str], None]]:
    """Yields `update(done, total, text)`."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        with Progress(
            TextColumn("{task.fields[title]}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
            transient=True,
            refresh_per_second=4,
        ) as progress:
            task = progress.add_task("", total=total, title=title)
            yield lambda done, of, text: progress.update(task, completed=done, total=of, description=text)
        return
    last = 0.0

    def log(done: int, of: int, text: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= LOG_INTERVAL_S or done == of:
            last = now
            say(f"{title} {done}/{of} {text}".rstrip())

    yield log


@contextmanager
def conversion_progress(total: int, *, quiet: bool) -> Iterator[Callable[[Any], None]]:
    """Takes the converters' ConversionEvents."""
    if quiet:
        yield lambda _event: None
        return
    with _bar("converting", total) as update:
        yield lambda event: update(event.done, event.total, event.text)


@contextmanager
def search_progress(trials: int, *, quiet: bool) -> Iterator[Callable[[int, int, str], None]]:
    """Takes how many trials have ended, of how many, and words."""
    if quiet:
        yield lambda _done, _of, _text: None
        return
    with _bar("searching", trials) as update, emulator_notices():
        yield update


class _Notices(logging.Handler):
    """Says each record's message."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


@contextmanager
def emulator_notices() -> Iterator[None]:
    """Says what emulators fetch, build and boot: at their first use that takes minutes."""
    logger, handler = logging.getLogger("harness.devices.emulators"), _Notices(logging.INFO)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


@contextmanager
def measurement_progress(*, quiet: bool) -> Iterator[Callable[[Any], None]]:
    """Takes the runner's events."""
    if quiet:
        yield lambda _event: None
        return
    with _bar("measuring", 0) as update, emulator_notices():
        yield lambda event: update(event.done, event.total, event.text)
