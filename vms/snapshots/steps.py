"""What the jobs of snapshots do on the host, and what their end means for the rows."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from django.db import transaction

from accounts import quotas
from accounts.errors import DomainError
from accounts.models import Resource
from hosts.virt.errors import AlreadyExists, NoSpace, NoSuchDomain, UnknownVirtError
from hosts.virt.spec import SnapshotFacts, SnapshotSpec
from jobs.models import Job
from vms import at_host, discs, power, state, timeline
from vms.guest import freezing
from vms.models import VM, Disk, Nic, Snapshot
from vms.provisioning.domain import domain_spec
from vms.provisioning.steps import power_on
from vms.snapshots.requests import size_of
from vms.state import ON, RUNNING_RESOURCES, running_ask

if TYPE_CHECKING:
    from hosts.virt.protocol import Hypervisor
    from jobs.context import JobContext


MIB = 1024**2

# --- take ----------------------------------------------------------------------------------------


def is_taken(ctx: JobContext) -> bool:
    """By an earlier attempt of this job. One of this name from outside is not ours."""
    return bool(ctx.data.get("begun")) and _on_host(ctx, at_host.machine(ctx)) is not None


def take(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    at = at_host.hypervisor(vm)
    snapshot, disks = _row(ctx), _disks(vm)
    if not ctx.data.get("begun"):
        if _on_host(ctx, vm) is not None:
            raise DomainError("snapshot.name_taken", name=snapshot.name)
        ctx.save_data(begun=True, before_bytes=_allocated(at, disks))
    spec = SnapshotSpec(
        name=snapshot.name,
        description=snapshot.description,
        memory=snapshot.memory,
        disks=tuple(disk.target for disk in disks),
    )
    # With its memory it goes on from there, whatever it had not written.
    with nullcontext() if snapshot.memory else freezing.frozen(ctx):
        try:
            at.create_snapshot(vm.uuid, spec, lambda _done, _all: ctx.checkpoint())
        except AlreadyExists:
            if _on_host(ctx, vm) is None:
                raise
        except UnknownVirtError as error:
            # QEMU calls it an input/output error when there is no room for the guest's memory.
            if snapshot.memory and _lacks_room(at, vm):
                raise NoSpace(error.raw, ref=error.ref) from error
            raise


def _lacks_room(at: Hypervisor, vm: VM) -> bool:
    """Whether less is free in its pool than its memory may take."""
    disk = vm.disks.select_related("pool").first()
    name = disk.pool.name if disk is not None and disk.pool is not None else ""
    at.refresh_pool(name)
    free = next((pool.available_bytes for pool in at.list_pools() if pool.name == name), None)
    return free is not None and free < vm.memory_mib * MIB


def drop_taken(ctx: JobContext) -> None:
    freezing.thaw(ctx)
    if ctx.data.get("begun"):
        _delete(ctx)


def note_taken(ctx: JobContext) -> None:
    freezing.thaw(ctx)
    vm = at_host.machine(ctx)
    at = at_host.hypervisor(vm)
    grown = _allocated(at, _disks(vm)) - ctx.data.get("before_bytes", 0)
    Snapshot.objects.filter(pk=ctx.params["snapshot"]).update(
        state=Snapshot.State.READY, size_bytes=max(grown, 0)
    )
    sync(vm, at.snapshots(vm.uuid))
    at_host.look(vm)


# --- go back, delete -----------------------------------------------------------------------------


def revert(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    at = at_host.hypervisor(vm)
    at.revert_snapshot(vm.uuid, _row(ctx).name, lambda _done, _all: ctx.checkpoint())
    at_host.look(vm)


def note_reverted(ctx: JobContext) -> None:
    """The definition came back too: who owns the machine is what the rows say now."""
    vm = at_host.machine(ctx)
    at = at_host.hypervisor(vm)
    _restore_rows(vm, _row(ctx))
    at.set_metadata(vm.uuid, domain_spec(vm))
    at.set_vcpus(vm.uuid, vm.vcpus)  # what had waited for a start when it was taken does not come
    at.set_memory(vm.uuid, vm.memory_mib)
    if (disk := vm.disks.select_related("pool").first()) and disk.pool is not None:
        discs.settle(vm, at, disk.pool.name)
    sync(vm, at.snapshots(vm.uuid))


def wants_start(ctx: JobContext) -> bool:
    return bool(ctx.params.get("start"))


def start(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    power_on(at_host.hypervisor(vm), vm)


def delete(ctx: JobContext) -> None:
    _delete(ctx)


def note_deleted(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    sync(vm, at_host.hypervisor(vm).snapshots(vm.uuid))


# --- outcomes ------------------------------------------------------------------------------------


def taken(job: Job) -> None:
    _done(job, "snapshot.taken")


def not_taken(job: Job) -> None:
    """It is gone from the host, or was never there."""
    Snapshot.objects.filter(pk=job.params["snapshot"], state=Snapshot.State.CREATING).delete()
    _failed(job)


def reverted(job: Job) -> None:
    _done(job, "snapshot.reverted")


def not_reverted(job: Job) -> None:
    _failed(job)


def deleted(job: Job) -> None:
    Snapshot.objects.filter(pk=job.params["snapshot"]).delete()
    _done(job, "snapshot.deleted")


def _done(job: Job, kind: str) -> None:
    vm = job.vm
    if vm is None:
        return
    vm.refresh_from_db()
    _settle(vm)
    VM.objects.filter(pk=vm.pk).exclude(fault_code="").update(
        fault_code="", fault_params={}, fault_ref="", fault_at=None
    )
    timeline.record(vm, kind, actor=job.actor, job=job, name=job.params["name"])
    state.announce(vm)


def _failed(job: Job) -> None:
    vm = job.vm
    if vm is None:
        return
    vm.refresh_from_db()
    _settle(vm)
    power.note_fault(vm, job)
    on = vm.observed in ON
    VM.objects.filter(pk=vm.pk).update(desired=VM.Desired.RUNNING if on else VM.Desired.STOPPED)
    timeline.record(vm, f"job.{job.state}", actor=job.actor, job=job, task=job.kind)
    state.announce(vm)


def _settle(vm: VM) -> None:
    """What it has now, by its rows: what was held for more is given back."""
    quotas.settle(
        vm,
        {
            Resource.SNAPSHOTS: vm.snapshots.exclude(state=Snapshot.State.MISSING).count(),
            Resource.VCPUS: vm.vcpus,
            Resource.MEMORY_MIB: vm.memory_mib,
        },
    )
    if vm.observed in ON:
        quotas.settle(vm, running_ask(vm.vcpus, vm.memory_mib))
    else:
        quotas.release(vm, RUNNING_RESOURCES)


# --- rows ----------------------------------------------------------------------------------------


@transaction.atomic
def sync(vm: VM, listed: list[SnapshotFacts]) -> None:
    """The rows as libvirt tells the tree. One that somebody took by hand gets a row; one that is
    gone is kept as missing, with what people wrote of it."""
    rows = {row.name: row for row in vm.snapshots.select_for_update()}
    for facts in listed:
        row = rows.get(facts.name)
        if row is None:
            row = rows[facts.name] = Snapshot.objects.create(
                vm=vm,
                name=facts.name[:63],
                description=facts.description[:500],
                state=Snapshot.State.READY,
                memory=facts.memory,
                created_at=datetime.fromtimestamp(facts.created_at, tz=timezone.utc),
            )
        row.parent = rows.get(facts.parent)
        row.current = facts.current
        row.memory = facts.memory
        if row.state == Snapshot.State.MISSING:
            row.state = Snapshot.State.READY
        row.save(update_fields=["parent", "current", "memory", "state"])
    gone = set(rows) - {facts.name for facts in listed}
    vm.snapshots.filter(name__in=gone, state=Snapshot.State.READY).update(
        state=Snapshot.State.MISSING, current=False, parent=None
    )


def _restore_rows(vm: VM, snapshot: Snapshot) -> None:
    """Sizes and network cards as the snapshot's definition has them."""
    vm.vcpus, vm.memory_mib = size_of(vm, snapshot)
    vm.pending = {}
    vm.save(update_fields=["vcpus", "memory_mib", "pending"])
    kept = {nic["mac"]: nic for nic in snapshot.hardware.get("nics", ())}
    if not kept:
        return
    vm.nics.exclude(mac__in=kept).delete()
    for mac, nic in kept.items():
        Nic.objects.update_or_create(
            vm=vm, mac=mac, defaults={"network": nic["network"], "model": nic["model"]}
        )


# --- on the host ---------------------------------------------------------------------------------


def _row(ctx: JobContext) -> Snapshot:
    return Snapshot.objects.get(pk=ctx.params["snapshot"])


def _on_host(ctx: JobContext, vm: VM) -> SnapshotFacts | None:
    listed = at_host.hypervisor(vm).snapshots(vm.uuid)
    return next((facts for facts in listed if facts.name == ctx.params["name"]), None)


def _delete(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    try:
        at_host.hypervisor(vm).delete_snapshot(
            vm.uuid, ctx.params["name"], lambda _done, _all: ctx.checkpoint()
        )
    except NoSuchDomain:
        return  # and its disks with it


def _disks(vm: VM) -> list[Disk]:
    return list(vm.disks.select_related("pool"))


def _allocated(at: Hypervisor, disks: list[Disk]) -> int:
    """Bytes of its disks' files."""
    return sum(
        at.volume(disk.pool.name, disk.volume).allocation_bytes
        for disk in disks
        if disk.pool is not None
    )
