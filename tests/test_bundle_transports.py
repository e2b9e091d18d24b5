"""The bundle over real connections: an sshd and an ADB daemon on loopback, both without a Python that it could use."""

from __future__ import annotations

import time

import pytest
from bundle_root import built
from test_bundle_devices import all_engines

from harness.devices.bundle.clean import clean
from harness.devices.bundle.deploy import deploy_bundle
from harness.devices.device import Device
from harness.devices.transport import open_transport
from harness.profiles import DeviceProfile

pytestmark = pytest.mark.slow


def pushed_once(profile: DeviceProfile, engines: tuple[str, ...]) -> None:
    """Brought and run; brought again within a second; removed without a trace."""
    device = Device.open(profile, "session")
    try:
        all_engines(device, engines)
    finally:
        device.close()
    took = []
    with open_transport(profile) as transport:
        for _ in range(3):  # the best of three: other tests run beside this one
            started = time.monotonic()
            runtime = deploy_bundle(profile, transport)
            took.append(time.monotonic() - started)
    assert min(took) < 1
    assert runtime.digest == device.runtime.digest
    assert "." in clean(profile).removed


@pytest.mark.ssh
def test_over_ssh(sshd) -> None:
    bundle = built("x86_64")
    pushed_once(sshd.profile(runtime="bundle", bundle=str(bundle.path)), tuple(bundle.engines))


@pytest.mark.adb
def test_over_adb(adb_device, adb_key, tmp_path) -> None:
    bundle = built("x86_64")
    values = {
        "name": "phone",
        "transport": "adb",
        "host": "127.0.0.1",
        "port": adb_device.port,
        "adb_key": str(adb_key[0]),
    }
    profile = DeviceProfile.model_validate(values | {"work_folder": str(tmp_path / "work"), "bundle": str(bundle.path)})
    pushed_once(profile, tuple(bundle.engines))
