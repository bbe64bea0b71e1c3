"""Invitations into a team: a link that ends, for one person or for many.

The secret is 256 random bits and only its SHA-256 is kept, as with API tokens. An invitation is
worth no more than who made it: when they may no longer manage the team, it ends.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from datetime import timedelta

from django.core.exceptions import ValidationError
from django.core.mail import send_mail
from django.core.validators import validate_email
from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts import audit, notifications, policy
from accounts.errors import Conflict, Invalid, NotFound, Unavailable
from accounts.models import Membership, Team, TeamInvite, User
from accounts.policy import Action
from accounts.quotas import lock_team
from accounts.teams import check_role, managers, refuse_personal

logger = logging.getLogger(__name__)

DAYS = (1, 7, 30)
MAX_OPEN = 100  # at a time, in one team


def make(
    *, actor: User, team: Team, role: str, days: int, once: bool = True, email: str = ""
) -> tuple[TeamInvite, str]:
    """A new invitation and its secret, which exists only in this answer. One with an address is
    for one person; ``send`` then brings it there."""
    policy.require(actor, Action.TEAM_MANAGE, team)
    refuse_personal(team)
    check_role(role)
    email = email.strip()
    if days not in DAYS:
        raise Invalid("invite.bad_days", fields={"days": "invite.bad_days"})
    if email:
        _check_address(email)
    secret = secrets.token_urlsafe(32)
    with transaction.atomic():
        lock_team(team)
        if open_ones(team).count() >= MAX_OPEN:
            raise Conflict("invite.too_many", maximum=MAX_OPEN)
        row = TeamInvite.objects.create(
            team=team,
            role=role,
            email=email,
            once=once or bool(email),
            token_hash=_hash(secret),
            created_by=actor,
            expires_at=timezone.now() + timedelta(days=days),
        )
        audit.record(
            actor,
            "team.invite",
            team,
            after={"role": role, "email": email, "once": row.once, "days": days},
            team_id=team.pk,
        )
    return row, secret


def link(secret: str, *, base: str = "") -> str:
    """The address to open; ``base`` (``https://host``) where the site's own is not set."""
    return notifications.site_link(reverse("team_join", args=[secret]), base=base)


def send(invite: TeamInvite, address: str, *, actor: User) -> None:
    """Mail the link ``address`` to who is invited. An invitation that did not leave is revoked.

    Called outside of a transaction: it waits for the mail server.
    """
    body = render_to_string(
        "accounts/mail/invite.txt",
        {
            "who": actor.display_name(),
            "team": invite.team.name,
            "link": address,
            "end": invite.expires_at,
        },
    )
    subject = _("KVMWeb: %(who)s invites you to the team %(team)s") % {
        "who": actor.display_name(),
        "team": invite.team.name,
    }
    try:
        send_mail(subject, body, None, [invite.email])
    except OSError as error:  # smtplib's errors are OSErrors
        logger.warning("an invitation was not sent: %s", error)
        revoke(actor=actor, team=invite.team, invite_id=invite.pk)
        raise Unavailable("invite.not_sent", email=invite.email) from error


def open_ones(team: Team) -> QuerySet[TeamInvite, TeamInvite]:
    return TeamInvite.objects.filter(_open(), team=team)


def revoke(*, actor: User, team: Team, invite_id: int) -> None:
    policy.require(actor, Action.TEAM_MANAGE, team)
    with transaction.atomic():
        row = open_ones(team).select_for_update().filter(pk=invite_id).first()
        if row is None:
            raise NotFound
        row.revoked_at = timezone.now()
        row.save(update_fields=["revoked_at"])
        audit.record(
            actor, "team.revoke_invite", team, before={"role": row.role, "email": row.email}
        )


def find(secret: str) -> TeamInvite:
    """The open invitation with this secret; ``NotFound`` says the same of every other."""
    row = (
        TeamInvite.objects.filter(_open(), token_hash=_hash(secret))
        .select_related("team", "created_by")
        .first()
    )
    if row is None or not policy.can(row.created_by, Action.TEAM_MANAGE, row.team):
        raise NotFound("invite.gone")
    return row


def accept(*, user: User, secret: str) -> Membership:
    """Join. Two who open a link for one at the same time: one joins, the other is told."""
    invite = find(secret)
    with transaction.atomic():
        team = lock_team(invite.team)
        if Membership.objects.filter(team=team, user=user).exists():
            raise Conflict("invite.already_member", team=team.name)
        taken = TeamInvite.objects.filter(_open(), pk=invite.pk).update(uses=F("uses") + 1)
        if not taken:
            raise NotFound("invite.gone")
        row = Membership.objects.create(team=team, user=user, role=invite.role)
        audit.record(
            user, "team.join", user, after={"role": row.role, "team": team.name}, team_id=team.pk
        )
        notifications.announce(
            team,
            managers(team),
            "team.joined",
            url=reverse("team_page", args=[team.pk]),
            who=user.display_name(),
            team=team.name,
            role=row.role,
        )
    return row


def _open() -> Q:
    return (
        Q(revoked_at__isnull=True) & Q(expires_at__gt=timezone.now()) & (Q(once=False) | Q(uses=0))
    )


def _check_address(email: str) -> None:
    if not notifications.mail_is_set_up():
        raise Invalid("invite.no_mail", fields={"email": "invite.no_mail"})
    try:
        validate_email(email)
    except ValidationError as exc:
        raise Invalid("user.email_invalid", fields={"email": "user.email_invalid"}) from exc


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
