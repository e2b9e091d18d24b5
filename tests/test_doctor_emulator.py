"""The doctor on a device that has nothing: arm64 programs in an empty root over ADB, as on an unrooted phone."""

from __future__ import annotations

import os
import shutil

import pytest

from harness.devices.discovery import probe
from harness.devices.doctor_visit import visit
from harness.devices.emulators.running import running
from harness.profiles import load_profile

pytestmark = pytest.mark.emulator


def test_an_unrooted_device_without_python_or_a_c_library() -> None:
    if shutil.which("qemu-aarch64-static") is None or os.geteuid() != 0:
        pytest.skip("needs qemu-aarch64-static (apt install qemu-user-static) and to be root")
    profile = load_profile("qemu-user-arm64").model_copy(update={"engines": ("litert",)})
    with running(profile) as reached:
        found = probe(reached)
    assert found.state == "ready"
    assert found.facts["cpu"].endswith("× Cortex-A72")
    assert found.runtime == "bundle"
    told = {check.name: check for check in visit(profile).checks}
    assert told["work folder"].status == "ok"
    assert told["runtime"].found.startswith("the bundle's Python")
    assert "ran a tiny model" in told["litert"].found
    assert told["temperature"].status == "skipped"
    assert all(check.status != "failed" for check in told.values()), told
