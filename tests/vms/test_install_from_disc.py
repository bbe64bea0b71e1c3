"""A machine made from an installation disc: an empty disk, the disc boots, and then it is out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from django.test import Client

from accounts.errors import Busy, Conflict, Forbidden, Invalid
from accounts.models import User
from hosts.models import Pool
from hosts.virt.errors import UnknownVirtError
from hosts.virt.fake import FakeHypervisor
from hosts.virt.spec import CdromSpec, VolumeSpec
from jobs.models import Job
from tests.vms.conftest import run_to_end, run_until_parked
from vms import commands, discs
from vms.images import services as image_services
from vms.models import VM, Image, ImageCopy
from vms.provisioning.domain import domain_spec
from vms.snapshots import requests as snapshots

MIB = 1024**2


@pytest.fixture
def iso(fake: FakeHypervisor, pool: Pool) -> Image:
    image = Image.objects.create(
        name="Debian netinst",
        kind=Image.Kind.ISO,
        os_id="debian12",
        source=Image.Source.UPLOAD,
        state=Image.State.READY,
        published=True,
        format="raw",
        virtual_size_bytes=600 * MIB,
        file_size_bytes=600 * MIB,
        has_cloud_init=False,
    )
    fake.create_volume(
        VolumeSpec(pool="default", name=image.volume_name, capacity_bytes=MIB, format="raw")
    )
    ImageCopy.objects.create(image=image, pool=pool, state=ImageCopy.State.READY)
    return image


@pytest.fixture
def installing(iso: Image, ask: Any, owner: User) -> VM:
    vm: VM
    vm, job = ask(owner, image=iso, password="", ssh_keys=[], name="inst-1")
    run_until_parked(job, "address")
    vm.refresh_from_db()
    return vm


def test_it_has_an_empty_disk_and_boots_the_disc(
    installing: VM, iso: Image, fake: FakeHypervisor
) -> None:
    disk = installing.disks.get()
    assert disk.backing_image is None
    assert fake.volume("default", disk.volume).backing_path is None
    spec = domain_spec(VM.objects.get(pk=installing.pk))
    assert [(c.target, c.volume, c.boot_order) for c in spec.cdroms] == [
        ("sdb", iso.volume_name, 1)
    ]
    assert spec.disks[0].boot_order == 2
    assert installing.first_boot == VM.FirstBoot.NONE
    assert not installing.seed_volume


def test_its_first_reboot_ejects_the_disc(installing: VM, fake: FakeHypervisor) -> None:
    discs.after_reboot(installing)
    job = run_to_end(Job.objects.get(kind="vm.eject"))
    assert (job.state, job.actor) == (Job.State.SUCCEEDED, None)
    installing.refresh_from_db()
    assert installing.iso is None
    assert all(not d.volume for d in fake.domain(installing.uuid).disks if d.device == "cdrom")
    discs.after_reboot(installing)  # later ones change nothing
    assert Job.objects.filter(kind="vm.eject").count() == 1


def test_by_hand(
    installing: VM, owner: User, viewer: User, browser: Callable[[User], Client]
) -> None:
    page = browser(owner).get(f"/machines/{installing.uuid}/").content.decode()
    assert "Disc in its drive: Debian netinst" in page
    with pytest.raises(Forbidden):
        discs.eject(installing, actor=viewer)
    browser(owner).post(f"/machines/{installing.uuid}/eject/")
    run_to_end(Job.objects.get(kind="vm.eject"))
    with pytest.raises(Conflict, match=r"vm\.no_disc"):
        discs.eject(installing, actor=owner)


def test_a_disc_in_a_drive_is_not_deleted(installing: VM, iso: Image, admin: User) -> None:
    with pytest.raises(Conflict, match=r"image\.in_use"):
        image_services.delete(iso, actor=admin)


def test_what_has_no_effect_is_refused(iso: Image, ask: Any, owner: User) -> None:
    with pytest.raises(Invalid) as caught:
        ask(owner, image=iso, user_data="#cloud-config\n{}", ssh_keys=[])
    assert set(caught.value.fields) <= {"password", "user_data"}


def test_show_command(iso: Image) -> None:
    lines = commands.show_create(
        name="inst-1", image=iso, vcpus=1, memory_mib=1024, disk_gib=10, network="default"
    )
    assert lines[0] == "qemu-img create -f qcow2 /var/lib/libvirt/images/inst-1.qcow2 10G"
    assert f"--cdrom /var/lib/libvirt/images/{iso.volume_name}" in lines[1]
    assert "--import" not in lines[1]


def test_the_form_says_what_it_means(
    iso: Image, owner: User, network: Any, browser: Callable[[User], Client]
) -> None:
    page = browser(owner).get(f"/machines/new/?image={iso.pk}").content.decode()
    assert "installation disc" in page
    assert "boots from this disc" in page


def drives(fake: FakeHypervisor, vm: VM) -> dict[str, str | None]:
    return {d.target: d.volume for d in fake.domain(vm.uuid).disks if d.device == "cdrom"}


class TestPutIn:
    def test_it_stays_through_reboots_and_boots_nothing(
        self, made: Callable[..., VM], iso: Image, fake: FakeHypervisor, owner: User, api: Any
    ) -> None:
        vm = made()
        answer = api(owner).request("PUT", f"/vms/{vm.uuid}/disc", {"image": iso.name})
        assert answer.status_code == 202
        run_to_end(Job.objects.get(kind=discs.INSERT))
        vm.refresh_from_db()
        assert (vm.iso, vm.iso_target) == (iso, "sda")  # where its seed was
        assert drives(fake, vm) == {"sda": iso.volume_name}
        assert domain_spec(vm).disks[0].boot_order == 1
        discs.after_reboot(vm)
        assert not Job.objects.filter(kind="vm.eject").exists()
        run_to_end(discs.eject(vm, actor=owner))
        vm.refresh_from_db()
        assert (vm.iso, vm.iso_target) == (None, "")
        assert drives(fake, vm) == {"sda": None}

    def test_its_image_is_not_deleted_on_the_way(
        self, made: Callable[..., VM], iso: Image, owner: User, admin: User
    ) -> None:
        vm = made()
        job = discs.insert(vm, actor=owner, image=iso)
        with pytest.raises(Busy):
            image_services.delete(iso, actor=admin)
        assert run_to_end(job).state == Job.State.SUCCEEDED
        image_services.retire(iso, actor=admin)
        with pytest.raises(Invalid):
            discs.insert(vm, actor=owner, image=iso)

    def test_another_in_its_place(
        self, installing: VM, iso: Image, fake: FakeHypervisor, pool: Pool, owner: User
    ) -> None:
        Job.objects.filter(vm=installing).update(state=Job.State.SUCCEEDED)
        other = Image.objects.create(
            name="Tools", kind="iso", state="ready", published=True, format="raw"
        )
        fake.create_volume(
            VolumeSpec(pool="default", name=other.volume_name, capacity_bytes=MIB, format="raw")
        )
        ImageCopy.objects.create(image=other, pool=pool, state=ImageCopy.State.READY)
        run_to_end(discs.insert(installing, actor=owner, image=other))
        installing.refresh_from_db()
        assert (installing.iso, installing.iso_target) == (other, "sdb")
        assert drives(fake, installing) == {"sdb": other.volume_name}

    def test_no_drive(
        self, made: Callable[..., VM], iso: Image, fake: FakeHypervisor, owner: User
    ) -> None:
        vm = made()
        domain = fake._domain(vm.uuid)
        domain.spec = replace(domain.spec, cdroms=())
        job = run_to_end(discs.insert(vm, actor=owner, image=iso))
        assert (job.state, job.error_code) == (Job.State.FAILED, "vm.no_drive")
        vm.refresh_from_db()
        assert vm.iso is None

    def test_what_fails_leaves_the_drive_as_it_was(
        self, made: Callable[..., VM], iso: Image, fake: FakeHypervisor, owner: User
    ) -> None:
        vm = made()
        fake.fail_next("load_cdrom", UnknownVirtError("no"))
        job = run_to_end(discs.insert(vm, actor=owner, image=iso))
        assert job.state == Job.State.FAILED
        assert drives(fake, vm) == {"sda": None}

    def test_what_fails_leaves_what_was_put_in_on_the_host(
        self, made: Callable[..., VM], iso: Image, fake: FakeHypervisor, owner: User
    ) -> None:
        vm = made()
        domain = fake._domain(vm.uuid)
        by_hand = CdromSpec(target="sdb", pool="default", volume=iso.volume_name)
        domain.spec = replace(domain.spec, cdroms=(CdromSpec(), by_hand))
        fake.fail_next("load_cdrom", UnknownVirtError("no"))
        job = run_to_end(discs.insert(vm, actor=owner, image=iso))
        assert job.state == Job.State.FAILED
        assert drives(fake, vm) == {"sda": None, "sdb": iso.volume_name}

    def test_a_snapshot_does_not_bring_an_old_disc_back(
        self, made: Callable[..., VM], iso: Image, fake: FakeHypervisor, owner: User
    ) -> None:
        vm = made()
        run_to_end(discs.insert(vm, actor=owner, image=iso))
        row, job = snapshots.take(vm, actor=owner, name="with-disc", memory=True)
        run_to_end(job)
        run_to_end(discs.eject(vm, actor=owner))
        run_to_end(snapshots.revert(row, actor=owner))
        assert drives(fake, vm) == {"sda": None}

    def test_who_may_and_which(
        self,
        made: Callable[..., VM],
        iso: Image,
        image: Image,
        owner: User,
        teammate: User,
        outsider: User,
        api: Any,
        browser: Callable[[User], Client],
    ) -> None:
        vm = made()
        path = f"/vms/{vm.uuid}/disc"
        assert api(teammate).request("PUT", path, {"image": iso.pk}).status_code == 403
        assert api(outsider).request("PUT", path, {"image": iso.pk}).status_code == 404
        assert api(owner).request("PUT", path, {"image": image.pk}).status_code == 422  # no disc
        Image.objects.filter(pk=iso.pk).update(published=False)
        assert api(owner).request("PUT", path, {"image": iso.pk}).status_code == 422
        with pytest.raises(Invalid):
            discs.insert(vm, actor=owner, image=iso)
        Image.objects.filter(pk=iso.pk).update(published=True)
        client = browser(owner)
        shown = client.get(f"/machines/{vm.uuid}/hardware/?for=disc").content.decode()
        assert iso.name in shown
        assert "change-media" in shown
        answer = client.post(
            f"/machines/{vm.uuid}/hardware/disc/",
            {"disc": iso.pk},
            headers={"HX-Request": "true"},
        )
        assert answer.status_code == 204
        run_to_end(Job.objects.get(kind=discs.INSERT))
        assert iso.name in client.get(f"/machines/{vm.uuid}/?tab=hardware").content.decode()
        assert "boots from it" not in client.get(f"/machines/{vm.uuid}/").content.decode()


def test_keys_by_the_dialog(
    made: Callable[..., VM],
    fake: FakeHypervisor,
    owner: User,
    viewer: User,
    browser: Callable[[User], Client],
) -> None:
    vm = made()
    path = f"/machines/{vm.uuid}/keys/"
    assert "Ctrl+Alt+Delete" in browser(owner).get(path).content.decode()
    assert browser(viewer).get(path).status_code == 403
    htmx = {"HX-Request": "true"}
    assert browser(owner).post(path, {"keys": "ctrl-alt-f2"}, headers=htmx).status_code == 204
    run_to_end(Job.objects.get(kind="vm.send_keys"))
    assert fake.keys_sent == [(vm.uuid, (29, 56, 60))]
    assert browser(owner).post(path, {"keys": "rm"}, headers=htmx).status_code == 422
