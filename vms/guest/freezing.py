"""A guest's file systems stand still while its disks are copied, where it has an agent.

What is frozen must be thawed whatever happens: before it freezes, a job writes down that it will,
so that the next worker knows when this one is killed. Thawing is repeated by the step after, and
by the undo, which the engine itself repeats for a quarter of an hour.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hosts.virt.errors import NoSuchDomain, VirtError, WrongState
from jobs import failpoints
from vms import at_host
from vms.models import VM

if TYPE_CHECKING:
    from jobs.context import JobContext

log = logging.getLogger(__name__)


@contextmanager
def frozen(ctx: JobContext) -> Iterator[bool]:
    """True: it stands still within. False: it is off, has no agent, or that refused (then the
    step has a note): what is copied is as if the plug was pulled.

    The step after, and the undo, call ``thaw``.
    """
    vm = at_host.machine(ctx)
    thaw(ctx)  # what a worker that was killed has left
    stands_still = _freeze(ctx, vm)
    try:
        if stands_still:
            failpoints.hit(f"{ctx.job.kind}/frozen")
        yield stands_still
    finally:
        try:
            thaw(ctx)
        except VirtError as error:
            log.warning("%s is not thawed yet: %s [%s]", vm.uuid, error.raw, error.ref)


def thaw(ctx: JobContext) -> None:
    """What this job has frozen, or had begun to freeze. Idempotent."""
    if not ctx.data.get("frozen"):
        return
    vm = at_host.machine(ctx)
    try:
        at_host.hypervisor(vm).thaw_guest(vm.uuid)
    except (NoSuchDomain, WrongState):
        log.info("%s is off: nothing of it is frozen", vm.uuid)
    ctx.save_data(frozen=False)


def _freeze(ctx: JobContext, vm: VM) -> bool:
    if vm.observed != VM.Observed.RUNNING or not vm.agent_seen:
        return False
    ctx.save_data(frozen=True)
    try:
        at_host.hypervisor(vm).freeze_guest(vm.uuid)
    except VirtError as error:
        log.info("%s was not frozen: %s [%s]", vm.uuid, error.raw, error.ref)
        ctx.note("guest.not_frozen")
        return False
    return True
