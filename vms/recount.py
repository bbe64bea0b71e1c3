"""Does the sum of the allocations say what is there? Counted again, from the rows and the hosts.

A machine that a job works on is left to its job. For every other one the sum of what it holds must
be what its rows say; where it is not, it is set right, and the difference is reported: there
should be none. What nobody counts (a resource without a counter here) is not judged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from django.db import transaction
from django.db.models import Count, F, Sum
from django.utils import timezone

from accounts import audit, quotas
from accounts.models import Allocation, QuotaRecount, Resource
from hosts import connections
from hosts.models import Host
from hosts.virt.errors import VirtError
from jobs.models import Job
from vms import binning, recount_kept, state
from vms.models import VM, Disk, PublishedPort, Snapshot

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from hosts.virt.spec import DomainFacts

_GIB = 1024**3
# machine id -> amount, of the machines asked for; who has none may be left out.
Counter = Callable[[Iterable[int]], Mapping[int, int]]
_counters: dict[Resource, Counter] = {}


@dataclass(frozen=True, kw_only=True)
class Difference:
    machine: str  # or a template, a version, a backup
    uuid: str  # of the machine
    team: str
    resource: str
    held: int  # the sum of its allocations
    counted: int
    host: str = ""  # the host that says so; "": our own rows


def register(resource: Resource, counter: Counter) -> None:
    """How to count a resource that features add to machines: their snapshots, for example."""
    _counters[resource] = counter


def run(*, repair: bool = True) -> QuotaRecount:
    """Compare every machine, template and backup with its rows, set right what differs, keep the
    report."""
    found = [
        difference
        for pk in _suspects()
        for difference in (_settle(pk) if repair else _differences(VM.objects.get(pk=pk)))
    ]
    found += [
        Difference(
            machine=one.name,
            uuid="",
            team=one.team,
            resource=one.resource.value,
            held=one.held,
            counted=one.counted,
        )
        for one in recount_kept.run(repair=repair)
    ]
    checked = VM.objects.alive().count()
    return QuotaRecount.objects.create(
        checked=checked, differences=[asdict(one) for one in found], repaired=repair
    )


def ask_hosts() -> tuple[list[Difference], list[str]]:
    """Compare the sums with what the hosts themselves say. Never in a page: it asks libvirt.

    Returns the differences, and the names of hosts that did not answer.
    """
    found: list[Difference] = []
    silent = []
    for host in Host.objects.order_by("name"):
        try:
            found += _of_host(host)
        except VirtError:  # noqa: PERF203 - one host does not keep the others
            silent.append(host.name)
    return found, silent


# --- our rows ------------------------------------------------------------------------------------


def _counted(vms: Iterable[VM]) -> dict[int, dict[Resource, int]]:
    """What each machine should hold, by its rows; a resource that cannot be judged is left out."""
    vms = list(vms)
    ids = [vm.pk for vm in vms]
    disks = dict(
        Disk.objects.filter(vm__in=ids)
        .order_by()
        .values("vm")
        .annotate(total=Sum("size_gib"))
        .values_list("vm", "total")
    )
    more = {resource: counter(ids) for resource, counter in _counters.items()}
    return {
        vm.pk: dict.fromkeys(Resource, 0)
        if vm.deleted_at is not None
        else _in_bin(
            vm,
            _of_machine(vm, disks.get(vm.pk, 0))
            | {resource: counts.get(vm.pk, 0) for resource, counts in more.items()},
        )
        for vm in vms
    }


def _in_bin(vm: VM, amounts: dict[Resource, int]) -> dict[Resource, int]:
    """What lies in the recycle bin keeps only what is really there."""
    if vm.binned_at is None:
        return amounts
    return {
        resource: amount if resource in binning.KEPT else 0 for resource, amount in amounts.items()
    }


def _of_machine(vm: VM, disk_gib: int) -> dict[Resource, int]:
    amounts = {
        Resource.MACHINES: 1,
        Resource.VCPUS: vm.vcpus,
        Resource.MEMORY_MIB: vm.memory_mib,
        Resource.DISK_GIB: disk_gib,
    }
    if vm.observed in state.ON:
        amounts |= state.running_ask(vm.vcpus, vm.memory_mib)
    elif vm.observed in state.OFF:
        amounts |= dict.fromkeys(state.RUNNING_RESOURCES, 0)
    return amounts


def _held(vms: QuerySet[VM, VM] | list[VM]) -> dict[int, dict[Resource, int]]:
    """The sums of what counts for the machine's present team and owner."""
    sums: dict[int, dict[Resource, int]] = defaultdict(dict)
    rows = Allocation.objects.filter(vm__in=vms, team=F("vm__team"), user=F("vm__owner")).order_by()
    for pk, resource, total in (
        rows.values("vm", "resource")
        .annotate(total=Sum("amount"))
        .values_list("vm", "resource", "total")
    ):
        sums[pk][Resource(resource)] = total
    return sums


