"""The request for a clone: one transaction writes the machine and its jobs, or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from accounts import audit, policy, quotas
from accounts.errors import Conflict
from accounts.models import Membership, Resource, Team
from accounts.policy import Action
from jobs import services as job_services
from vms import names, state, timeline
from vms.lease_rules import Rulebook
from vms.leases import warned_already
from vms.lifecycle import active_job
from vms.models import VM, Disk, Nic, Snapshot, Tag
from vms.provisioning import name_problem
from vms.provisioning.request import distinct_domain_name, free_mac
from vms.provisioning.validation import Problems, check_edit
from vms.snapshots import rules
from vms.state import running_ask

if TYPE_CHECKING:
    from accounts.models import User
    from accounts.quotas import Ask, Impact
    from jobs.models import Job

KIND, LENDING = "vm.clone", "vm.lend"
TRIES = 3  # at a domain name that somebody takes in the same moment


def request_clone(
    source: VM,
    *,
    actor: User,
    name: str,
    team: Team | None = None,
    copy: str = VM.Copy.FULL,
    snapshot: Snapshot | None = None,
    hostname: str = "",
    start: bool = True,
    tags: list[str] | None = None,
    description: str = "",
) -> tuple[VM, Job]:
    """``copy`` linked: it shares the image that its source stands on, and only what the source has
    written is copied. ``snapshot``: the disks as they were then, of a machine that is off.
    ``team`` None: the source's where the actor may make machines there, else their own.

    Raises NotFound, Forbidden, Invalid with every wrong input, Conflict (``vm.why.*``), Busy,
    QuotaExceeded.
    """
    policy.require(actor, Action.EDIT, source)
    paying = team or default_team(source, actor)
    policy.require(actor, Action.TEAM_CREATE_VM, paying)
    problems = Problems()
    kept_tags = check_edit(problems, name=name, description=description, tags=tags)
    if hostname:
        problems.catch("hostname", lambda: names.validate_hostname(hostname))
    if copy not in VM.Copy.values:
        problems.add("copy", "vm.copy_unknown")
    problems.raise_if_any()
    with transaction.atomic():
        # In the order of ids: two clones between two teams must not wait for each other.
        for team_id in sorted({source.team_id, paying.pk}):
            quotas.lock_team(team_id)
        policy.require_still(actor, Action.TEAM_CREATE_VM, paying)
        row = VM.objects.alive().select_for_update(of=("self",)).filter(pk=source.pk).first()
        if row is None:
            raise Conflict("vm.why.deleted", name=source.name)
        if code := why_not(row, active_job(row), snapshot=snapshot):
            raise Conflict(code, name=row.name, host=row.host.name if row.host else "")
        if code := name_problem(paying, name):
            problems.add("name", code, name=name, team=paying.name)
        if copy == VM.Copy.LINKED and not can_link(row):
            problems.add("copy", "vm.clone_not_linked")
        problems.raise_if_any()
        ends_at = Rulebook.read().terms(paying.pk, row.flavor_id).first_end(timezone.now())
        vm = _insert(
            row,
            name=name,
            owner=actor,
            team=paying,
            hostname=hostname or name,
            copy=copy,
            description=description.strip(),
            desired=VM.Desired.RUNNING if start else VM.Desired.STOPPED,
            ends_at=ends_at,
            lease_warned_days=warned_already(ends_at),
        )
        Tag.objects.bulk_create(Tag(vm=vm, name=tag) for tag in kept_tags or ())
        _copy_devices(row, vm, linked=copy == VM.Copy.LINKED)
        quotas.allocate(vm, ask(row, start=start))
        job = _enqueue(row, vm, actor, snapshot, copy=copy, start=start)
    return vm, job


def why_not(source: VM, active: Job | None, *, snapshot: Snapshot | None = None) -> str | None:
    """The code of why it cannot be cloned now."""
    if code := rules.why_not(source, active):
        return code
    if snapshot is None:
        return None
    if snapshot.state != Snapshot.State.READY:
        return "vm.why.snapshot_missing"
    return "vm.why.clone_snapshot_on" if rules.is_on(source) else None


def can_link(source: VM) -> bool:
    """Whether its first disk stands on an image that a clone can share."""
    return any(disk.backing_image_id for disk in source.disks.all())


def ask(source: VM, *, start: bool) -> Ask:
    wanted: Ask = {
        Resource.MACHINES: 1,
        Resource.VCPUS: source.vcpus,
        Resource.MEMORY_MIB: source.memory_mib,
        Resource.DISK_GIB: sum(disk.size_gib for disk in source.disks.all()),
    }
    return wanted | running_ask(source.vcpus, source.memory_mib) if start else wanted


def impact(source: VM, user: User, team: Team, *, start: bool) -> list[Impact]:
    """What the clone would take of the quota, without a lock."""
    return quotas.preview(team, user, ask(source, start=start))


def teams(actor: User) -> list[Team]:
    """Where this person may make machines, their own first."""
    mine = Team.objects.filter(pk__in=Membership.objects.filter(user=actor).values("team"))
    mine = (mine | Team.objects.filter(personal_of=actor)).distinct()
    able = [team for team in mine if policy.can(actor, Action.TEAM_CREATE_VM, team)]
    return sorted(able, key=lambda team: (team.personal_of_id != actor.pk, team.name))


def default_team(source: VM, actor: User) -> Team:
    if policy.can(actor, Action.TEAM_CREATE_VM, source.team):
        return source.team
    return Team.objects.get(personal_of=actor)


# --- inside the transaction ----------------------------------------------------------------------


def _insert(source: VM, *, name: str, **own: Any) -> VM:
    """What the machine is comes from the source's row; who it is, and how it goes, is new."""
    domain_name = name
    for _ in range(TRIES):
        if VM.objects.alive().filter(domain_name=domain_name).exists():
            domain_name = distinct_domain_name(name)
        vm = VM(
            **{field: getattr(source, field) for field in _INHERITED},
            **own,
            name=name,
            domain_name=domain_name,
            cloned_from=source,
            first_boot=VM.FirstBoot.PENDING if has_cloud_init(source) else VM.FirstBoot.NONE,
        )
        try:
            with transaction.atomic():
                vm.save()
        except IntegrityError:
            domain_name = distinct_domain_name(name)
        else:
            return vm
    raise Conflict("vm.name_race", name=name)


