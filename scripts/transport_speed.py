"""How fast the transports are beside the tools everybody has: files and small commands over ADB and over SSH, as ratios.

    python scripts/transport_speed.py --mb 100 --commands 50 --rounds 7 --out results/fidelity

All in one run on loopback, in rounds, in random order within a round: our ADB transport (directly, and through the adb
server) against the `adb` program, our SSH transport against OpenSSH's sftp, scp and ssh. Ours hash every file on both
sides; the others do not, so that "verified" gives OpenSSH the same work. The ADB device is the harness's test daemon in a
process of its own, or with --adbd HOST:PORT whatever listens there (a real adbd, whose files must be this machine's).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from adbd import AdbServer  # noqa: E402
from sshd import Sshd  # noqa: E402

from harness.devices.transport import Transport, open_transport  # noqa: E402
from harness.profiles import DeviceProfile  # noqa: E402

Contender = Callable[[], None]


def quietly(argv: list[str], stdin: bytes = b"", env: dict[str, str] | None = None) -> None:
    subprocess.run(argv, input=stdin, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True, env=env)


def rounds(contenders: dict[str, Contender], count: int, seed: int) -> dict[str, list[float]]:
    """Seconds per contender and round; one warm-up round is dropped."""
    order = random.Random(seed)  # noqa: S311
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for index in range(count + 1):
        names = list(contenders)
        order.shuffle(names)
        for name in names:
            started = time.perf_counter()
            contenders[name]()
            if index > 0:
                times[name].append(time.perf_counter() - started)
    return times


def ratio(times: dict[str, list[float]], ours: str, theirs: str) -> float:
    """The median over the rounds of our time divided by theirs."""
    return round(statistics.median(a / b for a, b in zip(times[ours], times[theirs], strict=True)), 3)


def many(transport: Transport, count: int) -> Contender:
    def run() -> None:
        for _ in range(count):
            assert transport.run(["true"], timeout=30).returncode == 0  # noqa: S101

    return run


def repeated(argv: list[str], count: int, env: dict[str, str] | None = None) -> Contender:
    def run() -> None:
        for _ in range(count):
            quietly(argv, env=env)

    return run


@contextlib.contextmanager
def adb_device(given: str | None) -> Iterator[tuple[str, int]]:
    if given is not None:
        host, _, port = given.rpartition(":")
        yield host, int(port)
        return
    from sshd import free_port

    port = free_port()
    argv = [sys.executable, "-m", "harness.devices.transport.testing", "--port", str(port)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, cwd=ROOT) as daemon:
        try:
            yield "127.0.0.1", port
        finally:
            daemon.terminate()


def wait_for(profile: DeviceProfile) -> Transport:
    for attempt in range(50):
        try:
            return open_transport(profile)
        except Exception:
            if attempt == 49:
                raise
            time.sleep(0.1)
    raise AssertionError


def measure_adb(folder: Path, source: Path, args: argparse.Namespace) -> dict[str, Any]:
    server = AdbServer(folder / "adb-home")
    with adb_device(args.adbd) as (host, port):
        serial = f"{host}:{port}"
        base = {"name": "direct", "transport": "adb", "host": host, "port": port}
        direct = wait_for(DeviceProfile.model_validate(base))
        server.run("connect", serial)
        through = open_transport(
            DeviceProfile.model_validate(
                base | {"name": "server", "adb_route": "server", "adb_server": f"127.0.0.1:{server.port}"}
            )
        )
        adb = [server.binary, "-s", serial]
        target = f"{folder}/there"
        try:
            push = rounds(
                {
                    "adb": lambda: quietly([*adb, "push", str(source), target], env=server.environment),
                    "direct": lambda: direct.push(source, target),
                    "server": lambda: through.push(source, target),
                },
                args.rounds,
                args.seed,
            )
            commands = rounds(
                {
                    "adb": repeated([*adb, "shell", "true"], args.commands, server.environment),
                    "direct": many(direct, args.commands),
                    "server": many(through, args.commands),
                },
                args.rounds,
                args.seed,
            )
            version = server.run("version").stdout.decode().splitlines()[1]
        finally:
            direct.close()
            through.close()
            server.stop()
    return {
        "adb": version,
        "device": (args.adbd and "adbd at --adbd") or "the harness's test daemon",
        "push_s": push,
        "commands_s": commands,
        "push_time_direct_over_adb": ratio(push, "direct", "adb"),
        "push_time_server_over_adb": ratio(push, "server", "adb"),
        "command_time_direct_over_adb": ratio(commands, "direct", "adb"),
        "command_time_server_over_adb": ratio(commands, "server", "adb"),
        "goal": "command_time_direct_over_adb <= 0.5",
    }


def measure_ssh(folder: Path, source: Path, args: argparse.Namespace) -> dict[str, Any]:
    server = Sshd(folder)
    server.start()
    server.trust()
    config = folder / "ssh_config"
    config.write_text(
        f"Host loopback\n HostName 127.0.0.1\n Port {server.port}\n User {server.user}\n IdentityFile {server.identity}\n"
        f" UserKnownHostsFile {server.known_hosts}\n BatchMode yes\n LogLevel ERROR\n",
        encoding="utf-8",
    )
    target = f"{folder}/there"
    sftp = ["sftp", "-q", "-b", "-", "-F", str(config), "loopback"]
    ssh = ["ssh", "-F", str(config)]
    shared = ["-o", f"ControlPath={folder}/control", "-o", "ControlMaster=auto", "-o", "ControlPersist=60"]

    def put() -> None:
        quietly(sftp, f"put {source} {target}\n".encode())

    def put_and_verify() -> None:
        quietly(["sha256sum", str(source)])
        put()
        quietly([*ssh, "loopback", "sha256sum", target])

    try:
        with open_transport(server.profile()) as transport:
            push = rounds(
                {
                    "sftp": put,
                    "scp": lambda: quietly(["scp", "-q", "-F", str(config), str(source), f"loopback:{target}"]),
                    "sftp verified": put_and_verify,
                    "ours": lambda: transport.push(source, target),
                },
                args.rounds,
                args.seed,
            )
            commands = rounds(
                {
                    "ssh shared": repeated([*ssh, *shared, "loopback", "true"], args.commands),
                    "ours": many(transport, args.commands),
                },
                args.rounds,
                args.seed,
            )
    finally:
        subprocess.run([*ssh, *shared, "-O", "exit", "loopback"], capture_output=True, check=False)
        server.stop()
    version = subprocess.run(["ssh", "-V"], capture_output=True, check=True).stderr.decode().strip()
    return {
        "ssh": version,
        "push_s": push,
        "commands_s": commands,
        "push_speed_over_sftp": round(1 / ratio(push, "ours", "sftp"), 3),
        "push_speed_over_scp": round(1 / ratio(push, "ours", "scp"), 3),
        "push_speed_over_sftp_verified": round(1 / ratio(push, "ours", "sftp verified"), 3),
        "command_time_over_shared_ssh": ratio(commands, "ours", "ssh shared"),
        "goal": "push_speed_over_sftp >= 0.8",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--mb", type=float, default=100.0)
    parser.add_argument("--commands", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--adbd", metavar="HOST:PORT")
    parser.add_argument("--only", choices=("adb", "ssh"))
    parser.add_argument("--out", type=Path, default=Path("results/fidelity"))
    args = parser.parse_args()
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    result: dict[str, Any] = {
        "date": date,
        "cpus": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "mb": args.mb,
        "commands": args.commands,
        "rounds": args.rounds,
        "seed": args.seed,
    }
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "source"
        source.write_bytes(os.urandom(round(args.mb * 1e6)))
        for kind, measure in (("adb", measure_adb), ("ssh", measure_ssh)):
            if args.only in (None, kind):
                folder = Path(name) / kind
                folder.mkdir()
                result[kind] = measure(folder, source, args)
                shown = {key: value for key, value in result[kind].items() if not key.endswith("_s")}
                print(json.dumps({kind: shown}, indent=2), flush=True)
    result["load_after"] = round(os.getloadavg()[0], 2)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{date}-transport-speed.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
