"""Images on their way: a local server that an admin allowed, and jobs run in the test's process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from hosts import connections
from hosts.models import Host, Network, Pool
from hosts.virt.fake import FakeHypervisor
from jobs import engine
from jobs.models import Job
from tests.images.disks import qcow2_disk
from tests.images.server import ImageServer
from vms.images import services
from vms.images.details import Details
from vms.models import Image

ROUNDS = 20


@pytest.fixture(autouse=True)
def image_dir(settings: Any, tmp_path: Path) -> Path:
    settings.IMAGE_DIR = tmp_path / "images"
    return tmp_path / "images"


@pytest.fixture
def server(settings: Any) -> Iterator[ImageServer]:
    with ImageServer() as running:
        settings.IMAGE_ALLOWED_HOSTS = [f"127.0.0.1:{running.port}"]
        yield running


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A good qcow2 file."""
    return qcow2_disk(tmp_path / "disk.qcow2")


@pytest.fixture
def sha256(disk: Path) -> str:
    return hashlib.sha256(disk.read_bytes()).hexdigest()


@pytest.fixture
def fake(host: Host, pool: Pool, network: Network) -> Iterator[FakeHypervisor]:
    hypervisor = FakeHypervisor("alpha")
    with connections.use_fake({"alpha": hypervisor}):
        yield hypervisor


@pytest.fixture
def ready(db: None, disk: Path) -> Image:
    """An image of the site with a real file, published, on no host yet."""
    about = Details(name="Debian 12", os_id="debian12", default_user="debian")
    return services.add_file(actor=None, path=disk, about=about, publish=True)


@pytest.fixture
def work() -> Callable[[Job], Job]:
    """``work(job)``: as workers would, until it is over."""

    def run(job: Job) -> Job:
        for _ in range(ROUNDS):
            Job.objects.filter(pk=job.pk, worker="").exclude(lease_until=None).update(
                lease_until=timezone.now()
            )
            engine.run(job.pk)
            job.refresh_from_db()
            if job.is_over:
                return job
        raise AssertionError(f"{job.kind}: {job.state} at {job.step}, {job.waiting_for}")

    return run
