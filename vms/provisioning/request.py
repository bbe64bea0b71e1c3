"""The request for a machine: one transaction writes all of it, or nothing."""

from __future__ import annotations

import hashlib
import json
import secrets
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.db import IntegrityError, transaction

from accounts import audit, policy, quotas
from accounts.errors import Conflict, Invalid
from accounts.models import Resource, Team
from accounts.policy import Action
from hosts.models import Network
from jobs import services as job_services
from jobs.models import Job
from vms import names, nvram, state, timeline
from vms.knobs import Wish
from vms.leases import warned_already
from vms.models import VM, Disk, ExtraDisc, Image, Nic, Tag
from vms.provisioning.domain import EXTRA_DISC_TARGETS, ISO_TARGET
from vms.provisioning.validation import Wanted, usable_networks, validate
from vms.state import running_ask

if TYPE_CHECKING:
    from accounts.models import User
    from accounts.quotas import Impact
    from vms.models import Flavor

KIND = "vm.create"
# QEMU's own locally administered prefix; the rest is random.
MAC_PREFIX = "52:54:00"
TRIES = 5  # at a random MAC or a domain name that somebody took in the same moment


def request_vm(
    *,
    actor: User,
    team: Team | None,
    name: str,
    image: Image | None,
    flavor: Flavor | None = None,
    vcpus: int | None = None,
    memory_mib: int | None = None,
    disk_gib: int | None = None,
    network: str = "default",
    copy: str = VM.Copy.LINKED,
    user: str = "",
    password: str = "",
    ssh_keys: list[str] | None = None,
    user_data: str = "",
    hostname: str = "",
    start: bool = True,
    tags: list[str] | None = None,
    description: str = "",
    ends_at: datetime | None = None,
    idempotency_key: str = "",
    image_allowed: bool = False,
    wish: Wish | None = None,
) -> tuple[VM, Job]:
    """Write the machine and the job that makes it; the job is sent on commit.

    ``team`` None is the actor's personal team; ``disk_gib`` None what the flavor or the image
    says; ``ends_at`` None what the rules of leases say. ``image`` None: an empty disk. ``wish``:
    what else it is built of (``vms.knobs``), as the system wants it where nothing is said.
    ``image_allowed``: the caller has asked the door. The same ``idempotency_key`` of the same
    person gives the same machine again.
    Raises Invalid with every wrong input, QuotaExceeded, NotFound or Forbidden (the team),
    Conflict (the key was used for something else).
    """
    paying = team or Team.objects.get(personal_of=actor)
    asked: dict[str, Any] = {
        "name": name,
        "image": image.pk if image else None,
        "flavor": flavor.pk if flavor else None,
        "vcpus": vcpus,
        "memory_mib": memory_mib,
        "disk_gib": disk_gib,
        "network": network,
        "copy": copy,
        "user": user,
        "ssh_keys": ssh_keys or [],
        "user_data": user_data,
        "hostname": hostname,
        "start": start,
        "tags": tags or [],
        "description": description,
        "team": paying.pk,
        **({"ends_at": ends_at.isoformat()} if ends_at else {}),
        "wish": wish.as_json() if wish else {},
    }
    key = _scoped(actor, idempotency_key)
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    if key and (earlier := _earlier(key, digest)):
        return earlier
    wanted = validate(
        actor=actor,
        team=paying,
        name=name,
        image=image,
        flavor=flavor,
        vcpus=vcpus,
        memory_mib=memory_mib,
        disk_gib=disk_gib,
        network=network,
        copy=copy,
        user=user,
        password=password,
        ssh_keys=ssh_keys or [],
        user_data=user_data,
        hostname=hostname,
        start=start,
        tags=tags or [],
        description=description,
        ends_at=ends_at,
        image_allowed=image_allowed,
        wish=wish,
    )
    return write(wanted, idempotency_key=key, digest=digest)