def _suspects() -> list[int]:
    """Machines without a job whose sums differ from their rows, or that hold what no job will
    ever confirm."""
    busy = Job.objects.active().filter(vm__isnull=False).values("vm")
    rows = VM.objects.only(
        "pk",
        "uuid",
        "name",
        "vcpus",
        "memory_mib",
        "observed",
        "deleted_at",
        "binned_at",
        "team",
        "owner",
    ).exclude(pk__in=busy)
    holding = rows.filter(deleted_at__isnull=True) | rows.filter(
        pk__in=Allocation.objects.filter(vm__deleted_at__isnull=False).values("vm")
    )
    vms = list(holding)
    counted, held = _counted(vms), _held(vms)
    strayed = set(
        Allocation.objects.exclude(team=F("vm__team"), user=F("vm__owner"))
        .filter(vm__isnull=False)
        .values_list("vm", flat=True)
    )
    unsettled = set(
        Allocation.objects.filter(vm__isnull=False)
        .exclude(state=Allocation.State.ACTIVE)
        .values_list("vm", flat=True)
    )
    odd = strayed | unsettled
    return [vm.pk for vm in vms if vm.pk in odd or _differs(counted[vm.pk], held.get(vm.pk, {}))]


def _differs(counted: Mapping[Resource, int], held: Mapping[Resource, int]) -> bool:
    return any(held.get(resource, 0) != amount for resource, amount in counted.items())


def _differences(vm: VM) -> list[Difference]:
    counted, held = _counted([vm])[vm.pk], _held([vm]).get(vm.pk, {})
    return [
        Difference(
            machine=vm.name,
            uuid=str(vm.uuid),
            team=vm.team.name,
            resource=resource.value,
            held=held.get(resource, 0),
            counted=amount,
        )
        for resource, amount in counted.items()
        if held.get(resource, 0) != amount
    ]


@transaction.atomic
def _settle(pk: int) -> list[Difference]:
    """Look once more under the locks, then write what is."""
    team_id = VM.objects.values_list("team", flat=True).get(pk=pk)
    quotas.lock_team(team_id)
    vm = VM.objects.select_for_update().get(pk=pk)
    if vm.team_id != team_id or Job.objects.active().filter(vm=vm).exists():
        return []  # somebody is at it: the next recount looks again
    found = _differences(vm)
    counted = _counted([vm])[pk]
    strays = Allocation.objects.filter(vm=vm).exclude(team=vm.team_id, user=vm.owner_id)
    strays.update(team=vm.team_id, user=vm.owner_id)
    now_held = _held([vm]).get(pk, {})
    wrong = {
        resource: amount
        for resource, amount in counted.items()
        if now_held.get(resource, 0) != amount
    }
    quotas.settle(vm, wrong)
    Allocation.objects.filter(vm=vm).update(state=Allocation.State.ACTIVE)
    if found:
        audit.record(
            None,
            "quota.recount",
            vm,
            before={one.resource: one.held for one in found},
            after={one.resource: one.counted for one in found},
        )
    return found


# --- the hosts -----------------------------------------------------------------------------------


def _of_host(host: Host) -> list[Difference]:
    at_host = connections.hypervisor(host)
    listed = {facts.uuid: facts for facts in at_host.list_domains()}
    sizes = {
        (pool.name, volume.name): volume.capacity_bytes
        for pool in host.pools.filter(active=True)
        for volume in at_host.list_volumes(pool.name)
    }
    busy = Job.objects.active().filter(vm__isnull=False).values("vm")
    vms = list(VM.objects.alive().filter(host=host).exclude(pk__in=busy).select_related("team"))
    held = _held(vms)
    found = []
    for vm in vms:
        facts = listed.get(vm.uuid)
        if facts is None:
            continue  # missing: it keeps what it holds until somebody decides
        disks = [
            sizes.get((disk.pool.name if disk.pool else "", disk.volume), disk.size_gib * _GIB)
            for disk in vm.disks.select_related("pool")
        ]
        counted = _in_bin(vm, _of_facts(facts, sum(-(-size // _GIB) for size in disks)))
        found += [
            Difference(
                machine=vm.name,
                uuid=str(vm.uuid),
                team=vm.team.name,
                resource=resource.value,
                held=held.get(vm.pk, {}).get(resource, 0),
                counted=amount,
                host=host.name,
            )
            for resource, amount in counted.items()
            if held.get(vm.pk, {}).get(resource, 0) != amount
        ]
    return found


def _of_facts(facts: DomainFacts, disk_gib: int) -> dict[Resource, int]:
    on = facts.state.value in state.ON
    running = state.running_ask(facts.vcpus, facts.memory_mib)
    return {
        Resource.MACHINES: 1,
        Resource.VCPUS: facts.vcpus,
        Resource.MEMORY_MIB: facts.memory_mib,
        Resource.DISK_GIB: disk_gib,
        **(running if on else dict.fromkeys(running, 0)),
    }


def _snapshots(ids: Iterable[int]) -> dict[int, int]:
    """Those that a host has lost are not counted, as where one is taken and deleted."""
    kept = Snapshot.objects.filter(vm__in=list(ids)).exclude(state=Snapshot.State.MISSING)
    counts = kept.order_by().values("vm").annotate(count=Count("pk"))
    return dict(counts.values_list("vm", "count"))


def _ports(ids: Iterable[int]) -> dict[int, int]:
    rows = PublishedPort.objects.filter(vm__in=list(ids))
    counts = rows.order_by().values("vm").annotate(count=Count("pk"))
    return dict(counts.values_list("vm", "count"))


register(Resource.SNAPSHOTS, _snapshots)
register(Resource.PORTS, _ports)


def forget_old() -> None:
    """Reports that found nothing are kept for two days, the others for a year."""
    now = timezone.now()
    rows = QuotaRecount.objects.exclude(pk=QuotaRecount.objects.values("pk")[:1])
    rows.filter(differences=[], at__lt=now - timedelta(days=2)).delete()
    rows.filter(at__lt=now - timedelta(days=365)).delete()
