"""What a machine's guest agent says and does: read by workers, shown, told; silent, hanging or
lying, it harms nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from accounts.errors import Conflict, Forbidden, Invalid, NotFound
from accounts.models import AuditEntry, User
from hosts.virt.errors import (
    AgentRefused,
    AgentSilent,
    HostUnreachable,
    OperationTimeout,
    UnknownVirtError,
)
from hosts.virt.fake import FakeHypervisor
from jobs.models import Job, Step
from tests.vms.conftest import run_to_end
from tests.vms.test_clone_machine import off
from vms import asking, lifecycle
from vms.guest import reading, requests
from vms.models import VM, GuestPassword, GuestReport, Nic
from vms.snapshots import requests as snapshots

Made = Callable[..., VM]
SECRET = "correct horse battery"


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What workers are told to do."""
    told: list[tuple[str, Any]] = []
    monkeypatch.setattr(
        asking.current_app, "send_task", lambda name, args, **_how: told.append((name, args))
    )
    return told


@pytest.fixture
def vm_with_agent(made: Made, fake: FakeHypervisor) -> VM:
    vm = made()
    fake.guest_agent(vm.uuid, connected=True)
    VM.objects.filter(pk=vm.pk).update(agent_seen=True)
    vm.refresh_from_db()
    return vm


class TestRead:
    def test_what_it_says_is_kept_and_shown(
        self,
        vm_with_agent: VM,
        fake: FakeHypervisor,
        owner: User,
        api: Any,
        browser: Any,
        sent: Any,
    ) -> None:
        vm = vm_with_agent
        fake.agent_says[vm.uuid] = {
            "hostname": "web-9",
            "os.pretty-name": "Debian GNU/Linux 12",
            "fs.count": 1,
            "fs.0.mountpoint": "/srv/<b>bold</b>",
            "fs.0.total-bytes": 2**30,
            "fs.0.used-bytes": 2**29,
            "user.count": 1,
            "user.0.name": "<script>alert(1)</script>",
            "user.0.login-time": 1_700_000_000_000,
        }
        assert reading.take(vm.uuid)
        said = api(owner).get(f"/vms/{vm.uuid}/guest").json()
        assert (said["hostname"], said["os"]) == ("web-9", "Debian GNU/Linux 12")
        assert said["filesystems"][0]["used_bytes"] == 2**29
        assert said["users"][0]["since"] == "2023-11-14T22:13:20Z"
        assert said["error"] is None
        page = browser(owner).get(f"/machines/{vm.uuid}/?tab=guest").content.decode()
        assert "Debian GNU/Linux 12" in page
        assert "<script>alert(1)" not in page
        assert "<b>bold" not in page
        assert "&lt;script&gt;alert(1)" in page
        assert fake.calls["guest_facts"] == 1  # by the worker alone

    def test_looking_has_it_asked_but_not_each_time(
        self, vm_with_agent: VM, owner: User, api: Any, browser: Any, sent: Any
    ) -> None:
        for _ in range(5):
            browser(owner).get(f"/machines/{vm_with_agent.uuid}/?tab=guest")
            api(owner).get(f"/vms/{vm_with_agent.uuid}/guest")
        assert sent == [(reading.TASK, [str(vm_with_agent.uuid)])]

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (AgentSilent("not connected"), "virt.agent_silent"),
            (OperationTimeout("not done within 15 s"), "virt.timeout"),
            (UnknownVirtError("malformed JSON"), "guest.nonsense"),
        ],
    )
    def test_silent_hanging_and_senseless(
        self,
        error: Exception,
        code: str,
        vm_with_agent: VM,
        fake: FakeHypervisor,
        owner: User,
        api: Any,
        browser: Any,
        sent: Any,
    ) -> None:
        """What it had said before stays, with its age."""
        vm = vm_with_agent
        assert reading.take(vm.uuid)
        fake.fail_next("guest_facts", error)
        assert not reading.take(vm.uuid)
        said = api(owner).get(f"/vms/{vm.uuid}/guest").json()
        assert said["error"]["code"] == code
        assert said["error"]["detail"]
        assert "malformed" not in said["error"]["detail"]
        assert said["hostname"] == "guest"
        assert said["tried_at"] > said["observed_at"]
        page = browser(owner).get(f"/machines/{vm.uuid}/?tab=guest").content.decode()
        assert 'id="guest-trouble"' in page
        assert reading.take(vm.uuid)
        assert api(owner).get(f"/vms/{vm.uuid}/guest").json()["error"] is None

    def test_a_host_that_is_away_says_nothing_about_the_guest(
        self, vm_with_agent: VM, fake: FakeHypervisor
    ) -> None:
        fake.fail_next("guest_facts", HostUnreachable())
        assert not reading.take(vm_with_agent.uuid)
        assert not GuestReport.objects.exists()

    def test_addresses_fill_only_what_is_not_known(
        self, vm_with_agent: VM, fake: FakeHypervisor
    ) -> None:
        vm = vm_with_agent
        nic = vm.nics.get()
        fake.agent_says[vm.uuid] = {
            "if.count": 1,
            "if.0.hwaddr": nic.mac,
            "if.0.addr.count": 1,
            "if.0.addr.0.addr": "10.9.8.7",
        }
        known = nic.addresses
        assert known
        reading.take(vm.uuid)
        assert Nic.objects.get(pk=nic.pk).addresses == known
        Nic.objects.filter(pk=nic.pk).update(addresses=[])
        reading.take(vm.uuid)
        assert Nic.objects.get(pk=nic.pk).addresses == ["10.9.8.7"]

    def test_not_while_something_is_done_with_it(
        self, vm_with_agent: VM, fake: FakeHypervisor, owner: User
    ) -> None:
        lifecycle.request(vm_with_agent, "reboot", actor=owner)
        assert not reading.take(vm_with_agent.uuid)
        assert fake.calls["guest_facts"] == 0

    def test_who_may(
        self, vm_with_agent: VM, teammate: User, viewer: User, outsider: User, api: Any, sent: Any
    ) -> None:
        vm = vm_with_agent
        for person, status in ((teammate, 202), (viewer, 202), (outsider, 404)):
            assert api(person).post(f"/vms/{vm.uuid}/guest/refresh").status_code == status
        assert api(outsider).get(f"/vms/{vm.uuid}/guest").status_code == 404


