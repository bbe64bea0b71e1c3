"""The files by which ``qemu+ssh`` runs a strict ssh: pinned host keys, our key, no questions.

libvirt starts ``ssh`` itself and knows no option for a known_hosts file or a time-out, so its URI
names a wrapper (``command=``) that adds a configuration file of ours. All of it is written by us:

    <directory>/config            options for every host
    <directory>/known_hosts.d/    one file per pinned host
    <directory>/id_ed25519        our key, made by whoever sets the site up
    <directory>/kvmweb-ssh        the wrapper
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import shlex
import tempfile
from pathlib import Path

CONNECT_TIMEOUT_S = 8
ALIVE_INTERVAL_S = 5
ALIVE_COUNT = 3
DEFAULT_PORT = 22
KEY_TYPES = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
)
_BLOB = re.compile(r"[A-Za-z0-9+/]{16,2048}={0,2}\Z", re.ASCII)


class InvalidHostKey(ValueError):  # noqa: N818 - says what happened, as virt.errors do
    """Not the public key of a host, or none at all: an unpinned host is not connected to."""

    field = "ssh_host_key"


def identity(directory: Path) -> Path:
    return directory / "id_ed25519"


def prepare(directory: Path, *, address: str, port: int, host_key: str) -> Path:
    """Write what a connection to this host needs; returns the wrapper. ``address`` and ``port``
    are validated by ``hosts.virt.uri``. InvalidHostKey."""
    lines = known_hosts(address, port, host_key)
    folder = directory / "known_hosts.d"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    # ":" of an IPv6 address stays; the name cannot hold a "/".
    _write(folder / f"{address}_{port}", lines, 0o600)
    _write(directory / "config", _config(directory), 0o600)
    wrapper = directory / "kvmweb-ssh"
    _write(wrapper, _wrapper(directory), 0o700)
    return wrapper


def known_hosts(address: str, port: int, host_key: str) -> str:
    """The lines of known_hosts that pin this host. InvalidHostKey."""
    name = address if port == DEFAULT_PORT else f"[{address}]:{port}"
    return "".join(f"{name} {kind} {blob}\n" for kind, blob in parse_host_keys(host_key))


def parse_host_keys(text: str) -> list[tuple[str, str]]:
    """(type, base64) of each line. Takes ``ssh-keyscan``'s output, known_hosts lines and bare
    ``.pub`` lines; whatever name stands before the key is dropped: the key is pinned to the
    host's own address."""
    keys = []
    for line in text.splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        at = next((index for index, word in enumerate(words[:2]) if word in KEY_TYPES), None)
        if at is None or len(words) <= at + 1 or not _is_key(words[at], words[at + 1]):
            raise InvalidHostKey("not a host key")
        keys.append((words[at], words[at + 1]))
    if not keys:
        raise InvalidHostKey("no host key")
    return keys


def _is_key(kind: str, blob: str) -> bool:
    """The blob begins with its own type's name (RFC 4253, section 6.6)."""
    if not _BLOB.match(blob):
        return False
    try:
        raw = base64.b64decode(blob, validate=True)
    except binascii.Error:
        return False
    return raw.startswith(len(kind).to_bytes(4, "big") + kind.encode())


def _config(directory: Path) -> str:
    """For every host, since the wrapper is used for nothing else."""
    options = {
        "UserKnownHostsFile": f'"{directory}/known_hosts.d/%h_%p"',
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "BatchMode": "yes",
        "IdentitiesOnly": "yes",
        "ConnectTimeout": str(CONNECT_TIMEOUT_S),
        "ServerAliveInterval": str(ALIVE_INTERVAL_S),
        "ServerAliveCountMax": str(ALIVE_COUNT),
        "ControlMaster": "no",
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "PermitLocalCommand": "no",
    }
    return "Host *\n" + "".join(f"    {key} {value}\n" for key, value in options.items())


def _wrapper(directory: Path) -> str:
    return f'#!/bin/sh\nexec ssh -F {shlex.quote(str(directory / "config"))} "$@"\n'


def _write(path: Path, text: str, mode: int) -> None:
    """Whole or not at all, and only when it differs: another process may be starting ssh now."""
    if path.exists() and path.read_text() == text:
        return
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "w") as file:
        file.write(text)
    Path(temporary).chmod(mode)
    Path(temporary).replace(path)
