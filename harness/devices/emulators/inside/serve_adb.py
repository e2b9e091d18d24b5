"""Runs inside an emulated device, standard library and the ADB daemon only: answers ADB at a port, as a phone does.

`python serve_adb.py OPTIONS`, a JSON object: `daemon` (the folder that holds the daemon's package, called `testing`), `port`,
`address`, `key` (the public key of the only client that may connect), `environment`, `props`. Also the last step of
`user_root.py`. In a QEMU guest it is run by the Python of the bundle, of which the device's shell sees nothing.
"""

from __future__ import annotations

import asyncio
import encodings.idna  # noqa: F401 - sockets ask for it at their first use, when its file may be out of reach
import importlib
import json
import pkgutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def load_daemon(folder: str) -> ModuleType:
    """The daemon's package with all its modules, for they cannot be found any more in another root. TLS is not used."""
    sys.path.insert(0, folder)
    package = importlib.import_module("testing")
    for module in pkgutil.iter_modules(package.__path__):
        if module.name not in ("__main__", "tls"):
            importlib.import_module(f"testing.{module.name}")
    return package


def serve(daemon: ModuleType, options: dict[str, Any]) -> None:
    """Answer until killed."""

    async def run() -> None:
        device = daemon.AdbDaemon(
            daemon.DaemonOptions(
                root=Path("/"),
                shell_prefix=("/bin/sh",),
                environment=options["environment"],
                keys=(options["key"],),
                props=options["props"],
            )
        )
        await device.start(options["port"], options["address"])
        await asyncio.Event().wait()

    asyncio.run(run())


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    serve(load_daemon(given["daemon"]), given)
