"""Disks that lie in a host's storage pool and that nobody's machine uses: to be imported.

Hosts are not read here by pages: the sweep (``vms.reconcile``) lists the volumes with
``Untracked``, and who may choose is an admin, because what lies there may be anybody's. A volume
is only ever named by a pool and by a name that was listed; the job asks the host again, before it
copies and after, so that nothing is taken from under a machine that writes to it.
"""

from __future__ import annotations

import contextlib
import posixpath
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

from accounts import policy
from accounts.errors import Conflict, Invalid
from accounts.policy import Action
from hosts import services as host_services
from hosts.models import Host, Pool, Untracked
from hosts.virt.definition import files_of
from hosts.virt.errors import NoSuchDomain, NoSuchPool, NoSuchVolume
from vms.models import VM, Disk, ImageCopy

if TYPE_CHECKING:
    from accounts.models import User
    from hosts.virt.protocol import Hypervisor
    from hosts.virt.spec import VolumeFacts
    from jobs.models import Job

OUR_VOLUMES = "kvmweb-"
PROBE_VOLUMES = "kvmweb-probe-"  # of hosts.virt.probe, gone within seconds
# Of what this site has made and lost: its seeds and logs are no disks.
OUR_DISKS = (".qcow2", ".raw")
_MACHINE_VOLUME = re.compile(
    r"kvmweb-(?P<uuid>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})-", re.ASCII
)


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One that was seen in a pool."""

    id: int
    host: str
    pool_id: int
    pool: str
    volume: str
    format: str  # as libvirt tells it; the import looks for itself
    size_bytes: int  # of the disk in it
    allocation_bytes: int
    used_by: str  # a domain or volume that uses it, or ""
    seen_at: Any


@dataclass
class Users:
    """Who uses which file on one host."""

    _of_paths: dict[str, str] = field(default_factory=dict)
    _of_volumes: dict[tuple[str, str], str] = field(default_factory=dict)

    def of(self, facts: VolumeFacts) -> str:
        """The name of a domain or a volume, or ""."""
        by = self._of_volumes.get((facts.pool, facts.name))
        return by or self._of_paths.get(posixpath.normpath(facts.path), "")

    def add_domain(self, name: str, xml: str) -> None:
        paths, volumes = files_of(xml)
        for path in paths:
            self._of_paths.setdefault(posixpath.normpath(path), name)
        for volume in volumes:
            self._of_volumes.setdefault(volume, name)

    def add_volume(self, facts: VolumeFacts) -> None:
        if facts.backing_path:
            self._of_paths.setdefault(posixpath.normpath(facts.backing_path), facts.name)


def users_at(at: Hypervisor) -> Users:
    """Asks the host: every domain as it runs and as it is stored, and every volume of its pools.
    Raises VirtError."""
    users = Users()
    for listed in at.list_domains():
        with contextlib.suppress(NoSuchDomain):  # gone meanwhile
            for stored in (False, True):
                users.add_domain(listed.name, at.domain_xml(listed.uuid, inactive=stored))
    for pool in at.list_pools():
        if pool.active:
            for facts in at.list_volumes(pool.name):
                users.add_volume(facts)
    return users


def listed(user: User) -> list[Listed]:
    """All that can be seen, those in use too. Raises Forbidden. Reads the database only."""
    policy.require(user, Action.SITE_ADMIN)
    pools = {(pool.host_id, pool.name): pool for pool in Pool.objects.filter(active=True)}
    rows = Untracked.objects.filter(kind=Untracked.Kind.VOLUME).select_related("host")
    return [
        _listed(row, pool)
        for row in rows.order_by("host__name", "pool", "name")
        if (pool := pools.get((row.host_id, row.pool))) is not None and _is_disk(row)
    ]


def choose(user: User, *, pool: int, volume: str) -> Listed:
    """The listed one. Raises Forbidden, Invalid when none is listed so, Conflict while in use."""
    code = "image.volume_unknown"
    for one in listed(user):
        if (one.pool_id, one.volume) == (pool, volume):
            if one.used_by or is_owned(pool, volume):
                by = one.used_by or volume
                raise Conflict("image.volume_in_use", volume=volume, by=by)
            return one
    raise Invalid(code, fields={"volume": code})


def look(*, actor: User) -> list[Job]:
    """Have every host that can be reached looked through anew. Raises Forbidden."""
    policy.require(actor, Action.SITE_ADMIN)
    up = Host.objects.filter(reach=Host.Reach.UP)
    return [host_services.request_sweep(host, actor=actor) for host in up]


def is_owned(pool: int, volume: str) -> bool:
    """Of a machine of ours, one in the recycle bin too, or of an image, a template or a backup."""
    if volume.startswith(OUR_VOLUMES):
        return not is_ownerless(volume)
    return Disk.objects.filter(pool=pool, volume=volume, vm__deleted_at__isnull=True).exists()


def is_ownerless(name: str) -> bool:
    """Of one that is named like ours: no row that is alive has it."""
    if name.startswith(PROBE_VOLUMES):
        return False
    uuid = machine_of(name)
    if uuid is not None:
        # A machine that is there, or being made or deleted, looks after its own.
        alive = VM.objects.filter(uuid=uuid, deleted_at__isnull=True).exists()
        owned = Disk.objects.filter(volume=name, vm__deleted_at__isnull=True).exists()
        return not (alive or owned)
    return not any(
        name.startswith(f"kvmweb-image-{image_uuid}")
        for image_uuid in ImageCopy.objects.values_list("image__uuid", flat=True).distinct()
    )


def machine_of(volume: str) -> UUID | None:
    """The machine that a volume's name tells."""
    match = _MACHINE_VOLUME.match(volume)
    return UUID(match["uuid"]) if match else None


def check_at_host(at: Hypervisor, pool: Pool, volume: str) -> VolumeFacts:
    """It is in that pool now, and nobody uses it. Raises Invalid, Conflict, VirtError."""
    try:
        facts = at.volume(pool.name, volume)
    except (NoSuchPool, NoSuchVolume) as error:
        raise Invalid("image.volume_gone", volume=volume) from error
    if facts.backing_path:
        raise Invalid("image.backing_file")
    by = users_at(at).of(facts)
    if by or is_owned(pool.pk, volume):
        raise Conflict("image.volume_in_use", volume=volume, by=by or volume)
    return facts


def _is_disk(row: Untracked) -> bool:
    return not row.tagged or row.name.endswith(OUR_DISKS)


def _listed(row: Untracked, pool: Pool) -> Listed:
    facts = row.facts
    return Listed(
        id=row.pk,
        host=row.host.name,
        pool_id=pool.pk,
        pool=pool.name,
        volume=row.name,
        format=facts.get("format", ""),
        size_bytes=facts.get("capacity_bytes", 0),
        allocation_bytes=facts.get("allocation_bytes", 0),
        used_by=facts.get("used_by", ""),
        seen_at=row.seen_at,
    )
