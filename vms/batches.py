"""A batch in words: each machine of it, how far it is, and what can be done. Database only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from django.db.models import Prefetch
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts import messages, policy
from accounts.errors import NotFound
from accounts.policy import Action
from jobs.models import Job
from vms import presentation, queries
from vms.models import VM, Batch

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise

    from accounts.models import User
    from vms.presentation import MachineView

# state -> word, icon, css
FACES: dict[str, tuple[_StrPromise, str, str]] = {
    "making": (gettext_lazy("Being made"), "loader-circle", "state-working"),
    "ready": (gettext_lazy("Made"), "circle-check", "state-running"),
    "failed": (gettext_lazy("Failed"), "circle-alert", "state-failed"),
    "deleted": (gettext_lazy("Deleted"), "trash-2", "state-stopped"),
}


@dataclass(frozen=True, kw_only=True)
class BatchRow:
    """One number of the batch: its newest machine."""

    number: int
    name: str
    uuid: UUID
    state: str  # making | ready | failed | deleted
    share: float | None  # while it is being made
    doing: str  # what it does or waits for now
    why: str  # when it failed
    machine: MachineView | None  # while it is there

    @property
    def face(self) -> presentation.StateView:
        word, icon, css = FACES[self.state]
        return presentation.StateView(key=self.state, word=str(word), icon=icon, css=css)


@dataclass(frozen=True, kw_only=True)
class BatchView:
    batch: Batch
    rows: list[BatchRow]
    counts: dict[str, int]  # by state
    share: float  # of the whole, 0 to 1
    can_retry: bool

    @property
    def done(self) -> bool:
        return not self.counts["making"]

    @property
    def first(self) -> str:
        return self.rows[0].name if self.rows else ""

    @property
    def last(self) -> str:
        return self.rows[-1].name if self.rows else ""


def one(user: User, uuid: UUID | str) -> Batch:
    """NotFound, also when it is not for ``user``."""
    try:
        wanted = uuid if isinstance(uuid, UUID) else UUID(uuid)
    except ValueError as error:
        raise NotFound("vm.batch_unknown") from error
    rows = Batch.objects.visible_to(user).select_related("owner", "team")
    batch = rows.filter(uuid=wanted).first()
    if batch is None:
        raise NotFound("vm.batch_unknown")
    return batch


def view(batch: Batch, user: User) -> BatchView:
    """A bounded number of queries, whatever its size. A machine that was handed to a stranger is
    left out."""
    door = policy.door(user)
    creations = Job.objects.filter(kind="vm.create").order_by("created_at")
    machines = queries.with_related(VM.objects.filter(batch=batch)).prefetch_related(
        Prefetch("jobs", queryset=creations.prefetch_related("steps"), to_attr="creations")
    )
    newest = {vm.batch_number: vm for vm in machines.order_by("batch_number", "pk")}
    rows = [_row(vm, user, door) for vm in newest.values() if door.can(Action.SEE, vm)]
    counts = {state: sum(row.state == state for row in rows) for state in FACES}
    share = sum(row.share or 0.0 if row.state == "making" else 1.0 for row in rows)
    return BatchView(
        batch=batch,
        rows=rows,
        counts=counts,
        share=share / len(rows) if rows else 1.0,
        can_retry=bool(counts["failed"]) and door.can(Action.TEAM_CREATE_VM, batch.team),
    )


def _row(vm: VM, user: User, door: policy.Door) -> BatchRow:
    made: list[Job] = vm.creations  # type: ignore[attr-defined]
    job = made[-1] if made else None
    state, share, doing, why = _standing(vm, job)
    gone = vm.deleted_at is not None
    return BatchRow(
        number=vm.batch_number or 0,
        name=vm.name,
        uuid=vm.uuid,
        state=state,
        share=share,
        doing=doing,
        why=why,
        machine=None if gone else presentation.machine(vm, user, door=door),
    )


def _standing(vm: VM, job: Job | None) -> tuple[str, float | None, str, str]:
    if job is not None and not job.is_over and not job.observing:
        task = presentation.task(job)
        return "making", task.progress, task.waiting or task.step_label, ""
    if job is not None and job.state in (Job.State.FAILED, Job.State.CANCELLED):
        if job.state == Job.State.CANCELLED:
            return "failed", None, "", _("It was cancelled.")
        return "failed", None, "", messages.text(job.error_code, job.error_params)
    if vm.deleted_at is not None or vm.binned_at is not None:
        return "deleted", None, "", ""
    if job is not None and job.observing and not job.is_over:
        task = presentation.task(job)
        return "ready", None, task.waiting or task.step_label, ""
    return "ready", None, "", ""
