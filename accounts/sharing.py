"""One machine shown or lent to people and teams that it does not belong to.

A machine here is any object with ``uuid``, ``name``, ``owner_id`` and ``team_id``; what a share
allows is ``accounts.policy``'s table. Who keeps something open for a person registers with
``accounts.revocations``; who must hear that more is visible now, with ``on_shared``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol, cast
from uuid import UUID

from django.db import transaction
from django.db.models import Q, QuerySet

from accounts import audit, policy
from accounts.errors import Conflict, Invalid, NotFound
from accounts.models import MachineShare, Membership, Team, User
from accounts.notifications import notify
from accounts.policy import Action
from accounts.revocations import Revocation, announce_on_commit

if TYPE_CHECKING:
    from django.db.models import Model

MAX_SHARES = 100  # of one machine
Role = MachineShare.Role
Listener = Callable[[UUID, "int | None", "int | None"], None]
_listeners: list[Listener] = []


class Machine(Protocol):
    pk: Any
    uuid: UUID
    name: str
    owner_id: int
    team_id: int


def on_shared(listener: Listener) -> Listener:
    """Register ``listener(machine, user_id, team_id)``, called after the commit of a share."""
    if listener not in _listeners:
        _listeners.append(listener)
    return listener


def machines_shared_with(user: User) -> QuerySet[MachineShare, UUID]:
    """The uuids, as a subquery for ``uuid__in``."""
    return (
        MachineShare.objects.filter(Q(user=user) | Q(team__in=user.memberships.values("team")))
        .order_by()
        .values_list("machine", flat=True)
    )


def shared_among(uuids: QuerySet[Any, Any]) -> set[UUID]:
    """Those of the machines that are shared with anybody."""
    return set(MachineShare.objects.filter(machine__in=uuids).values_list("machine", flat=True))


def of(machine: Machine) -> QuerySet[MachineShare, MachineShare]:
    return MachineShare.objects.filter(machine=machine.uuid).select_related(
        "user", "team", "granted_by"
    )


def find_team(actor: User, team_id: int) -> Team:
    """A team that the actor is in (an admin: any): nobody puts machines before strangers."""
    row = Team.objects.exclude(kind=Team.Kind.PERSONAL).filter(pk=team_id).first()
    if row is None or not policy.can(actor, Action.TEAM_SEE, row):
        raise Invalid("share.unknown_team", fields={"team": "share.unknown_team"})
    return row


def find_person(username: str) -> User:
    found = User.objects.filter(username=username.strip(), is_active=True).first()
    if found is None:
        raise Invalid("user.unknown", fields={"username": "user.unknown"}, username=username)
    return found


def share(
    machine: Machine, *, actor: User, role: str, user: User | None = None, team: Team | None = None
) -> MachineShare:
    """Share with a person or a team, or change what is shared with them.

    Lowering a role ends at once what is open and no longer allowed.
    """
    policy.require(actor, Action.SHARE, cast("Model", machine))
    if role not in Role.values:
        raise Invalid("share.role_unknown", fields={"role": "share.role_unknown"})
    if (user is None) == (team is None):
        raise Invalid("share.with_whom", fields={"username": "share.with_whom"})
    if (user is not None and user.pk == machine.owner_id) or (
        team is not None and team.pk == machine.team_id
    ):
        raise Conflict("share.is_theirs")
    with transaction.atomic():
        # Serialises the shares of one machine: its owner's row stands for it here.
        User.objects.select_for_update().get(pk=machine.owner_id)
        rows = MachineShare.objects.filter(machine=machine.uuid)
        row = rows.filter(user=user, team=team).first()
        before = row.role if row else None
        if row is not None and before == role:
            return row
        if row is None:
            if rows.count() >= MAX_SHARES:
                raise Conflict("share.too_many", maximum=MAX_SHARES)
            row = MachineShare.objects.create(
                machine=machine.uuid, user=user, team=team, role=role, granted_by=actor
            )
            _tell(row, "sharing.shared", machine, actor)
        else:
            row.role, row.granted_by = role, actor
            row.save(update_fields=["role", "granted_by"])
            _end_what_is_open(row)
        _record(actor, "vm.share", machine, row, before={"role": before}, after={"role": role})
        _announce(row)
    return row


def unshare(machine: Machine, share_id: int, *, actor: User) -> None:
    """End a share: by who may share, or by the person it was made for."""
    row = of(machine).filter(pk=share_id).first()
    if row is None or row.user_id != actor.pk:
        policy.require(actor, Action.SHARE, cast("Model", machine))
    if row is None:
        raise NotFound
    with transaction.atomic():
        end([row])
        _record(actor, "vm.unshare", machine, row, before={"role": row.role}, after={})
        if row.user_id != actor.pk:
            _tell(row, "sharing.ended", machine, actor)


def end(rows: Iterable[MachineShare]) -> None:
    """Delete shares and end what they kept open, in the caller's transaction."""
    for row in rows:
        MachineShare.objects.filter(pk=row.pk).delete()
        _end_what_is_open(row)
        _announce(row)


def people_of(row: MachineShare) -> list[int]:
    """The ids of those whom a share reaches."""
    if row.user_id is not None:
        return [row.user_id]
    return list(Membership.objects.filter(team=row.team_id).values_list("user_id", flat=True))


def _end_what_is_open(row: MachineShare) -> None:
    for user_id in people_of(row):
        announce_on_commit(Revocation(user_id=user_id, machine=row.machine, reason="unshared"))


def _announce(row: MachineShare) -> None:
    def announce() -> None:
        for listener in tuple(_listeners):
            listener(row.machine, row.user_id, row.team_id)

    transaction.on_commit(announce)


def _tell(row: MachineShare, code: str, machine: Machine, actor: User) -> None:
    """A person, not each member of a team: they see it in their list."""
    if row.user is not None and row.user != actor:
        notify(
            row.user,
            code,
            url=f"/machines/{machine.uuid}/" if code == "sharing.shared" else "",
            who=actor.display_name(),
            machine=machine.name,
            role=row.role,
        )


def _record(
    actor: User,
    verb: str,
    machine: Machine,
    row: MachineShare,
    *,
    before: dict[str, Any],
    after: dict[str, Any],
) -> None:
    whom = {"user": row.user.username} if row.user else {"team": row.team.name if row.team else ""}
    audit.record(actor, verb, cast("Model", machine), before=before, after=after | whom)
