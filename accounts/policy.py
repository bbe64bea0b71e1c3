"""The one door: what a person may do with an object.

Views, API, WebSockets, consoles and commands all ask here. The table of
``docs/admin/users.md`` is this module's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.contrib.auth.models import AnonymousUser
from django.db.models import Q

from accounts import audit
from accounts.errors import Forbidden, NotFound
from accounts.models import MachineShare, Membership, QuotaRequest, Team, User

if TYPE_CHECKING:
    from django.db.models import Model

Person = User | AnonymousUser | None


class Action(str, Enum):
    SEE = "see"
    POWER = "power"
    CONSOLE_VIEW = "console_view"
    CONSOLE_CONTROL = "console_control"
    EDIT = "edit"
    DELETE = "delete"
    SHARE = "share"  # who else has access, and giving it away
    MOVE = "move"  # to another host
    TEAM_SEE = "team_see"
    TEAM_CREATE_VM = "team_create_vm"
    TEAM_MANAGE = "team_manage"
    JOB_SEE = "job_see"
    JOB_CANCEL = "job_cancel"
    REQUEST_SEE = "request_see"
    REQUEST_EDIT = "request_edit"
    REQUEST_DECIDE = "request_decide"
    IMAGE_USE = "image_use"
    SITE_ADMIN = "site_admin"


class Relation(str, Enum):
    ADMIN = "admin"
    OWNER = "owner"
    MANAGER = "manager"
    MEMBER = "member"
    VIEWER = "viewer"
    SHARED_MANAGER = "shared_manager"  # of one machine that was shared with them


_MACHINE_ALL = frozenset(
    {
        Action.SEE,
        Action.POWER,
        Action.CONSOLE_VIEW,
        Action.CONSOLE_CONTROL,
        Action.EDIT,
        Action.DELETE,
        Action.SHARE,
    }
)
_MACHINE: Mapping[Relation, frozenset[Action]] = {
    Relation.ADMIN: _MACHINE_ALL | {Action.MOVE},
    Relation.OWNER: _MACHINE_ALL,
    Relation.MANAGER: _MACHINE_ALL,
    Relation.MEMBER: frozenset(
        {Action.SEE, Action.POWER, Action.CONSOLE_VIEW, Action.CONSOLE_CONTROL}
    ),
    Relation.VIEWER: frozenset({Action.SEE, Action.CONSOLE_VIEW}),
    Relation.SHARED_MANAGER: _MACHINE_ALL - {Action.SHARE},
}
# What a share makes of a person; an operator is to that machine what a member is.
_SHARED: Mapping[str, Relation] = {
    MachineShare.Role.VIEWER.value: Relation.VIEWER,
    MachineShare.Role.OPERATOR.value: Relation.MEMBER,
    MachineShare.Role.MANAGER.value: Relation.SHARED_MANAGER,
}
# Of several ways to a machine the strongest counts.
_STRENGTH = (
    Relation.VIEWER,
    Relation.MEMBER,
    Relation.SHARED_MANAGER,
    Relation.MANAGER,
    Relation.OWNER,
    Relation.ADMIN,
)
_TEAM_ALL = frozenset({Action.TEAM_SEE, Action.TEAM_CREATE_VM, Action.TEAM_MANAGE})
_TEAM: Mapping[Relation, frozenset[Action]] = {
    Relation.ADMIN: _TEAM_ALL,
    Relation.MANAGER: _TEAM_ALL,
    Relation.MEMBER: frozenset({Action.TEAM_SEE, Action.TEAM_CREATE_VM}),
    Relation.VIEWER: frozenset({Action.TEAM_SEE}),
}
_JOB: Mapping[Relation, frozenset[Action]] = {
    Relation.ADMIN: frozenset({Action.JOB_SEE, Action.JOB_CANCEL}),
    Relation.OWNER: frozenset({Action.JOB_SEE, Action.JOB_CANCEL}),
    Relation.MANAGER: frozenset({Action.JOB_SEE, Action.JOB_CANCEL}),
    Relation.MEMBER: frozenset({Action.JOB_SEE}),
    Relation.VIEWER: frozenset({Action.JOB_SEE}),
    Relation.SHARED_MANAGER: frozenset({Action.JOB_SEE, Action.JOB_CANCEL}),
}
# Of requests for more quota. The owner is who asks, whatever else they are: nobody decides their
# own. A manager decides what raises a member's limit, not the team's.
_REQUEST: Mapping[Relation, frozenset[Action]] = {
    Relation.ADMIN: frozenset({Action.REQUEST_SEE, Action.REQUEST_DECIDE}),
    Relation.OWNER: frozenset({Action.REQUEST_SEE, Action.REQUEST_EDIT}),
    Relation.MANAGER: frozenset({Action.REQUEST_SEE, Action.REQUEST_DECIDE}),
}
# What must be allowed for the object to exist for a person at all.
_SEEING: Mapping[Action, Action] = {
    Action.POWER: Action.SEE,
    Action.CONSOLE_VIEW: Action.SEE,
    Action.CONSOLE_CONTROL: Action.CONSOLE_VIEW,
    Action.EDIT: Action.SEE,
    Action.DELETE: Action.SEE,
    Action.SHARE: Action.SEE,
    Action.MOVE: Action.SEE,
    Action.TEAM_CREATE_VM: Action.TEAM_SEE,
    Action.TEAM_MANAGE: Action.TEAM_SEE,
    Action.JOB_CANCEL: Action.JOB_SEE,
    Action.REQUEST_EDIT: Action.REQUEST_SEE,
    Action.REQUEST_DECIDE: Action.REQUEST_SEE,
}

# What other apps grant beside the roles: for a person's id, actions by the UUID of the machine.
# Only what is in GRANTABLE: an invite to a console opens the console and nothing else.
Grants = Mapping[UUID, frozenset[Action]]
GRANTABLE = frozenset({Action.CONSOLE_VIEW, Action.CONSOLE_CONTROL})
_granters: list[Callable[[int], Grants]] = []


def register_grant(granter: Callable[[int], Grants]) -> None:
    """Asked at most once for each door, and only after the roles have said no."""
    if granter not in _granters:
        _granters.append(granter)


def granted_machines(user_id: int) -> set[UUID]:
    """Machines of which granters give this person something."""
    return {uuid for granter in _granters for uuid in granter(user_id)}


@dataclass(kw_only=True)
class Door:
    """The door for one person. Reads their teams and what is shared with them once: use it where
    a list asks for each row, never keep it longer than a request."""

    user: Person
    _roles: dict[int, Relation] | None = field(default=None, repr=False)
    _grants: list[Grants] | None = field(default=None, repr=False)
    _shares: dict[UUID, Relation] | None = field(default=None, repr=False)

    def can(self, action: Action, obj: Any = None) -> bool:
        person = _active(self.user)
        if person is None:
            return False
        match action:
            case Action.SITE_ADMIN:
                return person.is_admin
            case Action.IMAGE_USE:
                return person.is_admin or (
                    obj.state == "ready" and (obj.published or obj.team_id in self.roles())
                )
            case Action.TEAM_SEE | Action.TEAM_CREATE_VM | Action.TEAM_MANAGE:
                return action in _allowed(_TEAM, self.relation(obj))
            case Action.JOB_SEE | Action.JOB_CANCEL:
                return action in _allowed(_JOB, self._job_relation(person, obj))
            case Action.REQUEST_SEE | Action.REQUEST_EDIT | Action.REQUEST_DECIDE:
                return self._may_with_request(person, action, obj)
            case _:
                return action in _allowed(_MACHINE, self.relation(obj)) or self._granted(
                    person, action, obj
                )

    def relation(self, obj: Any) -> Relation | None:
        """What a person is to a machine or a team; the strongest when several hold."""
        person = _active(self.user)
        if person is None or obj is None:
            return None
        if person.is_admin:
            return Relation.ADMIN
        if isinstance(obj, Team):
            return self.roles().get(obj.pk)
        if obj.owner_id == person.pk:
            return Relation.OWNER
        ways = {self.roles().get(obj.team_id)}
        if Relation.MANAGER not in ways and (uuid := getattr(obj, "uuid", None)) is not None:
            ways.add(self.shares().get(uuid))
        return max((way for way in ways if way), key=_STRENGTH.index, default=None)

    def shares(self) -> dict[UUID, Relation]:
        """Machine -> what its shares make of the person, by themselves or by a team of theirs.
        Who is only a viewer in the team only views."""
        if self._shares is None:
            self._shares = {}
            person = _active(self.user)
            rows = (
                MachineShare.objects.filter(Q(user=person) | Q(team__in=list(self.roles())))
                .order_by()
                .values_list("machine", "team_id", "role")
                if person
                else []
            )
            for machine, team_id, role in rows:
                way = _SHARED[role]
                if team_id is not None and self.roles()[team_id] is Relation.VIEWER:
                    way = Relation.VIEWER
                known = self._shares.get(machine, way)
                self._shares[machine] = max(way, known, key=_STRENGTH.index)
        return self._shares

    def is_shared(self, machine: Any) -> bool:
        """Whether they see the machine only because it was shared with them."""
        person = _active(self.user)
        if person is None or person.is_admin or machine.owner_id == person.pk:
            return False
        return machine.team_id not in self.roles() and machine.uuid in self.shares()

    def roles(self) -> dict[int, Relation]:
        """Team id -> role, of the person's teams."""
        if self._roles is None:
            person = _active(self.user)
            rows = (
                Membership.objects.filter(user=person).values_list("team_id", "role")
                if person
                else []
            )
            self._roles = {team_id: Relation(role) for team_id, role in rows}
        return self._roles

    def _granted(self, person: User, action: Action, obj: Any) -> bool:
        uuid = getattr(obj, "uuid", None)
        if action not in GRANTABLE or uuid is None:
            return False
        if self._grants is None:
            self._grants = [granter(person.pk) for granter in _granters]
        return any(action in grants.get(uuid, ()) for grants in self._grants)

    def _may_with_request(self, person: User, action: Action, request: Any) -> bool:
        if request.requester_id == person.pk:
            return action in _REQUEST[Relation.OWNER]
        relation = Relation.ADMIN if person.is_admin else self.roles().get(request.team_id)
        if action is Action.REQUEST_DECIDE and relation is Relation.MANAGER:
            return bool(request.scope == QuotaRequest.Scope.MEMBER)
        return action in _allowed(_REQUEST, relation)

    def _job_relation(self, person: User, job: Any) -> Relation | None:
        """A job about a machine follows the machine: who lost it loses its jobs too."""
        if person.is_admin:
            return Relation.ADMIN
        if job.vm_id is not None:
            relation = self.relation(job.vm)
            if relation is not None and job.actor_id == person.pk:
                return Relation.OWNER
            return relation
        if job.actor_id == person.pk:
            return Relation.OWNER
        return self.roles().get(job.team_id) if job.team_id is not None else None


