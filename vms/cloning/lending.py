"""``vm.lend``: the source's job while it is cloned. It waits, so that nothing else is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.models import Job
from jobs.registry import Park
from vms import state

if TYPE_CHECKING:
    from jobs.context import JobContext

POLL_S = 3.0  # the clone's job wakes it as soon as it has what it needs


def lend(ctx: JobContext) -> None:
    taker = Job.objects.filter(pk=ctx.params["to"]).first()
    if taker is None or taker.is_over or taker.data.get("copied"):
        return
    ctx.progress(taker.progress)
    raise Park(POLL_S, waiting_for="clone", stops_clock=True)


def ended(job: Job) -> None:
    if job.vm is not None:
        state.announce(job.vm)
