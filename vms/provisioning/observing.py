"""The end of a machine's first boot, watched: its address, cloud-init's word, the seed's removal.

From here on the machine exists and works. Nothing is undone; what does not come is told as a
warning. The same steps follow any later start while a seed is still there.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from django.utils import timezone

from jobs.registry import Park
from vms import at_host, state, timeline
from vms.models import VM
from vms.provisioning.domain import SEED_TARGET
from vms.provisioning.steps import remove_seed

if TYPE_CHECKING:
    from jobs.context import JobContext

ADDRESS_PATIENCE = timedelta(minutes=4)  # Debian's cloud image takes 40 s under emulation
# Once cloud-init is through, an address that is not there will hardly come.
ADDRESS_PATIENCE_WHEN_DONE = timedelta(seconds=30)
FIRST_BOOT_PATIENCE = timedelta(minutes=15)
ADDRESS_POLL_S = 3.0
FIRST_BOOT_POLL_S = 15.0  # the watcher wakes the job as soon as the guest has spoken


def wait_for_address(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    if not at_host.is_on(vm):
        return
    if at_host.find_addresses(vm):
        return
    done = vm.first_boot in (VM.FirstBoot.DONE, VM.FirstBoot.FAILED)
    if _waited(ctx, "address") > (ADDRESS_PATIENCE_WHEN_DONE if done else ADDRESS_PATIENCE):
        ctx.note("vm.no_address")
        return
    raise Park(ADDRESS_POLL_S, waiting_for="address")


def wait_for_first_boot(ctx: JobContext) -> None:
    """Until the guest has reported, or has been silent for too long."""
    vm = at_host.machine(ctx)
    if vm.first_boot == VM.FirstBoot.FAILED:
        ctx.note("vm.first_boot_failed", excerpt=vm.first_boot_excerpt)
        return
    if vm.first_boot != VM.FirstBoot.PENDING:
        return
    if not at_host.is_on(vm):
        ctx.note("vm.off_in_first_boot")
        return
    if _waited(ctx, "firstboot") > FIRST_BOOT_PATIENCE:
        pending = VM.objects.filter(pk=vm.pk, first_boot=VM.FirstBoot.PENDING)
        if pending.update(first_boot=VM.FirstBoot.SILENT):
            timeline.record(vm, "first_boot.silent", job=ctx.job)
            state.announce(vm)
        ctx.note("vm.first_boot_silent", minutes=int(FIRST_BOOT_PATIENCE.total_seconds() // 60))
        return
    raise Park(FIRST_BOOT_POLL_S, waiting_for="firstboot")


def finish(ctx: JobContext) -> None:
    """Take the seed out and delete it: it holds the password's hash. Stays while the guest has
    not read it."""
    vm = at_host.machine(ctx)
    if vm.first_boot == VM.FirstBoot.PENDING or vm.answers_kind:
        return  # an installer reads its answers until its own disc is out
    if vm.seed_volume:
        at_host.hypervisor(vm).eject_cdrom(vm.uuid, SEED_TARGET)
        remove_seed(vm)
    VM.objects.filter(pk=vm.pk).update(password_hash="")


def has_seed(ctx: JobContext) -> bool:
    """Whether this start is one that reads the seed, or that has yet to remove it."""
    return at_host.machine(ctx).seed_volume != ""


def _waited(ctx: JobContext, what: str) -> timedelta:
    """Since the step first looked (kept in the job: another worker may look next)."""
    key = f"{what}_since"
    if key not in ctx.data:
        ctx.save_data(**{key: timezone.now().isoformat()})
    return timezone.now() - datetime.fromisoformat(ctx.data[key])
