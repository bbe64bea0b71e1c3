"""How long a machine lasts: an end that its owner can move within the rules, and beyond them by a
request; warnings before it; and what its end is: stopped by a job, later put into the recycle bin.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import Q
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts import audit, policy, quotas, requests
from accounts import leases as leases_of_requests
from accounts.errors import Conflict, DomainError, Invalid
from accounts.leases import Time
from accounts.models import Membership, QuotaRequest, User
from accounts.notifications import announce, register_topic
from accounts.policy import Action
from jobs import services as job_services
from jobs.models import Job
from vms import state, timeline
from vms.lease_rules import Rulebook, Terms, end_problem
from vms.models import VM, MachineRules
from vms.state import ON

log = logging.getLogger(__name__)

STOP, BIN = "vm.end_lease", "vm.bin"
WARN_DAYS = (7, 1)  # before the end, the earliest first
SOON = timedelta(days=max(WARN_DAYS))
LEAST_GAIN = timedelta(hours=1)  # less is no extension
AGAIN_AFTER = timedelta(minutes=30)  # what could not be stopped, or binned
# What is suspended is saved at its end. Each try may fill its host's disk: so one a day, in which
# its people can do something, and after the last of them it is switched off.
SAVE_AGAIN_AFTER = timedelta(days=1)
SAVE_TRIES = 3
AT_ONCE = 50  # machines that one round stops, or bins

_SUSPENDED = VM.Observed.PAUSED

register_topic("lease", _("Ends of my machines"), of_team=_("Ends of its machines"))


# --- a machine's time -----------------------------------------------------------------------------
def next_end(vm: VM, terms: Terms) -> datetime | None:
    """What one click extends it to; None: there is no end, or no more time without a request."""
    if vm.ends_at is None:
        return None
    wanted = max(vm.ends_at, timezone.now()) + terms.step()
    latest = terms.latest(vm.created_at)
    until = wanted if latest is None else min(wanted, latest)
    return until if until > max(vm.ends_at, timezone.now()) + LEAST_GAIN else None


def extend(vm: VM, *, actor: User, until: datetime | None = None) -> VM:
    """Until then, or as far as one click goes. Raises NotFound, Forbidden, Conflict (it has no
    end, lies in the bin, or may not be extended further), Invalid (``until``)."""
    policy.require(actor, Action.EDIT, vm)
    with transaction.atomic():
        _call_off_binning(vm)
        row = _locked(vm)
        if row.ends_at is None:
            raise Conflict("lease.none", name=row.name)
        terms = Rulebook.read().terms_of(row)
        wanted = until or next_end(row, terms)
        if wanted is None:
            raise Conflict(
                "lease.at_latest", name=row.name, latest_at=terms.latest_text(row.created_at)
            )
        if until is not None and until <= row.ends_at:
            if until == row.ends_at:
                return row  # a second click
            raise Invalid("lease.not_later", fields={"until": "lease.not_later"})
        _check_end(row, terms, wanted, actor, field="until")
        _write(row, wanted, actor=actor, verb="vm.extend")
    return row


def set_end(vm: VM, *, actor: User, ends_at: datetime | None) -> VM:
    """Another end, earlier or later; None: without one, where the rules allow that."""
    policy.require(actor, Action.EDIT, vm)
    with transaction.atomic():
        _call_off_binning(vm)
        row = _locked(vm)
        terms = Rulebook.read().terms_of(row)
        if ends_at is not None:
            _check_end(row, terms, ends_at, actor, field="ends_at")
        elif terms.max_days and row.ends_at and not policy.can(actor, Action.SITE_ADMIN):
            raise Invalid(
                "lease.beyond",
                fields={"ends_at": "lease.beyond"},
                latest_at=terms.latest_text(row.created_at),
            )
        if ends_at != row.ends_at:
            _write(row, ends_at, actor=actor, verb="vm.set_end")
    return row


def ask_longer(vm: VM, *, actor: User, until: datetime | None, reason: str) -> QuotaRequest:
    """More time than the rules give: decided as a request for more quota is."""
    policy.require(actor, Action.EDIT, vm)
    if vm.ends_at is None:
        raise Conflict("lease.none", name=vm.name)
    if until is not None and until <= vm.ends_at:
        raise Invalid("lease.not_later", fields={"until": "lease.not_later"})
    return requests.ask_for_time(actor=actor, machine=vm, reason=reason, until=until)


class Keeper:
    """Of machines' time, for requests (``accounts.leases``)."""

    def time_of(self, machine: UUID) -> Time | None:
        vm = VM.objects.alive().filter(uuid=machine).first()
        if vm is None:
            return None
        latest = Rulebook.read().terms_of(vm).latest(vm.created_at)
        return Time(ends_at=vm.ends_at, latest=latest)

    def extend(self, machine: UUID, team_id: int, until: datetime, *, actor: User) -> None:
        rows = VM.objects.alive().filter(uuid=machine, team=team_id)
        if found := rows.first():
            _call_off_binning(found)
        row = rows.select_for_update().first()
        if row is None:
            gone = VM.objects.filter(uuid=machine).first()
            raise Conflict("request.machine_gone", name=gone.name if gone else "")
        if row.ends_at is None or row.ends_at >= until:
            return  # it was given as much meanwhile: who asks for more never gets less
        _write(row, until, actor=actor, verb="vm.extend")


