"""Teams and who is in them. A person's own team is fixed; see ``accounts.services``."""

from __future__ import annotations

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.urls import reverse
from django.utils import timezone

from accounts import audit, handovers, policy
from accounts.errors import Conflict, Forbidden, Invalid, NotFound
from accounts.handovers import Leaving
from accounts.models import Membership, Team, TeamInvite, User
from accounts.notifications import announce
from accounts.policy import Action
from accounts.quotas import lock_team
from accounts.revocations import Revocation, announce_on_commit

_NAME_MAX = 64
Role = Membership.Role


def visible_to(user: User) -> QuerySet[Team, Team]:
    """The teams that a person may see: their own; for an admin all."""
    if user.is_admin:
        return Team.objects.all()
    return Team.objects.filter(memberships__user=user)


def may_create(user: User) -> bool:
    """Admins, and others as often as ``KVMWEB_TEAMS_PER_PERSON`` says."""
    if policy.can(user, Action.SITE_ADMIN):
        return True
    allowed: int = settings.TEAMS_PER_PERSON
    return user.is_active and Team.objects.filter(created_by=user).count() < allowed


def create_team(*, actor: User, name: str, manager: User | None = None) -> Team:
    """A team with its first manager: who makes it; an admin may name somebody else."""
    is_admin = policy.can(actor, Action.SITE_ADMIN)
    if not is_admin and manager not in (None, actor):
        policy.require(actor, Action.SITE_ADMIN)
    name = _clean_name(name)
    try:
        with transaction.atomic():
            # Two requests at once must not both be the last that is allowed.
            User.objects.select_for_update().get(pk=actor.pk)
            if not may_create(actor):
                raise Forbidden("team.create_closed", maximum=settings.TEAMS_PER_PERSON)
            team = Team.objects.create(name=name, kind=Team.Kind.TEAM, created_by=actor)
            Membership.objects.create(team=team, user=manager or actor, role=Role.MANAGER)
            audit.record(actor, "team.create", team, after={"manager": (manager or actor).username})
            if manager is not None and manager != actor:
                _tell(manager, "team.added", team, actor=actor, role=Role.MANAGER)
    except IntegrityError as exc:
        raise _name_taken(name) from exc
    return team


def rename_team(*, actor: User, team: Team, name: str) -> None:
    policy.require(actor, Action.TEAM_MANAGE, team)
    name = _clean_name(name)
    refuse_personal(team)
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
    refuse_personal(team)
    check_role(role)
    user = User.objects.filter(username=username, is_active=True).first()
    if user is None:
        raise Invalid("user.unknown", fields={"username": "user.unknown"}, username=username)
    with transaction.atomic():
        lock_team(team)
        row = Membership.objects.filter(team=team, user=user).first()
        before = row.role if row else None
        if row is not None and before == role:
            return row
        if row is None:
            row = Membership.objects.create(team=team, user=user, role=role)
            _tell(user, "team.added", team, actor=actor, role=role)
        else:
            if before == Role.MANAGER:
                _refuse_last_manager(team, user)
            row.role = role
            row.save(update_fields=["role"])
            announce_on_commit(Revocation(user_id=user.pk, team_id=team.pk, reason="role_changed"))
            _tell(user, "team.role", team, actor=actor, role=role)
        audit.record(
            actor,
            "team.set_member",
            user,
            before={"role": before},
            after={"role": role, "team": team.name},
            team_id=team.pk,
        )
    return row


def remove_member(*, actor: User, team: Team, user_id: int, heir: User | None = None) -> int:
    """End a membership: by a manager, or by the member. What they have in the team goes to
    ``heir``, a manager where nobody is named; returns how much that was."""
    row = Membership.objects.filter(team=team, user_id=user_id).select_related("user").first()
    if actor.pk != user_id or row is None:
        policy.require(actor, Action.TEAM_MANAGE, team)
    if row is None:
        raise NotFound
    refuse_personal(team)
    with transaction.atomic():
        lock_team(team)
        # Whoever was quicker has ended it already, or made them the last manager meanwhile.
        row = Membership.objects.filter(pk=row.pk).select_related("user").first()
        if row is None:
            raise NotFound
        user = row.user
        if row.role == Role.MANAGER:
            _refuse_last_manager(team, user)
        moved = _hand_over(actor, team, user, heir)
        row.delete()
        if actor != user:
            # A link for many that they may still have would let them in again.
            TeamInvite.objects.filter(team=team, once=False, revoked_at__isnull=True).update(
                revoked_at=timezone.now()
            )
        audit.record(
            actor,
            "team.remove_member",
            user,
            before={"role": row.role, "team": team.name},
            after={"handed_over": moved},
            team_id=team.pk,
        )
        announce_on_commit(Revocation(user_id=user_id, team_id=team.pk, reason="left_team"))
        if actor == user:
            url = reverse("team_page", args=[team.pk])
            who = user.display_name()
            announce(team, managers(team), "team.left", url=url, who=who, team=team.name)
        else:
            names = {"who": actor.display_name(), "person": user.display_name()}
            announce(team, [user], "team.removed", team=team.name, **names)
    return moved


def managers(team: Team) -> QuerySet[User, User]:
    """Those who can act for the team, the longest in it first."""
    return User.objects.filter(
        memberships__team=team, memberships__role=Role.MANAGER, is_active=True
    ).order_by("memberships__id")


def possible_heirs(team: Team, leaving: User) -> QuerySet[User, User]:
    """Who may take over: members who may own machines, managers first."""
    return (
        User.objects.filter(
            memberships__team=team,
            memberships__role__in=(Role.MANAGER, Role.MEMBER),
            is_active=True,
        )
        .exclude(pk=leaving.pk)
        .order_by("memberships__role", "memberships__id")
    )


def check_role(role: str) -> None:
    if role not in Role.values:
        raise Invalid("team.role_unknown", fields={"role": "team.role_unknown"})


def refuse_personal(team: Team) -> None:
    if team.kind == Team.Kind.PERSONAL:
        raise Conflict("team.personal_fixed")


def _hand_over(actor: User, team: Team, user: User, heir: User | None) -> int:
    if not handovers.counts(team, [user.pk])[user.pk]:
        return 0
    if heir is None:
        others = managers(team).exclude(pk=user.pk)
        heir = others.filter(pk=actor.pk).first() or others.first()
    elif heir not in possible_heirs(team, user):
        raise Invalid("team.bad_heir", fields={"heir": "team.bad_heir"})
    if heir is None:
        raise Conflict("team.no_heir")
    moved = handovers.move(Leaving(actor=actor, user=user, team=team, heir=heir))
    _tell(heir, "team.handed_over", team, actor=actor, who=user.display_name(), count=moved)
    return moved


def _tell(user: User, code: str, team: Team, *, actor: User, **params: object) -> None:
    """The person, unless they did it themselves, and whoever listens for the team."""
    params = {"who": actor.display_name(), "person": user.display_name()} | params
    url = reverse("team_page", args=[team.pk])
    announce(team, [user] if user != actor else [], code, url=url, team=team.name, **params)


def _clean_name(name: str) -> str:
    name = name.strip()
    if not 1 <= len(name) <= _NAME_MAX or not name.isprintable():
        raise Invalid("team.name_invalid", fields={"name": "team.name_invalid"})
    return name


def _name_taken(name: str) -> Invalid:
    return Invalid("team.name_taken", fields={"name": "team.name_taken"}, name=name)


def _refuse_last_manager(team: Team, user: User) -> None:
    if not managers(team).exclude(pk=user.pk).exists():
        raise Conflict("team.last_manager")
