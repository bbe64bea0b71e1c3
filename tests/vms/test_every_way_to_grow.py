"""Where all is used up, no way to grow is open: each is refused by the one function, names a limit,
and writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accounts import quotas
from accounts.errors import QuotaExceeded
from accounts.models import Allocation, Membership, QuotaLimit, Resource, Team, User
from hosts.virt.fake import FakeHypervisor
from jobs.models import Job
from tests.vms.backups.helpers import taken
from tests.vms.conftest import run_to_end
from tests.vms.test_snapshots import taken as snapshot_of
from vms import growth, lifecycle, ownership, provisioning, recount, recycle_bin
from vms.backups import services as backups
from vms.cloning import requests as cloning
from vms.hardware import requests as hardware
from vms.machine_templates import services as templates
from vms.models import VM, Backup, PublishedPort, Snapshot, Template
from vms.ports import requests as ports
from vms.snapshots import requests as snapshots

Made = Callable[..., VM]


class World:
    """What ways to grow need: machines that are off, on, saved and in the bin, with a snapshot, a
    backup and a template."""

    def __init__(self, made: Made, ask: Any, owner: User, team: Team, outsider: User) -> None:
        self.owner, self.team, self.ask, self.outsider = owner, team, ask, outsider
        self.on = made(name="on")
        self.saved = made(name="saved")
        run_to_end(lifecycle.request(self.saved, "save", actor=owner))
        self.binned = self.off(made(name="binned"))
        run_to_end(lifecycle.request(self.binned, "delete", actor=owner, force=True))
        self.stopped = self.off(made(name="stopped"))
        self.snapshot: Snapshot = snapshot_of(self.stopped, owner, memory=False)
        self.other = self.off(made(name="other"))
        self.backup: Backup = taken(self.other, owner)
        image, job = templates.make(self.other, actor=owner, name="golden")
        run_to_end(job)
        assert image.template is not None
        self.template: Template = image.template
        for vm in (self.on, self.saved, self.binned, self.stopped, self.other):
            vm.refresh_from_db()

    def off(self, vm: VM) -> VM:
        run_to_end(lifecycle.request(vm, "force_off", actor=self.owner))
        vm.refresh_from_db()
        return vm


def _accepts(w: World) -> Any:
    offer = ownership.give(w.stopped, actor=w.owner, to=w.outsider)
    assert offer is not None
    return ownership.accept(offer.pk, user=w.outsider, team=w.outsider.personal_team)


def _revert(w: World) -> Any:
    return snapshots.revert(w.snapshot, actor=w.owner, start=True)


WAYS: dict[str, Callable[[World], Any]] = {
    "create": lambda w: w.ask(w.owner, name="new", start=False),
    "batch": lambda w: provisioning.request_batch(
        actor=w.owner, team=w.team, name="lab", image=w.on.image, flavor=w.on.flavor, count=2
    ),
    "clone": lambda w: cloning.request_clone(w.stopped, actor=w.owner, name="copy", start=False),
    "resize off": lambda w: hardware.resize(w.stopped, actor=w.owner, vcpus=w.stopped.vcpus + 1),
    "resize on": lambda w: hardware.resize(w.on, actor=w.owner, memory_mib=w.on.memory_mib + 512),
    "add disk": lambda w: hardware.add_disk(w.other, actor=w.owner, size_gib=1),
    "grow disk": lambda w: hardware.grow_disk(w.other.disks.get(), actor=w.owner, size_gib=50),
    "disk of a backup": lambda w: backups.attach(w.backup, actor=w.owner, to=w.other),
    "published port": lambda w: ports.publish(w.on, actor=w.owner, guest_port=22),
    "snapshot": lambda w: snapshots.take(w.stopped, actor=w.owner, name="two"),
    "back and start": _revert,
    "start": lambda w: lifecycle.request(w.stopped, "start", actor=w.owner),
    "start paused": lambda w: lifecycle.request(w.stopped, "start_paused", actor=w.owner),
    "resume what is saved": lambda w: lifecycle.request(w.saved, "start", actor=w.owner),
    "out of the bin": lambda w: recycle_bin.restore(w.binned, actor=w.owner),
    "its disk kept": lambda w: recycle_bin.purge(w.binned, actor=w.owner, keep=["vda"]),
    "backup": lambda w: backups.take(w.other, actor=w.owner),
    "backup by its plan": lambda w: backups.take(w.other, actor=None, scheduled=True),
    "backup as new": lambda w: backups.restore_as_new(w.backup, actor=w.owner, name="again"),
    "template": lambda w: templates.make(w.other, actor=w.owner, name="another"),
    "version": lambda w: templates.make(w.other, actor=w.owner, into=w.template),
    "to another owner": _accepts,
}


def _dry(action: str, vm: str, **about: Any) -> Callable[[World], growth.Growth]:
    def run(w: World) -> growth.Growth:
        said = {name: value(w) if callable(value) else value for name, value in about.items()}
        uuid = getattr(w, vm).uuid
        return growth.of(uuid, action, actor=w.owner, about=growth.About(**said))

    return run


_BACKUP = {"backup": lambda w: w.backup.number}
# What the forms and the dry run say of the same ways.
DRY: dict[str, Callable[[World], growth.Growth]] = {
    "clone": _dry("clone", "stopped"),
    "resize off": _dry("size", "stopped", vcpus=lambda w: w.stopped.vcpus + 1),
    "resize on": _dry("size", "on", memory_mib=lambda w: w.on.memory_mib + 512),
    "add disk": _dry("disk-add", "other", size_gib=1),
    "grow disk": _dry("disk-grow", "other", disk="vda", size_gib=50),
    "disk of a backup": _dry("backup-attach", "other", **_BACKUP, machine=lambda w: w.other.uuid),
    "snapshot": _dry("snapshot", "stopped"),
    "back and start": _dry(
        "snapshot-revert", "stopped", snapshot=lambda w: w.snapshot.pk, start=True
    ),
    "start": _dry("start", "stopped"),
    "start paused": _dry("start", "stopped"),
    "resume what is saved": _dry("start", "saved"),
    "out of the bin": _dry("bin-restore", "binned"),
    "backup": _dry("backup", "other"),
    "backup as new": _dry("backup-new", "other", **_BACKUP),
    "template": _dry("template", "other"),
    "version": _dry("template", "other", into=lambda w: w.template.pk),
    "published port": _dry("port", "on"),
}


def missing(way: Callable[[World], Any], world: World) -> int:
    """By how much it was refused; 0: it was not."""
    try:
        way(world)
    except QuotaExceeded as refusal:
        return int(refusal.params["missing"])
    return 0


def refused(way: Callable[[World], Any], world: World) -> dict[str, int]:
    try:
        way(world)
    except QuotaExceeded as refusal:
        return {one["resource"]: one["missing"] for one in refusal.params["short"]}
    return {}


def short(impacts: list[quotas.Impact]) -> dict[str, int]:
    return {one.resource.value: one.missing for one in impacts if one.missing}


def test_none_slips_past(
    made: Made,
    ask: Any,
    fake: FakeHypervisor,
    owner: User,
    team: Team,
    outsider: User,
    settings: Any,
) -> None:
    settings.PUBLISH_PORTS = range(20000, 20010)
    QuotaLimit.objects.filter(scope="site").update(hard=QuotaLimit.UNLIMITED)
    world = World(made, ask, owner, team, outsider)
    for resource, used in quotas.usage(team).items():
        QuotaLimit.objects.create(scope="team", team=team, resource=resource, hard=used)
    theirs = outsider.personal_team
    QuotaLimit.objects.create(scope="team", team=theirs, resource=Resource.MACHINES, hard=0)

    def written() -> list[Any]:
        held = Allocation.objects.order_by("pk").values_list("pk", "team", "amount", "state")
        return [
            *held,
            VM.objects.count(),
            Job.objects.count(),
            Backup.objects.count(),
            PublishedPort.objects.count(),
        ]

    for name, way in WAYS.items():
        before = written()
        assert missing(way, world) > 0, f"{name} slipped past"
        assert written() == before, name
        if name in DRY:
            told = DRY[name](world)
            assert refused(way, world) == short(told.impacts), name
            assert not told.fits
            assert told.more.startswith("/requests/new/?"), name
            assert written() == before, name
    told = growth.of(world.other.uuid, "backup-restore", actor=owner, about=growth.About(backup=1))
    assert told.fits
    assert told.impacts[0].asked == 0, "its disk is as large as it was"
    assert recount.run(repair=False).differences == []


def test_told_for_who_pays_and_to_who_may(
    made: Made,
    owner: User,
    team: Team,
    viewer: User,
    outsider: User,
    make_user: Any,
    browser: Callable[[User], Any],
    api: Callable[..., Any],
) -> None:
    """The limit that counts is the owner's, whoever looks; who only looks is not told of it."""
    vm = made()
    manager = make_user("manager")
    Membership.objects.create(team=team, user=manager, role=Membership.Role.MANAGER)
    QuotaLimit.objects.create(scope="member", team=team, user=owner, resource="disk_gib", hard=11)
    path = f"/machines/{vm.uuid}/growth/disk-add/?size_gib=5"
    ask = {"action": "disk-add", "size_gib": 5}
    by_page = browser(owner).get(path).content.decode()
    assert "after this: 15 GiB of 11 GiB" in by_page
    assert "/requests/new/?" in by_page
    by_page = browser(manager).get(path).content.decode()
    assert "after this: 15 GiB of 11 GiB" in by_page
    assert "/requests/new/?" not in by_page, "nobody asks for somebody else"
    told = api(owner).post(f"/vms/{vm.uuid}/quota/check", ask).json()
    assert (told["fits"], told["resources"][0]["missing"]) == (False, 4)
    assert told["request"].startswith("/requests/new/?")
    fits = api(owner).post(f"/vms/{vm.uuid}/quota/check", ask | {"size_gib": 1}).json()
    assert (fits["fits"], fits["request"]) == (True, "")
    assert api(owner).post(f"/vms/{vm.uuid}/quota/check", {"action": "no"}).status_code == 422
    assert api(owner).post(f"/vms/{vm.uuid}/quota/check", ask | {"size_gib": -1}).status_code == 422
    assert browser(owner).get(f"/machines/{vm.uuid}/growth/no/").status_code == 404
    for person, status in ((viewer, 403), (outsider, 404)):
        assert browser(person).get(path).status_code == status
        assert api(person).post(f"/vms/{vm.uuid}/quota/check", ask).status_code == status
