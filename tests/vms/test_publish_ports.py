"""A machine's port is published: who may, what it takes of the quota, and when it is closed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.test import Client

from accounts import policy, quotas, sharing
from accounts.errors import Conflict, DomainError, Forbidden, Invalid, NotFound, QuotaExceeded
from accounts.models import AuditEntry, Membership, QuotaLimit, Resource, Team, User
from hosts.models import Host, Network
from hosts.virt.fake import FakeHypervisor
from hosts.virt.spec import Lease
from tests.conftest import Api
from tests.vms.conftest import run_to_end
from vms import lifecycle, ownership, recount, recycle_bin, timeline
from vms.models import VM, PublishedPort
from vms.ports import presentation, publisher, requests, rules, targets

pytestmark = pytest.mark.django_db
SITE = range(20000, 20003)


@pytest.fixture(autouse=True)
def _on(settings: Any) -> None:
    settings.PUBLISH_PORTS = SITE
    settings.PUBLISH_NAME = "kvm.example.org"


@pytest.fixture
def runs(vm: VM) -> VM:
    VM.objects.filter(pk=vm.pk).update(observed="running")
    vm.refresh_from_db()
    return vm


def used(team: Team) -> int:
    return quotas.usage(team)[Resource.PORTS]


def why(port: PublishedPort) -> str:
    row = PublishedPort.objects.select_related("vm__host", "opened_by").get(pk=port.pk)
    return rules.why_closed(row, policy.door(row.opened_by))


# --- people --------------------------------------------------------------------------------------
def test_who_may(runs: VM, owner: User, teammate: User, viewer: User, outsider: User) -> None:
    for person, refusal in ((teammate, Forbidden), (viewer, Forbidden), (outsider, NotFound)):
        with pytest.raises(refusal):
            requests.publish(runs, actor=person, guest_port=22)
    sharing.share(runs, actor=owner, role="manager", user=outsider)
    port = requests.publish(runs, actor=outsider, guest_port=22, note=" ssh ")
    assert (port.note, port.opened_by) == ("ssh", outsider)
    assert port.public_port in SITE
    for person in (teammate, viewer):
        with pytest.raises(Forbidden):
            requests.close(port, actor=person)
        assert presentation.of(runs, person).ports  # type: ignore[union-attr]
    requests.close(port, actor=owner)
    assert not PublishedPort.objects.exists()


def test_off_by_default(
    runs: VM,
    owner: User,
    settings: Any,
    browser: Callable[[User], Client],
    api: Callable[..., Api],
) -> None:
    from kvmweb.settings import base

    assert not base.PUBLISH_PORTS
    assert base.PUBLISH_ADDRESS == "127.0.0.1"
    page = f"/machines/{runs.uuid}/?tab=hardware"
    assert "Published ports" in browser(owner).get(page).content.decode()
    settings.PUBLISH_PORTS = range(0)
    assert "Published ports" not in browser(owner).get(page).content.decode()
    assert browser(owner).get(f"/machines/{runs.uuid}/ports/").status_code == 404
    for answer in (
        api(owner).get(f"/vms/{runs.uuid}/ports"),
        api(owner).post(f"/vms/{runs.uuid}/ports", {"guest_port": 22}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (409, "port.off")


def test_by_the_api_and_the_page(
    runs: VM, owner: User, browser: Callable[[User], Client], api: Callable[..., Api]
) -> None:
    at = f"/vms/{runs.uuid}/ports"
    made = api(owner).post(at, {"guest_port": 22, "note": "shell"})
    assert made.status_code == 201
    assert made.json()["address"] == f"kvm.example.org:{made.json()['public_port']}"
    assert api(owner).post(at, {"guest_port": 22}).status_code == 422
    for wrong in (0, -1, 65536, 10**30, 22.5, "x"):
        assert api(owner).post(at, {"guest_port": wrong}).status_code == 422, wrong
        answer = browser(owner).post(f"/machines/{runs.uuid}/ports/publish/", {"guest_port": wrong})
        assert answer.status_code == 422, wrong
    assert api(owner).post(at, {"guest_port": 80, "note": "a\nb"}).status_code == 422
    listed = api(owner).get(at).json()
    assert [(one["guest_port"], one["state"]) for one in listed["items"]] == [(22, "opening")]
    page = browser(owner).get(f"/machines/{runs.uuid}/?tab=hardware").content.decode()
    assert made.json()["address"] in page
    dialog = browser(owner).get(f"/machines/{runs.uuid}/ports/").content.decode()
    growth = f"/machines/{runs.uuid}/growth/port/"
    assert growth in dialog, "it shows what a port takes of the quota"
    assert "Published ports" in browser(owner).get(growth).content.decode()
    number = made.json()["id"]
    assert browser(owner).get(f"/machines/{runs.uuid}/ports/?port={number}").status_code == 200
    assert api(owner).delete(f"{at}/{number}").status_code == 204
    assert api(owner).delete(f"{at}/{number}").status_code == 404
    verbs = set(AuditEntry.objects.values_list("verb", flat=True))
    assert {"vm.publish_port", "vm.close_port"} <= verbs
    texts = " ".join(entry.text for entry in timeline.entries(runs, only="settings"))
    assert "Port 22 was published as" in texts


# --- what it takes -------------------------------------------------------------------------------
def test_the_quota_and_the_range(
    runs: VM, owner: User, team: Team, make_vm: Callable[..., VM]
) -> None:
    QuotaLimit.objects.create(scope="team", team=team, resource=Resource.PORTS, hard=2)
    ports = [requests.publish(runs, actor=owner, guest_port=n) for n in (1, 65535)]
    assert used(team) == 2
    with pytest.raises(QuotaExceeded):
        requests.publish(runs, actor=owner, guest_port=3)
    other = make_vm(owner, owner.personal_team)
    requests.publish(other, actor=owner, guest_port=1)
    with pytest.raises(Conflict) as full:
        requests.publish(other, actor=owner, guest_port=2)
    assert full.value.code == "port.full"
    assert used(owner.personal_team) == 1
    requests.close(ports[0], actor=owner)
    assert used(team) == 1
    requests.publish(other, actor=owner, guest_port=2)
    assert set(PublishedPort.objects.values_list("public_port", flat=True)) == set(SITE)


def test_the_database_keeps_them_apart(runs: VM, make_vm: Callable[..., VM], owner: User) -> None:
    port = requests.publish(runs, actor=owner, guest_port=22)
    other = make_vm(owner, owner.personal_team)
    twice = ({"vm": runs, "guest_port": 22, "public_port": 1}, {"vm": other, "guest_port": 0})
    for row in (*twice, {"vm": other, "guest_port": 22, "public_port": port.public_port}):
        with pytest.raises(IntegrityError), transaction.atomic():
            PublishedPort.objects.create(**({"public_port": 5} | row))


def test_taken_in_the_same_moment(
    runs: VM, owner: User, team: Team, make_vm: Callable[..., VM], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another team was given the number between the look and the write."""
    first = requests.publish(runs, actor=owner, guest_port=22)
    picks = iter([first.public_port, SITE[2] if first.public_port != SITE[2] else SITE[0]])
    monkeypatch.setattr("vms.ports.requests.secrets.choice", lambda _free: next(picks))
    other = make_vm(owner, owner.personal_team)
    assert requests.publish(other, actor=owner, guest_port=22).public_port != first.public_port
    assert used(owner.personal_team) == 1


