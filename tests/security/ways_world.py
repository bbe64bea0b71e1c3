"""A site with one real object of every kind, and one person of every role, for the walk through
every way in (``test_every_way_in``). Everything that belongs to the team or its people is named
with ``MARK``, so that no answer to somebody else may contain it."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.test import Client
from django.utils import timezone

from accounts import audit, invites, quotas, requests, services, tokens, webhooks
from accounts.models import (
    MachineOffer,
    MachineShare,
    Membership,
    Notification,
    QuotaLimit,
    Resource,
    SignIn,
    SSHKey,
    Team,
    User,
)
from hosts.models import Host, Network, Pool, Untracked
from jobs.models import Job
from vms.models import (
    VM,
    Backup,
    Batch,
    ConsoleInvite,
    ConsoleRecording,
    Disk,
    Flavor,
    Image,
    ImageCopy,
    Nic,
    PublishedPort,
    Snapshot,
    Template,
)

MARK = "zirkon"
GIB = 1024**3
# The columns of docs/contributor/access.md. The owner is a plain member of the team, so that what
# they may is theirs by owning alone.
ROLES = (
    "anonymous",
    "deactivated",
    "outsider",
    "viewer",
    "member",
    "manager",
    "owner",
    "admin",
    "shared viewer",
    "shared operator",
    "shared manager",
)
_SHARES = {
    "shared viewer": MachineShare.Role.VIEWER,
    "shared operator": MachineShare.Role.OPERATOR,
    "shared manager": MachineShare.Role.MANAGER,
}
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me@laptop"

OTHER_KEY = KEY.replace("IOMqq", "IOMqr")


@dataclass
class World:
    people: dict[str, User]
    cookies: dict[str, str]  # of a browser that each is signed in with
    tokens: dict[str, str]  # with all the scopes that each may have
    things: dict[str, Any]  # what examples name

    def __getattr__(self, name: str) -> Any:
        try:
            return self.things[name]
        except KeyError:
            raise AttributeError(name) from None


def build() -> World:
    QuotaLimit.objects.update(hard=-1)
    people = _people()
    team = Team.objects.create(name=f"{MARK}-team", kind=Team.Kind.TEAM)
    for name, role in (
        ("viewer", Membership.Role.VIEWER),
        ("member", Membership.Role.MEMBER),
        ("owner", Membership.Role.MEMBER),
        ("manager", Membership.Role.MANAGER),
        ("deactivated", Membership.Role.MANAGER),
    ):
        Membership.objects.create(team=team, user=people[name], role=role)
    # A viewer of the team who may be removed, and a share that may be ended, without their doing.
    more = services.create_user(None, "more", "", None)
    Membership.objects.create(team=team, user=more, role=Membership.Role.VIEWER)
    things: dict[str, Any] = {"team": team, "more": more}
    things |= _of_the_site(people["admin"])
    things |= _machines(people, team, things)
    things |= _of_machines(people, team, things)
    things |= _of_people(people, team, things)
    world = World(people, {}, {}, things)
    for name, person in people.items():
        client = Client()
        client.force_login(person, backend="django.contrib.auth.backends.ModelBackend")
        world.cookies[name] = client.cookies[settings.SESSION_COOKIE_NAME].value
        scopes = tokens.SCOPES if person.is_staff else ("read", "write")
        world.tokens[name] = tokens.issue(person, name, scopes, None)[1]
    # As somebody who slipped past the end of their sessions and tokens.
    User.objects.filter(pk=people["deactivated"].pk).update(is_active=False)
    return world


def _people() -> dict[str, User]:
    return {
        role: services.create_user(
            None,
            role.replace(" ", "-"),
            f"{role.replace(' ', '-')}@example.test",
            None,
            is_staff=role == "admin",
        )
        for role in ROLES
        if role != "anonymous"
    }


def _of_the_site(admin: User) -> dict[str, Any]:
    host = Host.objects.create(
        name="alpha",
        transport=Host.Transport.LOCAL,
        reach=Host.Reach.UP,
        hostname="alpha",
        arch="x86_64",
        cpus=512,
        memory_mib=4 << 20,
        acceleration="tcg",
    )
    bare = Host.objects.create(name="bare", transport="local", reach="up", cpus=1, memory_mib=1024)
    pool = Pool.objects.create(
        host=host,
        name="default",
        uuid=uuid.uuid4(),
        kind="dir",
        path="/var/lib/libvirt/images",
        active=True,
        is_default=True,
        capacity_bytes=9000 * GIB,
        available_bytes=9000 * GIB,
    )
    network = Network.objects.create(
        host=host, name="default", uuid=uuid.uuid4(), kind="nat", bridge="virbr0", active=True
    )
    other = Host.objects.get(pk=host.pk)
    other.pk, other.name = None, "beta"
    other.save()
    for row in (pool, network):
        theirs = type(row).objects.get(pk=row.pk)
        theirs.pk, theirs.host = None, other
        theirs.save()
    now = timezone.now()
    untracked = Untracked.objects.create(
        host=host,
        kind="domain",
        name="lost",
        uuid=uuid.uuid4(),
        tagged=True,
        facts={"owner": "owner", "team": "x", "vcpus": 1, "memory_mib": 512},
        seen_at=now,
    )
    ready = {"state": "ready", "format": "qcow2", "virtual_size_bytes": GIB, "min_disk_gib": 1}
    image = Image.objects.create(name="Tiny", source="built", published=True, **ready)
    unused = Image.objects.create(name="Unused", source="built", published=True, **ready)
    hidden = Image.objects.create(name=f"{MARK}-unpublished", source="built", **ready)
    disc = Image.objects.create(name="Disc", source="built", published=True, **ready, kind="iso")
    failed = Image.objects.create(
        name=f"{MARK}-failed", source="url", state="failed", url="https://example.org/a.qcow2"
    )
    retired = Image.objects.create(name=f"{MARK}-retired", source="built", **ready)
    Image.objects.filter(pk=retired.pk).update(state="retired")
    upload = Image.objects.create(name=f"{MARK}-upload", source="upload", upload_total_bytes=100)
    ImageCopy.objects.create(image=image, pool=pool, state=ImageCopy.State.READY)
    flavor = Flavor.objects.create(name="Small", vcpus=1, memory_mib=1024, disk_gib=10)
    host_job = Job.objects.create(kind="host.refresh", host=host, target_name=host.name)
    audit.record(admin, "team.create", target_name=f"{MARK}-audit")
    return {
        "host": host,
        "other_host": other,
        "bare": bare,
        "pool": pool,
        "network": network,
        "untracked": untracked,
        "image": image,
        "unused": unused,
        "hidden": hidden,
        "disc": disc,
        "failed_image": failed,
        "retired": retired,
        "upload": upload,
        "flavor": flavor,
        "host_job": host_job,
    }


def machine(owner: User, team: Team, name: str, things: dict[str, Any], **fields: Any) -> VM:
    """Its rows as after it was made, with its part of the quota."""
    values: dict[str, Any] = {
        "host": things["host"],
        "image": things["image"],
        "vcpus": 1,
        "memory_mib": 1024,
        "hostname": name,
        "domain_name": f"{name}-{uuid.uuid4().hex[:8]}",
        "first_boot": VM.FirstBoot.DONE,
        "description": f"{MARK} of {name}",
        "desired": VM.Desired.RUNNING,
        "observed": VM.Observed.RUNNING,
    }
    vm = VM.objects.create(name=name, owner=owner, team=team, **(values | fields))
    Disk.objects.create(
        vm=vm, pool=things["pool"], volume=f"kvmweb-{vm.uuid}-vda.qcow2", size_gib=10
    )
    number = VM.objects.count()
    mac = f"52:54:00:00:{number // 256:02x}:{number % 256:02x}"
    Nic.objects.create(vm=vm, mac=mac, network="default")
    quotas.count(vm, {Resource.MACHINES: 1, Resource.VCPUS: 1, Resource.MEMORY_MIB: 1024})
    return vm


def _machines(people: dict[str, User], team: Team, things: dict[str, Any]) -> dict[str, Any]:
    owner, now = people["owner"], timezone.now()
    batch = Batch.objects.create(prefix=f"{MARK}-many", owner=owner, team=team, size=2)
    off = {"observed": VM.Observed.SHUTOFF, "desired": VM.Desired.STOPPED}
    binned = {"binned_at": now, "bin_until": now + timedelta(days=7)}
    kinds: dict[str, dict[str, Any]] = {
        "vm": {},
        "off": off,
        "kept": off,  # with a backup
        "two": off,  # with a second disk and a second card
        "paused": {"observed": VM.Observed.PAUSED},
        "saved": off | {"saved": True},
        "with_disc": {"iso": things["disc"]},
        "busy": {},
        "linked": off,  # its disk stands on the image
        "offered": off,
        "binned": off | binned,
        "failed": off | {"batch": batch, "batch_number": 1, "deleted_at": now},
    }
    found = {
        kind: machine(owner, team, f"{MARK}-{kind.replace('_', '-')}", things, **fields)
        for kind, fields in kinds.items()
    }
    for vm in found.values():
        for name, role in _SHARES.items():
            MachineShare.objects.create(
                machine=vm.uuid, user=people[name], role=role, granted_by=owner
            )
    found["linked"].disks.update(backing_image=things["image"])
    two = found["two"]
    Disk.objects.create(
        vm=two,
        pool=things["pool"],
        volume=f"kvmweb-{two.uuid}-vdb.qcow2",
        size_gib=5,
        target="vdb",
    )
    card = Nic.objects.create(vm=two, mac="52:54:00:00:ff:01", network="default")
    quotas.release(found["failed"])
    # One of the manager's own, in their own team, given to the owner: only these two know of it.
    gift = machine(
        people["manager"],
        people["manager"].personal_team,
        f"{MARK}-gift",
        things,
        **off,
    )
    offer = MachineOffer.objects.create(
        machine=gift.uuid,
        to=owner,
        owner=gift.owner,
        team=gift.team,
        asked_by=gift.owner,
        expires_at=now + timedelta(days=3),
    )
    MachineOffer.objects.create(
        machine=found["offered"].uuid,
        to=people["outsider"],
        owner=owner,
        team=team,
        asked_by=owner,
        expires_at=now + timedelta(days=3),
    )
    return found | {"batch": batch, "card": card, "gift": gift, "offer": offer}


def _job(vm: VM, kind: str, state: str, **fields: Any) -> Job:
    return Job.objects.create(
        kind=kind,
        vm=vm,
        actor=vm.owner,
        team=vm.team,
        host=vm.host,
        target_name=vm.name,
        state=state,
        **fields,
    )


def _of_machines(people: dict[str, User], team: Team, things: dict[str, Any]) -> dict[str, Any]:
    owner, now, off = people["owner"], timezone.now(), things["off"]
    snapshot = Snapshot.objects.create(
        vm=off, name=f"{MARK}-snapshot", state=Snapshot.State.READY, created_by=owner
    )
    ready = {"state": "ready", "format": "qcow2", "virtual_size_bytes": GIB, "min_disk_gib": 10}
    kept = Image.objects.create(
        name=f"{MARK}-backup", source="backup", file_size_bytes=4096, **ready
    )
    ImageCopy.objects.create(image=kept, pool=things["pool"], state=ImageCopy.State.READY)
    backup = Backup.objects.create(vm=things["kept"], image=kept, number=1, created_by=owner)
    template = Template.objects.create(name=f"{MARK}-template", team=team, owner=owner)
    versions = [
        Image.objects.create(
            name=f"{MARK}-template v{number}",
            source="template",
            template=template,
            template_version=number,
            team=team,
            **ready,
        )
        for number in (1, 2)
    ]
    Template.objects.filter(pk=template.pk).update(current=versions[1])
    # The template's owner is the owner of the machine, but what can be changed of it belongs to
    # them and the managers; the plain member made none.
    settings.RECORDINGS_DIR.mkdir(parents=True, exist_ok=True)
    recordings = {
        name: ConsoleRecording.objects.create(
            vm=things["vm"], kind=kind, path=f"{MARK}-{kind}.bin", ended_at=ended, started_by=owner
        )
        for name, kind, ended in (("recording", "vnc", now), ("recording_on", "serial", None))
    }
    (settings.RECORDINGS_DIR / f"{MARK}-vnc.bin").write_bytes(b"FBS 001.001\n")
    return {
        "snapshot": snapshot,
        "port": PublishedPort.objects.create(
            vm=things["vm"], guest_port=22, public_port=20001, opened_by=owner, note=MARK
        ),
        "backup": backup,
        "template": template,
        "version": versions[0],
        "recording": recordings["recording"],
        "recording_on": recordings["recording_on"],
        "job": _job(things["busy"], "vm.start", "queued"),
        "failed_job": _job(off, "vm.start", "failed"),
        "failed_create": _job(
            things["failed"], "vm.create", "failed", params={"start": False, "network": "default"}
        ),
        "share": MachineShare.objects.create(
            machine=things["vm"].uuid, user=things["more"], role="viewer", granted_by=owner
        ),
        "console_token": "console-invite-secret",
        "console_invite": ConsoleInvite.objects.create(
            vm=things["vm"],
            made_by=owner,
            mode="view",
            token_hash=hashlib.sha256(b"console-invite-secret").hexdigest(),
            expires_at=now + timedelta(days=1),
        ),
        "nic": things["two"].nics.order_by("pk").last(),
    }


def _of_people(people: dict[str, User], team: Team, things: dict[str, Any]) -> dict[str, Any]:
    owner, manager = people["owner"], people["manager"]
    invite, secret = invites.make(
        actor=people["admin"], team=team, role="member", days=7, once=False, email=""
    )
    until = timezone.now() + timedelta(days=30)
    # There must be a limit of which more can be asked.
    for limit in ({"scope": "team"}, {"scope": "member", "user": owner}):
        QuotaLimit.objects.create(team=team, resource=Resource.VCPUS, hard=500, **limit)
    asked = requests.ask(
        actor=owner,
        team=team,
        scope="member",
        amounts={Resource.VCPUS: 2},
        reason=f"{MARK} reason",
        until=until,
    )
    granted = requests.ask(
        actor=owner,
        team=team,
        scope="member",
        amounts={Resource.VCPUS: 1},
        reason=f"{MARK} more",
        until=until,
    )
    requests.approve(granted, actor=manager, version=1, granted={}, ends_at=until)
    phone = Client()
    phone.force_login(owner, backend="django.contrib.auth.backends.ModelBackend")
    return {
        "invite": invite,
        "secret": secret,
        "asked": asked,
        "grant": granted.grants.get(),
        "key": SSHKey.objects.create(
            user=owner, name=f"{MARK}-key", public_key=OTHER_KEY, fingerprint="SHA256:x"
        ),
        "api_token": tokens.issue(owner, f"{MARK}-token", ["read"], None)[0],
        "notification": Notification.objects.create(
            user=owner, code="team.joined", params={"team": f"{MARK}-team", "who": "x"}, url="/"
        ),
        "webhook": webhooks.add(owner, url=f"https://{MARK}.example.org/", topics=["team"])[0],
        "team_webhook": webhooks.add(
            manager, url=f"https://{MARK}.example.org/", topics=["team"], team=team
        )[0],
        "sign_in": SignIn.objects.filter(user=owner).latest("pk"),
    }