# The cloud-config that a person appended was carried out in the source; its effects are copied.
_INHERITED = (
    "image",
    "flavor",
    "vcpus",
    "memory_mib",
    "firmware",
    "hardware",
    "os_id",
    "first_user",
    "ssh_keys",
)


def has_cloud_init(source: VM) -> bool:
    return source.image is not None and source.image.has_cloud_init


def _copy_devices(source: VM, vm: VM, *, linked: bool) -> None:
    """Places on the host are found by the job."""
    for disk in source.disks.all():
        Disk.objects.create(
            vm=vm,
            volume=f"kvmweb-{vm.uuid}-{disk.target}.qcow2",
            target=disk.target,
            size_gib=disk.size_gib,
            format="qcow2",
            bus=disk.bus,
            cache=disk.cache,
            discard=disk.discard,
            io=disk.io,
            backing_image=disk.backing_image if linked else None,
        )
    for nic in source.nics.all():
        Nic.objects.create(vm=vm, mac=free_mac(), network=nic.network, model=nic.model)


def _enqueue(
    source: VM, vm: VM, actor: User, snapshot: Snapshot | None, *, copy: str, start: bool
) -> Job:
    job = job_services.enqueue(
        KIND,
        actor=actor,
        vm=vm,
        host=source.host,
        team=vm.team,
        target_name=vm.name,
        params={
            "source": source.pk,
            "snapshot": snapshot.name if snapshot else "",
            "copy": copy,
            "start": start,
            "cloud_init": has_cloud_init(source),
        },
        queue="bulk",
    )
    # Nobody starts, changes or deletes the source while it is read.
    job_services.enqueue(
        LENDING,
        actor=actor,
        vm=source,
        target_name=source.name,
        params={"to": str(job.pk), "name": vm.name},
    )
    about = {"source": source.name, "snapshot": snapshot.name if snapshot else "", "copy": copy}
    audit.record(actor, KIND, vm, after=about, job=job, team_id=vm.team_id)
    timeline.record(vm, "clone.requested", actor=actor, job=job, source=source.name)
    timeline.record(source, "clone.lent", actor=actor, job=job, name=vm.name)
    state.announce(vm)
    state.announce(source)
    return job