def test_a_recount_counts_them(runs: VM, owner: User, team: Team) -> None:
    requests.publish(runs, actor=owner, guest_port=22)
    found = [d for d in recount.run(repair=False).differences if d["resource"] == "ports"]
    assert found == []
    quotas.release(runs, [Resource.PORTS])
    recount.run()
    assert used(team) == 1
    PublishedPort.objects.all().delete()
    recount.run()
    assert used(team) == 0


# --- when it is closed ---------------------------------------------------------------------------
def test_it_is_open_as_long_as_who_opened_it_may(
    runs: VM, owner: User, team: Team, teammate: User, admin: User
) -> None:
    Membership.objects.filter(team=team, user=teammate).update(role="manager")
    port = requests.publish(runs, actor=teammate, guest_port=22)
    assert why(port) == ""
    for change, back in (
        (
            lambda: VM.objects.update(observed="shutoff"),
            lambda: VM.objects.update(observed="running"),
        ),
        (
            lambda: User.objects.filter(pk=teammate.pk).update(is_active=False),
            lambda: User.objects.filter(pk=teammate.pk).update(is_active=True),
        ),
        (
            lambda: Membership.objects.filter(user=teammate, team=team).update(role="member"),
            lambda: Membership.objects.filter(user=teammate, team=team).update(role="manager"),
        ),
        (
            lambda: Host.objects.update(transport="tls"),
            lambda: Host.objects.update(transport="unix"),
        ),
    ):
        change()
        assert why(port)
        assert publisher.read_wanted() == []
        back()
        assert why(port) == ""
    assert [one.pk for one in publisher.read_wanted()] == [port.pk]
    Membership.objects.filter(user=teammate, team=team).delete()
    assert why(port) == "port.why.nobody"
    requests.reopen(port, actor=owner)
    assert why(port) == ""


