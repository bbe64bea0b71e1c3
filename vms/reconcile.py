"""Every 15 s, for machines: quota that nobody uses, and what a failed job has left on a host.

A job undoes what it made; what can be left is what a worker that was lost has still done after
its job had ended. Such leftovers are deleted only when all of this holds: their name or metadata
carries the UUID of a machine of ours, that machine's row is deleted, it was never finished (its
create failed or was cancelled) or its delete has succeeded, no job works on it, and no other
volume stands on them. Everything else that no row owns is listed on the host's page.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts import audit, quotas
from accounts.models import Allocation
from hosts import connections, services
from hosts.models import Host, Untracked
from hosts.services import ADOPT, SWEEP
from hosts.virt.errors import NoSuchDomain, NoSuchVolume
from jobs import live, reconcile, registry
from jobs.models import Job
from jobs.registry import JobKind, StepSpec
from vms import adoption, state
from vms.images import poolvolumes
from vms.images.poolvolumes import OUR_VOLUMES, is_ownerless, machine_of
from vms.models import VM

if TYPE_CHECKING:
    from hosts.virt.protocol import Hypervisor
    from hosts.virt.spec import VolumeFacts
    from jobs.context import JobContext

# Disks of others that one host's list has at most, by pool and name: a pool can hold thousands.
STRANGE_VOLUMES_LISTED = 500
# So long after a failed create a lost worker of it cannot be at work any more.
SETTLED = timedelta(seconds=45)
# Failed creates that are older were looked after by earlier sweeps.
LOOK_BACK = timedelta(hours=1)
SWEEP_AT_LEAST_EVERY = timedelta(days=1)


# --- quota ----------------------------------------------------------------------------------------


def recount() -> None:
    """Allocations that no machine and no job stands behind are given back; machines that run
    without any are counted."""
    of_deleted = VM.objects.filter(deleted_at__isnull=False, allocations__isnull=False)
    running = Allocation.objects.filter(resource__in=state.RUNNING_RESOURCES)
    counted_but_off = VM.objects.alive().filter(observed__in=state.OFF, pk__in=running.values("vm"))
    held_but_idle = VM.objects.alive().filter(
        pk__in=running.filter(state=Allocation.State.HELD).values("vm")
    )
    on_but_uncounted = (
        VM.objects.alive().filter(observed__in=state.ON).exclude(pk__in=running.values("vm"))
    )
    for rows in (of_deleted, counted_but_off, held_but_idle, on_but_uncounted):
        for pk in rows.order_by().values_list("pk", flat=True).distinct():
            _recount_one(pk)


@transaction.atomic
def _recount_one(pk: int) -> None:
    vm = VM.objects.select_for_update().get(pk=pk)
    if Job.objects.active().filter(vm=vm).exists():
        return  # the job settles it
    if vm.deleted_at is not None:
        quotas.release(vm)
    elif vm.observed in state.ON:
        state.count_running(vm)
    elif vm.observed in state.OFF:
        quotas.release(vm, state.RUNNING_RESOURCES)


# --- leftovers ------------------------------------------------------------------------------------


def request_sweeps() -> None:
    """A sweep of each host where something may be left, or that was not swept for a day."""
    for host in Host.objects.filter(reach=Host.Reach.UP):
        if _needs_sweep(host):
            services.request_sweep(host, actor=None)


def _needs_sweep(host: Host) -> bool:
    sweeps = Job.objects.filter(kind=SWEEP, host=host).order_by("-created_at")
    last = sweeps.first()
    if last is None:
        return True
    if not last.is_over:
        return False
    now = timezone.now()
    if last.created_at < now - SWEEP_AT_LEAST_EVERY:
        return True
    since = max(last.created_at - SETTLED, now - LOOK_BACK)
    return VM.objects.filter(
        host=host,
        deleted_at__gt=since,
        deleted_at__lte=now - SETTLED,
        jobs__kind__in=state.CREATIONS,
        jobs__state__in=[Job.State.FAILED, Job.State.CANCELLED],
    ).exists()


def is_finished_with(uuid: UUID) -> bool:
    """Whether the machine with this UUID is one of ours that is over for good."""
    vm = VM.objects.filter(uuid=uuid, deleted_at__lte=timezone.now() - SETTLED).first()
    if vm is None or Job.objects.active().filter(vm=vm).exists():
        return False
    last = vm.jobs.filter(kind__in=[*state.CREATIONS, "vm.delete"]).order_by("-created_at").first()
    if last is None:
        return False
    if last.kind == "vm.delete":
        return bool(last.state == Job.State.SUCCEEDED)
    return last.state in (Job.State.FAILED, Job.State.CANCELLED)


def _host(context: JobContext) -> Host:
    host = context.job.host
    if host is None:
        raise Host.DoesNotExist
    return host


def clean_domains(context: JobContext) -> None:
    """Domains first: a volume that a domain holds open cannot go."""
    host = _host(context)
    at_host = connections.hypervisor(host)
    for listed in at_host.list_domains():
        if not is_finished_with(listed.uuid):
            continue
        try:
            facts = at_host.domain(listed.uuid)
        except NoSuchDomain:
            continue
        if adoption.is_ours(facts):
            at_host.force_off(facts.uuid)
            at_host.undefine(facts.uuid)
            adoption.forget(host, facts.uuid)
            _record(host, context.job, "domain", facts.name)


def clean_volumes(context: JobContext) -> None:
    host = _host(context)
    at_host = connections.hypervisor(host)
    left: list[tuple[str, VolumeFacts, UUID | None]] = []
    strange: list[VolumeFacts] = []
    for pool in host.pools.filter(active=True):
        at_host.refresh_pool(pool.name)
        volumes = at_host.list_volumes(pool.name)
        stood_on = {volume.backing_path for volume in volumes}
        for volume in volumes:
            uuid = machine_of(volume.name)
            if not volume.name.startswith(OUR_VOLUMES):
                if not poolvolumes.is_owned(pool.pk, volume.name):
                    strange.append(volume)
                continue
            if not is_ownerless(volume.name):
                continue
            if uuid is not None and volume.path not in stood_on and is_finished_with(uuid):
                _delete(at_host, pool.name, volume.name)
                _record(host, context.job, "volume", volume.name)
            else:
                left.append((pool.name, volume, uuid))
    users = poolvolumes.users_at(at_host)
    strange.sort(key=lambda volume: (volume.pool, volume.name))
    _list(host, left, strange[:STRANGE_VOLUMES_LISTED], users)


def _delete(at_host: Hypervisor, pool: str, name: str) -> None:
    try:
        at_host.delete_volume(pool, name)
    except NoSuchVolume:
        return


def _list(
    host: Host,
    left: list[tuple[str, VolumeFacts, UUID | None]],
    strange: list[VolumeFacts],
    users: poolvolumes.Users,
) -> None:
    """The host's list of volumes that no row owns is exactly this: ``left`` is named like ours,
    ``strange`` is others' and can be imported (``vms.images.poolvolumes``)."""
    now = timezone.now()
    with transaction.atomic():
        kept = []
        named = [(pool, volume, uuid, True) for pool, volume, uuid in left]
        others = [(volume.pool, volume, None, False) for volume in strange]
        for pool, volume, uuid, tagged in [*named, *others]:
            row, _made = Untracked.objects.update_or_create(
                host=host,
                kind=Untracked.Kind.VOLUME,
                pool=pool,
                name=volume.name[:255],
                defaults={
                    "uuid": uuid,
                    "tagged": tagged,
                    "facts": {
                        "capacity_bytes": volume.capacity_bytes,
                        "allocation_bytes": volume.allocation_bytes,
                        "format": volume.format,
                        "used_by": users.of(volume),
                    },
                    "seen_at": now,
                },
            )
            kept.append(row.pk)
        host.untracked.filter(kind=Untracked.Kind.VOLUME).exclude(pk__in=kept).delete()
        live.publish_on_commit("host", host.pk, groups=[live.ADMINS])


