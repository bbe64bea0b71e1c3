"""Copies of the disks of running domains, and disks that let go of what they stand on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any
from uuid import UUID

import libvirt

from hosts.virt import parse, translate
from hosts.virt.client.volumes import VolumeCalls
from hosts.virt.connection import WORK_TIMEOUT_S
from hosts.virt.errors import OperationTimeout, UnknownVirtError, Unsupported, WrongState
from hosts.virt.protocol import Progress
from hosts.virt.spec import DiskCopy
from hosts.virt.xml.copies import backup_xml, copy_target_xml, is_mirrored

TICK_S = 0.5
STOP_WAIT_S = 60.0  # for a backup that was told to stop
COPY_FLAGS = (
    libvirt.VIR_DOMAIN_BLOCK_COPY_REUSE_EXT
    # libvirt asks for it of a domain that has a stored definition: the job ends with QEMU.
    | libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB
)


class CopyCalls(VolumeCalls):
    def copy_running(self, uuid: UUID, copies: Iterable[DiskCopy], progress: Progress) -> None:
        wanted = tuple(copies)
        self.stop_copies(uuid)
        paths = {
            copy.target: (self.volume(copy.pool, copy.volume).path, copy.shallow) for copy in wanted
        }
        try:
            for target, (path, shallow) in paths.items():
                begin = partial(_begin_copy, target=target, path=path, shallow=shallow)
                self._on_domain(uuid, begin)
            self._watch(uuid, partial(_copied, targets=tuple(paths)), progress)
            self._on_domain(uuid, lambda dom: _end_copies(dom, tuple(paths)), WORK_TIMEOUT_S)
        except BaseException:
            self.stop_copies(uuid)
            raise

    def begin_backup(self, uuid: UUID, copies: Iterable[DiskCopy]) -> None:
        self.stop_copies(uuid)
        paths = {copy.target: self.volume(copy.pool, copy.volume).path for copy in copies}
        self._on_domain(uuid, lambda dom: _begin_backup(dom, paths), WORK_TIMEOUT_S)

    def finish_backup(self, uuid: UUID, progress: Progress) -> None:
        try:
            self._watch(uuid, _backed_up, progress)
            self._on_domain(uuid, _judge_backup)
        except BaseException:
            self.stop_copies(uuid)
            raise

    def pull_backing(self, uuid: UUID, target: str, progress: Progress) -> None:
        self._on_domain(uuid, partial(_begin_pull, target=target), WORK_TIMEOUT_S)
        try:
            self._watch(uuid, partial(_pulled, target=target), progress)
        except BaseException:
            self.stop_copies(uuid)
            raise

    def stop_copies(self, uuid: UUID) -> None:
        with contextlib.suppress(WrongState):
            self._on_domain(uuid, _abort_backup, WORK_TIMEOUT_S)
            deadline = time.monotonic() + STOP_WAIT_S
            while self._on_domain(uuid, _is_backing_up):
                if time.monotonic() > deadline:
                    raise OperationTimeout(f"the backup did not stop within {STOP_WAIT_S:g} s")
                time.sleep(TICK_S)
            self._on_domain(uuid, _stop_copies, WORK_TIMEOUT_S)

    # --- private ------------------------------------------------------------------------------

    def _watch(
        self, uuid: UUID, look: Callable[[Any], tuple[int, int, bool]], progress: Progress
    ) -> None:
        """Until ``look`` says that it is over. ``progress`` is called in the caller's thread."""
        over = False
        while not over:
            done, total, over = self._on_domain(uuid, look)
            progress(done, total)
            if not over:
                time.sleep(TICK_S)


# --- block copy ----------------------------------------------------------------------------------


def _begin_copy(dom: Any, *, target: str, path: str, shallow: bool) -> None:
    flags = COPY_FLAGS | (libvirt.VIR_DOMAIN_BLOCK_COPY_SHALLOW if shallow else 0)
    dom.blockCopy(target, copy_target_xml(path), {}, flags)


def _copied(dom: Any, targets: tuple[str, ...]) -> tuple[int, int, bool]:
    """Over when all of them have caught up with their disk."""
    done = total = 0
    for target in targets:
        info = dom.blockJobInfo(target, 0)
        if not info:
            raise UnknownVirtError(f"the copy of {target} has ended by itself")
        done, total = done + int(info["cur"]), total + int(info["end"])
    return done, total, is_mirrored(dom.XMLDesc(0), targets)


def _end_copies(dom: Any, targets: tuple[str, ...]) -> None:
    """Ending a copy that has caught up leaves it as of that moment. Several: the guest stands
    still from the first to the last."""
    hold = len(targets) > 1 and dom.state()[0] == libvirt.VIR_DOMAIN_RUNNING
    if hold:
        dom.suspend()
    try:
        for target in targets:
            dom.blockJobAbort(target, 0)
    finally:
        if hold:
            dom.resume()


def _stop_copies(dom: Any) -> None:
    if not dom.isActive():
        return
    # Once told, libvirt forgets how the last backup ended: nobody takes it for that of the next.
    dom.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
    for target in parse.disk_files(dom.XMLDesc(0)):
        if dom.blockJobInfo(target, 0):
            dom.blockJobAbort(target, 0)


# --- libvirt's backup ----------------------------------------------------------------------------


def _begin_backup(dom: Any, paths: dict[str, str]) -> None:
    if not dom.isActive():
        raise WrongState("domain is not running")
    if not hasattr(dom, "backupBegin"):  # libvirt-python before 6.0
        raise Unsupported("no virDomainBackupBegin")
    flags = libvirt.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL
    dom.backupBegin(backup_xml(paths), None, flags)


def _is_backing_up(dom: Any) -> bool:
    if not dom.isActive():
        return False
    stats = dom.jobStats(0)
    return bool(
        stats.get("type", 0) and stats.get("operation") == libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP
    )


def _abort_backup(dom: Any) -> None:
    if _is_backing_up(dom):
        dom.abortJob()


def _backed_up(dom: Any) -> tuple[int, int, bool]:
    if not _is_backing_up(dom):
        return 0, 0, True
    stats = dom.jobStats(0)
    return int(stats.get("disk_processed", 0)), int(stats.get("disk_total", 0)), False


def _judge_backup(dom: Any) -> None:
    """A push that failed (no space) ends like one that did not, but for what is kept of it."""
    if not dom.isActive():
        raise WrongState("the domain stopped while it was backed up")
    stats = dom.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
    if stats.get("success"):
        return
    words = str(stats.get("errmsg", "")) or "libvirt does not tell how the backup ended"
    error = translate.error_class(libvirt.VIR_ERR_OPERATION_FAILED, 0, words)
    raise error(words)


# --- block pull ----------------------------------------------------------------------------------


def _begin_pull(dom: Any, target: str) -> None:
    """One that an earlier caller began is followed."""
    info = dom.blockJobInfo(target, 0)
    if info and info["type"] == libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_PULL:
        return
    if parse.stands_on(dom.XMLDesc(0), target):
        dom.blockPull(target, 0, 0)


def _pulled(dom: Any, target: str) -> tuple[int, int, bool]:
    info = dom.blockJobInfo(target, 0)
    if info:
        return int(info["cur"]), int(info["end"]), False
    if parse.stands_on(dom.XMLDesc(0), target):
        raise UnknownVirtError(f"pulling {target} has ended before it was done")
    return 0, 0, True
