"""Screens of machines on hosts behind SSH (the lab's sshd, and one that forwards to no sockets), by
both carriers; and by TLS: none."""

from __future__ import annotations

import asyncio
import shutil
import struct
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import ClientConnection

from accounts.errors import Conflict, Unavailable
from accounts.models import User
from hosts import connections
from hosts import services as host_services
from hosts.models import Host
from hosts.virt import ssh
from hosts.virt.errors import HostUnreachable
from tests.consoles.test_both_carriers_keep_the_contract import (
    DEADLINE_S,
    Carrier,
    answers,
    close_code,
    free_port,
    run_asgi,
    run_websockify,
    secret_for,
    wait_for,
)
from tests.lab.conftest import RunningLab, lab  # noqa: F401
from vms import screenshots
from vms.consoles import gate, targets, tickets
from vms.models import VM, ConsoleSession
from vms.provisioning import steps

pytestmark = pytest.mark.django_db(transaction=True)

# Nothing to boot: its firmware shows a screen.
DOMAIN = """
<domain type='qemu'>
  <name>{name}</name><uuid>{uuid}</uuid>
  <memory unit='MiB'>48</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <graphics type='vnc' sharePolicy='force-shared'><listen type='socket'/></graphics>
    <video><model type='vga'/></video>
  </devices>
</domain>
"""