def test_given_away_it_moves_closed(
    runs: VM, owner: User, teammate: User, team: Team, outsider: User
) -> None:
    port = requests.publish(runs, actor=owner, guest_port=22)
    offer = ownership.give(runs, actor=owner, to=outsider)
    assert offer is not None
    QuotaLimit.objects.create(
        scope="team", team=outsider.personal_team, resource=Resource.PORTS, hard=0
    )
    with pytest.raises(QuotaExceeded):
        ownership.accept(offer.pk, user=outsider, team=outsider.personal_team)
    QuotaLimit.objects.filter(team=outsider.personal_team).delete()
    ownership.accept(offer.pk, user=outsider, team=outsider.personal_team)
    assert (used(team), used(outsider.personal_team)) == (0, 1)
    assert why(port) == "port.why.nobody"
    vm = VM.objects.get(pk=runs.pk)
    shown = presentation.of(vm, outsider)
    assert shown is not None
    assert [one.can_reopen for one in shown.ports] == [True]
    requests.reopen(requests.find(vm, port.pk), actor=outsider)
    assert why(port) == ""


def test_in_the_bin_it_is_gone(
    made: Callable[..., VM], fake: FakeHypervisor, owner: User, team: Team
) -> None:
    vm = made(name="binned")
    requests.publish(vm, actor=owner, guest_port=22)
    run_to_end(lifecycle.request(vm, "delete", actor=owner, force=True))
    assert not PublishedPort.objects.exists()
    assert used(team) == 0
    vm.refresh_from_db()
    run_to_end(recycle_bin.restore(vm, actor=owner))
    assert not PublishedPort.objects.exists()
    vm.refresh_from_db()
    requests.publish(vm, actor=owner, guest_port=22)
    run_to_end(lifecycle.request(vm, "delete", actor=owner, force=True, purge=True))
    assert not PublishedPort.objects.exists()
    assert recount.run(repair=False).differences == []


def test_where_no_port_can_be_carried(runs: VM, owner: User, host: Host) -> None:
    Host.objects.filter(pk=host.pk).update(transport="tls")
    runs.refresh_from_db()
    with pytest.raises(Conflict) as refused:
        requests.publish(runs, actor=owner, guest_port=22)
    assert refused.value.code == "port.why.tls"


# --- where it leads ------------------------------------------------------------------------------
CIDR, MAC = "192.168.122.0/24", "52:54:00:00:00:01"


def lease(address: str, mac: str = MAC, network: str = "default") -> Lease:
    return Lease(network=network, mac=mac, address=address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "192.168.123.5",
        "192.168.122.0",
        "192.168.122.255",
        "0.0.0.0",
        "224.0.0.1",
        "::1",
        "fd00::5",
    ],
)
def test_an_address_that_a_guest_may_not_have(address: str) -> None:
    assert targets.leased([lease(address)], "default", MAC, CIDR) == ""


