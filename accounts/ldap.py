"""People and their groups in a directory that speaks LDAP (RFC 4511): OpenLDAP, Active Directory.

Knows no accounts: it answers who somebody is there, and whether a password is theirs. Nothing is
kept open between two questions. Passwords cross the network inside TLS whose certificate was
checked, unless the directory's entry in the file asks for the opposite in words.
"""

from __future__ import annotations

import logging
import ssl
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ldap3
from django.core.exceptions import ImproperlyConfigured
from ldap3.core.exceptions import LDAPException
from ldap3.core.results import (
    RESULT_BUSY,
    RESULT_NO_SUCH_OBJECT,
    RESULT_OTHER,
    RESULT_SIZE_LIMIT_EXCEEDED,
    RESULT_SUCCESS,
    RESULT_UNAVAILABLE,
)
from ldap3.utils.conv import escape_filter_chars
from ldap3.utils.dn import escape_rdn

logger = logging.getLogger(__name__)

_NAME_MAX = 256
_NESTED_MAX = 10
# Follows groups within groups (Microsoft, "Search Filter Syntax": LDAP_MATCHING_RULE_IN_CHAIN).
_IN_CHAIN = "1.2.840.113556.1.4.1941"
_ACTIVE = "(!(userAccountControl:1.2.840.113556.1.4.803:=2))"
_OPENLDAP: dict[str, Any] = {
    "user_filter": "(uid={name})",
    "group_filter": "(|(member={dn})(uniqueMember={dn})(memberUid={username}))",
    "attributes": {
        "id": "entryUUID",
        "username": "uid",
        "email": "mail",
        "first_name": "givenName",
        "last_name": "sn",
        "group": "cn",
    },
}
_ACTIVE_DIRECTORY: dict[str, Any] = {
    "user_filter": "(&(objectCategory=person)"
    "(|(sAMAccountName={name})(userPrincipalName={name}))" + _ACTIVE + ")",
    "group_filter": "(member={dn})",
    "attributes": _OPENLDAP["attributes"] | {"id": "objectGUID", "username": "sAMAccountName"},
}
_KINDS = {"openldap": _OPENLDAP, "active_directory": _ACTIVE_DIRECTORY}


class DirectoryUnreachableError(Exception):
    """It does not answer, not in time, or not to our search account: nobody's fault who asks."""


@dataclass(frozen=True, kw_only=True)
class Directory:
    """One entry of ``KVMWEB_LDAP_FILE``; docs/admin/sign-in.md says what each part means."""

    id: str
    name: str
    url: str | list[str]
    kind: str = "openldap"
    ca_file: str = ""
    send_passwords_unencrypted: bool = False
    timeout_s: int = 5
    bind_dn: str = ""
    bind_password: str = ""
    user_dn: str = ""
    user_base: str = ""
    user_filter: str = ""
    group_base: str = ""
    group_filter: str = ""
    nested_groups: bool = False
    attributes: dict[str, str] = field(default_factory=dict)
    sign_up: bool = True
    teams: list[dict[str, str]] = field(default_factory=list)
    admin_group: str = ""

    @property
    def urls(self) -> list[str]:
        return [self.url] if isinstance(self.url, str) else self.url

    @property
    def searches(self) -> bool:
        """Whether it is asked by an account of ours; else by the person's own."""
        return bool(self.bind_dn)

    def filter_of_person(self) -> str:
        return self.user_filter or str(_KINDS[self.kind]["user_filter"])

    def filter_of_groups(self) -> str:
        if self.group_filter:
            return self.group_filter
        if self.kind == "active_directory" and self.nested_groups:
            return f"(member:{_IN_CHAIN}:={{dn}})"
        return str(_KINDS[self.kind]["group_filter"])

    def attribute(self, role: str) -> str:
        known: dict[str, str] = _KINDS[self.kind]["attributes"]
        return self.attributes.get(role) or known[role]

    def rules(self) -> Mapping[str, Any]:
        """As ``accounts.directory.apply`` wants them."""
        return {"teams": self.teams, "admin_group": self.admin_group}


