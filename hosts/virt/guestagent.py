"""What a guest's agent says -> facts. Pure; everything in it is a claim of the guest.

``virDomainGetGuestInfo`` gives flat names (``fs.0.mountpoint``). Whoever is root in the guest
chooses every value: lists are cut, texts lose what cannot be printed, numbers must be numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hosts.virt.parse import usable_address
from hosts.virt.spec import GuestCard, GuestFacts, GuestFilesystem, GuestUser

TEXT_MAX = 128
PATH_MAX = 255
LIST_MAX = 32
ADDRESSES_MAX = 16
NUMBER_MAX = 2**63 - 1
YEAR_9999_S = 253_402_300_799
MS_PER_S = 1000
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def facts(said: Mapping[str, Any]) -> GuestFacts:
    """Never raises, whatever is in it."""
    return GuestFacts(
        hostname=_text(said.get("hostname")),
        os=_text(said.get("os.pretty-name") or said.get("os.name")),
        os_id=_text(said.get("os.id")),
        kernel=_text(said.get("os.kernel-release")),
        timezone=_text(said.get("timezone.name")),
        filesystems=tuple(_filesystem(said, f"fs.{n}.") for n in _each(said, "fs.count")),
        users=tuple(_user(said, f"user.{n}.") for n in _each(said, "user.count")),
        cards=tuple(
            card for n in _each(said, "if.count") if (card := _card(said, f"if.{n}.")) is not None
        ),
    )


def _filesystem(said: Mapping[str, Any], at: str) -> GuestFilesystem:
    total = _number(said.get(f"{at}total-bytes"))
    used = _number(said.get(f"{at}used-bytes"))
    return GuestFilesystem(
        mountpoint=_text(said.get(f"{at}mountpoint"), PATH_MAX),
        device=_text(said.get(f"{at}name")),
        kind=_text(said.get(f"{at}fstype")),
        total_bytes=total,
        used_bytes=None if total is None or used is None else min(used, total),
    )


def _user(said: Mapping[str, Any], at: str) -> GuestUser:
    since = _number(said.get(f"{at}login-time"))
    seconds = None if since is None else since // MS_PER_S
    return GuestUser(
        name=_text(said.get(f"{at}name")),
        domain=_text(said.get(f"{at}domain")),
        since=seconds if seconds is not None and seconds <= YEAR_9999_S else None,
    )


def _card(said: Mapping[str, Any], at: str) -> GuestCard | None:
    """None for one with nothing to say: loopback, or no address."""
    mac = str(said.get(f"{at}hwaddr") or "").lower()
    listed = (
        usable_address(str(said.get(f"{at}addr.{n}.addr") or ""))
        for n in _each(said, f"{at}addr.count", ADDRESSES_MAX)
    )
    addresses = tuple(dict.fromkeys(address for address in listed if address))
    if not addresses or not _MAC.fullmatch(mac):
        return None
    return GuestCard(name=_text(said.get(f"{at}name")), mac=mac, addresses=addresses)


def _each(said: Mapping[str, Any], name: str, most: int = LIST_MAX) -> range:
    return range(min(_number(said.get(name)) or 0, most))


def _number(value: Any) -> int | None:
    known = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= NUMBER_MAX
    return value if known else None


def _text(value: Any, most: int = TEXT_MAX) -> str:
    """Without control characters, and without those that turn the direction of what follows."""
    if not isinstance(value, str):
        return ""
    return "".join(c for c in value[: 4 * most] if c.isprintable())[:most]