def test_only_the_lease_of_its_own_card_counts() -> None:
    other = "52:54:00:00:00:02"
    mine, theirs = lease("192.168.122.5"), lease("192.168.122.6", other)
    assert targets.leased([theirs, mine], "default", MAC, CIDR) == "192.168.122.5"
    assert targets.leased([theirs], "default", MAC, CIDR) == ""
    assert targets.leased([mine, lease("192.168.122.5", other)], "default", MAC, CIDR) == ""
    assert targets.leased([lease("192.168.122.5", network="lan")], "default", MAC, CIDR) == ""
    assert targets.leased([mine], "default", MAC, "fd00::/64") == ""


def test_what_the_guest_says_is_not_asked(
    made: Callable[..., VM], fake: FakeHypervisor, owner: User, network: Network
) -> None:
    """Its agent names any address it likes, and the page shows it; the port goes by the lease."""
    vm = made(name="liar")
    Network.objects.filter(pk=network.pk).update(cidr=CIDR)
    nic = vm.nics.get()
    vm.nics.update(addresses=["127.0.0.1", "10.0.0.1"])
    found = targets.find(vm)
    assert found.mac == nic.mac.lower()
    assert found.address.startswith("192.168.122.")
    Network.objects.filter(pk=network.pk).update(cidr="10.9.9.0/24")
    with pytest.raises(targets.NoWay) as none:
        targets.find(vm)
    assert none.value.code == "port.why.no_address"
    vm.nics.update(link_up=False)
    with pytest.raises(targets.NoWay) as unplugged:
        targets.find(vm)
    assert unplugged.value.code == "port.why.no_network"


def test_the_neighbour_must_be_that_card() -> None:
    head = "IP address       HW type     Flags       HW address            Mask     Device\n"
    place = targets.Place(address="192.168.122.5", mac=MAC, bridge="virbr0")
    for flags, mac, device, fits in (
        ("0x2", MAC, "virbr0", True),
        ("0x2", MAC, "virbr1", False),
        ("0x2", "52:54:00:00:00:02", "virbr0", False),
        ("0x0", MAC, "virbr0", False),
    ):
        line = f"192.168.122.5    0x1   {flags}   {mac}     *        {device}\n"
        assert targets.is_neighbour(place, head + line) is fits
    for nothing in ("", head, head + "sh: not allowed\n"):
        assert not targets.is_neighbour(place, nothing)


def test_what_is_known_before(host: Host) -> None:
    assert targets.why_no_way(None, {"virbr0"}) == "port.why.tls"
    assert targets.why_no_way(host, set()) == "port.why.no_network"
    assert targets.why_no_way(host, {"virbr-none"}) == "port.why.elsewhere"
    assert targets.why_no_way(host, {"lo"}) == ""
    host.transport = Host.Transport.SSH
    assert targets.why_no_way(host, {"virbr-none"}) == ""


@pytest.mark.parametrize("text", ["x", "20-10", "0-5", "65000-65536", "1-2-3", "-"])
def test_a_range_that_is_none(text: str) -> None:
    from django.core.exceptions import ImproperlyConfigured

    from kvmweb.settings.base import _port_range

    assert _port_range("20000") == range(20000, 20001)
    assert _port_range("20000-20999") == range(20000, 21000)
    assert not _port_range(" ")
    with pytest.raises(ImproperlyConfigured):
        _port_range(text)


def test_wrong_inputs_are_told(runs: VM, owner: User) -> None:
    wrongs: list[dict[str, Any]] = [{"guest_port": 0}, {"guest_port": 1, "note": "x" * 101}]
    for wrong in wrongs:
        with pytest.raises(Invalid) as refused:
            requests.publish(runs, actor=owner, **wrong)
        assert isinstance(refused.value, DomainError)