@transaction.atomic
def write(wanted: Wanted, *, idempotency_key: str | None, digest: str) -> tuple[VM, Job]:
    """Machine, disk, card, tags, allocation, job, audit and timeline. Raises as ``request_vm``."""
    quotas.lock_team(wanted.team)
    if idempotency_key and (earlier := _earlier(idempotency_key, digest)):
        return earlier  # a twin of this request was quicker
    policy.require_still(wanted.actor, Action.TEAM_CREATE_VM, wanted.team)
    if code := name_problem(wanted.team, wanted.name):
        raise Invalid("vm.invalid", fields={"name": code}, name=wanted.name, team=wanted.team.name)
    for image in (wanted.image, *wanted.hardware.discs):
        if image is not None:
            _hold_image(image)
    vm = _insert(wanted)
    _write_devices(vm, wanted)
    Tag.objects.bulk_create(Tag(vm=vm, name=tag) for tag in wanted.tags)
    quotas.allocate(vm, create_ask(wanted.vcpus, wanted.memory_mib, wanted.disk_gib, wanted.start))
    job = job_services.enqueue(
        KIND,
        actor=wanted.actor,
        vm=vm,
        image=wanted.image,
        team=wanted.team,
        target_name=vm.name,
        params={
            "start": wanted.start,
            "copy": wanted.copy,
            "cloud_init": wanted.has_cloud_init,
            "image": wanted.image is not None or bool(wanted.hardware.discs),
            "answers": bool(wanted.hardware.answers_kind),
            "nvram": nvram.fits(wanted.image, wanted.hardware.knobs.firmware),
            "more_disks": len(wanted.hardware.disks) > 1,
            "macs": [card.mac for card in wanted.hardware.cards],
            "digest": digest,
            "password": bool(wanted.password_hash),  # that there was one, for "try again"
        },
        idempotency_key=idempotency_key,
        queue="bulk" if wanted.copy == VM.Copy.FULL else "quick",
    )
    audit.record(wanted.actor, KIND, vm, after=_recorded(wanted), job=job, team_id=wanted.team.pk)
    timeline.record(vm, "requested", actor=wanted.actor, job=job)
    state.announce(vm)
    return vm, job


def name_problem(team: Team, name: str) -> str:
    """The code of what is wrong with the name in this team, or "": checked as it is typed."""
    try:
        names.validate_name(name)
    except Invalid as error:
        return error.code
    return "vm.name_taken" if VM.objects.in_use().filter(team=team, name=name).exists() else ""


def quota_impact(
    user: User,
    team: Team,
    *,
    vcpus: int,
    memory_mib: int,
    disk_gib: int,
    start: bool,
    count: int = 1,
) -> list[Impact]:
    """What ``count`` such machines would take of the quota, without a lock."""
    one = create_ask(vcpus, memory_mib, disk_gib, start)
    return quotas.preview(team, user, {what: amount * count for what, amount in one.items()})


def network_choices() -> list[tuple[str, str]]:
    """``(name, label)`` of each network that some host offers, the default one first."""
    usable = usable_networks()
    bootable = Network.that_boot()
    labels: dict[str, str] = {}
    for row in Network.objects.filter(name__in=usable, active=True, public=True).order_by("pk"):
        boots = "PXE" if row.name in bootable else ""
        about = ", ".join(part for part in (row.kind, row.cidr, boots) if part)
        labels.setdefault(row.name, f"{row.name} ({about})" if about else row.name)
    return sorted(labels.items(), key=lambda item: (item[0] != "default", item[0]))


# --- inside the transaction ----------------------------------------------------------------------


def _hold_image(image: Image) -> None:
    """Locked to the end of the transaction: it is not deleted between our look and our disk."""
    row = Image.objects.select_for_update().filter(pk=image.pk).first()
    if row is None or row.state != Image.State.READY:
        fields = {"image": "vm.image_not_ready"}
        raise Invalid("vm.invalid", fields=fields, field_params={"image": {"name": image.name}})


def _insert(wanted: Wanted) -> VM:
    """The row. Its domain has the machine's name where no other machine of any team has it."""
    domain_name = wanted.name
    for _ in range(TRIES):
        if VM.objects.alive().filter(domain_name=domain_name).exists():
            domain_name = distinct_domain_name(wanted.name)
        try:
            with transaction.atomic():
                return _create(wanted, domain_name)
        except IntegrityError:
            # Another team's request took the domain name after we had looked.
            domain_name = distinct_domain_name(wanted.name)
    raise Conflict("vm.name_race", name=wanted.name)


def distinct_domain_name(name: str) -> str:
    """For a machine whose own name another domain has: "web-1-9f3a01bc"."""
    return f"{name}-{secrets.token_hex(4)}"


