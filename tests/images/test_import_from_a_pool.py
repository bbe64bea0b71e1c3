"""A disk that lies in a host's pool is imported: chosen from a list, copied, and left as it is."""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from accounts.errors import Conflict, Forbidden, Invalid
from accounts.models import AuditEntry, User
from hosts import services as host_services
from hosts.models import Host, Pool, Untracked
from hosts.virt.errors import UnknownVirtError
from hosts.virt.fake import FakeHypervisor
from hosts.virt.spec import DiskSpec, DomainSpec, VolumeSpec
from jobs.models import Job
from tests.images.disks import qemu_img, raw_disk
from tests.images.test_import_foreign_disks import disk_of, good_ova
from vms.images import files, poolvolumes, services
from vms.images.details import Details
from vms.models import Image

Browser = Callable[[User], Client]
Work = Callable[[Job], Job]
MIB = 1024**2


@pytest.fixture
def put(
    fake: FakeHypervisor, host: Host, pool: Pool, work: Work
) -> Callable[[str, bytes], dict[str, Any]]:
    """``put(name, content)``: as an admin of the host would; the host is looked through after."""

    def run(name: str, content: bytes) -> dict[str, Any]:
        fake.create_volume(VolumeSpec(pool="default", name=name, capacity_bytes=64 * MIB))
        fake.upload_volume("default", name, io.BytesIO(content), len(content), lambda _a, _b: None)
        look(host, work)
        return {"pool": pool.pk, "volume": name}

    return run


Put = Callable[[str, bytes], dict[str, Any]]


def look(host: Host, work: Work) -> None:
    assert work(host_services.request_sweep(host, actor=None)).state == Job.State.SUCCEEDED


def use(fake: FakeHypervisor, volume: str, name: str = "theirs") -> uuid.UUID:
    """A domain of somebody outside of the site."""
    spec = DomainSpec(
        uuid=uuid.uuid4(),
        name=name,
        vcpus=1,
        memory_mib=64,
        disks=(DiskSpec(pool="default", volume=volume),),
    )
    fake.define(spec)
    return spec.uuid


def content_at(fake: FakeHypervisor, volume: str) -> bytes:
    out = io.BytesIO()
    fake.download_volume("default", volume, out, lambda _a, _b: None)
    return out.getvalue()


def made(kind: str, path: Path) -> bytes:
    if kind == "ova":
        return good_ova(path).read_bytes()
    if kind in {"vmdk", "vdi"}:
        return disk_of(kind, path).read_bytes()
    source = raw_disk(path.with_suffix(".source"))
    if kind == "raw":
        return source.read_bytes()
    qemu_img("convert", "-f", "raw", "-O", "qcow2", source, path)
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["qcow2", "raw", "vmdk", "vdi", "ova"])
def test_each_kind_becomes_an_image_and_stays_where_it_was(
    kind: str,
    admin: User,
    put: Put,
    fake: FakeHypervisor,
    work: Work,
    image_dir: Path,
    tmp_path: Path,
) -> None:
    content = made(kind, tmp_path / f"disk.{kind}")
    where = put(f"old-web.{kind}", content)
    image, job = services.add_volume(actor=admin, **where, about=Details(name="Old web"))
    assert work(job).state == Job.State.SUCCEEDED, (job.error_code, job.error_params)
    image.refresh_from_db()
    form = "raw" if kind == "raw" else "qcow2"
    assert (image.format, image.kind, image.state, image.source) == (form, "disk", "ready", "pool")
    back = tmp_path / "back.raw"
    qemu_img("convert", "-f", form, "-O", "raw", files.stored(image), back)
    wanted = raw_disk(tmp_path / "wanted.raw").read_bytes()
    assert back.read_bytes()[: len(wanted)] == wanted
    assert [p.name for p in image_dir.iterdir()] == [f"{image.uuid}.{form}"]
    assert content_at(fake, where["volume"]) == content
    steps = {step.key: step.state for step in job.steps.all()}
    assert (steps["pool"], steps["download"]) == ("done", "skipped")
    entry = AuditEntry.objects.get(verb="image.add")
    assert entry.after["volume"] == where["volume"]


