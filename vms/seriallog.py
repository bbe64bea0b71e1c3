"""What a machine's serial line has said, as its host keeps it: a file beside its disks.

virtlogd writes it from the machine's first second, over restarts and crashes, and turns it over at
2 MiB (``NAME.0`` is the one before, at most three). Lying in the pool's directory it is read and
deleted through libvirt's volume API, so a remote host needs nothing of ours.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hosts import connections
from hosts.virt.errors import AlreadyExists, DomainBusy, NoSuchPool, NoSuchVolume
from hosts.virt.spec import VolumeSpec
from vms.models import VM

if TYPE_CHECKING:
    from hosts.models import Host

# What virtlogd calls them, the newest first (virtlogd.conf: max_backups = 3).
TURNS = ("", ".0", ".1", ".2")
FILE_MOST_BYTES = 4 << 20  # twice virtlogd's max_size, should an admin have raised it


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the log lies. Reading it asks the host and no database."""

    host: Host
    pool: str
    name: str

    def read_end(self, most_bytes: int) -> bytes:
        """The newest ``most_bytes``. Empty: nothing was kept. Blocks; VirtError."""
        found = b""
        for turn in TURNS[:2]:
            part = self._read(turn, most_bytes - len(found))
            found = part + found
            if not part or len(found) >= most_bytes:
                break
        return found

    def read_all(self) -> bytes:
        """All that is kept, the oldest first; some MiB. Blocks; VirtError."""
        return b"".join(self._read(turn, FILE_MOST_BYTES) for turn in reversed(TURNS))

    def make(self) -> None:
        """An empty file, so that the pool knows it before virtlogd writes. Idempotent."""
        spec = VolumeSpec(pool=self.pool, name=self.name, capacity_bytes=0, format="raw")
        with contextlib.suppress(AlreadyExists):
            connections.hypervisor(self.host).create_volume(spec)

    def remove(self) -> None:
        """Idempotent; VirtError."""
        at = connections.hypervisor(self.host)
        at.delete_volume(self.pool, self.name)
        # The pool hears of the older ones by a refresh, which it refuses while something is being
        # copied into it. Nobody waits for that: the sweep deletes what is left.
        with contextlib.suppress(DomainBusy):
            at.refresh_pool(self.pool)
        for turn in TURNS:
            at.delete_volume(self.pool, self.name + turn)

    def _read(self, turn: str, most_bytes: int) -> bytes:
        at = connections.hypervisor(self.host)
        try:
            try:
                return at.read_volume_end(self.pool, self.name + turn, most_bytes)
            except NoSuchVolume:
                at.refresh_pool(self.pool)
                return at.read_volume_end(self.pool, self.name + turn, most_bytes)
        except (NoSuchVolume, NoSuchPool, DomainBusy):
            return b""


def name_of(vm: VM) -> str:
    return f"kvmweb-{vm.uuid}-serial.log"


def place(vm: VM) -> Place | None:
    """Beside the machine's first disk. None: it has no host or no disk yet."""
    disk = vm.disks.select_related("pool__host").order_by("id").first()
    if vm.host is None or disk is None or disk.pool is None:
        return None
    return Place(host=vm.host, pool=disk.pool.name, name=name_of(vm))


def make(vm: VM) -> None:
    """Before the domain is defined. Idempotent; VirtError."""
    if (found := place(vm)) is not None:
        found.make()


def remove(vm: VM) -> None:
    """Delete it from the machine's host. Idempotent; VirtError."""
    if (found := place(vm)) is not None:
        found.remove()
