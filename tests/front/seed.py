"""A site that looks lived in: people, a team, images, hosts and machines in every state.

For tests and for looking at pages by hand, without any hypervisor:
    KVMWEB_VAR=/tmp/demo python manage.py shell -c "from tests.front import seed; seed.demo()"
then sign in as ``mia`` (member) or ``ada`` (admin), password ``demo-demo-demo``.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import timedelta

from django.utils import timezone

from accounts.models import Allocation, Membership, QuotaLimit, SSHKey, Team, User
from hosts.models import Host, Network, Pool
from jobs import registry
from jobs.models import Job, Step
from vms.models import VM, Disk, Flavor, Image, Nic, Tag, VMEvent

PASSWORD = "demo-demo-demo"
GIB = 1024**3


@dataclass
class Demo:
    admin: User
    member: User
    outsider: User
    team: Team
    hosts: list[Host]
    images: list[Image]
    flavors: list[Flavor]


def person(username: str, *, staff: bool = False) -> User:
    user = User.objects.filter(username=username).first()
    if user is None:
        user = User.objects.create_user(username, f"{username}@example.org", PASSWORD)
        user.is_staff = user.is_superuser = staff
        user.save()
    if not Team.objects.filter(personal_of=user).exists():
        team = Team.objects.create(name=username, kind="personal", personal_of=user)
        Membership.objects.create(team=team, user=user, role="manager")
    return user


def base() -> Demo:
    """People, team, hosts, images and sizes; no machine yet."""
    admin, member, outsider = person("ada", staff=True), person("mia"), person("otto")
    team, _new = Team.objects.get_or_create(name="ops", kind="team")
    Membership.objects.get_or_create(team=team, user=member, defaults={"role": "manager"})
    Membership.objects.get_or_create(team=team, user=admin, defaults={"role": "member"})
    limits = {"machines": 40, "vcpus": 96, "memory_mib": 196608, "disk_gib": 800}
    for resource, hard in limits.items():
        QuotaLimit.objects.update_or_create(
            scope="site", resource=resource, defaults={"hard": hard}
        )
    SSHKey.objects.get_or_create(
        user=member,
        name="laptop",
        defaults={
            "public_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIDdVq0mEw0YyBmS5nVj3X2bT0b1w"
            "L1c7m8gKqzYt9Qp mia@laptop",
            "fingerprint": "SHA256:demo",
        },
    )
    return Demo(
        admin=admin,
        member=member,
        outsider=outsider,
        team=team,
        hosts=[_host("a", up=True), _host("b", up=False)],
        images=_images(),
        flavors=_flavors(),
    )


def demo(count: int = 42) -> Demo:
    """``base`` and ``count`` machines in all states, some at work."""
    made = base()
    if VM.objects.exists():
        return made
    for number in range(count):
        _machine(made, number)
    return made


def machine(
    made: Demo, name: str, *, observed: str = "running", owner: User | None = None, **more: object
) -> VM:
    """One machine of the member's own team, as the product would have made it."""
    owner = owner or made.member
    image, flavor = made.images[0], made.flavors[1]
    values: dict[str, object] = {
        "name": name,
        "domain_name": f"{owner.username}-{name}",
        "hostname": name,
        "owner": owner,
        "team": Team.objects.get(personal_of=owner),
        "host": made.hosts[0],
        "image": image,
        "flavor": flavor,
        "vcpus": flavor.vcpus,
        "memory_mib": flavor.memory_mib,
        "observed": observed,
        "observed_at": timezone.now(),
        "first_user": image.default_user,
        "first_boot": "done",
    }
    vm = VM.objects.create(**(values | more))
    Disk.objects.create(
        vm=vm, volume=f"kvmweb-{vm.uuid}-vda.qcow2", size_gib=20, allocation_bytes=int(3.2 * GIB)
    )
    address = f"192.168.122.{10 + vm.pk % 240}"
    mac = "52:54:00:" + ":".join(f"{vm.pk >> shift & 255:02x}" for shift in (16, 8, 0))
    Nic.objects.create(
        vm=vm,
        mac=mac,
        network="default",
        addresses=[address] if observed == "running" else [],
    )
    for resource, amount in (
        ("machines", 1),
        ("vcpus", vm.vcpus),
        ("memory_mib", vm.memory_mib),
        ("disk_gib", 20),
    ):
        Allocation.objects.create(
            vm=vm, team=vm.team, user=vm.owner, resource=resource, amount=amount, state="active"
        )
    return vm