def _allowed(
    table: Mapping[Relation, frozenset[Action]], relation: Relation | None
) -> frozenset[Action]:
    return table.get(relation, frozenset()) if relation is not None else frozenset()


def _active(user: Person) -> User | None:
    """The person if they may act at all: not anonymous, not deactivated."""
    return user if isinstance(user, User) and user.is_active else None


def door(user: Person) -> Door:
    return Door(user=user)


def can(user: Person, action: Action, obj: Any = None) -> bool:
    return door(user).can(action, obj)


def relation(user: Person, obj: Any) -> str | None:
    """``Relation``'s word for what somebody is to an object, or ``None``."""
    found = door(user).relation(obj)
    return found.value if found else None


def require(user: Person, action: Action, obj: Model | None = None) -> None:
    """Raise unless allowed: ``NotFound`` when they may not even see it, else ``Forbidden``.

    The refusal is written to the audit record, also when the caller's transaction rolls back.
    """
    asked = door(user)
    if asked.can(action, obj):
        return
    audit.record_refusal(user, action.value, obj)
    if action is Action.SITE_ADMIN:
        raise Forbidden("admin_only")
    seeing = _SEEING.get(action)
    if seeing is None or not asked.can(seeing, obj):
        raise NotFound
    raise Forbidden("forbidden")


def require_still(user: User, action: Action, obj: Model | None = None) -> None:
    """``require`` for who was let in before they waited for a lock: the person is read again, for
    they may have lost it, or been deactivated, meanwhile."""
    require(User.objects.get(pk=user.pk), action, obj)
