"""Each change of a machine in each state by each role, in the API and on the page: done, or refused
with its reason and the same one; and the page offers just what would be done.

The verbs of power are in ``tests/vms/test_verb_matrix.py``.
"""

from __future__ import annotations

import html
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from django.core.cache import cache
from django.db import transaction
from django.utils import timezone

from jobs.models import Job
from tests.security import ways_in
from tests.security.ways_in import Example, ask, outcome
from tests.security.ways_world import World
from vms import lifecycle
from vms.models import VM

# The table is of rules; that the queries work on both databases is shown beside each verb.
pytestmark = [pytest.mark.django_db, pytest.mark.one_database]
RULES, WAYS = ways_in.read()
STATES = (
    "running",
    "paused",
    "shutoff",
    "saved",
    "crashed",
    "missing",
    "unknown",
    "host down",
    "busy",
    "shutting down",
    "being made",
    "in the bin",
)
# Nothing is wrong with it and nobody is at it.
WHOLE = ("running", "paused", "shutoff", "crashed")
OFF = ("shutoff", "crashed")
ON = ("running", "paused", "host down", "busy", "shutting down")


@dataclass(frozen=True, kw_only=True)
class Change:
    api: str
    page: str
    machine: str  # of the world
    possible: tuple[str, ...]  # states
    offered: tuple[str, str] | None = (
        None  # where the page offers it: address and what stands there
    )
    also: tuple[str, ...] = ()  # roles beside ASKERS


_API, _PAGE = "/api/v1/vms/{uuid}", "POST /machines/{uuid}"


def _setting(
    word: str, api: str, machine: str = "two", possible: tuple[str, ...] = WHOLE, offer: str = ""
) -> Change:
    return Change(
        api=api,
        page=f"{_PAGE}/hardware/{word}/",
        machine=machine,
        possible=possible,
        offered=("?tab=hardware&part=machine", offer or f"hardware/?for={word}"),
    )


