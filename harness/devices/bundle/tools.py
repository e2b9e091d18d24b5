"""Runs the host's tools that fetch and unpack packages. Their failures become BundleErrors with the tool's own words."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.errors import BundleError

TOOL_TIMEOUT_S = 1800.0


def call(argv: Sequence[str], *, remedy: str | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a tool of the host to its end; its stdout. Raises BundleError."""
    try:
        done = subprocess.run(
            list(argv),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=TOOL_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
        )
    except FileNotFoundError as error:
        raise BundleError(
            f"this host has no {argv[0]}",
            remedy="build the bundle on a Debian or Ubuntu host (any architecture), or give --python-distribution",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise BundleError(f"{argv[0]} took more than {TOOL_TIMEOUT_S:g} s", transient=True) from error
    if done.returncode != 0:
        words = (done.stderr.strip() or done.stdout.strip())[-800:]
        raise BundleError(f"{Path(argv[0]).name} failed: {words}", remedy=remedy)
    return done.stdout


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