def at_work(vm: VM, kind: str, step: int, progress: float | None, **more: object) -> Job:
    """A running job of ``kind`` at its ``step``-th step."""
    specs = registry.get(kind).steps
    now = timezone.now()
    values: dict[str, object] = {
        "kind": kind,
        "vm": vm,
        "target_name": vm.name,
        "actor": vm.owner,
        "team": vm.team,
        "state": "running",
        "step": specs[step].key,
        "progress": progress,
        "params": {"copy": "linked", "cloud_init": True, "start": True}
        if kind == "vm.create"
        else {},
        "started_at": now - timedelta(seconds=35),
        "observing": specs[step].observing,
    }
    job = Job.objects.create(**(values | more))
    for index, spec in enumerate(specs):
        done = index < step
        Step.objects.create(
            job=job,
            index=index,
            key=spec.key,
            state="done" if done else "running" if index == step else "pending",
            started_at=now - timedelta(seconds=35 - 5 * index) if index <= step else None,
            finished_at=now - timedelta(seconds=31 - 5 * index) if done else None,
        )
    return job


def _host(name: str, *, up: bool) -> Host:
    host, new = Host.objects.get_or_create(
        name=name,
        defaults={
            "transport": "local",
            "reach": "up" if up else "down",
            "reach_since": timezone.now() - timedelta(minutes=14),
            "cpus": 16,
            "memory_mib": 65536,
            "acceleration": "kvm",
        },
    )
    if new:
        Network.objects.create(
            host=host,
            name="default",
            uuid=uuid.uuid4(),
            kind="nat",
            cidr="192.168.122.0/24",
            active=True,
        )
        Pool.objects.create(
            host=host,
            name="default",
            uuid=uuid.uuid4(),
            kind="dir",
            path="/var/lib/libvirt/images",
            active=True,
            is_default=True,
            capacity_bytes=500 * GIB,
            available_bytes=320 * GIB,
        )
    return host


def _images() -> list[Image]:
    rows = [
        ("Debian 12", "debian12", "debian", 3, 512, 1024, 10),
        ("Ubuntu 24.04", "ubuntu24.04", "ubuntu", 4, 512, 2048, 15),
        ("Alpine 3.20", "alpinelinux3.20", "alpine", 1, 128, 256, 2),
        ("Fedora 41", "fedora41", "fedora", 5, 1024, 2048, 15),
        ("Tiny", "tiny", "tiny", 1, 64, 128, 1),
    ]
    return [
        Image.objects.get_or_create(
            name=name,
            defaults={
                "os_id": os_id,
                "default_user": user,
                "state": "ready",
                "published": True,
                "source": "url",
                "format": "qcow2",
                "virtual_size_bytes": size * GIB,
                "file_size_bytes": size * GIB // 8,
                "min_memory_mib": least,
                "recommended_memory_mib": good,
                "recommended_disk_gib": disk,
            },
        )[0]
        for name, os_id, user, size, least, good, disk in rows
    ]


def _flavors() -> list[Flavor]:
    rows = [("S", 1, 1024, 10), ("M", 2, 2048, 20), ("L", 4, 8192, 40)]
    return [
        Flavor.objects.get_or_create(
            name=name,
            defaults={"vcpus": cpus, "memory_mib": mib, "disk_gib": gib, "position": index},
        )[0]
        for index, (name, cpus, mib, gib) in enumerate(rows)
    ]


_NAMES = ("web", "db", "lab", "ci", "mail", "build", "proxy")
_STATES = ("running", "running", "running", "shutoff", "running", "paused", "shutoff")


def _machine(made: Demo, number: int) -> None:
    name = f"{_NAMES[number % 7]}-{number // 7 + 1}"
    observed = _STATES[number % 7]
    if number in (40, 41):
        observed = ("crashed", "missing")[number - 40]
    image = made.images[number % 5]
    flavor = made.flavors[number % 3]
    vm = machine(
        made,
        name,
        observed=observed,
        owner=made.member if number % 3 else made.admin,
        image=image,
        flavor=flavor,
        first_user=image.default_user,
        vcpus=flavor.vcpus,
        memory_mib=flavor.memory_mib,
        host=made.hosts[1] if number % 11 == 7 else made.hosts[0],
        cpu_percent=(number * 13) % 97 if observed == "running" else None,
        memory_used_mib=flavor.memory_mib // 2 if observed == "running" else None,
        sampled_at=timezone.now(),
        started_at=timezone.now() - timedelta(hours=number) if observed == "running" else None,
    )
    VM.objects.filter(pk=vm.pk).update(created_at=timezone.now() - timedelta(hours=3 * number))
    if number % 4 == 1:
        Tag.objects.bulk_create([Tag(vm=vm, name="web"), Tag(vm=vm, name="prod")])
    VMEvent.objects.create(vm=vm, kind=f"state.{observed}", actor=vm.owner)
    if number == 1:
        at_work(vm, "vm.create", 1, 0.42)
        VM.objects.filter(pk=vm.pk).update(observed="unknown", first_boot="pending")
        vm.nics.update(addresses=[])
    if number == 2:
        at_work(vm, "vm.create", 7, None)
    if number == 4:
        at_work(vm, "vm.shutdown", 0, None, observing=True)
        Job.objects.filter(vm=vm).update(started_at=timezone.now() - timedelta(seconds=95))
    if number == 8:
        VM.objects.filter(pk=vm.pk).update(
            first_boot="failed",
            first_boot_excerpt="E: Unable to locate package ngimx\nmodule cc_package_update failed",
        )