@dataclass(frozen=True, kw_only=True)
class Person:
    """``uid`` stays the same when they are renamed or moved. ``groups``: names and full DNs."""

    dn: str
    uid: str
    username: str
    email: str = ""
    first_name: str = ""
    last_name: str = ""
    groups: frozenset[str] = frozenset()


def read(entry: Mapping[str, Any]) -> Directory:
    """An entry of the file. Raises ``ImproperlyConfigured`` where it cannot be meant so."""
    unknown = set(entry) - {one.name for one in fields(Directory)}
    if unknown:
        raise ImproperlyConfigured(f"KVMWEB_LDAP_FILE: nobody knows {', '.join(sorted(unknown))}")
    try:
        found = Directory(**entry)
    except TypeError as exc:
        raise ImproperlyConfigured("KVMWEB_LDAP_FILE: id, name and url are needed") from exc
    wrong = next(_faults(found), None)
    if wrong:
        raise ImproperlyConfigured(f"KVMWEB_LDAP_FILE: {found.id}: {wrong}")
    return found


def _faults(one: Directory) -> Iterator[str]:
    if one.kind not in _KINDS:
        yield f"kind is one of {', '.join(_KINDS)}"
    if not one.urls or any(urlsplit(url).scheme not in ("ldap", "ldaps") for url in one.urls):
        yield "url begins with ldaps:// or ldap://"
    if one.searches and not (one.bind_password and one.user_base):
        yield "bind_dn needs bind_password and user_base"
    if not one.searches and "{name}" not in one.user_dn:
        yield "without bind_dn there is a user_dn with {name} in it"
    if not one.searches and "=" not in one.user_dn:
        yield "user_dn is a distinguished name: other names may lead to somebody else's entry"
    if (one.teams or one.admin_group) and not one.group_base:
        yield "groups make teams or admins, so group_base says below what they are"
    if "{name}" not in one.filter_of_person():
        yield "user_filter has {name} in it"
    if one.ca_file and not Path(one.ca_file).is_file():
        yield f"there is no file {one.ca_file}"
    if one.timeout_s < 1:
        yield "timeout_s is a number of seconds"


def sign_in(directory: Directory, name: str, password: str) -> Person | None:
    """Who it is, when the directory takes the password. Raises ``DirectoryUnreachableError``."""
    # A bind without a password succeeds as nobody (RFC 4513 5.1.2), and some servers end the
    # password at a NUL.
    if not password or "\0" in password or not _is_plain(name):
        return None
    with _translated(directory):
        if not directory.searches:
            return _sign_in_directly(directory, name, password)
        with _bound(directory, directory.bind_dn, directory.bind_password) as ours:
            if ours is None:
                raise DirectoryUnreachableError(f"{directory.id} refuses our search account")
            entry = _search_person(directory, ours, name)
            # Somebody whom nobody knows costs a bind too: the time does not say who exists.
            dn = entry["dn"] if entry else f"cn=nobody,{directory.user_base}"
            with _bound(directory, dn, password) as theirs:
                accepted = theirs is not None
            if entry is None or not accepted:
                return None
            return _person(directory, ours, entry)


def find(directory: Directory, name: str) -> Person | None:
    """Who it is, asked by the search account. Raises ``DirectoryUnreachableError``."""
    if not _is_plain(name):
        return None
    with (
        _translated(directory),
        _bound(directory, directory.bind_dn, directory.bind_password) as ours,
    ):
        if ours is None:
            raise DirectoryUnreachableError(f"{directory.id} refuses our search account")
        entry = _search_person(directory, ours, name)
        return _person(directory, ours, entry) if entry else None


def still_there(directory: Directory, uids: Collection[str]) -> set[str]:
    """Those whom the directory still has, and would let in. Asked by the search account; raises
    ``DirectoryUnreachableError``."""
    anybody = directory.filter_of_person().replace("{name}", "*")
    with (
        _translated(directory),
        _bound(directory, directory.bind_dn, directory.bind_password) as ours,
    ):
        if ours is None:
            raise DirectoryUnreachableError(f"{directory.id} refuses our search account")
        return {
            uid
            for uid in uids
            if _search(
                ours,
                directory.user_base,
                f"(&{anybody}({directory.attribute('id')}={_as_asked(directory, uid)}))",
                attributes=[directory.attribute("id")],
                most=2,
            )
        }


