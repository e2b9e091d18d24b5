"""AOSP's adbd where nobody else can reach it: it listens on all addresses and asks nobody for a key, so it gets a network of
its own, and a socket of the test's is the only way in. `scripts/real-adbd` fetches it.

Run as a program inside the new namespaces, with the number of that socket and the folder that is the device's root.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ondevice-harness/adbd-34"
ADBD = "usr/lib/android-sdk/platform-tools/adbd"
LIBRARIES = ("usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/android")
PORT = 6000
CHROOT = shutil.which("chroot", path="/usr/sbin:/usr/bin:/sbin:/bin") or "chroot"
# Of a root: a /proc of its own, the host's terminals and the few devices a process needs.
MOUNTS = "mount -t proc proc proc && mount --rbind /dev dev"
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


def missing() -> str | None:
    """What is missing to run it; None when nothing is."""
    if os.getuid() != 0 or shutil.which("unshare") is None:
        return "AOSP's adbd needs root and unshare"
    if not (CACHE / "ready").exists():
        return "AOSP's adbd is missing: run scripts/real-adbd"
    return None


@contextlib.contextmanager
def running(root: Path) -> Iterator[int]:
    """A running adbd whose root is that folder, with a process table of its own unless that is `/`; the port."""
    own = [] if root == Path("/") else ["--mount", "--pid", "--fork", "--kill-child"]
    with socket.create_server(("127.0.0.1", 0)) as listener, (CACHE / "log").open("wb") as log:
        argv = ["unshare", "--net", *own, sys.executable, __file__, str(listener.fileno()), str(root)]
        process = subprocess.Popen(argv, pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield listener.getsockname()[1]
        finally:
            process.send_signal(signal.SIGKILL if own else signal.SIGTERM)
            process.wait(10)


def _raise_loopback() -> None:
    with socket.socket() as probe:
        request = bytearray(struct.pack("16sh22x", b"lo", 0))
        fcntl.ioctl(probe, _SIOCGIFFLAGS, request)
        flags = struct.unpack_from("h", request, 16)[0]
        fcntl.ioctl(probe, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))


def _start(root: Path) -> subprocess.Popen[bytes]:
    if root == Path("/"):  # another distribution's program, with its own loader and libraries
        loader = CACHE / "usr/lib64/ld-linux-x86-64.so.2"
        libraries = ":".join(str(CACHE / folder) for folder in LIBRARIES)
        argv = [str(loader), "--library-path", libraries, str(CACHE / ADBD)]
        return subprocess.Popen(argv, env={"PATH": os.environ["PATH"], "ADBD_PORT": str(PORT)})
    subprocess.run(["/bin/sh", "-c", MOUNTS], cwd=root, check=True)
    return subprocess.Popen([CHROOT, str(root), f"/{ADBD}"], env={"PATH": "/bin", "ADBD_PORT": str(PORT)})


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 20):
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _serve(listener: socket.socket) -> None:
    while True:
        client, _ = listener.accept()
        try:
            device = socket.create_connection(("127.0.0.1", PORT))
        except OSError:
            client.close()  # it does not listen yet
            continue
        for end in (client, device):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for pair in ((client, device), (device, client)):
            threading.Thread(target=_pump, args=pair, daemon=True).start()


def main() -> None:
    _raise_loopback()
    adbd = _start(Path(sys.argv[2]))
    signal.signal(signal.SIGTERM, lambda *_: (adbd.kill(), os._exit(0)))
    _serve(socket.socket(fileno=int(sys.argv[1])))


if __name__ == "__main__":
    main()
