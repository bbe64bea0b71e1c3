"""A machine's published ports, in the reader's language. Database only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.utils.translation import gettext as _

from accounts import messages, policy
from accounts.policy import Action
from vms.lifecycle import active_job
from vms.models import VM, PublishedPort
from vms.ports import rules

if TYPE_CHECKING:
    from accounts.models import User

OPEN, OPENING, CLOSED, TROUBLE = "open", "opening", "closed", "trouble"


@dataclass(frozen=True, kw_only=True)
class PortView:
    row: PublishedPort
    address: str  # "kvm.example.org:20014"
    state: str  # open | opening | closed | trouble
    word: str
    why: str  # of what is not open, and of what nobody got through
    can_reopen: bool


@dataclass(frozen=True, kw_only=True)
class PortsView:
    ports: list[PortView]
    can_edit: bool
    why_not: str  # "" when one can be published now


def of(vm: VM, user: User) -> PortsView | None:
    """None where this site publishes no ports, and the machine has none."""
    rows = list(vm.published_ports.select_related("opened_by"))
    if not rules.is_on() and not rows:
        return None
    able = policy.can(user, Action.EDIT, vm)
    code = rules.why_not_publish(vm, active_job(vm)) if able else "vm.why.not_allowed"
    if not rules.is_on():
        code = "port.off"
    params = {"host": vm.host.name if vm.host else "", "name": vm.name}
    return PortsView(
        ports=[view(vm, row, able=able) for row in rows],
        can_edit=able,
        why_not=messages.text(code, params) if code else "",
    )


def view(vm: VM, row: PublishedPort, *, able: bool) -> PortView:
    row.vm = vm
    code = rules.why_closed(row, policy.door(row.opened_by))
    if code:
        state = CLOSED
    elif row.problem:
        state, code = TROUBLE, row.problem
    else:
        state = OPEN if row.listening else OPENING
    return PortView(
        row=row,
        address=f"{rules.public_name()}:{row.public_port}",
        state=state,
        word=_words()[state],
        why=messages.text(code, {"host": vm.host.name if vm.host else ""}) if code else "",
        can_reopen=able and rules.is_on() and code == "port.why.nobody",
    )


def _words() -> dict[str, str]:
    return {
        OPEN: _("open"),
        OPENING: _("being opened"),
        CLOSED: _("closed"),
        TROUBLE: _("no way through"),
    }
