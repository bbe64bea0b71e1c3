"""The same recount for what belongs to no machine: templates, their versions, and backups.

Each is held under a subject of its own. What is held under a subject that is nobody's, for another
team or person, or in another amount than the rows say is a difference. One that a job is at is
left to it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from django.db import transaction
from django.db.models import Sum

from accounts import audit, quotas
from accounts.models import Allocation, Resource, Team
from jobs.models import Job
from vms.backups import services as backups
from vms.machine_templates import services as templates
from vms.models import Backup, Image, Template

_GIB = 1024**3
Amounts = Mapping[Resource, int]


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A thing as its rows have it."""

    name: str
    team: Team
    user_id: int
    takes: Amounts
    images: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Odd:
    subject: str
    name: str
    team: str
    resource: Resource
    held: int
    counted: int


def run(*, repair: bool) -> list[Odd]:
    """What differs; set right with ``repair``."""
    found = _compare()
    if not found or not repair:
        return found
    with transaction.atomic():
        teams = set(Allocation.objects.filter(vm=None).values_list("team", flat=True))
        quotas.lock_teams(*teams, *(kept.team.pk for kept in _there().values()))
        found = _compare()  # once more, under the locks
        for subject in sorted({one.subject for one in found}):
            _settle(subject, [one for one in found if one.subject == subject])
    return found


def _there() -> dict[str, Kept]:
    found: dict[str, Kept] = {}
    for template in Template.objects.select_related("team"):
        found[templates.subject(template)] = Kept(
            name=template.name,
            team=template.team,
            user_id=template.owner_id,
            takes={Resource.TEMPLATES: 1},
        )
    for version in Image.objects.filter(template__isnull=False).select_related("template__team"):
        its = version.template
        if its is None:
            continue
        found[templates.subject(version)] = Kept(
            name=version.name,
            team=its.team,
            user_id=version.created_by_id or its.owner_id,
            takes={Resource.IMAGES_GIB: _gib(version)},
            images=(version.pk,),
        )
    rows = Backup.objects.select_related("image", "vm__team").prefetch_related("more__image")
    for backup in rows:
        images = [image for _target, image in backup.files]
        found[backups.subject(backup)] = Kept(
            name=f"{backup.vm.name} · {backup.number}",
            team=backup.vm.team,
            user_id=backup.vm.owner_id,  # whoever asked for it
            takes={Resource.BACKUPS_GIB: sum(map(_gib, images))},
            images=tuple(image.pk for image in images),
        )
    return found


def _gib(image: Image) -> int:
    return -(-image.virtual_size_bytes // _GIB)


def _compare() -> list[Odd]:
    # Held first: what is made or forgotten in between would else look like nobody's.
    held: dict[str, dict[tuple[int, int, Resource], int]] = defaultdict(dict)
    kept_apart = Allocation.objects.filter(vm=None).order_by()
    rows = kept_apart.values("subject", "team", "user", "resource")
    for row in rows.annotate(total=Sum("amount")):
        key = row["team"], row["user"], Resource(row["resource"])
        held[row["subject"]][key] = row["total"]
    there = _there()
    busy = set(Job.objects.active().filter(image__isnull=False).values_list("image", flat=True))
    names = dict(Team.objects.values_list("pk", "name"))
    found = []
    for subject in {**there, **held}:
        kept = there.get(subject)
        if kept is not None and not busy.isdisjoint(kept.images):
            continue
        wanted = (
            {(kept.team.pk, kept.user_id, what): n for what, n in kept.takes.items()}
            if kept
            else {}
        )
        for key in {**wanted, **held.get(subject, {})}:
            has, counts = held.get(subject, {}).get(key, 0), wanted.get(key, 0)
            if has != counts:
                name = kept.name if kept else subject
                team = names.get(key[0], "")
                found.append(
                    Odd(
                        subject=subject,
                        name=name,
                        team=team,
                        resource=key[2],
                        held=has,
                        counted=counts,
                    )
                )
    return found


def _settle(subject: str, odd: list[Odd]) -> None:
    kept = _there().get(subject)
    Allocation.objects.filter(subject=subject, vm=None).delete()
    if kept is not None:
        Allocation.objects.bulk_create(
            Allocation(
                subject=subject,
                team=kept.team,
                user_id=kept.user_id,
                resource=resource,
                amount=amount,
                state=Allocation.State.ACTIVE,
            )
            for resource, amount in kept.takes.items()
            if amount
        )
    audit.record(
        None,
        "quota.recount",
        before={one.resource.value: one.held for one in odd},
        after={one.resource.value: one.counted for one in odd},
        target_name=odd[0].name,
    )
