"""Each change of a machine's settings: checked, counted and written with its job, or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from django.db import transaction

from accounts import audit, policy, quotas
from accounts.errors import Conflict, Invalid, NotFound
from accounts.models import Allocation, Resource
from accounts.policy import Action
from hosts import capacity
from jobs import services as job_services
from vms import state, timeline
from vms.hardware import rules
from vms.lifecycle import active_job
from vms.models import VM, Disk, Image, Nic
from vms.provisioning.request import free_mac
from vms.provisioning.validation import (
    DISK_GIB_MAX,
    GIB,
    MEMORY_MIB_MAX,
    MEMORY_MIB_MIN,
    VCPUS_MAX,
    usable_networks,
)
from vms.state import ON, running_ask

if TYPE_CHECKING:
    from accounts.models import User
    from accounts.quotas import Ask
    from jobs.models import Job

Why = Callable[[VM, "Job | None"], "str | None"]
RESIZE, BOOT, AUTOSTART = "vm.resize", "vm.boot_order", "vm.autostart"
DISK_ADD, DISK_GROW, DISK_REMOVE = "vm.disk_add", "vm.disk_grow", "vm.disk_remove"
DISK_FROM_BACKUP = "vm.disk_from_backup"
NIC_ADD, NIC_CHANGE, NIC_REMOVE = "vm.nic_add", "vm.nic_change", "vm.nic_remove"
RESTART = "vm.restart"


# --- size ----------------------------------------------------------------------------------------


def resize(vm: VM, *, actor: User, vcpus: int | None = None, memory_mib: int | None = None) -> Job:
    """None: as it is. What the running machine cannot take now waits in ``VM.pending``; the
    present value takes that back. The larger of both counts in the quota.

    Raises NotFound, Forbidden, Invalid, Conflict, Busy, QuotaExceeded, as all here do.
    """
    policy.require(actor, Action.EDIT, vm)
    with transaction.atomic():
        row = _locked(vm, rules.why_not)
        to = {
            "vcpus": _next(row, "vcpus") if vcpus is None else vcpus,
            "memory_mib": _next(row, "memory_mib") if memory_mib is None else memory_mib,
        }
        _check_size(row, **to)
        _check_host(row, **to)
        quotas.allocate(row, size_ask(row, **to))
        before = {name: getattr(row, name) for name in to}
        return _enqueue(RESIZE, row, actor, before=before, after=to, params=to)


def size_ask(vm: VM, *, vcpus: int | None = None, memory_mib: int | None = None) -> Ask:
    """What another size takes of the quota beyond what the machine holds. None: as it will be."""
    more = {
        Resource.VCPUS: max(vm.vcpus, _next(vm, "vcpus") if vcpus is None else vcpus),
        Resource.MEMORY_MIB: max(
            vm.memory_mib, _next(vm, "memory_mib") if memory_mib is None else memory_mib
        ),
    }
    if vm.observed in ON:  # a processor may be plugged in at once
        more[Resource.RUNNING_VCPUS] = more[Resource.VCPUS]
    return _beyond(vm, more)


def set_boot_order(vm: VM, *, actor: User, devices: list[str]) -> Job:
    """Targets of disks and MACs of network cards; what is not named is not booted from."""
    policy.require(actor, Action.EDIT, vm)
    with transaction.atomic():
        row = _locked(vm, rules.why_not)
        known = set(rules.bootable(row))
        if not devices or len(set(devices)) != len(devices) or not set(devices) <= known:
            raise Invalid("hardware.boot_unknown", fields={"devices": "hardware.boot_unknown"})
        if not set(devices) <= set(rules.offered_to_boot(row)):
            raise Invalid("hardware.boot_no_pxe", fields={"devices": "hardware.boot_no_pxe"})
        before, after = {"devices": rules.boot_order(row)}, {"devices": devices}
        return _enqueue(BOOT, row, actor, before=before, after=after, params=after)


def set_autostart(vm: VM, *, actor: User, autostart: bool) -> Job:
    """Whether its host starts it when the host itself has started."""
    policy.require(actor, Action.EDIT, vm)
    with transaction.atomic():
        row = _locked(vm, rules.why_not)
        after = {"autostart": autostart}
        return _enqueue(
            AUTOSTART, row, actor, before={"autostart": row.autostart}, after=after, params=after
        )


def restart(vm: VM, *, actor: User) -> Job:
    """Shut down and start: what waits for that is in force then."""
    policy.require(actor, Action.POWER, vm)
    with transaction.atomic():
        row = _locked(vm, rules.why_not)
        if row.observed != VM.Observed.RUNNING:
            words = {VM.Observed.PAUSED: "paused", VM.Observed.CRASHED: "crashed"}
            raise Conflict(f"vm.why.{words.get(VM.Observed(row.observed), 'off')}", name=row.name)
        size = {name: row.pending.get(name, getattr(row, name)) for name in ("vcpus", "memory_mib")}
        quotas.allocate(row, _beyond(row, running_ask(**size)))
        return _enqueue(RESTART, row, actor, before={}, after=row.pending, params={})


# --- disks ---------------------------------------------------------------------------------------


def add_disk(vm: VM, *, actor: User, size_gib: int) -> tuple[Disk, Job]:
    """An empty disk beside the others, in the pool of the first."""
    policy.require(actor, Action.EDIT, vm)
    with transaction.atomic():
        row = _locked(vm, rules.why_not_disks)
        disk = _insert_disk(row, size_gib)
        after = {"disk": disk.target, "size_gib": size_gib}
        job = _enqueue(DISK_ADD, row, actor, before={}, after=after, params={"disk": disk.pk})
    return disk, job


def add_copy(vm: VM, *, actor: User, image: Image, backup_id: int) -> tuple[Disk, Job]:
    """A copy of a backup's disk beside the others. The caller has asked whether the person may have
    the backup, and whether it lies on the machine's host."""
    policy.require(actor, Action.EDIT, vm)
    with transaction.atomic():
        row = _locked(vm, rules.why_not_disks)
        disk = _insert_disk(row, image.min_disk_gib)
        params = {"disk": disk.pk, "image": image.pk, "backup": backup_id}
        after = {"disk": disk.target, "size_gib": disk.size_gib}
        job = _enqueue(DISK_FROM_BACKUP, row, actor, before={}, after=after, params=params)
    return disk, job


