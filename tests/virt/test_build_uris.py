"""A URI is built from fields; no field can smuggle in a parameter, a command or an option."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hosts.virt import ssh, uri

BLOB = base64.b64encode(b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20" + bytes(32)).decode()
HOST_KEY = f"ssh-ed25519 {BLOB}"


def test_local() -> None:
    assert uri.build(transport="local") == "qemu:///system"


def test_unix() -> None:
    built = uri.build(transport="unix", socket_path="/run/kvmweb-lab/ab-1/libvirt-sock")
    assert built == "qemu+unix:///system?socket=/run/kvmweb-lab/ab-1/libvirt-sock"


def test_tls() -> None:
    assert uri.build(transport="tls", address="kvm1.example.org") == (
        "qemu+tls://kvm1.example.org/system"
    )
    assert uri.build(transport="tls", address="2001:db8::1", port=16515) == (
        "qemu+tls://[2001:db8::1]:16515/system"
    )


def test_tls_with_the_sites_own_certificates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVMWEB_VAR", str(tmp_path))
    (tmp_path / "tls").mkdir()
    for name in uri.TLS_FILES:
        built = uri.build(transport="tls", address="kvm1")
        assert built == "qemu+tls://kvm1/system"  # all of them, or libvirt's own places
        (tmp_path / "tls" / name).write_text("-")
    built = uri.build(transport="tls", address="kvm1")
    assert built == f"qemu+tls://kvm1/system?pkipath={tmp_path}/tls"


def test_ssh_pins_the_host_key(tmp_path: Path) -> None:
    (tmp_path / "id_ed25519").write_text("key")
    built = uri.build(
        transport="ssh",
        address="10.0.0.5",
        port=2222,
        username="libvirt",
        ssh_host_key=HOST_KEY,
        ssh_directory=tmp_path,
    )
    assert built == (
        f"qemu+ssh://libvirt@10.0.0.5:2222/system?no_tty=1&command={tmp_path}/kvmweb-ssh"
        f"&keyfile={tmp_path}/id_ed25519"
    )
    known = (tmp_path / "known_hosts.d" / "10.0.0.5_2222").read_text()
    assert known == f"[10.0.0.5]:2222 ssh-ed25519 {BLOB}\n"
    options = subprocess.run(
        [tmp_path / "kvmweb-ssh", "-G", "-p", "2222", "10.0.0.5"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for line in (
        "stricthostkeychecking true",
        "batchmode yes",
        f"userknownhostsfile {tmp_path}/known_hosts.d/10.0.0.5_2222",
        "globalknownhostsfile /dev/null",
        "connecttimeout 8",
        "forwardagent no",
        "permitlocalcommand no",
    ):
        assert line in options.splitlines(), f"ssh does not say {line}"


@pytest.mark.parametrize("key", ["", "ssh-ed25519", "ssh-ed25519 AAAA", f"ssh-rsa {BLOB}", "x\ny"])
def test_an_unpinned_host_is_refused(key: str, tmp_path: Path) -> None:
    with pytest.raises(ssh.InvalidHostKey):
        uri.build(transport="ssh", address="kvm1", ssh_host_key=key, ssh_directory=tmp_path)


def test_what_keyscan_prints_is_a_host_key() -> None:
    text = f"# kvm1:22 SSH-2.0\nkvm1 ssh-ed25519 {BLOB}\n[kvm1]:2222 ssh-ed25519 {BLOB} root@x\n"
    assert ssh.parse_host_keys(text) == [("ssh-ed25519", BLOB)] * 2


BAD: list[dict[str, Any]] = [
    {"transport": "ext"},
    {"transport": "qemu+ext"},
    {"transport": "unix", "socket_path": ""},
    {"transport": "unix", "socket_path": "relative/sock"},
    {"transport": "unix", "socket_path": "/run/../etc/sock"},
    {"transport": "unix", "socket_path": "/run/sock?command=/bin/sh"},
    {"transport": "unix", "socket_path": "/run/sock&command=x"},
    {"transport": "unix", "socket_path": "/run/sock#x"},
    {"transport": "unix", "socket_path": "/run/so%63k"},
    {"transport": "unix", "socket_path": "/run/sock\n"},
    {"transport": "unix", "socket_path": "/" + "a" * 107},
    {"transport": "tls", "address": ""},
    {"transport": "tls", "address": "host/system?command=x"},
    {"transport": "tls", "address": "host?x"},
    {"transport": "tls", "address": "user@host"},
    {"transport": "tls", "address": "host:22"},
    {"transport": "tls", "address": "-oProxyCommand=x"},
    {"transport": "tls", "address": "host\n"},
    {"transport": "tls", "address": "ho st"},
    {"transport": "tls", "address": "fe80::1%eth0"},
    {"transport": "tls", "address": "höst"},
    {"transport": "tls", "address": "host", "port": 0},
    {"transport": "tls", "address": "host", "port": 65536},
    {"transport": "ssh", "address": "host", "username": "-l root"},
    {"transport": "ssh", "address": "host", "username": "a@b"},
    {"transport": "ssh", "address": "host", "username": "root?command=x"},
    {"transport": "ssh", "address": "host", "username": "Root"},
    {"transport": "ssh", "address": "../../etc/cron.d/x", "username": "root"},
]


@pytest.mark.parametrize("fields", BAD, ids=lambda fields: str(list(fields.values()))[:60])
def test_hostile_fields_are_refused(fields: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(uri.InvalidUri):
        uri.build(**fields, ssh_host_key=HOST_KEY, ssh_directory=tmp_path)
    assert list(tmp_path.iterdir()) == [] or fields["transport"] == "ssh"


def test_where_a_host_takes_guests_that_move() -> None:
    assert uri.migration_uri("kvm2.example.org") == "tcp://kvm2.example.org"
    assert uri.migration_uri("fd00::2") == "tcp://[fd00::2]"
