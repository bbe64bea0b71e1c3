"""An image in a real pool: whole, in its own format from the first moment, and worth cloning."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from accounts.models import User
from hosts import connections
from hosts.models import Host, Pool
from hosts.virt.spec import VolumeSpec
from jobs.models import Job
from tests.images.disks import MIB, raw_disk
from tests.lab.conftest import RunningLab, lab  # noqa: F401
from vms.images import files, services
from vms.images.details import Details
from vms.models import Image, ImageCopy

pytestmark = pytest.mark.lab
Work = Callable[[Job], Job]


@pytest.fixture
def real_pool(db: None, lab: RunningLab) -> Pool:  # noqa: F811
    """The default pool of the lab's host a, as rows."""
    facts = lab.host("a")
    host = Host.objects.create(
        name="a",
        transport=Host.Transport.UNIX,
        socket_path=facts.socket_path,
        reach=Host.Reach.UP,
        arch="x86_64",
    )
    found = connections.hypervisor(host).ensure_pool("default", "/var/lib/libvirt/images")
    return Pool.objects.create(
        host=host,
        name=found.name,
        uuid=uuid.uuid4(),
        kind=found.kind,
        path=found.path,
        active=True,
        is_default=True,
        capacity_bytes=found.capacity_bytes,
        available_bytes=found.available_bytes,
    )


def read_back(pool: Pool, volume: str, path: Path) -> Path:
    with path.open("wb") as out:
        connections.hypervisor(pool.host).download_volume(
            pool.name, volume, out, lambda _done, _total: None
        )
    return path


@pytest.mark.parametrize("kind", ["qcow2", "raw"])
def test_copied_whole_cloned_true_and_deleted(
    kind: str, admin: User, real_pool: Pool, disk: Path, tmp_path: Path, work: Work
) -> None:
    path = disk if kind == "qcow2" else raw_disk(tmp_path / "disk.raw", 64 * MIB)
    image = services.add_file(actor=None, path=path, about=Details(name="x"), publish=True)
    at = connections.hypervisor(real_pool.host)
    copy = services.ensure_copy(image=image, pool=real_pool, actor=None)
    assert copy.job is not None
    job = work(copy.job)
    assert job.state == Job.State.SUCCEEDED, (job.error_code, job.error_ref)
    facts = at.volume("default", image.volume_name)
    assert (facts.format, facts.capacity_bytes) == (kind, 64 * MIB)
    arrived = read_back(real_pool, image.volume_name, tmp_path / "arrived")
    assert arrived.read_bytes() == files.stored(image).read_bytes()

    # A full copy at once: were the volume ever listed as raw, this would copy the wrong bytes.
    clone = VolumeSpec(pool="default", name="clone.qcow2", capacity_bytes=64 * MIB, format="qcow2")
    at.clone_volume("default", image.volume_name, clone, lambda _done, _total: None)
    try:
        read_back(real_pool, "clone.qcow2", tmp_path / "clone.qcow2")
        subprocess.run(
            ["qemu-img", "compare", "-f", image.format, "-F", "qcow2",
             str(path), str(tmp_path / "clone.qcow2")],
            check=True,
        )  # fmt: skip
    finally:
        at.delete_volume("default", "clone.qcow2")

    at.delete_volume("default", image.volume_name)  # by somebody outside
    again = services.ensure_copy(image=image, pool=real_pool, actor=None)
    assert again.state == ImageCopy.State.COPYING
    assert again.job is not None
    work(again.job)
    assert at.volume("default", image.volume_name).capacity_bytes == 64 * MIB

    job = work(services.delete(image, actor=admin))
    assert job.state == Job.State.SUCCEEDED, job.error_code
    assert image.volume_name not in {volume.name for volume in at.list_volumes("default")}
    assert not Image.objects.exists()