def grow_disk(disk: Disk, *, actor: User, size_gib: int) -> Job:
    """A disk only ever grows: what is cut off would be the guest's data."""
    policy.require(actor, Action.EDIT, disk.vm)
    with transaction.atomic():
        row = _locked(disk.vm, rules.why_not_disks)
        disk = find_disk(row, disk.target)
        _check_disk(size_gib, least=disk.size_gib + 1)
        _check_pool(disk, size_gib - disk.size_gib)
        quotas.allocate(row, {Resource.DISK_GIB: size_gib - disk.size_gib})
        before = {"disk": disk.target, "size_gib": disk.size_gib}
        after = {"disk": disk.target, "size_gib": size_gib}
        params = {"disk": disk.pk, "size_gib": size_gib}
        return _enqueue(DISK_GROW, row, actor, before=before, after=after, params=params)


def remove_disk(disk: Disk, *, actor: User) -> Job:
    """With all that is on it."""
    policy.require(actor, Action.EDIT, disk.vm)
    with transaction.atomic():
        row = _locked(disk.vm, rules.why_not_disks)
        disk = find_disk(row, disk.target)
        if disk.pk == row.disks.order_by("id").values_list("pk", flat=True)[0]:
            raise Conflict("hardware.first_disk")
        before = {"disk": disk.target, "size_gib": disk.size_gib}
        params = {"disk": disk.pk}
        return _enqueue(DISK_REMOVE, row, actor, before=before, after={}, params=params)


def find_disk(vm: VM, target: str) -> Disk:
    disk = vm.disks.select_related("pool").filter(target=target).first()
    if disk is None:
        raise NotFound("hardware.disk_unknown")
    disk.vm = vm
    return disk


# --- network cards -------------------------------------------------------------------------------


def add_nic(vm: VM, *, actor: User, network: str) -> tuple[Nic, Job]:
    policy.require(actor, Action.EDIT, vm)
    with transaction.atomic():
        row = _locked(vm, rules.why_not)
        _check_network(row, network)
        if row.nics.count() >= rules.NICS_MAX:
            raise Conflict("hardware.nics_many", limit=rules.NICS_MAX)
        nic = Nic.objects.create(vm=row, mac=free_mac(), network=network)
        after = {"mac": nic.mac, "network": network}
        job = _enqueue(NIC_ADD, row, actor, before={}, after=after, params={"nic": nic.pk})
    return nic, job


def change_nic(
    nic: Nic, *, actor: User, network: str | None = None, link_up: bool | None = None
) -> Job:
    """Its network, and whether its cable is in. None: as it is."""
    policy.require(actor, Action.EDIT, nic.vm)
    with transaction.atomic():
        row = _locked(nic.vm, rules.why_not)
        nic = find_nic(row, nic.pk)
        before = {"mac": nic.mac, "network": nic.network, "link_up": nic.link_up}
        network = nic.network if network is None else network
        if network != nic.network:
            _check_network(row, network)
        after = {"network": network, "link_up": nic.link_up if link_up is None else link_up}
        params = {"nic": nic.pk, **after}
        return _enqueue(NIC_CHANGE, row, actor, before=before, after=after, params=params)


def remove_nic(nic: Nic, *, actor: User) -> Job:
    policy.require(actor, Action.EDIT, nic.vm)
    with transaction.atomic():
        row = _locked(nic.vm, rules.why_not)
        nic = find_nic(row, nic.pk)
        before = {"mac": nic.mac, "network": nic.network}
        return _enqueue(NIC_REMOVE, row, actor, before=before, after={}, params={"nic": nic.pk})


