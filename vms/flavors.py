"""Sizes that admins publish."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from django.db import IntegrityError, transaction

from accounts import audit, policy
from accounts.errors import Invalid
from accounts.policy import Action
from vms.models import Flavor
from vms.provisioning.validation import (
    DISK_GIB_MAX,
    MEMORY_MIB_MAX,
    MEMORY_MIB_MIN,
    VCPUS_MAX,
)

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from accounts.models import User

POSITION_MAX = 32_000


@dataclass(frozen=True, kw_only=True)
class Size:
    """None leaves a value as it is."""

    name: str | None = None
    vcpus: int | None = None
    memory_mib: int | None = None
    disk_gib: int | None = None
    description: str | None = None
    published: bool | None = None
    position: int | None = None

    def given(self) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            k: v.strip() if isinstance(v, str) else v for k, v in values.items() if v is not None
        }


def visible_to(user: User) -> QuerySet[Flavor, Flavor]:
    rows = Flavor.objects.all()
    return rows if user.is_admin else rows.filter(published=True)


def add(*, actor: User, size: Size) -> Flavor:
    """Raises Forbidden, Invalid with every wrong input."""
    policy.require(actor, Action.SITE_ADMIN)
    flavor = Flavor(**size.given())
    _check(flavor)
    with transaction.atomic():
        _save(flavor)
        audit.record(actor, "flavor.add", flavor, after=size.given())
    return flavor


def edit(flavor: Flavor, *, actor: User, size: Size) -> Flavor:
    """Machines that were made of it keep the size that they have."""
    policy.require(actor, Action.SITE_ADMIN)
    with transaction.atomic():
        row = Flavor.objects.select_for_update().get(pk=flavor.pk)
        given = size.given()
        before = {
            field: getattr(row, field) for field in given if getattr(row, field) != given[field]
        }
        for field in before:
            setattr(row, field, given[field])
        _check(row)
        if before:
            _save(row)
            after = {field: given[field] for field in before}
            audit.record(actor, "flavor.edit", row, before=before, after=after)
    return row


def delete(flavor: Flavor, *, actor: User) -> None:
    """Machines that were made of it stay as they are."""
    policy.require(actor, Action.SITE_ADMIN)
    with transaction.atomic():
        audit.record(actor, "flavor.delete", flavor, before={"name": flavor.name})
        flavor.delete()


def _check(flavor: Flavor) -> None:
    wrong: dict[str, str] = {}
    if not 1 <= len(flavor.name) <= 32 or not flavor.name.isprintable():
        wrong["name"] = "flavor.name_invalid"
    if not 1 <= (flavor.vcpus or 0) <= VCPUS_MAX:
        wrong["vcpus"] = "flavor.vcpus"
    if not MEMORY_MIB_MIN <= (flavor.memory_mib or 0) <= MEMORY_MIB_MAX:
        wrong["memory_mib"] = "flavor.memory"
    if not 1 <= (flavor.disk_gib or 0) <= DISK_GIB_MAX:
        wrong["disk_gib"] = "flavor.disk"
    if len(flavor.description) > 128 or not flavor.description.isprintable():
        wrong["description"] = "flavor.description"
    if not 0 <= flavor.position <= POSITION_MAX:
        wrong["position"] = "flavor.invalid"
    if wrong:
        code = next(iter(wrong.values())) if len(wrong) == 1 else "flavor.invalid"
        raise Invalid(
            code,
            fields=wrong,
            flavor_vcpus_limit=VCPUS_MAX,
            flavor_memory_minimum=MEMORY_MIB_MIN,
            flavor_memory_limit=MEMORY_MIB_MAX,
            flavor_disk_limit=DISK_GIB_MAX,
        )


def _save(flavor: Flavor) -> None:
    try:
        with transaction.atomic():
            flavor.save()
    except IntegrityError as error:
        code = "flavor.name_taken"
        raise Invalid(code, fields={"name": code}, name=flavor.name) from error