# --- the clock ------------------------------------------------------------------------------------
def rounds() -> None:
    """Called by beat each minute."""
    warn_of_ends()
    stop_what_is_over()
    bin_what_is_long_over()


def warn_of_ends() -> None:
    """Tell of each end a week and a day before it; once each."""
    now = timezone.now()
    soon = VM.objects.in_use().filter(ends_at__gt=now, ends_at__lte=now + SOON)
    for days in WARN_DAYS:
        due = soon.filter(ends_at__lte=now + timedelta(days=days)).filter(
            Q(lease_warned_days=None) | Q(lease_warned_days__gt=days)
        )
        for vm in due.select_related("owner", "team"):
            if warned_already(vm.ends_at) != days:
                continue  # the later warning is due as well, and says it
            with transaction.atomic():
                unwarned = VM.objects.filter(
                    Q(lease_warned_days=None) | Q(lease_warned_days__gt=days)
                )
                if unwarned.filter(pk=vm.pk, ends_at=vm.ends_at).update(lease_warned_days=days):
                    tell(vm, "lease.ends", ends_at=vm.ends_at, way=way_of(vm))


def stop_what_is_over() -> None:
    """A machine that runs past its end is stopped, however it came to run."""
    over = VM.objects.in_use().filter(ends_at__lte=timezone.now()).exclude(not_now(STOP))
    for vm in over.filter(Q(lease_over_at=None) | Q(observed__in=ON))[:AT_ONCE]:
        try:
            _stop(vm)
        except DomainError as error:  # noqa: PERF203 - each is settled for itself
            log.info("%s is not stopped yet at its end: %s", vm.uuid, error.code)


def bin_what_is_long_over() -> None:
    """Into the recycle bin, from where it can be restored until its time there is over too."""
    before = timezone.now() - timedelta(days=MachineRules.current().lease_bin_days)
    long_over = (
        VM.objects.in_use()
        .filter(
            ends_at__lte=timezone.now(),
            lease_over_at__lte=before,
            observed__in=(VM.Observed.SHUTOFF, VM.Observed.CRASHED),
            host__isnull=False,
        )
        .exclude(not_now(BIN))
    )
    for vm in long_over[:AT_ONCE]:
        try:
            _put_in_bin(vm)
        except DomainError as error:  # noqa: PERF203 - each is settled for itself
            log.info("%s is not put into the recycle bin yet: %s", vm.uuid, error.code)


def not_now(kind: str) -> Q:
    """Machines that the clock leaves for now: what is being done with one goes first, and where
    this kind of job has just failed it would fail again."""
    busy = Job.objects.active().filter(vm__isnull=False, observing=False)
    now = timezone.now()
    failed = Job.objects.filter(
        Q(finished_at__gt=now - AGAIN_AFTER)
        | Q(finished_at__gt=now - SAVE_AGAIN_AFTER, data__unsaved=True, vm__observed=_SUSPENDED),
        kind=kind,
        actor=None,
        state=Job.State.FAILED,
        vm__isnull=False,
    )
    return Q(pk__in=busy.order_by().values("vm")) | Q(pk__in=failed.order_by().values("vm"))


def goes_to_bin_at(vm: VM, bin_days: int) -> datetime | None:
    return vm.lease_over_at + timedelta(days=bin_days) if vm.lease_over_at else None


def is_over(vm: VM) -> bool:
    return vm.ends_at is not None and vm.ends_at <= timezone.now()


def saves_left(vm: VM) -> int:
    """How often it is yet tried to save it at its end, while it stays suspended."""
    failed = vm.jobs.filter(kind=STOP, state=Job.State.FAILED, data__unsaved=True)
    if vm.lease_over_at is not None:
        failed = failed.filter(created_at__gte=vm.lease_over_at)
    return max(SAVE_TRIES - failed.count(), 0)


def tell_unsaved(vm: VM) -> None:
    """Each time that it could not be saved at its end."""
    left = saves_left(vm)
    off_at = timezone.now() + left * SAVE_AGAIN_AFTER
    tell(vm, "lease.not_saved", off_at=off_at)
    timeline.record(vm, "lease.not_saved")


def way_of(vm: VM) -> str:
    """How it is stopped by a rule: ``asked``, ``saved``, or ``off`` already."""
    if vm.observed == _SUSPENDED:
        return "saved"
    return "asked" if vm.observed in ON else "off"


