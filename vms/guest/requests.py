"""What a guest's agent is told to do: checked and written with its job, or refused."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from django.db import transaction

from accounts import audit, policy
from accounts.errors import Conflict, Invalid
from accounts.policy import Action
from jobs import services as job_services
from vms import passwords, state, timeline
from vms.lifecycle import active_job
from vms.models import VM, GuestPassword
from vms.verbs import Situation, Verb, why_not

if TYPE_CHECKING:
    from accounts.models import User
    from jobs.models import Job

PASSWORD, TRIM = "vm.guest_password", "vm.trim"
# Any that useradd takes, root too: unlike the first user's, it is there already.
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")


def set_password(vm: VM, *, actor: User, user: str, password: str) -> Job:
    """Of a user inside. Only its crypt(3) hash is kept, until the job has ended.

    Raises NotFound, Forbidden, Invalid, Conflict, Busy.
    """
    policy.require(actor, Action.EDIT, vm)
    if not _USER.fullmatch(user):
        raise Invalid("guest.user", fields={"user": "guest.user"})
    hashed = passwords.hash(passwords.validate(password))  # slow: outside of the transaction
    with transaction.atomic():
        job = _enqueue(PASSWORD, _locked(vm), actor, {"user": user})
        GuestPassword.objects.create(job=job, user=user, password_hash=hashed)
    return job


def trim(vm: VM, *, actor: User) -> Job:
    """What its file systems do not use is given back to the host. Raises as ``set_password``."""
    policy.require(actor, Action.POWER, vm)
    with transaction.atomic():
        return _enqueue(TRIM, _locked(vm), actor, {})


def _locked(vm: VM) -> VM:
    rows = VM.objects.alive().select_for_update(of=("self",)).select_related("host")
    row = rows.filter(pk=vm.pk).first()
    if row is None:
        raise Conflict("vm.why.deleted", name=vm.name)
    if code := why_not(Situation.of(row, active_job(row)), Verb.REBOOT):
        raise Conflict(code, name=row.name, host=row.host.name if row.host else "")
    return row


def _enqueue(kind: str, vm: VM, actor: User, params: dict[str, Any]) -> Job:
    job = job_services.enqueue(kind, actor=actor, vm=vm, target_name=vm.name, params=params)
    audit.record(actor, kind, vm, after=params, job=job, team_id=vm.team_id)
    timeline.record(vm, "asked", actor=actor, job=job, task=kind)
    state.announce(vm)
    return job
