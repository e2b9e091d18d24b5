"""Runs on the device, standard library only (Python 3.8 or newer): looks around, and cleans up.

Never imported there: `harness.devices.device` sends this file's text to `python -` with one JSON argument, so that
nothing needs to be installed first. Answers with one JSON line on stdout.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import socket
import sys
import time
from pathlib import Path
from typing import Any

TEXTS = {
    "cpuinfo": "/proc/cpuinfo",
    "meminfo": "/proc/meminfo",
    "os_release": "/etc/os-release",
    "boot_id": "/proc/sys/kernel/random/boot_id",
    "machine_id": "/etc/machine-id",
    "board": "/proc/device-tree/model",
    "loadavg": "/proc/loadavg",
    "pressure": "/proc/pressure/cpu",
}
# Module → distributions that bring it; the version is the distribution's.
MODULES = {
    "numpy": ["numpy"],
    "ai_edge_litert": ["ai-edge-litert"],
    "tflite_runtime": ["tflite-runtime"],
    "onnxruntime": ["onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"],
    "openvino": ["openvino"],
}
# An upload used so lately may belong to another session that is still running.
RECENT_S = 24 * 3600.0
# Bundles unpacked here, each named by its digest; on their way: parts, and folders whose unpacking was cut off.
RUNTIMES, INCOMING, MARKER, TEMPORARY = "runtimes", "incoming", "complete", "tmp"


def read(path: str) -> str | None:
    """A small file's text, or None."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def version(module: str, distributions: list[str]) -> str | None:
    """None where the module is missing; "" where its version is not told."""
    if importlib.util.find_spec(module) is None:
        return None
    from importlib import metadata

    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return ""


def inspect(job: dict[str, Any]) -> dict[str, Any]:
    """Make the work folder and the session's own, private; say what the device is."""
    # Not resolved: a link in the user's path stays the user's business.
    work = Path(job["work"]).expanduser().absolute()
    session = work / "sessions" / job["session"] if job["session"] else None
    work.mkdir(mode=0o700, parents=True, exist_ok=True)
    if session is not None:
        session.mkdir(mode=0o700, parents=True, exist_ok=True)
    uname = platform.uname()
    return {
        "work": str(work),
        "session": None if session is None else str(session),
        "free_bytes": shutil.disk_usage(str(work)).free,
        "python": platform.python_version(),
        "executable": sys.executable,
        "system": uname.system,
        "release": uname.release,
        "machine": uname.machine,
        "hostname": socket.gethostname(),
        "cpus": os.cpu_count(),
        "texts": {name: read(path) for name, path in TEXTS.items()},
        "modules": {module: version(module, names) for module, names in MODULES.items()},
    }


def modules(job: dict[str, Any]) -> dict[str, Any]:
    """Which Python this is and which engines it has; changes nothing."""
    del job
    return {
        "python": platform.python_version(),
        "modules": {module: version(module, names) for module, names in MODULES.items()},
    }


def folders(parent: Path) -> list[Path]:
    """The folders in a folder; none if it does not exist."""
    return [path for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []


def size_and_use(folder: Path) -> tuple[int, float]:
    """Bytes in a folder, and when one of its files was last used (its time is set anew at each use)."""
    facts = [path.lstat() for path in folder.rglob("*") if not path.is_dir()]
    return sum(fact.st_size for fact in facts), max((fact.st_mtime for fact in facts), default=0.0)


def sweep(job: dict[str, Any]) -> dict[str, Any]:
    """Remove the session's folder, folders of sessions long dead, and the uploads least used beyond the limit."""
    work, now = Path(job["work"]), time.time()
    removed = []
    for folder in folders(work / "sessions"):
        if folder.name == job["session"] or now - folder.stat().st_mtime > 7 * RECENT_S:
            shutil.rmtree(str(folder), ignore_errors=True)
            removed.append(folder.name)
    for part in (work / "blobs").glob("**/*.part-*"):
        # An upload that broke off. One of another session's may still be on its way.
        if part.is_file() and (set(part.parts) & set(job["mine"]) or now - part.stat().st_mtime > RECENT_S):
            part.unlink()
    entries = [(*size_and_use(folder), folder) for folder in folders(work / "blobs")]
    kept = sum(size for size, _, _ in entries)
    for size, used, folder in sorted(entries, key=lambda entry: entry[1]):
        mine = folder.name in job["mine"]
        drop = mine if not job["keep"] else kept > job["limit_bytes"] and not mine and now - used > RECENT_S
        if drop:
            shutil.rmtree(str(folder), ignore_errors=True)
            kept -= size
            removed.append(folder.name)
    removed += sweep_runtimes(work / RUNTIMES, job.get("runtime"), now)
    return {"removed": removed, "kept_bytes": kept}


def sweep_runtimes(parent: Path, mine: str | None, now: float) -> list[str]:
    """Remove bundles that no session used for a week, and what a session that died left on its way."""
    removed = []
    for folder in folders(parent):
        if folder.name in (mine, INCOMING):
            continue
        marker = folder / MARKER
        age_s = now - (marker if marker.is_file() else folder).stat().st_mtime
        if age_s > (7 * RECENT_S if marker.is_file() else RECENT_S):
            shutil.rmtree(str(folder), ignore_errors=True)
            removed.append(folder.name)
    for left in (*(parent / INCOMING).glob("*"), *(parent.parent / TEMPORARY).glob("*")):
        if now - left.lstat().st_mtime > RECENT_S:
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(str(left), ignore_errors=True)
            else:
                left.unlink()
            removed.append(left.name)
    return removed


def main() -> None:
    """Do what the one argument asks."""
    job = json.loads(sys.argv[1])
    try:
        answer = {"inspect": inspect, "modules": modules, "sweep": sweep}[job["do"]](job)
    except OSError as error:
        answer = {"error": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
