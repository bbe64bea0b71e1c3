"""An admin adds an image by URL, from the catalogue, or by command; nobody else may."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import os
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client

from accounts.errors import DomainError, Forbidden
from accounts.models import AuditEntry, User
from jobs import services as job_services
from jobs.models import Job
from tests.images.disks import cut, qemu_img, raw_disk
from tests.images.server import ImageServer, redirect
from vms.images import catalogue, details, files, services, uploads
from vms.images.details import Details
from vms.models import VM, Disk, Image, ImageCopy

Work = Callable[[Job], Job]
ABOUT = Details(name="Debian 12", os_id="debian12", default_user="debian")


def in_dir(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


def add(admin: User, url: str, **changes: Any) -> tuple[Image, Job]:
    return services.add_url(actor=admin, url=url, about=changes.pop("about", ABOUT), **changes)


def test_by_url_to_the_end(
    admin: User, owner: User, server: ImageServer, disk: Path, sha256: str, work: Work,
    image_dir: Path,
) -> None:  # fmt: skip
    server.files["/disk.qcow2"] = disk.read_bytes()
    image, job = add(admin, server.url("/disk.qcow2"), checksum=sha256, publish=True)
    assert not Image.objects.visible_to(owner).exists()
    assert work(job).state == Job.State.SUCCEEDED, job.error_code
    image.refresh_from_db()
    assert (image.state, image.format, image.published) == ("ready", "qcow2", True)
    assert image.virtual_size_bytes == 64 * 1024**2
    assert image.file_size_bytes == disk.stat().st_size
    assert image.checksum == sha256
    assert image.icon == "debian"
    assert in_dir(image_dir) == [f"{image.uuid}.qcow2"]
    assert (image_dir / f"{image.uuid}.qcow2").read_bytes() == disk.read_bytes()
    assert (image_dir / f"{image.uuid}.qcow2").stat().st_mode & 0o077 == 0
    assert list(Image.objects.visible_to(owner)) == [image]
    assert AuditEntry.objects.filter(verb="image.add", actor=admin).exists()


def test_without_a_checksum_the_files_own_is_kept(
    admin: User, server: ImageServer, disk: Path, sha256: str, work: Work
) -> None:
    server.files["/disk.img"] = disk.read_bytes()
    image, job = add(admin, server.url("/disk.img"))
    work(job)
    image.refresh_from_db()
    assert (image.state, image.checksum, image.published) == ("ready", sha256, False)


def test_checksum_from_the_vendors_file(
    admin: User, server: ImageServer, disk: Path, work: Work
) -> None:
    digest = hashlib.sha512(disk.read_bytes()).hexdigest()
    server.files["/x/disk.img"] = disk.read_bytes()
    server.files["/x/SHA512SUMS"] = f"{digest}  disk.img\n".encode()
    image, job = add(admin, server.url("/x/disk.img"), checksum_url=server.url("/x/SHA512SUMS"))
    assert work(job).state == Job.State.SUCCEEDED
    image.refresh_from_db()
    assert (image.checksum_algorithm, image.checksum) == ("sha512", digest)


def hostile_overlay(tmp_path: Path) -> Path:
    path = tmp_path / "overlay.qcow2"
    qemu_img("create", "-f", "qcow2", "-u", "-b", "/etc/shadow", "-F", "raw", path, "1G")
    return path


def hostile_vmdk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.vmdk"
    qemu_img("create", "-f", "vmdk", "-o", "subformat=monolithicFlat", path, "64M")
    return path


def hostile_huge(tmp_path: Path) -> Path:
    path = tmp_path / "huge.qcow2"
    qemu_img("create", "-f", "qcow2", "-o", "cluster_size=2M", path, "60T")
    return path


def hostile_cut(tmp_path: Path) -> Path:
    path = tmp_path / "cut.raw"
    return cut(raw_disk(path, partition_sectors=14336), 4 * 1024**2)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (hostile_overlay, "image.backing_file"),
        (hostile_vmdk, "image.format_refused"),
        (hostile_huge, "image.virtual_too_big"),
        (hostile_cut, "image.truncated"),
    ],
)
def test_a_hostile_file_is_refused_and_removed_before_qemu_sees_it(
    make: Callable[[Path], Path],
    code: str,
    admin: User,
    server: ImageServer,
    tmp_path: Path,
    work: Work,
    image_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.files["/disk.img"] = make(tmp_path).read_bytes()
    image, job = add(admin, server.url("/disk.img"), publish=True)
    monkeypatch.setenv("PATH", "/nonexistent")  # no program could be started
    assert work(job).state == Job.State.FAILED
    image.refresh_from_db()
    assert (image.state, image.error_code, image.published) == ("failed", code, False)
    assert in_dir(image_dir) == []


def test_wrong_checksum_and_bad_redirect_leave_no_file(
    admin: User, server: ImageServer, disk: Path, work: Work, image_dir: Path
) -> None:
    server.files["/disk.img"] = disk.read_bytes()
    server.answers["/evil"] = redirect("https://169.254.169.254/latest/meta-data/")
    for number, (path, checksum, code) in enumerate(
        (
            ("/disk.img", "0" * 64, "image.checksum_mismatch"),
            ("/evil", "", "image.url_private"),
            ("/missing", "", "image.http_status"),
        )
    ):
        about = Details(name=f"image {number}")
        image, job = add(admin, server.url(path), checksum=checksum, about=about)
        assert work(job).error_code == code
        image.refresh_from_db()
        assert (image.state, image.error_code) == ("failed", code)
        assert in_dir(image_dir) == []


def test_try_again_after_the_vendor_mended_it(
    admin: User, server: ImageServer, disk: Path, work: Work
) -> None:
    image, job = add(admin, server.url("/disk.img"), publish=True)
    work(job)
    server.files["/disk.img"] = disk.read_bytes()
    again = job_services.retry(job, actor=admin)
    assert work(again).state == Job.State.SUCCEEDED
    image.refresh_from_db()
    assert (image.state, image.published, image.error_code) == ("ready", True, "")


@pytest.mark.django_db(transaction=True)
def test_cancel_in_the_middle_leaves_no_file(
    admin: User, server: ImageServer, work: Work, image_dir: Path
) -> None:
    pause = threading.Event()

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        Job.objects.update(cancel_requested=True)
        connection.close()
        with contextlib.suppress(OSError):  # until the other side hangs up
            while not pause.wait(0.05):
                handler.wfile.write(b"x" * 4096)

    server.answers["/disk.img"] = endless
    image, job = add(admin, server.url("/disk.img"))
    try:
        assert work(job).state == Job.State.CANCELLED
    finally:
        pause.set()
    image.refresh_from_db()
    assert (image.state, image.error_code) == ("failed", "image.fetch_cancelled")
    assert in_dir(image_dir) == []


def test_wrong_input_leaves_nothing(admin: User, image_dir: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"url": "http://example.org/x"}, "url"),
        ({"url": "https://10.0.0.1/x"}, "url"),
        ({"url": "https://example.org/x", "checksum": "12"}, "checksum"),
        ({"url": "https://example.org/x", "about": Details()}, "name"),
        ({"url": "https://example.org/x", "about": Details(name="a\nb")}, "name"),
        ({"url": "https://example.org/x", "about": Details(name="x" * 65)}, "name"),
        ({"url": "https://example.org/x", "about": Details(name="a", os_id="../x")}, "os_id"),
        ({"url": "https://example.org/x", "about": Details(name="a", default_user="root")},
         "default_user"),
        ({"url": "https://example.org/x", "about": Details(name="a", min_memory_mib=-1)},
         "min_memory_mib"),
    ]  # fmt: skip
    for case, field in cases:
        with pytest.raises(DomainError) as caught:
            add(admin, **case)
        assert list(caught.value.fields) == [field]
    assert not Image.objects.exists()
    assert not Job.objects.exists()


def test_a_name_is_taken_once(admin: User) -> None:
    add(admin, "https://example.org/x")
    with pytest.raises(DomainError) as caught:
        add(admin, "https://example.org/y")
    assert caught.value.fields == {"name": "image.name_taken"}
    assert Job.objects.count() == 1


def test_only_admins(owner: User, ready: Image) -> None:
    for call in (
        lambda: add(owner, "https://example.org/x"),
        lambda: services.publish(ready, actor=owner),
        lambda: services.unpublish(ready, actor=owner),
        lambda: services.retire(ready, actor=owner),
        lambda: services.edit(ready, actor=owner, about=Details(name="mine")),
        lambda: services.delete(ready, actor=owner),
        lambda: uploads.begin(actor=owner, size_bytes=1, file_name="x", about=ABOUT),
    ):
        with pytest.raises(Forbidden):
            call()
    ready.refresh_from_db()
    assert ready.name == "Debian 12"


# --- by command ---------------------------------------------------------------------------------


def command(**options: Any) -> str:
    out = StringIO()
    call_command("add_image", stdout=out, **options)
    return out.getvalue()


@pytest.mark.django_db
def test_the_command_adds_a_file_once(disk: Path, image_dir: Path) -> None:
    options = {"file": disk, "name": "Tiny Linux", "os_id": "tiny", "publish": True}
    assert "ready (qcow2" in command(**options)
    command(**options)
    image = Image.objects.get()
    assert (image.state, image.published, image.source) == ("ready", True, "built")
    assert in_dir(image_dir) == [f"{image.uuid}.qcow2"]
    # A rebuilt guest takes the name; the old one stays for the machines that stand on it.
    raw_disk(disk)
    command(**options)
    new = Image.objects.get(name="Tiny Linux")
    image.refresh_from_db()
    assert (new.format, image.state, image.published) == ("raw", "retired", False)
    assert image.name.startswith("Tiny Linux (")
    assert len(in_dir(image_dir)) == 2


@pytest.mark.django_db
def test_the_command_says_what_is_wrong(tmp_path: Path, image_dir: Path) -> None:
    with pytest.raises(CommandError, match="backing file"):
        command(file=hostile_overlay(tmp_path), name="x")
    with pytest.raises(CommandError, match="no such file"):
        command(file=tmp_path / "missing", name="x")
    with pytest.raises(CommandError, match="no admin"):
        command(url="https://example.org/x", name="x")
    assert not Image.objects.exists()
    assert in_dir(image_dir) == []


# --- what people do with images -----------------------------------------------------------------


def test_publish_retire_restore(admin: User, owner: User, ready: Image) -> None:
    assert Image.objects.visible_to(owner).count() == 1
    services.unpublish(ready, actor=admin)
    assert Image.objects.visible_to(owner).count() == 0
    services.publish(ready, actor=admin)
    services.retire(ready, actor=admin)
    assert Image.objects.visible_to(owner).count() == 0
    with pytest.raises(DomainError) as caught:
        services.publish(ready, actor=admin)
    assert caught.value.code == "image.wrong_state"
    restored = services.restore(ready, actor=admin)
    assert (restored.state, restored.published) == ("ready", False)


def test_edit(admin: User, ready: Image) -> None:
    about = Details(name="Debian", os_id="ubuntu24.04", min_memory_mib=512)
    services.edit(ready, actor=admin, about=about)
    ready.refresh_from_db()
    assert (ready.name, ready.icon, ready.min_memory_mib) == ("Debian", "ubuntu", 512)
    entry = AuditEntry.objects.get(verb="image.edit")
    assert entry.before["name"] == "Debian 12"
    assert entry.after["name"] == "Debian"


def test_delete_takes_files_copies_and_row(
    admin: User, ready: Image, fake: Any, pool: Any, work: Work, image_dir: Path
) -> None:
    copy = services.ensure_copy(image=ready, pool=pool, actor=None)
    assert copy.job is not None
    work(copy.job)
    assert fake.list_volumes("default")
    job = services.delete(ready, actor=admin)
    assert services.delete(ready, actor=admin) == job  # asked twice, done once
    assert work(job).state == Job.State.SUCCEEDED, job.error_code
    assert not Image.objects.exists()
    assert not ImageCopy.objects.exists()
    assert fake.list_volumes("default") == []
    assert in_dir(image_dir) == []


def test_delete_is_refused_while_a_machine_stands_on_it(
    admin: User, owner: User, ready: Image, make_vm: Callable[..., VM], team: Any, work: Work
) -> None:
    vm = make_vm(owner, team, "web-1", image=ready)
    Disk.objects.filter(vm=vm).update(backing_image=ready)
    with pytest.raises(DomainError) as caught:
        services.delete(ready, actor=admin)
    assert caught.value.code == "image.in_use"
    assert caught.value.params["machines"] == "web-1"
    VM.objects.filter(pk=vm.pk).update(deleted_at=dt.datetime.now(dt.timezone.utc))
    assert work(services.delete(ready, actor=admin)).state == Job.State.SUCCEEDED
    vm.refresh_from_db()
    assert vm.image is None


def test_files_that_nobody_owns_are_swept(ready: Image, image_dir: Path) -> None:
    stray = image_dir / "0b8f9b7e-6d2b-4ac4-9c46-3f1f0a3b7c11.part"
    fresh = image_dir / "1b8f9b7e-6d2b-4ac4-9c46-3f1f0a3b7c11.part"
    other = image_dir / "notes.txt"
    for path in (stray, fresh, other):
        path.touch()
    for path in (stray, other, files.stored(ready)):
        os.utime(path, (1, 1))
    uploads.tidy()
    assert not stray.exists()
    assert fresh.exists()
    assert other.exists()
    assert files.stored(ready).exists()


# --- the catalogue ------------------------------------------------------------------------------


def test_every_entry_of_the_catalogue_could_be_added(admin: User) -> None:
    names = set()
    for entry in catalogue.entries():
        image, _job = services.add_url(
            actor=admin, url=entry.url, about=entry.about(), checksum_url=entry.checksum_url
        )
        assert image.icon == entry.icon != "linux"
        assert details.family(image.os_id) == entry.icon
        names.add(image.name)
    assert len(names) == len(catalogue.entries()) >= 9


def test_os_families() -> None:
    families = {
        "debian12": "debian",
        "ubuntu24.04": "ubuntu",
        "alpinelinux3.22": "alpine",
        "tiny": "tiny",
        "linux2022": "linux",
        "win11": "linux",
        "": "linux",
    }
    assert {os_id: details.family(os_id) for os_id in families} == families


# --- over the API -------------------------------------------------------------------------------


def test_api_lists_what_a_person_may_use(
    api: Callable[..., Any], admin: User, owner: User, ready: Image
) -> None:
    services.add_url(actor=admin, url="https://example.org/x", about=Details(name="Other"))
    listed = api(owner).get("/images").json()
    assert listed["count"] == 1
    assert listed["items"][0]["name"] == "Debian 12"
    assert listed["items"][0]["url"] is None
    assert api(admin).get("/images").json()["count"] == 2
    hidden = Image.objects.get(name="Other")
    assert api(owner).get(f"/images/{hidden.pk}").status_code == 404
    assert api(owner).get(f"/images/{ready.pk}").json()["default_user"] == "debian"
    assert Client().get("/api/v1/images").status_code == 401


def test_api_adds_changes_and_deletes(
    api: Callable[..., Any], admin: User, owner: User, server: ImageServer, disk: Path, work: Work
) -> None:
    server.files["/disk.img"] = disk.read_bytes()
    body = {"name": "Debian 12", "os_id": "debian12", "url": server.url("/disk.img")}
    assert api(owner).post("/images", body).status_code == 403
    first = api(admin).post("/images", body, key="k1")
    assert first.status_code == 202
    assert api(admin).post("/images", body, key="k1").json() == first.json()
    assert Image.objects.count() == 1
    answer = first.json()
    assert answer["job"]["kind"] == "image.fetch"
    work(Job.objects.get(pk=answer["job"]["id"]))
    path = f"/images/{answer['image']['id']}"
    assert api(admin).get(path).json()["state"] == "ready"
    changed = api(admin).patch(path, {"published": True, "min_memory_mib": 256}).json()
    assert (changed["published"], changed["min_memory_mib"]) == (True, 256)
    assert api(owner).patch(path, {"name": "mine"}).status_code == 403
    assert api(admin).patch(path, {"format": "raw"}).status_code == 422
    retired = api(admin).patch(path, {"retired": True}).json()
    assert (retired["state"], retired["published"]) == ("retired", False)
    assert api(owner).delete(path).status_code == 403
    deleted = api(admin).delete(path)
    assert deleted.status_code == 202
    work(Job.objects.get(pk=deleted.json()["job"]["id"]))
    assert api(admin).get(path).status_code == 404


def test_api_refuses_with_the_field(api: Callable[..., Any], admin: User) -> None:
    answer = api(admin).post("/images", {"name": "x", "url": "http://127.0.0.1/x"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "url"
    assert api(admin).post("/images", {"name": "x"}).json()["code"] == "image.source_missing"
    answer = api(admin).post("/images", {"catalogue": "windows"})
    assert answer.json()["code"] == "image.catalogue_unknown"


def test_api_from_the_catalogue(api: Callable[..., Any], admin: User, owner: User) -> None:
    assert api(owner).get("/images/catalogue").status_code == 403
    keys = [entry["key"] for entry in api(admin).get("/images/catalogue").json()]
    assert "debian-12" in keys
    answer = api(admin).post("/images", {"catalogue": "debian-12"}).json()
    assert answer["image"]["url"].startswith("https://cloud.debian.org/")
    assert answer["image"]["name"] == "Debian 12"
