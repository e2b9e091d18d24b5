"""Single agent processes, without a session around them: for engines that burn a fixed time, and for the habits of other tools."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import harness.agent
from harness.agent.protocol import Job, decode_message, encode_job
from harness.collectors.latency import blocks_of
from harness.records import MEASURE

Samples = dict[str, list[np.ndarray[Any, np.dtype[np.int64]]]]


def blocks(job: Job, timeout_s: float = 120.0) -> Samples:
    """Run a job in a fresh agent process; model → its measured blocks in time order, ns. Raises RuntimeError if it fails."""
    with tempfile.TemporaryDirectory(prefix="fidelity-") as folder:
        path = Path(folder) / "job.json"
        path.write_text(encode_job(job), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "agent", str(path)],
            cwd=Path(str(harness.agent.__file__)).parent.parent,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    messages = [decode_message(line) for line in done.stdout.decode().splitlines()]
    errors = [message["message"] for message in messages if message["type"] == "error"]
    if done.returncode != 0 or errors:
        raise RuntimeError(f"the agent ended with {done.returncode}: {errors} {done.stderr[-500:]!r}")
    found: Samples = {}
    for block in blocks_of(messages):
        if block.phase == MEASURE:
            found.setdefault(block.variant, []).append(block.wall_ns)
    return found
