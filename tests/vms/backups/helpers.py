"""Backups that tests make, and what lies in their files."""

from __future__ import annotations

import asyncio

from django.test import Client

from accounts.models import User
from hosts.virt.fake import FakeHypervisor
from jobs.models import Job
from tests.vms.conftest import run_to_end
from vms.backups import services
from vms.hardware import requests as hardware
from vms.models import VM, Backup


def taken(vm: VM, actor: User | None) -> Backup:
    backup, job = services.take(vm, actor=actor, scheduled=actor is None)
    assert run_to_end(job).state == Job.State.SUCCEEDED, (job.error_code, job.step)
    return Backup.objects.select_related("image", "vm").get(pk=backup.pk)


def content(fake: FakeHypervisor, volume: str) -> bytes:
    found: bytes = fake._volume("default", volume).content
    return found


def write(fake: FakeHypervisor, vm: VM, data: bytes) -> None:
    fake._volume("default", vm.disks.get().volume).content = data


def with_two_disks(vm: VM, fake: FakeHypervisor, owner: User, size_gib: int = 3) -> VM:
    _disk, job = hardware.add_disk(vm, actor=owner, size_gib=size_gib)
    assert run_to_end(job).state == Job.State.SUCCEEDED
    vm.refresh_from_db()
    put(fake, vm, vda=b"system", vdb=b"data")
    return vm


def put(fake: FakeHypervisor, vm: VM, **contents: bytes) -> None:
    for target, data in contents.items():
        fake._volume("default", vm.disks.get(target=target).volume).content = data


def held(fake: FakeHypervisor, vm: VM) -> dict[str, bytes]:
    return {disk.target: content(fake, disk.volume) for disk in vm.disks.all()}


def ranged(client: Client, path: str, asked: str = "", **headers: str) -> tuple[int, bytes]:
    answer = client.get(path, headers={"Range": asked, **headers} if asked else headers)
    if not answer.streaming:
        return answer.status_code, answer.content

    async def whole() -> bytes:
        return b"".join([piece async for piece in answer.streaming_content])

    return answer.status_code, asyncio.run(whole())
