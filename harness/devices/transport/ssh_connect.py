"""Opening one SSH connection, safely: host keys only from known_hosts, keys or an agent for the user, no passwords.

Everything that can go wrong becomes a TransportError or a HostKeyError that says what to do next. Used by `ssh.py` alone.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh

from harness.errors import DeviceError, HostKeyError, TransportError

DEFAULT_PORT = 22
_USUAL_KEYS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "rsa-sha2-512", "rsa-sha2-256")

# A link that brings nothing for that long counts as lost.
KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT = 10.0, 3


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect, as whom, trusting which file."""

    label: str
    host: str
    port: int | None = None
    user: str | None = None
    identity_file: str | None = None
    known_hosts: str | None = None
    connect_timeout_s: float = 10.0
    keepalive: bool = True

    @property
    def place(self) -> str:
        """Host and port for messages."""
        return f"{self.host}:{self.port or DEFAULT_PORT}"

    @property
    def known_hosts_file(self) -> Path:
        """The file with trusted host keys."""
        return Path(self.known_hosts or "~/.ssh/known_hosts").expanduser()


class _HostKeys:
    """What known_hosts has for a target, and which key the host offered."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.offered: asyncssh.SSHKey | None = None
        self.on_record: list[asyncssh.SSHKey] = []
        path = target.known_hosts_file
        try:
            self._hosts = asyncssh.read_known_hosts(str(path)) if path.exists() else asyncssh.import_known_hosts("")
        except (OSError, ValueError) as error:
            raise HostKeyError(f"{target.label}: cannot read {path}: {error}", remedy="repair that file") from error

    def match(self, host: str, addr: str, port: int | None) -> Any:
        """Called by asyncssh once the address is known."""
        if port in (None, DEFAULT_PORT):
            exact: Sequence[Any] = [self._hosts.match(host, addr, None)]
        else:
            # An entry without a port is trusted too, but if it has another key, this port's key is new, not changed.
            exact = [self._hosts.match(f"[{name}]:{port}", "", None) for name in {host, addr} - {""}]
        self.on_record = [key for found in exact for key in found[0]]
        return self._hosts.match(host, addr, port)

    def client(self) -> asyncssh.SSHClient:
        """A client that notes the key it is asked about, and refuses it."""
        keys = self

        class Client(asyncssh.SSHClient):
            def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
                del host, addr, port
                keys.offered = key
                return False

        return Client()

    def error(self, reason: str) -> HostKeyError:
        """Unknown, changed or revoked: three different things to do."""
        target, path, offered = self._target, self._target.known_hosts_file, self.offered
        if offered is None:
            return HostKeyError(f"{target.label}: the host key of {target.place} is refused: {reason} ({path})")
        shown = f"{_kind(offered)} {offered.get_fingerprint()}"
        name = target.host if target.port in (None, DEFAULT_PORT) else f"[{target.host}]:{target.port}"
        port = "" if target.port in (None, DEFAULT_PORT) else f"-p {target.port} "
        add = (
            f"compare it with the one the device itself shows (`ssh-keygen -lf /etc/ssh/ssh_host_{_kind(offered)}_key.pub`);"
            f" if they are equal, `ssh-keyscan {port}-t {_kind(offered)} {target.host} >> {path}`"
        )
        if not self.on_record:
            return HostKeyError(
                f"{target.label}: the host key of {target.place} is unknown: {path} has none for it, it offers {shown}",
                remedy=add,
            )
        known = ", ".join(sorted({f"{_kind(key)} {key.get_fingerprint()}" for key in self.on_record}))
        return HostKeyError(
            f"{target.label}: the host key of {target.place} has CHANGED: it offers {shown}, {path} has {known};"
            " the device was set up anew, or another machine answers in its place",
            remedy=f"if you know why, remove the old key with `ssh-keygen -R '{name}' -f {path}`, then {add}",
        )


def _kind(key: asyncssh.SSHKey) -> str:
    """The short name of a key's type, as ssh-keyscan takes it."""
    name = key.get_algorithm()
    return {"ssh-ed25519": "ed25519", "ssh-rsa": "rsa", "ssh-ed448": "ed448"}.get(
        name, "ecdsa" if name.startswith("ecdsa") else name
    )


