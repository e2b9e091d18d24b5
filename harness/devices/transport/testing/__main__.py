"""Run the test device by itself: `python -m harness.devices.transport.testing --port 16555 --root DIR --chroot`."""

from __future__ import annotations

import argparse
import asyncio
import shlex
import signal
import sys
from pathlib import Path

from .daemon import AdbDaemon
from .faults import Fault, parse_fault
from .options import FEATURES, OLD_FEATURES, DaemonOptions, chroot_prefix
from .wire import VERSION_CHECKSUM, VERSION_SKIP_CHECKSUM

EPILOG = """\
Faults: drop, stall, truncate (where=push|pull|shell|any after_bytes=N times=N; stall also duration_s=X), unauthorized,
offline, no-space (after_bytes=N), slow (bytes_per_s=X latency_s=X), reboot (down_s=X).
With --control, each line of standard input is a fault, or `clear`, or `accept` (tap "Allow"); its end stops the device.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="adb test device", description=__doc__, epilog=EPILOG)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--port", type=int, default=0, help="TCP port; 0 takes a free one (default)")
    add("--address", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--root", type=Path, default=Path("/"), help="folder that file transfers see as /")
    add("--shell-prefix", metavar="ARGV", help="argv before -c COMMAND, quoted as for a shell (default: /bin/sh)")
    add("--chroot", action="store_true", help="run commands inside --root, with its /bin/sh; needs root")
    add("--uid", type=int, help="user of file transfers, and of commands with --chroot; needs root")
    add("--env", action="append", default=[], metavar="KEY=VALUE", help="environment of commands; repeatable")
    add("--prop", action="append", default=[], metavar="KEY=VALUE", help="property in the greeting; repeatable")
    add("--serial", default="", help="serial in the greeting")
    add("--key", type=Path, action="append", metavar="adbkey.pub", help="let only this key in; repeatable")
    add("--accept-new-keys", action="store_true", help="ask for a key, and take any")
    add("--tls", action="store_true", help="ask for TLS, as wireless debugging does; needs --key")
    add("--old", action="store_true", help="play a device of before Android 7: no shell v2, checksums")
    add("--children-survive", action="store_true", help="hang up on the shell only, as a real device does")
    add("--fault", action="append", default=[], type=_fault, metavar="FAULT", help="fault to start with; repeatable")
    add("--control", action="store_true", help="take faults from standard input")
    return parser


def _fault(text: str) -> Fault:
    try:
        return parse_fault(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _pairs(parser: argparse.ArgumentParser, texts: list[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            parser.error(f"{text!r} is not KEY=VALUE")
        pairs[key] = value
    return pairs


def read_options(argv: list[str] | None = None) -> tuple[argparse.Namespace, DaemonOptions]:
    """The command line, and the device it describes. Exits with 2 when it makes no sense."""
    parser = _parser()
    given = parser.parse_args(argv)
    if given.tls and not given.key:
        parser.error("--tls needs --key")
    if given.chroot and given.shell_prefix:
        parser.error("--chroot and --shell-prefix exclude each other")
    prefix = tuple(shlex.split(given.shell_prefix)) if given.shell_prefix else ("/bin/sh",)
    if given.chroot:
        prefix = chroot_prefix(given.root, uid=given.uid)
    try:
        keys = tuple(path.read_text(encoding="utf-8") for path in given.key or ())
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    options = DaemonOptions(
        root=given.root.resolve(),
        shell_prefix=prefix,
        environment=_pairs(parser, given.env),
        uid=given.uid,
        serial=given.serial,
        props=_pairs(parser, given.prop),
        features=OLD_FEATURES if given.old else FEATURES,
        version=VERSION_CHECKSUM if given.old else VERSION_SKIP_CHECKSUM,
        keys=keys if given.key or given.accept_new_keys else None,
        accept_new_keys=given.accept_new_keys,
        tls=given.tls,
        children_survive=given.children_survive,
    )
    return given, options


async def _obey(daemon: AdbDaemon, line: str) -> None:
    if line == "clear":
        await daemon.clear()
    elif line == "accept":
        await daemon.accept_keys()
    elif line:
        try:
            await daemon.inject(parse_fault(line))
        except ValueError as error:
            sys.stderr.write(f"{error}\n")


async def _control(daemon: AdbDaemon) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        await _obey(daemon, line.decode("utf-8", "replace").strip())


async def _run(given: argparse.Namespace, options: DaemonOptions) -> None:
    daemon = AdbDaemon(options)
    await daemon.start(given.port, given.address)
    for fault in given.fault:
        await daemon.inject(fault)
    sys.stdout.write(f"listening on {given.address}:{daemon.port}\n")
    sys.stdout.flush()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    waits = [asyncio.ensure_future(stopped.wait())]
    if given.control:
        waits.append(asyncio.ensure_future(_control(daemon)))  # type: ignore[arg-type]  # only waited for
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for task in waits:
        task.cancel()
    await daemon.stop()


def main(argv: list[str] | None = None) -> int:
    """Run until SIGTERM, Ctrl-C or, with --control, the end of standard input."""
    given, options = read_options(argv)
    try:
        asyncio.run(_run(given, options))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
