"""People of an LDAP directory who sign in here: which account is theirs, kept up to date.

An account belongs to a person of the directory by the directory's own identity of them, never by
a name that looks alike. It has no password here; being deactivated here wins.
"""

from __future__ import annotations

import logging

from django.conf import settings
from django.core.cache import cache
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction
from django.utils import timezone

from accounts import audit, directory, ldap, services
from accounts.errors import Conflict, DomainError, Forbidden, Invalid, NotFound, Unavailable
from accounts.ldap import Directory, DirectoryUnreachableError, Person
from accounts.models import DirectoryAccount, User
from accounts.revocations import Revocation, announce_on_commit

logger = logging.getLogger(__name__)

_NAME_MAX = 150
_MISSING_REMEMBERED_S = 3 * 3600  # three rounds


def all_directories() -> list[Directory]:
    return [ldap.read(entry) for entry in settings.LDAP]


def sign_in(name: str, password: str) -> User | None:
    """The account of whom one of the directories knows by this password; made at the first time.

    Raises ``Unavailable`` (a directory did not answer and none of the others knows them),
    ``Conflict`` (the name is a local account's) and ``Forbidden`` (deactivated, or no new accounts
    are made): whoever gets these has given the right password.
    """
    silent = False
    for one in all_directories():
        try:
            person = ldap.sign_in(one, name, password)
        except DirectoryUnreachableError as exc:
            logger.error("directory: %s", exc)  # noqa: TRY400 - the words are enough
            silent = True
            continue
        if person is not None:
            return _enter(one, person)
    if silent:
        raise Unavailable("directory.unreachable")
    return None


def connect(*, user: User, one: Directory, name: str) -> Person:
    """From now on this account is of the person whom the directory calls ``name``: its password
    ends, and so do its sessions. For the command line."""
    person = ldap.find(one, name)
    if person is None:
        raise NotFound("directory.person_unknown", name=name)
    with transaction.atomic():
        user = User.objects.select_for_update().get(pk=user.pk)
        taken = DirectoryAccount.objects.filter(directory=one.id, uid=person.uid).first()
        if taken is not None or DirectoryAccount.objects.filter(user=user).exists():
            raise Conflict("directory.connected_already")
        DirectoryAccount.objects.create(user=user, directory=one.id, uid=person.uid, dn=person.dn)
        user.set_unusable_password()
        user.save(update_fields=["password"])
        audit.record(None, "user.connect_directory", user, after={"directory": one.id})
        announce_on_commit(Revocation(user_id=user.pk, reason="password_changed"))
    return person


def end_of_leavers() -> None:
    """Who is missing from their directory in two rounds, or disabled there, is signed out
    everywhere, tokens too. By beat, once an hour; machines stay, and the account may come back."""
    for one in all_directories():
        if not one.searches:
            continue
        rows = {
            row.uid: row
            for row in DirectoryAccount.objects.filter(
                directory=one.id, user__is_active=True, seen_at__isnull=False
            )
        }
        try:
            there = ldap.still_there(one, rows)
        except DirectoryUnreachableError as exc:
            logger.warning("directory: %s", exc)
            continue
        if len(rows) > 1 and not there:
            logger.error("%s knows none of its people any more: nobody is signed out", one.id)
            continue
        for uid, row in rows.items():
            _note_missing(row, missing=uid not in there)


def _note_missing(row: DirectoryAccount, *, missing: bool) -> None:
    key = f"directory-missing:{row.pk}"
    if not missing:
        cache.delete(key)
    elif not cache.add(key, 1, timeout=_MISSING_REMEMBERED_S):
        with transaction.atomic():
            services.end_access(user=User.objects.get(pk=row.user_id), verb="user.left_directory")
            DirectoryAccount.objects.filter(pk=row.pk).update(seen_at=None)  # told once
        cache.delete(key)


def name_of(user: User) -> str:
    """The name of the directory that a person signs in by, or ``""``."""
    row = DirectoryAccount.objects.filter(user=user).first()
    if row is None:
        return ""
    names = {str(entry.get("id")): str(entry.get("name")) for entry in settings.LDAP}
    return names.get(row.directory, row.directory)


def _enter(one: Directory, person: Person) -> User:
    try:
        user = _account(one, person)
        if not user.is_active:
            raise Forbidden("directory.deactivated")
    except DomainError as exc:
        existing = User.objects.filter(username__iexact=person.username).first()
        audit.record(
            None,
            "user.sign_in_refused",
            existing,
            after={"directory": one.id, "dn": person.dn, "why": exc.code},
        )
        raise
    _bring_up_to_date(user, person)
    directory.apply(user, one.rules(), person.groups)
    user.refresh_from_db()
    return user


def _account(one: Directory, person: Person) -> User:
    known = _known(one, person)
    if known is not None:
        return known
    if not one.sign_up:
        raise Forbidden("directory.no_sign_up")
    try:
        return _make(one, person)
    except Invalid as exc:
        known = _known(one, person)  # two first sign-ins at once
        if known is not None:
            return known
        code = "directory.name_taken" if exc.code == "user.username_taken" else exc.code
        raise Conflict(code, username=person.username) from exc


def _known(one: Directory, person: Person) -> User | None:
    rows = DirectoryAccount.objects.select_related("user")
    row = rows.filter(directory=one.id, uid=person.uid).first()
    return row.user if row else None


def _make(one: Directory, person: Person) -> User:
    with transaction.atomic():
        email = person.email if _may_have_address(None, person.email) else ""
        user = services.create_user(None, person.username, email)
        DirectoryAccount.objects.create(user=user, directory=one.id, uid=person.uid, dn=person.dn)
        audit.record(user, "user.sign_up", user, after={"by": one.id})
    return user


def _bring_up_to_date(user: User, person: Person) -> None:
    """Names and address as the directory has them. The user name stays: machines and teams are
    known by it."""
    wanted = {
        "first_name": person.first_name[:_NAME_MAX],
        "last_name": person.last_name[:_NAME_MAX],
    }
    if person.email and _may_have_address(user, person.email):
        wanted["email"] = person.email
    changed = {name: value for name, value in wanted.items() if getattr(user, name) != value}
    if changed:
        User.objects.filter(pk=user.pk).update(**changed)
    DirectoryAccount.objects.filter(user=user).update(dn=person.dn, seen_at=timezone.now())


def _may_have_address(user: User | None, email: str) -> bool:
    """People sign in with their address, so it names one person."""
    try:
        validate_email(email)
    except ValidationError:
        return False
    others = User.objects.filter(email__iexact=email)
    return not (others.exclude(pk=user.pk) if user else others).exists()
