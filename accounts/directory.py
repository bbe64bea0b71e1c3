"""What a provider's groups make of a person here: teams, roles, and who is an admin.

Applied at each sign-in by that provider. Teams that it names are its own for people who sign in by
it: who is no longer in the group leaves the team, and what they had in it goes to a manager. Other
teams, and people who sign in otherwise, are left alone.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

from django.db import transaction

from accounts import audit, handovers, teams
from accounts.handovers import Leaving
from accounts.models import Membership, Team, User
from accounts.quotas import lock_team
from accounts.revocations import Revocation, announce_on_commit

logger = logging.getLogger(__name__)


def groups_of(claims: Mapping[str, Any], claim: str) -> set[str]:
    """The names under ``claim``, in the ID token or the user info."""
    found: set[str] = set()
    for part in (claims.get("id_token"), claims.get("userinfo"), claims):
        value = part.get(claim) if isinstance(part, Mapping) else None
        if isinstance(value, str):
            found.add(value)
        elif isinstance(value, (list, tuple)):
            found |= {str(one) for one in value}
    return found


@transaction.atomic
def apply(user: User, provider: Mapping[str, Any], groups: Collection[str]) -> None:
    """Bring the person's teams and their being an admin in line with their groups.

    ``provider``: ``teams`` is a list of ``{"group", "team", "role"}``, the first that fits a team
    counts; ``admin_group`` names who is an admin (left out: nobody's right is touched).
    """
    wanted: dict[str, str] = {}
    for rule in provider.get("teams", []):
        if rule["group"] in groups:
            wanted.setdefault(rule["team"], rule.get("role", Membership.Role.MEMBER.value))
    for name in dict.fromkeys(rule["team"] for rule in provider.get("teams", [])):
        _settle(user, name, wanted.get(name))
    admin_group = provider.get("admin_group")
    if admin_group:
        _set_admin(user, admin=admin_group in groups)


def _settle(user: User, name: str, role: str | None) -> None:
    team, _new = Team.objects.get_or_create(name=name, defaults={"kind": Team.Kind.TEAM})
    if team.kind == Team.Kind.PERSONAL:
        logger.error("a provider's groups name the personal team %s", name)
        return
    lock_team(team)
    row = Membership.objects.filter(team=team, user=user).first()
    before = row.role if row else None
    if before == role:
        return
    if role is None:
        heir = teams.managers(team).exclude(pk=user.pk).first()
        has = handovers.counts(team, [user.pk])[user.pk]
        if has and heir is None:
            logger.warning("%s keeps the team %s: nobody could take over", user.pk, name)
            return
        if has and heir is not None:
            handovers.move(Leaving(actor=user, user=user, team=team, heir=heir))
        Membership.objects.filter(team=team, user=user).delete()
    else:
        Membership.objects.update_or_create(team=team, user=user, defaults={"role": role})
    if before is not None:
        announce_on_commit(Revocation(user_id=user.pk, team_id=team.pk, reason="role_changed"))
    audit.record(
        None,
        "team.by_groups",
        user,
        before={"role": before},
        after={"role": role, "team": team.name},
        team_id=team.pk,
    )


def _set_admin(user: User, *, admin: bool) -> None:
    if user.is_staff == admin:
        return
    others = User.objects.select_for_update().filter(is_staff=True, is_active=True)
    if not admin and not others.exclude(pk=user.pk).exists():
        logger.warning("%s stays an admin: nobody else is one", user.pk)
        return
    user.is_staff = user.is_superuser = admin
    user.save(update_fields=["is_staff", "is_superuser"])
    if not admin:
        announce_on_commit(Revocation(user_id=user.pk, reason="role_changed"))
    audit.record(None, "user.set_admin", user, before={"admin": not admin}, after={"admin": admin})
