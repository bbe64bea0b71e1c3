"""Disks of other virtualization: VMDK, VDI, and OVA, the archive that carries one.

They are taken apart and converted to qcow2; nothing of QEMU opens one before ``examine`` has
accepted it. What makes these formats dangerous is that they may name other files: a VMDK its
extents and its parent, an OVA whatever its archive holds. So only the kinds that stand in one file
are taken (VMDK monolithicSparse and streamOptimized, VDI without a parent), and of an OVA the one
disk that its description names, read from the archive and never unpacked by a name of the archive.

VMDK: https://github.com/libyal/libvmdk (documentation); VDI: QEMU's block/vdi.c;
OVF: DMTF DSP0243.
"""

from __future__ import annotations

import struct
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from django.conf import settings
from lxml import etree
from oslo_utils.imageutils import format_inspector

from accounts.errors import Invalid

GIB = 1024**3
VMDK_MAGIC = b"KDMV"
VDI_MAGIC_OFFSET, VDI_MAGIC = 0x40, struct.pack("<I", 0xBEDA107F)
VDI_HEADER_BYTES = 512
VDI_DYNAMIC, VDI_STATIC = 1, 2
TAR_MAGIC_OFFSET, TAR_MAGIC = 257, b"ustar"
OVF_BYTES_MAX = 1024 * 1024
OVA_MEMBERS_MAX = 64
_COPY_BYTES = 1024 * 1024
_HEAD_BYTES = 512

Progress = Callable[[int, int], None]  # (bytes done, bytes in all); may raise to stop


@dataclass(frozen=True, kw_only=True)
class Foreign:
    format: str  # vmdk | vdi, as qemu-img names it
    virtual_size_bytes: int


def recognise(path: Path) -> str:
    """``vmdk``, ``vdi`` or ``ova``, by the first bytes; empty for anything else."""
    with path.open("rb") as handle:
        head = handle.read(_HEAD_BYTES)
    if head.startswith(VMDK_MAGIC):
        return "vmdk"
    if head[VDI_MAGIC_OFFSET : VDI_MAGIC_OFFSET + 4] == VDI_MAGIC:
        return "vdi"
    if head[TAR_MAGIC_OFFSET : TAR_MAGIC_OFFSET + 5] == TAR_MAGIC:
        return "ova"
    return ""


def examine(path: Path) -> Foreign:
    """What the bytes of a VMDK or VDI say. Raises ``Invalid("image....")``."""
    kind = recognise(path)
    size = _vmdk(path) if kind == "vmdk" else _vdi(path) if kind == "vdi" else 0
    if size <= 0:
        raise Invalid("image.corrupt")
    limit_gib: int = settings.IMAGE_MAX_VIRTUAL_GIB
    if size > limit_gib * GIB:
        shown = -(-size // GIB)
        raise Invalid("image.virtual_too_big", virtual_gib=shown, limit_gib=limit_gib)
    return Foreign(format=kind, virtual_size_bytes=size)


def unpack_ova(path: Path, target: Path, progress: Progress) -> None:
    """Write the archive's one disk to ``target``. Raises ``Invalid("image.ova_...")``."""
    try:
        with tarfile.open(path, "r:") as archive:
            members = _members(archive)
            wanted = _disk_name(archive, members)
            disk = members.get(wanted)
            if disk is None:
                raise Invalid("image.ova_disk_missing")
            content = archive.extractfile(disk)
            if content is None:
                raise Invalid("image.ova_disk_missing")
            done = 0
            with target.open("wb") as copy:
                while chunk := content.read(_COPY_BYTES):
                    copy.write(chunk)
                    done += len(chunk)
                    progress(done, disk.size)
    except (tarfile.TarError, EOFError) as error:
        raise Invalid("image.corrupt") from error
    if recognise(target) not in {"vmdk", "vdi"}:
        raise Invalid("image.ova_disk_format")


def convert_command(source: Path, source_format: str, target: Path) -> list[str]:
    """``qemu-img`` with both formats given: nothing is probed."""
    formats = ["-f", source_format, "-O", "qcow2"]
    return ["qemu-img", "convert", "-p", *formats, str(source), str(target)]


# --- inside --------------------------------------------------------------------------------------


def _vmdk(path: Path) -> int:
    try:
        inspector = format_inspector.VMDKInspector.from_file(str(path))
        inspector.safety_check()
    except (format_inspector.SafetyCheckFailed, format_inspector.ImageFormatError) as error:
        raise Invalid("image.vmdk_refused") from error
    text: str = getattr(inspector, "desc_text", None) or ""
    # The inspector lets these pass; QEMU would open the parent that they name.
    if "parentfilenamehint" in text or _parent(text) not in {"", "ffffffff"}:
        raise Invalid("image.backing_file")
    # With a capacity of 0 QEMU takes its extents, by their names, from the descriptor.
    return int(inspector.virtual_size)


def _parent(descriptor: str) -> str:
    for line in descriptor.splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "parentcid":
            return value.strip().strip('"')
    return ""


def _vdi(path: Path) -> int:
    with path.open("rb") as handle:
        header = handle.read(VDI_HEADER_BYTES)
    if len(header) < VDI_HEADER_BYTES:
        raise Invalid("image.truncated")
    (kind,) = struct.unpack_from("<I", header, 0x4C)
    (size,) = struct.unpack_from("<Q", header, 0x170)
    parent = header[0x1A8 : 0x1A8 + 32]  # the parent's UUID and its modification's
    if kind not in {VDI_DYNAMIC, VDI_STATIC} or any(parent):
        raise Invalid("image.backing_file")
    return int(size)


def _members(archive: tarfile.TarFile) -> dict[str, tarfile.TarInfo]:
    """The plain files of the archive's top folder, by name; anything else in it is refused."""
    found: dict[str, tarfile.TarInfo] = {}
    for count, member in enumerate(archive, start=1):
        plain = PurePosixPath(member.name).name == member.name
        if count > OVA_MEMBERS_MAX or not member.isreg() or member.issparse() or not plain:
            raise Invalid("image.ova_refused")
        found[member.name] = member
    return found


def _disk_name(archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo]) -> str:
    """The file of the one disk that the OVF descriptor names."""
    ovf = next((m for name, m in members.items() if name.lower().endswith(".ovf")), None)
    content = archive.extractfile(ovf) if ovf and ovf.size <= OVF_BYTES_MAX else None
    if content is None:
        raise Invalid("image.ova_refused")
    parser = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False)
    try:
        root = etree.fromstring(content.read(), parser)
    except etree.XMLSyntaxError as error:
        raise Invalid("image.ova_refused") from error
    files = {_attribute(e, "id"): e for e in root.iter("{*}File")}
    disks = [files.get(_attribute(e, "fileRef")) for e in root.iter("{*}Disk")]
    real = [element for element in disks if element is not None]
    if len(real) != 1:
        raise Invalid("image.ova_disks", count=len(real))
    if _attribute(real[0], "compression") not in {"", "identity"}:
        raise Invalid("image.ova_disk_format")
    return _attribute(real[0], "href")


def _attribute(element: etree._Element, name: str) -> str:
    """With OVF's namespace or without, as tools write it."""
    for key, value in element.attrib.items():
        if etree.QName(key).localname == name:
            return str(value)
    return ""
