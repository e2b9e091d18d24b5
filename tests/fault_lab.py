"""Devices that things happen to: this machine, a real sshd behind a proxy that breaks, and the ADB test daemon.

`bench(kind, folder)` gives a Bench: a profile whose knobs lie in a sysfs of its own, the faults it can play, and what must be
true afterwards. Faults of the way: `drop`, `stall`, `damage`, `slow` (of transfers to the device, after so many bytes);
of the device: `vanish`, `come_back`, `forbid`, `reboot`, `fill`; of the agent: `agent` to kill or stop.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from adbd import make_adb_key
from fake_android import UNTOUCHED, Sysfs
from sshd import Sshd, require_sshd

from harness.devices.preflight import leftovers
from harness.devices.transport.testing import (
    DaemonOptions,
    DropConnection,
    Offline,
    Reboot,
    RunningDaemon,
    SlowLink,
    Stall,
    TruncatePacket,
    Unauthorized,
)
from harness.profiles import DeviceProfile

KNOBS = ("governor", "frequency")
DOWN_S = 1.0
IMPORTING_S = 1.0


def eventually(condition: Callable[[], object], timeout_s: float = 15.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return bool(condition())


class Proxy:
    """TCP to another port, until something breaks. Bytes are counted on the way to the device, over all connections."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._armed: tuple[str, int] | None = None
        self._seen = 0
        self.rate_bytes_s = 0.0
        self._over = threading.Event()
        self._start(self._serve)

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def arm(self, fault: str, after_bytes: int) -> None:
        self._seen, self._armed = 0, (fault, after_bytes)

    def _serve(self) -> None:
        while not self._over.is_set():
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target), timeout=5)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets += [near, far]
            self._start(self._copy, near, far, True)
            self._start(self._copy, far, near, False)

    def _copy(self, source: socket.socket, target: socket.socket, up: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(16384):
                if self.rate_bytes_s:
                    time.sleep(len(data) / self.rate_bytes_s)
                target.sendall(self._strike(data) if up else data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _strike(self, data: bytes) -> bytes:
        """The bytes to pass on. Raises OSError where this connection is to break."""
        self._seen += len(data)
        if self._armed is None or self._seen <= self._armed[1]:
            return data
        (fault, _), self._armed = self._armed, None
        if fault == "damage":
            return data[:-1] + bytes([data[-1] ^ 1])
        if fault == "stall":
            self._over.wait()  # this way carries nothing more, the other stays open
        raise OSError(fault)

    def cut(self) -> None:
        """All connections there are, at once."""
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(10)
        for end in self._sockets:
            end.close()


class Bench:
    """This machine as a device; the others add a way to it."""

    kind = "local"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / "work on it"
        self.sysfs = Sysfs(folder / "sys")
        self._mounted = False

    def profile(self, **changes: object) -> DeviceProfile:
        values: dict[str, object] = {
            "name": "device",
            "transport": "local",
            "python": sys.executable,
            "runtime": "own",
            "work_folder": str(self.work),
            "may_change": KNOBS,
            "environment": {**self.sysfs.environment, "OMP_NUM_THREADS": "1"},
        }
        return DeviceProfile.model_validate(values | self.way() | changes)

    def way(self) -> dict[str, object]:
        return {}

    def close(self) -> None:
        if self._mounted:
            subprocess.run(["umount", "-l", str(self.work)], check=True)

    # -- what is on the device

    def processes(self, word: str = "") -> list[int]:
        """Processes that run in the work folder or name it, and whose command line holds `word`."""
        found = []
        mine = str(self.work).encode()
        for place in Path("/proc").glob("[0-9]*"):
            try:
                command = (place / "cmdline").read_bytes()
                inside = os.fsencode((place / "cwd").readlink()).startswith(mine)
            except OSError:
                continue
            if (inside or (mine in command and b"session_driver" not in command)) and word.encode() in command:
                found.append(int(place.name))
        return found

    def measuring(self) -> bool:
        """Whether an agent has used so much CPU time that it must be measuring: what comes before takes less."""
        ticks = os.sysconf("SC_CLK_TCK")
        for pid in self.processes("agent"):
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
                if (int(fields[11]) + int(fields[12])) / ticks > IMPORTING_S:
                    return True
        return False

    def agent(self, number: signal.Signals) -> None:
        """Send a signal to the agent, once it is at work."""
        assert eventually(self.measuring, 60)
        for pid in self.processes("agent"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def fill(self, size: str) -> None:
        """Make the device's file system that small. Needs root; elsewhere the test is skipped."""
        self.work.mkdir(exist_ok=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(self.work)], capture_output=True, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"no small file system: mounting needs root ({done.stderr.decode().strip()})")
        self._mounted = True

    def assert_clean(self) -> None:
        """No process, no file of the session, no knob, nothing in the journal."""
        assert eventually(lambda: self.processes() == []), self.processes()
        assert eventually(lambda: self.sysfs.cpufreq() == UNTOUCHED), self.sysfs.cpufreq()
        sessions = self.work / "sessions"
        assert not sessions.is_dir() or list(sessions.iterdir()) == []
        assert list(self.work.glob("**/*.part-*")) == []
        assert list(self.work.glob("guardian-*")) == []
        assert leftovers() == []


class SshBench(Bench):
    """A real sshd on loopback, reached through a proxy."""

    kind = "ssh"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        require_sshd()
        place = folder / "sshd"
        place.mkdir()
        self.server = Sshd(place)
        self.server.extra = f'SetEnv "HOME={folder}"'  # whoever runs the tests may have slow login scripts
        self.server.start()
        self.proxy = Proxy(self.server.port)
        key = self.server.host_public["ed25519"]
        self.server.known_hosts.write_text(f"[127.0.0.1]:{self.proxy.port} {key}\n", encoding="utf-8")

    def way(self) -> dict[str, object]:
        known, identity = str(self.server.known_hosts), str(self.server.identity)
        return {
            "transport": "ssh",
            "host": "127.0.0.1",
            "port": self.proxy.port,
            "user": self.server.user,
            "identity_file": identity,
            "known_hosts": known,
            "connect_timeout_s": 3.0,
        }

    def drop(self, after_bytes: int) -> None:
        self.proxy.arm("drop", after_bytes)

    def stall(self, after_bytes: int) -> None:
        self.proxy.arm("stall", after_bytes)

    def damage(self, after_bytes: int) -> None:
        self.proxy.arm("damage", after_bytes)

    def slow(self) -> None:
        self.proxy.rate_bytes_s = 2_000_000

    def cut(self) -> None:
        self.proxy.cut()

    def vanish(self) -> None:
        self.server.drop_connections()
        self.server.stop()

    def come_back(self) -> None:
        self.server.start()

    def forbid(self) -> None:
        (self.server.folder / "authorized_keys").write_text("", encoding="utf-8")
        self.server.drop_connections()

    def reboot(self) -> None:
        """As a device that loses power: everything on it dies at once, and comes back later."""
        self.server.stop()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.proxy.cut()
        threading.Timer(DOWN_S, self.server.start).start()

    def close(self) -> None:
        self.proxy.close()
        self.server.stop()
        super().close()


class AdbBench(Bench):
    """The ADB test daemon: real processes and files behind the real protocol."""

    kind = "adb"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.key, public = make_adb_key(folder)
        self.daemon = RunningDaemon(DaemonOptions(keys=(public,), children_survive=True)).start()

    def way(self) -> dict[str, object]:
        place: dict[str, object] = {"transport": "adb", "host": "127.0.0.1", "port": self.daemon.port}
        return place | {"adb_key": str(self.key), "connect_timeout_s": 3.0}

    def drop(self, after_bytes: int) -> None:
        self.daemon.inject(DropConnection("push", after_bytes))

    def stall(self, after_bytes: int) -> None:
        self.daemon.inject(Stall("push", after_bytes))

    def damage(self, after_bytes: int) -> None:
        self.daemon.inject(TruncatePacket("push", after_bytes))

    def slow(self) -> None:
        self.daemon.inject(SlowLink(bytes_per_s=2_000_000, latency_s=0.002))

    def cut(self) -> None:
        self.daemon.drop_connections()

    def vanish(self) -> None:
        self.daemon.inject(Offline())
        self.daemon.drop_connections()

    def come_back(self) -> None:
        self.daemon.clear()

    def forbid(self) -> None:
        self.daemon.inject(Unauthorized())

    def reboot(self) -> None:
        self.daemon.inject(Reboot(down_s=DOWN_S))

    def close(self) -> None:
        self.daemon.stop()
        super().close()


BENCHES: dict[str, type[Bench]] = {made.kind: made for made in (Bench, SshBench, AdbBench)}


@contextlib.contextmanager
def bench(kind: str, folder: Path) -> Iterator[Bench]:
    """A device of that kind, powered off at the end."""
    made = BENCHES[kind](folder)
    try:
        yield made
    finally:
        made.close()
