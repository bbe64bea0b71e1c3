"""What people do with a machine: one request, one transaction, one job."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.db import transaction

from accounts import audit, policy, quotas
from accounts.errors import Conflict, DomainError
from accounts.policy import Action
from jobs import services as job_services
from vms import keys, state, timeline
from vms.models import VM
from vms.state import ON, RUNNING_RESOURCES, running_ask
from vms.verbs import VERBS, Situation, Verb, why_not

if TYPE_CHECKING:
    from accounts.models import User
    from jobs.models import Job

__all__ = ["VERBS", "BulkResult", "allowed_verbs", "bulk_counts", "request", "request_many"]

# What the person wants it to be from now on; a verb that is not named changes nothing.
_DESIRED = {
    Verb.START: VM.Desired.RUNNING,
    Verb.START_PAUSED: VM.Desired.RUNNING,
    Verb.SAVE: VM.Desired.STOPPED,
    Verb.RESUME: VM.Desired.RUNNING,
    Verb.SHUTDOWN: VM.Desired.STOPPED,
    Verb.FORCE_OFF: VM.Desired.STOPPED,
    Verb.DELETE: VM.Desired.DELETED,
}


SHUTDOWN_BY = ("acpi", "agent")


@dataclass(frozen=True, kw_only=True)
class BulkResult:
    done: list[tuple[VM, Job]]
    refused: list[tuple[VM, DomainError]]


def allowed_verbs(vm: VM, user: User, *, door: policy.Door | None = None) -> dict[str, str | None]:
    """verb -> None when it is possible now, else the code of the reason why not."""
    door = door or policy.door(user)
    situation = Situation.of(vm, active_job(vm))
    return {
        verb.value: why_not(situation, verb)
        if door.can(_action(verb), vm)
        else "vm.why.not_allowed"
        for verb in Verb
    }


def request(
    vm: VM,
    verb: str,
    *,
    actor: User,
    confirm_name: str = "",
    force: bool = False,
    purge: bool = False,
    keep: Iterable[str] = (),
    by: str = "",
) -> Job:
    """Write the wish and its job; the job is sent on commit.

    ``by``: how a shutdown is asked for, ``acpi`` or ``agent``; "" is both.

    Deleting a machine that runs needs its name, or ``force``. A deleted machine goes to the
    recycle bin; at once for good with ``purge``, or when it lies there, or never ran as a whole.
    ``keep``: these of its disks become a backup first, when it is deleted for good.
    Raises NotFound, Forbidden, Conflict (``vm.why.*``, ``vm.confirm_name``), Busy, QuotaExceeded.
    """
    wanted = _verb(verb)
    policy.require(actor, _action(wanted), vm)
    with transaction.atomic():
        quotas.lock_team(vm.team_id)
        row = VM.objects.alive().select_for_update().filter(pk=vm.pk).first()
        if row is None:
            raise Conflict("vm.why.deleted", name=vm.name)
        if (row.owner_id, row.team_id) != (vm.owner_id, vm.team_id):
            policy.require(actor, _action(wanted), row)  # it has changed hands meanwhile
        if code := why_not(Situation.of(row, active_job(row)), wanted):
            raise Conflict(code, name=row.name, host=row.host.name if row.host else "")
        if wanted is Verb.DELETE:
            _check_confirmed(row, confirm_name, force)
        params: dict[str, Any] = {}
        if wanted is Verb.SHUTDOWN and by in SHUTDOWN_BY:
            params = {"by": by}
        for_good = wanted is Verb.DELETE and (purge or not _can_come_back(row))
        if for_good and (targets := set(keep)):
            from vms.backups import services as backups

            params = backups.write_last(row, targets, actor=actor)
        return _write(row, wanted, actor, purge=for_good, params=params)


def send_keys(vm: VM, names: Sequence[str], *, actor: User) -> Job:
    """Press these keys together, as on its keyboard. Raises as ``request``, and Invalid."""
    policy.require(actor, Action.CONSOLE_CONTROL, vm)
    keys.codes(names)
    with transaction.atomic():
        row = VM.objects.alive().select_for_update().filter(pk=vm.pk).first()
        if row is None:
            raise Conflict("vm.why.deleted", name=vm.name)
        if code := why_not(Situation.of(row, active_job(row)), Verb.NMI):  # as for any sign to it
            raise Conflict(code, name=row.name, host=row.host.name if row.host else "")
        kind, params = "vm.send_keys", {"keys": list(names)}
        job = job_services.enqueue(kind, actor=actor, vm=row, target_name=row.name, params=params)
        audit.record(actor, kind, row, after=params, job=job, team_id=row.team_id)
        timeline.record(row, "asked", actor=actor, job=job, task=kind)
        state.announce(row)
    return job


def request_many(
    vms: Iterable[VM], verb: str, *, actor: User, force: bool = False, purge: bool = False
) -> BulkResult:
    """Each machine for itself: what is refused for one does not keep the others."""
    result = BulkResult(done=[], refused=[])
    for vm in vms:
        try:
            job = request(vm, verb, actor=actor, force=force, purge=purge)
        except DomainError as error:  # noqa: PERF203 - each is refused for itself
            result.refused.append((vm, error))
        else:
            result.done.append((vm, job))
    return result


def bulk_counts(vms: Iterable[VM], user: User) -> dict[str, int]:
    """How many of these machines each verb would touch."""
    door = policy.door(user)
    counts = dict.fromkeys(VERBS, 0)
    for vm in vms:
        for verb, why in allowed_verbs(vm, user, door=door).items():
            counts[verb] += why is None
    return counts


def active_job(vm: VM) -> Job | None:
    """From ``queries.with_related`` where it was loaded, else asked."""
    loaded: list[Job] | None = getattr(vm, "active_jobs", None)
    if loaded is None:
        return job_services.active_job(vm)
    return loaded[0] if loaded else None


# --- inside --------------------------------------------------------------------------------------


def _verb(word: str) -> Verb:
    try:
        return Verb(word.replace("-", "_"))
    except ValueError as error:
        raise Conflict("vm.verb_unknown", verb=word[:32]) from error


def _action(verb: Verb) -> Action:
    return Action.DELETE if verb is Verb.DELETE else Action.POWER


def _check_confirmed(vm: VM, confirm_name: str, force: bool) -> None:
    if vm.observed in ON and not force and confirm_name != vm.name:
        raise Conflict("vm.confirm_name", name=vm.name)


def _can_come_back(vm: VM) -> bool:
    """Whether there is something that the recycle bin could keep."""
    return (
        vm.binned_at is None
        and vm.host is not None
        and vm.observed not in (VM.Observed.UNKNOWN, VM.Observed.MISSING)
    )


def _write(
    vm: VM, verb: Verb, actor: User, *, purge: bool, params: dict[str, Any] | None = None
) -> Job:
    if verb in (Verb.START, Verb.START_PAUSED):
        # What an earlier start may have left; a machine is counted once.
        quotas.release(vm, RUNNING_RESOURCES)
        quotas.allocate(vm, running_ask(vm.vcpus, vm.memory_mib))
    to_bin = verb is Verb.DELETE and not purge
    if verb is Verb.DELETE and purge:
        quotas.releasing(vm)
    kind = "vm.bin" if to_bin else f"vm.{verb.value}"
    job = job_services.enqueue(
        kind,
        actor=actor,
        vm=vm,
        host=vm.host,
        team=vm.team,
        target_name=vm.name,
        params=params or {},
    )
    if desired := _DESIRED.get(verb):
        vm.desired = VM.Desired.STOPPED if to_bin else desired
        vm.save(update_fields=["desired"])
    audit.record(actor, kind, vm, before={"state": vm.observed}, job=job, team_id=vm.team_id)
    timeline.record(vm, "asked", actor=actor, job=job, task=kind)
    state.announce(vm)
    return job
