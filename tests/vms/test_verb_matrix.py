"""Each verb in each state by each role, on the page and in the API: done, or refused with its
reason, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from accounts import quotas
from accounts.models import Membership, User
from jobs.models import Job
from vms import lifecycle
from vms.models import VM
from vms.verbs import Verb

# The table is of rules; that the queries work on both databases is shown beside each verb.
pytestmark = [pytest.mark.django_db, pytest.mark.one_database]

# State -> what is possible then, written down apart from the rules that decide it.
POSSIBLE = {
    "running": "shutdown reboot suspend save nmi reset force_off delete",
    "paused": "resume save nmi reset force_off delete",
    "shutoff": "start start_paused delete",
    "saved": "start start_paused discard_saved delete",
    "crashed": "start start_paused force_off delete",
    "missing": "delete",
    "unknown": "delete",
    "host down": "delete",
    "busy": "",
    "in the bin": "delete",
}
ROLES = ("owner", "manager", "admin", "teammate", "viewer", "outsider")


@pytest.fixture
def people(
    vm: VM, owner: User, admin: User, teammate: User, viewer: User, outsider: User, make_user: Any
) -> dict[str, User]:
    manager = make_user("manager")
    Membership.objects.create(team=vm.team, user=manager, role=Membership.Role.MANAGER)
    return {
        "owner": owner,
        "manager": manager,
        "admin": admin,
        "teammate": teammate,
        "viewer": viewer,
        "outsider": outsider,
    }


def put(vm: VM, state: str) -> None:
    """The machine as it is in that state, with nothing at work."""
    Job.objects.all().delete()
    quotas.release(vm)
    observed = {
        "saved": "shutoff",
        "host down": "running",
        "busy": "running",
        "in the bin": "shutoff",
    }.get(state, state)
    VM.objects.filter(pk=vm.pk).update(
        observed=observed,
        saved=state == "saved",
        deleted_at=None,
        desired="running",
        binned_at=timezone.now() if state == "in the bin" else None,
    )
    assert vm.host is not None
    vm.host.reach = "down" if state == "host down" else "up"
    vm.host.save(update_fields=["reach"])
    if state == "busy":
        Job.objects.create(kind="vm.reboot", vm=vm, team=vm.team, target_name=vm.name)


def expected(role: str, state: str, verb: str) -> int:
    if role == "outsider":
        return 404
    if role == "viewer" or (role == "teammate" and verb == "delete"):
        return 403
    return 202 if verb in POSSIBLE[state].split() else 409


@pytest.mark.parametrize("verb", lifecycle.VERBS)
def test_matrix(
    verb: str,
    vm: VM,
    people: dict[str, User],
    api: Callable[..., Any],
    browser: Callable[[User], Client],
) -> None:
    word = verb.replace("_", "-")
    for role in ROLES:
        speaker, client = api(people[role]), browser(people[role])
        for state in POSSIBLE:
            what = (role, state, verb)
            wanted = expected(*what)
            put(vm, state)
            shown = speaker.get(f"/vms/{vm.uuid}")
            if verb == "delete":
                answer = speaker.delete(f"/vms/{vm.uuid}?force=true")
            else:
                answer = speaker.post(f"/vms/{vm.uuid}/{word}")
            assert answer.status_code == wanted, (what, answer.content)
            if wanted == 409:
                body = answer.json()
                assert body["code"].startswith("vm.why."), what
                assert body["detail"], what
            if role != "outsider":
                why = shown.json()["verbs"][verb]
                assert (why is None) is (wanted == 202), (what, why)
            put(vm, state)
            page = client.post(
                f"/machines/{vm.uuid}/{word}/",
                {"confirm_name": vm.name},
                headers={"HX-Request": "true"},
            )
            assert page.status_code == (204 if wanted == 202 else wanted), (what, page.content)
            assert Job.objects.exclude(kind="vm.reboot").exists() is (
                wanted == 202 and verb != "reboot"
            ), what


def test_the_matrix_names_every_verb() -> None:
    assert set(" ".join(POSSIBLE.values()).split()) == {verb.value for verb in Verb}


@pytest.mark.parametrize("role", ROLES)
def test_keys(role: str, vm: VM, people: dict[str, User], api: Callable[..., Any]) -> None:
    """Who may type on its console may press keys: members too, viewers not."""
    speaker = api(people[role])
    allowed = role not in ("viewer", "outsider")
    for state in POSSIBLE:
        put(vm, state)
        answer = speaker.post(f"/vms/{vm.uuid}/keys", {"keys": ["ctrl", "alt", "delete"]})
        if not allowed:
            assert answer.status_code == (404 if role == "outsider" else 403)
            continue
        wanted = 202 if state in ("running", "paused") else 409
        assert answer.status_code == wanted, (state, answer.content)
    put(vm, "running")
    for wrong in ([], ["ctrl", "no-such-key"], ["a"] * 6):
        answer = speaker.post(f"/vms/{vm.uuid}/keys", {"keys": wrong})
        assert answer.status_code == (422 if allowed else 404 if role == "outsider" else 403)
