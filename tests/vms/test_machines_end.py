"""A machine with an end: extended within the rules, beyond them by a request; then stopped, and
later put into the recycle bin."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core import mail
from django.test import Client
from django.utils import timezone

from accounts import notifications, requests
from accounts.errors import Conflict, Forbidden, Invalid, NotFound
from accounts.models import AuditEntry, Notification, QuotaRequest, Resource, Team, User
from hosts.virt.errors import HostUnreachable, NoSpace, UnknownVirtError
from hosts.virt.fake import FakeHypervisor
from hosts.virt.spec import DomainState
from jobs import services as job_services
from jobs.models import Job
from tests.vms.conftest import run_to_end, run_until_parked
from vms import (
    lease_rules,
    leases,
    lifecycle,
    presentation,
    provisioning,
    queries,
    recycle_bin,
)
from vms.cloning import requests as cloning
from vms.lease_rules import Rulebook
from vms.models import VM, Flavor, LeaseRule, MachineRules

Made = Callable[..., VM]
DAY = timedelta(days=1)


@pytest.fixture
def rules(admin: User) -> None:
    """New machines last 10 days and can be extended to 30."""
    lease_rules.set_rule(actor=admin, default_days=10, max_days=30)


@pytest.fixture
def leased(rules: None, made: Made) -> VM:
    return made()


def over(vm: VM, by: timedelta = DAY) -> VM:
    """As if its end had passed."""
    VM.objects.filter(pk=vm.pk).update(
        ends_at=timezone.now() - by, created_at=timezone.now() - 11 * DAY
    )
    vm.refresh_from_db()
    return vm


def told(user: User) -> list[str]:
    rows = Notification.objects.filter(user=user).order_by("id")
    return [code for code in rows.values_list("code", flat=True) if code.startswith("lease.")]


def near(moment: datetime | None, expected: datetime) -> bool:
    return moment is not None and abs(moment - expected) < timedelta(minutes=1)


# --- rules ---------------------------------------------------------------------------------------
def test_without_rules_machines_have_no_end(made: Made) -> None:
    assert made().ends_at is None


def test_a_teams_rule_goes_before_a_sizes_and_that_before_the_sites(
    rules: None, admin: User, team: Team, small: Flavor
) -> None:
    def days(team_id: int = team.pk, flavor_id: int | None = small.pk) -> tuple[int, int]:
        terms = Rulebook.read().terms(team_id, flavor_id)
        return terms.default_days, terms.max_days

    assert days() == (10, 30)
    lease_rules.set_rule(actor=admin, flavor=small, default_days=3, max_days=None)
    assert days() == (3, 30)  # the longest is inherited
    lease_rules.set_rule(actor=admin, team=team, default_days=None, max_days=2)
    assert days() == (2, 2)  # never longer than the longest
    lease_rules.set_rule(actor=admin, team=team, default_days=0, max_days=0)
    assert days() == (0, 0)  # without end, which is not "inherited"
    assert days(flavor_id=None) == (0, 0)
    lease_rules.clear_rule(actor=admin, team=team)
    assert days() == (3, 30)
    assert days(flavor_id=None) == (10, 30)
    assert AuditEntry.objects.filter(verb="lease.clear_rule").count() == 1


@pytest.mark.parametrize("days", [(-1, None), (None, 10_000), (9, 3)])
def test_rules_that_make_no_sense_are_refused(days: tuple[Any, Any], admin: User) -> None:
    with pytest.raises(Invalid):
        lease_rules.set_rule(actor=admin, default_days=days[0], max_days=days[1])
    assert not LeaseRule.objects.exists()


def test_only_admins_set_rules(owner: User, team: Team) -> None:
    with pytest.raises(Forbidden):
        lease_rules.set_rule(actor=owner, team=team, default_days=0, max_days=0)
    with pytest.raises(Forbidden):
        lease_rules.clear_rule(actor=owner, team=team)


# --- making --------------------------------------------------------------------------------------
def test_a_new_machine_ends_as_the_rules_say(leased: VM) -> None:
    assert near(leased.ends_at, timezone.now() + 10 * DAY)


def test_who_makes_it_may_choose_within_the_rules(rules: None, ask: Any, owner: User) -> None:
    vm, _job = ask(owner, ends_at=timezone.now() + 25 * DAY)
    assert near(vm.ends_at, timezone.now() + 25 * DAY)
    for wrong in (timezone.now() + 31 * DAY, timezone.now() - DAY, timezone.now() + 3000 * DAY):
        with pytest.raises(Invalid) as caught:
            ask(owner, name="web-10", ends_at=wrong)
        assert set(caught.value.fields) == {"ends_at"}


def test_all_of_a_batch_and_a_clone_have_an_end(
    rules: None, made: Made, owner: User, team: Team, image: Any, small: Flavor
) -> None:
    wanted = {
        "actor": owner,
        "team": team,
        "name": "lab",
        "count": 3,
        "image": image,
        "flavor": small,
        "idempotency_key": "k",
    }
    batch = provisioning.request_batch(**wanted)
    assert all(near(vm.ends_at, timezone.now() + 10 * DAY) for vm in batch.machines.all())
    assert provisioning.request_batch(**wanted) == batch  # a moment later: the same
    source = made()
    clone, _job = cloning.request_clone(source, actor=owner, name="web-copy", start=False)
    assert near(clone.ends_at, timezone.now() + 10 * DAY)


# --- extending -----------------------------------------------------------------------------------
def test_one_click_goes_as_far_as_the_rules_let_it(leased: VM, owner: User) -> None:
    ends = [leases.extend(leased, actor=owner).ends_at for _ in range(2)]
    assert near(ends[0], timezone.now() + 20 * DAY)
    assert near(ends[1], timezone.now() + 30 * DAY)
    with pytest.raises(Conflict, match="at_latest"):
        leases.extend(leased, actor=owner)
    assert AuditEntry.objects.filter(verb="vm.extend").count() == 2


def test_the_same_click_twice_extends_once(leased: VM, owner: User) -> None:
    until = presentation.machine(queries.one(owner, leased.uuid), owner).lease.extends_to  # type: ignore[union-attr]
    for _ in range(2):
        assert leases.extend(leased, actor=owner, until=until).ends_at == until
    assert AuditEntry.objects.filter(verb="vm.extend").count() == 1


def test_who_may(
    leased: VM, owner: User, teammate: User, viewer: User, outsider: User, admin: User
) -> None:
    for person, refusal in ((teammate, Forbidden), (viewer, Forbidden), (outsider, NotFound)):
        with pytest.raises(refusal):
            leases.extend(leased, actor=person)
        with pytest.raises(refusal):
            leases.set_end(leased, actor=person, ends_at=None)
        with pytest.raises(refusal):
            leases.ask_longer(leased, actor=person, until=timezone.now() + 90 * DAY, reason="x")
    # The rules bind the machine's people, not an admin.
    assert near(
        leases.set_end(leased, actor=admin, ends_at=timezone.now() + 99 * DAY).ends_at,
        timezone.now() + 99 * DAY,
    )
    assert leases.set_end(leased, actor=admin, ends_at=None).ends_at is None


def test_an_end_is_moved_within_the_rules(leased: VM, owner: User) -> None:
    earlier = timezone.now() + 2 * DAY
    assert leases.set_end(leased, actor=owner, ends_at=earlier).ends_at == earlier
    for wrong in (None, timezone.now() + 31 * DAY, timezone.now() - DAY):
        with pytest.raises(Invalid):
            leases.set_end(leased, actor=owner, ends_at=wrong)


def test_without_a_longest_it_may_last_without_end(admin: User, made: Made, owner: User) -> None:
    lease_rules.set_rule(actor=admin, default_days=10, max_days=None)
    vm = made()
    assert leases.set_end(vm, actor=owner, ends_at=None).ends_at is None
    with pytest.raises(Conflict, match=r"lease\.none"):
        leases.extend(vm, actor=owner)


# --- asking for more -----------------------------------------------------------------------------
def test_more_time_is_asked_for_decided_and_given_once(
    leased: VM, owner: User, admin: User, teammate: User
) -> None:
    until = timezone.now() + 90 * DAY
    asked = leases.ask_longer(leased, actor=owner, until=until, reason="the course goes on")
    assert asked.machine == leased.uuid
    with pytest.raises(Conflict, match="time_asked"):
        leases.ask_longer(leased, actor=owner, until=until, reason="again")
    with pytest.raises(Forbidden):
        requests.approve(asked, actor=owner, version=asked.version, granted={}, ends_at=None)
    less = timezone.now() + 60 * DAY
    requests.approve(asked, actor=admin, version=asked.version, granted={}, ends_at=less)
    leased.refresh_from_db()
    asked.refresh_from_db()
    assert (leased.ends_at, asked.granted_until, asked.until) == (less, less, until)
    assert Notification.objects.filter(user=owner, code="quota.approved_in_part").exists()
    with pytest.raises(Conflict, match="is_approved"):
        requests.approve(asked, actor=admin, version=asked.version, granted={}, ends_at=None)
    with pytest.raises(Conflict, match="at_latest"):
        leases.extend(leased, actor=owner)


def test_it_never_approves_itself(leased: VM, owner: User, admin: User) -> None:
    step = {Resource.VCPUS: 8}
    requests.set_rule(actor=admin, step=step, quiet_days=0, grant_days=30, escalate_hours=0)
    until = timezone.now() + 90 * DAY
    asked = leases.ask_longer(leased, actor=owner, until=until, reason="x")
    assert asked.state == QuotaRequest.State.OPEN


def test_what_was_given_more_meanwhile_gets_no_less_by_a_request(
    leased: VM, owner: User, admin: User
) -> None:
    asked = leases.ask_longer(
        leased, actor=owner, until=timezone.now() + 40 * DAY, reason="Tests go on"
    )
    leases.set_end(leased, actor=admin, ends_at=None)
    requests.approve(asked, actor=admin, version=asked.version, granted={}, ends_at=None)
    leased.refresh_from_db()
    assert leased.ends_at is None


def test_what_is_gone_or_moved_gets_no_time(leased: VM, owner: User, admin: User) -> None:
    until = timezone.now() + 90 * DAY
    asked = leases.ask_longer(leased, actor=owner, until=until, reason="x")
    VM.objects.filter(pk=leased.pk).update(team=owner.personal_team)
    with pytest.raises(Conflict, match="machine_gone"):
        requests.approve(asked, actor=admin, version=asked.version, granted={}, ends_at=None)
    asked.refresh_from_db()
    assert asked.state == QuotaRequest.State.OPEN


@pytest.mark.parametrize("until", [None, timedelta(days=-1), timedelta(days=5), timedelta(9999)])
def test_wrong_ends_are_refused(leased: VM, owner: User, until: timedelta | None) -> None:
    moment = timezone.now() + until if until is not None else None
    with pytest.raises(Invalid) as caught:
        leases.ask_longer(leased, actor=owner, until=moment, reason="x")
    assert set(caught.value.fields) == {"until"}


# --- the clock -----------------------------------------------------------------------------------
def test_its_people_are_warned_a_week_and_a_day_before(leased: VM, owner: User) -> None:
    leases.rounds()
    assert told(owner) == []
    for left, expected in ((6.5, 1), (6, 1), (0.9, 2), (0.5, 2)):
        VM.objects.filter(pk=leased.pk).update(ends_at=timezone.now() + left * DAY)
        leases.rounds()
        assert told(owner) == ["lease.ends"] * expected
    assert len(notifications.text(Notification.objects.latest("id"))) > 40


def test_a_short_one_is_not_warned_of_at_once(rules: None, ask: Any, owner: User) -> None:
    ask(owner, ends_at=timezone.now() + 3 * DAY)
    leases.rounds()
    assert told(owner) == []


def test_at_its_end_it_is_asked_to_shut_down_then_switched_off(
    leased: VM, fake: FakeHypervisor, owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.ignores_power_button.add(leased.uuid)
    over(leased)
    leases.rounds()
    job = Job.objects.get(kind=leases.STOP)
    leases.rounds()  # while it is at work
    assert Job.objects.filter(kind=leases.STOP).count() == 1
    assert told(owner) == ["lease.over"]
    run_until_parked(job, "guest")
    assert fake.domain(leased.uuid).state is DomainState.RUNNING  # the guest has a while
    monkeypatch.setattr("vms.rule_stops.PATIENCE", timedelta(0))
    run_to_end(job)
    assert job.state == Job.State.SUCCEEDED
    assert fake.domain(leased.uuid).state is DomainState.SHUTOFF
    leased.refresh_from_db()
    assert (leased.desired, leased.binned_at) == (VM.Desired.STOPPED, None)
    with pytest.raises(Conflict, match="time_over"):
        lifecycle.request(leased, "start", actor=owner)


def test_what_cannot_be_asked_is_switched_off_too(
    leased: VM, fake: FakeHypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    over(leased)
    fake.fail_next("shutdown", UnknownVirtError("no"), times=9)
    leases.rounds()
    job = Job.objects.get(kind=leases.STOP)
    run_until_parked(job, "guest")
    assert job.steps.get(key="ask").note["code"] == "vm.not_asked"
    assert fake.domain(leased.uuid).state is DomainState.RUNNING  # somebody may be in it
    monkeypatch.setattr("vms.rule_stops.PATIENCE", timedelta(0))
    assert run_to_end(job).state == Job.State.SUCCEEDED
    assert fake.domain(leased.uuid).state is DomainState.SHUTOFF


def test_nobody_keeps_it_running_by_cancelling(
    leased: VM, fake: FakeHypervisor, owner: User
) -> None:
    fake.ignores_power_button.add(leased.uuid)
    over(leased)
    leases.rounds()
    job = run_until_parked(Job.objects.get(kind=leases.STOP), "guest")
    with pytest.raises(Conflict, match="not_cancellable"):
        job_services.cancel(job, actor=owner)


def test_extended_after_it_was_asked_it_is_not_switched_off(
    leased: VM, fake: FakeHypervisor, owner: User
) -> None:
    fake.ignores_power_button.add(leased.uuid)
    over(leased)
    leases.rounds()
    job = run_until_parked(Job.objects.get(kind=leases.STOP), "guest")
    leases.extend(leased, actor=owner)
    assert run_to_end(job).state == Job.State.SUCCEEDED  # at once: nothing is waited for
    assert fake.domain(leased.uuid).state is DomainState.RUNNING
    leased.refresh_from_db()
    assert leased.desired == VM.Desired.RUNNING


@pytest.fixture
def suspended(leased: VM, fake: FakeHypervisor, owner: User) -> VM:
    run_to_end(lifecycle.request(leased, "suspend", actor=owner))
    return over(leased)


def test_a_suspended_one_is_saved_with_its_memory(
    suspended: VM, fake: FakeHypervisor, owner: User
) -> None:
    leases.rounds()
    job = run_to_end(Job.objects.get(kind=leases.STOP))
    assert (job.state, fake.calls["force_off"], fake.calls["shutdown"]) == ("succeeded", 0, 0)
    suspended.refresh_from_db()
    assert (suspended.observed, suspended.saved) == (VM.Observed.SHUTOFF, True)
    assert told(owner) == ["lease.over"]
    assert "memory is saved" in notifications.text(Notification.objects.latest("id"))
    leases.extend(suspended, actor=owner)
    run_to_end(lifecycle.request(suspended, "start", actor=owner))
    assert fake.domain(suspended.uuid).state is DomainState.RUNNING


def test_one_that_cannot_be_saved_is_switched_off_after_three_days_and_told_of_before(
    suspended: VM, fake: FakeHypervisor, owner: User
) -> None:
    fake.fail_next("save", NoSpace("full"), times=9)
    stops = Job.objects.filter(kind=leases.STOP)
    for day in range(leases.SAVE_TRIES - 1):
        for _minute in range(2):
            leases.rounds()
            for job in Job.objects.active():
                assert run_to_end(job).state == Job.State.FAILED
        assert stops.count() == day + 1  # once a day: each try may fill its host's disk
        assert fake.domain(suspended.uuid).state is DomainState.PAUSED
        stops.update(finished_at=timezone.now() - timedelta(hours=25))
    words = [notifications.text(row) for row in Notification.objects.order_by("id")]
    assert told(owner) == ["lease.over", "lease.not_saved", "lease.not_saved"]
    assert "its memory is lost" in words[-1]
    suspended.refresh_from_db()
    assert suspended.fault_code == NoSpace.code
    leases.rounds()
    job = run_to_end(stops.latest("created_at"))
    assert (job.state, job.warning_code) == (Job.State.SUCCEEDED, "vm.not_saved")
    assert fake.domain(suspended.uuid).state is DomainState.SHUTOFF


def test_what_cannot_be_stopped_is_left_for_a_while(
    leased: VM, fake: FakeHypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vms.rule_stops.PATIENCE", timedelta(0))
    over(leased)
    fake.ignores_power_button.add(leased.uuid)
    fake.fail_next("force_off", UnknownVirtError("no"), times=9)
    for _ in range(3):
        leases.rounds()
        for job in Job.objects.active():
            assert run_to_end(job).state == Job.State.FAILED
    stops = Job.objects.filter(kind=leases.STOP)
    assert stops.count() == 1
    stops.update(finished_at=timezone.now() - timedelta(hours=1))
    leases.rounds()
    assert stops.count() == 2


def test_extended_in_the_last_moment_it_runs_on(
    leased: VM, fake: FakeHypervisor, owner: User
) -> None:
    over(leased)
    leases.rounds()
    leases.extend(leased, actor=owner)
    run_to_end(Job.objects.get(kind=leases.STOP))
    assert fake.domain(leased.uuid).state is DomainState.RUNNING


def test_however_it_came_to_run_it_is_stopped_again(
    leased: VM, fake: FakeHypervisor, owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vms.rule_stops.PATIENCE", timedelta(0))
    over(leased)
    leases.rounds()
    run_to_end(Job.objects.get(kind=leases.STOP))
    fake.start(leased.uuid)  # by virsh
    VM.objects.filter(pk=leased.pk).update(observed=VM.Observed.RUNNING)
    leases.rounds()
    run_to_end(Job.objects.filter(kind=leases.STOP).latest("created_at"))
    assert fake.domain(leased.uuid).state is DomainState.SHUTOFF
    assert told(owner) == ["lease.over"]  # told once


def test_one_that_is_off_is_told_of_and_extended_starts_again(
    rules: None, made: Made, owner: User
) -> None:
    vm = over(made(start=False))
    leases.rounds()
    assert not Job.objects.filter(kind=leases.STOP).exists()
    assert told(owner) == ["lease.over"]
    vm.refresh_from_db()
    leases.extend(vm, actor=owner)
    vm.refresh_from_db()
    assert vm.lease_over_at is None
    run_to_end(
        lifecycle.request(vm, "force_off", actor=owner)
    ) if vm.observed == "running" else None
    lifecycle.request(vm, "start", actor=owner)


def test_long_after_its_end_it_goes_into_the_bin_and_can_be_restored(
    rules: None, made: Made, owner: User
) -> None:
    vm = over(made(start=False))
    leases.rounds()
    days = MachineRules.current().lease_bin_days
    VM.objects.filter(pk=vm.pk).update(lease_over_at=timezone.now() - (days - 1) * DAY)
    leases.rounds()
    assert not Job.objects.filter(kind="vm.bin").exists()
    VM.objects.filter(pk=vm.pk).update(lease_over_at=timezone.now() - days * DAY)
    leases.rounds()
    leases.rounds()
    run_to_end(Job.objects.get(kind="vm.bin"))
    vm.refresh_from_db()
    assert vm.binned_at is not None
    assert told(owner) == ["lease.over", "lease.binned"]
    run_to_end(recycle_bin.restore(vm, actor=owner))
    leases.rounds()  # not back into the bin at once
    assert Job.objects.filter(kind="vm.bin").count() == 1


@pytest.mark.parametrize("parked", [True, False])
def test_extended_while_it_waits_for_the_bin_it_stays(
    parked: bool, leased: VM, fake: FakeHypervisor, owner: User
) -> None:
    run_to_end(lifecycle.request(leased, "force_off", actor=owner))
    over(leased)
    leases.rounds()
    VM.objects.filter(pk=leased.pk).update(lease_over_at=timezone.now() - 60 * DAY)
    leases.rounds()
    job = Job.objects.get(kind="vm.bin")
    if parked:
        fake.fail_next("force_off", HostUnreachable("away"))
        run_until_parked(job, "host")
    leases.extend(leased, actor=owner)
    run_to_end(job)
    leased.refresh_from_db()
    assert (job.state, leased.binned_at, leased.fault_code) == (Job.State.CANCELLED, None, "")
    assert near(leased.ends_at, timezone.now() + 10 * DAY)


def test_what_is_not_known_to_be_off_is_never_binned(rules: None, made: Made) -> None:
    vm = over(made(start=False))
    long_ago = timezone.now() - 99 * DAY
    for observed in ("missing", "unknown", "running"):
        VM.objects.filter(pk=vm.pk).update(observed=observed, lease_over_at=long_ago)
        leases.bin_what_is_long_over()
    assert not Job.objects.filter(kind="vm.bin").exists()


def test_machines_that_are_there_keep_having_no_end(made: Made, admin: User) -> None:
    vm = made()
    lease_rules.set_rule(actor=admin, default_days=1, max_days=1)
    leases.rounds()
    vm.refresh_from_db()
    assert (vm.ends_at, vm.lease_over_at) == (None, None)


def test_managers_are_told_where_the_owner_is_gone(
    leased: VM, owner: User, make_user: Any, team: Team
) -> None:
    heir = make_user("heir")
    team.memberships.create(user=heir, role="manager")
    User.objects.filter(pk=owner.pk).update(is_active=False)
    over(leased)
    leases.rounds()
    assert told(heir) == ["lease.over"]


def test_mail_says_when(leased: VM, owner: User, settings: Any) -> None:
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    over(leased)
    leases.rounds()
    notifications.send_due_mail()
    assert leased.name in mail.outbox[0].body


# --- API and pages -------------------------------------------------------------------------------
def test_the_api_extends_sets_and_asks(leased: VM, owner: User, teammate: User, api: Any) -> None:
    speaker, path = api(owner), f"/vms/{leased.uuid}"
    body = speaker.get(path).json()
    assert body["latest_end_at"]
    assert body["extends_to"] > body["ends_at"]
    answer = speaker.post(f"{path}/extend", {})
    assert answer.status_code == 200
    assert answer.json()["ends_at"] > body["ends_at"]
    far = (timezone.now() + 300 * DAY).isoformat()
    refused = speaker.post(f"{path}/extend", {"until": far})
    assert (refused.status_code, refused.json()["code"]) == (422, "lease.beyond")
    assert speaker.patch(path, {"ends_at": None}).status_code == 422
    soon = (timezone.now() + 2 * DAY).isoformat()
    assert speaker.patch(path, {"ends_at": soon, "description": "d"}).json()["description"] == "d"
    assert speaker.patch(path, {"description": "e"}).json()["ends_at"] is not None
    asked = speaker.post(f"{path}/time-requests", {"until": far, "reason": "more"})
    assert asked.status_code == 201
    assert asked.json()["machine"] == str(leased.uuid)
    edited = speaker.patch(f"/requests/{asked.json()['id']}", {"reason": "why", "until": far})
    assert edited.json()["reason"] == "why"
    assert api(teammate).post(f"{path}/extend", {}).status_code == 403
    assert speaker.get("/vms?sort=-ends").status_code == 200
    assert speaker.get("/leases/terms").json() == {"default_days": 10, "max_days": 30}


def test_the_api_of_rules(admin: User, owner: User, team: Team, small: Flavor, api: Any) -> None:
    speaker = api(admin)
    body = {"default_days": 5, "max_days": 9, "bin_days": 3}
    assert speaker.put("/leases/rules", body).json()["bin_days"] == 3
    assert speaker.put(f"/leases/rules/teams/{team.pk}", {"max_days": 0}).status_code == 200
    rules = speaker.put(f"/leases/rules/flavors/{small.pk}", {"default_days": 1}).json()
    assert rules["teams"] == [{"team": team.name, "default_days": None, "max_days": 0}]
    assert rules["flavors"][0]["default_days"] == 1
    assert speaker.delete(f"/leases/rules/teams/{team.pk}").json()["teams"] == []
    assert speaker.delete(f"/leases/rules/flavors/{small.pk}").json()["flavors"] == []
    assert speaker.put("/leases/rules", body | {"bin_days": 0}).status_code == 422
    assert speaker.put("/leases/rules/teams/99999", {}).status_code == 404
    assert api(owner).get("/leases/rules").status_code == 403


def test_the_pages(leased: VM, owner: User, admin: User, browser: Callable[[User], Client]) -> None:
    client = browser(owner)
    page = f"/machines/{leased.uuid}/"
    assert "can be extended until" in client.get(page).content.decode()
    dialog = client.get(f"{page}time/").content.decode()
    assert "Extend until" in dialog
    assert client.post(f"{page}time/extend/", {"until": "nonsense"}).status_code == 302
    leased.refresh_from_db()
    assert near(leased.ends_at, timezone.now() + 20 * DAY)
    latest = timezone.localdate(leased.created_at + 30 * DAY)
    assert client.post(f"{page}time/end/", {"day": latest.isoformat()}).status_code == 302
    leased.refresh_from_db()
    assert timezone.localdate(leased.ends_at) == latest
    for day in ("", "2020-01-01", "x", (latest + DAY).isoformat(), "9999-99-99"):
        assert client.post(f"{page}time/end/", {"day": day}).status_code == 422
    day = (latest + 30 * DAY).isoformat()
    assert client.post(f"{page}time/ask/", {"day": day, "reason": "more"}).status_code == 302
    asked = QuotaRequest.objects.get()
    for person in (owner, admin):
        body = browser(person).get(f"/requests/{asked.pk}/").content.decode()
        assert f"asks for more time for {leased.name}" in body
    assert leased.name in browser(admin).get("/requests/?show=waiting").content.decode()
    assert client.get(f"/requests/{asked.pk}/edit/").status_code == 200
    data = {"version": asked.version, "ends": "", "decision": "approve"}
    assert browser(admin).post(f"/requests/{asked.pk}/decide/", data).status_code == 302
    leased.refresh_from_db()
    assert leased.ends_at == asked.until
    over(leased)
    assert "Its time was over" in client.get(page).content.decode()
    assert "time over" in client.get("/machines/").content.decode()


def test_the_create_form_says_when_it_ends(
    rules: None,
    owner: User,
    image: Any,
    small: Flavor,
    network: Any,
    browser: Callable[..., Client],
) -> None:
    client = browser(owner)
    assert "You can extend it until" in client.get("/machines/new/").content.decode()
    data = {
        "name": "web-1",
        "image": image.pk,
        "flavor": small.pk,
        "network": "default",
        "copy": "linked",
    }
    far = (timezone.localdate() + 99 * DAY).isoformat()
    assert (
        "Ask for more time"
        in client.post("/machines/new/preview/", data | {"ends_on": far}).content.decode()
    )
    assert client.post("/machines/new/", data | {"ends_on": far}).status_code == 422
    last = timezone.localdate() + 30 * DAY
    made = client.post("/machines/new/", data | {"ends_on": last.isoformat()})
    assert made.status_code == 302, made.content.decode()
    assert timezone.localdate(VM.objects.get().ends_at) == last


def test_the_page_of_rules(admin: User, owner: User, team: Team, browser: Any) -> None:
    client = browser(admin)
    data = {"default_days": "10", "max_days": "30", "bin_days": "5"}
    assert client.post("/admin/leases/", data).status_code == 302
    assert client.post("/admin/leases/", data | {"default_days": "40"}).status_code == 422
    about = {"about": f"team:{team.pk}", "default_days": "", "max_days": "0"}
    assert client.post("/admin/leases/override/", about).status_code == 302
    page = client.get("/admin/leases/").content.decode()
    assert team.name in page
    assert client.post("/admin/leases/override/", {"about": "team:999"}).status_code == 422
    client.post("/admin/leases/override/", {"about": f"team:{team.pk}", "clear": "1"})
    assert not LeaseRule.objects.filter(team=team).exists()
    assert browser(owner).get("/admin/leases/").status_code == 403


def test_a_list_asks_the_rules_once(
    rules: None, ask: Any, owner: User, django_assert_max_num_queries: Any
) -> None:
    for number in range(3):
        ask(owner, name=f"web-{number}")
    page = queries.page(owner, queries.ListQuery())
    with django_assert_max_num_queries(6):
        views = presentation.machines(page.vms, owner)
    assert all(view.lease for view in views)