CHANGES = {
    "size": _setting("size", f"PUT {_API}/hardware/size", "off"),
    "boot": _setting("boot", f"PUT {_API}/hardware/boot-order", "off"),
    "autostart": _setting(
        "autostart", f"PUT {_API}/hardware/autostart", "vm", offer="hardware/autostart/"
    ),
    "restart": Change(
        api=f"POST {_API}/hardware/restart",
        page=f"{_PAGE}/hardware/restart/",
        machine="vm",
        possible=("running",),
    ),
    "add disk": _setting("disk-add", f"POST {_API}/disks"),
    "grow disk": _setting("disk-grow", f"PATCH {_API}/disks/{{target}}"),
    "remove disk": _setting("disk-remove", f"DELETE {_API}/disks/{{target}}"),
    "flatten": _setting("disk-flatten", f"POST {_API}/flatten", "linked"),
    "insert disc": Change(
        api=f"PUT {_API}/disc",
        page=f"{_PAGE}/hardware/disc/",
        machine="two",
        possible=WHOLE,
    ),
    "trim": Change(
        api=f"POST {_API}/guest/trim",
        page=f"{_PAGE}/guest/trim/",
        machine="vm",
        possible=("running",),
    ),
    "password inside": Change(
        api=f"PUT {_API}/guest/password",
        page=f"{_PAGE}/guest/password/",
        machine="vm",
        possible=("running",),
    ),
    "add card": _setting("nic-add", f"POST {_API}/nics", "off"),
    "change card": _setting(
        "nic-change", f"PATCH {_API}/nics/{{nic_id}}", offer="hardware/nic-change/"
    ),
    "remove card": _setting("nic-remove", f"DELETE {_API}/nics/{{nic_id}}"),
    "take snapshot": Change(
        api=f"POST {_API}/snapshots",
        page=f"{_PAGE}/snapshots/take/",
        machine="off",
        possible=WHOLE,
        offered=("?tab=snapshots&part=machine", "snapshots/?for=take"),
    ),
    "go back": Change(
        api=f"POST {_API}/snapshots/{{snapshot_id}}/revert",
        page=f"{_PAGE}/snapshots/{{snapshot_id}}/revert/",
        machine="off",
        possible=WHOLE,
        offered=("?tab=snapshots&part=machine", "snapshots/?for=revert"),
    ),
    "delete snapshot": Change(
        api=f"DELETE {_API}/snapshots/{{snapshot_id}}",
        page=f"{_PAGE}/snapshots/{{snapshot_id}}/delete/",
        machine="off",
        possible=WHOLE,
        offered=("?tab=snapshots&part=machine", "snapshots/?for=delete"),
    ),
    "publish port": Change(
        api=f"POST {_API}/ports",
        page=f"{_PAGE}/ports/publish/",
        machine="vm",
        possible=tuple(one for one in STATES if one not in ("busy", "being made", "in the bin")),
        offered=("?tab=hardware&part=machine", '/ports/">'),
    ),
    "open port again": Change(
        api=f"POST {_API}/ports/{{port_id}}/open",
        page=f"{_PAGE}/ports/{{port_id}}/open/",
        machine="vm",
        possible=STATES,
    ),
    "close port": Change(
        api=f"DELETE {_API}/ports/{{port_id}}",
        page=f"{_PAGE}/ports/{{port_id}}/close/",
        machine="vm",
        possible=STATES,
        offered=("?tab=hardware&part=machine", "/ports/?port="),
    ),
    "back up": Change(
        api=f"POST {_API}/backups",
        page=f"{_PAGE}/backups/take/",
        machine="kept",
        possible=WHOLE,
        offered=("?tab=backups&part=machine", "backups/take/"),
    ),
    "restore backup": Change(
        api=f"POST {_API}/backups/{{number}}/restore",
        page=f"{_PAGE}/backups/{{number}}/restore/",
        machine="kept",
        possible=OFF,
        offered=("backups/1/?for=restore", "backups/1/restore/"),
    ),
    "add disk from a backup": Change(
        api=f"POST {_API}/backups/{{number}}/attach",
        page=f"{_PAGE}/backups/{{number}}/attach/",
        machine="kept",
        possible=WHOLE,
    ),
    "delete backup": Change(
        api=f"DELETE {_API}/backups/{{number}}",
        page=f"{_PAGE}/backups/{{number}}/delete/",
        machine="kept",
        possible=STATES,
        offered=("backups/1/?for=delete", "backups/1/delete/"),
    ),
    "plan": Change(
        api=f"PUT {_API}/backups/plan",
        page=f"{_PAGE}/backups/plan/",
        machine="kept",
        possible=STATES[:-1],
        offered=("?tab=backups&part=machine", "backups/plan/"),
    ),
    "clone": Change(
        api=f"POST {_API}/clone",
        page=f"{_PAGE}/clone/",
        machine="off",
        possible=WHOLE,
        offered=("clone/", 'type="submit" class="button primary" >'),
    ),
    "make template": Change(
        api=f"POST {_API}/template",
        page=f"{_PAGE}/template/",
        machine="off",
        possible=OFF,
        offered=("template/", "/template/"),
    ),
    "move": Change(
        api=f"POST {_API}/migrate",
        page=f"{_PAGE}/move/",
        machine="two",
        possible=("running", "shutoff", "crashed"),
        offered=("move/", 'type="submit" class="button primary">'),
        also=("admin",),
    ),
    "eject": Change(
        api=f"POST {_API}/eject",
        page=f"{_PAGE}/eject/",
        machine="with_disc",
        possible=WHOLE,
        offered=("?part=machine", "/eject/"),
    ),
    "edit": Change(
        api=f"PATCH {_API}",
        page=f"{_PAGE}/edit/",
        machine="vm",
        possible=STATES,
    ),
    "record": Change(
        api=f"POST {_API}/recordings",
        page=f"{_PAGE}/console/record/",
        machine="vm",
        possible=ON,
    ),
    "share": Change(
        api=f"POST {_API}/access",
        page=f"{_PAGE}/access/share/",
        machine="vm",
        possible=STATES,
    ),
    "offer": Change(
        api=f"POST {_API}/transfer",
        page=f"{_PAGE}/access/transfer/",
        machine="vm",
        possible=STATES,
    ),
    "restore from bin": Change(
        api=f"POST {_API}/take-back",
        page="POST /machines/bin/{uuid}/restore/",
        machine="binned",
        possible=("in the bin",),
        offered=("?part=machine", "?part=restore"),
    ),
}
MAKING = {"copy": "linked", "start": True, "cloud_init": True}
ASKERS = ("owner", "member", "viewer", "outsider")


