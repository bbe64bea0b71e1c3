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
POOL_FOLDER = "/var/lib/libvirt/images"
LYING = ("raw", "vmdk")
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


def final(site: Site, job: dict[str, Any]) -> dict[str, Any]:
    """A job of an admin's once it is over."""

    def over() -> dict[str, Any] | None:
        found: dict[str, Any] = site.stack.api("GET", f"/jobs/{job['id']}", user="admin")
        return found if found["state"] in FINAL else None

    ended: dict[str, Any] = site.stack.wait(over, f"{job['kind']} is over")
    return ended


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

    assert final(site, job)["state"] == "succeeded"
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


def test_disks_that_lie_in_a_pool(site: Site) -> None:
    """Put there outside of the site, raw and VMDK; a third is only a difference."""
    name = f"lying-{secrets.token_hex(3)}"
    before = site.create(name)
    before.wait_ssh(timeout_s=BOOT_S)
    before.ssh(f"echo {name} > ~/proof && sync")
    site.stack.wait_final(site.stack.api("POST", f"/vms/{before.uuid}/force-off"))

    def at_host(*words: str) -> str:
        return before.lab.exec(before.host, *words).stdout

    own = f"{POOL_FOLDER}/kvmweb-{before.uuid}-vda.qcow2"
    files = {kind: f"{POOL_FOLDER}/{name}.{kind}" for kind in LYING}
    for kind, path in files.items():
        at_host("qemu-img", "convert", "-f", "qcow2", "-O", kind, own, path)
    diff = f"{POOL_FOLDER}/{name}-diff.qcow2"
    at_host("qemu-img", "create", "-f", "qcow2", "-F", "qcow2", "-b", own, diff)
    sums = at_host("sha256sum", *files.values())
    for job in site.stack.api("POST", "/images/volumes", user="admin")["jobs"]:
        assert final(site, job)["state"] == "succeeded"
    listed = site.stack.api("GET", "/images/volumes?page_size=200", user="admin")["items"]
    found = {one["volume"]: one for one in listed if one["host"] == before.host}
    assert Path(own).name not in found
    assert {found[f"{name}.{kind}"]["used_by"] for kind in LYING} == {""}

    def asked(volume: str) -> dict[str, Any]:
        one = found[volume]
        about = {"os_id": "tiny", "default_user": "tiny", "min_memory_mib": 64, "publish": True}
        where = {"pool": one["pool_id"], "volume": volume, "name": volume}
        job: dict[str, Any] = site.stack.api("POST", "/images", about | where, user="admin")["job"]
        return job

    jobs = [asked(f"{name}.{kind}") for kind in LYING]
    refused = final(site, asked(Path(diff).name))
    assert (refused["state"], refused["error"]["code"]) == ("failed", "image.backing_file")
    for job in jobs:
        assert final(site, job)["state"] == "succeeded", job
    after = {kind: site.create(f"{name}-{kind}", image=f"{name}.{kind}") for kind in LYING}
    for kind, guest in after.items():
        guest.wait_ssh(timeout_s=BOOT_S)
        assert guest.ssh("cat ~/proof").stdout.strip() == name, kind
    assert at_host("sha256sum", *files.values()) == sums
    at_host("rm", *files.values(), diff)
    gone = [site.stack.delete(guest.uuid) for guest in (*after.values(), before)]
    site.stack.wait_final(*gone)
