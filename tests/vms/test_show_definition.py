"""A machine's XML: read by a worker, without secrets, for its owner; compared by an admin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from accounts.models import User
from hosts.virt import definition as shape
from hosts.virt.errors import HostUnreachable, NoSuchDomain
from hosts.virt.fake import FakeHypervisor
from tests.vms.conftest import run_to_end
from vms import asking, definition
from vms.hardware import requests
from vms.models import VM, DefinitionCopy

SECRETS = """<domain type='kvm' id='3' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
<name>x</name><sysinfo type='fwcfg'><entry name='opt/x'>hunter2</entry></sysinfo>
<devices><graphics type='vnc' passwd='hunter2'/><disk><alias name='a'/><source index='1'/></disk>
<tpm><backend><encryption><password>hunter2</password></encryption></backend></tpm></devices>
<qemu:commandline><qemu:arg value='-object'/><qemu:arg value='secret,id=a,data=hunter2'/>
<qemu:env name='TOKEN' value='hunter2'/></qemu:commandline></domain>"""


@pytest.fixture(autouse=True)
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    told: list[str] = []
    monkeypatch.setattr(
        asking.current_app, "send_task", lambda name, _args, **_how: told.append(name)
    )
    return told


def test_secrets_are_masked() -> None:
    text = shape.shown(SECRETS)
    assert "hunter2" not in text
    assert text.count(shape.MASK) == 5
    compared = shape.comparable(text)
    assert "alias" not in compared
    assert 'id="3"' not in compared
    assert "index" not in compared
    with pytest.raises(ValueError, match="XML"):
        shape.shown("<domain")
    bomb = '<!DOCTYPE d [<!ENTITY a "aaaa">]><d>&a;</d>'
    assert "aaaa" not in shape.shown(bomb).partition("]>")[2]


def test_the_owner_reads_it_and_an_admin_compares(
    made: Callable[..., VM],
    fake: FakeHypervisor,
    owner: User,
    admin: User,
    api: Any,
    browser: Callable[[User], Client],
    sent: list[str],
) -> None:
    vm = made()
    page = f"/machines/{vm.uuid}/xml/"
    assert "It is being read" in browser(owner).get(page).content.decode()
    assert sent.count(definition.TASK) == 1
    calls = fake.calls["domain_xml"]
    assert definition.take(vm.uuid)
    assert fake.calls["domain_xml"] == calls + 2
    shown = api(owner).get(f"/vms/{vm.uuid}/xml").json()
    assert f"<uuid>{vm.uuid}</uuid>" in shown["stored"]
    assert (shown["live"], shown["differences"], shown["error"]) == (None, None, None)
    compared = api(admin).get(f"/vms/{vm.uuid}/xml").json()
    assert "<domain" in compared["live"]
    assert compared["differences"] == ""

    run_to_end(requests.resize(vm, actor=owner, memory_mib=2048))  # waits for a restart
    definition.take(vm.uuid)
    differences = api(admin).get(f"/vms/{vm.uuid}/xml").json()["differences"]
    assert differences.startswith("--- stored\n+++ live")
    assert "2097152" in differences or "2048" in differences
    text = browser(admin).get(f"{page}?show=differences").content.decode()
    assert "+++ live" in text
    assert "dumpxml" in text
    mine = browser(owner).get(f"{page}?show=differences").content.decode()
    assert "+++ live" not in mine
    assert "&lt;domain" in mine
    assert sent.count(definition.TASK) == 1
    assert fake.calls["domain_xml"] == calls + 4  # by workers alone


def test_who_may(
    made: Callable[..., VM],
    owner: User,
    teammate: User,
    viewer: User,
    outsider: User,
    api: Any,
    browser: Callable[[User], Client],
) -> None:
    vm = made()
    for person, status in ((owner, 200), (teammate, 403), (viewer, 403), (outsider, 404)):
        assert api(person).get(f"/vms/{vm.uuid}/xml").status_code == status
        assert browser(person).get(f"/machines/{vm.uuid}/xml/").status_code == status


def test_what_cannot_be_read(
    made: Callable[..., VM], fake: FakeHypervisor, owner: User, api: Any, monkeypatch: Any
) -> None:
    vm = made()
    fake.fail_next("domain_xml", HostUnreachable())
    assert not definition.take(vm.uuid)
    assert not DefinitionCopy.objects.exists()
    definition.take(vm.uuid)
    fake.fail_next("domain_xml", NoSuchDomain("gone"))
    assert not definition.take(vm.uuid)
    shown = api(owner).get(f"/vms/{vm.uuid}/xml").json()
    assert shown["error"]
    assert shown["stored"]  # as it was, with its age
    monkeypatch.setattr(definition, "MOST_CHARACTERS", 10)
    assert not definition.take(vm.uuid)
    assert "too large" in api(owner).get(f"/vms/{vm.uuid}/xml").json()["error"]