def put(vm: VM, state: str) -> None:
    """The machine as it is then, whatever it was."""
    observed = {
        "saved": "shutoff",
        "host down": "running",
        "busy": "running",
        "shutting down": "running",
        "being made": "unknown",
        "in the bin": "shutoff",
    }.get(state, state)
    now = timezone.now()
    binned = state == "in the bin"
    VM.objects.filter(pk=vm.pk).update(
        observed=observed,
        saved=state == "saved",
        binned_at=now if binned else None,
        bin_until=now + timedelta(days=7) if binned else None,
    )
    if state == "host down":
        type(vm.host).objects.filter(pk=vm.host_id).update(reach="down")  # type: ignore[union-attr]
    works = {"busy": "vm.reboot", "shutting down": "vm.shutdown", "being made": "vm.create"}
    if kind := works.get(state):
        Job.objects.create(
            kind=kind,
            vm=vm,
            team=vm.team,
            target_name=vm.name,
            state="running",
            params=MAKING if kind == "vm.create" else {},
            observing=kind == "vm.shutdown",
        )


def as_in(example: Example, vm: VM) -> Example:
    return replace(example, at=example.at | {"uuid": vm.uuid})


@pytest.mark.parametrize("name", CHANGES)
def test_change(name: str, world: World, examples: dict[str, Example]) -> None:
    change = CHANGES[name]
    vm = world.things[change.machine]
    rule = RULES[WAYS[change.api]]
    wrong = []
    for state in STATES:
        for role in (*ASKERS, *change.also):
            able = rule[role] == "yes"
            done = able and state in change.possible
            answers = []
            for way in (change.api, change.page):
                with transaction.atomic():
                    cache.clear()
                    put(vm, state)
                    answers.append(ask(world, way, as_in(examples.get(way, Example()), vm), role))
                    transaction.set_rollback(True)
            told = [outcome(answer, Example(), rule[role]) for answer in answers]
            if able and not done:
                api, page = answers
                why = api.json()
                fits = api.status_code == page.status_code == 409 and why["code"] and why["detail"]
                # The page says just the same, as a toast or beside the form.
                if not fits or why["detail"] not in html.unescape(page.content.decode()):
                    wrong.append((state, role, told))
            elif told != [rule[role]] * 2:
                wrong.append((state, role, told))
            if change.offered and role != "outsider":
                wrong += _not_as_offered(world, change, vm, state, role, done=done)
    assert not wrong, "\n".join(str(one) for one in wrong)


def _not_as_offered(
    world: World, change: Change, vm: VM, state: str, role: str, *, done: bool
) -> list[object]:
    """The page has the button or form just where it would be done."""
    where, what = change.offered
    with transaction.atomic():
        put(vm, state)
        page = ask(world, f"GET /machines/{vm.uuid}/{where}", Example(), role)
        transaction.set_rollback(True)
    shown = html.unescape(page.content.decode()) if page.status_code == 200 else ""
    return [] if (what in shown) is done else [(state, role, "offered", what in shown)]


def test_every_change_of_a_machine_is_here() -> None:
    """But for power (in its own matrix), consoles, and what is no change of the machine."""
    time = ("/extend", "/time-requests", "/keep", "/guest/refresh", "/quota/check")
    apart = (*time, "/console", "/keys", "{share_id}", "DELETE /api/v1/vms/{uuid}/transfer")
    power = (*lifecycle.VERBS, *(verb.replace("_", "-") for verb in lifecycle.VERBS))
    ways = {way for way in WAYS if "/api/v1/vms/{uuid}" in way and not way.startswith("GET ")}
    left = {
        way
        for way in ways - {change.api for change in CHANGES.values()}
        if not any(word in way for word in apart) and way.rsplit("/", 1)[1] not in power
    }
    assert left == {"DELETE /api/v1/vms/{uuid}"}