def _create(wanted: Wanted, domain_name: str) -> VM:
    image, hardware = wanted.image, wanted.hardware
    return VM.objects.create(
        name=wanted.name,
        domain_name=domain_name,
        owner=wanted.actor,
        team=wanted.team,
        image=image,
        iso=image if image is not None and image.kind == Image.Kind.ISO else None,
        firmware=hardware.knobs.firmware,
        hardware=hardware.knobs.as_json(),
        os_id=hardware.os_id,
        autostart=hardware.autostart,
        answers_kind=hardware.answers_kind,
        answers=hardware.answers,
        flavor=wanted.flavor,
        vcpus=wanted.vcpus,
        memory_mib=wanted.memory_mib,
        copy=wanted.copy,
        description=wanted.description,
        hostname=wanted.hostname,
        first_user=wanted.user,
        ssh_keys=list(wanted.ssh_keys),
        password_hash=wanted.password_hash,
        user_data=wanted.user_data,
        desired=VM.Desired.RUNNING if wanted.start else VM.Desired.STOPPED,
        first_boot=VM.FirstBoot.PENDING if wanted.has_cloud_init else VM.FirstBoot.NONE,
        ends_at=wanted.ends_at,
        lease_warned_days=warned_already(wanted.ends_at),
        batch=wanted.batch,
        batch_number=wanted.batch_number,
    )


def _write_devices(vm: VM, wanted: Wanted) -> None:
    hardware, image = wanted.hardware, wanted.image
    is_linked = (
        wanted.copy == VM.Copy.LINKED and image is not None and image.kind == Image.Kind.DISK
    )
    for number, plan in enumerate(hardware.disks):
        Disk.objects.create(
            vm=vm,
            volume=f"kvmweb-{vm.uuid}-{plan.target}.{plan.format}",
            target=plan.target,
            size_gib=plan.size_gib,
            format=plan.format,
            bus=plan.bus,
            cache=plan.cache,
            discard=plan.discard,
            io=plan.io,
            backing_image=image if is_linked and number == 0 else None,
        )
    for card in hardware.cards:
        if card.mac:  # of a machine that is no more
            Nic.objects.filter(mac=card.mac, vm__deleted_at__isnull=False).delete()
        try:
            with transaction.atomic():
                Nic.objects.create(
                    vm=vm, mac=card.mac or free_mac(), network=card.network, model=card.model
                )
        except IntegrityError as error:
            raise Conflict("vm.mac_race") from error
    for target, disc in zip(EXTRA_DISC_TARGETS, hardware.discs, strict=False):
        ExtraDisc.objects.create(vm=vm, target=target, image=disc)
    if hardware.boot:
        vm.boot_order = _boot_names(vm, hardware.boot)
        vm.save(update_fields=["boot_order"])


def _boot_names(vm: VM, boot: tuple[str, ...]) -> list[str]:
    """libvirt's names of what is booted from: targets, and MACs of cards."""
    names = {
        "disc": [ISO_TARGET],
        "disk": [disk.target for disk in vm.disks.all()[:1]],
        "network": [nic.mac for nic in vm.nics.all()[:1]],
    }
    return [name for word in boot for name in names[word]]


def free_mac() -> str:
    for _ in range(TRIES):
        tail = secrets.token_bytes(3)
        mac = f"{MAC_PREFIX}:{tail[0]:02x}:{tail[1]:02x}:{tail[2]:02x}"
        if not Nic.objects.filter(mac=mac).exists():
            return mac
    raise Conflict("vm.mac_race")


def create_ask(vcpus: int, memory_mib: int, disk_gib: int, start: bool) -> quotas.Ask:
    """What one machine takes, from its request on."""
    ask: quotas.Ask = {
        Resource.MACHINES: 1,
        Resource.VCPUS: vcpus,
        Resource.MEMORY_MIB: memory_mib,
        Resource.DISK_GIB: disk_gib,
    }
    return ask | running_ask(vcpus, memory_mib) if start else ask


def _recorded(wanted: Wanted) -> dict[str, Any]:
    hardware = wanted.hardware
    return {
        "name": wanted.name,
        "image": wanted.image.name if wanted.image else "",
        "vcpus": wanted.vcpus,
        "memory_mib": wanted.memory_mib,
        "disk_gib": wanted.disk_gib,
        "network": ", ".join(card.network for card in hardware.cards),
        "copy": wanted.copy,
        "start": wanted.start,
        "ends_at": wanted.ends_at.isoformat() if wanted.ends_at else None,
        "firmware": hardware.knobs.firmware,
    } | hardware.knobs.as_json()


def _scoped(actor: User, key: str) -> str | None:
    """The key as it is stored: each person's keys are their own."""
    return f"{KIND}:{actor.pk}:{hashlib.sha256(key.encode()).hexdigest()}" if key else None


def _earlier(key: str, digest: str) -> tuple[VM, Job] | None:
    job = Job.objects.select_related("vm").filter(idempotency_key=key).first()
    if job is None or job.vm is None:
        return None
    if job.params.get("digest") != digest:
        raise Conflict("api.idempotency_key_reused")
    return job.vm, job
