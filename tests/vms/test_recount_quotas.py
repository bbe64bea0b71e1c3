"""The sum of what machines hold is what is there; where it is not, it is set right and said."""

from __future__ import annotations

from io import StringIO

import pytest
from django.core.management import call_command
from django.db import transaction

from accounts import quotas
from accounts.models import Allocation, AuditEntry, QuotaRecount, Resource, Team, User
from hosts import connections
from hosts.virt.fake import FakeHypervisor
from hosts.virt.spec import DiskSpec, DomainMetadata, DomainSpec, VolumeSpec
from jobs.models import Job
from vms import recount
from vms.backups import services as backups
from vms.machine_templates import services as templates
from vms.models import VM, Backup, Disk, Image, Template

R = Resource


@pytest.fixture
def counted(vm: VM) -> VM:
    """A stopped machine that holds exactly what it takes."""
    VM.objects.filter(pk=vm.pk).update(observed="shutoff")
    vm.refresh_from_db()
    disk = sum(vm.disks.values_list("size_gib", flat=True))
    quotas.count(vm, {R.MACHINES: 1, R.VCPUS: vm.vcpus, R.MEMORY_MIB: vm.memory_mib})
    quotas.count(vm, {R.DISK_GIB: disk})
    return vm


def differences() -> set[tuple[str, int, int]]:
    return {(d["resource"], d["held"], d["counted"]) for d in recount.run().differences}


def test_nothing_differs(counted: VM) -> None:
    report = recount.run()
    assert (report.checked, report.differences) == (1, [])


def test_what_was_lost_is_counted_again_and_said(counted: VM, team: Team) -> None:
    Allocation.objects.filter(resource="vcpus").delete()
    Allocation.objects.filter(resource="machines").update(amount=5)
    assert differences() == {("vcpus", 0, counted.vcpus), ("machines", 5, 1)}
    assert quotas.usage(team)[R.VCPUS] == counted.vcpus
    assert quotas.usage(team)[R.MACHINES] == 1
    entry = AuditEntry.objects.get(verb="quota.recount")
    assert entry.before == {"vcpus": 0, "machines": 5}
    assert differences() == set()


def test_a_dry_run_changes_nothing(counted: VM) -> None:
    Allocation.objects.filter(resource="vcpus").delete()
    assert recount.run(repair=False).differences
    assert not Allocation.objects.filter(resource="vcpus").exists()


def test_what_another_team_holds_for_it_comes_back(counted: VM, team: Team, outsider: User) -> None:
    there = outsider.personal_team
    Allocation.objects.update(team=there, user=outsider)
    assert len(differences()) == 4
    assert quotas.usage(there)[R.MACHINES] == 0
    assert quotas.usage(team)[R.MACHINES] == 1


def test_holds_that_no_job_owns_are_confirmed_or_given_back(counted: VM) -> None:
    Allocation.objects.update(state="held")
    for resource in (R.RUNNING_MACHINES, R.RUNNING_VCPUS):
        Allocation.objects.create(
            vm=counted, team=counted.team, user=counted.owner, resource=resource, amount=1
        )
    assert differences() == {("running_machines", 1, 0), ("running_vcpus", 1, 0)}
    assert set(Allocation.objects.values_list("state", flat=True)) == {"active"}


def test_a_machine_at_work_is_left_to_its_job(counted: VM) -> None:
    Allocation.objects.update(state="held")
    Job.objects.create(kind="vm.start", vm=counted)
    Allocation.objects.filter(resource="vcpus").delete()
    assert differences() == set()
    assert not Allocation.objects.filter(state="active").exists()


def test_a_deleted_machine_holds_nothing(counted: VM) -> None:
    VM.objects.update(deleted_at=counted.created_at)
    assert ("machines", 1, 0) in differences()
    assert not Allocation.objects.exists()


def test_a_machine_in_the_bin_keeps_its_disk_alone(counted: VM) -> None:
    VM.objects.update(binned_at=counted.created_at)
    Allocation.objects.exclude(resource="disk_gib").delete()
    assert differences() == set()


def test_a_missing_machine_keeps_what_it_runs_with(counted: VM) -> None:
    quotas.count(counted, {R.RUNNING_MACHINES: 1})
    VM.objects.update(observed="missing")
    assert differences() == set()


def test_what_a_feature_counts_is_judged_too(counted: VM, monkeypatch) -> None:
    monkeypatch.setitem(recount._counters, R.SNAPSHOTS, lambda ids: dict.fromkeys(ids, 2))
    assert differences() == {("snapshots", 0, 2)}


def test_few_queries_however_many_machines(
    counted: VM, make_vm, owner, team, django_assert_max_num_queries
) -> None:
    for _ in range(20):
        machine = make_vm(owner, team)
        VM.objects.filter(pk=machine.pk).update(observed="shutoff")
        Disk.objects.filter(vm=machine).delete()
        amounts = {R.MACHINES: 1, R.VCPUS: machine.vcpus, R.MEMORY_MIB: machine.memory_mib}
        quotas.count(machine, amounts)
    with django_assert_max_num_queries(15):
        assert recount.run().differences == []


