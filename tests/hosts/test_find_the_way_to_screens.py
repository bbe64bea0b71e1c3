"""What reading a host behind SSH or TLS says of its screens, and where they listen from then on."""

from __future__ import annotations

import pytest

from hosts import check_messages, connections, screens
from hosts import services as host_services
from hosts.inventory import read
from hosts.models import Host
from hosts.virt.errors import HostUnreachable
from hosts.virt.fake import FakeHypervisor
from hosts.virt.spec import VolumeSpec
from hosts.virt.sshforward import Forwards
from vms.models import VM
from vms.provisioning import steps
from vms.provisioning.domain import domain_spec

ALL, PORTS, SOCKETS, NONE = (True, True), (False, True), (True, False), (False, False)


@pytest.mark.parametrize(
    ("is_root", "ways", "screens_by", "result"),
    [
        (True, ALL, "socket", "pass"),
        (True, SOCKETS, "socket", "pass"),
        (True, PORTS, "port", "note"),
        (True, NONE, "socket", "fail"),
        (False, ALL, "port", "note"),
        (False, PORTS, "port", "note"),
        (False, SOCKETS, "socket", "warn"),  # somebody may have let it to the sockets
        (False, NONE, "socket", "fail"),
    ],
)
def test_by_what_sshd_forwards(
    monkeypatch: pytest.MonkeyPatch,
    is_root: bool,
    ways: tuple[bool, bool],
    screens_by: str,
    result: str,
) -> None:
    found = Forwards(is_root=is_root, sockets=ways[0], ports=ways[1])
    monkeypatch.setattr(connections, "screen_ways", lambda _host: found)
    seen = screens.look(Host(name="far", transport="ssh"), read(FakeHypervisor()))
    assert seen.screens == screens_by
    check = seen.checks[-1]
    assert (check.key, check.result) == (screens.KEY, result)
    told = check_messages.finding({"key": check.key, "result": result, "params": check.params})
    assert told.text
    assert bool(told.todo) == (result != "pass")


def test_what_was_known_stays_when_it_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_host: Host) -> Forwards:
        raise HostUnreachable("no sign-in")

    monkeypatch.setattr(connections, "screen_ways", refuse)
    seen = screens.look(Host(name="far", transport="ssh", screens="port"), read(FakeHypervisor()))
    assert seen.screens == ""
    assert (seen.checks[-1].key, seen.checks[-1].result) == (screens.KEY, "fail")


def test_by_tls_there_are_none() -> None:
    seen = screens.look(Host(name="far", transport="tls"), read(FakeHypervisor()))
    check = seen.checks[-1]
    told = check_messages.finding({"key": check.key, "result": "note", "params": check.params})
    assert "serial console" in told.text
    assert "SSH" in told.todo


@pytest.mark.django_db
def test_a_start_follows_what_was_found(vm: VM, monkeypatch: pytest.MonkeyPatch) -> None:
    host = vm.host
    assert host is not None
    fake = FakeHypervisor(host.name)
    with connections.use_fake({host.name: fake}):
        fake.create_volume(
            VolumeSpec(pool="default", name=vm.disks.get().volume, capacity_bytes=1 << 20)
        )
        fake.define(domain_spec(vm))
        steps.power_on(fake, vm)
        assert fake.calls["arrange_display"] == 0  # on this machine: a descriptor
        fake.force_off(vm.uuid)

        Host.objects.filter(pk=host.pk).update(transport="ssh", address="far", ssh_host_key="-")
        found = Forwards(is_root=False, sockets=True, ports=True)
        monkeypatch.setattr(connections, "screen_ways", lambda _host: found)
        vm.host = host_services.refresh_host(host.pk)
        steps.power_on(fake, vm)
        assert fake.domain(vm.uuid).vnc_socket is None
        assert fake.display_port(vm.uuid).boot == fake.domain(vm.uuid).id
        fake.force_off(vm.uuid)

        found = Forwards(is_root=True, sockets=True, ports=True)
        vm.host = host_services.refresh_host(host.pk)
        steps.power_on(fake, vm)
        assert fake.domain(vm.uuid).vnc_socket
