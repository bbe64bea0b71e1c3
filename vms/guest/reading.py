"""The facts of a machine's guest agent: read by a worker, kept in ``GuestReport``.

A page or the API shows the row and has it read again for the next time, at most every half
minute; nobody who looks at a page waits for a guest.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from accounts import policy
from accounts.errors import Conflict
from accounts.policy import Action
from hosts.virt.errors import HostUnreachable, UnknownVirtError, VirtError
from vms import asking, at_host, state
from vms.lifecycle import active_job
from vms.models import VM, GuestReport, Nic
from vms.verbs import Situation, Verb, why_not

if TYPE_CHECKING:
    from accounts.models import User
    from hosts.virt.spec import GuestFacts

log = logging.getLogger(__name__)

TASK = "vms.read_guest"
FRESH_S = 30  # younger than this, it is not asked again because somebody looks
PRESSED_S = 3  # likewise when somebody presses the button
NONSENSE = "guest.nonsense"


def ask(vm: VM, *, every_s: int = FRESH_S) -> bool:
    """Have it read by a worker, unless that has just been asked. Never raises, never waits."""
    if vm.observed != VM.Observed.RUNNING:
        return False
    return asking.ask(TASK, vm.uuid, every_s=every_s)


def refresh(vm: VM, *, actor: User) -> None:
    """Somebody wants it asked now. Raises NotFound, Conflict."""
    policy.require(actor, Action.SEE, vm)
    if code := why_not(Situation.of(vm, active_job(vm)), Verb.REBOOT):
        raise Conflict(code, name=vm.name, host=vm.host.name if vm.host else "")
    ask(vm, every_s=PRESSED_S)


def take(uuid: UUID) -> bool:
    """Ask the agent now; called by the worker. False: nothing new is known."""
    vm = VM.objects.in_use().select_related("host").filter(uuid=uuid).first()
    if vm is None or vm.host is None or vm.observed != VM.Observed.RUNNING:
        return False
    active = active_job(vm)
    if active is not None and not active.observing:
        return False  # it may be frozen, or about to stop
    now = timezone.now()
    try:
        facts = at_host.hypervisor(vm).guest_facts(vm.uuid)
    except HostUnreachable:
        return False
    except VirtError as error:
        log.info("nothing from the agent of %s: %s [%s]", uuid, error.raw, error.ref)
        code = NONSENSE if isinstance(error, UnknownVirtError) else error.code
        silent = {"tried_at": now, "error_code": code, "error_ref": error.ref}
        GuestReport.objects.update_or_create(vm=vm, defaults=silent)
        state.announce(vm)
        return False
    _keep(vm, facts)
    return True


@transaction.atomic
def _keep(vm: VM, facts: GuestFacts) -> None:
    now = timezone.now()
    GuestReport.objects.update_or_create(
        vm=vm,
        defaults={
            "facts": dataclasses.asdict(facts),
            "observed_at": now,
            "tried_at": now,
            "error_code": "",
            "error_ref": "",
        },
    )
    VM.objects.filter(pk=vm.pk, agent_seen=False).update(agent_seen=True)
    # What a DHCP server of ours has leased is known better than what a guest says.
    told = {card.mac: list(card.addresses) for card in facts.cards}
    for nic in vm.nics.filter(addresses=[], mac__in=told):
        Nic.objects.filter(pk=nic.pk).update(addresses=told[nic.mac], addresses_at=now)
    state.announce(vm)
