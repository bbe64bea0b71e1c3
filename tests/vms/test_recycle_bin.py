"""A deleted machine lies in the recycle bin: restored as it was, or gone when its time is over."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone

from accounts import quotas
from accounts.errors import Conflict, Forbidden, Invalid, NotFound, QuotaExceeded
from accounts.models import AuditEntry, QuotaLimit, Resource, Team, User
from hosts.virt.errors import UnknownVirtError
from hosts.virt.fake import FakeHypervisor
from hosts.virt.spec import DomainState
from jobs.models import Job
from tests.vms.conftest import run_to_end, volumes
from vms import lifecycle, presentation, queries, recycle_bin
from vms.models import VM, Image, MachineRules

Made = Callable[..., VM]


@pytest.fixture
def binned(made: Made, owner: User) -> VM:
    vm = made()
    run_to_end(lifecycle.request(vm, "delete", actor=owner, force=True))
    vm.refresh_from_db()
    return vm


def test_it_is_off_and_kept_with_its_disks(
    binned: VM, fake: FakeHypervisor, owner: User, team: Team
) -> None:
    assert binned.binned_at is not None
    assert binned.deleted_at is None
    assert binned.bin_until is not None
    assert timedelta(days=6) < binned.bin_until - timezone.now() <= timedelta(days=7)
    assert fake.domain(binned.uuid).state is DomainState.SHUTOFF
    assert f"kvmweb-{binned.uuid}-vda.qcow2" in volumes(fake)
    used = quotas.usage(team)
    assert used[Resource.DISK_GIB] == 10  # it is there, so it counts
    assert used[Resource.MACHINES] == used[Resource.VCPUS] == used[Resource.RUNNING_VCPUS] == 0
    assert queries.page(owner, queries.ListQuery()).count == 0
    assert list(recycle_bin.rows(owner)) == [binned]


def test_no_verb_but_delete_works_on_it(binned: VM, owner: User) -> None:
    allowed = lifecycle.allowed_verbs(queries.one(owner, binned.uuid), owner)
    assert allowed.pop("delete") is None
    assert set(allowed.values()) == {"vm.why.binned"}
    with pytest.raises(Conflict, match=r"why\.binned"):
        lifecycle.request(binned, "start", actor=owner)


def test_restored_it_is_as_it_was(
    made: Made, fake: FakeHypervisor, owner: User, team: Team
) -> None:
    vm = made()
    fake.set_autostart(vm.uuid, autostart=True)
    before = fake.domain(vm.uuid)
    run_to_end(lifecycle.request(vm, "delete", actor=owner, force=True))
    assert not fake.domain(vm.uuid).autostart  # else it came up again with its host
    job = run_to_end(recycle_bin.restore(vm, actor=owner))
    assert job.state == Job.State.SUCCEEDED
    vm.refresh_from_db()
    assert vm.binned_at is vm.bin_until is None
    after = fake.domain(vm.uuid)
    assert after.autostart
    assert (after.disks, after.name, after.vcpus) == (before.disks, before.name, before.vcpus)
    assert [nic.mac for nic in after.nics] == [nic.mac for nic in before.nics]
    assert quotas.usage(team)[Resource.MACHINES] == 1
    assert lifecycle.allowed_verbs(queries.one(owner, vm.uuid), owner)["start"] is None
    kinds = set(vm.events.values_list("kind", flat=True))
    assert {"binned", "taken_back"} <= kinds


def test_one_that_was_undefined_outside_is_defined_again(
    binned: VM, fake: FakeHypervisor, owner: User
) -> None:
    fake.undefine(binned.uuid)
    assert run_to_end(recycle_bin.restore(binned, actor=owner)).state == Job.State.SUCCEEDED
    assert fake.domain(binned.uuid).disks[0].volume == f"kvmweb-{binned.uuid}-vda.qcow2"


def test_a_disk_that_was_removed_outside_is_told(
    binned: VM, fake: FakeHypervisor, owner: User, team: Team
) -> None:
    fake.delete_volume("default", f"kvmweb-{binned.uuid}-vda.qcow2")
    job = run_to_end(recycle_bin.restore(binned, actor=owner))
    assert job.state == Job.State.FAILED
    binned.refresh_from_db()
    assert binned.binned_at is not None  # it stays there, to be deleted for good
    assert quotas.usage(team)[Resource.MACHINES] == 0


def test_restoring_checks_the_quota(binned: VM, owner: User, team: Team) -> None:
    QuotaLimit.objects.create(scope="team", team=team, resource=Resource.MACHINES, hard=0)
    with pytest.raises(QuotaExceeded):
        recycle_bin.restore(binned, actor=owner)
    binned.refresh_from_db()
    assert binned.binned_at is not None


def test_its_name_is_free_meanwhile(binned: VM, ask: Any, owner: User, fake: Any) -> None:
    twin, _job = ask(owner)
    assert twin.name == binned.name
    assert twin.domain_name != binned.domain_name
    with pytest.raises(Invalid, match=r"bin\.name_taken"):
        recycle_bin.restore(binned, actor=owner)
    with pytest.raises(Invalid):
        recycle_bin.restore(binned, actor=owner, name="Not A Name")
    run_to_end(recycle_bin.restore(binned, actor=owner, name="web-old"))
    binned.refresh_from_db()
    assert (binned.name, binned.binned_at) == ("web-old", None)


def test_a_person_deletes_it_for_good(
    binned: VM, fake: FakeHypervisor, owner: User, team: Team
) -> None:
    run_to_end(recycle_bin.purge(binned, actor=owner))
    assert volumes(fake) == set()
    assert quotas.usage(team)[Resource.DISK_GIB] == 0
    binned.refresh_from_db()
    assert binned.deleted_at is not None
    assert list(recycle_bin.rows(owner)) == []
    with pytest.raises(Conflict, match=r"bin\.not_in"):
        recycle_bin.restore(binned, actor=owner)


def test_deleting_it_once_more_is_for_good(binned: VM, fake: FakeHypervisor, owner: User) -> None:
    run_to_end(lifecycle.request(binned, "delete", actor=owner))
    assert volumes(fake) == set()


def test_its_time_is_over(binned: VM, fake: FakeHypervisor) -> None:
    recycle_bin.purge_what_is_due()
    assert not Job.objects.filter(kind="vm.delete").exists()
    VM.objects.filter(pk=binned.pk).update(bin_until=timezone.now() - timedelta(seconds=1))
    fake.fail_next("delete_volume", UnknownVirtError("permission denied"))
    recycle_bin.purge_what_is_due()
    first = run_to_end(Job.objects.get(kind="vm.delete"))
    assert (first.state, first.actor) == (Job.State.FAILED, None)
    recycle_bin.purge_what_is_due()  # not again at once
    assert Job.objects.filter(kind="vm.delete").count() == 1
    VM.objects.filter(pk=binned.pk).update(bin_until=timezone.now() - timedelta(seconds=1))
    recycle_bin.purge_what_is_due()
    run_to_end(Job.objects.filter(kind="vm.delete").latest("created_at"))
    assert volumes(fake) == set()


def test_one_that_never_was_whole_goes_at_once(make_vm: Any, owner: User, team: Team) -> None:
    vm = make_vm(owner, team, observed="unknown")
    assert lifecycle.request(vm, "delete", actor=owner).kind == "vm.delete"
    lost = make_vm(owner, team, observed="missing")
    assert lifecycle.request(lost, "delete", actor=owner).kind == "vm.delete"


def test_who_may(
    binned: VM, owner: User, teammate: User, viewer: User, outsider: User, admin: User
) -> None:
    for person in (teammate, viewer):
        assert list(recycle_bin.rows(person)) == [binned]  # they see what the team has
        for act in (recycle_bin.restore, recycle_bin.purge):
            with pytest.raises(Forbidden):
                act(binned, actor=person)
        assert recycle_bin.purge_all(person) == (0, 0)
    assert list(recycle_bin.rows(outsider)) == []
    with pytest.raises(NotFound):
        recycle_bin.restore(binned, actor=outsider)
    with pytest.raises(Forbidden):
        recycle_bin.set_days(3, actor=owner)
    recycle_bin.set_days(3, actor=admin)
    with pytest.raises(Invalid):
        recycle_bin.set_days(0, actor=admin)
    assert AuditEntry.objects.filter(verb="site.bin_days").get().after == {"days": 3}


def test_a_failed_move_leaves_it_where_it_was(
    made: Made, fake: FakeHypervisor, owner: User
) -> None:
    vm = made(start=False)
    fake.set_autostart(vm.uuid, autostart=True)
    fake.fail_next("set_autostart", UnknownVirtError("no space left"))
    job = run_to_end(lifecycle.request(vm, "delete", actor=owner))
    assert job.state == Job.State.FAILED
    vm.refresh_from_db()
    assert vm.binned_at is None
    assert fake.domain(vm.uuid).autostart
    assert queries.page(owner, queries.ListQuery()).count == 1


class TestPages:
    def test_list_and_dialogs(
        self, binned: VM, owner: User, browser: Callable[[User], Client]
    ) -> None:
        client = browser(owner)
        page = client.get("/machines/bin/").content.decode()
        assert binned.name in page
        assert "10 GiB" in page
        assert "for 7 days" in page
        assert "/machines/bin/days/" not in page
        restore = client.get(f"/machines/bin/{binned.uuid}/?part=restore").content.decode()
        assert f'value="{binned.name}"' in restore
        purge = client.get(f"/machines/bin/{binned.uuid}/?part=purge").content.decode()
        assert f"kvmweb-{binned.uuid}-vda.qcow2" in purge
        assert "virsh -c qemu:///system undefine" in purge
        detail = client.get(f"/machines/{binned.uuid}/").content.decode()
        assert "It lies in the recycle bin" in detail

    def test_in_pages(
        self,
        binned: VM,
        made: Made,
        owner: User,
        viewer: User,
        browser: Callable[[User], Client],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The sum is of all; a dialog names what goes, and only to who may delete it."""
        second = made(name="second", start=False)
        run_to_end(lifecycle.request(second, "delete", actor=owner))
        monkeypatch.setattr("vms.views.recycle_bin.PAGE_SIZE", 1)
        first, last = (
            browser(owner).get(f"/machines/bin/?page={n}").content.decode() for n in (1, 2)
        )
        for vm, here in ((binned, (True, False)), (second, (False, True))):
            row = f'id="bin-{vm.uuid}"'
            assert (row in first, row in last) == here
        assert "Page 2 of 2" in last
        assert "20 GiB" in first
        dialog = browser(owner).get("/machines/bin/?part=empty").content.decode()
        assert binned.name in dialog
        assert "second" in dialog
        for_viewer = browser(viewer).get("/machines/bin/?part=empty").content.decode()
        assert binned.name not in for_viewer

    def test_restore_empty_and_days(
        self, binned: VM, owner: User, admin: User, browser: Callable[[User], Client]
    ) -> None:
        client = browser(owner)
        client.post(f"/machines/bin/{binned.uuid}/restore/", {"name": binned.name})
        run_to_end(Job.objects.get(kind="vm.take_back"))
        run_to_end(lifecycle.request(VM.objects.get(pk=binned.pk), "delete", actor=owner))
        client.post("/machines/bin/empty/")
        assert Job.objects.get(kind="vm.delete").vm == binned
        browser(admin).post("/machines/bin/days/", {"days": "30"})
        assert "for 30 days" in client.get("/machines/bin/").content.decode()

    def test_the_dialog_offers_both(
        self, made: Made, owner: User, browser: Callable[[User], Client]
    ) -> None:
        vm = made(start=False)
        text = presentation.machine(queries.one(owner, vm.uuid), owner).verb("delete").confirm
        assert "goes to the recycle bin" in text
        client = browser(owner)
        dialog = client.get(f"/machines/{vm.uuid}/?part=confirm&verb=delete").content.decode()
        assert 'name="purge"' in dialog
        client.post(f"/machines/{vm.uuid}/delete/", {"purge": "1"})
        assert Job.objects.latest("created_at").kind == "vm.delete"

    def test_api(self, binned: VM, owner: User, outsider: User, api: Callable[..., Any]) -> None:
        listed = api(owner).get("/bin").json()
        assert ([row["name"] for row in listed["items"]], listed["count"]) == ([binned.name], 1)
        assert api(owner).get("/bin?page=2").json() == {"items": [], "count": 1}
        assert api(outsider).get("/bin").json() == {"items": [], "count": 0}
        assert api(owner).get("/vms").json()["count"] == 0
        assert api(owner).get(f"/vms/{binned.uuid}").json()["bin_until"]
        answer = api(owner).post(f"/vms/{binned.uuid}/take-back", {})
        assert (answer.status_code, answer.json()["job"]["kind"]) == (202, "vm.take_back")


def test_the_bin_asks_no_query_for_each_machine(
    make_vm: Any,
    owner: User,
    team: Team,
    image: Image,
    django_assert_max_num_queries: Any,
    browser: Callable[[User], Client],
) -> None:
    now = timezone.now()
    for _ in range(12):
        make_vm(owner, team, observed="shutoff", binned_at=now, bin_until=now)
    with django_assert_max_num_queries(36):
        browser(owner).get("/machines/bin/")


def test_two_admins_who_set_rules_at_once_keep_both(admin: User) -> None:
    recycle_bin.set_days(9, actor=admin)
    other = MachineRules.objects.all()

    def between(execute: Any, sql: str, *rest: Any) -> Any:
        if sql.startswith(f'UPDATE "{MachineRules._meta.db_table}"') and '"bin_days"' in sql:
            with connection.cursor() as cursor:  # another admin, since this one read the row
                cursor.connection.execute("UPDATE vms_machinerules SET lease_bin_days = 3")
        return execute(sql, *rest)

    assert other.get().lease_bin_days != 3
    with connection.execute_wrapper(between):
        recycle_bin.set_days(20, actor=admin)
    row = other.get()
    assert (row.bin_days, row.lease_bin_days) == (20, 3)
