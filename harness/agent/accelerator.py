"""Memory that an accelerator's driver holds for this process, where the driver tells: it is not in the resident set.

Places, in order: the kernel's DRM client statistics (`/proc/self/fdinfo`, Documentation/gpu/drm-usage-stats.rst: Intel, AMD, panfrost,
panthor, msm), Qualcomm's KGSL (Adreno), Arm's Mali driver as Pixels have it, and NVIDIA's `nvidia-smi`. An engine that computes on
the CPU opens none of them; that is no zero but nothing to tell. Standard library only.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from .sensors import read_file, run_command, words_of

_UNITS = {"": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_REGION = re.compile(r"drm-(resident|total|memory)-([\w-]+):\s*(\d+)\s*(\w*)")
_SMI = ("--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits")


def accelerator_bytes(root: str = "/", pid: int | None = None) -> tuple[int | None, str]:
    """Bytes held now and by whose word; or None and why nothing is known."""
    base, process = Path(root), os.getpid() if pid is None else pid
    found = _drm(base)
    if found is not None:
        return found, "DRM client statistics"
    refused = []
    for name, path in (
        ("KGSL", f"sys/class/kgsl/kgsl/proc/{process}/kernel"),
        ("Mali", f"sys/class/misc/mali0/device/kprcs/{process}/total_gpu_mem"),
    ):
        try:
            return int(read_file(str(base / path))), name
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            refused.append(f"{name}: {words_of(error) if isinstance(error, OSError) else error}")
    smi = shutil.which("nvidia-smi") if root == "/" else None
    if smi is not None:
        try:
            value = parse_smi(run_command((smi, *_SMI)), process)
        except OSError as error:
            refused.append(f"nvidia-smi: {words_of(error)}")
        else:
            if value is not None:
                return value, "nvidia-smi"
    if refused:
        return None, "; ".join(refused)
    return None, "no accelerator's driver knows of this process (DRM, KGSL, Mali and nvidia-smi were asked)"


def parse_smi(text: str, pid: int) -> int | None:
    """This process's line of "pid, MiB" in bytes; None where there is none."""
    for line in text.splitlines():
        owner, _, used = (word.strip() for word in line.partition(","))
        if owner == str(pid) and used.isdigit():
            return int(used) * _UNITS["MiB"]
    return None


def _drm(base: Path) -> int | None:
    """The memory of this process's DRM clients, each counted once however many descriptors it has; None without any."""
    clients: dict[str, int] = {}
    try:
        files = sorted((base / "proc/self/fdinfo").iterdir())
    except OSError:
        return None
    for file in files:
        try:
            text = file.read_text(encoding="ascii", errors="replace")
        except OSError:  # closed meanwhile
            continue
        if "drm-driver:" in text:
            client = re.search(r"drm-client-id:\s*(\d+)", text)
            clients[client[1] if client else file.name] = _regions(text)
    return sum(clients.values()) if clients else None


def _regions(text: str) -> int:
    """Per region what is resident, where that is told; else its total, else what older kernels call its memory."""
    regions: dict[str, dict[str, int]] = {}
    for kind, region, number, unit in _REGION.findall(text):
        regions.setdefault(region, {})[kind] = int(number) * _UNITS.get(unit, 1)
    order = ("resident", "total", "memory")
    return sum(next(kinds[kind] for kind in order if kind in kinds) for kinds in regions.values())
