"""The steps of ``vm.migrate``. At every moment the machine is whole on one of the two hosts.

The new files are made under the names that they have; nothing takes them for whole before the
domain is defined there and no more here. That is the turn: before it whatever was made there goes
again, after it the rows follow (``_settle``), and a job of its own deletes what is left here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, cast

from django.db import transaction

from accounts.errors import Conflict, DomainError
from hosts import connections
from hosts.models import Host, Pool
from hosts.virt.errors import NoSuchDomain, NoSuchVolume, UnknownVirtError, WrongState
from hosts.virt.spec import DomainState, VolumeSpec
from jobs import services as job_services
from vms import at_host, nvram, power, seriallog, state, timeline
from vms.deletion import patiently
from vms.images import qcow2
from vms.models import VM, Disk
from vms.moving import places
from vms.moving.requests import LEAVE
from vms.provisioning.steps import afresh, bring, delete_volume

if TYPE_CHECKING:
    from hosts.virt.protocol import Hypervisor, VolumeReader
    from hosts.virt.spec import DomainFacts, VolumeFacts
    from jobs.context import JobContext
    from jobs.models import Job

# libvirt's reasons of a domain that has not arrived yet, or that stands still to leave.
_IN_BETWEEN = ("migrating", "starting")


@dataclass(frozen=True, kw_only=True)
class _Way:
    vm: VM
    source: Host
    target: Host
    pool: Pool  # there
    here: Hypervisor
    there: Hypervisor

    @property
    def pools(self) -> dict[str, str]:
        """All that it has goes into one pool."""
        names = {disk.pool.name for disk in self.disks if disk.pool is not None}
        return dict.fromkeys(names, self.pool.name)

    @property
    def disks(self) -> list[Disk]:
        return list(self.vm.disks.select_related("pool", "backing_image"))


@contextmanager
def _way(ctx: JobContext) -> Iterator[_Way]:
    """With connections of its own: one libvirt hands the domain to the other."""
    source = Host.objects.get(pk=ctx.params["from"])
    target = Host.objects.get(pk=ctx.params["to"])
    here, there = connections.open_new(source), connections.open_new(target)
    try:
        yield _Way(
            vm=at_host.machine(ctx),
            source=source,
            target=target,
            pool=Pool.objects.get(pk=ctx.params["pool"]),
            here=here,
            there=there,
        )
    finally:
        here.close()
        there.close()


def target_of(ctx: JobContext) -> list[Host]:
    return list(Host.objects.filter(pk=ctx.params["to"]))


def runs(ctx: JobContext) -> bool:
    return bool(ctx.params["live"])


def is_off(ctx: JobContext) -> bool:
    return not runs(ctx)


def has_images(ctx: JobContext) -> bool:
    return bool(ctx.params["images"])


def bring_images(ctx: JobContext) -> None:
    pool = Pool.objects.select_related("host").get(pk=ctx.params["pool"])
    for image in places.images(at_host.machine(ctx)):
        bring(ctx, image, pool)


# --- one that runs -------------------------------------------------------------------------------


def move(ctx: JobContext) -> None:
    with _way(ctx) as way:
        if not _has_arrived(way):
            _remember_files(ctx, way)
            _stand_firm(way)
            _make_volumes(ctx, way)

            def progress(done: int, total: int) -> None:
                ctx.progress(done / total if total else None)

            address = way.target.address
            uuid = way.vm.uuid
            try:
                way.here.move_running(uuid, way.there, way.pools, progress, address=address)
            except (UnknownVirtError, WrongState) as error:
                facts = _find(way.here, way.vm)
                if facts is not None and facts.state is DomainState.SHUTOFF:
                    raise Conflict("vm.why.move_stopped", name=way.vm.name) from error
                raise
        _settle(ctx, way)


def stay(ctx: JobContext) -> None:
    """It runs here as before, and nothing of it is there; unless it has arrived."""
    with _way(ctx) as way:
        if not _is_here(way):
            _settle(ctx, way)
            return
        facts = _find(way.here, way.vm)
        if facts is not None and facts.state is DomainState.RUNNING:
            _stand_firm(way)
        _drop_there(way)
    at_host.look(at_host.machine(ctx))


def _stand_firm(way: _Way) -> None:
    """Nothing of an attempt that died is under way, and the guest runs."""
    way.here.stop_moving(way.vm.uuid)
    facts = _find(way.here, way.vm)
    if facts is None or facts.state is not DomainState.RUNNING:
        raise Conflict("vm.why.move_stopped", name=way.vm.name)
    arriving = _find(way.there, way.vm)
    if arriving is not None:
        way.there.force_off(way.vm.uuid)
        way.there.undefine(way.vm.uuid)
    if facts.reason == "migrating":
        way.here.resume(way.vm.uuid)


def _make_volumes(ctx: JobContext, way: _Way) -> None:
    """Empty ones, as large and standing on the same image as those here."""
    for disk in way.disks:
        ctx.checkpoint()
        image = disk.backing_image
        spec = VolumeSpec(
            pool=way.pool.name,
            name=disk.volume,
            capacity_bytes=_volume(way, disk).capacity_bytes,
            format=disk.format,
            backing_volume=image.volume_name if image else None,
            backing_format=image.format if image else None,
        )
        afresh(way.there, spec, partial(way.there.create_volume, spec))
    _log_there(way).make()


# --- one that is off -----------------------------------------------------------------------------


def copy(ctx: JobContext) -> None:
    with _way(ctx) as way:
        if not _is_here(way):
            return
        _remember_files(ctx, way)
        _must_be_off(way)
        files = ctx.data["files"]
        for index, (pool, name) in enumerate(files):
            _carry(ctx, way, pool, name, before=index / len(files), share=1 / len(files))
        way.there.refresh_pool(way.pool.name)
        for disk in way.disks:
            _compare(way, disk)


def switch(ctx: JobContext) -> None:
    with _way(ctx) as way:
        if _find(way.here, way.vm) is not None:
            _must_be_off(way)
            for disk in way.disks:
                _compare(way, disk)
            way.here.send_definition(way.vm.uuid, way.there, way.pools)
            _must_be_off(way)
        elif _find(way.there, way.vm) is None:
            raise NoSuchDomain(str(way.vm.uuid))
        _settle(ctx, way)


def drop_definition(ctx: JobContext) -> None:
    with _way(ctx) as way:
        if not _is_here(way):
            _settle(ctx, way)
        elif _find(way.there, way.vm) is not None:
            way.there.undefine(way.vm.uuid)


def drop_copies(ctx: JobContext) -> None:
    with _way(ctx) as way:
        if _is_here(way):
            _drop_there(way)
    at_host.look(at_host.machine(ctx))


def _must_be_off(way: _Way) -> None:
    facts = _find(way.here, way.vm)
    if facts is not None and facts.state in at_host.ON:
        raise Conflict("vm.why.move_started", name=way.vm.name)


def _carry(
    ctx: JobContext, way: _Way, pool: str, name: str, *, before: float, share: float
) -> None:
    """One file as it is, byte for byte, through this worker; but for where what it stands on lies
    there."""
    facts = way.here.volume(pool, name)
    spec = VolumeSpec(
        pool=way.pool.name,
        name=name,
        capacity_bytes=facts.capacity_bytes,
        format=facts.format or "raw",
    )

    def progress(done: int, total: int) -> None:
        ctx.progress(before + share * (done / total if total else 0))

    afresh(way.there, spec, partial(way.there.create_volume, spec))
    reader = way.here.open_volume(pool, name)
    try:
        length = reader.size_bytes
        if length:
            source = cast("BinaryIO", _Pieces(reader, _base_there(way, name)))
            way.there.upload_volume(spec.pool, name, source, length, progress)
    finally:
        reader.close()


def _base_there(way: _Way, volume: str) -> str:
    """Empty: it stands on nothing, or on a file that lies in the same place."""
    image = next((disk.backing_image for disk in way.disks if disk.volume == volume), None)
    if image is None:
        return ""
    path = way.there.volume(way.pool.name, image.volume_name).path
    return path if path != way.here.volume(_pool_of(way, volume), image.volume_name).path else ""


def _pool_of(way: _Way, volume: str) -> str:
    return next(d.pool.name for d in way.disks if d.volume == volume and d.pool is not None)


class _Pieces:
    """What a volume's reader gives, in the sizes that are asked for. ``base``: the path of what a
    qcow2 file stands on where it goes to."""

    def __init__(self, reader: VolumeReader, base: str) -> None:
        self._reader = reader
        self._rest = b""
        if base:
            self._gather(qcow2.MAX_CLUSTER_BYTES)
            self._rest = qcow2.stand_on(self._rest, base)

    def read(self, size: int) -> bytes:
        self._gather(size)
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def _gather(self, size: int) -> None:
        while len(self._rest) < size and (piece := self._reader.read()):
            self._rest += piece


def _compare(way: _Way, disk: Disk) -> None:
    """Its copy is there, as large in both its sizes."""
    mine, theirs = _volume(way, disk), way.there.volume(way.pool.name, disk.volume)
    lengths = []
    for at, facts in ((way.here, mine), (way.there, theirs)):
        reader = at.open_volume(facts.pool, facts.name)
        lengths.append(reader.size_bytes)
        reader.close()
    if mine.capacity_bytes != theirs.capacity_bytes or lengths[0] > lengths[1]:
        raise DomainError("vm.move_differs", name=disk.volume, host=way.target.name)


# --- both ----------------------------------------------------------------------------------------


def _find(at: Hypervisor, vm: VM) -> DomainFacts | None:
    try:
        return at.domain(vm.uuid)
    except NoSuchDomain:
        return None


def _has_arrived(way: _Way) -> bool:
    """One that ran: it runs there, and here it is gone, or stands still to go."""
    there, here = _find(way.there, way.vm), _find(way.here, way.vm)
    if there is None:
        return False
    if here is None:
        return True
    runs_there = there.state in at_host.ON and there.reason not in _IN_BETWEEN
    return runs_there and (here.state not in at_host.ON or here.reason == "migrating")


def _is_here(way: _Way) -> bool:
    """Before the turn. What neither host knows was removed by hand: its files here are all that
    there is of it."""
    return way.vm.host_id != way.target.pk and not _has_arrived(way)


def _remember_files(ctx: JobContext, way: _Way) -> None:
    """(pool, name) here: disks, NVRAM, serial log."""
    if "files" in ctx.data:
        return
    disks = [disk for disk in way.disks if disk.pool is not None]
    files = [[disk.pool.name, disk.volume] for disk in disks if disk.pool is not None]
    beside = [f"{seriallog.name_of(way.vm)}{turn}" for turn in seriallog.TURNS]
    if nvram.has(way.vm):
        beside.append(nvram.name_of(way.vm))
    pool = files[0][0]
    way.here.refresh_pool(pool)
    for name in beside:
        try:
            way.here.volume(pool, name)
        except NoSuchVolume:
            continue
        files.append([pool, name])
    ctx.save_data(files=files)


def _volume(way: _Way, disk: Disk) -> VolumeFacts:
    if disk.pool is None:
        raise RuntimeError("a machine that can move has its disks in pools")
    return way.here.volume(disk.pool.name, disk.volume)


def _log_there(way: _Way) -> seriallog.Place:
    name = seriallog.name_of(way.vm)
    return seriallog.Place(host=way.target, pool=way.pool.name, name=name)


def _drop_there(way: _Way) -> None:
    """Only while it is here."""
    if _find(way.there, way.vm) is not None:
        way.there.force_off(way.vm.uuid)
        way.there.undefine(way.vm.uuid)
    for disk in way.disks:
        delete_volume(way.there, way.pool.name, disk.volume)
    if nvram.has(way.vm):
        delete_volume(way.there, way.pool.name, nvram.name_of(way.vm))
    _log_there(way).remove()


def _settle(ctx: JobContext, way: _Way) -> None:
    """It is there: no more here, and its rows say so. Idempotent."""
    if way.vm.host_id == way.target.pk:
        return
    left = _find(way.here, way.vm)
    if left is not None:
        if left.reason == "migrating":  # it stands still: its guest runs there
            way.here.force_off(way.vm.uuid)
        way.here.undefine(way.vm.uuid)
    with transaction.atomic():
        row = VM.objects.select_for_update().get(pk=way.vm.pk)
        row.host, row.moving_to = way.target, None
        row.save(update_fields=["host", "moving_to"])
        row.disks.update(pool=way.pool)
        names = {"was": way.source.name, "host": way.target.name}
        timeline.record(row, "moved", actor=ctx.actor, job=ctx.job, **names)
        job_services.enqueue(
            LEAVE,
            actor=None,
            host=way.source,
            target_name=row.name,
            params={"vm": row.pk, "files": ctx.data["files"]},
        )
        state.announce(row)
    at_host.look(at_host.machine(ctx))


# --- how it ends ---------------------------------------------------------------------------------


def succeeded(job: Job) -> None:
    _not_moving(job)
    power.succeeded(job)


def failed(job: Job) -> None:
    _not_moving(job)
    power.failed(job)


def _not_moving(job: Job) -> None:
    if job.vm is not None:
        VM.objects.filter(pk=job.vm.pk).update(moving_to=None)


# --- host.leave ----------------------------------------------------------------------------------


@patiently
def delete_left(ctx: JobContext) -> None:
    """The machine cannot have come back meanwhile: its request is refused until this is over."""
    host = ctx.job.host
    if host is None:
        raise RuntimeError("what was left lies on a host")
    if VM.objects.alive().filter(pk=ctx.params["vm"], host=host).exists():
        return
    at = connections.hypervisor(host)
    for pool, name in ctx.params["files"]:
        at.refresh_pool(pool)
        delete_volume(at, pool, name)