def _as_asked(directory: Directory, uid: str) -> str:
    if directory.attribute("id").lower() == "objectguid":
        return "".join(f"\\{byte:02x}" for byte in bytes.fromhex(uid))
    return str(escape_filter_chars(uid))


def _sign_in_directly(directory: Directory, name: str, password: str) -> Person | None:
    dn = directory.user_dn.replace("{name}", escape_rdn(name))
    with _bound(directory, dn, password) as theirs:
        if theirs is None:
            return None
        entries = _search(
            theirs, dn, "(objectClass=*)", scope=ldap3.BASE, attributes=_wanted(directory)
        )
        return _person(directory, theirs, entries[0]) if len(entries) == 1 else None


def _is_plain(name: str) -> bool:
    """Directories fold spaces, invisible characters and look-alikes (RFC 4518): by them one
    person would have many names, each with a throttle of its own."""
    return (
        0 < len(name) <= _NAME_MAX
        and name.isprintable()
        and not any(char.isspace() for char in name)
        and unicodedata.normalize("NFKC", name) == name
    )


# --- connections ----------------------------------------------------------------------------
class _CheckedTls(ldap3.Tls):  # type: ignore[misc]
    """TLS by the standard library, which checks the certificate and whose it is. (ldap3 does the
    second with code of its own.)"""

    def __init__(self, ca_file: str) -> None:
        super().__init__(validate=ssl.CERT_REQUIRED)
        self.context = ssl.create_default_context(cafile=ca_file or None)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2

    def wrap_socket(self, connection: Any, do_handshake: bool = False) -> None:  # noqa: ARG002
        connection.socket = self.context.wrap_socket(
            connection.socket, server_hostname=connection.server.host
        )


@contextmanager
def _translated(directory: Directory) -> Iterator[None]:
    try:
        yield
    except (LDAPException, OSError) as exc:
        raise DirectoryUnreachableError(f"{directory.id}: {exc}") from exc


@contextmanager
def _bound(directory: Directory, dn: str, password: str) -> Iterator[Any]:
    """A connection as ``dn`` to the first server that answers; ``None``: the password is wrong."""
    connection = _open(directory, dn, password)
    try:
        if connection.bind():
            yield connection
            return
        code = connection.result["result"]
        # Active Directory says why in words (data 533: disabled, 775: locked).
        said = connection.result.get("message") or connection.result.get("description")
        if code in (RESULT_BUSY, RESULT_UNAVAILABLE, RESULT_OTHER):
            raise DirectoryUnreachableError(f"{directory.id}: {said}")
        logger.info("%s refuses %s: %s", directory.id, dn, said)
        yield None
    finally:
        connection.unbind()


def _open(directory: Directory, dn: str, password: str) -> Any:
    last: Exception | None = None
    for url in directory.urls:
        try:
            return _open_one(directory, url, dn, password)
        except (LDAPException, OSError) as exc:  # noqa: PERF203 - the next server may answer
            logger.warning("%s: %s: %s", directory.id, url, exc)
            last = exc
    raise DirectoryUnreachableError(f"{directory.id}: {last}") from last


def _open_one(directory: Directory, url: str, dn: str, password: str) -> Any:
    parts = urlsplit(url)
    encrypted = parts.scheme == "ldaps"
    server = ldap3.Server(
        parts.hostname,
        port=parts.port or (636 if encrypted else 389),
        use_ssl=encrypted,
        tls=_CheckedTls(directory.ca_file),
        get_info=ldap3.NONE,
        connect_timeout=directory.timeout_s,
    )
    connection = ldap3.Connection(
        server,
        user=dn,
        # As bytes: from a text ldap3 drops characters, down to an empty password (RFC 4013).
        password=password.encode(),
        authentication=ldap3.SIMPLE,
        receive_timeout=directory.timeout_s,
        auto_referrals=False,  # nobody else is shown the password
        auto_range=False,
        read_only=True,
        raise_exceptions=False,
    )
    try:
        connection.open()
        if not encrypted and not directory.send_passwords_unencrypted:
            connection.start_tls()  # raises when the server will not
    except BaseException:
        connection.unbind()
        raise
    return connection