def _options(target: Target, keys: _HostKeys) -> dict[str, Any]:
    options: dict[str, Any] = {
        "host": target.host,
        "known_hosts": keys.match,
        "client_factory": keys.client,
        "preferred_auth": "publickey",
        "password_auth": False,
        "kbdint_auth": False,
        "gss_auth": False,
        "gss_kex": False,
        # First, as most CPUs have instructions for it: through asyncssh it sends a third faster than ChaCha20.
        "encryption_algs": "^aes128-gcm@openssh.com,aes256-gcm@openssh.com",
        "compression_algs": "none",  # weights do not compress, and a board's CPU is being measured
        "keepalive_interval": KEEPALIVE_INTERVAL_S if target.keepalive else 0,
        "keepalive_count_max": KEEPALIVE_COUNT,
        "connect_timeout": target.connect_timeout_s,
        "login_timeout": target.connect_timeout_s,
        "agent_forwarding": False,
    }
    if target.port is not None:
        options["port"] = target.port
    if target.user is not None:
        options["username"] = target.user
    if target.identity_file is not None:
        options["client_keys"] = [str(Path(target.identity_file).expanduser())]
    return options


async def connect(target: Target) -> asyncssh.SSHClientConnection:
    """Connect and log in within `connect_timeout_s`. Raises HostKeyError or TransportError."""
    keys = _HostKeys(target)
    try:
        async with asyncio.timeout(target.connect_timeout_s):
            try:
                return await asyncssh.connect(**_options(target, keys))
            except (asyncssh.KeyExchangeFailed, asyncssh.ConnectionLost, ConnectionResetError):
                # With a key on record only its type is asked for, and a host that has none of it ends the talk; without one
                # every type there is, and Dropbear ends it at so long a list. Asked for the usual ones, a host shows its key.
                if keys.offered is None:
                    keys.offered = await asyncssh.get_server_host_key(
                        target.host, target.port or (), server_host_key_algs=_USUAL_KEYS
                    )
                    if keys.offered is not None and keys.offered not in keys.on_record:
                        raise keys.error("its key is not the one on record") from None
                raise
    except asyncssh.HostKeyNotVerifiable as error:
        raise keys.error(error.reason) from None
    except (OSError, asyncssh.Error, ValueError) as error:  # ValueError: keys and ~/.ssh/config that cannot be read
        raise connect_error(target, error) from error


def connect_error(target: Target, error: Exception) -> DeviceError:
    """What went wrong while connecting, in words, with what to do next."""
    place, label = target.place, target.label
    if isinstance(error, asyncssh.PermissionDenied):
        user = target.user or "your user name"
        return TransportError(
            f"{label}: {place} refused to log in: {error.reason}",
            remedy=f"put your public key there (`ssh-copy-id`), check 'user' ({user}) and 'identity_file', or start ssh-agent",
        )
    if isinstance(error, (asyncssh.KeyImportError, asyncssh.KeyEncryptionError)):
        return TransportError(
            f"{label}: cannot use the key {target.identity_file}: {error}",
            remedy="check 'identity_file'; a key with a passphrase belongs into ssh-agent (`ssh-add`)",
        )
    if isinstance(error, FileNotFoundError):
        return TransportError(
            f"{label}: there is no key file {target.identity_file}",
            remedy="check 'identity_file' in the device profile",
        )
    if isinstance(error, TimeoutError):
        return TransportError(
            f"{label}: no answer from {place} within {target.connect_timeout_s:g} s",
            remedy="check that the device is on and reachable, or raise 'connect_timeout_s'",
            transient=True,
        )
    if isinstance(error, ConnectionRefusedError):
        return TransportError(
            f"{label}: {place} refuses connections",
            remedy="check 'port', and that an SSH server runs on the device",
            transient=True,
        )
    if isinstance(error, socket.gaierror):
        return TransportError(
            f"{label}: the name {target.host} cannot be resolved: {error.strerror}",
            remedy="check 'host' in the device profile",
            transient=error.errno == socket.EAI_AGAIN,
        )
    words = error.reason if isinstance(error, asyncssh.DisconnectError) else str(error)
    return TransportError(
        f"{label}: cannot connect to {place}: {words or type(error).__name__}",
        remedy="check 'host' and 'port', that the device is on, and that an SSH server answers there",
        transient=not isinstance(error, ValueError),
    )