def _record(host: Host, job: Job, kind: str, name: str) -> None:
    audit.record(None, "host.sweep", host, job=job, before={"kind": kind, "name": name})


# --- taking a domain in again -------------------------------------------------------------------


def adopt(context: JobContext) -> None:
    """Look at the domain once more, then make its rows."""
    host = _host(context)
    row = host.untracked.filter(pk=context.params["untracked"]).first()
    if row is None or row.uuid is None:
        return  # done before, or it has gone
    at_host = connections.hypervisor(host)
    facts = at_host.domain(row.uuid)
    sizes, how = adoption.disk_sizes(facts, at_host), adoption.built(facts, at_host)
    adoption.note_stranger(host, facts, sizes, how)
    vm = adoption.adopt(host.untracked.get(uuid=row.uuid, kind=row.kind), actor=context.actor)
    state.observe(vm, facts)


def register() -> None:
    registry.register(
        JobKind(
            kind=SWEEP,
            label=_("Look for leftovers"),
            verb="sweeping",
            steps=(
                StepSpec(key="domains", label=_("Looking through the domains"), do=clean_domains),
                StepSpec(key="volumes", label=_("Looking through the volumes"), do=clean_volumes),
            ),
        )
    )
    registry.register(
        JobKind(
            kind=ADOPT,
            label=_("Take in a domain"),
            verb="adopting",
            steps=(StepSpec(key="adopt", label=_("Making the machine's rows"), do=adopt),),
        )
    )
    reconcile.register_reconciler(recount)
    reconcile.register_reconciler(request_sweeps)
