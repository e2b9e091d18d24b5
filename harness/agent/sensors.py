"""Reads declared channels (files of the kernel, rarely a command) at a steady rate, with the device's monotonic clock.

A thread of its own, asleep between readings in a wait that holds no lock: a process of its own would need a second
interpreter, which a pushed runtime on a phone cannot simply start. It never sends; the thread that measures takes what was
read between phases (`take`). Texts go home as they were read: their meaning (units, signs) is the host's work. Only in
energy runs is a sampler at work; latency is never taken from those. Standard library only.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections import Counter
from typing import Any

from .protocol import SensorChannel

COMMAND_TIMEOUT_S = 10.0
_LONGEST_TEXT = 65536
# The pushed runtime's own variables would lead the device's programs to the wrong libraries.
_OURS = ("LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONHOME", "PYTHONPATH")


def read_file(path: str) -> str:
    """A small file's text without the white space around it. Raises OSError."""
    # Opened anew each time: a meter that vanishes and comes back is another file of the same name.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _LONGEST_TEXT).decode("utf-8", "replace").strip()
    finally:
        os.close(descriptor)


def run_command(argv: tuple[str, ...]) -> str:
    """What a command prints. Raises OSError with its own words when it fails or takes too long."""
    environment = {key: value for key, value in os.environ.items() if key not in _OURS}
    try:
        done = subprocess.run(
            argv, capture_output=True, timeout=COMMAND_TIMEOUT_S, env=environment, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{argv[0]} took longer than {COMMAND_TIMEOUT_S:g} s") from error
    text = done.stdout.decode("utf-8", "replace")
    if done.returncode != 0:
        said = (done.stderr.decode("utf-8", "replace") or text).strip()[-200:]
        raise OSError(f"{' '.join(argv)} ended with code {done.returncode}: {said}")
    return text[:_LONGEST_TEXT]


def words_of(error: OSError) -> str:
    """An error in the kernel's words."""
    return error.strerror or str(error)


class _Readings:
    """What one channel gave since the last `take`."""

    def __init__(self, channel: SensorChannel) -> None:
        self.channel = channel
        self.t_ns: list[int] = []
        self.text: list[str | None] = []
        self.errors: Counter[str] = Counter()
        self.due_ns = 0

    def read(self) -> None:
        """Read once; the time is the middle of the reading."""
        before = time.monotonic_ns()
        text: str | None = None
        try:
            channel = self.channel
            text = run_command(channel.argv) if channel.argv else read_file(channel.path)
        except OSError as error:
            self.errors[words_of(error)] += 1
        after = time.monotonic_ns()
        self.t_ns.append((before + after) // 2)
        self.text.append(text)
        self.due_ns = before + int(self.channel.every_s * 1e9)


class Sampler:
    """Reads `channels` `rate_hz` times a second from `start` to `stop`; those with `every_s` less often."""

    def __init__(self, channels: tuple[SensorChannel, ...], rate_hz: float) -> None:
        self._readings = [_Readings(channel) for channel in channels]
        self._period_ns = int(1e9 / rate_hz)
        self._stopping = threading.Event()
        self._swap = threading.Lock()
        self._thread = threading.Thread(target=self._loop, name="sensors", daemon=True)

    def __enter__(self) -> Sampler:  # noqa: PYI034 - `Self` is newer than the oldest Python on devices
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(COMMAND_TIMEOUT_S)

    def _loop(self) -> None:
        tick = time.monotonic_ns()
        while True:
            with self._swap:
                self._tick(tick)
            # On schedule, whatever reading took; ticks that were missed are not made up for.
            now = time.monotonic_ns()
            tick += self._period_ns * max(1, -(-(now - tick) // self._period_ns))
            if self._stopping.wait(max(0, tick - now) / 1e9):
                return

    def _tick(self, tick: int) -> None:
        slow: list[_Readings] = []
        for readings in self._readings:
            if readings.channel.every_s <= 0:
                readings.read()
            elif tick >= readings.due_ns:
                slow.append(readings)
        for readings in slow:  # a command may take long: after everything that wants its time
            readings.read()

    def take(self) -> dict[str, Any]:
        """Everything read since the last call, by channel, and the words of what could not be read."""
        with self._swap:
            taken: dict[str, Any] = {
                item.channel.name: {"t_ns": item.t_ns, "text": item.text} for item in self._readings if item.t_ns
            }
            taken["errors"] = {
                item.channel.name: item.errors.most_common(1)[0][0] for item in self._readings if item.errors
            }
            for item in self._readings:
                item.t_ns, item.text, item.errors = [], [], Counter()
        return taken
