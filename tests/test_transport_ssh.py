"""The SSH transport against a real sshd on loopback: the contract, host keys, login, lost connections."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sshd import Sshd, free_port, make_key, require_sshd
from transport_contract import CONTRACT, gone

from harness.devices.transport import Transport, open_transport
from harness.errors import HostKeyError, TransportError

pytestmark = pytest.mark.ssh


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Transport]:
    require_sshd()
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    server.start()
    server.trust()
    with open_transport(server.profile(python=sys.executable)) as transport:
        yield transport
    server.stop()


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_contract(check: Callable[[Transport, Path], None], shared: Transport, tmp_path: Path) -> None:
    check(shared, tmp_path)


def test_files_travel_without_sftp_and_sha256sum(tmp_path: Path) -> None:
    require_sshd()
    server = Sshd(tmp_path, sftp=False)
    server.start()
    server.trust()
    with open_transport(server.profile(python=sys.executable)) as transport:
        transport._has_sha256sum = False  # type: ignore[attr-defined]
        for name in ("files_travel_unharmed", "a_missing_file_cannot_be_pulled", "an_unwritable_place_is_named"):
            folder = tmp_path / name
            folder.mkdir()
            next(check for check in CONTRACT if check.__name__ == name)(transport, folder)
        assert transport._has_sftp is False  # type: ignore[attr-defined]
    server.stop()


@pytest.mark.quiet
def test_one_connection_serves_all(sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    with open_transport(sshd.profile()) as transport:
        for index in range(5):
            transport.run(["true"], timeout=10)
            transport.push(tmp_path / "file", str(tmp_path / "work" / str(index)))
        # Small questions go through one long-lived shell: neither a connection (0.25 s) nor login scripts each time.
        started = time.monotonic()
        for _ in range(20):
            transport.sha256([str(tmp_path / "work" / "1")])
        assert (time.monotonic() - started) / 20 < 0.1
    assert (sshd.folder / "sshd.log").read_text(encoding="utf-8").count("Accepted publickey") == 1


def test_an_unknown_host_key_is_refused(sshd: Sshd) -> None:
    sshd.known_hosts.write_text("", encoding="utf-8")
    with pytest.raises(HostKeyError, match="is unknown") as caught:
        open_transport(sshd.profile())
    assert fingerprint(sshd, "ed25519") in caught.value.message
    assert caught.value.remedy is not None
    assert f"ssh-keyscan -p {sshd.port} -t ed25519 127.0.0.1 >> {sshd.known_hosts}" in caught.value.remedy
    assert not caught.value.transient
    sshd.known_hosts.unlink()
    with pytest.raises(HostKeyError, match="is unknown"):
        open_transport(sshd.profile())


def test_the_remedy_for_an_unknown_key_works(sshd: Sshd) -> None:
    scanned = subprocess.run(
        ["ssh-keyscan", "-p", str(sshd.port), "-t", "ed25519", "127.0.0.1"], capture_output=True, check=True
    )
    sshd.known_hosts.write_bytes(scanned.stdout)
    with open_transport(sshd.profile()) as transport:
        assert transport.run(["true"], timeout=10).returncode == 0


def fingerprint(sshd: Sshd, kind: str) -> str:
    done = subprocess.run(
        ["ssh-keygen", "-lf", str(sshd.folder / f"host_{kind}.pub")], capture_output=True, check=True, text=True
    )
    return done.stdout.split()[1]


def test_a_changed_host_key_is_refused(sshd: Sshd, tmp_path: Path) -> None:
    old = fingerprint(sshd, "ed25519")
    other = make_key(tmp_path / "other")
    sshd.known_hosts.write_text(f"[127.0.0.1]:{sshd.port} {other}\n", encoding="utf-8")
    with pytest.raises(HostKeyError, match="CHANGED") as caught:
        open_transport(sshd.profile())
    assert old in caught.value.message
    assert caught.value.message.count("SHA256:") == 2
    assert caught.value.remedy is not None
    assert f"ssh-keygen -R '[127.0.0.1]:{sshd.port}'" in caught.value.remedy


def test_a_key_of_another_type_counts_as_changed(sshd: Sshd, tmp_path: Path) -> None:
    other = make_key(tmp_path / "other", "ecdsa")
    sshd.known_hosts.write_text(f"[127.0.0.1]:{sshd.port} {other}\n", encoding="utf-8")
    with pytest.raises(HostKeyError, match="CHANGED") as caught:
        open_transport(sshd.profile())
    assert fingerprint(sshd, "ed25519") in caught.value.message


def test_any_of_the_hosts_keys_may_be_the_known_one(tmp_path: Path) -> None:
    require_sshd()
    server = Sshd(tmp_path)
    server.host_public["ecdsa"] = make_key(tmp_path / "host_ecdsa", "ecdsa")
    server.start()
    for kind in ("ed25519", "ecdsa"):
        server.trust(kind)
        with open_transport(server.profile()) as transport:
            assert transport.run(["true"], timeout=10).returncode == 0
    server.stop()


def test_another_port_of_a_known_host_is_unknown_not_changed(sshd: Sshd, tmp_path: Path) -> None:
    sshd.known_hosts.write_text(f"127.0.0.1 {make_key(tmp_path / 'other')}\n", encoding="utf-8")
    with pytest.raises(HostKeyError, match="is unknown"):
        open_transport(sshd.profile())


def test_a_revoked_key_is_refused(sshd: Sshd) -> None:
    sshd.known_hosts.write_text(f"@revoked * {sshd.host_public['ed25519']}\n", encoding="utf-8")
    with pytest.raises(HostKeyError):
        open_transport(sshd.profile())


def test_a_damaged_known_hosts_file_is_named(sshd: Sshd) -> None:
    sshd.known_hosts.write_text("nonsense\n", encoding="utf-8")
    with pytest.raises(HostKeyError, match="known_hosts"):
        open_transport(sshd.profile())


def test_a_refused_login_says_what_to_do(sshd: Sshd, tmp_path: Path) -> None:
    make_key(tmp_path / "stranger")
    with pytest.raises(TransportError, match="refused to log in") as caught:
        open_transport(sshd.profile(identity_file=str(tmp_path / "stranger")))
    assert not caught.value.transient
    assert "ssh-copy-id" in str(caught.value)


@pytest.mark.parametrize("content", [None, "not a key"])
def test_a_bad_identity_file_is_named(sshd: Sshd, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "bad"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(TransportError, match="bad"):
        open_transport(sshd.profile(identity_file=str(path)))


@pytest.mark.quiet
def test_a_closed_port_fails_at_once(sshd: Sshd) -> None:
    started = time.monotonic()
    with pytest.raises(TransportError, match="refuses connections") as caught:
        open_transport(sshd.profile(port=free_port()))
    assert caught.value.transient
    assert time.monotonic() - started < 2


@pytest.mark.quiet
def test_a_silent_host_fails_in_time(sshd: Sshd) -> None:
    with contextlib.closing(socket.socket()) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        with pytest.raises(TransportError, match="no answer") as caught:
            open_transport(sshd.profile(port=silent.getsockname()[1], connect_timeout_s=0.5))
        assert caught.value.transient
        assert time.monotonic() - started < 2


def test_a_name_that_does_not_exist(sshd: Sshd) -> None:
    with pytest.raises(TransportError, match=r"nowhere\.invalid"):
        open_transport(sshd.profile(host="nowhere.invalid"))


def test_a_lost_connection_is_transient_and_ends_the_remote_side(sshd: Sshd, tmp_path: Path) -> None:
    with open_transport(sshd.profile()) as transport:
        process = transport.start(["sh", "-c", "echo $$; cat > /dev/null; echo over >> " + str(tmp_path / "eof")])
        pid = int(process.read_line(10) or b"0")
        sshd.drop_connections()
        with pytest.raises(TransportError, match="lost the connection") as caught:
            process.read_line(20)
        assert caught.value.transient
        process.kill()
        with pytest.raises(TransportError) as caught:
            transport.run(["true"], timeout=10)
        assert caught.value.transient
        with pytest.raises(TransportError):
            transport.sha256(["/etc/hostname"])
        assert gone(pid)
        assert (tmp_path / "eof").read_text(encoding="ascii") == "over\n"
    with open_transport(sshd.profile()) as again:
        assert again.run(["true"], timeout=10).returncode == 0


def test_close_kills_what_runs(sshd: Sshd) -> None:
    transport = open_transport(sshd.profile())
    process = transport.start(["sh", "-c", "trap '' TERM HUP INT PIPE; echo $$; while :; do sleep 0.1; done"])
    pid = int(process.read_line(10) or b"0")
    transport.close()
    transport.close()
    assert gone(pid)


def test_output_of_login_scripts_is_no_output_of_commands(shared: Transport) -> None:
    process = shared.start(["echo", "hello"])
    noisy = type(process).__new__(type(process))
    chunks = [b"Welcome!\nmot", b"d harness-x:12", b"34\nrest", b""]
    noisy.__dict__.update(process.__dict__)
    noisy.read_chunk = lambda _timeout: chunks.pop(0)  # type: ignore[method-assign]
    noisy.read_pid(b"harness-x:", 5)  # type: ignore[attr-defined]
    assert noisy.pid == 1234  # type: ignore[attr-defined]
    assert noisy._early == b"rest"  # type: ignore[attr-defined]
    process.kill()
