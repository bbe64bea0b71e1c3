"""What UEFI remembers goes with a machine's backups and templates, and a TPM does not."""

from __future__ import annotations

import asyncio
import hashlib
import io
from typing import Any

import pytest
from django.test import Client

from accounts.models import Team, User
from hosts.models import Host
from hosts.virt.errors import UnknownVirtError
from hosts.virt.fake import FakeHypervisor
from hosts.virt.spec import VolumeSpec
from jobs.models import Job
from tests.vms.conftest import run_to_end
from vms import lifecycle, nvram
from vms.backups import services as backups
from vms.knobs import Wish
from vms.machine_templates import services as machine_templates
from vms.models import VM, Backup


@pytest.fixture(autouse=True)
def able(host: Host) -> Host:
    host.facts = {"firmwares": ["bios", "efi", "secure"], "machines": ["q35", "pc"], "tpm": True}
    host.save()
    return host


def remember(fake: FakeHypervisor, vm: VM, content: bytes) -> None:
    name = nvram.name_of(vm)
    spec = VolumeSpec(pool="default", name=name, capacity_bytes=len(content), format="raw")
    fake.create_volume(spec)
    fake.upload_volume("default", name, io.BytesIO(content), len(content), lambda *_: None)


async def read(answer: Any) -> bytes:
    return b"".join([piece async for piece in answer.streaming_content])


def held(fake: FakeHypervisor) -> set[str]:
    return {facts.name for facts in fake.list_volumes("default") if "nvram" in facts.name}


@pytest.fixture
def vm(made: Any, fake: FakeHypervisor) -> VM:
    vm: VM = made(start=False, wish=Wish(firmware="uefi", tpm=True))
    VM.objects.filter(pk=vm.pk).update(seed_volume="")
    remember(fake, vm, b"boots debian")
    vm.refresh_from_db()
    return vm


def test_goes_with_a_backup_and_comes_back(
    vm: VM, fake: FakeHypervisor, owner: User, client: Client
) -> None:
    backup, job = backups.take(vm, actor=owner)
    run_to_end(job)
    image = Backup.objects.get(pk=backup.pk).image
    assert image.nvram_checksum == hashlib.sha256(b"boots debian").hexdigest()
    client.force_login(owner)
    path = f"/api/v1/vms/{vm.uuid}/backups"
    assert client.get(path).json()["items"][0]["nvram"] == image.nvram_checksum
    page = client.get(f"/machines/{vm.uuid}/?tab=backups").content.decode()
    assert "?disk=nvram" in page

    answer: Any = client.get(f"{path}/1/file?disk=nvram")
    assert answer["Content-Disposition"].endswith('-backup-1-nvram.fd"')
    assert asyncio.run(read(answer)) == b"boots debian"

    name = nvram.name_of(vm)
    fake._volume("default", name).content = b"ruined"
    fake.fail_next("define", UnknownVirtError("no"))
    assert run_to_end(backups.restore_over(backup, actor=owner)).state == Job.State.FAILED
    assert fake._volume("default", name).content == b"ruined"  # as it was
    job = run_to_end(backups.restore_over(backup, actor=owner))
    assert job.state == Job.State.SUCCEEDED, job.error_code
    assert fake._volume("default", name).content == b"boots debian"

    new, job = backups.restore_as_new(backup, actor=owner, name="again")
    assert run_to_end(job).state == Job.State.SUCCEEDED, job.error_code
    assert fake._volume("default", nvram.name_of(new)).content == b"boots debian"
    assert held(fake) == {name, nvram.name_of(new), image.nvram_name}

    fake._volume("default", image.nvram_name).content = b"bit rot"
    job = run_to_end(backups.restore_over(backup, actor=owner))
    assert (job.state, job.error_code) == (Job.State.FAILED, "nvram.damaged")
    assert fake._volume("default", name).content == b"boots debian"
    run_to_end(backups.delete(backup, actor=owner))
    assert held(fake) == {name, nvram.name_of(new)}


def test_a_backup_that_fails_leaves_none(vm: VM, fake: FakeHypervisor, owner: User) -> None:
    _backup, job = backups.take(vm, actor=owner)
    fake.fail_next("download_volume", UnknownVirtError("no"))
    assert run_to_end(job).state == Job.State.FAILED
    assert held(fake) == {nvram.name_of(vm)}


def test_another_firmware_than_then(vm: VM, fake: FakeHypervisor, owner: User) -> None:
    backup, job = backups.take(vm, actor=owner)
    run_to_end(job)
    VM.objects.filter(pk=vm.pk).update(firmware="secureboot")
    fake._volume("default", nvram.name_of(vm)).content = b"with keys"
    job = run_to_end(backups.restore_over(backup, actor=owner))
    assert job.state == Job.State.SUCCEEDED
    assert fake._volume("default", nvram.name_of(vm)).content == b"with keys"


def test_goes_with_a_template(
    vm: VM, ask: Any, fake: FakeHypervisor, owner: User, team: Team
) -> None:
    image, job = machine_templates.make(vm, actor=owner, name="golden")
    run_to_end(job)
    image.refresh_from_db()
    assert fake._volume("default", image.nvram_name).content == b"boots debian"
    child, job = ask(owner, image=image, name="child", start=False)
    assert run_to_end(job).state == Job.State.SUCCEEDED, job.error_code
    assert fake._volume("default", nvram.name_of(child)).content == b"boots debian"
    fake._volume("default", nvram.name_of(child)).content = b"of the child"
    assert fake._volume("default", image.nvram_name).content == b"boots debian"
    other, job = ask(
        owner, image=image, name="other", start=False, wish=Wish(firmware="secureboot")
    )
    assert run_to_end(job).state == Job.State.SUCCEEDED, job.error_code
    assert nvram.name_of(other) not in held(fake)  # it would not fit
    for one in (child, other):
        run_to_end(lifecycle.request(one, "delete", actor=owner, purge=True))
    run_to_end(machine_templates.delete_version(image, actor=owner))
    assert held(fake) == {nvram.name_of(vm)}


def test_a_tpm_stays_where_it_is(vm: VM, owner: User, client: Client) -> None:
    backup, job = backups.take(vm, actor=owner)
    run_to_end(job)
    client.force_login(owner)
    page = f"/machines/{vm.uuid}"
    for address in (
        f"{page}/clone/",
        f"{page}/template/",
        f"{page}/backups/{backup.number}/?for=new",
    ):
        assert "Its TPM starts empty" in client.get(address).content.decode(), address
    shown = client.get(f"{page}/backups/{backup.number}/?for=restore").content.decode()
    assert "Its TPM is in no backup" in shown
    assert "What its firmware remembers" in shown
