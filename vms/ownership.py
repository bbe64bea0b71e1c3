"""Whose a machine is, and how it becomes somebody else's."""

from __future__ import annotations

from django.db.models import Count, Q

from accounts import audit
from accounts.handovers import Leaving
from accounts.models import Allocation, Team, User
from vms import state, timeline
from vms.models import VM, VMQuerySet


class Machines:
    """Machines of somebody who leaves a team (``accounts.handovers``)."""

    def count(self, *, user_ids: list[int], team: Team) -> dict[int, int]:
        rows = _kept(VM.objects.filter(team=team, owner__in=user_ids)).order_by()
        return dict(rows.values_list("owner").annotate(n=Count("pk", distinct=True)))

    def move(self, leaving: Leaving) -> int:
        """The team's quota stays as it is. The heir's own part grows, over their limit if need
        be: a limit in a team must not keep anybody in it."""
        vms = list(
            VM.objects.select_for_update(of=("self",)).filter(
                pk__in=_kept(VM.objects.filter(team=leaving.team, owner=leaving.user)).values("pk")
            )
        )
        for vm in vms:
            _give(vm, leaving.heir, actor=leaving.actor)
        return len(vms)


def _kept(rows: VMQuerySet) -> VMQuerySet:
    """Machines that are there, and those that are gone but still counted (in a bin)."""
    return rows.filter(Q(deleted_at__isnull=True) | Q(allocations__isnull=False)).distinct()


def _give(vm: VM, heir: User, *, actor: User) -> None:
    before = vm.owner
    state.announce(vm)  # to those who lose it too
    VM.objects.filter(pk=vm.pk).update(owner=heir)
    Allocation.objects.filter(vm=vm).update(user=heir)
    vm.owner = heir
    audit.record(
        actor,
        "vm.change_owner",
        vm,
        before={"owner": before.username},
        after={"owner": heir.username},
    )
    timeline.record(
        vm, "owner", actor=actor, before=before.display_name(), after=heir.display_name()
    )
    state.announce(vm)


MACHINES = Machines()
