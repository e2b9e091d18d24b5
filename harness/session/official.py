"""The logs of an official run: fetched from the device into the session's results, and read for the answers in them.

Called by `harness.session.attempts` after the agent has ended.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np

from harness.collectors.accuracy import evaluate
from harness.collectors.loadgen import answers_of
from harness.collectors.unavailable import Unavailable
from harness.devices.device import Device
from harness.errors import DeviceError, MeasurementError
from harness.records import Evaluation
from harness.session.execution import Transcript

log = logging.getLogger(__name__)

# What may be fetched; the agent only says which of these exist.
_ACCURACY = "accuracy/mlperf_log_accuracy.json"
LOGS = (
    "performance/mlperf_log_summary.txt",
    "performance/mlperf_log_detail.txt",
    "accuracy/mlperf_log_summary.txt",
    "accuracy/mlperf_log_detail.txt",
    _ACCURACY,
)


def fetch_logs(device: Device, remote: str, folder: Path, transcript: Transcript, task: str | None) -> list[Evaluation]:
    """Bring the logs into `folder`/performance and /accuracy, delete them there, and evaluate accuracy mode for `task`.

    A log that cannot be fetched is named in the harness's own log; the figures are in the run already. Raises
    DeviceError when the connection is lost.
    """
    told = [m["values"] for m in transcript.messages if m["type"] == "sensor" and m["name"] == "loadgen"]
    names = [name for name in LOGS if any(name in values["logs"] for values in told)]
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            device.transport.pull(f"{remote}/{name}", path)
        except DeviceError as error:
            if error.transient:
                raise
            log.warning("%s: %s was not fetched: %s", device.profile.name, name, error)
    if names:
        device.transport.remove(remote)
    if task is None or _ACCURACY not in names or not (folder / _ACCURACY).is_file():
        return []
    variant, rows = str(told[-1]["id"]), int(told[-1]["rows"])
    return _evaluated(folder / _ACCURACY, variant, rows, task)


def _evaluated(path: Path, variant: str, rows: int, task: str) -> list[Evaluation]:
    answers = answers_of(path.read_text(encoding="utf-8"), rows)
    if isinstance(answers, Unavailable):
        log.warning("%s: %s", variant, answers)
        return []
    array = path.with_suffix(".npy")
    try:
        np.save(array, answers, allow_pickle=False)
        digest = hashlib.sha256(answers.tobytes()).hexdigest()
        return [evaluate(array, variant=variant, task=task, rows=rows, outputs_sha256=digest)]
    except MeasurementError as error:
        log.warning("%s: its answers to loadgen were not evaluated: %s", variant, error)
        return []
    finally:
        array.unlink(missing_ok=True)
