"""What ``seed`` leaves out: images in every state, a host that was checked, and a past.

By hand: ``from tests.front import lived_in; lived_in.site()`` instead of ``seed.demo()``.
"""

from __future__ import annotations

import uuid
from datetime import timedelta

from django.utils import timezone

from accounts import audit, notifications
from accounts.models import Membership, Team, TeamInvite
from accounts.notifications import notify
from accounts.tokens import issue
from hosts.models import Host, Untracked
from jobs import registry
from jobs.models import Job, Step
from tests.front import seed
from vms.models import VM, Backup, BackupDisk, BackupPlan, Disk, Flavor, Image, Snapshot

KINDS = ("vm.start", "vm.create", "vm.shutdown", "host.refresh", "vm.reboot", "vm.create")
OUTCOMES = ("succeeded", "succeeded", "failed", "succeeded", "cancelled")
CHECKS = (
    ("cpu_virtualization", "pass", {"flag": "vmx"}),
    ("kvm_listed", "pass", {}),
    ("acceleration_probe", "pass", {"seconds": 3}),
    ("libvirt_version", "pass", {"version": "9.0.0", "minimum": "8.0.0"}),
    ("vhost_net", "warn", {"detail": ""}),
    ("iommu", "note", {}),
    ("cgroup_memory", "fail", {"detail": ""}),
)


def site(count: int = 42) -> seed.Demo:
    made = seed.demo(count)
    if not Untracked.objects.exists():
        images(made)
        host(made.hosts[0])
        away(made.hosts[1])
        past(made, list(VM.objects.all()[:30]))
        changed(list(VM.objects.filter(observed="running")))
        people(made)
        backups(list(VM.objects.filter(observed="shutoff").order_by("-pk")[:2]))
    return made


def backups(machines: list[VM]) -> None:
    """Whole ones, one that is being made, a plan; and one of a machine that is gone."""
    for vm in machines:
        disk = vm.disks.first() or Disk(size_gib=10)
        for number in (1, 2, 3):
            image = Image.objects.create(
                name=f"backup {number} of {vm.uuid}",
                source=Image.Source.BACKUP,
                state=Image.State.NEW if number == 3 else Image.State.READY,
                format="qcow2",
                checksum="" if number == 3 else "5" * 64,
                file_size_bytes=700 * 1024**2,
                min_disk_gib=disk.size_gib,
                created_by=vm.owner,
            )
            backup = Backup.objects.create(
                vm=vm,
                image=image,
                has_system=number != 1,
                number=number,
                scheduled=number == 2,
                was_running=True,
                frozen=number == 2,
                created_by=None if number == 2 else vm.owner,
            )
            if number == 2:
                second = Image.objects.create(
                    name=f"backup {number} vdb of {vm.uuid}",
                    source=Image.Source.BACKUP,
                    state=Image.State.READY,
                    format="qcow2",
                    checksum="6" * 64,
                    file_size_bytes=300 * 1024**2,
                    min_disk_gib=20,
                )
                BackupDisk.objects.create(backup=backup, image=second, target="vdb")
        BackupPlan.objects.create(
            vm=vm,
            every_days=1,
            keep=2,
            keep_daily=7,
            keep_weekly=4,
            next_at=timezone.now() + timedelta(hours=9),
        )
    VM.objects.filter(pk=machines[-1].pk).update(deleted_at=timezone.now())


def changed(running: list[VM]) -> None:
    """Snapshots as a tree, and sizes that wait for a restart."""
    for vm in running:
        VM.objects.filter(pk=vm.pk).update(
            pending={"memory_mib": 2 * vm.memory_mib, "vcpus": 8, "boot_order": ["vda"]},
            boot_order=["vda"],
        )
        parent = None
        for index, (name, size) in enumerate((("fresh", 0), ("before-upgrade", 700), ("later", 3))):
            parent = Snapshot.objects.create(
                vm=vm,
                name=name,
                description="Debian 12.7, all packages" if index else "",
                memory=index == 1,
                state=Snapshot.State.READY,
                parent=parent,
                current=index == 2,
                size_bytes=size * 1024**2,
                created_by=vm.owner,
                created_at=timezone.now() - timedelta(days=3 - index),
                hardware={"vcpus": 1, "memory_mib": 512, "nics": []},
            )
        Snapshot.objects.create(vm=vm, name="by-hand", state=Snapshot.State.MISSING)


def images(made: seed.Demo) -> None:
    rows: tuple[dict[str, object], ...] = (
        {"name": "Broken", "state": "failed", "error_code": "image.truncated"},
        {"name": "openSUSE Leap 15.6", "os_id": "opensuse15.6", "state": "retired"},
        {
            "name": "Half an upload",
            "source": "upload",
            "upload_total_bytes": 2 * seed.GIB,
            "upload_received_bytes": seed.GIB,
        },
        {
            "name": "Databases, winter term 2026, with sample data",
            "state": "ready",
            "format": "qcow2",
            "file_size_bytes": 3 * seed.GIB,
            "virtual_size_bytes": 20 * seed.GIB,
            "checksum_algorithm": "sha256",
            "checksum": "9f86d081884c7d65" * 4,
            "url": "https://cloud.example.org/winter/2026/a/long/path/databases-amd64.qcow2",
        },
    )
    for row in rows:
        Image.objects.create(**({"source": "url"} | row))
    fetched = Image.objects.create(name="Rocky 9", os_id="rocky9", source="url")
    steps = registry.get("image.fetch").steps
    job = Job.objects.create(
        kind="image.fetch",
        image=fetched,
        target_name=fetched.name,
        actor=made.admin,
        state="running",
        step=steps[0].key,
        progress=0.37,
        started_at=timezone.now() - timedelta(seconds=42),
    )
    for index, step in enumerate(steps):
        state = "pending" if index else "running"
        Step.objects.create(job=job, index=index, key=step.key, state=state)


