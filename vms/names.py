"""Names that libvirt, DNS and a guest's own tools all take without quoting."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from accounts.errors import Invalid

if TYPE_CHECKING:
    from accounts.models import User

LABEL_MAX = 63  # RFC 1035, a label
HOSTNAME_MAX = 63  # what VM.hostname holds; Linux itself stops at 64

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_LABEL_CHARACTER = re.compile(r"[a-z0-9-]")
_USERNAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")  # useradd(8)
_NUMBERED = re.compile(r"-?\d+$")

# Accounts and groups that a Debian, Ubuntu, Fedora or Alpine guest already has: useradd fails on
# them, and with it the whole first boot's access.
_SYSTEM_NAMES_TEXT = (
    "root daemon bin sys sync games man lp mail news uucp proxy backup list irc gnats nobody "
    "nogroup halt shutdown operator ftp dbus messagebus polkitd sshd tss chrony ntp postfix "
    "wheel sudo adm disk tty kvm kmem audio video cdrom floppy dialout tape users staff utmp "
    "shadow input render plugdev netdev docker lxd www-data guest squid cron at svn"
)
_SYSTEM_NAMES = frozenset(_SYSTEM_NAMES_TEXT.split())


def validate_name(name: str, *, field: str = "name") -> str:
    """The name as given, or ``Invalid`` with a code that says what to change.

    Parameters carry the prefix of their code (``name_limit``), so that the errors of several
    inputs can share one set.
    """
    return _label(name, prefix="name", field=field)


def validate_hostname(hostname: str, *, field: str = "hostname") -> str:
    """A host name: one label, or several with dots (``web`` or ``web.example.org``)."""
    if not hostname:
        raise Invalid("hostname.empty", fields={field: "hostname.empty"})
    if len(hostname) > HOSTNAME_MAX:
        raise Invalid(
            "hostname.too_long", fields={field: "hostname.too_long"}, hostname_limit=HOSTNAME_MAX
        )
    for label in hostname.split("."):
        _label(label, prefix="hostname", field=field)
    return hostname


def validate_username(name: str, *, field: str = "user") -> str:
    """The first user of a guest, as ``useradd`` of every distribution accepts it."""
    if not name:
        raise Invalid("username.empty", fields={field: "username.empty"})
    if not _USERNAME.fullmatch(name):
        raise Invalid("username.characters", fields={field: "username.characters"})
    if name in _SYSTEM_NAMES or name.startswith(("systemd-", "_")):
        raise Invalid("username.system", fields={field: "username.system"}, username=name)
    return name


def suggest(user: User, base: str = "web") -> str:
    """The next free ``base-N`` among the machines that ``user`` can see."""
    from vms.models import VM

    stem = _NUMBERED.sub("", base.lower())[: LABEL_MAX - 6].strip("-") or "vm"
    if not _LABEL.fullmatch(stem):
        stem = "vm"
    taken = set(
        VM.objects.visible_to(user)
        .filter(name__startswith=f"{stem}-")
        .values_list("name", flat=True)
    )
    number = 1
    while f"{stem}-{number}" in taken:
        number += 1
    return f"{stem}-{number}"


def _label(text: str, *, prefix: str, field: str) -> str:
    if _LABEL.fullmatch(text):
        return text

    def refuse(what: str, **params: Any) -> Invalid:
        code = f"{prefix}.{what}"
        return Invalid(code, fields={field: code}, **params)

    if not text:
        raise refuse("empty")
    if len(text) > LABEL_MAX:
        raise refuse("too_long", **{f"{prefix}_limit": LABEL_MAX})
    wrong = next((c for c in text if not _LABEL_CHARACTER.fullmatch(c)), None)
    if wrong is None:
        raise refuse("hyphen_at_edge")
    if wrong.isascii() and wrong.isupper() and _LABEL.fullmatch(text.lower()):
        raise refuse("uppercase", **{f"{prefix}_better": text.lower()})
    shown = wrong if wrong.isprintable() and not wrong.isspace() else f"U+{ord(wrong):04X}"
    raise refuse("character", **{f"{prefix}_character": shown})
