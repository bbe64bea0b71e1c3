"""Accounts and keys: each function is one transaction with its audit entry."""

from __future__ import annotations

import secrets
import string
from typing import Any

from django.conf import settings
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from accounts import audit, policy, sshkeys
from accounts.errors import Conflict, Forbidden, Invalid, NotFound
from accounts.models import ApiToken, DirectoryAccount, Membership, SSHKey, Team, User
from accounts.revocations import Revocation, announce_on_commit, on_access_revoked

__all__ = [
    "add_ssh_key",
    "change_user",
    "complete_new_user",
    "create_user",
    "end_access",
    "generate_password",
    "on_access_revoked",
    "remove_ssh_key",
    "require_own_password",
    "search_users",
    "set_active",
    "set_admin",
    "set_name",
    "set_password",
    "set_preferences",
]

MAX_SSH_KEYS = 50
MAX_SEARCH_WORDS = 5
_NAME_MAX = 64
# Without the letters and digits that people confuse when they read them out.
_PASSWORD_ALPHABET = "".join(
    char for char in string.ascii_letters + string.digits if char not in "0O1lI"
)
_PASSWORD_LENGTH = 16


def generate_password() -> str:
    """About 93 random bits."""
    return "".join(secrets.choice(_PASSWORD_ALPHABET) for _ in range(_PASSWORD_LENGTH))


def create_user(
    actor: User | None,
    username: str,
    email: str = "",
    password: str | None = None,
    is_staff: bool = False,
) -> User:
    """A new person with their personal team. ``actor`` is an admin, or ``None`` for the command
    line; ``password`` ``None`` makes an account that cannot sign in with one."""
    if actor is not None:
        policy.require(actor, policy.Action.SITE_ADMIN)
    user = User(username=username.strip(), email=email.strip(), is_staff=is_staff)
    _validate_identity(user)
    if password is None:
        user.set_unusable_password()
    else:
        _validate_password(password, user)
        user.set_password(password)
    try:
        with transaction.atomic():
            user.is_superuser = is_staff
            user.save()
            complete_new_user(user)
            audit.record(actor, "user.create", user, after={"email": user.email, "admin": is_staff})
    except IntegrityError as exc:  # somebody was quicker
        raise _username_taken(user.username) from exc
    return user


def complete_new_user(user: User) -> Team:
    """The personal team of a user who has none yet; the person manages it."""
    with transaction.atomic():
        team = Team.objects.filter(personal_of=user).first()
        if team is None:
            team = Team.objects.create(
                kind=Team.Kind.PERSONAL, personal_of=user, name=_free_team_name(user.username)
            )
        Membership.objects.get_or_create(
            team=team, user=user, defaults={"role": Membership.Role.MANAGER}
        )
    return team


def set_active(*, actor: User, user: User, active: bool) -> None:
    """Deactivate or reactivate. Deactivating ends sessions, tokens, live pages and consoles;
    machines stay, for the team's managers."""
    policy.require(actor, policy.Action.SITE_ADMIN)
    with transaction.atomic():
        user = User.objects.select_for_update().get(pk=user.pk)
        if user.is_active == active:
            return
        if not active:
            _refuse_self(actor, user)
            _refuse_last_admin(user)
            _end_access(user, "deactivated")
        user.is_active = active
        user.save(update_fields=["is_active", "session_epoch"])
        verb = "user.reactivate" if active else "user.deactivate"
        audit.record(actor, verb, user, before={"active": not active}, after={"active": active})


def end_access(*, user: User, verb: str) -> None:
    """End sessions, tokens, live pages and consoles of somebody who may come back."""
    with transaction.atomic():
        user = User.objects.select_for_update().get(pk=user.pk)
        _end_access(user, "deactivated")
        user.save(update_fields=["session_epoch"])
        audit.record(None, verb, user)


def set_admin(*, actor: User, user: User, admin: bool) -> None:
    """Make somebody an admin of the site, or no longer."""
    policy.require(actor, policy.Action.SITE_ADMIN)
    with transaction.atomic():
        user = User.objects.select_for_update().get(pk=user.pk)
        if user.is_staff == admin:
            return
        if not admin:
            _refuse_self(actor, user)
            _refuse_last_admin(user)
            announce_on_commit(Revocation(user_id=user.pk, reason="role_changed"))
        user.is_staff = user.is_superuser = admin
        user.save(update_fields=["is_staff", "is_superuser"])
        audit.record(
            actor, "user.set_admin", user, before={"admin": not admin}, after={"admin": admin}
        )


def change_user(
    *, actor: User, user: User, active: bool | None = None, admin: bool | None = None
) -> None:
    """Both at once or neither."""
    with transaction.atomic():
        if admin is not None:
            set_admin(actor=actor, user=user, admin=admin)
        if active is not None:
            set_active(actor=actor, user=user, active=active)


def search_users(words: str) -> QuerySet[User, User]:
    """Every user, or those whose name or address contains each of the words."""
    rows = User.objects.order_by("username")
    for word in words.split()[:MAX_SEARCH_WORDS]:
        rows = rows.filter(
            Q(username__icontains=word)
            | Q(email__icontains=word)
            | Q(first_name__icontains=word)
            | Q(last_name__icontains=word)
        )
    return rows


