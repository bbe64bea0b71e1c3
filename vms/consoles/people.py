"""Who is at a console, as its page shows them: one entry for each person."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from accounts import policy
from accounts.policy import Action
from vms.consoles import sharing

if TYPE_CHECKING:
    from accounts.models import User
    from vms.models import VM


@dataclass(frozen=True, kw_only=True)
class PersonView:
    user_id: int
    name: str
    initials: str
    kinds: str  # "VNC, Serial"
    has_control: bool
    asks: bool
    is_me: bool
    invited: bool
    may_get: bool  # control may be handed to them by who reads this


@dataclass(frozen=True, kw_only=True)
class PeopleView:
    people: list[PersonView]
    summary: str
    asking: str  # a sentence for who can hand over, ""
    sees_machine: bool  # not only its console, by an invite
    records_screen: bool
    records_line: bool
    state: sharing.SharingState


def view(vm: VM, user: User) -> PeopleView:
    state = sharing.state(vm, user)
    people = _people(state)
    asking = [person.name for person in people if person.asks and not person.is_me]
    recorded = {row.kind for row in state.recordings}
    return PeopleView(
        people=people,
        summary=_summary(state, people),
        asking=_("%(names)s: asks for control") % {"names": ", ".join(asking)}
        if asking and state.i_may.give
        else "",
        sees_machine=policy.can(user, Action.SEE, vm),
        records_screen="vnc" in recorded,
        records_line="serial" in recorded,
        state=state,
    )


def initials(name: str) -> str:
    """Of at most two words; of a Chinese name its last character."""
    words = name.split()
    if not words:
        return "?"
    if len(words) == 1:
        return words[0][-1] if not words[0].isascii() else words[0][:2].upper()
    return (words[0][0] + words[-1][0]).upper()


def _people(state: sharing.SharingState) -> list[PersonView]:
    labels = {"vnc": "VNC", "serial": str(_("Serial"))}
    asking = {ask.user_id for ask in state.asks}
    by_id: dict[int, list[sharing.Person]] = {}
    for person in state.people:
        by_id.setdefault(person.user_id, []).append(person)
    found = []
    for user_id, rows in by_id.items():
        first = rows[0]
        kinds = dict.fromkeys(labels.get(row.kind, row.kind) for row in rows)
        has_control = user_id == state.holder_id
        found.append(
            PersonView(
                user_id=user_id,
                name=first.name,
                initials=initials(first.name),
                kinds=", ".join(kinds),
                has_control=has_control,
                asks=user_id in asking,
                is_me=first.is_me,
                invited=first.invited,
                may_get=state.i_may.give and not has_control and not first.is_me,
            )
        )
    return sorted(found, key=lambda one: (not one.has_control, not one.asks, one.name))


def _summary(state: sharing.SharingState, people: list[PersonView]) -> str:
    count = len(people)
    here = ngettext("%(n)d person here", "%(n)d people here", count) % {"n": count}
    if not state.holder_name:
        return str(here)
    return _("%(here)s; %(name)s has control") % {"here": here, "name": state.holder_name}
