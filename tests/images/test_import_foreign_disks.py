"""VMDK, VDI and OVA are taken apart, converted, and refused where they reach for other files."""

from __future__ import annotations

import io
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from accounts.errors import Invalid
from accounts.models import User
from jobs.models import Job
from tests.images.disks import patch, qemu_img, raw_disk
from tests.images.server import ImageServer
from vms.images import files, foreign, services
from vms.images.details import Details
from vms.models import Image

Work = Callable[[Job], Job]
OVF = """<?xml version="1.0"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
  <References>{files}</References>
  <DiskSection>{disks}</DiskSection>
</Envelope>"""
FILE = '<File ovf:id="f{n}" ovf:href="{href}"/>'
DISK = '<Disk ovf:diskId="d{n}" ovf:fileRef="f{n}" ovf:capacity="64"/>'


def disk_of(kind: str, path: Path) -> Path:
    """A real one, made by qemu-img from a raw disk with something in it."""
    source = raw_disk(path.with_suffix(".source"))
    options = ["-o", "subformat=streamOptimized"] if kind == "vmdk" else []
    qemu_img("convert", "-f", "raw", "-O", kind, *options, source, path)
    return path


def ova(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def ovf(*hrefs: str) -> bytes:
    numbered = list(enumerate(hrefs))
    listed = "".join(FILE.format(n=n, href=href) for n, href in numbered)
    return OVF.format(files=listed, disks="".join(DISK.format(n=n) for n, _ in numbered)).encode()


def good_ova(path: Path) -> Path:
    disk = disk_of("vmdk", path.with_suffix(".vmdk")).read_bytes()
    return ova(path, {"web.ovf": ovf("web-disk1.vmdk"), "web-disk1.vmdk": disk})


def ignored(_done: int, _all: int) -> None:
    return


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(Invalid) as caught:
        act()
    return caught.value.code


@pytest.mark.parametrize("kind", ["vmdk", "vdi", "ova"])
def test_one_by_address_becomes_a_qcow2_with_the_same_bytes(
    kind: str, admin: User, server: ImageServer, work: Work, image_dir: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"disk.{kind}"
    _ = good_ova(path) if kind == "ova" else disk_of(kind, path)
    server.files[f"/disk.{kind}"] = path.read_bytes()
    image, job = services.add_url(
        actor=admin, url=server.url(f"/disk.{kind}"), about=Details(name="Imported")
    )
    assert work(job).state == Job.State.SUCCEEDED, (job.error_code, job.error_params)
    image.refresh_from_db()
    assert (image.format, image.kind, image.state) == ("qcow2", "disk", "ready")
    assert [p.name for p in image_dir.iterdir()] == [f"{image.uuid}.qcow2"]
    back = tmp_path / "back.raw"
    qemu_img("convert", "-f", "qcow2", "-O", "raw", files.stored(image), back)
    wanted = raw_disk(tmp_path / "wanted.raw").read_bytes()
    assert back.read_bytes()[: len(wanted)] == wanted
    assert {step.key: step.state for step in job.steps.all()}["convert"] == "done"


def test_a_qcow2_is_not_converted(admin: User, server: ImageServer, disk: Path, work: Work) -> None:
    server.files["/disk.qcow2"] = disk.read_bytes()
    _image, job = services.add_url(
        actor=admin, url=server.url("/disk.qcow2"), about=Details(name="Plain")
    )
    assert work(job).state == Job.State.SUCCEEDED
    assert {step.key: step.state for step in job.steps.all()}["convert"] == "skipped"


def test_what_its_name_promises_must_hold(
    admin: User, server: ImageServer, work: Work, tmp_path: Path, image_dir: Path
) -> None:
    server.files["/disk.qcow2"] = disk_of("vmdk", tmp_path / "d").read_bytes()
    image, job = services.add_url(
        actor=admin, url=server.url("/disk.qcow2"), about=Details(name="Liar")
    )
    assert work(job).error_code == "image.format_differs"
    image.refresh_from_db()
    assert image.state == Image.State.FAILED
    assert list(image_dir.iterdir()) == []


class TestHostile:
    def test_a_vmdk_with_a_parent(self, tmp_path: Path) -> None:
        source = raw_disk(tmp_path / "s")
        path = tmp_path / "d.vmdk"
        qemu_img("convert", "-f", "raw", "-O", "vmdk", source, path)
        text = path.read_bytes()[512 : 512 + 1024].split(b"\0")[0]
        hint = text.replace(b"parentCID=ffffffff", b'parentFileNameHint="/etc/passwd"')
        patch(path, 512, hint[:1024])
        assert refusal(lambda: foreign.examine(path)) == "image.backing_file"

    def test_a_vmdk_whose_descriptor_names_its_extents(self, tmp_path: Path) -> None:
        path = disk_of("vmdk", tmp_path / "d.vmdk")
        patch(path, 12, struct.pack("<Q", 0))  # capacity 0: QEMU reads extents by name
        assert refusal(lambda: foreign.examine(path)) in {"image.corrupt", "image.vmdk_refused"}

    def test_a_vmdk_that_is_only_text(self, tmp_path: Path) -> None:
        path = tmp_path / "d.vmdk"
        path.write_text(
            '# Disk DescriptorFile\ncreateType="monolithicFlat"\nRW 8 FLAT "/etc/passwd" 0\n'
        )
        assert foreign.recognise(path) == ""  # so it is refused as no disk at all

    def test_a_vdi_with_a_parent(self, tmp_path: Path) -> None:
        path = patch(disk_of("vdi", tmp_path / "d.vdi"), 0x1A8, b"\x01" * 16)
        assert refusal(lambda: foreign.examine(path)) == "image.backing_file"

    def test_a_huge_one(self, tmp_path: Path) -> None:
        path = patch(disk_of("vdi", tmp_path / "d.vdi"), 0x170, struct.pack("<Q", 1 << 50))
        assert refusal(lambda: foreign.examine(path)) == "image.virtual_too_big"

    @pytest.mark.parametrize(
        ("members", "code"),
        [
            ({"../../etc/cron.d/x": b"x"}, "image.ova_refused"),
            ({"a/b.ovf": b"x"}, "image.ova_refused"),
            ({"disk.vmdk": b"KDMV"}, "image.ova_refused"),
            ({"w.ovf": b"<Envelope"}, "image.ova_refused"),
            ({"w.ovf": ovf()}, "image.ova_disks"),
            ({"w.ovf": ovf("a.vmdk", "b.vmdk")}, "image.ova_disks"),
            ({"w.ovf": ovf("/etc/passwd")}, "image.ova_disk_missing"),
            ({"w.ovf": ovf("d.vmdk"), "d.vmdk": b"QFI\xfb" + bytes(600)}, "image.ova_disk_format"),
        ],
    )
    def test_an_archive(self, members: dict[str, bytes], code: str, tmp_path: Path) -> None:
        path, target = ova(tmp_path / "w.ova", members), tmp_path / "out"
        assert refusal(lambda: foreign.unpack_ova(path, target, ignored)) == code

    def test_an_archive_with_a_link(self, tmp_path: Path) -> None:
        path = tmp_path / "w.ova"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
            link = tarfile.TarInfo("d.vmdk")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
        act = lambda: foreign.unpack_ova(path, tmp_path / "out", ignored)  # noqa: E731
        assert refusal(act) == "image.ova_refused"

    def test_an_archive_with_an_entity(self, tmp_path: Path) -> None:
        evil = (
            ovf("d.vmdk")
            .replace(
                b'<?xml version="1.0"?>',
                b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>',
            )
            .replace(b"d.vmdk", b"&e;")
        )
        path = ova(tmp_path / "w.ova", {"w.ovf": evil})
        act = lambda: foreign.unpack_ova(path, tmp_path / "out", ignored)  # noqa: E731
        assert refusal(act) in {"image.ova_refused", "image.ova_disk_missing"}
