"""An image is copied to a host by whoever needs it first; all others wait for that copy."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from accounts.errors import DomainError
from accounts.models import User
from hosts.models import Pool
from hosts.virt.errors import NoSpace
from hosts.virt.fake import FakeHypervisor
from hosts.virt.spec import VolumeSpec
from jobs import engine
from jobs.models import Job
from vms.images import files, services
from vms.models import Image, ImageCopy

Work = Callable[[Job], Job]


def ensure(image: Image, pool: Pool, **kwargs: Any) -> ImageCopy:
    return services.ensure_copy(image=image, pool=pool, actor=None, **kwargs)


def job_of(copy: ImageCopy) -> Job:
    assert copy.job is not None
    return copy.job


def test_the_whole_file_arrives_once(
    ready: Image, pool: Pool, fake: FakeHypervisor, work: Work
) -> None:
    first, second = ensure(ready, pool), ensure(ready, pool)
    assert first.state == "copying"
    assert first.job == second.job
    assert work(job_of(first)).state == Job.State.SUCCEEDED
    copy = ensure(ready, pool)
    assert copy.state == "ready"
    assert Job.objects.filter(kind="image.copy").count() == 1
    volume = fake.volume("default", ready.volume_name)
    assert (volume.format, volume.capacity_bytes) == ("qcow2", ready.virtual_size_bytes)

    class Sink:
        data = b""

        def write(self, part: bytes) -> int:
            self.data += part
            return len(part)

    sink = Sink()
    fake.download_volume("default", ready.volume_name, sink, lambda _done, _total: None)  # type: ignore[arg-type]
    assert sink.data == files.stored(ready).read_bytes()


def test_a_copy_deleted_outside_is_made_again(
    ready: Image, pool: Pool, fake: FakeHypervisor, work: Work
) -> None:
    work(job_of(ensure(ready, pool)))
    fake.delete_volume("default", ready.volume_name)
    again = ensure(ready, pool)
    assert again.state == "copying"
    work(job_of(again))
    assert fake.volume("default", ready.volume_name)
    assert ensure(ready, pool).state == "ready"


def test_what_a_dead_worker_left_is_written_from_the_start(
    ready: Image, pool: Pool, fake: FakeHypervisor, work: Work
) -> None:
    copy = ensure(ready, pool)
    fake.create_volume(
        VolumeSpec(pool="default", name=ready.volume_name, capacity_bytes=1, format="qcow2")
    )
    assert ensure(ready, pool).state == "copying"  # that a file is there proves nothing
    assert work(job_of(copy)).state == Job.State.SUCCEEDED
    assert fake.volume("default", ready.volume_name).capacity_bytes == ready.virtual_size_bytes


def test_a_failed_copy_leaves_no_volume_and_tells_who_waited(
    ready: Image, pool: Pool, fake: FakeHypervisor, work: Work
) -> None:
    asked = timezone.now()
    copy = ensure(ready, pool, asked_at=asked)
    fake.fail_next("upload_volume", NoSpace("full"))
    job = work(job_of(copy))
    assert (job.state, job.error_code) == (Job.State.FAILED, "virt.no_space")
    assert fake.list_volumes("default") == []
    assert ensure(ready, pool, asked_at=asked).state == "failed"
    later = ensure(ready, pool, asked_at=timezone.now())
    assert later.state == "copying"
    assert work(job_of(later)).state == Job.State.SUCCEEDED


def test_a_missing_file_is_said(ready: Image, pool: Pool, fake: FakeHypervisor, work: Work) -> None:
    files.remove(ready)
    job = work(job_of(ensure(ready, pool)))
    assert (job.state, job.error_code) == (Job.State.FAILED, "image.file_missing")
    assert fake.list_volumes("default") == []


def test_an_image_being_deleted_is_not_copied(
    admin: User, ready: Image, pool: Pool, fake: FakeHypervisor
) -> None:
    services.delete(ready, actor=admin)
    with pytest.raises(DomainError) as caught:
        ensure(ready, pool)
    assert caught.value.code == "image.being_deleted"


def test_delete_waits_for_a_host_that_is_away(
    admin: User, ready: Image, pool: Pool, fake: FakeHypervisor, work: Work
) -> None:
    work(job_of(ensure(ready, pool)))
    fake.unplug()
    job = services.delete(ready, actor=admin)
    engine.run(job.pk)
    job.refresh_from_db()
    assert (job.state, job.waiting_for) == (Job.State.RUNNING, "host")
    assert Image.objects.filter(pk=ready.pk, state="retired").exists()
    fake.plug()
    assert work(job).state == Job.State.SUCCEEDED
    assert not Image.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_one_job_however_many_ask_at_once(ready: Image, pool: Pool, fake: FakeHypervisor) -> None:
    gate = threading.Barrier(8)
    seen: list[Any] = []

    def ask() -> None:
        gate.wait(20)
        try:
            seen.append(ensure(ready, pool).job_id)  # type: ignore[attr-defined]
        finally:
            connection.close()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(seen) == 8
    assert len(set(seen)) == 1
    assert Job.objects.filter(kind="image.copy").count() == 1
    assert ImageCopy.objects.count() == 1
