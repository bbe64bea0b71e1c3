"""What a machine was promised it gets, whatever becomes of the promise; and a team with machines
stays."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import transaction
from django.db.models import ProtectedError
from django.utils import timezone

from accounts import limits, quotas, rounds
from accounts.errors import QuotaExceeded
from accounts.models import QuotaGrant, QuotaLimit, Resource, Team, User
from hosts.virt.fake import FakeHypervisor
from jobs.models import Job
from tests.vms.conftest import run_to_end, run_until_parked, step_on
from vms import lifecycle, recount
from vms.models import VM

pytestmark = pytest.mark.django_db
Ask = Callable[..., tuple[VM, Job]]


def test_a_grant_that_ends_in_the_middle_of_a_create(
    fake: FakeHypervisor, ask: Ask, owner: User, team: Team
) -> None:
    """Nothing is destroyed: the machine is made, the team is over, and cannot grow."""
    QuotaLimit.objects.create(scope="team", team=team, resource=Resource.MACHINES, hard=0)
    now = timezone.now()
    grant = QuotaGrant.objects.create(
        team=team,
        resource=Resource.MACHINES,
        delta=1,
        starts_at=now - timedelta(days=2),
        expires_at=now + timedelta(days=1),
    )
    vm, job = ask(owner, start=False)
    step_on(job)  # begun, not over
    QuotaGrant.objects.filter(pk=grant.pk).update(expires_at=now - timedelta(seconds=1))
    rounds.run()
    with pytest.raises(QuotaExceeded):
        ask(owner, name="web-10", start=False)
    run_to_end(job)
    assert job.state == Job.State.SUCCEEDED
    assert VM.objects.in_use().get() == vm
    assert [(one.resource, one.by) for one in limits.over([team])] == [(Resource.MACHINES, 1)]
    assert recount.run(repair=False).differences == []


def test_a_team_is_not_deleted_while_its_machines_start(
    fake: FakeHypervisor, made: Callable[..., VM], owner: User, team: Team
) -> None:
    vm = made(start=False)
    VM.objects.filter(pk=vm.pk).update(first_boot=VM.FirstBoot.DONE)
    job = lifecycle.request(vm, "start", actor=owner)
    with pytest.raises(ProtectedError), transaction.atomic():
        team.delete()
    run_until_parked(job, "address")
    fake.guest_boots(vm.uuid)
    run_to_end(job)
    vm.refresh_from_db()
    assert (job.state, vm.observed) == (Job.State.SUCCEEDED, VM.Observed.RUNNING)
    assert quotas.usage(team)[Resource.RUNNING_MACHINES] == 1
    with pytest.raises(ProtectedError), transaction.atomic():
        team.delete()
