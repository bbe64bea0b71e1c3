"""What people change of a machine without touching its hypervisor: name, description, tags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import transaction

from accounts import audit, policy, quotas
from accounts.errors import Conflict
from accounts.policy import Action
from vms import state, timeline
from vms.models import VM, Tag
from vms.provisioning.validation import Problems, check_edit

if TYPE_CHECKING:
    from accounts.models import User


def edit_vm(
    vm: VM,
    *,
    actor: User,
    name: str | None = None,
    description: str | None = None,
    tags: list[str] | None = None,
) -> VM:
    """None leaves as it is. The domain keeps its name: libvirt renames no running domain.

    Raises NotFound, Forbidden, Invalid with every wrong input, Conflict when it is deleted.
    """
    policy.require(actor, Action.EDIT, vm)
    problems = Problems()
    kept = check_edit(problems, name=name, description=description, tags=tags)
    with transaction.atomic():
        team = quotas.lock_team(vm.team_id)
        row = VM.objects.alive().select_for_update().filter(pk=vm.pk).first()
        if row is None:
            raise Conflict("vm.why.deleted", name=vm.name)
        twins = VM.objects.in_use().filter(team=team, name=name).exclude(pk=row.pk)
        if name is not None and twins.exists():
            problems.add("name", "vm.name_taken", name=name, team=team.name)
        problems.raise_if_any()
        before, after = _apply(row, name, description, kept)
        if after:
            audit.record(actor, "vm.edit", row, before=before, after=after, team_id=team.pk)
            timeline.record(row, "edited", actor=actor, what=timeline.changes(before, after))
            state.announce(row)
    return row


def _apply(
    row: VM, name: str | None, description: str | None, tags: tuple[str, ...] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(before, after) of what really changes."""
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    for field, value in (("name", name), ("description", description)):
        if value is not None and value != getattr(row, field):
            before[field], after[field] = getattr(row, field), value
            setattr(row, field, value)
    if after:
        row.save(update_fields=list(after))
    if tags is not None:
        had = list(row.tags.values_list("name", flat=True))
        if sorted(had) != sorted(tags):
            row.tags.all().delete()
            Tag.objects.bulk_create(Tag(vm=row, name=tag) for tag in tags)
            before["tags"], after["tags"] = had, list(tags)
    return before, after