class TestPassword:
    def test_only_its_hash_goes_in_and_nothing_stays(
        self,
        vm_with_agent: VM,
        fake: FakeHypervisor,
        owner: User,
        api: Any,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        vm = vm_with_agent
        body = {"user": "root", "password": SECRET}
        answer = api(owner).request("PUT", f"/vms/{vm.uuid}/guest/password", body)
        assert answer.status_code == 202
        job = Job.objects.get(pk=answer.json()["job"]["id"])
        hashed = GuestPassword.objects.get(job=job).password_hash
        assert hashed.startswith("$6$")
        run_to_end(job)
        assert job.state == Job.State.SUCCEEDED
        assert fake.guest_passwords == [(vm.uuid, "root", hashed)]
        assert not GuestPassword.objects.exists()
        kept = [str(job.params), str(job.data), str(list(Step.objects.values()))]
        kept += [str(list(AuditEntry.objects.values())), str(list(vm.events.values()))]
        for secret in (SECRET, hashed):
            assert not any(secret in text for text in kept)
            assert secret not in caplog.text

    def test_refused_by_the_guest(
        self, vm_with_agent: VM, fake: FakeHypervisor, owner: User
    ) -> None:
        job = requests.set_password(vm_with_agent, actor=owner, user="nobody1", password=SECRET)
        fake.fail_next("set_guest_password", AgentRefused("child process failed"))
        run_to_end(job)
        assert (job.state, job.error_code) == (Job.State.FAILED, "virt.agent_refused")
        assert not GuestPassword.objects.exists()

    @pytest.mark.parametrize(
        ("user", "password", "code"),
        [
            ("", SECRET, "guest.user"),
            ("a:b", SECRET, "guest.user"),
            ("root\nroot:x", SECRET, "guest.user"),
            ("-rf", SECRET, "guest.user"),
            ("root", "short", "password.short"),
            ("root", "pass\nword:x", "password.characters"),
        ],
    )
    def test_wrong_input(
        self, user: str, password: str, code: str, vm_with_agent: VM, owner: User
    ) -> None:
        with pytest.raises(Invalid) as refused:
            requests.set_password(vm_with_agent, actor=owner, user=user, password=password)
        assert refused.value.code == code
        assert not Job.objects.filter(kind=requests.PASSWORD).exists()

    def test_who_may(
        self, vm_with_agent: VM, teammate: User, viewer: User, outsider: User, browser: Any
    ) -> None:
        vm = vm_with_agent
        for person, error in ((teammate, Forbidden), (viewer, Forbidden), (outsider, NotFound)):
            with pytest.raises(error):
                requests.set_password(vm, actor=person, user="root", password=SECRET)
            status = 403 if error is Forbidden else 404
            assert browser(person).get(f"/machines/{vm.uuid}/guest/").status_code == status

    def test_not_of_one_that_is_off(self, made: Made, owner: User) -> None:
        vm = off(made(), owner)
        with pytest.raises(Conflict) as refused:
            requests.set_password(vm, actor=owner, user="root", password=SECRET)
        assert refused.value.code == "vm.why.off"

    def test_on_the_page(
        self, vm_with_agent: VM, fake: FakeHypervisor, owner: User, browser: Callable[..., Client]
    ) -> None:
        vm, client = vm_with_agent, browser(owner)
        shown = client.get(f"/machines/{vm.uuid}/guest/").content.decode()
        assert "set-user-password" in shown
        answer = client.post(
            f"/machines/{vm.uuid}/guest/password/",
            {"user": "debian", "password": SECRET},
            headers={"HX-Request": "true"},
        )
        assert answer.status_code == 204
        run_to_end(Job.objects.get(kind=requests.PASSWORD))
        assert fake.guest_passwords[0][1] == "debian"


def test_trim(vm_with_agent: VM, fake: FakeHypervisor, owner: User, viewer: User, api: Any) -> None:
    vm = vm_with_agent
    assert api(viewer).post(f"/vms/{vm.uuid}/guest/trim").status_code == 403
    answer = api(owner).post(f"/vms/{vm.uuid}/guest/trim")
    assert answer.status_code == 202
    run_to_end(Job.objects.get(pk=answer.json()["job"]["id"]))
    assert fake.trimmed == [vm.uuid]


def test_shut_down_by_the_agent(
    vm_with_agent: VM, fake: FakeHypervisor, owner: User, api: Any
) -> None:
    vm = vm_with_agent
    fake.ignores_power_button.add(vm.uuid)
    assert api(owner).post(f"/vms/{vm.uuid}/shutdown?by=nonsense").status_code == 422
    answer = api(owner).post(f"/vms/{vm.uuid}/shutdown?by=agent")
    job = Job.objects.get(pk=answer.json()["job"]["id"])
    run_to_end(job)
    assert job.state == Job.State.SUCCEEDED
    assert fake.domain(vm.uuid).state.value == "shutoff"


def test_shut_down_by_an_agent_that_is_not_there(
    made: Made, fake: FakeHypervisor, owner: User
) -> None:
    vm = made()
    job = lifecycle.request(vm, "shutdown", actor=owner, by="agent")
    run_to_end(job)
    assert (job.state, job.error_code) == (Job.State.FAILED, "virt.agent_silent")
    vm.refresh_from_db()
    assert vm.desired == VM.Desired.RUNNING


class TestFreeze:
    """A snapshot of running disks stands for all that backups and copies do with it."""

    def take(self, vm: VM, owner: User, **how: Any) -> Job:
        _row, job = snapshots.take(vm, actor=owner, name="before", **how)
        return job

    def test_it_stands_still_while_the_snapshot_is_taken(
        self, vm_with_agent: VM, fake: FakeHypervisor, owner: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[bool] = []
        original = fake.create_snapshot

        def watched(*args: Any) -> None:
            seen.append(vm_with_agent.uuid in fake.frozen)
            original(*args)

        monkeypatch.setattr(fake, "create_snapshot", watched)
        job = self.take(vm_with_agent, owner, memory=False)
        run_to_end(job)
        assert job.state == Job.State.SUCCEEDED
        assert seen == [True]
        assert not fake.frozen

    def test_not_with_its_memory_and_not_without_an_agent(
        self, made: Made, vm_with_agent: VM, fake: FakeHypervisor, owner: User
    ) -> None:
        run_to_end(self.take(vm_with_agent, owner, memory=True))
        other = made(name="web-8")
        run_to_end(self.take(other, owner, memory=False))
        assert fake.calls["freeze_guest"] == 0

    def test_one_that_refuses_is_copied_as_it_is(
        self, vm_with_agent: VM, fake: FakeHypervisor, owner: User
    ) -> None:
        fake.fail_next("freeze_guest", AgentSilent("timed out"))
        job = self.take(vm_with_agent, owner, memory=False)
        run_to_end(job)
        assert job.state == Job.State.SUCCEEDED
        assert job.steps.get(key="snapshot").note["code"] == "guest.not_frozen"
        assert fake.calls["thaw_guest"] == 1  # it may have frozen after all

    def test_the_copy_fails(self, vm_with_agent: VM, fake: FakeHypervisor, owner: User) -> None:
        fake.fail_next("create_snapshot", UnknownVirtError("no"))
        job = self.take(vm_with_agent, owner, memory=False)
        run_to_end(job)
        assert job.state == Job.State.FAILED
        assert not fake.frozen

    def test_thawing_is_tried_again(
        self, vm_with_agent: VM, fake: FakeHypervisor, owner: User
    ) -> None:
        fake.fail_next("thaw_guest", AgentSilent("timed out"))
        job = self.take(vm_with_agent, owner, memory=False)
        run_to_end(job)
        assert job.state == Job.State.SUCCEEDED
        assert not fake.frozen

    def test_the_worker_is_lost_while_it_stands_still(
        self, vm_with_agent: VM, fake: FakeHypervisor, owner: User
    ) -> None:
        """What the next worker finds: a frozen guest, and a job that says so."""
        vm = vm_with_agent
        job = self.take(vm, owner, memory=False)
        fake.frozen.add(vm.uuid)
        Job.objects.filter(pk=job.pk).update(data={"frozen": True})
        run_to_end(job)
        assert job.state == Job.State.SUCCEEDED
        assert not fake.frozen
