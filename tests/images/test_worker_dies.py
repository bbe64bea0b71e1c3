"""A worker is killed at every boundary of a fetch: the image arrives, or leaves nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from django.utils import timezone

from accounts.models import User
from hosts.models import Pool
from hosts.virt.fake import FakeHypervisor
from jobs import engine
from jobs.models import Job
from tests.images.disks import qemu_img
from tests.images.server import ImageServer
from tests.images.test_import_foreign_disks import disk_of
from vms.images import services, uploads
from vms.images.details import Details
from vms.models import Image

Work = Callable[[Job], Job]
STEPS = ["download", "inspect", "store"]
BOUNDARIES = [f"image.fetch/{step}:{when}" for step in STEPS for when in ("before-do", "after-do")]


@pytest.fixture
def failpoints(settings: Any, tmp_path: Path) -> Path:
    settings.FAILPOINTS_FILE = str(tmp_path / "failpoints")
    return tmp_path / "failpoints"


def run_and_die(job: Job) -> None:
    """In a child, as a worker would; it must have been killed."""
    connections.close_all()
    child = os.fork()
    if child == 0:
        try:
            engine.run(job.pk)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the failpoint was not reached"
    assert os.WTERMSIG(status) == signal.SIGKILL


def lease_passes(job: Job) -> None:
    Job.objects.filter(pk=job.pk).update(worker="", lease_until=timezone.now())


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("boundary", [*BOUNDARIES, "image.fetch/final:before"])
def test_a_good_image_arrives_all_the_same(
    boundary: str,
    failpoints: Path,
    admin: User,
    server: ImageServer,
    disk: Path,
    work: Work,
    image_dir: Path,
) -> None:
    server.files["/disk.qcow2"] = disk.read_bytes()
    image, job = services.add_url(
        actor=admin, url=server.url("/disk.qcow2"), about=Details(name="x"), publish=True
    )
    failpoints.write_text(f"{boundary} kill\n")
    run_and_die(job)
    lease_passes(job)
    assert work(job).state == Job.State.SUCCEEDED, job.error_code
    image.refresh_from_db()
    assert (image.state, image.published) == ("ready", True)
    assert names(image_dir) == [f"{image.uuid}.qcow2"]
    uploads.tidy()
    assert names(image_dir) == [f"{image.uuid}.qcow2"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("boundary", ["before-do", "after-do"])
def test_a_foreign_one_is_converted_all_the_same(
    boundary: str,
    failpoints: Path,
    admin: User,
    server: ImageServer,
    tmp_path: Path,
    work: Work,
    image_dir: Path,
) -> None:
    server.files["/disk.vmdk"] = disk_of("vmdk", tmp_path / "disk.vmdk").read_bytes()
    image, job = services.add_url(
        actor=admin, url=server.url("/disk.vmdk"), about=Details(name="x"), publish=True
    )
    failpoints.write_text(f"image.fetch/convert:{boundary} kill\n")
    run_and_die(job)
    lease_passes(job)
    assert work(job).state == Job.State.SUCCEEDED, job.error_code
    image.refresh_from_db()
    assert (image.state, image.format) == ("ready", "qcow2")
    assert names(image_dir) == [f"{image.uuid}.qcow2"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("boundary", ["before-undo", "after-undo"])
def test_a_hostile_one_leaves_nothing_all_the_same(
    boundary: str,
    failpoints: Path,
    admin: User,
    server: ImageServer,
    tmp_path: Path,
    work: Work,
    image_dir: Path,
) -> None:
    path = tmp_path / "overlay.qcow2"
    qemu_img("create", "-f", "qcow2", "-u", "-b", "/etc/shadow", "-F", "raw", path, "1G")
    server.files["/disk.qcow2"] = path.read_bytes()
    image, job = services.add_url(
        actor=admin, url=server.url("/disk.qcow2"), about=Details(name="x")
    )
    failpoints.write_text(f"image.fetch/inspect:{boundary} kill\n")
    run_and_die(job)
    lease_passes(job)
    assert work(job).error_code == "image.backing_file"
    image.refresh_from_db()
    assert image.state == "failed"
    assert names(image_dir) == []


def test_a_copy_that_breaks_leaves_no_volume(
    failpoints: Path, ready: Image, pool: Pool, fake: FakeHypervisor, work: Work
) -> None:
    failpoints.write_text("image.copy/copy:after-do raise\n")
    copy = services.ensure_copy(image=ready, pool=pool, actor=None)
    assert copy.job is not None
    assert work(copy.job).state == Job.State.FAILED
    assert fake.list_volumes("default") == []
    copy.refresh_from_db()
    assert copy.state == "failed"