# --- what belongs to no machine ------------------------------------------------------------------
@pytest.fixture
def version(owner: User, team: Team) -> Image:
    """The one version of a template, 8 GiB, which is held as it should be."""
    template = Template.objects.create(name="golden", team=team, owner=owner)
    image = Image.objects.create(
        name="golden v1", template=template, template_version=1, virtual_size_bytes=8 << 30
    )
    with transaction.atomic():
        for thing, ask in ((template, {R.TEMPLATES: 1}), (image, {R.IMAGES_GIB: 8})):
            quotas.allocate_for(templates.subject(thing), ask, team=team, user=owner)
    return image


def test_templates_and_backups_are_judged_too(
    version: Image, counted: VM, team: Team, owner: User
) -> None:
    file = Image.objects.create(name="a backup", virtual_size_bytes=20 << 30)
    backup = Backup.objects.create(vm=counted, image=file, number=1)
    assert differences() == {("backups_gib", 0, 20)}
    assert quotas.usage(team)[R.BACKUPS_GIB] == 20
    assert differences() == set()
    Allocation.objects.filter(resource="images_gib").update(amount=80)
    Allocation.objects.filter(resource="templates").update(team=owner.personal_team)
    assert differences() == {("images_gib", 80, 8), ("templates", 1, 0), ("templates", 0, 1)}
    assert quotas.usage(team)[R.TEMPLATES] == 1
    assert quotas.usage(owner.personal_team)[R.TEMPLATES] == 0
    backup.delete()  # by hand: nobody gave back what it held
    assert recount.run(repair=False).differences[0]["held"] == 20
    assert differences() == {("backups_gib", 20, 0)}
    assert quotas.usage(team)[R.BACKUPS_GIB] == 0
    assert AuditEntry.objects.filter(verb="quota.recount").count() == 4


def test_a_backup_is_held_for_the_owner_of_its_machine(
    counted: VM, team: Team, owner: User, admin: User
) -> None:
    file = Image.objects.create(name="a backup", virtual_size_bytes=20 << 30)
    backup = Backup.objects.create(vm=counted, image=file, number=1, created_by=admin)
    with transaction.atomic():
        ask = {R.BACKUPS_GIB: 20}
        quotas.allocate_for(backups.subject(backup), ask, team=team, user=admin)
    assert differences() == {("backups_gib", 20, 0), ("backups_gib", 0, 20)}
    assert quotas.usage(team, owner)[R.BACKUPS_GIB] == 20
    assert quotas.usage(team, admin)[R.BACKUPS_GIB] == 0
    assert differences() == set()


def test_a_version_that_a_job_is_at_is_left_to_it(version: Image) -> None:
    Job.objects.create(kind="image.delete", target_name="golden v1", image=version)
    Allocation.objects.filter(resource="images_gib").delete()
    assert differences() == set()


def test_the_command_asks_the_hosts(counted: VM, host, pool, owner: User, team: Team) -> None:
    fake = FakeHypervisor(host.name)
    volume = counted.disks.get().volume
    with connections.use_fake({host.name: fake}):
        size = counted.disks.get().size_gib << 30
        fake.create_volume(VolumeSpec(pool=pool.name, name=volume, capacity_bytes=size))
        fake.define(
            DomainSpec(
                uuid=counted.uuid,
                name=counted.domain_name,
                vcpus=counted.vcpus,
                memory_mib=counted.memory_mib,
                disks=(DiskSpec(pool=pool.name, volume=volume),),
                metadata=DomainMetadata(
                    vm_uuid=counted.uuid, name=counted.name, owner="o", team="t", site="s"
                ),
            )
        )
        out = StringIO()
        call_command("recount_quotas", "--hosts", stdout=out)
        assert out.getvalue() == "1 machines, 0 differences\n"
        fake.start(counted.uuid)  # and nobody has heard of it yet
        with pytest.raises(SystemExit):
            call_command("recount_quotas", "--hosts", "--dry-run", stdout=out)
        assert f"on {host.name}: running_machines holds 0, counted 1" in out.getvalue()
        assert "3 differences" in out.getvalue()
    Allocation.objects.filter(resource="vcpus").update(amount=9)
    with pytest.raises(SystemExit):
        call_command("recount_quotas", stdout=out)
    assert "vcpus holds 9, counted 1" in out.getvalue()


def test_the_page_of_limits_shows_a_difference(counted: VM, browser, admin: User) -> None:
    Allocation.objects.filter(resource="vcpus").update(amount=9)
    recount.run()
    page = browser(admin).get("/admin/limits/").content.decode()
    assert "vcpus held 9, counted" in page
    recount.run()
    assert "held 9" not in browser(admin).get("/admin/limits/").content.decode()
    assert QuotaRecount.objects.count() == 2