def host(one: Host) -> None:
    now = timezone.now()
    Host.objects.filter(pk=one.pk).update(
        checks=[{"key": key, "result": result, "params": about} for key, result, about in CHECKS],
        checked_at=now,
        last_seen_at=now,
        hostname="host-a.example.org",
        libvirt_version="9.0.0",
        qemu_version="7.2.19",
        cpus=48,
        memory_mib=262144,
        cpu_percent=31,
        memory_used_mib=90000,
    )
    facts = {"owner": "mia", "team": "ops", "vcpus": 2, "memory_mib": 2048}
    lost = {"host": one, "tagged": True, "seen_at": now}
    Untracked.objects.create(
        kind="domain", name="mia-lost-1", uuid=uuid.uuid4(), facts=facts, **lost
    )
    volume = f"kvmweb-{uuid.uuid4()}-vda.qcow2"
    Untracked.objects.create(kind="volume", pool="default", name=volume, **lost)
    Untracked.objects.create(kind="domain", name="by-hand", host=one, seen_at=now)
    disk = {"capacity_bytes": 40 * 1024**3, "allocation_bytes": 12 * 1024**3, "used_by": ""}
    for name, about in (
        ("mail-2019.vmdk", disk | {"format": "vmdk"}),
        ("debian-12-genericcloud-amd64.raw", disk | {"format": "raw"}),
        ("by-hand.qcow2", disk | {"format": "qcow2", "used_by": "by-hand"}),
    ):
        Untracked.objects.create(
            kind="volume", pool="default", name=name, host=one, facts=about, seen_at=now
        )


def away(one: Host) -> None:
    Host.objects.filter(pk=one.pk).update(
        transport="ssh",
        address="10.20.0.12",
        username="kvmweb",
        error_code="virt.unreachable",
        error_ref="A1B2C3",
        last_seen_at=timezone.now() - timedelta(minutes=14),
    )


def past(made: seed.Demo, machines: list[VM]) -> None:
    for number in range(34):
        kind, outcome = KINDS[number % 6], OUTCOMES[number % 5]
        vm = machines[number % len(machines)] if kind.startswith("vm.") else None
        begun = timezone.now() - timedelta(minutes=17 * number + 3)
        job = Job.objects.create(
            kind=kind,
            vm=vm,
            host=vm.host if vm else made.hosts[0],
            target_name=vm.name if vm else made.hosts[0].name,
            actor=vm.owner if vm else None,
            team=vm.team if vm else None,
            state=outcome,
            started_at=begun,
            finished_at=begun + timedelta(seconds=7 + 3 * number),
            error_code="virt.no_space" if outcome == "failed" else "",
            error_ref="9F3A11" if outcome == "failed" else "",
        )
        Job.objects.filter(pk=job.pk).update(created_at=begun)
        for index, step in enumerate(registry.get(kind).steps):
            state = "done" if outcome == "succeeded" or not index else "pending"
            if outcome == "failed" and index == 1:
                state = "failed"
            ended = begun + timedelta(seconds=5)
            times = {} if state == "pending" else {"started_at": begun, "finished_at": ended}
            Step.objects.create(job=job, index=index, key=step.key, state=state, **times)


def people(made: seed.Demo) -> None:
    course = Team.objects.create(name="Databases, winter term 2026", kind="course")
    Membership.objects.create(team=course, user=made.member, role="manager")
    Membership.objects.create(team=course, user=made.outsider, role="viewer")
    for secret in ("one", "many"):
        TeamInvite.objects.create(
            team=made.team,
            role="member",
            once=secret == "one",
            uses=3 if secret == "many" else 0,
            email="frodo@example.org" if secret == "one" else "",
            token_hash=secret,
            created_by=made.member,
            expires_at=timezone.now() + timedelta(days=6),
        )
    for person in (made.admin, made.member):
        for number, code in enumerate(("added", "joined", "handed_over", "removed")):
            row = notify(
                person,
                f"team.{code}",
                url=f"/teams/{made.team.pk}/" if number % 2 else "",
                who="Otto",
                team="ops",
                role="member",
                count=3,
            )
            assert row
            if number > 1:
                notifications.mark_read(person, row.pk)
    issue(made.member, "laptop", ["read", "write"], timezone.now() + timedelta(days=20))
    audit.record(made.member, "team.create", course)
    Flavor.objects.create(
        name="XXL",
        vcpus=32,
        memory_mib=262144,
        disk_gib=2000,
        position=9,
        description="For builds only; ask an admin first",
        published=False,
    )