# --- searches -------------------------------------------------------------------------------
def _wanted(directory: Directory) -> list[str]:
    return [directory.attribute(role) for role in _OPENLDAP["attributes"] if role != "group"]


def _search(
    connection: Any,
    base: str,
    text: str,
    *,
    attributes: list[str],
    scope: Any = ldap3.SUBTREE,
    most: int = 0,
) -> list[dict[str, Any]]:
    """The entries; more than ``most`` (0: as many as there are) may be cut off."""
    connection.search(base, text, search_scope=scope, attributes=attributes, size_limit=most)
    code = connection.result["result"]
    cut_off = code == RESULT_SIZE_LIMIT_EXCEEDED and most
    if code == RESULT_NO_SUCH_OBJECT and scope == ldap3.BASE:
        return []
    if code != RESULT_SUCCESS and not cut_off:
        raise DirectoryUnreachableError(f"search below {base}: {connection.result['description']}")
    return [one for one in connection.response or [] if one.get("type") == "searchResEntry"]


def _search_person(directory: Directory, connection: Any, name: str) -> dict[str, Any] | None:
    """Exactly one entry, or nobody."""
    entries = _search(
        connection,
        directory.user_base,
        directory.filter_of_person().replace("{name}", escape_filter_chars(name)),
        attributes=_wanted(directory),
        most=2,
    )
    if len(entries) > 1:
        logger.error("%s has several people called %r: none of them is let in", directory.id, name)
    return entries[0] if len(entries) == 1 else None


def _person(directory: Directory, connection: Any, entry: dict[str, Any]) -> Person | None:
    has = {role: _value(entry, directory.attribute(role)) for role in _OPENLDAP["attributes"]}
    if not has["id"] or not has["username"]:
        shown = [directory.attribute(role) for role in ("id", "username") if not has[role]]
        logger.error("%s shows no %s of %s", directory.id, " and ".join(shown), entry["dn"])
        return None
    return Person(
        dn=entry["dn"],
        uid=has["id"],
        username=has["username"],
        email=has["email"],
        first_name=has["first_name"],
        last_name=has["last_name"],
        groups=frozenset(_groups(directory, connection, entry["dn"], has["username"])),
    )


def _groups(directory: Directory, connection: Any, dn: str, username: str) -> set[str]:
    if not directory.group_base:
        return set()
    names: set[str] = set()
    text = directory.filter_of_groups()
    entries = _search_groups(directory, connection, _filled(text, dn=dn, username=username))
    walks = directory.nested_groups and directory.kind != "active_directory"
    for _level in range(_NESTED_MAX):
        new = [one for one in entries if one["dn"] not in names]
        for one in new:
            names |= {one["dn"], _value(one, directory.attribute("group"))}
        if not new or not walks:
            break
        # Nobody's user name, or a group called like a person would be in that person's groups.
        outer = "".join(_filled(text, dn=one["dn"], username="\0") for one in new)
        entries = _search_groups(directory, connection, f"(|{outer})")
    return names - {""}


def _search_groups(directory: Directory, connection: Any, text: str) -> list[dict[str, Any]]:
    return _search(
        connection, directory.group_base, text, attributes=[directory.attribute("group")]
    )


def _filled(text: str, *, dn: str, username: str) -> str:
    """Both at once: what a name is replaced by is not looked at again."""
    parts = {"{dn}": escape_filter_chars(dn), "{username}": escape_filter_chars(username)}
    first, *rest = text.split("{")
    filled = first
    for piece in rest:
        place, closing, after = piece.partition("}")
        filled += parts.get("{" + place + "}", "{" + place + closing) + after
    return filled


def _value(entry: dict[str, Any], attribute: str) -> str:
    """The first value; bytes that are no text (an objectGUID) as hexadecimal digits."""
    raw = {name.lower(): values for name, values in entry["raw_attributes"].items()}
    values = raw.get(attribute.lower()) or [b""]
    if attribute.lower() == "objectguid":
        return bytes(values[0]).hex()
    return bytes(values[0]).decode("utf-8", "replace").strip()
