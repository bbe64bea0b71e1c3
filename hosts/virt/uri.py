"""libvirt URIs, built from validated fields. Nobody types one: a libvirt URI can run commands on
our side (``qemu+ext://?command=``, ``qemu+ssh://?command=``).

https://libvirt.org/uri.html
"""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from urllib.parse import quote

from hosts.virt import ssh

LOCAL = "qemu:///system"
DEFAULT_SSH_PORT = 22
TLS_FILES = ("cacert.pem", "clientcert.pem", "clientkey.pem")  # libvirt's names
# Characters that end a path or begin another part of a URI are refused, not escaped.
_SOCKET_PATH = re.compile(r"/[A-Za-z0-9._/+@-]{1,106}\Z", re.ASCII)
_HOSTNAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    r"(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*\.?\Z",
    re.ASCII,
)
_USERNAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}\Z", re.ASCII)


class InvalidUri(ValueError):  # noqa: N818 - says what happened, as virt.errors do
    """A field that cannot be part of a URI; ``field`` says which."""

    def __init__(self, field: str) -> None:
        super().__init__(f"not usable as {field}")
        self.field = field


def build(
    *,
    transport: str,
    socket_path: str = "",
    address: str = "",
    port: int | None = None,
    username: str = "",
    ssh_host_key: str = "",
    ssh_directory: Path | None = None,
) -> str:
    """``transport``: local | unix | ssh | tls. For ssh, the files that pin the host's key are
    written to ``ssh_directory`` (default ``$KVMWEB_VAR/ssh``). InvalidUri."""
    match transport:
        case "local":
            return LOCAL
        case "unix":
            return f"qemu+unix:///system?socket={quote(checked_socket_path(socket_path), safe='/')}"
        case "ssh":
            directory = ssh_directory or default_ssh_directory()
            wrapper = ssh.prepare(
                directory,
                address=checked_address(address),
                port=checked_port(port) or DEFAULT_SSH_PORT,
                host_key=ssh_host_key,
            )
            keyfile = ssh.identity(directory)
            key = f"&keyfile={quote(str(keyfile), safe='/')}" if keyfile.exists() else ""
            return (
                f"qemu+ssh://{authority(address, port, username)}/system"
                f"?no_tty=1&command={quote(str(wrapper), safe='/')}{key}"
            )
        case "tls":
            return f"qemu+tls://{authority(address, port, '')}/system{_certificates()}"
        case _:
            raise InvalidUri("transport")


def default_ssh_directory() -> Path:
    return Path(os.environ.get("KVMWEB_VAR", "var")).resolve() / "ssh"


def default_tls_directory() -> Path:
    return Path(os.environ.get("KVMWEB_VAR", "var")).resolve() / "tls"


def _certificates() -> str:
    """The site's own, where all of them are there; else libvirt looks where it always does."""
    directory = default_tls_directory()
    if all((directory / name).is_file() for name in TLS_FILES):
        return f"?pkipath={quote(str(directory), safe='/')}"
    return ""


def checked_socket_path(path: str) -> str:
    parts = path.split("/")
    if not _SOCKET_PATH.match(path) or ".." in parts or "." in parts:
        raise InvalidUri("socket_path")
    return path


def checked_address(address: str) -> str:
    """A host name or an IP address, without brackets, port or user."""
    if is_ipv6(address):
        return address
    if not _HOSTNAME.match(address):
        raise InvalidUri("address")
    return address


def is_ipv6(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).version == 6 and "%" not in address
    except ValueError:
        return False


def checked_port(port: int | None) -> int | None:
    if port is not None and (isinstance(port, bool) or not 1 <= port <= 65535):
        raise InvalidUri("port")
    return port


def checked_username(username: str) -> str:
    if not _USERNAME.match(username):
        raise InvalidUri("username")
    return username


def migration_uri(address: str) -> str:
    """Where a host takes guests that come from another."""
    return f"tcp://{authority(address, None, '')}"


def authority(address: str, port: int | None, username: str) -> str:
    address = checked_address(address)
    host = f"[{address}]" if is_ipv6(address) else address
    user = f"{checked_username(username)}@" if username else ""
    return f"{user}{host}" + (f":{checked_port(port)}" if port is not None else "")
