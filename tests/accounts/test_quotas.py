"""What fits and what does not, whose limit it is, and by how much."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import transaction
from django.utils import timezone, translation

from accounts import messages, quotas
from accounts.errors import Forbidden, Invalid, NotFound, QuotaExceeded
from accounts.models import Allocation, AuditEntry, QuotaGrant, QuotaLimit, Resource, User

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
        "backups_gib": 200,
        "ports": 20,
        "templates": 10,
        "images_gib": 50,
    }
    assert {limit.scope for limit in limits.values()} == {"site"}


def test_the_refusal_says_which_limit_whose_and_by_how_much(vm, admin, team) -> None:
    quotas.set_limit(actor=admin, resource=R.VCPUS, hard=8, team=team)
    take(vm, vcpus=6)
    with pytest.raises(QuotaExceeded) as caught:
        take(vm, vcpus=4, machines=1)
    params = dict(caught.value.params)
    facts = {
        "resource": "vcpus",
        "scope": "team",
        "hard": 8,
        "used": 6,
        "asked": 4,
        "missing": 2,
    }
    assert params.pop("short") == [facts]
    assert params == facts | {"team": "rivendell", "team_id": team.pk, "owner_id": vm.owner_id}
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


def test_what_belongs_to_no_machine_is_counted_and_given_back_alone(vm, owner, team) -> None:
    take(vm, snapshots=1)
    with transaction.atomic():
        quotas.allocate(vm, {R.SNAPSHOTS: 1}, subject="snapshot:1")
        quotas.allocate_for("template:7", {R.TEMPLATES: 1}, team=team, user=owner)
    assert quotas.usage(team)[R.TEMPLATES] == 1
    quotas.release(vm)
    assert quotas.usage(team) == {**dict.fromkeys(R, 0), R.TEMPLATES: 1}
    quotas.release_subject("template:7")
    assert not Allocation.objects.exists()
    with pytest.raises(QuotaExceeded), transaction.atomic():
        quotas.allocate_for("template:8", {R.TEMPLATES: 11}, team=team, user=owner)
    with pytest.raises(ValueError, match="subject"):
        quotas.release_subject("")


def test_settle_leaves_exactly_what_is(vm, team) -> None:
    take(vm, vcpus=2, disk_gib=10)
    take(vm, vcpus=4)
    with transaction.atomic():
        quotas.settle(vm, {R.VCPUS: 3})
    assert quotas.usage(team)[R.VCPUS] == 3
    assert quotas.usage(team)[R.DISK_GIB] == 10


def test_count_is_never_refused_and_counts_once(vm, team) -> None:
    for _ in range(2):
        quotas.count(vm, {R.MACHINES: 1, R.VCPUS: 400})
    assert quotas.usage(team)[R.VCPUS] == 400
    with pytest.raises(QuotaExceeded):
        take(vm, vcpus=1)


def test_a_machine_moves_with_all_it_holds_if_the_other_side_has_room(
    vm, owner, teammate, outsider, team, admin
) -> None:
    take(vm, machines=1, vcpus=4)
    there = outsider.personal_team
    quotas.set_limit(actor=admin, resource=R.VCPUS, hard=3, team=there)
    with pytest.raises(QuotaExceeded) as caught, transaction.atomic():
        quotas.transfer(vm, team=there, user=outsider)
    assert caught.value.params["team"] == there.name
    assert caught.value.params["missing"] == 1
    quotas.set_limit(actor=admin, resource=R.VCPUS, hard=4, team=there)
    with transaction.atomic():
        quotas.transfer(vm, team=there, user=outsider)
    assert quotas.usage(there)[R.VCPUS] == 4
    assert quotas.usage(team)[R.VCPUS] == 0


def test_to_another_owner_in_a_full_team_only_their_own_limit_counts(
    vm, owner, teammate, team, admin
) -> None:
    take(vm, machines=1, vcpus=4)
    quotas.set_limit(actor=admin, resource=R.VCPUS, hard=4, team=team)
    quotas.set_limit(actor=admin, resource=R.VCPUS, hard=3, team=team, user=teammate)
    with pytest.raises(QuotaExceeded) as caught, transaction.atomic():
        quotas.transfer(vm, team=team, user=teammate)
    assert caught.value.params["scope"] == "member"
    quotas.set_limit(actor=admin, resource=R.VCPUS, hard=None, team=team, user=teammate)
    with transaction.atomic():
        quotas.transfer(vm, team=team, user=teammate)
    assert quotas.usage(team, teammate)[R.VCPUS] == 4


def test_a_grant_counts_while_it_lives(vm, team, admin) -> None:
    now = timezone.now()
    quotas.set_limit(actor=admin, resource=R.VCPUS, hard=2, team=team)
    grant = QuotaGrant.objects.create(
        team=team, resource=R.VCPUS, delta=2, starts_at=now, expires_at=now + timedelta(days=1)
    )
    limit = quotas.effective_limits(team)[R.VCPUS]
    assert (limit.hard, limit.granted, limit.scope) == (4, 2, "team")
    take(vm, vcpus=4)
    QuotaGrant.objects.filter(pk=grant.pk).update(
        starts_at=now - timedelta(days=2), expires_at=now - timedelta(seconds=1)
    )
    assert quotas.effective_limits(team)[R.VCPUS].hard == 2
    assert quotas.usage(team)[R.VCPUS] == 4, "an end destroys nothing"
    with pytest.raises(QuotaExceeded) as caught:
        take(vm, vcpus=1)
    assert caught.value.params["missing"] == 3


def test_a_grant_does_not_bound_what_is_unlimited(team) -> None:
    QuotaGrant.objects.create(
        team=team, resource=R.RUNNING_VCPUS, delta=2, starts_at=timezone.now()
    )
    assert quotas.effective_limits(team)[R.RUNNING_VCPUS].hard == -1


def test_both_limits_that_are_passed_are_named(make_vm, teammate, team, admin) -> None:
    quotas.set_limit(actor=admin, resource=R.VCPUS, hard=3, team=team)
    quotas.set_limit(actor=admin, resource=R.VCPUS, hard=2, team=team, user=teammate)
    with pytest.raises(QuotaExceeded) as caught:
        take(make_vm(teammate, team), vcpus=4)
    short = [(one["scope"], one["missing"]) for one in caught.value.params["short"]]
    assert short == [("team", 1), ("member", 2)]
    assert caught.value.params["scope"] == "member", "first the one that leaves the least"


def test_a_manager_limits_other_members_and_nobody_else(
    owner, teammate, viewer, outsider, team
) -> None:
    quotas.set_limit(actor=owner, resource=R.VCPUS, hard=2, team=team, user=teammate)
    for actor, person in ((owner, owner), (teammate, viewer)):
        with pytest.raises(Forbidden):
            quotas.set_limit(actor=actor, resource=R.VCPUS, hard=2, team=team, user=person)
    with pytest.raises(NotFound):
        quotas.set_limit(actor=outsider, resource=R.VCPUS, hard=2, team=team, user=owner)


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
