"""What UEFI remembers of a machine (boot entries, keys): half a MiB in a file beside its disks.

libvirt makes it at the first start and unlinks it with the domain. In the pool's directory it can
be copied through the volume API: an installed system often boots by the entry that its installer
wrote there, so a copy without it would not find its disk's boot loader. So it goes with clones, and
is kept with backups and versions of templates (``Image.nvram_name``), each time as a copy. It fits
only the firmware that wrote it.
"""

from __future__ import annotations

import hashlib
import io
from typing import Any

from accounts.errors import DomainError
from hosts.virt.errors import DomainBusy, NoSuchVolume
from hosts.virt.protocol import Hypervisor
from hosts.virt.spec import VolumeFacts, VolumeSpec
from jobs.registry import Park
from vms import at_host
from vms.models import VM, Image, ImageCopy

TRIES = 3  # at a file that the guest writes in the same moment
BUSY_POLL_S = 3.0

Place = tuple[str, str]  # pool, volume


def has(vm: VM) -> bool:
    return vm.firmware != "bios"


def name_of(vm: VM) -> str:
    return f"kvmweb-{vm.uuid}-nvram.fd"


def fits(image: Image | None, firmware: str) -> bool:
    """Whether a machine with this firmware gets what the image keeps."""
    if image is None or not image.nvram_checksum:
        return False
    kept_for: str = image.hardware.get("firmware", "bios")
    return kept_for == firmware


# --- of machines ---------------------------------------------------------------------------------


def copy(source: VM, vm: VM) -> None:
    """To a clone that is not defined yet. A source that never ran has none, and one that was
    adopted may have it elsewhere: then libvirt makes a fresh one. Idempotent; VirtError."""
    pool = _pool(source)
    if has(source) and pool:
        _copy(at_host.hypervisor(source), (pool, name_of(source)), (pool, name_of(vm)))


def remove(vm: VM) -> None:
    """What undefining has left of it. Idempotent; VirtError."""
    pool = _pool(vm)
    if has(vm) and vm.host is not None and pool:
        at_host.hypervisor(vm).delete_volume(pool, name_of(vm))


# --- of backups and versions of templates --------------------------------------------------------


def keep(vm: VM, image: Image, pool: str) -> tuple[str, int] | None:
    """A copy beside the image's file: its SHA-256 and length. None: there is none. What a guest
    writes meanwhile makes it copied again. Idempotent; VirtError, Park."""
    source = (_pool(vm), name_of(vm))
    if not has(vm) or not source[0]:
        return None
    at, target = at_host.hypervisor(vm), (pool, image.nvram_name)
    for _ in range(TRIES):
        if not _copy(at, source, target):
            return None
        found = _sum(at, target)
        if found == _sum(at, source):
            break
    return found


def columns(kept: tuple[str, int] | list[Any] | None) -> dict[str, Any]:
    """Of the image's row, from what ``keep`` said."""
    checksum, size = kept or ("", 0)
    return {"nvram_checksum": checksum, "nvram_size_bytes": size}


def compare(at: Hypervisor, image: Image) -> None:
    """Raise unless what was kept is what was written."""
    if not image.nvram_checksum:
        return
    try:
        checksum, _size = _sum(at, place_of(image))
    except NoSuchVolume as error:
        raise DomainError("nvram.missing", name=image.name) from error
    if checksum != image.nvram_checksum:
        raise DomainError("nvram.damaged", name=image.name)


def drop(at: Hypervisor, image: Image, pool: str) -> None:
    """Idempotent; VirtError."""
    if image.hardware.get("firmware", "bios") != "bios":
        at.delete_volume(pool, image.nvram_name)


def give(image: Image, vm: VM) -> None:
    """To a machine made from it, that is not defined yet. Idempotent; VirtError, DomainError."""
    at = at_host.hypervisor(vm)
    compare(at, image)
    _copy(at, place_of(image), (_pool(vm), name_of(vm)))


def place_of(image: Image) -> Place:
    """Where what it keeps lies."""
    row = ImageCopy.objects.select_related("pool").filter(image=image).first()
    if row is None:
        raise DomainError("image.file_missing", name=image.name)
    return row.pool.name, image.nvram_name


# --- another in its place, and back --------------------------------------------------------------


def set_aside(vm: VM, word: str) -> bool:
    """Keep what the machine, which is off, has now. False: it has nothing. Idempotent."""
    pool = _pool(vm)
    return _copy(at_host.hypervisor(vm), (pool, name_of(vm)), (pool, _aside(vm, word)))


def put(vm: VM, source: Place) -> None:
    """In its place. Idempotent; VirtError."""
    _copy(at_host.hypervisor(vm), source, (_pool(vm), name_of(vm)))


def put_back(vm: VM, word: str, *, had: bool) -> None:
    """What was set aside. Idempotent until ``forget``."""
    at, pool = at_host.hypervisor(vm), _pool(vm)
    if had:
        _copy(at, (pool, _aside(vm, word)), (pool, name_of(vm)))
    else:
        at.delete_volume(pool, name_of(vm))


def forget(vm: VM, word: str) -> None:
    """What was set aside."""
    at_host.hypervisor(vm).delete_volume(_pool(vm), _aside(vm, word))


# --- inside --------------------------------------------------------------------------------------


def _aside(vm: VM, word: str) -> str:
    return f"kvmweb-{vm.uuid}-nvram-{word}.fd"


def _copy(at: Hypervisor, source: Place, target: Place) -> bool:
    """False, and nothing done: there is no source."""
    facts = _look(at, source)
    if facts is None:
        return False
    spec = VolumeSpec(
        pool=target[0], name=target[1], capacity_bytes=facts.capacity_bytes, format="raw"
    )
    at.delete_volume(*target)  # of an attempt that died: it may be half a copy
    at.clone_volume(*source, spec, lambda _done, _all: None)
    return True


def _look(at: Hypervisor, place: Place) -> VolumeFacts | None:
    try:
        return at.volume(*place)
    except NoSuchVolume:
        pass  # libvirt made the file at a start, and its pool has not listed it since
    try:
        at.refresh_pool(place[0])
        return at.volume(*place)
    except NoSuchVolume:
        return None
    except DomainBusy as error:
        raise Park(BUSY_POLL_S, waiting_for="volume") from error


def _sum(at: Hypervisor, place: Place) -> tuple[str, int]:
    found = io.BytesIO()
    at.download_volume(*place, found, lambda _done, _all: None)
    content = found.getvalue()
    return hashlib.sha256(content).hexdigest(), len(content)


def _pool(vm: VM) -> str:
    disk = vm.disks.select_related("pool").order_by("id").first()
    return disk.pool.name if disk is not None and disk.pool is not None else ""
