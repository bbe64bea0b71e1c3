"""The request to move a machine: one transaction reserves its room there, or refuses."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from django.db import transaction

from accounts import audit, policy, quotas
from accounts.errors import Conflict, Invalid
from accounts.policy import Action
from hosts import connections
from hosts.models import Host
from hosts.virt.uri import migration_uri
from jobs import services as job_services
from jobs.models import Job
from vms import commands, state, timeline
from vms.lifecycle import active_job
from vms.models import VM
from vms.moving import places
from vms.state import ON

if TYPE_CHECKING:
    from accounts.models import User
    from hosts.placement import Place

KIND = "vm.migrate"
LEAVE = "host.leave"  # what it leaves behind is deleted
NOTHING_MORE: quotas.Ask = {}  # of its team: it takes the same wherever it is


def request(vm: VM, *, actor: User, host: Host) -> Job:
    """A machine that runs goes on meanwhile; one that is off stays off.

    Raises NotFound, Forbidden, Conflict (``vm.why.*``), Busy.
    """
    policy.require(actor, Action.MOVE, vm)
    with transaction.atomic():
        quotas.lock_team(vm.team_id)
        rows = VM.objects.alive().select_for_update(of=("self",)).select_related("host", "iso")
        row = rows.filter(pk=vm.pk).first()
        if row is None:
            raise Conflict("vm.why.deleted", name=vm.name)
        if code := places.why_not(row, active_job(row)):
            raise Conflict(code, name=row.name, host=row.host.name if row.host else "")
        place = _place(row, host)
        quotas.allocate(row, NOTHING_MORE)
        row.moving_to = host
        row.save(update_fields=["moving_to"])
        return _enqueue(row, place, actor)


def find_host(pk: int) -> Host:
    """Raises Invalid."""
    host = Host.objects.filter(pk=pk).first()
    if host is None:
        raise Invalid("vm.move_unknown", fields={"host": "vm.move_unknown"})
    return host


def show(vm: VM, there: Host | None) -> list[str]:
    """“Show command”, for the host where it is. While it runs libvirt makes its disks there and
    copies all of them, with what they stand on; of one that is off only the definition goes, after
    its files."""
    if vm.host is None:
        return []
    uri = _shown_uri(vm.host, there)
    migrate = ["virsh", "-c", commands.URI, "migrate", "--persistent", "--undefinesource"]
    if vm.observed in ON:
        live = [*migrate, "--live", "--copy-storage-all", "--auto-converge"]
        by = ["--migrateuri", migration_uri(there.address)] if there and there.address else []
        return [shlex.join([*live, *by, vm.domain_name, uri])]
    target = there.pools.filter(is_default=True).first() if there else None
    disks = list(vm.disks.select_related("pool"))
    pool = disks[0].pool.name if disks and disks[0].pool else "default"
    files = [
        (image.volume_name, str(image.virtual_size_bytes), image.format)
        for image in places.images(vm)
        if target is None or not target.image_copies.filter(image=image, state="ready").exists()
    ]
    files += [(disk.volume, f"{disk.size_gib}G", disk.format) for disk in disks]
    into = target.name if target else "default"
    lines = [line for file in files for line in _send(pool, uri, into, file)]
    return [*lines, shlex.join([*migrate, "--offline", vm.domain_name, uri])]


def _send(pool: str, uri: str, into: str, file: tuple[str, str, str]) -> list[str]:
    """A file (name, size, format), by libvirt alone."""
    name, size, kind = file
    here, there = ["virsh", "-c", commands.URI], ["virsh", "-c", uri]
    make = ["vol-create-as", into, name, size, "--allocation", "0", "--format", kind]
    return [
        shlex.join([*there, *make]),
        shlex.join([*here, "vol-download", "--pool", pool, name, name]),
        shlex.join([*there, "vol-upload", "--pool", into, name, name]),
        shlex.join(["rm", name]),
    ]


def _shown_uri(source: Host, host: Host | None) -> str:
    """As somebody on ``source`` would type it: a socket of the site's own machine is only there."""
    if host is None:
        return "qemu+ssh://HOST/system"
    here = (Host.Transport.LOCAL, Host.Transport.UNIX)
    match host.transport:
        case Host.Transport.SSH:
            return f"qemu+ssh://{connections.authority_of(host)}/system"
        case Host.Transport.TLS:
            return f"qemu+tls://{connections.authority_of(host)}/system"
        case Host.Transport.UNIX if source.transport in here:
            return connections.uri_of(host)
        case Host.Transport.UNIX:
            return f"qemu+ssh://{host.hostname or 'HOST'}/system?socket={host.socket_path}"
    return f"qemu+ssh://{host.hostname or 'HOST'}/system"


# --- inside the transaction ----------------------------------------------------------------------


def _place(row: VM, host: Host) -> Place:
    if row.host_id == host.pk:
        raise Conflict("vm.why.move_here", name=row.name, host=host.name)
    place = next((one for one in places.of(row, lock=True) if one.host.pk == host.pk), None)
    if place is None:
        raise Conflict("vm.move_unknown")
    if place.refusal is not None or place.pool is None:
        raise Conflict("vm.why.move_host", host=host.name, reason=place.refusal)
    # Its old files have the names that the new ones would have.
    leaving = Job.objects.active().filter(kind=LEAVE, host=host, params__vm=row.pk)
    if leaving.exists():
        raise Conflict("vm.why.move_leaving", host=host.name)
    return place


def _enqueue(row: VM, place: Place, actor: User) -> Job:
    if row.host is None or place.pool is None:
        raise RuntimeError("a machine moves from a host to a pool")
    brings = bool(places.images(row))
    job = job_services.enqueue(
        KIND,
        actor=actor,
        vm=row,
        host=row.host,
        team=row.team,
        target_name=row.name,
        params={
            "live": row.observed in ON,
            "images": brings,
            "from": row.host.pk,
            "to": place.host.pk,
            "pool": place.pool.pk,
        },
    )
    before, after = {"host": row.host.name}, {"host": place.host.name}
    audit.record(actor, KIND, row, before=before, after=after, job=job, team_id=row.team_id)
    timeline.record(row, "move.asked", actor=actor, job=job, host=place.host.name)
    state.announce(row)
    return job
