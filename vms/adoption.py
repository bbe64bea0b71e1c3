"""Domains and rows that have lost each other.

Nothing is deleted because it was not seen, and no row comes to be because something was: what a
host has and no row owns is listed on the host's page, where an admin may take it in again. A
machine that its host had lost and that turns up, there or on another host, is taken up by itself,
and one that was migrated is followed.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from accounts import audit, quotas
from accounts.errors import Conflict
from accounts.models import Resource, Team, User
from hosts.models import Host, Untracked
from hosts.virt.built import read as read_built
from hosts.virt.errors import NoSuchDomain, VirtError
from jobs import live
from vms import state, timeline
from vms.knobs import from_json
from vms.models import VM, Disk, Image, Nic

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from hosts.virt.protocol import Hypervisor
    from hosts.virt.spec import DomainFacts, DomainMetadata

GIB = 1024**3


def is_ours(facts: DomainFacts) -> bool:
    """Made by this site for this very domain: a clone made by hand carries a copy of our
    metadata, but has another UUID."""
    metadata = facts.metadata
    return (
        metadata is not None
        and metadata.site == settings.SITE_MARK
        and metadata.vm_uuid == facts.uuid
    )


# --- strangers: listed, not touched ---------------------------------------------------------------


def note_strangers(host: Host, listed: Sequence[DomainFacts], hypervisor: Hypervisor) -> None:
    """The host's list of domains without a row is exactly this. New ones are read once, for their
    metadata and what their disks hold."""
    known = {row.uuid: row for row in host.untracked.filter(kind=Untracked.Kind.DOMAIN)}
    now = timezone.now()
    for facts in listed:
        row = known.pop(facts.uuid, None)
        if row is None:
            _read_stranger(host, facts, hypervisor)
        elif (row.state, row.name) != (facts.state.value, facts.name):
            row.state, row.name, row.seen_at = facts.state.value, facts.name, now
            row.save(update_fields=["state", "name", "seen_at"])
            _announce(host)
    if known:
        host.untracked.filter(pk__in=[row.pk for row in known.values()]).delete()
        _announce(host)


def _read_stranger(host: Host, listed: DomainFacts, hypervisor: Hypervisor) -> None:
    try:
        facts = hypervisor.domain(listed.uuid)
    except NoSuchDomain:
        return
    note_stranger(host, facts, disk_sizes(facts, hypervisor) if is_ours(facts) else {})


def disk_sizes(facts: DomainFacts, hypervisor: Hypervisor) -> dict[str, int]:
    """GiB by disk target, for taking the machine in again."""
    sizes: dict[str, int] = {}
    for disk in facts.disks:
        if disk.pool and disk.volume and disk.device == "disk":
            try:
                capacity = hypervisor.volume(disk.pool, disk.volume).capacity_bytes
            except VirtError:
                continue  # it cannot be taken in without that disk; the list is still right
            sizes[disk.target] = -(-capacity // GIB)
    return sizes


def built(facts: DomainFacts, hypervisor: Hypervisor) -> dict[str, Any]:
    """How it is built, by its stored definition, so that its rows make the same. VirtError."""
    how = asdict(read_built(hypervisor.domain_xml(facts.uuid, inactive=True)))
    return how | {"autostart": facts.autostart}


def note_stranger(
    host: Host,
    facts: DomainFacts,
    sizes_gib: dict[str, int] | None = None,
    how: dict[str, Any] | None = None,
) -> None:
    # A domain that was renamed, or made anew under its old name, has one line.
    host.untracked.filter(
        Q(uuid=facts.uuid) | Q(name=facts.name), kind=Untracked.Kind.DOMAIN
    ).exclude(uuid=facts.uuid, name=facts.name).delete()
    _, made = Untracked.objects.update_or_create(
        host=host,
        kind=Untracked.Kind.DOMAIN,
        pool="",
        name=facts.name[:255],
        defaults={
            "uuid": facts.uuid,
            "tagged": is_ours(facts),
            "state": facts.state.value,
            "facts": _facts_json(facts, sizes_gib or {}) | ({"built": how} if how else {}),
            "seen_at": timezone.now(),
        },
    )
    if made:
        _announce(host)


def forget(host: Host, uuid: UUID) -> None:
    if host.untracked.filter(kind=Untracked.Kind.DOMAIN, uuid=uuid).delete()[0]:
        _announce(host)


def _facts_json(facts: DomainFacts, sizes_gib: dict[str, int]) -> dict[str, Any]:
    metadata: DomainMetadata | None = facts.metadata
    return {
        "vcpus": facts.vcpus,
        "memory_mib": facts.memory_mib,
        "vm_name": metadata.name if metadata else "",
        "owner": metadata.owner if metadata else "",
        "team": metadata.team if metadata else "",
        "site": metadata.site if metadata else "",
        "image": metadata.image if metadata else "",
        "disks": [
            {
                "target": disk.target,
                "pool": disk.pool,
                "volume": disk.volume,
                "format": disk.format or "qcow2",
                "size_gib": sizes_gib.get(disk.target, 0),
            }
            for disk in facts.disks
            if disk.device == "disk"
        ],
        "nics": [
            {"mac": nic.mac, "network": nic.network or "", "model": nic.model or "virtio"}
            for nic in facts.nics
        ],
    }


# --- machines that were lost and turn up, or were migrated --------------------------------------


def take_over(vm: VM, host: Host, facts: DomainFacts, *, left: bool = False) -> bool:
    """A machine that its own host has lost is on ``host``: it lives there from now on. True when
    it was taken over. A machine that its host still has stays where it is, whatever another host
    claims. ``left``: its own host has just said that it has left."""
    if not is_ours(facts):
        return False
    with transaction.atomic():
        row = VM.objects.select_for_update().get(pk=vm.pk)
        if row.host_id == host.pk or not (left or _is_lost(row, facts)):
            return False
        before = row.host
        row.host = host
        row.save(update_fields=["host"])
        for disk in row.disks.select_related("pool"):
            name = disk.pool.name if disk.pool else ""
            disk.pool = host.pools.filter(name=name).first()
            disk.save(update_fields=["pool"])
        audit.record(
            None,
            "vm.take_over",
            row,
            before={"host": before.name if before else ""},
            after={"host": host.name},
        )
        timeline.record(row, "moved", was=before.name if before else "", host=host.name)
        state.announce(row)
    vm.host = host
    return True


def _is_lost(row: VM, facts: DomainFacts) -> bool:
    """Its own host knows it no more, or only what is left of it there since it was migrated."""
    if row.observed == VM.Observed.SHUTOFF and row.observed_reason == "migrated":
        return facts.state in state.ON
    return row.observed == VM.Observed.MISSING


# --- a row for a domain that has none ---------------------------------------------------------


def adopt(untracked: Untracked, *, actor: User | None) -> VM:
    """Make the rows of a machine again from what its domain says of itself, for a database that
    was lost. It belongs to the people that its metadata names. What it takes is counted, over the
    limit or not: it is there. Raises Conflict."""
    facts = untracked.facts
    with transaction.atomic():
        owner = User.objects.filter(username=facts.get("owner", ""), is_active=True).first()
        team = Team.objects.filter(name=facts.get("team", "")).first()
        uuid = untracked.uuid
        if uuid is None or not untracked.tagged or untracked.kind != Untracked.Kind.DOMAIN:
            raise Conflict("adopt.not_ours", name=untracked.name)
        if owner is None or team is None:
            raise Conflict("adopt.nobody", owner=facts.get("owner"), team=facts.get("team"))
        known = VM.objects.filter(uuid=uuid).first()
        if known is not None:
            code = "adopt.has_row" if known.deleted_at is None else "adopt.was_deleted"
            raise Conflict(code, name=untracked.name)
        if VM.objects.in_use().filter(team=team, name=facts["vm_name"]).exists():
            raise Conflict("adopt.name_taken", name=facts["vm_name"], team=team.name)
        vm = _row(untracked, uuid, owner, team)
        disk_gib = _disks(vm, untracked)
        for nic in facts["nics"]:
            Nic.objects.create(vm=vm, **nic)
        _allocate(vm, disk_gib)
        timeline.record(vm, "adopted", actor=actor, built="built" in facts)
        audit.record(actor, "vm.adopt", vm, after={"host": untracked.host.name})
        host = untracked.host
        untracked.delete()
        state.announce(vm)
        _announce(host)
    return vm


def _row(untracked: Untracked, uuid: UUID, owner: User, team: Team) -> VM:
    facts = untracked.facts
    running = untracked.state in state.ON
    return VM.objects.create(
        uuid=uuid,
        name=facts["vm_name"][:63],
        hostname=facts["vm_name"][:63],
        domain_name=untracked.name[: state.MAX_DOMAIN_NAME],
        owner=owner,
        team=team,
        host=untracked.host,
        image=Image.objects.filter(name=facts.get("image", "")).first(),
        vcpus=facts["vcpus"],
        memory_mib=facts["memory_mib"],
        first_boot=VM.FirstBoot.NONE,
        **_how(facts),
        desired=VM.Desired.RUNNING if running else VM.Desired.STOPPED,
    )


def _how(facts: dict[str, Any]) -> dict[str, Any]:
    """Columns of the machine. Without them it would be written as a plain one when it is defined
    again, and an installed system would not find its firmware."""
    how = facts.get("built")
    if not how:
        return {}
    known = from_json(how, how["firmware"])
    first = [disk["target"] for disk in facts["disks"][:1]]
    return {
        "firmware": known.firmware,
        "hardware": known.as_json(),
        "autostart": how["autostart"],
        "boot_order": [] if list(how["boot"]) == first else list(how["boot"]),
    }


def _disks(vm: VM, untracked: Untracked) -> int:
    """GiB of all."""
    total = 0
    how = {disk["target"]: disk for disk in untracked.facts.get("built", {}).get("disks", ())}
    for disk in untracked.facts["disks"]:
        pool = untracked.host.pools.filter(name=disk["pool"] or "").first()
        if pool is None or not disk["volume"] or not disk["size_gib"]:
            raise Conflict("adopt.disk_unknown", name=untracked.name, disk=disk["target"])
        Disk.objects.create(
            vm=vm,
            pool=pool,
            volume=disk["volume"],
            target=disk["target"],
            size_gib=disk["size_gib"],
            format=disk["format"],
            **{
                name: said
                for name in ("bus", "cache", "io", "discard")
                if (said := how.get(disk["target"], {}).get(name))
            },
        )
        total += disk["size_gib"]
    return total


def _allocate(vm: VM, disk_gib: int) -> None:
    amounts = {
        Resource.MACHINES: 1,
        Resource.VCPUS: vm.vcpus,
        Resource.MEMORY_MIB: vm.memory_mib,
        Resource.DISK_GIB: disk_gib,
    }
    quotas.count(vm, amounts)


def _announce(host: Host) -> None:
    live.publish_on_commit("host", host.pk, groups=[live.ADMINS])
