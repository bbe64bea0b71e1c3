"""Teams and who is in them. A person's own team is fixed; see ``accounts.services``."""

from __future__ import annotations

from django.db import IntegrityError, transaction
from django.db.models import QuerySet

from accounts import audit, policy
from accounts.errors import Conflict, Invalid, NotFound
from accounts.models import Membership, Team, User
from accounts.policy import Action
from accounts.quotas import lock_team
from accounts.revocations import Revocation, announce_on_commit

_NAME_MAX = 64


def visible_to(user: User) -> QuerySet[Team, Team]:
    """The teams that a person may see: their own; for an admin all."""
    if user.is_admin:
        return Team.objects.all()
    return Team.objects.filter(memberships__user=user)


def create_team(*, actor: User, name: str, manager: User | None = None) -> Team:
    """A team with its first manager (the admin who makes it, unless told otherwise)."""
    policy.require(actor, Action.SITE_ADMIN)
    name = _clean_name(name)
    try:
        with transaction.atomic():
            team = Team.objects.create(name=name, kind=Team.Kind.TEAM)
            Membership.objects.create(
                team=team, user=manager or actor, role=Membership.Role.MANAGER
            )
            audit.record(actor, "team.create", team, after={"manager": (manager or actor).username})
    except IntegrityError as exc:
        raise _name_taken(name) from exc
    return team


def rename_team(*, actor: User, team: Team, name: str) -> None:
    policy.require(actor, Action.TEAM_MANAGE, team)
    name = _clean_name(name)
    _refuse_personal(team)
    before = team.name
    try:
        with transaction.atomic():
            team.name = name
            team.save(update_fields=["name"])
            audit.record(actor, "team.rename", team, before={"name": before}, after={"name": name})
    except IntegrityError as exc:
        raise _name_taken(name) from exc


def set_member(*, actor: User, team: Team, username: str, role: str) -> Membership:
    """Take somebody into the team, or give a member another role."""
    policy.require(actor, Action.TEAM_MANAGE, team)
    _refuse_personal(team)
    if role not in Membership.Role.values:
        raise Invalid("team.role_unknown", fields={"role": "team.role_unknown"})
    user = User.objects.filter(username=username, is_active=True).first()
    if user is None:
        raise Invalid("user.unknown", fields={"username": "user.unknown"}, username=username)
    with transaction.atomic():
        lock_team(team)
        row = Membership.objects.filter(team=team, user=user).first()
        before = row.role if row else None
        if row is None:
            row = Membership.objects.create(team=team, user=user, role=role)
        elif before != role:
            if before == Membership.Role.MANAGER:
                _refuse_last_manager(team, user)
            row.role = role
            row.save(update_fields=["role"])
            announce_on_commit(Revocation(user_id=user.pk, team_id=team.pk, reason="role_changed"))
        audit.record(
            actor,
            "team.set_member",
            user,
            before={"role": before},
            after={"role": role, "team": team.name},
            team_id=team.pk,
        )
    return row


def remove_member(*, actor: User, team: Team, user_id: int) -> None:
    """End a membership: by a manager, or by the member. Machines keep owner and team."""
    row = Membership.objects.filter(team=team, user_id=user_id).select_related("user").first()
    if actor.pk != user_id or row is None:
        policy.require(actor, Action.TEAM_MANAGE, team)
    if row is None:
        raise NotFound
    _refuse_personal(team)
    with transaction.atomic():
        lock_team(team)
        if row.role == Membership.Role.MANAGER:
            _refuse_last_manager(team, row.user)
        row.delete()
        audit.record(
            actor,
            "team.remove_member",
            row.user,
            before={"role": row.role, "team": team.name},
            team_id=team.pk,
        )
        announce_on_commit(Revocation(user_id=user_id, team_id=team.pk, reason="left_team"))


def _clean_name(name: str) -> str:
    name = name.strip()
    if not 1 <= len(name) <= _NAME_MAX or not name.isprintable():
        raise Invalid("team.name_invalid", fields={"name": "team.name_invalid"})
    return name


def _name_taken(name: str) -> Invalid:
    return Invalid("team.name_taken", fields={"name": "team.name_taken"}, name=name)


def _refuse_personal(team: Team) -> None:
    if team.kind == Team.Kind.PERSONAL:
        raise Conflict("team.personal_fixed")


def _refuse_last_manager(team: Team, user: User) -> None:
    managers = Membership.objects.filter(team=team, role=Membership.Role.MANAGER)
    if not managers.exclude(user=user).exists():
        raise Conflict("team.last_manager")
