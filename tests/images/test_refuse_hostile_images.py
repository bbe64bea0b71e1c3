"""Every hostile or broken file that people know of is refused before QEMU's tools open it."""

from __future__ import annotations

import gzip
import shutil
import struct
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from accounts.errors import Invalid
from tests.images.disks import MIB, cut, gpt_disk, patch, qcow2_disk, qemu_img, raw_disk
from vms import seeds
from vms.images import inspect

pytestmark = pytest.mark.skipif(not shutil.which("qemu-img"), reason="qemu-img makes the files")


def refusal(path: Path, **kwargs: str) -> Invalid:
    """The refusal, which must come before any program is run."""

    def no_program(argv: list[str], _timeout_s: float) -> subprocess.CompletedProcess[bytes]:
        raise AssertionError(f"{argv} was run on a hostile file")

    with pytest.raises(Invalid) as caught:
        inspect.inspect(path, run=no_program, **kwargs)
    return caught.value


@pytest.mark.parametrize(
    "make",
    [
        qcow2_disk,
        lambda path: qcow2_disk(path, compressed=True),
        lambda path: qcow2_disk(path, compressed=True, options="compression_type=zstd"),
        lambda path: qcow2_disk(path, options="compat=0.10"),
        lambda path: qcow2_disk(path, options="cluster_size=2M"),
        lambda path: qcow2_disk(path, options="cluster_size=4096"),
        lambda path: qcow2_disk(path, options="preallocation=metadata"),
        lambda path: qcow2_disk(path, options="lazy_refcounts=on"),
    ],
)
def test_good_qcow2_is_taken(make: Callable[[Path], Path], tmp_path: Path) -> None:
    path = make(tmp_path / "disk.qcow2")
    facts = inspect.inspect(path)
    assert facts.format == "qcow2"
    assert facts.virtual_size_bytes == 64 * MIB
    assert facts.file_size_bytes == path.stat().st_size


@pytest.mark.parametrize("make", [raw_disk, gpt_disk])
def test_good_raw_is_taken(make: Callable[[Path], Path], tmp_path: Path) -> None:
    facts = inspect.inspect(make(tmp_path / "disk.raw"))
    assert (facts.format, facts.virtual_size_bytes) == ("raw", 8 * MIB)


def test_qcow2_with_backing_file(tmp_path: Path) -> None:
    path = tmp_path / "overlay.qcow2"
    qemu_img("create", "-f", "qcow2", "-u", "-b", "/etc/shadow", "-F", "raw", path, "1G")
    assert refusal(path).code == "image.backing_file"


def test_qcow2_with_only_a_backing_format(tmp_path: Path) -> None:
    path = tmp_path / "overlay.qcow2"
    qemu_img("create", "-f", "qcow2", "-u", "-b", "/etc/shadow", "-F", "raw", path, "1G")
    patch(path, 8, bytes(12))  # the name is unhooked, the extension is left
    assert refusal(path).code == "image.backing_file"


