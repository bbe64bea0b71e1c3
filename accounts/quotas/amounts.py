"""Amounts of resources as people read them."""

from __future__ import annotations

from django.utils.formats import number_format
from django.utils.translation import gettext as _

from accounts.models import QuotaLimit, Resource

UNLIMITED = QuotaLimit.UNLIMITED
LARGEST = 1 << 50  # a limit beyond this is a typing error
_MIB_PER_GIB = 1024
IN_MIB = frozenset({Resource.MEMORY_MIB, Resource.RUNNING_MEMORY_MIB})
IN_GIB = frozenset({Resource.DISK_GIB, Resource.BACKUPS_GIB, Resource.IMAGES_GIB})


def resource_label(resource: Resource | str) -> str:
    return str(Resource(resource).label)


def unit(resource: Resource) -> str:
    """What a person types an amount of it in; memory is kept in MiB and typed in GiB."""
    return "GiB" if resource in IN_MIB or resource in IN_GIB else ""


def amount_text(resource: Resource | str, amount: int) -> str:
    """An amount with its unit, as a person reads it: ``3``, ``1.5 GiB``, ``20 GiB``."""
    kind = Resource(resource)
    if amount == UNLIMITED:
        return _("unlimited")
    if kind in IN_MIB:
        if amount % _MIB_PER_GIB == 0:
            return f"{number_format(amount // _MIB_PER_GIB)} GiB"
        if amount > _MIB_PER_GIB:
            return f"{number_format(amount / _MIB_PER_GIB, decimal_pos=1)} GiB"
        return f"{number_format(amount)} MiB"
    if kind in IN_GIB:
        return f"{number_format(amount)} GiB"
    return number_format(amount)


def limit_text(resource: Resource | str, hard: int) -> str:
    """As ``amount_text``, with a word for nothing: it must not look like no limit."""
    return _("none") if hard == 0 else amount_text(resource, hard)
