"""Every goal by its name. A goal's module is imported only when it is asked for."""

from __future__ import annotations

import importlib

from result import Goal

# Name → module of this folder, which has `GOAL`.
MODULES = {f"G{number}": f"g{number:02d}" for number in range(1, 16)}


def goal(name: str) -> Goal:
    """The goal of that name (G1 … G15). Raises KeyError."""
    found = importlib.import_module(MODULES[name]).GOAL
    assert isinstance(found, Goal)  # noqa: S101
    return found