class TestTheList:
    def test_says_what_lies_there_and_who_uses_it(
        self, admin: User, put: Put, fake: FakeHypervisor, host: Host, work: Work
    ) -> None:
        put("free.qcow2", b"x" * 600)
        put("base.qcow2", b"x" * 600)
        put("used.qcow2", b"x" * 600)
        fake.create_volume(
            VolumeSpec(
                pool="default",
                name="overlay.qcow2",
                capacity_bytes=MIB,
                backing_volume="base.qcow2",
                backing_format="qcow2",
            )
        )
        theirs = use(fake, "used.qcow2")
        look(host, work)
        users = {one.volume: one.used_by for one in poolvolumes.listed(admin)}
        assert users == {
            "free.qcow2": "",
            "base.qcow2": "overlay.qcow2",
            "overlay.qcow2": "",
            "used.qcow2": "theirs",
        }
        fake.undefine(theirs)
        look(host, work)
        assert {o.volume: o.used_by for o in poolvolumes.listed(admin)}["used.qcow2"] == ""

    def test_leaves_out_what_this_site_owns(
        self, admin: User, put: Put, vm: Any, pool: Pool, fake: FakeHypervisor
    ) -> None:
        adopted = vm.disks.get()
        adopted.volume, adopted.pool = "adopted.qcow2", pool
        adopted.save()
        seed = f"kvmweb-{vm.uuid}-seed.iso"
        lost_seed, lost = f"kvmweb-{uuid.uuid4()}-seed.iso", f"kvmweb-{uuid.uuid4()}-vda.qcow2"
        for name in ("adopted.qcow2", seed, lost_seed):
            fake.create_volume(VolumeSpec(pool="default", name=name, capacity_bytes=MIB))
        put(lost, b"x" * 600)
        assert [one.volume for one in poolvolumes.listed(admin)] == [lost]

    def test_has_at_most_so_many(
        self,
        admin: User,
        put: Put,
        fake: FakeHypervisor,
        host: Host,
        work: Work,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("vms.reconcile.STRANGE_VOLUMES_LISTED", 2)
        for name in ("c.raw", "a.raw", "b.raw"):
            put(name, b"x" * 600)
        assert [one.volume for one in poolvolumes.listed(admin)] == ["a.raw", "b.raw"]


class TestRefused:
    @pytest.fixture
    def where(self, put: Put, tmp_path: Path) -> dict[str, Any]:
        return put("old.raw", made("raw", tmp_path / "old.raw"))

    def ask(self, admin: User, where: dict[str, Any]) -> tuple[Image, Job]:
        return services.add_volume(actor=admin, **where, about=Details(name="Old"))

    def refused(self, job: Job, code: str, image_dir: Path) -> None:
        assert (job.state, job.error_code) == (Job.State.FAILED, code)
        assert Image.objects.get().state == Image.State.FAILED
        assert not image_dir.exists() or list(image_dir.iterdir()) == []

    def test_anybody_but_an_admin(
        self, owner: User, admin: User, where: dict[str, Any], browser: Browser
    ) -> None:
        for act in (
            lambda: self.ask(owner, where),
            lambda: poolvolumes.listed(owner),
            lambda: poolvolumes.look(actor=owner),
        ):
            with pytest.raises(Forbidden):
                act()
        client = browser(owner)
        body = {"name": "Old", **where}
        answer = client.post("/api/v1/images", body, content_type="application/json")
        assert answer.status_code == 403
        assert client.get("/api/v1/images/volumes").status_code == 403
        assert client.get("/admin/images/new/?source=pool").status_code == 403
        assert not Image.objects.exists()

    @pytest.mark.parametrize(
        "name",
        ["../../etc/shadow", "/etc/shadow", "default/old.raw", "old.raw\0", "", "OLD.RAW", "kept"],
    )
    def test_a_name_that_was_never_listed(
        self, name: str, admin: User, where: dict[str, Any], fake: FakeHypervisor
    ) -> None:
        fake.create_volume(VolumeSpec(pool="default", name="kept", capacity_bytes=MIB))
        with pytest.raises(Invalid) as caught:
            self.ask(admin, where | {"volume": name})
        assert caught.value.fields == {"volume": "image.volume_unknown"}
        assert not Job.objects.filter(kind="image.fetch").exists()

    def test_one_of_another_pool(self, admin: User, where: dict[str, Any]) -> None:
        with pytest.raises(Invalid):
            self.ask(admin, where | {"pool": where["pool"] + 1})

    def test_one_that_is_listed_as_used(
        self, admin: User, where: dict[str, Any], fake: FakeHypervisor, host: Host, work: Work
    ) -> None:
        use(fake, "old.raw")
        look(host, work)
        with pytest.raises(Conflict) as caught:
            self.ask(admin, where)
        assert (caught.value.code, caught.value.params["by"]) == ("image.volume_in_use", "theirs")

    def test_one_that_is_used_since(
        self,
        admin: User,
        where: dict[str, Any],
        fake: FakeHypervisor,
        work: Work,
        image_dir: Path,
    ) -> None:
        _image, job = self.ask(admin, where)
        use(fake, "old.raw")
        self.refused(work(job), "image.volume_in_use", image_dir)

    def test_one_that_a_machine_takes_during_the_copy(
        self,
        admin: User,
        where: dict[str, Any],
        fake: FakeHypervisor,
        work: Work,
        image_dir: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        plain = fake.download_volume

        def and_use(*args: Any) -> None:
            plain(*args)
            use(fake, "old.raw")

        monkeypatch.setattr(fake, "download_volume", and_use)
        _image, job = self.ask(admin, where)
        self.refused(work(job), "image.volume_in_use", image_dir)

    def test_one_that_is_gone_meanwhile(
        self,
        admin: User,
        where: dict[str, Any],
        fake: FakeHypervisor,
        work: Work,
        image_dir: Path,
    ) -> None:
        _image, job = self.ask(admin, where)
        fake.delete_volume("default", "old.raw")
        self.refused(work(job), "image.volume_gone", image_dir)

    def test_one_whose_pool_is_gone(
        self, admin: User, where: dict[str, Any], work: Work, image_dir: Path, pool: Pool
    ) -> None:
        _image, job = self.ask(admin, where)
        pool.delete()
        self.refused(work(job), "image.volume_gone", image_dir)

    def test_one_with_a_backing_file_by_the_hosts_word_or_by_its_bytes(
        self,
        admin: User,
        put: Put,
        fake: FakeHypervisor,
        host: Host,
        work: Work,
        image_dir: Path,
        tmp_path: Path,
    ) -> None:
        base = raw_disk(tmp_path / "base.raw")
        path = tmp_path / "diff.qcow2"
        qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", base, path)
        where = put("diff.qcow2", path.read_bytes())
        _image, job = self.ask(admin, where)
        self.refused(work(job), "image.backing_file", image_dir)
        Image.objects.all().delete()
        put("base.qcow2", b"x" * 600)
        fake.create_volume(
            VolumeSpec(
                pool="default",
                name="overlay.qcow2",
                capacity_bytes=MIB,
                backing_volume="base.qcow2",
                backing_format="qcow2",
            )
        )
        look(host, work)
        _image, job = self.ask(admin, where | {"volume": "overlay.qcow2"})
        self.refused(work(job), "image.backing_file", image_dir)

    def test_one_that_is_too_big(
        self,
        admin: User,
        where: dict[str, Any],
        work: Work,
        image_dir: Path,
        settings: Any,
    ) -> None:
        settings.IMAGE_MAX_FILE_GIB = 0
        _image, job = self.ask(admin, where)
        self.refused(work(job), "image.file_too_big", image_dir)

    def test_one_that_breaks_off_is_imported_by_a_second_try(
        self,
        admin: User,
        where: dict[str, Any],
        fake: FakeHypervisor,
        work: Work,
        image_dir: Path,
    ) -> None:
        fake.fail_next("download_volume", UnknownVirtError("no"))
        image, job = self.ask(admin, where)
        self.refused(work(job), "virt.unknown", image_dir)
        image.refresh_from_db()
        _image, again = services.fetch_again(image, actor=admin)
        assert work(again).state == Job.State.SUCCEEDED


def test_on_the_page(browser: Browser, admin: User, put: Put, tmp_path: Path, work: Work) -> None:
    client = browser(admin)
    path = "/admin/images/new/"
    assert "No disk is listed" in client.get(f"{path}?source=pool").content.decode()
    put("old.raw", made("raw", tmp_path / "old.raw"))
    row = Untracked.objects.get(name="old.raw")
    shown = client.get(f"{path}?source=pool").content.decode()
    assert "old.raw · " in shown
    body = {"source": "pool", "volume": str(row.pk), "name": "Old", "publish": "on"}
    wrong = client.post(path, body | {"volume": str(row.pk + 1)})
    assert wrong.status_code == 422
    assert client.post(path, body).status_code == 302
    job = Job.objects.get(kind="image.fetch")
    assert work(job).state == Job.State.SUCCEEDED
    assert Image.objects.get().published
    assert client.post(path, {"source": "look"}).status_code == 302
    assert Job.objects.filter(kind="host.sweep", state=Job.State.QUEUED).exists()


def test_by_the_api(browser: Browser, admin: User, put: Put, tmp_path: Path, work: Work) -> None:
    client = browser(admin)
    where = put("old.raw", made("raw", tmp_path / "old.raw"))
    listed = client.get("/api/v1/images/volumes").json()
    assert listed["count"] == 1
    (one,) = listed["items"]
    assert (one["pool_id"], one["volume"], one["used_by"]) == (*where.values(), "")
    send = {"content_type": "application/json"}
    wrong = client.post("/api/v1/images", {"name": "x", **where, "volume": "../x"}, **send)
    assert (wrong.status_code, wrong.json()["code"]) == (422, "image.volume_unknown")
    asked = client.post("/api/v1/images", {"name": "Old", **where}, **send)
    assert asked.status_code == 202, asked.content
    assert work(Job.objects.get(pk=asked.json()["job"]["id"])).state == Job.State.SUCCEEDED
    assert client.post("/api/v1/images/volumes").json()["jobs"][0]["kind"] == "host.sweep"
