"""Backups by the clock: when, how many stay, and who is told when there are none."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.test import Client
from django.utils import timezone

from accounts import notifications
from accounts.models import User
from hosts.virt.errors import UnknownVirtError
from hosts.virt.fake import FakeHypervisor
from jobs.models import Job
from tests.vms.backups.helpers import taken
from tests.vms.conftest import run_to_end
from vms import lifecycle
from vms.backups import schedule, services
from vms.backups.retention import to_keep
from vms.models import VM, Backup, BackupPlan


def test_by_the_clock_and_how_many_stay(vm: VM, fake: FakeHypervisor, owner: User) -> None:
    by_hand = taken(vm, owner)
    services.plan(vm, actor=owner, every_days=1, keep=2)
    for _ in range(4):
        BackupPlan.objects.update(next_at=timezone.now() - timedelta(seconds=1))
        schedule.rounds()
        schedule.rounds()  # not twice
        for job in Job.objects.active():
            run_to_end(job)
        for job in Job.objects.active():  # what the plan deletes
            run_to_end(job)
    kept = set(Backup.objects.filter(vm=vm).values_list("number", flat=True))
    assert kept == {by_hand.number, 4, 5}
    plan = BackupPlan.objects.get()
    assert timedelta(hours=23) < plan.next_at - timezone.now() <= timedelta(days=1)
    services.plan(vm, actor=owner, every_days=0, keep=2)
    assert not BackupPlan.objects.exists()


def test_a_round_that_cannot_be_begun_is_put_off(vm: VM, owner: User) -> None:
    services.plan(vm, actor=owner, every_days=7, keep=1)
    lifecycle.request(vm, "start", actor=owner)
    schedule.rounds()
    assert not Backup.objects.exists()
    assert BackupPlan.objects.get().next_at > timezone.now()


def test_a_round_that_is_late_moves_no_later_ones(
    vm: VM, fake: FakeHypervisor, owner: User
) -> None:
    services.plan(vm, actor=owner, every_days=1, keep=2)
    planned = timezone.now() - timedelta(hours=3)
    BackupPlan.objects.update(next_at=planned)
    schedule.rounds()
    assert BackupPlan.objects.get().next_at == planned + timedelta(days=1)


def test_who_gets_no_backups_is_told_once(
    vm: VM, fake: FakeHypervisor, owner: User, client: Client
) -> None:
    services.plan(vm, actor=owner, every_days=1, keep=2)
    lifecycle.request(vm, "start", actor=owner)
    planned = timezone.now() - schedule.TELL_AFTER + timedelta(minutes=1)
    BackupPlan.objects.update(next_at=planned)
    schedule.rounds()
    assert not notifications.of(owner).exists()
    client.force_login(owner)
    page = client.get(f"/machines/{vm.uuid}/?tab=backups").content.decode()
    assert "Could not be begun since" in page
    BackupPlan.objects.update(refused_since=timezone.now() - schedule.TELL_AFTER)
    for _ in range(2):
        BackupPlan.objects.update(next_at=timezone.now())
        schedule.rounds()
    told = notifications.of(owner).get()
    assert (told.code, told.url) == ("backup.put_off", f"/machines/{vm.uuid}/?tab=backups")
    # It is begun as soon as it can be, and then at its hour again.
    for job in Job.objects.active():
        run_to_end(job)
    BackupPlan.objects.update(next_at=timezone.now())
    schedule.rounds()
    plan = BackupPlan.objects.get()
    assert (plan.refused_since, plan.told) == (None, False)


def test_a_planned_backup_that_fails_is_told_of(vm: VM, fake: FakeHypervisor, owner: User) -> None:
    services.plan(vm, actor=owner, every_days=1, keep=2)
    schedule.rounds()
    fake.fail_next("download_volume", UnknownVirtError("no"))
    for job in Job.objects.active():
        run_to_end(job)
    assert notifications.of(owner).get().code == "backup.failed"


class TestWhatStays:
    @staticmethod
    def kept(*days_ago: float, last: int, daily: int = 0, weekly: int = 0) -> list[float]:
        sunday = datetime(2026, 11, 22, 23, 0, tzinfo=timezone.get_default_timezone())
        taken = [(n, sunday - timedelta(days=ago)) for n, ago in enumerate(days_ago)]
        found = to_keep(taken, last=last, daily=daily, weekly=weekly)
        return [days_ago[number] for number in sorted(found)]

    def test_the_last_ones(self) -> None:
        assert self.kept(0, 1, 2, 3, last=2) == [0, 1]
        assert self.kept(last=2, daily=2, weekly=2) == []

    def test_the_newest_of_each_day(self) -> None:
        assert self.kept(0, 0.1, 0.2, 1, 1.5, 4, 5, last=1, daily=3) == [0, 1, 4]

    def test_the_newest_of_each_week(self) -> None:
        # A week begins on Monday: six days before this Sunday is still the same.
        assert self.kept(0, 6, 7, 8, 14, 30, last=1, weekly=3) == [0, 7, 14]

    def test_together(self) -> None:
        days = [float(n) for n in range(40)]
        assert self.kept(*days, last=1, daily=3, weekly=3) == [0, 1, 2, 7, 14]

    def test_a_plan_deletes_the_others(self, vm: VM, owner: User) -> None:
        services.plan(vm, actor=owner, every_days=1, keep=1, keep_daily=2)
        for day in (3, 2, 1):
            row = taken(vm, None)
            Backup.objects.filter(pk=row.pk).update(created_at=timezone.now() - timedelta(days=day))
        taken(vm, None)
        for job in Job.objects.active():
            run_to_end(job)
        assert set(Backup.objects.values_list("number", flat=True)) == {3, 4}