def find_nic(vm: VM, pk: int) -> Nic:
    nic = vm.nics.filter(pk=pk).first()
    if nic is None:
        raise NotFound("hardware.nic_unknown")
    nic.vm = vm
    return nic


# --- checks --------------------------------------------------------------------------------------


def _check_size(vm: VM, *, vcpus: int, memory_mib: int) -> None:
    fields, params = {}, {}
    least = max(MEMORY_MIB_MIN, vm.image.min_memory_mib if vm.image else 0)
    if not 1 <= vcpus <= VCPUS_MAX:
        fields["vcpus"], params["vcpus"] = "vm.vcpus_range", {"limit": VCPUS_MAX}
    if not least <= memory_mib <= MEMORY_MIB_MAX:
        fields["memory_mib"] = "vm.memory_range"
        params["memory_mib"] = {"minimum": least, "maximum": MEMORY_MIB_MAX}
    if fields:
        raise Invalid("vm.invalid", fields=fields, field_params=params)


def _check_host(vm: VM, *, vcpus: int, memory_mib: int) -> None:
    """Growth must fit where it is: nothing moves it to another host."""
    if vm.host is None:
        return
    room = capacity.of_host(vm.host)
    memory = memory_mib - vm.memory_mib
    if memory > 0 and memory > room.memory_free_mib:
        raise Conflict(
            "hardware.host_memory", host=vm.host.name, free_mib=max(room.memory_free_mib, 0)
        )
    if vcpus > vm.vcpus and vcpus - vm.vcpus > room.vcpus_free:
        raise Conflict("hardware.host_vcpus", host=vm.host.name, free=max(room.vcpus_free, 0))


def _check_disk(size_gib: int, *, least: int) -> None:
    if not least <= size_gib <= DISK_GIB_MAX:
        code = "hardware.disk_size"
        raise Invalid(code, fields={"size_gib": code}, minimum=least, maximum=DISK_GIB_MAX)


def _check_pool(disk: Disk, more_gib: int) -> None:
    if disk.pool is None:
        return
    room = capacity.of_pools([disk.pool], disk.pool.host.disk_ratio)[disk.pool.pk]
    if more_gib * GIB > room.free_bytes:
        raise Conflict("hardware.pool_full", free_gib=max(room.free_bytes // GIB, 0))


def _check_network(vm: VM, network: str) -> None:
    here = vm.host is None or vm.host.networks.filter(name=network, active=True).exists()
    if network not in usable_networks() or not here:
        code = "vm.network_unknown"
        raise Invalid(code, fields={"network": code}, name=network[:64])


def _insert_disk(row: VM, size_gib: int) -> Disk:
    """The row of a further disk, counted."""
    first = row.disks.select_related("pool").order_by("id").first()
    target = rules.free_target(row)
    if not target or first is None or row.disks.count() >= rules.DISKS_MAX:
        raise Conflict("hardware.disks_many", limit=rules.DISKS_MAX)
    _check_disk(size_gib, least=1)
    _check_pool(first, size_gib)
    quotas.allocate(row, {Resource.DISK_GIB: size_gib})
    return Disk.objects.create(
        vm=row,
        pool=first.pool,
        volume=f"kvmweb-{row.uuid}-{target}.qcow2",
        target=target,
        size_gib=size_gib,
        format="qcow2",
    )


# --- inside --------------------------------------------------------------------------------------


def _next(vm: VM, name: str) -> int:
    """What it will be from the next start on."""
    value: int = vm.pending.get(name, getattr(vm, name))
    return value


def _held(vm: VM) -> dict[str, int]:
    held: dict[str, int] = {}
    for resource, amount in Allocation.objects.filter(vm=vm).values_list("resource", "amount"):
        held[resource] = held.get(resource, 0) + amount
    return held


def _beyond(vm: VM, wanted: Ask) -> Ask:
    """The part of ``wanted`` that it does not hold yet."""
    held = _held(vm)
    return {
        resource: amount - held.get(resource.value, 0)
        for resource, amount in wanted.items()
        if amount > held.get(resource.value, 0)
    }


def _locked(vm: VM, why: Why) -> VM:
    quotas.lock_team(vm.team_id)
    rows = VM.objects.alive().select_for_update(of=("self",)).select_related("host", "image")
    row = rows.filter(pk=vm.pk).first()
    if row is None:
        raise Conflict("vm.why.deleted", name=vm.name)
    if code := why(row, active_job(row)):
        raise Conflict(code, name=row.name, host=row.host.name if row.host else "")
    return row


def _enqueue(
    kind: str,
    vm: VM,
    actor: User,
    *,
    before: dict[str, Any],
    after: dict[str, Any],
    params: dict[str, Any],
) -> Job:
    job = job_services.enqueue(
        kind,
        actor=actor,
        vm=vm,
        target_name=vm.name,
        params=params | {"before": before, "after": after},
    )
    audit.record(actor, kind, vm, before=before, after=after, job=job, team_id=vm.team_id)
    timeline.record(vm, "asked", actor=actor, job=job, task=kind)
    state.announce(vm)
    return job
