"""Take a snapshot, go back to one, delete one: each a wish, written whole with its job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import transaction

from accounts import audit, policy, quotas
from accounts.errors import Conflict, NotFound
from accounts.models import Allocation, Resource
from accounts.policy import Action
from jobs import services as job_services
from vms import state, timeline
from vms.lifecycle import active_job
from vms.models import VM, Snapshot
from vms.provisioning.validation import Problems
from vms.snapshots import rules
from vms.state import running_ask

if TYPE_CHECKING:
    from accounts.models import User
    from accounts.quotas import Ask
    from jobs.models import Job

TAKE, REVERT, DELETE = "vm.snapshot", "vm.snapshot_revert", "vm.snapshot_delete"


def take(
    vm: VM, *, actor: User, name: str, description: str = "", memory: bool | None = None
) -> tuple[Snapshot, Job]:
    """``memory``: with what the guest has in memory; None: with it when it runs.

    Raises NotFound, Forbidden, Invalid, Conflict (``vm.why.*``), Busy, QuotaExceeded.
    """
    policy.require(actor, Action.EDIT, vm)
    problems = Problems()
    if not rules.NAME.fullmatch(name):
        problems.add("name", "snapshot.name_wrong")
    if len(description) > rules.DESCRIPTION_MAX:
        problems.add("description", "vm.description_long", limit=rules.DESCRIPTION_MAX)
    elif any(ord(c) < 32 and c not in "\n\r\t" for c in description):
        problems.add("description", "vm.description_control")
    problems.raise_if_any()
    with transaction.atomic():
        row = _locked(vm)
        _refuse(row, rules.why_not_take(row, active_job(row)))
        if row.snapshots.filter(name=name).exists():
            problems.add("name", "snapshot.name_taken", name=name)
        on = rules.is_on(row)
        if memory and not on:
            problems.add("memory", "snapshot.no_memory")
        problems.raise_if_any()
        quotas.allocate(row, {Resource.SNAPSHOTS: 1})
        snapshot = Snapshot.objects.create(
            vm=row,
            name=name,
            description=description.strip(),
            memory=on if memory is None else memory,
            hardware=hardware(row),
            created_by=actor,
        )
        job = _enqueue(TAKE, row, snapshot, actor)
    return snapshot, job


def revert(snapshot: Snapshot, *, actor: User, start: bool = False) -> Job:
    """The machine as it was then. ``start``: one without memory leaves it off; start it after.

    What the machine takes of the quota then is taken now. Raises as ``take``.
    """
    vm = snapshot.vm
    policy.require(actor, Action.EDIT, vm)
    with transaction.atomic():
        row = _locked(vm)
        snapshot = _still_there(row, snapshot)
        _refuse(row, rules.why_not_back_to(row, snapshot, active_job(row)))
        quotas.allocate(row, growth(row, snapshot, start=start))
        job = _enqueue(REVERT, row, snapshot, actor, start=start and not snapshot.memory)
        on = snapshot.memory or start
        row.desired = VM.Desired.RUNNING if on else VM.Desired.STOPPED
        row.save(update_fields=["desired"])
    return job


def delete(snapshot: Snapshot, *, actor: User) -> Job:
    """Its children become its parent's. Raises as ``take``."""
    vm = snapshot.vm
    policy.require(actor, Action.EDIT, vm)
    with transaction.atomic():
        row = _locked(vm)
        snapshot = _still_there(row, snapshot)
        _refuse(row, rules.why_not(row, active_job(row)))
        return _enqueue(DELETE, row, snapshot, actor)


def find(vm: VM, pk: int) -> Snapshot:
    """Of a machine that the person sees. NotFound."""
    snapshot = vm.snapshots.filter(pk=pk).first()
    if snapshot is None:
        raise NotFound("snapshot.not_found")
    snapshot.vm = vm
    return snapshot


def hardware(vm: VM) -> dict[str, Any]:
    """What comes back with a snapshot, as the rows have it."""
    return {
        "vcpus": vm.vcpus,
        "memory_mib": vm.memory_mib,
        "nics": [
            {"mac": nic.mac, "network": nic.network, "model": nic.model} for nic in vm.nics.all()
        ],
    }


def growth(vm: VM, snapshot: Snapshot, *, start: bool) -> Ask:
    """What going back takes of the quota beyond what the machine has."""
    then = size_of(vm, snapshot)
    wanted = {Resource.VCPUS: then[0], Resource.MEMORY_MIB: then[1]}
    if snapshot.memory or start:
        wanted |= running_ask(*then)
    held: dict[str, int] = {}
    for resource, amount in Allocation.objects.filter(vm=vm).values_list("resource", "amount"):
        held[resource] = held.get(resource, 0) + amount
    return {
        resource: amount - held.get(resource.value, 0)
        for resource, amount in wanted.items()
        if amount > held.get(resource.value, 0)
    }


def size_of(vm: VM, snapshot: Snapshot) -> tuple[int, int]:
    """(vCPUs, MiB) of the machine once it has gone back; as it is where nobody noted it."""
    kept = snapshot.hardware
    return kept.get("vcpus", vm.vcpus), kept.get("memory_mib", vm.memory_mib)


# --- inside --------------------------------------------------------------------------------------


def _locked(vm: VM) -> VM:
    quotas.lock_team(vm.team_id)
    row = VM.objects.alive().select_for_update(of=("self",)).filter(pk=vm.pk).first()
    if row is None:
        raise Conflict("vm.why.deleted", name=vm.name)
    return row


def _still_there(vm: VM, snapshot: Snapshot) -> Snapshot:
    row = vm.snapshots.filter(pk=snapshot.pk).first()
    if row is None:
        raise NotFound("snapshot.not_found")
    return row


def _refuse(vm: VM, code: str | None) -> None:
    if code:
        raise Conflict(code, name=vm.name, host=vm.host.name if vm.host else "")


def _enqueue(kind: str, vm: VM, snapshot: Snapshot, actor: User, **params: Any) -> Job:
    job = job_services.enqueue(
        kind,
        actor=actor,
        vm=vm,
        target_name=vm.name,
        params={"snapshot": snapshot.pk, "name": snapshot.name, **params},
    )
    about = {"snapshot": snapshot.name, "memory": snapshot.memory}
    audit.record(actor, kind, vm, after=about, job=job, team_id=vm.team_id)
    timeline.record(vm, "snapshot.asked", actor=actor, job=job, task=kind, name=snapshot.name)
    state.announce(vm)
    return job
