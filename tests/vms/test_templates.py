"""Templates: versions that are written once, machines linked to them, and none taken away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from accounts import quotas
from accounts.errors import Conflict, Forbidden, Invalid, NotFound, QuotaExceeded
from accounts.models import Allocation, QuotaLimit, Resource, Team, User
from hosts.virt.errors import UnknownVirtError
from hosts.virt.fake import FakeHypervisor
from jobs.models import Job
from tests.vms.conftest import run_to_end, step_on
from vms import lifecycle, provisioning, queries
from vms.machine_templates import services
from vms.models import VM, Image, ImageCopy, Template

Made = Callable[..., VM]


@pytest.fixture
def source(made: Made) -> VM:
    """Made, booted once, and off."""
    vm = made()
    run_to_end(lifecycle.request(vm, "force_off", actor=vm.owner))
    vm.refresh_from_db()
    assert not vm.seed_volume
    return vm


@pytest.fixture
def golden(source: VM, owner: User) -> Image:
    image, job = services.make(source, actor=owner, name="web server", description="nginx")
    assert run_to_end(job).state == Job.State.SUCCEEDED, job.error_code
    image.refresh_from_db()
    return image


def from_template(owner: User, team: Team, image: Image, name: str = "child") -> tuple[VM, Job]:
    return provisioning.request_vm(
        actor=owner, team=team, name=name, image=image, vcpus=1, memory_mib=1024, start=False
    )


def test_a_version_is_a_whole_copy_on_its_host(
    golden: Image, source: VM, fake: FakeHypervisor, team: Team
) -> None:
    assert (golden.state, golden.template_version, golden.name) == ("ready", 1, "web server v1")
    assert golden.template is not None
    assert golden.template.current == golden
    volume = fake.volume("default", golden.volume_name)
    assert volume.backing_path is None
    assert ImageCopy.objects.get(image=golden).state == ImageCopy.State.READY
    used = quotas.usage(team)
    assert (used[Resource.TEMPLATES], used[Resource.IMAGES_GIB]) == (1, 10)
    kinds = set(source.events.values_list("kind", flat=True))
    assert {"template.asked", "template.made"} <= kinds


def test_machines_of_it_are_linked_and_have_an_identity_of_their_own(
    golden: Image, fake: FakeHypervisor, owner: User, team: Team, monkeypatch: Any
) -> None:
    from vms import seeds

    built: list[seeds.Seed] = []
    real = seeds.build

    def build(seed: seeds.Seed) -> bytes:
        built.append(seed)
        return real(seed)

    monkeypatch.setattr(seeds, "build", build)
    vm, job = from_template(owner, team, golden)
    assert run_to_end(job).state == Job.State.SUCCEEDED, (job.error_code, job.step)
    disk = vm.disks.get()
    assert disk.backing_image == golden
    backing = fake.volume("default", disk.volume).backing_path
    assert backing == fake.volume("default", golden.volume_name).path
    assert built[0].clone  # new host keys and machine-id
    assert built[0].instance_id == str(vm.uuid)
    assert {step.key for step in job.steps.filter(state="done")} >= {"disk", "seed", "define"}


def test_with_children_it_is_never_deleted(
    golden: Image, fake: FakeHypervisor, owner: User, team: Team
) -> None:
    vm, job = from_template(owner, team, golden)
    run_to_end(job)
    with pytest.raises(Conflict, match=r"has_children"):
        services.delete_version(golden, actor=owner)
    run_to_end(lifecycle.request(vm, "delete", actor=owner))
    with pytest.raises(Conflict, match=r"has_children"):  # it can come back from the bin
        services.delete_version(golden, actor=owner)
    vm.refresh_from_db()
    run_to_end(lifecycle.request(vm, "delete", actor=owner, purge=True))
    run_to_end(services.delete_version(golden, actor=owner))
    assert not Template.objects.exists()
    assert not Image.objects.filter(pk=golden.pk).exists()
    used = quotas.usage(team)
    assert used[Resource.TEMPLATES] == used[Resource.IMAGES_GIB] == 0
    assert golden.volume_name not in {v.name for v in fake.list_volumes("default")}


def test_nobody_makes_a_machine_of_what_is_being_deleted(
    golden: Image, owner: User, team: Team, fake: FakeHypervisor
) -> None:
    services.delete_version(golden, actor=owner)
    with pytest.raises(Invalid):
        from_template(owner, team, golden)
    assert golden.state == "ready"  # a page that was loaded before
    assert not VM.objects.filter(name="child").exists()


def test_versions(golden: Image, source: VM, owner: User, teammate: User, fake: Any) -> None:
    template = golden.template
    assert template is not None
    second, job = services.make(source, actor=owner, into=template)
    template.refresh_from_db()
    assert template.current == golden  # until the new one is whole
    run_to_end(job)
    template.refresh_from_db()
    assert (template.current, second.template_version) == (second, 2)
    services.set_current(golden, actor=owner)
    with pytest.raises(Forbidden):
        services.set_current(second, actor=teammate)
    run_to_end(services.delete_version(golden, actor=owner))
    template.refresh_from_db()
    assert template.current == second


def test_whose_it_is(
    golden: Image, owner: User, teammate: User, outsider: User, admin: User, team: Team
) -> None:
    template = golden.template
    assert template is not None
    assert services.find(teammate, template.pk) == template
    assert golden in Image.objects.visible_to(teammate)
    assert golden not in Image.objects.visible_to(outsider)
    with pytest.raises(NotFound):
        services.find(outsider, template.pk)
    with pytest.raises(Invalid):
        provisioning.request_vm(
            actor=outsider, team=None, name="x", image=golden, vcpus=1, memory_mib=1024
        )
    with pytest.raises(Forbidden):
        services.set_public(template, actor=owner, public=True)
    services.set_public(template, actor=admin, public=True)
    assert golden in Image.objects.visible_to(outsider)
    assert services.find(outsider, template.pk)
    with pytest.raises(Forbidden):
        services.delete_version(Image.objects.get(pk=golden.pk), actor=outsider)


def test_only_of_a_machine_that_is_off(made: Made, owner: User, teammate: User) -> None:
    vm = made()
    with pytest.raises(Conflict, match=r"template_on"):
        services.make(vm, actor=owner, name="x")
    with pytest.raises(Forbidden):
        services.make(vm, actor=teammate, name="x")
    assert not Template.objects.exists()


def test_a_copy_that_fails_leaves_nothing(
    source: VM, owner: User, fake: FakeHypervisor, team: Team
) -> None:
    before = {v.name for v in fake.list_volumes("default")}
    fake.fail_next("clone_volume", UnknownVirtError("no space left on device"))
    _image, job = services.make(source, actor=owner, name="broken")
    assert run_to_end(job).state == Job.State.FAILED
    assert {v.name for v in fake.list_volumes("default")} == before
    assert not Template.objects.exists()
    assert not Image.objects.filter(source="template").exists()
    assert not Allocation.objects.exclude(subject="").exists()
    source.refresh_from_db()
    assert lifecycle.allowed_verbs(queries.one(owner, source.uuid), owner)["start"] is None


def test_nothing_else_is_done_with_it_meanwhile(source: VM, owner: User) -> None:
    services.make(source, actor=owner, name="busy")
    with pytest.raises(Conflict):
        lifecycle.request(source, "start", actor=owner)


def test_the_quota_counts(source: VM, owner: User, team: Team) -> None:
    QuotaLimit.objects.create(scope="team", team=team, resource=Resource.IMAGES_GIB, hard=5)
    QuotaLimit.objects.create(scope="team", team=team, resource=Resource.TEMPLATES, hard=0)
    with pytest.raises(QuotaExceeded) as caught:
        services.make(source, actor=owner, name="too big")
    assert {one["resource"] for one in caught.value.params["short"]} == {"templates", "images_gib"}
    assert not Template.objects.exists()


def test_the_same_name_twice(golden: Image, source: VM, owner: User) -> None:
    with pytest.raises(Invalid, match=r"name_taken"):
        services.make(source, actor=owner, name="web server")
    for wrong in ("", "  ", "x" * 49, "a\nb"):
        with pytest.raises(Invalid):
            services.make(source, actor=owner, name=wrong)


class TestPages:
    def test_make_and_list(
        self, source: VM, owner: User, outsider: User, browser: Callable[[User], Client]
    ) -> None:
        client = browser(owner)
        dialog = client.get(f"/machines/{source.uuid}/template/").content.decode()
        assert f'value="{source.name}"' in dialog
        client.post(f"/machines/{source.uuid}/template/", {"name": "gold"})
        run_to_end(Job.objects.get(kind="template.make"))
        image = Image.objects.get(source="template")
        page = client.get("/templates/").content.decode()
        assert "gold" in page
        assert "Current" in page
        assert f"/machines/new/?image={image.pk}" in page
        assert "gold v1" in client.get("/machines/new/").content.decode()
        assert "gold" not in browser(outsider).get("/templates/").content.decode()
        assert browser(outsider).post(f"/templates/versions/{image.pk}/delete/").status_code == 404
        client.post(f"/templates/versions/{image.pk}/delete/")
        assert Job.objects.filter(kind="image.delete").exists()

    def test_a_running_one_is_told_why(
        self, made: Made, owner: User, browser: Callable[[User], Client]
    ) -> None:
        vm = made()
        page = browser(owner).get(f"/machines/{vm.uuid}/template/").content.decode()
        assert "Shut it down first" in page

    def test_api(self, source: VM, owner: User, outsider: User, api: Callable[..., Any]) -> None:
        answer = api(owner).post(f"/vms/{source.uuid}/template", {"name": "gold"})
        assert answer.status_code == 202
        pk = answer.json()["template"]["id"]
        step_on(Job.objects.get(kind="template.make"))
        shown = api(owner).get("/templates").json()[0]
        assert (shown["name"], shown["current"]) == ("gold", 1)
        assert api(outsider).get("/templates").json() == []
        assert api(outsider).delete(f"/templates/{pk}/versions/1").status_code == 404
        body = {"name": "c", "image": shown["versions"][0]["image"], "vcpus": 1}
        made = api(owner).post("/vms", body | {"memory_mib": 512, "team": source.team.name})
        assert made.status_code == 202
        assert api(owner).delete(f"/templates/{pk}/versions/1").status_code == 409
