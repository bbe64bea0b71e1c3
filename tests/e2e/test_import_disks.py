"""Disks of other programs: written in a guest, uploaded, converted, and read in a guest again."""

from __future__ import annotations

import secrets
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.guests import Guest
from tests.e2e.site import TEAM, Site
from tests.images.test_import_foreign_disks import ovf

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

BOOT_S = 180
BOOTED = ("vmdk", "vdi", "ova")
FORMATS = ("qcow2", *BOOTED)
FINAL = ("succeeded", "failed", "cancelled")


def qemu_img(*words: object) -> str:
    done = subprocess.run(
        ["qemu-img", *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"qemu-img {words}: {done.stdout}{done.stderr}"
    return done.stdout


def made_elsewhere(kind: str, source: Path) -> Path:
    """The disk as another program would hand it over, by qemu-img."""
    path = source.with_suffix(f".made.{kind}")
    if kind == "ova":
        disk = made_elsewhere("vmdk", source)
        description = source.with_suffix(".ovf")
        description.write_bytes(ovf("web-disk1.vmdk"))
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
            archive.add(description, "web.ovf")
            archive.add(disk, "web-disk1.vmdk")
        return path
    options = ["-o", "subformat=streamOptimized"] if kind == "vmdk" else []
    qemu_img("convert", "-f", "qcow2", "-O", kind, *options, source, path)
    return path


def uploaded(site: Site, path: Path, name: str) -> dict[str, Any]:
    """As the page does it: announced, then sent in pieces; published when it is converted."""
    about = {
        "name": name,
        "size_bytes": path.stat().st_size,
        "file_name": path.name,
        "publish": True,
        "os_id": "tiny",
        "default_user": "tiny",
        "min_memory_mib": 64,
        "has_cloud_init": True,
    }
    image: dict[str, Any] = site.stack.api("POST", "/images/uploads", about, user="admin")
    offset = 0
    job: dict[str, Any] | None = None
    with path.open("rb") as source:
        while piece := source.read(image["upload"]["chunk_bytes"]):
            answer = httpx.patch(
                f"{site.stack.url}/api/v1/images/{image['id']}/upload",
                content=piece,
                headers={
                    "Authorization": f"Bearer {site.stack.tokens['admin']}",
                    "Upload-Offset": str(offset),
                },
                timeout=60,
            )
            assert answer.is_success, answer.text
            offset, job = answer.json()["offset"], answer.json()["job"]
    assert job is not None

    def job_state() -> str | None:
        found = site.stack.api("GET", f"/jobs/{job['id']}", user="admin")
        return found["state"] if found["state"] in FINAL else None

    assert site.stack.wait(job_state, f"{name} is converted") == "succeeded"
    return image


def stored(site: Site, image: dict[str, Any]) -> Path:
    (found,) = site.stack.var.rglob(f"{image['uuid']}.*")
    return found


def test_what_was_written_before_is_read_after(site: Site, tmp_path: Path) -> None:
    name = f"moved-{secrets.token_hex(3)}"
    before = site.create(name)
    before.wait_ssh(timeout_s=BOOT_S)
    before.ssh(f"echo {name} > ~/proof && sync")
    (job,) = site.stack.wait_final(site.stack.api("POST", f"/vms/{before.uuid}/force-off"))
    assert job["state"] == "succeeded", job
    disk = f"/var/lib/libvirt/images/kvmweb-{before.uuid}-vda.qcow2"
    source = tmp_path / "disk.qcow2"
    convert = ("qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", disk, str(source))
    before.lab.exec(before.host, *convert)
    images = {
        kind: uploaded(site, made_elsewhere(kind, source), f"{name}-{kind}") for kind in FORMATS
    }
    for kind, image in images.items():
        ours = stored(site, image)
        assert ours.suffix == ".qcow2"
        said = qemu_img("compare", "-f", "qcow2", "-F", "qcow2", source, ours)
        assert "identical" in said, kind
    # All at once: each waits for its guest, not for the others'.
    answers = {
        kind: site.stack.create(
            name=f"{name}-{kind}",
            team=TEAM,
            image=f"{name}-{kind}",
            ssh_keys=[site.public_key],
        )
        for kind in BOOTED
    }
    for kind, answer in answers.items():
        after: Guest = site.guest(answer["vm"]["uuid"])
        after.wait_ssh(timeout_s=BOOT_S)
        assert after.ssh("cat ~/proof").stdout.strip() == name, kind
    site.stack.wait_final(*answers.values(), timeout_s=BOOT_S)
    gone = [site.stack.delete(answer["vm"]["uuid"]) for answer in answers.values()]
    gone.append(site.stack.delete(before.uuid))
    site.stack.wait_final(*gone)