def test_qcow2_with_data_file(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    data = tmp_path / "data.raw"
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={data},data_file_raw=on", path, "64M")
    assert refusal(path).code == "image.data_file"


def test_qcow2_with_unknown_features(tmp_path: Path) -> None:
    path = patch(qcow2_disk(tmp_path / "d.qcow2"), 72, struct.pack(">Q", 1 << 40))
    assert refusal(path).code == "image.unknown_features"
    extended = tmp_path / "extended.qcow2"
    qemu_img("create", "-f", "qcow2", "-o", "extended_l2=on", extended, "64M")
    assert refusal(extended).code == "image.unknown_features"


def test_qcow2_marked_corrupt(tmp_path: Path) -> None:
    path = patch(qcow2_disk(tmp_path / "d.qcow2"), 72, struct.pack(">Q", 1 << 1))
    assert refusal(path).code == "image.corrupt"


def test_qcow2_version_1_and_4(tmp_path: Path) -> None:
    for version in (1, 4):
        path = patch(qcow2_disk(tmp_path / "d.qcow2"), 4, struct.pack(">I", version))
        assert refusal(path).code == "image.unknown_features"


@pytest.mark.parametrize("method", [1, 2])  # AES, LUKS
def test_qcow2_encrypted(tmp_path: Path, method: int) -> None:
    """The header's field says it: qemu-img's own LUKS needs a quiet machine to time itself."""
    path = patch(qcow2_disk(tmp_path / "luks.qcow2"), 32, struct.pack(">I", method))
    assert refusal(path).code == "image.encrypted"


def test_60_tib_virtual_size(tmp_path: Path) -> None:
    path = tmp_path / "huge.qcow2"
    qemu_img("create", "-f", "qcow2", "-o", "cluster_size=2M", path, "60T")
    assert path.stat().st_size < 8 * MIB
    error = refusal(path)
    assert error.code == "image.virtual_too_big"
    assert error.params == {"virtual_gib": 61440, "limit_gib": 256}


def test_virtual_size_at_the_limit(tmp_path: Path, settings: Any) -> None:
    settings.IMAGE_MAX_VIRTUAL_GIB = 1
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-f", "qcow2", path, "1G")
    assert inspect.inspect(path).virtual_size_bytes == 1024 * MIB
    qemu_img("create", "-f", "qcow2", path, 1024 * MIB + 512)
    assert refusal(path).code == "image.virtual_too_big"


@pytest.mark.parametrize("size", [1, 50, 100, 511])
def test_qcow2_cut_in_its_header(size: int, tmp_path: Path) -> None:
    code = refusal(cut(qcow2_disk(tmp_path / "d.qcow2"), size)).code
    assert code in {"image.truncated", "image.not_a_disk"}


@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("compressed", [False, True])
def test_truncated_qcow2(part: float, compressed: bool, tmp_path: Path) -> None:
    path = qcow2_disk(tmp_path / "d.qcow2", compressed=compressed)
    cut(path, int(path.stat().st_size * part))
    assert refusal(path).code == "image.truncated"


def test_qcow2_tables_outside_the_file(tmp_path: Path) -> None:
    for offset in (40, 48):  # L1 table, refcount table
        path = patch(qcow2_disk(tmp_path / "d.qcow2"), offset, struct.pack(">Q", 1 << 40))
        assert refusal(path).code == "image.truncated"
        patch(path, offset, struct.pack(">Q", 3))
        assert refusal(path).code == "image.corrupt"


def test_qcow2_with_silly_sizes(tmp_path: Path) -> None:
    for offset, value in ((20, 40), (20, 3), (36, 0xFFFFFFFF), (36, 0), (56, 0xFFFFFFFF)):
        path = patch(qcow2_disk(tmp_path / "d.qcow2"), offset, struct.pack(">I", value))
        assert refusal(path).code == "image.corrupt"


@pytest.mark.parametrize("name", ["vmdk", "vdi", "vhdx", "qed", "vpc", "parallels"])
def test_other_formats(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"disk.{name}"
    qemu_img("create", "-f", name, path, "64M")
    assert refusal(path).code == "image.format_refused"


def test_fixed_vhd_whose_header_is_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "disk.vhd"
    source = raw_disk(tmp_path / "disk.raw")
    qemu_img("convert", "-f", "raw", "-O", "vpc", "-o", "subformat=fixed", source, path)
    error = refusal(path)
    assert (error.code, error.params) == ("image.format_refused", {"format": "VHD"})


def test_vmdk_descriptor_that_names_a_host_file(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_text(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n"
        'createType="monolithicFlat"\nRW 8 FLAT "/etc/shadow" 0\n'
    )
    assert refusal(path).code == "image.format_refused"


def test_raw_that_is_a_qcow2(tmp_path: Path) -> None:
    """Declared raw, but QEMU would follow its backing file if it were ever probed."""
    overlay = tmp_path / "disk.raw"
    qemu_img("create", "-f", "qcow2", "-u", "-b", "/etc/shadow", "-F", "raw", overlay, "1G")
    assert refusal(overlay, declared="raw").code == "image.backing_file"
    error = refusal(qcow2_disk(tmp_path / "plain.raw"), declared="raw")
    assert error.code == "image.format_differs"
    assert error.params == {"declared": "raw", "found": "qcow2"}
    assert refusal(raw_disk(tmp_path / "x"), declared="qcow2").code == "image.format_differs"


def test_raw_with_a_qcow2_header_before_its_boot_sector_ends(tmp_path: Path) -> None:
    path = patch(raw_disk(tmp_path / "disk.raw"), 0, b"QFI\xfb\0\0\0\3")
    assert refusal(path).code == "image.ambiguous"


def test_an_iso_is_a_disc_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "installer.iso"
    path.write_bytes(seeds.build(seeds.Seed(instance_id="i", hostname="h")))
    assert inspect.inspect(path).kind == "iso"
    assert inspect.inspect(path, declared="raw").format == "raw"
    assert refusal(path, declared="qcow2").code == "image.format_differs"
    mbr = raw_disk(tmp_path / "x").read_bytes()[:512]
    assert inspect.inspect(patch(path, 0, mbr)).kind == "iso"  # a hybrid one, for USB sticks
    assert refusal(patch(path, 0, b"QFI\xfb\0\0\0\3")).code == "image.ambiguous"
    short = tmp_path / "short.iso"
    short.write_bytes(path.read_bytes()[: 40 * 1024])
    patch(short, 16 * 2048 + 80, (10**6).to_bytes(4, "little"))
    patch(short, 0, bytes(512))
    assert refusal(short).code == "image.truncated"


def test_files_that_are_no_disk(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    assert refusal(path).code == "image.empty_file"
    path.write_bytes(b"\n <!DOCTYPE html><html>Sign in</html>")
    assert refusal(path).code == "image.web_page"
    path.write_bytes(b"root:x:0:0::/root:/bin/sh\n" * 100)
    assert refusal(path).code == "image.not_a_disk"
    path.write_bytes(bytes(MIB))
    assert refusal(path).code == "image.not_a_disk"
    path.write_bytes(bytes(510) + b"\x55\xaa" + bytes(MIB - 512))
    assert refusal(path).code == "image.not_a_disk"


def test_compressed_files_say_to_unpack(tmp_path: Path) -> None:
    disk = raw_disk(tmp_path / "disk.raw")
    packed = tmp_path / "disk.gz"
    packed.write_bytes(gzip.compress(disk.read_bytes()))
    error = refusal(packed)
    assert (error.code, error.params) == ("image.compressed", {"kind": "gzip"})
    with tarfile.open(tmp_path / "disk.ova", "w") as archive:
        archive.add(disk, arcname="disk.raw")
    assert refusal(tmp_path / "disk.ova").params == {"kind": "tar"}


def test_truncated_raw(tmp_path: Path) -> None:
    assert refusal(cut(raw_disk(tmp_path / "odd"), 4 * MIB - 7)).code == "image.truncated"
    path = raw_disk(tmp_path / "mbr", partition_sectors=10**6)
    assert refusal(path).code == "image.truncated"
    assert refusal(cut(gpt_disk(tmp_path / "gpt"), 4 * MIB)).code == "image.truncated"


def test_qemu_has_the_last_word(tmp_path: Path) -> None:
    """A file whose headers please us, but whose refcounts do not please ``qemu-img check``."""
    path = qcow2_disk(tmp_path / "d.qcow2")
    refcount_table = struct.unpack(">Q", path.read_bytes()[48:56])[0]
    block = struct.unpack(">Q", path.read_bytes()[refcount_table : refcount_table + 8])[0]
    patch(path, block, bytes(64))  # clusters in use, counted as free
    with pytest.raises(Invalid) as caught:
        inspect.inspect(path)
    assert caught.value.code == "image.check_failed"


@hypothesis_settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(changes=st.lists(st.tuples(st.integers(0, 399), st.integers(0, 255)), max_size=6))
def test_a_damaged_header_never_crashes(changes: list[tuple[int, int]], tmp_path: Path) -> None:
    good = tmp_path / "good.qcow2"
    if not good.exists():
        qcow2_disk(good)
    data = bytearray(good.read_bytes())
    for offset, value in changes:
        data[offset] = value
    path = tmp_path / "damaged.qcow2"
    path.write_bytes(data)
    try:
        assert inspect.examine(path).format == "qcow2"
    except Invalid as error:
        assert error.code.startswith("image.")  # noqa: PT017 - both outcomes are right