@pytest.fixture
def remote(
    lab: RunningLab,  # noqa: F811
    running_vm: VM,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[VM]:
    """The machine, running on the lab's host a, which the site reaches by SSH only."""
    way = lab.host("a").ssh
    monkeypatch.setenv("KVMWEB_VAR", str(tmp_path / "var"))
    key = ssh.identity(tmp_path / "var" / "ssh")
    key.parent.mkdir(parents=True, mode=0o700)
    shutil.copy(way.key, key)
    key.chmod(0o600)
    lines = Path(way.known_hosts).read_text().splitlines()
    host = running_vm.host
    assert host is not None
    host.transport = Host.Transport.SSH
    host.address, host.port, host.username = way.host, way.port, way.user
    host.ssh_host_key = "\n".join(line for line in lines if way.host in line.split()[0])
    host.save()
    name = f"remote-{uuid.uuid4().hex[:6]}"
    xml = tmp_path / "domain.xml"
    xml.write_text(DOMAIN.format(name=name, uuid=running_vm.uuid))
    lab.virsh("a", "create", str(xml))
    try:
        yield running_vm
    finally:
        lab.run("virsh", "a", "destroy", name, check=False)
        connections.close_all()


@pytest.fixture(params=["asgi", "websockify"])
def carrier(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Carrier]:
    """A carrier that opens real displays."""
    found = Carrier(request.param, free_port())
    running = run_asgi if found.name == "asgi" else run_websockify
    with running(found.port, tmp_path):
        wait_for(lambda: answers(found.port), "the carrier does not listen")
        yield found
        wait_for(
            lambda: not ConsoleSession.objects.filter(ended_at__isnull=True).exists(),
            "a console session was not closed",
        )


class Screen:
    """An RFB client (RFC 6143, sections 7.1 to 7.3) of a few lines."""

    def __init__(self, line: ClientConnection) -> None:
        self.line, self._pending = line, b""
        self.line.send(self.take(12))
        (count,) = self.take(1)
        assert 1 in self.take(count), "security type None is not offered"
        self.line.send(b"\x01")
        assert self.take(4) == bytes(4)
        self.line.send(b"\x00")
        self.width, self.height = struct.unpack(">HH", self.take(4))
        self.take(16)
        (length,) = struct.unpack(">I", self.take(4))
        self.name = self.take(length).decode()

    def take(self, length: int) -> bytes:
        while len(self._pending) < length:
            data = self.line.recv(timeout=DEADLINE_S)
            assert isinstance(data, bytes)
            self._pending += data
        taken, self._pending = self._pending[:length], self._pending[length:]
        return taken

    def picture(self) -> bytes:
        """The first rectangle of the whole screen, as raw pixels of 4 bytes."""
        self.line.send(struct.pack(">BxHi", 2, 1, 0))
        self.line.send(struct.pack(">BBHHHH", 3, 0, 0, 0, self.width, self.height))
        kind, count = struct.unpack(">BxH", self.take(4))
        assert kind == 0
        assert count >= 1
        _, _, width, height, encoding = struct.unpack(">HHHHi", self.take(12))
        assert encoding == 0
        return self.take(width * height * 4)


@pytest.mark.lab
def test_a_screen_behind_ssh(carrier: Carrier, owner: User, remote: VM) -> None:
    with carrier.open(secret_for(owner, remote)) as first:
        screen = Screen(first)
        assert "QEMU" in screen.name
        assert screen.picture()
        with carrier.open(secret_for(owner, remote)) as second:  # beside it, on one connection
            assert Screen(second).picture()
        assert screen.picture()
    session = ConsoleSession.objects.filter(carrier=carrier.name).first()
    assert session is not None
    assert screenshots.take(remote.uuid)
    shot = screenshots.latest(remote)
    assert shot is not None
    assert shot.content[8:12] == b"WEBP"


@pytest.mark.lab
def test_it_says_when_a_remote_machine_stops(
    carrier: Carrier,
    owner: User,
    remote: VM,
    lab: RunningLab,  # noqa: F811
) -> None:
    with carrier.open(secret_for(owner, remote)) as line:
        Screen(line)
        lab.virsh("a", "destroy", str(remote.uuid))
        assert close_code(line) == gate.CLOSE_CODES["stopped"]
    with carrier.open(secret_for(owner, remote)) as line:
        assert close_code(line) == gate.CLOSE_CODES["unavailable"]


@pytest.fixture
def without_sockets(
    lab: RunningLab,  # noqa: F811
    remote: VM,
) -> Iterator[Host]:
    """Its host, whose sshd now forwards to ports only."""
    host = remote.host
    assert host is not None

    def forwards(word: str) -> None:
        edit = f"s/^AllowStreamLocalForwarding.*/AllowStreamLocalForwarding {word}/"
        lab.exec("a", "sed", "-i", edit, "/etc/libvirt/ssh/sshd_config")
        lab.exec("a", "sh", "-c", "kill -HUP $(cat /run/libvirt/sshd.pid)")
        wait_for(lambda: forwards_sockets(host) is (word == "yes"), "sshd has not read it")

    forwards("no")
    try:
        yield host
    finally:
        forwards("yes")


def forwards_sockets(host: Host) -> bool | None:
    try:
        ways = connections.screen_ways(host)
    except HostUnreachable:  # between its end and its new beginning
        return None
    assert ways is not None
    assert ways.ports
    return ways.sockets


@pytest.mark.lab
def test_a_screen_where_sshd_forwards_to_no_sockets(
    carrier: Carrier,
    owner: User,
    remote: VM,
    without_sockets: Host,
    lab: RunningLab,  # noqa: F811
    tmp_path: Path,
) -> None:
    # It runs already, with a socket: the site finds out, and says what to do.
    host = host_services.refresh_host(without_sockets.pk)
    assert host.screens == Host.Screens.PORT
    assert any(check["key"] == "screens_reached" for check in host.checks)
    remote.host = host
    with pytest.raises(Unavailable) as refused:
        asyncio.run(targets.open_vnc(remote))
    assert refused.value.code == "console.next_start"

    at = connections.hypervisor(host)
    lab.virsh("a", "define", str(tmp_path / "domain.xml"))
    try:
        at.force_off(remote.uuid)
        steps.power_on(at, remote)
        with carrier.open(secret_for(owner, remote)) as first:
            screen = Screen(first)
            assert "QEMU" in screen.name
            assert screen.picture()
            with carrier.open(secret_for(owner, remote)) as second:
                assert Screen(second).picture()
        assert at.exposure().result == "pass"
        listening = lab.exec("a", "ss", "-Hltn").stdout
        port = at.display_port(remote.uuid).port
        assert [line.split()[3] for line in listening.splitlines() if f":{port}" in line] == [
            f"127.0.0.1:{port}"
        ]
    finally:
        lab.virsh("a", "undefine", str(remote.uuid))


@pytest.mark.lab
def test_the_next_machine_on_a_port_is_not_shown(
    owner: User,
    remote: VM,
    without_sockets: Host,
    lab: RunningLab,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The host names the port of this machine's last boot, where another listens by now."""
    remote.host = host = host_services.refresh_host(without_sockets.pk)
    at = connections.hypervisor(host)
    lab.virsh("a", "define", str(tmp_path / "domain.xml"))
    other = tmp_path / "other.xml"
    other_uuid, name = uuid.uuid4(), f"other-{uuid.uuid4().hex[:6]}"
    other.write_text(DOMAIN.format(name=name, uuid=other_uuid))
    lab.virsh("a", "define", str(other))
    try:
        at.force_off(remote.uuid)
        steps.power_on(at, remote)
        before = at.display_port(remote.uuid)
        at.force_off(remote.uuid)
        at.arrange_display(other_uuid, by_port=True)
        at.start(other_uuid)
        assert at.display_port(other_uuid).port == before.port
        monkeypatch.setattr(targets, "_where", lambda _vm: before)
        monkeypatch.setattr(targets, "_port", lambda _vm: before)
        with pytest.raises(Unavailable) as refused:
            asyncio.run(targets.open_vnc(remote))
        assert refused.value.code == "console.wrong_screen"
    finally:
        at.force_off(other_uuid)
        lab.virsh("a", "undefine", str(other_uuid))
        lab.virsh("a", "undefine", str(remote.uuid))


def test_a_tls_host_has_no_way_for_a_screen(owner: User, running_vm: VM) -> None:
    assert running_vm.host is not None
    running_vm.host.transport = Host.Transport.TLS
    with pytest.raises(Conflict) as refused:  # no use to try again, and the page does not
        secret_for(owner, running_vm)
    assert refused.value.code == "console.tls"
    assert tickets.issue(user=owner, vm=running_vm, kind="serial").secret
    with pytest.raises(Unavailable) as error:
        asyncio.run(targets.open_vnc(running_vm))
    assert error.value.code == "console.tls"
