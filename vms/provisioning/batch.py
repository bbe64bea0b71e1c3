"""Many machines from one form: numbered names, all of them within the quota or none.

Each machine has its own row and its own job, so one that fails keeps no other. They do not boot
all at once: a host boots no more of a batch together than it has CPUs (``wait_for_turn``).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.db import transaction
from django.utils import timezone

from accounts import audit, policy, quotas
from accounts.errors import Conflict, DomainError, Invalid
from accounts.models import Team
from accounts.policy import Action
from jobs import services as job_services
from jobs.models import Job
from jobs.registry import Park
from vms.knobs import Wish
from vms.models import VM, Batch, Image
from vms.provisioning.request import create_ask, name_problem, write
from vms.provisioning.validation import Wanted, validate

if TYPE_CHECKING:
    from accounts.models import User
    from vms.models import Flavor

SIZE_MIN, SIZE_MAX = 2, 100
_NAMES_TOLD = 3  # of those that are taken
TURN_POLL_S = 2.0
# So long a guest counts as booting; then the next one starts, address or not.
BOOTING_AT_MOST = timedelta(seconds=60)
BOOTING_AT_ONCE_MIN = 2


@dataclass(frozen=True, kw_only=True)
class Retried:
    """What "try the failed ones again" did: each machine for itself."""

    done: list[Job]
    refused: list[tuple[VM, DomainError]]


def numbered(prefix: str, count: int) -> list[str]:
    """``web`` of 12: ``web-01`` to ``web-12``, all equally long, so that they sort."""
    stem = prefix if prefix.endswith("-") else f"{prefix}-"
    width = len(str(count))
    return [f"{stem}{number:0{width}d}" for number in range(1, count + 1)]


def request_batch(
    *,
    actor: User,
    team: Team | None,
    name: str,
    count: int,
    image: Image | None,
    flavor: Flavor | None = None,
    vcpus: int | None = None,
    memory_mib: int | None = None,
    disk_gib: int | None = None,
    network: str = "default",
    copy: str = VM.Copy.LINKED,
    user: str = "",
    password: str = "",
    ssh_keys: list[str] | None = None,
    user_data: str = "",
    start: bool = True,
    tags: list[str] | None = None,
    description: str = "",
    ends_at: datetime | None = None,
    idempotency_key: str = "",
    wish: Wish | None = None,
) -> Batch:
    """``count`` machines called ``name`` and a number, as ``request_vm`` makes one.

    One transaction: all machines with their jobs, or none. Raises as ``request_vm``; Invalid also
    where ``count`` is not 2 to 100, or where a name is taken.
    """
    paying = team or Team.objects.get(personal_of=actor)
    if not SIZE_MIN <= count <= SIZE_MAX:
        raise Invalid(
            "vm.invalid",
            fields={"count": "vm.batch_size"},
            field_params={"count": {"minimum": SIZE_MIN, "maximum": SIZE_MAX}},
        )
    names = numbered(name, count)
    wanted = validate(
        actor=actor,
        team=paying,
        name=names[-1],
        image=image,
        flavor=flavor,
        vcpus=vcpus,
        memory_mib=memory_mib,
        disk_gib=disk_gib,
        network=network,
        copy=copy,
        user=user,
        password=password,
        ssh_keys=ssh_keys or [],
        user_data=user_data,
        hostname="",
        start=start,
        tags=tags or [],
        description=description,
        ends_at=ends_at,
        wish=wish,
        many=True,
    )
    # As it was asked: an end that the rules give is another one a moment later.
    digest = _digest(wanted, names, ends_at)
    return _write_all(wanted, name, names, _scoped(actor, idempotency_key), digest)


@transaction.atomic
def _write_all(
    wanted: Wanted, prefix: str, names: list[str], key: str | None, digest: str
) -> Batch:
    quotas.lock_team(wanted.team)
    if key and (earlier := Batch.objects.filter(idempotency_key=key).first()):
        if earlier.digest != digest:
            raise Conflict("api.idempotency_key_reused")
        return earlier
    policy.require_still(wanted.actor, Action.TEAM_CREATE_VM, wanted.team)
    _check_names(wanted.team, names)
    batch = Batch.objects.create(
        prefix=prefix,
        owner=wanted.actor,
        team=wanted.team,
        size=len(names),
        idempotency_key=key,
        digest=digest,
    )
    _check_quota(wanted, batch)
    for number, name in enumerate(names, start=1):
        each = replace(wanted, name=name, hostname=name, batch=batch, batch_number=number)
        write(each, idempotency_key=None, digest="")
    audit.record(
        wanted.actor,
        "vm.create_batch",
        batch,
        after={"names": [names[0], names[-1]], "count": len(names)},
        team_id=wanted.team.pk,
    )
    return batch


def retry_failed(batch: Batch, *, actor: User) -> Retried:
    """Each machine of it whose making failed or was cancelled, once more with the same input."""
    policy.require(actor, Action.TEAM_CREATE_VM, batch.team)
    result = Retried(done=[], refused=[])
    for vm in newest(batch):
        job = creation(vm)
        if job is None or job.state not in (Job.State.FAILED, Job.State.CANCELLED):
            continue
        if not policy.can(actor, Action.JOB_CANCEL, job):
            continue
        try:
            result.done.append(job_services.retry(job, actor=actor))
        except DomainError as error:
            result.refused.append((vm, error))
    return result


def newest(batch: Batch) -> list[VM]:
    """The last machine of each number: one that was tried again has several rows."""
    rows = (
        VM.objects.filter(batch=batch)
        .select_related("owner", "team", "image", "host")
        .order_by("batch_number", "pk")
    )
    return list({vm.batch_number: vm for vm in rows}.values())


def creation(vm: VM) -> Job | None:
    return vm.jobs.filter(kind="vm.create").order_by("-created_at").first()


def wait_for_turn(vm: VM) -> None:
    """Park while the host boots as many machines of this batch as it has CPUs."""
    if vm.batch_id is None or vm.host is None:
        return
    booting = VM.objects.filter(
        batch=vm.batch_id,
        host=vm.host,
        observed=VM.Observed.RUNNING,
        started_at__gte=timezone.now() - BOOTING_AT_MOST,
        jobs__kind="vm.create",
        jobs__state=Job.State.RUNNING,
        jobs__step__in=["boot", "address"],
    ).exclude(pk=vm.pk)
    if booting.count() >= max(BOOTING_AT_ONCE_MIN, vm.host.cpus):
        raise Park(TURN_POLL_S, waiting_for="turn", stops_clock=True)


def _check_quota(wanted: Wanted, batch: Batch) -> None:
    """All together first, so that a refusal tells what all of them lack."""
    one = create_ask(wanted.vcpus, wanted.memory_mib, wanted.disk_gib, wanted.start)
    whole = {what: amount * batch.size for what, amount in one.items()}
    subject = f"batch:{batch.pk}"
    quotas.allocate_for(subject, whole, team=wanted.team, user=wanted.actor)
    quotas.release_subject(subject)  # each machine takes its own part of it below


def _check_names(team: Team, names: list[str]) -> None:
    taken = [name for name in names if name_problem(team, name)]
    if taken:
        params = {"names": ", ".join(taken[:_NAMES_TOLD]), "count": len(taken)}
        raise Invalid(
            "vm.invalid", fields={"name": "vm.batch_names_taken"}, field_params={"name": params}
        )


def _scoped(actor: User, key: str) -> str | None:
    return f"batch:{actor.pk}:{hashlib.sha256(key.encode()).hexdigest()}" if key else None


def _digest(wanted: Wanted, names: list[str], ends_at: datetime | None) -> str:
    asked: dict[str, Any] = {
        "names": names,
        "team": wanted.team.pk,
        "image": wanted.image.pk if wanted.image else None,
        "flavor": wanted.flavor.pk if wanted.flavor else None,
        "size": [wanted.vcpus, wanted.memory_mib, wanted.disk_gib],
        "cards": [asdict(card) for card in wanted.hardware.cards],
        "disks": [asdict(disk) for disk in wanted.hardware.disks],
        "knobs": asdict(wanted.hardware.knobs),
        "discs": [disc.pk for disc in wanted.hardware.discs],
        "boot": wanted.hardware.boot,
        "autostart": wanted.hardware.autostart,
        "os": wanted.hardware.os_id,
        "answers": [wanted.hardware.answers_kind, wanted.hardware.answers],
        "copy": wanted.copy,
        "user": wanted.user,
        "ssh_keys": wanted.ssh_keys,
        "user_data": wanted.user_data,
        "start": wanted.start,
        "tags": wanted.tags,
        "description": wanted.description,
        **({"ends_at": ends_at.isoformat()} if ends_at else {}),
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
