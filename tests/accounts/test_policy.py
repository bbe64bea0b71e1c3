"""The table of the one door, cell by cell, and what a refusal leaves behind."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from django.contrib.auth.models import AnonymousUser
from django.db import transaction

from accounts import audit, policy
from accounts.errors import Forbidden, NotFound
from accounts.models import AuditEntry, Team, User
from accounts.policy import Action
from vms.models import VM

MACHINE = {
    "owner": {"see", "power", "console_view", "console_control", "edit", "delete", "share"},
    "manager": {"see", "power", "console_view", "console_control", "edit", "delete", "share"},
    "admin": {"see", "power", "console_view", "console_control", "edit", "delete", "share", "move"},
    "teammate": {"see", "power", "console_view", "console_control"},
    "viewer": {"see", "console_view"},
    "outsider": set(),
    "anonymous": set(),
}
TEAM = {
    "owner": {"team_see", "team_create_vm", "team_manage"},
    "admin": {"team_see", "team_create_vm", "team_manage"},
    "teammate": {"team_see", "team_create_vm"},
    "viewer": {"team_see"},
    "outsider": set(),
    "anonymous": set(),
}


@pytest.fixture
def cast(owner, teammate, viewer, outsider, admin):
    return {
        "owner": owner,
        "teammate": teammate,
        "viewer": viewer,
        "outsider": outsider,
        "admin": admin,
        "anonymous": AnonymousUser(),
    }


def actions(prefix: str) -> set[Action]:
    teamish, jobish = "team_", "job_"
    if prefix == "machine":
        return {a for a in Action if a.value in MACHINE["admin"]}
    return {a for a in Action if a.value.startswith({"team": teamish, "job": jobish}[prefix])}


@pytest.mark.parametrize("who", [name for name in MACHINE if name != "manager"])
def test_machine(who: str, cast, vm: VM) -> None:
    allowed = {a.value for a in actions("machine") if policy.can(cast[who], a, vm)}
    assert allowed == MACHINE[who]


def test_manager_rules_a_members_machine(owner: User, teammate: User, team: Team, make_vm) -> None:
    machine = make_vm(teammate, team)
    allowed = {a.value for a in actions("machine") if policy.can(owner, a, machine)}
    assert allowed == MACHINE["manager"]
    assert policy.relation(owner, machine) == "manager"


@pytest.mark.parametrize("who", TEAM)
def test_team(who: str, cast, team: Team) -> None:
    allowed = {a.value for a in actions("team") if policy.can(cast[who], a, team)}
    assert allowed == TEAM[who]


@pytest.mark.parametrize(
    ("who", "expected"),
    [
        ("owner", {"job_see", "job_cancel"}),
        ("teammate", {"job_see"}),
        ("viewer", {"job_see"}),
        ("outsider", set()),
        ("admin", {"job_see", "job_cancel"}),
    ],
)
def test_a_machines_job(who: str, expected: set[str], cast, vm: VM) -> None:
    job = SimpleNamespace(vm_id=vm.pk, vm=vm, actor_id=None, team_id=vm.team_id)
    assert {a.value for a in actions("job") if policy.can(cast[who], a, job)} == expected


def test_actor_who_lost_the_machine_loses_its_jobs(outsider: User, vm: VM) -> None:
    job = SimpleNamespace(vm_id=vm.pk, vm=vm, actor_id=outsider.pk, team_id=vm.team_id)
    assert not policy.can(outsider, Action.JOB_SEE, job)


def test_member_may_cancel_what_they_began(teammate: User, vm: VM) -> None:
    job = SimpleNamespace(vm_id=vm.pk, vm=vm, actor_id=teammate.pk, team_id=vm.team_id)
    assert policy.can(teammate, Action.JOB_CANCEL, job)


def test_inactive_may_nothing(owner: User, admin: User, vm: VM) -> None:
    for user in (owner, admin):
        user.is_active = False
        assert not policy.can(user, Action.SEE, vm)
        assert not policy.can(user, Action.SITE_ADMIN)


def test_images(outsider: User, admin: User, image) -> None:
    assert policy.can(outsider, Action.IMAGE_USE, image)
    image.published = False
    assert not policy.can(outsider, Action.IMAGE_USE, image)
    assert policy.can(admin, Action.IMAGE_USE, image)


def test_what_one_may_not_see_does_not_exist(outsider: User, viewer: User, vm: VM) -> None:
    with pytest.raises(NotFound):
        policy.require(outsider, Action.DELETE, vm)
    with pytest.raises(Forbidden):
        policy.require(viewer, Action.DELETE, vm)
    entries = AuditEntry.objects.filter(verb="access.refused").order_by("id")
    assert [(e.actor_name, e.after["action"], e.target_id) for e in entries] == [
        ("outsider", "delete", str(vm.uuid)),
        ("viewer", "delete", str(vm.uuid)),
    ]


def test_refusal_outlives_the_rollback(viewer: User, vm: VM) -> None:
    with audit.request_context(request_id="r-12345678", address="192.0.2.7"):
        with pytest.raises(Forbidden), transaction.atomic():
            policy.require(viewer, Action.POWER, vm)
        assert not AuditEntry.objects.filter(verb="access.refused").exists()
    entry = AuditEntry.objects.get(verb="access.refused")
    assert (entry.request_id, entry.address) == ("r-12345678", "192.0.2.7")


def test_a_door_asks_the_database_once(
    teammate: User, team: Team, owner: User, make_vm, django_assert_num_queries
) -> None:
    machines = [make_vm(owner, team) for _ in range(5)]
    with django_assert_num_queries(2):  # their teams, and what is shared with them
        door = policy.door(teammate)
        assert all(door.can(Action.POWER, machine) for machine in machines)


def test_docs_hold_the_same_table() -> None:
    """docs/admin/users.md says what the code does: a row for each action, a column for each."""
    from pathlib import Path

    text = (Path(__file__).parents[2] / "docs/admin/users.md").read_text()
    rows = {
        cells[1].strip(" `"): [cell.strip() for cell in cells[2:-1]]
        for cells in (line.split("|") for line in text.splitlines())
        if len(cells) == 9 and cells[1].strip().startswith("`")
    }
    columns = ("admin", "owner", "manager", "member", "viewer", "shared_manager")
    tables = {
        **_as_sets(policy._MACHINE),
        **_as_sets(policy._TEAM),
        **_as_sets(policy._JOB),
        **_as_sets(policy._REQUEST),
    }
    documented = {
        action: {
            column for column, cell in zip(columns, cells, strict=True) if cell in ("yes", "own")
        }
        for action, cells in rows.items()
    }
    for action, relations in tables.items():
        if action.startswith("team_"):
            documented[action].discard("owner")
        assert documented[action] == relations, action


def _as_sets(table) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for relation, allowed in table.items():
        for action in allowed:
            found.setdefault(action.value, set()).add(relation.value)
    return found
