"""What fits and what does not, whose limit it is, and by how much."""

from __future__ import annotations

import pytest
from django.db import transaction
from django.utils import translation

from accounts import messages, quotas
from accounts.errors import Forbidden, Invalid, QuotaExceeded
from accounts.models import Allocation, AuditEntry, QuotaLimit, Resource, User

R = Resource


def take(vm, **ask: int) -> None:
    with transaction.atomic():
        quotas.allocate(vm, {Resource(name): amount for name, amount in ask.items()})


def test_site_defaults(owner: User) -> None:
    limits = quotas.effective_limits(owner.personal_team, owner)
    assert {resource.value: limit.hard for resource, limit in limits.items()} == {
        "machines": 10,
        "vcpus": 16,
        "memory_mib": 32768,
        "disk_gib": 200,
        "running_machines": -1,
        "running_vcpus": -1,
        "running_memory_mib": -1,
        "snapshots": 20,
    }
    assert {limit.scope for limit in limits.values()} == {"site"}


def test_the_refusal_says_which_limit_whose_and_by_how_much(vm, admin, team) -> None:
    quotas.set_limit(actor=admin, resource=R.VCPUS, hard=8, team=team)
    take(vm, vcpus=6)
    with pytest.raises(QuotaExceeded) as caught:
        take(vm, vcpus=4, machines=1)
    params = dict(caught.value.params)
    assert params.pop("short") == [{"resource": "vcpus", "scope": "team", "hard": 8, "missing": 2}]
    assert params == {
        "resource": "vcpus",
        "scope": "team",
        "team": "rivendell",
        "hard": 8,
        "used": 6,
        "asked": 4,
        "missing": 2,
    }
    text = messages.text("quota.exceeded", caught.value.params)
    assert "rivendell" in text
    assert "vCPUs" in text
    assert "8" in text
    assert "2 too many" in text
    assert quotas.usage(team)[R.VCPUS] == 6, "nothing of the refused ask is held"


def test_every_passed_limit_is_named(vm) -> None:
    with pytest.raises(QuotaExceeded) as caught:
        take(vm, vcpus=17, disk_gib=201)
    assert [one["resource"] for one in caught.value.params["short"]] == ["vcpus", "disk_gib"]


def test_zero_is_none_and_minus_one_is_unlimited(vm, admin, team) -> None:
    quotas.set_limit(actor=admin, resource=R.SNAPSHOTS, hard=0, team=team)
    with pytest.raises(QuotaExceeded):
        take(vm, snapshots=1)
    quotas.set_limit(actor=admin, resource=R.SNAPSHOTS, hard=-1, team=team)
    take(vm, snapshots=100_000)


def test_a_members_own_limit_binds_them_alone(make_vm, owner, teammate, team, admin) -> None:
    quotas.set_limit(actor=admin, resource=R.MACHINES, hard=1, team=team, user=teammate)
    take(make_vm(teammate, team), machines=1)
    with pytest.raises(QuotaExceeded) as caught:
        take(make_vm(teammate, team), machines=1)
    assert caught.value.params["scope"] == "member"
    assert "Your limit" in messages.text("quota.exceeded", caught.value.params)
    take(make_vm(owner, team), machines=1)


def test_the_teams_limit_binds_a_member_with_a_higher_one(
    make_vm, owner, teammate, team, admin
) -> None:
    quotas.set_limit(actor=admin, resource=R.MACHINES, hard=2, team=team)
    quotas.set_limit(actor=admin, resource=R.MACHINES, hard=5, team=team, user=teammate)
    take(make_vm(owner, team), machines=2)
    with pytest.raises(QuotaExceeded) as caught:
        take(make_vm(teammate, team), machines=1)
    assert caught.value.params["scope"] == "team"


def test_lowering_destroys_nothing_and_blocks_growth_of_that_resource_only(vm, admin, team) -> None:
    take(vm, vcpus=4, disk_gib=50)
    quotas.set_limit(actor=admin, resource=R.VCPUS, hard=2, team=team)
    assert quotas.usage(team)[R.VCPUS] == 4
    take(vm, disk_gib=1)
    with pytest.raises(QuotaExceeded) as caught:
        take(vm, vcpus=1)
    assert caught.value.params["missing"] == 3


def test_life_of_an_allocation(vm, team) -> None:
    take(vm, vcpus=2, running_vcpus=2)
    quotas.activate(vm, [R.VCPUS])
    states = dict(Allocation.objects.values_list("resource", "state"))
    assert states == {"vcpus": "active", "running_vcpus": "held"}
    quotas.releasing(vm, [R.RUNNING_VCPUS])
    assert quotas.usage(team)[R.RUNNING_VCPUS] == 2, "counts until it is confirmed"
    quotas.release(vm, [R.RUNNING_VCPUS])
    assert quotas.usage(team)[R.RUNNING_VCPUS] == 0
    quotas.release(vm)
    assert not Allocation.objects.exists()


def test_admins_are_not_exempt(make_vm, admin) -> None:
    machine = make_vm(admin, admin.personal_team)
    with pytest.raises(QuotaExceeded):
        take(machine, machines=11)


def test_preview_holds_nothing(owner, team) -> None:
    impacts = {i.resource: i for i in quotas.preview(team, owner, {R.VCPUS: 20, R.DISK_GIB: 20})}
    assert impacts[R.VCPUS].missing == 4
    assert impacts[R.DISK_GIB].missing == 0
    assert impacts[R.DISK_GIB].scope == "site"
    assert not Allocation.objects.exists()


def test_only_admins_set_limits_and_it_is_audited(owner, admin, team) -> None:
    with pytest.raises(Forbidden):
        quotas.set_limit(actor=owner, resource=R.VCPUS, hard=99, team=team)
    quotas.set_limit(actor=admin, resource=R.VCPUS, hard=99, team=team)
    quotas.set_limit(actor=admin, resource=R.VCPUS, hard=None, team=team)
    entries = AuditEntry.objects.filter(verb="quota.set_limit").order_by("id")
    assert [(e.before["vcpus"], e.after["vcpus"]) for e in entries] == [(None, 99), (99, None)]
    assert entries[0].target_name == "rivendell"
    assert not QuotaLimit.objects.filter(scope="team").exists()


@pytest.mark.parametrize("hard", [-2, 1 << 60])
def test_a_limit_that_is_none(hard: int, admin, team) -> None:
    with pytest.raises(Invalid):
        quotas.set_limits(actor=admin, team=team, limits={R.VCPUS: hard})


@pytest.mark.django_db(transaction=True)
def test_allocating_without_a_transaction_is_refused(vm) -> None:
    with pytest.raises(RuntimeError):
        quotas.allocate(vm, {R.VCPUS: 1})


@pytest.mark.parametrize(
    ("resource", "amount", "text"),
    [
        ("memory_mib", 512, "512 MiB"),
        ("memory_mib", 2048, "2 GiB"),
        ("memory_mib", 1536, "1.5 GiB"),
        ("disk_gib", 20, "20 GiB"),
        ("vcpus", 3, "3"),
        ("machines", -1, "unlimited"),
    ],
)
def test_amounts_as_people_read_them(resource: str, amount: int, text: str) -> None:
    with translation.override("en"):
        assert quotas.amount_text(resource, amount) == text