def set_password(*, actor: User | None, user: User, password: str) -> None:
    """Give somebody a new password; ends their sessions. ``actor`` ``None``: command line."""
    if actor is not None:
        policy.require(actor, policy.Action.SITE_ADMIN)
    require_own_password(user)
    _validate_password(password, user)
    with transaction.atomic():
        user = User.objects.select_for_update().get(pk=user.pk)
        user.set_password(password)
        user.save(update_fields=["password"])
        audit.record(actor, "user.reset_password", user)
        announce_on_commit(Revocation(user_id=user.pk, reason="password_reset"))


def require_own_password(user: User) -> None:
    """A directory's people have their password there: one here would outlive them."""
    if DirectoryAccount.objects.filter(user=user).exists():
        raise Forbidden("user.password_elsewhere")


def set_preferences(*, user: User, language: str | None = None, theme: str | None = None) -> None:
    """How the site speaks and looks to this person; ``""`` follows the browser."""
    changed: dict[str, Any] = {}
    if language is not None:
        if language and language not in dict(settings.LANGUAGES):
            raise Invalid("user.language_unknown", fields={"language": "user.language_unknown"})
        changed["language"] = language
    if theme is not None:
        if theme not in User.Theme.values:
            raise Invalid("user.theme_unknown", fields={"theme": "user.theme_unknown"})
        changed["theme"] = theme
    for name, value in changed.items():
        setattr(user, name, value)
    if changed:
        user.save(update_fields=list(changed))


def set_name(*, user: User, first_name: str, last_name: str) -> None:
    """What a person is called, beside their user name."""
    with transaction.atomic():
        before = user.get_full_name()
        user.first_name, user.last_name = first_name.strip(), last_name.strip()
        user.save(update_fields=["first_name", "last_name"])
        audit.record(
            user,
            "user.set_name",
            user,
            before={"name": before},
            after={"name": user.get_full_name()},
        )


def add_ssh_key(user: User, name: str, public_key: str) -> SSHKey:
    """Keep a public key of the person; an empty name takes the key's comment."""
    key = sshkeys.parse(public_key)
    name = name.strip() or key.comment[:_NAME_MAX] or key.type
    if len(name) > _NAME_MAX or not name.isprintable():
        raise Invalid("sshkey.name_invalid", fields={"name": "sshkey.name_invalid"})
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)
        _refuse_double_key(user, name, key.fingerprint)
        row = SSHKey.objects.create(
            user=user, name=name, public_key=key.line, fingerprint=key.fingerprint
        )
        audit.record(user, "sshkey.add", row, after={"fingerprint": key.fingerprint})
    return row


def remove_ssh_key(user: User, key_id: int) -> None:
    """Forget a key. Machines that have it keep it."""
    with transaction.atomic():
        row = SSHKey.objects.filter(user=user, pk=key_id).first()
        if row is None:
            raise NotFound
        audit.record(user, "sshkey.remove", row, before={"fingerprint": row.fingerprint})
        row.delete()


def _refuse_double_key(user: User, name: str, fingerprint: str) -> None:
    keys = list(SSHKey.objects.filter(user=user))
    for row in keys:
        if row.fingerprint == fingerprint:
            code = "sshkey.duplicate"
            raise Invalid(code, fields={"public_key": code}, name=row.name)
        if row.name == name:
            raise Invalid("sshkey.name_taken", fields={"name": "sshkey.name_taken"}, name=name)
    if len(keys) >= MAX_SSH_KEYS:
        raise Invalid("sshkey.too_many", maximum=MAX_SSH_KEYS)


def _validate_identity(user: User) -> None:
    try:
        for validator in User._meta.get_field("username").validators:
            validator(user.username)
        if not user.username:
            raise ValidationError("empty")
    except ValidationError as exc:
        code = "user.username_invalid"
        raise Invalid(code, fields={"username": code}) from exc
    if User.objects.filter(username__iexact=user.username).exists():
        raise _username_taken(user.username)
    if not user.email:
        return
    try:
        validate_email(user.email)
    except ValidationError as exc:
        raise Invalid("user.email_invalid", fields={"email": "user.email_invalid"}) from exc
    # People sign in with their address, so it names one person.
    if User.objects.filter(email__iexact=user.email).exists():
        raise Invalid("user.email_taken", fields={"email": "user.email_taken"})


def _validate_password(password: str, user: User) -> None:
    try:
        validate_password(password, user)
    except ValidationError as exc:
        reasons = " ".join(str(message) for message in exc.messages)
        code = "user.password_weak"
        raise Invalid(code, fields={"password": code}, reasons=reasons) from exc


def _username_taken(username: str) -> Invalid:
    code = "user.username_taken"
    return Invalid(code, fields={"username": code}, username=username)


def _free_team_name(username: str) -> str:
    """The user's name, or with a number where a team is called like it."""
    base = username[: _NAME_MAX - 4]
    name, number = base, 2
    while Team.objects.filter(name=name).exists():
        name, number = f"{base}-{number}", number + 1
    return name


def _end_access(user: User, reason: str) -> None:
    user.session_epoch += 1
    ApiToken.objects.filter(user=user, revoked_at__isnull=True).update(revoked_at=timezone.now())
    announce_on_commit(Revocation(user_id=user.pk, reason=reason))


def _refuse_self(actor: User, user: User) -> None:
    if actor.pk == user.pk:
        raise Conflict("user.not_yourself")


def _refuse_last_admin(user: User) -> None:
    """Locks the admins' rows, so that two admins cannot remove each other at once."""
    if not user.is_staff:
        return
    admins = User.objects.select_for_update().filter(is_staff=True, is_active=True).order_by("pk")
    if not [admin for admin in admins if admin.pk != user.pk]:
        raise Conflict("user.last_admin")
