"""Fixtures shared by the tests."""

from __future__ import annotations

from sshd import sshd

__all__ = ["sshd"]
