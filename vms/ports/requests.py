"""Publish a port of a machine, open it again, close it. No hypervisor is changed by that, so it is
no job: what is written is in force, and ``publisher`` follows within a second."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import IntegrityError, transaction

from accounts import audit, policy, quotas
from accounts.errors import Conflict, Invalid, NotFound
from accounts.models import Allocation, Resource
from accounts.policy import Action
from vms import state, timeline
from vms.lifecycle import active_job
from vms.models import VM, PublishedPort
from vms.models.ports import PORTS
from vms.ports import rules

if TYPE_CHECKING:
    from accounts.models import User

# Somebody in another team may be given the same free one in this moment.
TRIES = 5


def publish(vm: VM, *, actor: User, guest_port: int, note: str = "") -> PublishedPort:
    """The site chooses its own port. Raises NotFound, Forbidden, Invalid, Conflict (``port.off``,
    ``port.full``, ``vm.why.*``), QuotaExceeded."""
    policy.require(actor, Action.EDIT, vm)
    _must_be_on()
    if not PORTS[0] <= guest_port <= PORTS[1]:
        raise Invalid("port.wrong", fields={"guest_port": "port.wrong"})
    note = note.strip()
    if len(note) > rules.NOTE_MAX or not note.isprintable():
        raise Invalid("port.note_wrong", fields={"note": "port.note_wrong"}, limit=rules.NOTE_MAX)
    with transaction.atomic():
        row = _locked(vm)
        if code := rules.why_not_publish(row, active_job(row)):
            raise Conflict(code, name=row.name, host=row.host.name if row.host else "")
        if row.published_ports.filter(guest_port=guest_port).exists():
            raise Invalid("port.taken", fields={"guest_port": "port.taken"}, port=guest_port)
        quotas.allocate(row, {Resource.PORTS: 1}, state=Allocation.State.ACTIVE)
        port = _with_a_free_one(row, actor, guest_port, note)
        audit.record(actor, "vm.publish_port", row, after=_facts(port), team_id=row.team_id)
        timeline.record(
            row, "port.published", actor=actor, port=guest_port, public=port.public_port
        )
        state.announce(row)
    return port


def reopen(port: PublishedPort, *, actor: User) -> None:
    """It is open for ``actor`` from now on: after the machine was given away, or when who had it
    open may not change the machine any more."""
    policy.require(actor, Action.EDIT, port.vm)
    _must_be_on()
    with transaction.atomic():
        row = _locked(port.vm)
        if not row.published_ports.filter(pk=port.pk).update(opened_by=actor, problem=""):
            raise NotFound("port.not_found")
        audit.record(actor, "vm.open_port", row, after=_facts(port), team_id=row.team_id)
        timeline.record(
            row, "port.opened", actor=actor, port=port.guest_port, public=port.public_port
        )
        state.announce(row)


def close(port: PublishedPort, *, actor: User) -> None:
    """For good: the site's port is free for others. Possible whatever the machine does."""
    policy.require(actor, Action.EDIT, port.vm)
    with transaction.atomic():
        row = _locked(port.vm)
        if not row.published_ports.filter(pk=port.pk).delete()[0]:
            raise NotFound("port.not_found")
        quotas.settle(row, {Resource.PORTS: row.published_ports.count()})
        audit.record(actor, "vm.close_port", row, before=_facts(port), team_id=row.team_id)
        timeline.record(
            row, "port.closed", actor=actor, port=port.guest_port, public=port.public_port
        )
        state.announce(row)


def find(vm: VM, pk: int) -> PublishedPort:
    """Of a machine that the person sees. NotFound."""
    port = vm.published_ports.select_related("opened_by").filter(pk=pk).first()
    if port is None:
        raise NotFound("port.not_found")
    port.vm = vm
    return port


# --- inside --------------------------------------------------------------------------------------
def _must_be_on() -> None:
    if not rules.is_on():
        raise Conflict("port.off")


def _locked(vm: VM) -> VM:
    quotas.lock_team(vm.team_id)
    rows = VM.objects.alive().select_related("host").select_for_update(of=("self",))
    row = rows.filter(pk=vm.pk, team=vm.team_id).first()
    if row is None:
        raise Conflict("vm.why.deleted", name=vm.name)
    return row


def _with_a_free_one(vm: VM, actor: User, guest_port: int, note: str) -> PublishedPort:
    """By chance, so that a number which somebody gave up rarely leads to another's machine."""
    for _try in range(TRIES):
        taken = set(PublishedPort.objects.values_list("public_port", flat=True))
        free = [port for port in settings.PUBLISH_PORTS if port not in taken]
        if not free:
            raise Conflict("port.full")
        try:
            with transaction.atomic():
                return PublishedPort.objects.create(
                    vm=vm,
                    guest_port=guest_port,
                    public_port=secrets.choice(free),
                    note=note,
                    opened_by=actor,
                )
        except IntegrityError:
            continue
    raise Conflict("port.full")


def _facts(port: PublishedPort) -> dict[str, int]:
    return {"port": port.guest_port, "public": port.public_port}
