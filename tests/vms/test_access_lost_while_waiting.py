"""Who loses a machine while their request waits for its locks is refused, by whichever service
writes the job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection

from accounts.errors import Forbidden, NotFound
from accounts.models import MachineShare, Membership, Team, User
from jobs import registry
from jobs.models import Job
from tests.vms.conftest import run_to_end
from vms import lifecycle, recycle_bin
from vms.backups import services as backups
from vms.cloning import requests as cloning
from vms.hardware import requests as hardware
from vms.jobs.needs import NEEDS
from vms.models import VM
from vms.snapshots import requests as snapshots

Made = Callable[..., VM]
WAYS: dict[str, Callable[[VM, User], Any]] = {
    "start": lambda vm, actor: lifecycle.request(vm, "start", actor=actor),
    "delete": lambda vm, actor: lifecycle.request(vm, "delete", actor=actor, force=True),
    "resize": lambda vm, actor: hardware.resize(vm, actor=actor, vcpus=2, memory_mib=vm.memory_mib),
    "autostart": lambda vm, actor: hardware.set_autostart(vm, actor=actor, autostart=True),
    "disk": lambda vm, actor: hardware.add_disk(vm, actor=actor, size_gib=1),
    "snapshot": lambda vm, actor: snapshots.take(vm, actor=actor, name="before"),
    "backup": lambda vm, actor: backups.take(vm, actor=actor),
    "clone": lambda vm, actor: cloning.request_clone(
        vm, actor=actor, name="copy", team=actor.personal_team
    ),
}


@contextmanager
def at_its_transaction(act: Callable[[], object]) -> Iterator[None]:
    """Does ``act`` once, where the request begins its transaction: after it was let in."""
    done: list[bool] = []

    def look(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith("SAVEPOINT") and not done:
            done.append(True)
            act()
        return execute(sql, params, many, context)

    with connection.execute_wrapper(look):
        yield
    assert done, "it began no transaction"


@pytest.fixture
def shared(made: Made, outsider: User) -> tuple[VM, MachineShare]:
    vm = made(start=False)
    VM.objects.filter(pk=vm.pk).update(first_boot=VM.FirstBoot.DONE, seed_volume="")
    vm.refresh_from_db()
    return vm, MachineShare.objects.create(machine=vm.uuid, user=outsider, role="manager")


@pytest.mark.parametrize("way", WAYS)
def test_taken_away_while_it_waits(
    shared: tuple[VM, MachineShare], outsider: User, way: str
) -> None:
    vm, share = shared
    jobs, machines = Job.objects.count(), VM.objects.count()
    with at_its_transaction(share.delete), pytest.raises(NotFound):
        WAYS[way](vm, outsider)
    assert (Job.objects.count(), VM.objects.count()) == (jobs, machines)


@pytest.mark.parametrize("way", WAYS)
def test_lowered_while_it_waits(shared: tuple[VM, MachineShare], outsider: User, way: str) -> None:
    vm, share = shared
    jobs, machines = Job.objects.count(), VM.objects.count()
    lower = MachineShare.objects.filter(pk=share.pk)
    with at_its_transaction(lambda: lower.update(role="viewer")), pytest.raises(Forbidden):
        WAYS[way](vm, outsider)
    assert (Job.objects.count(), VM.objects.count()) == (jobs, machines)


def test_deactivated_while_it_waits(made: Made, owner: User) -> None:
    vm = made(start=False)
    jobs = Job.objects.count()
    off = User.objects.filter(pk=owner.pk)
    with at_its_transaction(lambda: off.update(is_active=False)), pytest.raises(NotFound):
        hardware.add_disk(vm, actor=owner, size_gib=1)
    assert Job.objects.count() == jobs


def test_restored_from_the_bin_by_nobody_who_lost_it(made: Made, owner: User, team: Team) -> None:
    vm = made(start=False)
    run_to_end(lifecycle.request(vm, "delete", actor=owner, force=True))
    vm.refresh_from_db()
    off = User.objects.filter(pk=owner.pk)
    with at_its_transaction(lambda: off.update(is_active=False)), pytest.raises(NotFound):
        recycle_bin.restore(vm, actor=owner)


def test_made_in_no_team_that_was_left(
    ask: Callable[..., tuple[VM, Job]], owner: User, team: Team
) -> None:
    left = Membership.objects.filter(team=team, user=owner)
    with at_its_transaction(left.delete), pytest.raises(NotFound):
        ask(owner)
    assert not VM.objects.exists()


def test_every_kind_says_what_it_needs() -> None:
    kinds = registry.all_kinds()
    of_machines = {kind for kind in kinds if kind.startswith("vm.")} | {
        "template.make",
        "host.leave",
    }
    assert of_machines == set(NEEDS)
    assert {kind: kinds[kind].needs for kind in NEEDS} == NEEDS
