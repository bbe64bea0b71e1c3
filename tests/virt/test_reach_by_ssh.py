"""``qemu+ssh`` to a real sshd, with the host's key pinned."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from hosts.virt import ssh, uri
from hosts.virt.client import LibvirtHypervisor
from hosts.virt.errors import HostUnreachable, Unsupported
from tests.lab.conftest import RunningLab, SshWay
from tests.virt.test_build_uris import HOST_KEY


def _uri(way: SshWay, directory: Path, host_key: str) -> str:
    directory.mkdir(mode=0o700)
    shutil.copy(way.key, ssh.identity(directory))
    ssh.identity(directory).chmod(0o600)
    return uri.build(
        transport="ssh",
        address=way.host,
        port=way.port,
        username=way.user,
        ssh_host_key=host_key,
        ssh_directory=directory,
    )


def _pinned(way: SshWay) -> str:
    """The lines of the lab's known_hosts that are this host's."""
    lines = Path(way.known_hosts).read_text().splitlines()
    return "\n".join(line for line in lines if way.host in line.split()[0])


@pytest.mark.lab
def test_the_pinned_host_is_reached(lab: RunningLab, tmp_path: Path) -> None:
    way = lab.host("a").ssh
    hypervisor = LibvirtHypervisor(_uri(way, tmp_path / "ssh", _pinned(way)))
    assert hypervisor.facts().hostname == LibvirtHypervisor(lab.host("a").uri).facts().hostname
    assert hypervisor.connection.remote
    with pytest.raises(Unsupported):
        hypervisor.open_graphics_fd(hypervisor.facts().host_uuid)  # type: ignore[arg-type]
    hypervisor.close()


@pytest.mark.lab
def test_another_key_is_refused(lab: RunningLab, tmp_path: Path) -> None:
    way = lab.host("a").ssh
    with pytest.raises(HostUnreachable):
        LibvirtHypervisor(_uri(way, tmp_path / "ssh", HOST_KEY)).ping()


@pytest.mark.lab
def test_an_address_nobody_answers_at(lab: RunningLab, tmp_path: Path) -> None:
    way = replace(lab.host("a").ssh, port=1)
    with pytest.raises(HostUnreachable):
        LibvirtHypervisor(_uri(way, tmp_path / "ssh", HOST_KEY)).ping()