def tell(vm: VM, code: str, *, tab: str = "", **params: object) -> None:
    """Its owner; where that person is gone, those who manage its team. Of what to see on a ``tab``
    of its page."""
    people = [vm.owner]
    if not vm.owner.is_active:
        managers = Membership.objects.filter(team=vm.team_id, role=Membership.Role.MANAGER)
        people = [one.user for one in managers.select_related("user")]
    url = reverse("vm_detail", args=[vm.uuid]) + (f"?tab={tab}" if tab else "")
    announce(vm.team, people, code, url=url, machine=vm.name, **params)


def register() -> None:
    leases_of_requests.register(Keeper())


# --- inside ---------------------------------------------------------------------------------------
def _locked(vm: VM) -> VM:
    row = (
        VM.objects.alive()
        .select_for_update(of=("self",))
        .select_related("owner", "team")
        .filter(pk=vm.pk)
        .first()
    )
    if row is None:
        raise Conflict("vm.why.deleted", name=vm.name)
    if row.binned_at is not None:
        raise Conflict("vm.why.binned", name=row.name)
    return row


def _call_off_binning(vm: VM) -> None:
    """What the clock is about to put into the bin, but its host is away, is to last longer. Before
    the machine's row is locked: so do workers that end a job."""
    job = Job.objects.active().filter(vm=vm, kind=BIN, actor=None).first()
    if job is not None:
        with suppress(Conflict):  # it has ended in this moment
            job_services.cancel(job, actor=None)


def _check_end(row: VM, terms: Terms, ends_at: datetime, actor: User, *, field: str) -> None:
    code = end_problem(
        terms, ends_at, made_at=row.created_at, free=policy.can(actor, Action.SITE_ADMIN)
    )
    if code:
        raise Invalid(code, fields={field: code}, latest_at=terms.latest_text(row.created_at))


def _write(row: VM, ends_at: datetime | None, *, actor: User, verb: str) -> None:
    before, row.ends_at = row.ends_at, ends_at
    row.lease_over_at = None
    row.lease_warned_days = warned_already(ends_at)
    row.save(update_fields=["ends_at", "lease_over_at", "lease_warned_days"])
    audit.record(
        actor,
        verb,
        row,
        before={"ends_at": before.isoformat() if before else None},
        after={"ends_at": ends_at.isoformat() if ends_at else None},
        team_id=row.team_id,
    )
    timeline.record(row, "lease.set", actor=actor, until_at=ends_at.isoformat() if ends_at else "")
    state.announce(row)


def warned_already(ends_at: datetime | None) -> int | None:
    """The warnings that an end so near makes no sense of: who has just set it knows it."""
    if ends_at is None:
        return None
    left = ends_at - timezone.now()
    return min((days for days in WARN_DAYS if left <= timedelta(days=days)), default=None)


def _stop(vm: VM) -> None:
    with transaction.atomic():
        quotas.lock_team(vm.team_id)
        row = (
            VM.objects.in_use()
            .select_for_update(of=("self",))
            .select_related("owner", "team", "host")
            .filter(pk=vm.pk, ends_at__lte=timezone.now())
            .first()
        )
        if row is None:
            return  # extended, or gone meanwhile
        job, now = None, timezone.now()
        if row.observed in ON:
            job = job_services.enqueue(
                STOP, actor=None, vm=row, host=row.host, team=row.team, target_name=row.name
            )
            row.desired = VM.Desired.STOPPED
        elif job_services.active_job(row) is not None:
            return
        first = row.lease_over_at is None
        row.lease_over_at = row.lease_over_at or now  # before its first job: ``saves_left``
        row.save(update_fields=["desired", "lease_over_at"])
        audit.record(None, STOP, row, before={"state": row.observed}, job=job, team_id=row.team_id)
        if first:
            timeline.record(row, "lease.over", job=job)
            bin_at = goes_to_bin_at(row, MachineRules.current().lease_bin_days)
            tell(row, "lease.over", bin_at=bin_at, way=way_of(row))
        state.announce(row)


def _put_in_bin(vm: VM) -> None:
    with transaction.atomic():
        quotas.lock_team(vm.team_id)
        row = (
            VM.objects.in_use()
            .select_for_update(of=("self",))
            .select_related("owner", "team", "host")
            .filter(pk=vm.pk, ends_at__lte=timezone.now(), lease_over_at__isnull=False)
            .first()
        )
        if row is None or job_services.active_job(row) is not None:
            return
        job = job_services.enqueue(
            BIN, actor=None, vm=row, host=row.host, team=row.team, target_name=row.name
        )
        audit.record(None, BIN, row, before={"state": row.observed}, job=job, team_id=row.team_id)
        timeline.record(row, "asked", job=job, task=job.kind)
        tell(row, "lease.binned", days=MachineRules.current().bin_days)
        state.announce(row)
