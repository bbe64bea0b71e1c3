"""A machine's definition as its host has it: read by a worker, kept without secrets, shown.

Whoever may change a machine may read what is stored of it. Admins may also compare that with what
runs. As with the guest's facts, a page shows the copy and has it read again for the next time.
"""

from __future__ import annotations

import difflib
import logging
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from django.utils import timezone

from accounts import messages, policy
from accounts.policy import Action
from hosts.virt import definition
from hosts.virt.errors import HostUnreachable, VirtError
from vms import asking, at_host, state
from vms.models import VM, DefinitionCopy

if TYPE_CHECKING:
    from accounts.models import User

log = logging.getLogger(__name__)

TASK = "vms.read_definition"
FRESH_S = 30
MOST_CHARACTERS = 256 * 1024
LARGE = "definition.large"


@dataclass(frozen=True, kw_only=True)
class DefinitionView:
    stored: str
    live: str | None  # None: not for this person; "" while it is off
    differences: list[str] | None
    observed_at: datetime | None
    trouble: str


def ask(vm: VM) -> None:
    """Have it read by a worker, unless that has just been asked. Never raises, never waits."""
    if vm.host_id is not None:
        asking.ask(TASK, vm.uuid, every_s=FRESH_S)


def take(uuid: UUID) -> bool:
    """Read it now; called by the worker. False: nothing new is known."""
    vm = VM.objects.alive().select_related("host").filter(uuid=uuid).first()
    if vm is None or vm.host is None:
        return False
    found = {"tried_at": timezone.now()}
    try:
        at = at_host.hypervisor(vm)
        stored = definition.shown(at.domain_xml(vm.uuid, inactive=True))
        live = definition.shown(at.domain_xml(vm.uuid)) if vm.observed in state.ON else ""
    except HostUnreachable:
        return False
    except (VirtError, ValueError) as error:
        log.info("no definition of %s: %s", uuid, error)
        code = error.code if isinstance(error, VirtError) else LARGE
        DefinitionCopy.objects.update_or_create(vm=vm, defaults=found | {"error_code": code})
        state.announce(vm)
        return False
    if max(len(stored), len(live)) > MOST_CHARACTERS:
        DefinitionCopy.objects.update_or_create(vm=vm, defaults=found | {"error_code": LARGE})
        return False
    before = DefinitionCopy.objects.filter(vm=vm).first()
    copy = {"stored": stored, "live": live, "observed_at": found["tried_at"], "error_code": ""}
    DefinitionCopy.objects.update_or_create(vm=vm, defaults=found | copy)
    if before is None or (before.stored, before.live) != (stored, live) or before.error_code:
        state.announce(vm)
    return True


def of(vm: VM, user: User) -> DefinitionView:
    """Raises NotFound, Forbidden."""
    policy.require(user, Action.EDIT, vm)
    copy = DefinitionCopy.objects.filter(vm=vm).first() or DefinitionCopy(vm=vm)
    compares = policy.can(user, Action.SITE_ADMIN)
    return DefinitionView(
        stored=copy.stored,
        live=copy.live if compares else None,
        differences=_differences(copy) if compares else None,
        observed_at=copy.observed_at,
        trouble=messages.text(copy.error_code, {"name": vm.name}) if copy.error_code else "",
    )


def _differences(copy: DefinitionCopy) -> list[str]:
    """Lines as ``diff -u`` has them, without what only something that runs has."""
    if not copy.live:
        return []
    stored, live = (definition.comparable(text) for text in (copy.stored, copy.live))
    lines = difflib.unified_diff(
        stored.splitlines(), live.splitlines(), "stored", "live", lineterm="", n=2
    )
    return list(lines)
