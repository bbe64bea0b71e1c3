"""Start, shut down, force off, reboot, reset, suspend, resume: by whom, when, and what happens."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.utils import timezone

from accounts import quotas
from accounts.errors import Busy, Conflict, Forbidden, NotFound, QuotaExceeded
from accounts.models import AuditEntry, QuotaLimit, Resource, Team, User
from hosts.models import Host
from hosts.virt.errors import UnknownVirtError
from hosts.virt.fake import FakeHypervisor
from hosts.virt.spec import DomainState
from jobs.models import Job
from tests.vms.conftest import run_to_end, run_until_parked, step_on, volumes
from vms import lifecycle, presentation
from vms.cloning import requests as cloning
from vms.hardware import requests as hardware
from vms.models import VM
from vms.snapshots import requests as snapshots

Made = Callable[..., VM]


def do(vm: VM, verb: str, actor: User) -> Job:
    return run_to_end(lifecycle.request(vm, verb, actor=actor))


def observed(vm: VM) -> str:
    vm.refresh_from_db()
    return vm.observed


class TestWork:
    def test_start(self, made: Made, fake: FakeHypervisor, owner: User, team: Team) -> None:
        vm = made(start=False)
        job = lifecycle.request(vm, "start", actor=owner)
        assert quotas.usage(team)[Resource.RUNNING_MACHINES] == 1  # counted from the request on
        run_until_parked(job, "address")
        assert fake.domain(vm.uuid).state is DomainState.RUNNING
        assert observed(vm) == "running"
        assert vm.desired == "running"
        # The first start is the first boot: the seed is watched, and goes.
        fake.guest_boots(vm.uuid)
        VM.objects.filter(pk=vm.pk).update(first_boot="done")
        run_to_end(job)
        assert volumes(fake) == {f"kvmweb-{vm.uuid}-vda.qcow2"}

    def test_a_later_start_watches_no_first_boot(
        self, made: Made, fake: FakeHypervisor, owner: User
    ) -> None:
        vm = made()
        do(vm, "force_off", owner)
        job = step_on(lifecycle.request(vm, "start", actor=owner))
        assert job.state == Job.State.SUCCEEDED

    def test_shutdown_of_a_guest_that_obeys(
        self, made: Made, fake: FakeHypervisor, owner: User, team: Team
    ) -> None:
        vm = made()
        job = do(vm, "shutdown", owner)
        assert job.state == Job.State.SUCCEEDED
        assert job.warning_code == ""
        assert observed(vm) == "shutoff"
        assert vm.desired == "stopped"
        assert quotas.usage(team)[Resource.RUNNING_MACHINES] == 0
        assert quotas.usage(team)[Resource.MACHINES] == 1

    def test_force_off(self, made: Made, fake: FakeHypervisor, owner: User, team: Team) -> None:
        vm = made()
        do(vm, "force_off", owner)
        assert observed(vm) == "shutoff"
        assert quotas.usage(team)[Resource.RUNNING_VCPUS] == 0

    def test_suspend_and_resume(self, made: Made, fake: FakeHypervisor, owner: User) -> None:
        vm = made()
        do(vm, "suspend", owner)
        assert observed(vm) == "paused"
        do(vm, "resume", owner)
        assert observed(vm) == "running"

    @pytest.mark.parametrize("verb", ["reboot", "reset"])
    def test_restart(self, made: Made, fake: FakeHypervisor, owner: User, verb: str) -> None:
        vm = made()
        job = do(vm, verb, owner)
        assert job.state == Job.State.SUCCEEDED
        assert fake.calls[verb] == 1
        assert observed(vm) == "running"

    def test_it_is_audited_and_in_the_timeline(
        self, made: Made, fake: FakeHypervisor, owner: User
    ) -> None:
        vm = made()
        do(vm, "force-off", owner)  # as addresses write it
        entry = AuditEntry.objects.get(verb="vm.force_off")
        assert entry.actor == owner
        assert entry.before == {"state": "running"}
        kinds = list(vm.events.values_list("kind", flat=True)[:3])
        assert kinds == ["job.succeeded", "state.shutoff", "asked"]


class TestGuestThatIgnoresThePowerButton:
    def test_force_off_overrules_the_shutdown(
        self, made: Made, fake: FakeHypervisor, owner: User
    ) -> None:
        vm = made()
        fake.ignores_power_button.add(vm.uuid)
        asked = run_until_parked(lifecycle.request(vm, "shutdown", actor=owner), "guest")
        task = presentation.task(asked)
        assert task.word == "Shutting down"
        assert not task.guest_ignores
        allowed = lifecycle.allowed_verbs(vm, owner)
        assert allowed["force_off"] is None
        assert allowed["start"] == allowed["reboot"] == "vm.why.shutting_down"
        Job.objects.filter(pk=asked.pk).update(started_at=timezone.now() - timedelta(seconds=61))
        asked.refresh_from_db()
        assert presentation.task(asked).guest_ignores
        vm.refresh_from_db()
        force = presentation.machine(vm, owner).verb("force_off")
        assert "not yet written to disk is lost" in force.confirm
        do(vm, "force_off", owner)
        asked.refresh_from_db()
        assert asked.state == Job.State.SUCCEEDED
        assert observed(vm) == "shutoff"

    def test_after_long_it_ends_with_a_warning(
        self, made: Made, fake: FakeHypervisor, owner: User
    ) -> None:
        vm = made()
        fake.ignores_power_button.add(vm.uuid)
        job = run_until_parked(lifecycle.request(vm, "shutdown", actor=owner), "guest")
        old = (timezone.now() - timedelta(minutes=11)).isoformat()
        Job.objects.filter(pk=job.pk).update(data={"asked_at": old})
        run_to_end(job)
        assert job.state == Job.State.SUCCEEDED
        assert job.warning_code == "vm.shutdown_ignored"
        assert observed(vm) == "running"


class TestRefused:
    @pytest.mark.parametrize(
        ("state", "possible"),
        [
            (
                "running",
                {"shutdown", "force_off", "reboot", "reset", "suspend", "save", "nmi", "delete"},
            ),
            ("paused", {"resume", "force_off", "reset", "save", "nmi", "delete"}),
            ("shutoff", {"start", "start_paused", "delete"}),
            ("crashed", {"start", "start_paused", "force_off", "delete"}),
            ("missing", {"delete"}),
            ("unknown", {"delete"}),
        ],
    )
    def test_by_state(self, vm: VM, owner: User, state: str, possible: set[str]) -> None:
        VM.objects.filter(pk=vm.pk).update(observed=state)
        vm.refresh_from_db()
        allowed = lifecycle.allowed_verbs(vm, owner)
        assert {verb for verb, why in allowed.items() if why is None} == possible
        view = presentation.machine(vm, owner)
        assert all(v.allowed or (v.why and "Please tell an admin" not in v.why) for v in view.verbs)
        for verb in set(lifecycle.VERBS) - possible:
            with pytest.raises(Conflict, match=r"vm\.why\."):
                lifecycle.request(vm, verb, actor=owner)
        assert not Job.objects.exists()

    def test_by_person(
        self, vm: VM, owner: User, teammate: User, viewer: User, outsider: User
    ) -> None:
        with pytest.raises(Forbidden):
            lifecycle.request(vm, "shutdown", actor=viewer)
        with pytest.raises(NotFound):
            lifecycle.request(vm, "shutdown", actor=outsider)
        with pytest.raises(Forbidden):
            lifecycle.request(vm, "delete", actor=teammate, force=True)
        assert lifecycle.allowed_verbs(vm, teammate)["delete"] == "vm.why.not_allowed"
        assert lifecycle.request(vm, "shutdown", actor=teammate).kind == "vm.shutdown"

    def test_while_something_else_is_done(self, vm: VM, owner: User) -> None:
        lifecycle.request(vm, "suspend", actor=owner)
        assert set(lifecycle.allowed_verbs(vm, owner).values()) == {"vm.why.busy"}
        with pytest.raises(Conflict):
            lifecycle.request(vm, "force_off", actor=owner)

    def test_on_a_host_that_is_away(self, vm: VM, owner: User, host: Host) -> None:
        Host.objects.filter(pk=host.pk).update(
            reach=Host.Reach.DOWN, reach_since=timezone.now() - timedelta(minutes=5)
        )
        vm = VM.objects.get(pk=vm.pk)
        allowed = lifecycle.allowed_verbs(vm, owner)
        assert allowed.pop("delete") is None
        assert set(allowed.values()) == {"vm.why.host_down"}
        view = presentation.machine(vm, owner)
        assert "alpha" in view.host_down
        assert view.state.css == "state-unknown"
        assert view.state.word == "Running"

    def test_an_unknown_verb(self, vm: VM, owner: User) -> None:
        with pytest.raises(Conflict, match="verb_unknown"):
            lifecycle.request(vm, "explode", actor=owner)

    def test_a_start_past_the_quota(
        self, made: Made, fake: FakeHypervisor, owner: User, team: Team
    ) -> None:
        vm = made(start=False)
        QuotaLimit.objects.create(
            scope="team", team=team, resource=Resource.RUNNING_MACHINES, hard=0
        )
        with pytest.raises(QuotaExceeded):
            lifecycle.request(vm, "start", actor=owner)
        assert quotas.usage(team)[Resource.RUNNING_MACHINES] == 0
        assert not Job.objects.filter(kind="vm.start").exists()

    def test_a_race_for_the_last_look(self, made: Made, fake: FakeHypervisor, owner: User) -> None:
        """Two people press at once: one job, and the other hears who was quicker."""
        vm = made()
        stale = VM.objects.get(pk=vm.pk)
        lifecycle.request(vm, "suspend", actor=owner)
        with pytest.raises((Busy, Conflict)):
            lifecycle.request(stale, "reset", actor=owner)


class TestFails:
    def test_a_start_that_fails_gives_its_quota_back_and_says_why(
        self, made: Made, fake: FakeHypervisor, owner: User, team: Team
    ) -> None:
        vm = made(start=False)
        fake.fail_next("start", UnknownVirtError("qemu fell over"))
        job = do(vm, "start", owner)
        assert (job.state, job.error_code) == (Job.State.FAILED, "virt.unknown")
        vm.refresh_from_db()
        assert vm.desired == "stopped"
        assert vm.fault_code == "virt.unknown"
        assert presentation.machine(vm, owner).fault
        assert quotas.usage(team)[Resource.RUNNING_MACHINES] == 0
        job = lifecycle.request(vm, "start", actor=owner)
        run_until_parked(job, "address")

    def test_somebody_was_quicker_outside(
        self, made: Made, fake: FakeHypervisor, owner: User
    ) -> None:
        vm = made()
        off = lifecycle.request(vm, "shutdown", actor=owner)
        fake.guest_powers_off(vm.uuid)
        assert run_to_end(off).state == Job.State.SUCCEEDED
        on = lifecycle.request(vm, "start", actor=owner)
        fake.start(vm.uuid)
        assert run_to_end(on).state == Job.State.SUCCEEDED
        assert observed(vm) == "running"


class TestBulk:
    def test_each_for_itself(
        self, make_vm: Callable[..., VM], owner: User, team: Team, viewer: User
    ) -> None:
        vms = [
            make_vm(owner, team, "a"),
            make_vm(owner, team, "b", observed="shutoff"),
            make_vm(owner, team, "c"),
        ]
        assert lifecycle.bulk_counts(vms, owner) == {
            "start": 1,
            "start_paused": 1,
            "save": 2,
            "discard_saved": 0,
            "nmi": 2,
            "shutdown": 2,
            "reboot": 2,
            "suspend": 2,
            "resume": 0,
            "reset": 2,
            "force_off": 2,
            "delete": 3,
        }
        assert set(lifecycle.bulk_counts(vms, viewer).values()) == {0}
        result = lifecycle.request_many(vms, "shutdown", actor=owner)
        assert [vm.name for vm, _job in result.done] == ["a", "c"]
        assert [(vm.name, error.code) for vm, error in result.refused] == [("b", "vm.why.off")]


class TestKeptMemory:
    def test_save_and_restore(
        self, made: Made, fake: FakeHypervisor, owner: User, team: Team
    ) -> None:
        vm = made()
        boots = fake._domains[vm.uuid].boots
        do(vm, "save", owner)
        assert (observed(vm), vm.saved, vm.desired) == ("shutoff", True, "stopped")
        assert quotas.usage(team)[Resource.RUNNING_MACHINES] == 0
        view = presentation.machine(vm, owner)
        assert (view.state.word, view.verb("start").label) == ("Saved", "Restore")
        do(vm, "start", owner)
        assert (observed(vm), vm.saved) == ("running", False)
        assert fake._domains[vm.uuid].boots == boots  # it went on

    def test_discard(self, made: Made, fake: FakeHypervisor, owner: User) -> None:
        vm = made()
        do(vm, "save", owner)
        do(vm, "discard_saved", owner)
        assert (observed(vm), vm.saved) == ("shutoff", False)

    def test_nothing_changes_under_saved_memory(
        self, made: Made, fake: FakeHypervisor, owner: User
    ) -> None:
        vm = made()
        do(vm, "save", owner)
        vm.refresh_from_db()
        for change in (
            lambda: hardware.resize(vm, actor=owner, vcpus=2),
            lambda: snapshots.take(vm, actor=owner, name="x"),
            lambda: cloning.request_clone(vm, actor=owner, name="copy"),
        ):
            with pytest.raises(Conflict, match=r"vm\.why\.saved"):
                change()

    def test_start_suspended_then_resume(
        self, made: Made, fake: FakeHypervisor, owner: User, team: Team
    ) -> None:
        vm = made()
        do(vm, "force_off", owner)
        do(vm, "start_paused", owner)
        assert (observed(vm), vm.desired) == ("paused", "running")
        assert quotas.usage(team)[Resource.RUNNING_MACHINES] == 1
        do(vm, "resume", owner)
        assert observed(vm) == "running"

    def test_nmi_and_keys(self, made: Made, fake: FakeHypervisor, owner: User) -> None:
        vm = made()
        do(vm, "nmi", owner)
        assert fake.calls["inject_nmi"] == 1
        run_to_end(lifecycle.send_keys(vm, ["ctrl", "alt", "f2"], actor=owner))
        assert fake.keys_sent == [(vm.uuid, (29, 56, 60))]
