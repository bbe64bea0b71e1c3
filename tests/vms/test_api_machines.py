"""``/api/v1/vms``: what programs send and get."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts.models import Team, User
from hosts.models import Network
from hosts.virt.errors import UnknownVirtError
from hosts.virt.fake import FakeHypervisor
from jobs.models import Job
from tests.vms.conftest import KEY, run_to_end
from vms.models import VM, Flavor, Image, Tag
from vms.provisioning.request import request_vm

Api = Callable[..., Any]


@pytest.fixture
def body(image: Image, small: Flavor, network: Network, team: Team) -> dict[str, Any]:
    return {"name": "web-1", "image": image.name, "flavor": small.name, "team": team.name}


class TestCreate:
    def test_accepted(self, api: Api, owner: User, body: dict[str, Any]) -> None:
        answer = api(owner).post("/vms", body | {"password": "correct horse", "ssh_keys": [KEY]})
        assert answer.status_code == 202
        told = answer.json()
        job = Job.objects.get()
        assert told["job"] == {
            "id": str(job.pk),
            "kind": "vm.create",
            "state": "queued",
            "progress": None,
            "step": job.step,
            "error": None,
        }
        vm = told["vm"]
        assert vm["name"] == "web-1"
        assert vm["copy"] == "linked"
        assert vm["state"] == "unknown"
        assert vm["task"]["kind"] == "vm.create"
        assert vm["team"] == "rivendell"
        assert vm["network"] == "default"
        assert "correct horse" not in answer.content.decode()
        assert "$6$" not in answer.content.decode()

    def test_a_job_that_failed_before_the_answer(
        self,
        api: Api,
        owner: User,
        body: dict[str, Any],
        fake: FakeHypervisor,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def fast_worker(**asked: Any) -> tuple[VM, Job]:
            vm, job = request_vm(**asked)
            run_to_end(Job.objects.get(pk=job.pk))
            return vm, job

        fake.fail_next("define", UnknownVirtError("no"))
        monkeypatch.setattr("vms.api.request_vm", fast_worker)
        answer = api(owner).post("/vms", body)
        assert answer.status_code == 202, answer.content
        assert answer.json()["vm"] is None
        assert answer.json()["job"]["state"] == "failed"
        assert answer.json()["job"]["error"]["code"]
        assert api(owner).get("/vms").json()["count"] == 0

    def test_by_id_and_with_a_custom_size(
        self, api: Api, owner: User, image: Image, network: Network, team: Team
    ) -> None:
        answer = api(owner).post(
            "/vms",
            {
                "name": "web-1",
                "image": image.pk,
                "vcpus": 2,
                "memory_mib": 256,
                "disk_gib": 3,
                "network": network.pk,
                "team": team.pk,
                "copy": "full",
                "start": False,
                "tags": ["db"],
            },
        )
        assert answer.status_code == 202, answer.content
        vm = answer.json()["vm"]
        assert (vm["vcpus"], vm["memory_mib"], vm["disk_gib"]) == (2, 256, 3)
        assert vm["copy"] == "full"
        assert vm["desired"] == "stopped"
        assert vm["tags"] == ["db"]

    def test_keys_of_the_profile_go_in_unless_others_are_given(
        self, api: Api, owner: User, body: dict[str, Any]
    ) -> None:
        from accounts import services

        services.add_ssh_key(owner, "laptop", KEY)
        api(owner).post("/vms", body)
        api(owner).post("/vms", body | {"name": "web-2", "ssh_keys": []})
        assert VM.objects.get(name="web-1").ssh_keys == [KEY]
        assert VM.objects.get(name="web-2").ssh_keys == []

    def test_the_same_key_makes_one_machine(
        self, api: Api, owner: User, body: dict[str, Any]
    ) -> None:
        first = api(owner).post("/vms", body, key="abc")
        second = api(owner).post("/vms", body, key="abc")
        assert first.status_code == second.status_code == 202
        assert first.json()["vm"]["uuid"] == second.json()["vm"]["uuid"]
        assert VM.objects.count() == 1

    @pytest.mark.parametrize(
        ("changes", "fields"),
        [
            ({"name": "Web 1", "disk_gib": 0, "network": "x"}, {"name", "disk_gib", "network"}),
            ({"image": "no such", "flavor": "x", "team": "y"}, {"image", "flavor", "team"}),
            ({"image": 10**17}, {"image"}),
            ({"vcpus": 2}, {"flavor"}),
            ({"nmae": "typo"}, {"nmae"}),
            ({"copy": "magic"}, {"copy"}),
            ({"start": "perhaps"}, {"start"}),
            ({"name": None}, {"name"}),
            ({"ssh_keys": "one"}, {"ssh_keys"}),
            ({"user_data": "#cloud-config\nruncmd: 5\n"}, {"user_data"}),
        ],
    )
    def test_wrong_input(
        self,
        api: Api,
        owner: User,
        body: dict[str, Any],
        changes: dict[str, Any],
        fields: set[str],
    ) -> None:
        answer = api(owner).post("/vms", body | changes)
        assert answer.status_code == 422, answer.content
        assert answer.headers["Content-Type"] == "application/problem+json"
        problem = answer.json()
        assert {error["field"].split(".")[0] for error in problem["errors"]} == fields
        assert all("Please tell an admin" not in error["message"] for error in problem["errors"])
        assert not VM.objects.exists()
        assert not Job.objects.exists()

    def test_no_json(self, api: Api, owner: User) -> None:
        client = api(owner)
        answer = client.client.post(
            "/api/v1/vms",
            "{",
            content_type="application/json",
            headers={"Authorization": f"Bearer {client.secret}"},
        )
        assert answer.status_code in (400, 422)

    def test_teams_of_others(
        self, api: Api, outsider: User, viewer: User, body: dict[str, Any]
    ) -> None:
        assert api(outsider).post("/vms", body).status_code == 422
        assert api(viewer).post("/vms", body).status_code == 403
        assert not VM.objects.exists()

    def test_a_token_that_may_only_read(self, api: Api, owner: User, body: dict[str, Any]) -> None:
        assert api(owner, ("read",)).post("/vms", body).status_code == 403

    def test_nobody(self, client: Any, db: None) -> None:
        assert client.get("/api/v1/vms").status_code == 401


class TestRead:
    def test_list(
        self, api: Api, make_vm: Callable[..., VM], owner: User, team: Team, outsider: User
    ) -> None:
        for n in range(3):
            make_vm(owner, team, f"m-{n}")
        told = api(owner).get("/vms?page=2&page_size=2").json()
        assert told["count"] == 3
        assert [vm["name"] for vm in told["items"]] == ["m-2"]
        assert api(owner).get("/vms?page=9").json() == {"items": [], "count": 3}
        assert api(owner).get("/vms?q=m-1&state=running&sort=-name").json()["count"] == 1
        assert api(outsider).get("/vms").json() == {"items": [], "count": 0}
        assert api(owner).get("/vms?page=0").status_code == 422
        assert api(owner).get("/vms?page_size=1000").status_code == 422

    def test_one(self, api: Api, vm: VM, teammate: User, outsider: User) -> None:
        told = api(teammate).get(f"/vms/{vm.uuid}").json()
        assert told["uuid"] == str(vm.uuid)
        assert told["verbs"]["shutdown"] is None
        assert told["verbs"]["start"] == "It runs already."
        for path in (f"/vms/{vm.uuid}", f"/vms/{vm.uuid}/timeline", f"/vms/{vm.uuid}/screenshot"):
            assert api(outsider).get(path).status_code == 404
        assert api(teammate).get("/vms/not-a-uuid").status_code == 404

    def test_no_hypervisor_is_asked(
        self, api: Api, vm: VM, owner: User, fake: FakeHypervisor
    ) -> None:
        before = sum(fake.calls.values())
        client = api(owner)
        for path in ("/vms", f"/vms/{vm.uuid}", f"/vms/{vm.uuid}/timeline"):
            assert client.get(path).status_code == 200
        assert sum(fake.calls.values()) == before

    def test_the_number_of_queries_is_bounded(
        self, api: Api, make_vm: Callable[..., VM], owner: User, team: Team
    ) -> None:
        client = api(owner)
        client.get("/vms")  # the token's first use is noted once
        counts = []
        for _ in range(2):
            for _ in range(10):
                Tag.objects.create(vm=make_vm(owner, team), name="x")
            with CaptureQueriesContext(connection) as seen:
                client.get("/vms")
            counts.append(len(seen))
        assert counts[0] == counts[1] <= 16

    def test_timeline(self, api: Api, vm: VM, owner: User) -> None:
        api(owner).post(f"/vms/{vm.uuid}/suspend")
        told = api(owner).get(f"/vms/{vm.uuid}/timeline").json()
        assert told["count"] == 1
        assert told["items"][0]["text"] == "Asked: Suspend"
        assert told["items"][0]["actor"] == "owner"


class TestChange:
    def test_edit(self, api: Api, vm: VM, owner: User, teammate: User) -> None:
        answer = api(owner).patch(
            f"/vms/{vm.uuid}", {"name": "web-7", "tags": ["a", "b"], "description": "mine"}
        )
        assert answer.status_code == 200
        told = answer.json()
        assert (told["name"], told["tags"], told["description"]) == ("web-7", ["a", "b"], "mine")
        assert api(owner).patch(f"/vms/{vm.uuid}", {}).json()["tags"] == ["a", "b"]
        assert api(owner).patch(f"/vms/{vm.uuid}", {"tags": []}).json()["tags"] == []
        assert api(teammate).patch(f"/vms/{vm.uuid}", {"name": "x"}).status_code == 403
        assert api(owner).patch(f"/vms/{vm.uuid}", {"owner": "x"}).status_code == 422

    def test_a_taken_name(
        self, api: Api, vm: VM, make_vm: Callable[..., VM], owner: User, team: Team
    ) -> None:
        make_vm(owner, team, "taken")
        answer = api(owner).patch(f"/vms/{vm.uuid}", {"name": "taken", "tags": ["a b"]})
        assert answer.status_code == 422
        assert {error["field"] for error in answer.json()["errors"]} == {"name", "tags"}
        vm.refresh_from_db()
        assert vm.name == "web-1"

    @pytest.mark.parametrize("word", ["shutdown", "force-off", "reboot", "reset", "suspend"])
    def test_verbs(self, api: Api, vm: VM, owner: User, outsider: User, word: str) -> None:
        assert api(outsider).post(f"/vms/{vm.uuid}/{word}").status_code == 404
        answer = api(owner).post(f"/vms/{vm.uuid}/{word}")
        assert answer.status_code == 202
        assert answer.json()["job"]["kind"] == f"vm.{word.replace('-', '_')}"
        assert answer.json()["vm"]["task"]["kind"] == f"vm.{word.replace('-', '_')}"

    def test_a_verb_that_makes_no_sense(self, api: Api, vm: VM, owner: User) -> None:
        answer = api(owner).post(f"/vms/{vm.uuid}/start")
        assert answer.status_code == 409
        assert answer.json()["code"] == "vm.why.runs"
        assert api(owner).post(f"/vms/{vm.uuid}/explode").status_code in (404, 405)

    def test_delete(self, api: Api, vm: VM, owner: User, teammate: User) -> None:
        answer = api(owner).delete(f"/vms/{vm.uuid}")
        assert answer.status_code == 409
        assert answer.json()["code"] == "vm.confirm_name"
        assert api(teammate).delete(f"/vms/{vm.uuid}?force=true").status_code == 403
        answer = api(owner).delete(f"/vms/{vm.uuid}?force=true&purge=true")
        assert answer.status_code == 202
        assert answer.json()["job"]["kind"] == "vm.delete"

    def test_delete_with_its_name(self, api: Api, vm: VM, owner: User) -> None:
        assert api(owner).delete(f"/vms/{vm.uuid}?confirm=web-1").status_code == 202

    def test_console(self, api: Api, vm: VM, viewer: User, outsider: User) -> None:
        answer = api(viewer).post(f"/vms/{vm.uuid}/console", {"kind": "vnc"})
        assert answer.status_code == 200, answer.content
        told = answer.json()
        assert told["url"].startswith("ws://")
        assert told["protocols"][0] == "binary"
        assert told["protocols"][1].startswith("ticket.")
        assert told["mode"] == "view"
        asked = {"kind": "vnc", "mode": "control"}
        assert api(viewer).post(f"/vms/{vm.uuid}/console", asked).status_code == 403
        assert api(outsider).post(f"/vms/{vm.uuid}/console", {}).status_code == 404
