"""Whose a machine is, and how it becomes somebody else's.

Nothing becomes somebody's without their consent, and nothing passes a quota: the receiving team and
person are checked in the transaction that writes the machine's row. Teams are locked before the
machine, in the order of their ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from django.db import transaction
from django.db.models import Count, Q, QuerySet
from django.urls import reverse
from django.utils import timezone

from accounts import audit, policy, quotas, sharing
from accounts.errors import Conflict, Forbidden, Invalid, NotFound
from accounts.handovers import Leaving
from accounts.models import Allocation, MachineOffer, MachineShare, Membership, Team, User
from accounts.notifications import notify
from accounts.policy import Action
from accounts.quotas import Ask, Impact
from accounts.revocations import Revocation, announce_on_commit
from jobs import services as job_services
from vms import state, timeline
from vms.backups import services as backups
from vms.models import VM, PublishedPort, VMQuerySet

OFFER_LIVES = timedelta(days=14)


# --- giving to a person, moving to a team ---------------------------------------------------------
def give(vm: VM, *, actor: User, to: User) -> MachineOffer | None:
    """Make ``to`` its owner. Within its team, or by an admin, that happens at once (``None``);
    otherwise it is offered, and they choose the team that pays for it."""
    policy.require(actor, Action.SHARE, vm)
    if to.pk == vm.owner_id:
        raise Conflict("transfer.is_theirs", name=vm.name, who=to.display_name())
    if _at_once(vm, actor, to):
        _transfer(vm, actor=actor, owner=to, team=vm.team)
        return None
    with transaction.atomic():
        VM.objects.select_for_update().get(pk=vm.pk)
        MachineOffer.objects.filter(machine=vm.uuid).delete()
        offer = MachineOffer.objects.create(
            machine=vm.uuid,
            to=to,
            owner=vm.owner,
            team=vm.team,
            asked_by=actor,
            expires_at=timezone.now() + OFFER_LIVES,
        )
        audit.record(actor, "vm.offer", vm, after={"to": to.username})
        notify(
            to,
            "sharing.offered",
            url=reverse("machine_offers"),
            who=actor.display_name(),
            machine=vm.name,
            end_at=offer.expires_at,
        )
        state.announce(vm)
    return offer


def move_to_team(vm: VM, *, actor: User, team: Team) -> None:
    """Let another team pay for it; its owner stays, and must be able to have machines there."""
    policy.require(actor, Action.SHARE, vm)
    policy.require(actor, Action.TEAM_CREATE_VM, team)
    if not policy.can(vm.owner, Action.TEAM_CREATE_VM, team):
        raise Conflict("transfer.owner_not_in_team", who=vm.owner.display_name(), team=team.name)
    if team.pk == vm.team_id:
        raise Conflict("transfer.is_in_team", name=vm.name, team=team.name)
    if actor.pk != vm.owner_id and not policy.can(actor, Action.SITE_ADMIN):
        raise Forbidden("transfer.owner_only")
    _transfer(vm, actor=actor, owner=vm.owner, team=team)


# --- offers ---------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class OfferView:
    offer: MachineOffer
    vm: VM
    teams: list[tuple[Team, list[Impact]]]  # where it could go, with what it would take there

    @property
    def fits(self) -> list[Team]:
        return [team for team, impacts in self.teams if not any(one.missing for one in impacts)]


def open_offers(user: User) -> list[OfferView]:
    """What the person is offered, as long as it can still be taken."""
    offers = list(_open().filter(to=user).select_related("asked_by", "owner"))
    vms = VM.objects.alive().filter(uuid__in=[offer.machine for offer in offers])
    by_uuid = {vm.uuid: vm for vm in vms.select_related("image")}
    teams = receiving_teams(user) if by_uuid else []
    return [
        OfferView(
            offer=offer,
            vm=by_uuid[offer.machine],
            teams=[
                (team, quotas.preview(team, user, _held(by_uuid[offer.machine]))) for team in teams
            ],
        )
        for offer in offers
        if offer.machine in by_uuid and _is_as_it_was(offer, by_uuid[offer.machine])
    ]


def offer_of(vm: VM) -> MachineOffer | None:
    return _open().filter(machine=vm.uuid).select_related("to", "asked_by").first()


def accept(offer_id: int, *, user: User, team: Team) -> VM:
    """Take what was offered, into a team of theirs. Raises NotFound when it is gone, Conflict for a
    taken name or a job at work, QuotaExceeded."""
    offer = _find(offer_id, user)
    policy.require(user, Action.TEAM_CREATE_VM, team)
    vm = VM.objects.alive().select_related("owner", "team").get(uuid=offer.machine)
    giver = offer.asked_by
    if not policy.can(giver, Action.SHARE, vm):
        raise NotFound("transfer.gone")
    with transaction.atomic():
        _transfer(vm, actor=user, owner=user, team=team, offer=offer)
        notify(
            giver,
            "sharing.accepted",
            who=user.display_name(),
            machine=vm.name,
        )
    return vm


def decline(offer_id: int, *, user: User) -> None:
    """Say no to an offer."""
    offer = _find(offer_id, user)
    vm = VM.objects.get(uuid=offer.machine)
    with transaction.atomic():
        offer.delete()
        audit.record(user, "vm.decline", vm)
        url = reverse("vm_detail", args=[vm.uuid])
        notify(
            offer.asked_by,
            "sharing.declined",
            url=url,
            who=user.display_name(),
            machine=vm.name,
        )
        state.announce(vm)


def withdraw(vm: VM, *, actor: User) -> None:
    """Take back an offer that nobody has taken yet."""
    policy.require(actor, Action.SHARE, vm)
    with transaction.atomic():
        if not MachineOffer.objects.filter(machine=vm.uuid).delete()[0]:
            raise NotFound("transfer.gone")
        audit.record(actor, "vm.withdraw_offer", vm)
        state.announce(vm)


def receiving_teams(user: User) -> list[Team]:
    """Teams in which the person may have machines, their own first."""
    rows = Team.objects.filter(
        memberships__user=user,
        memberships__role__in=(Membership.Role.MANAGER, Membership.Role.MEMBER),
    )
    return sorted(rows, key=lambda team: (team.personal_of_id != user.pk, team.name))


# --- leaving a team -------------------------------------------------------------------------------
class Machines:
    """Machines of somebody who leaves a team (``accounts.handovers``)."""

    def count(self, *, user_ids: list[int], team: Team) -> dict[int, int]:
        rows = _kept(VM.objects.filter(team=team, owner__in=user_ids)).order_by()
        return dict(rows.values_list("owner").annotate(n=Count("pk", distinct=True)))

    def move(self, leaving: Leaving) -> int:
        """The team's quota stays as it is. The heir's own part grows, over their limit if need
        be: a limit in a team must not keep anybody in it."""
        theirs = _kept(VM.objects.filter(team=leaving.team, owner=leaving.user))
        vms = list(VM.objects.select_for_update().filter(pk__in=theirs.values("pk")))
        for vm in vms:
            mine = Q(vm=vm) | Q(subject__in=backups.subjects(vm))
            Allocation.objects.filter(mine).update(user=leaving.heir)
            _write(vm, actor=leaving.actor, owner=leaving.heir, team=leaving.team)
        return len(vms)


MACHINES = Machines()


def _kept(rows: VMQuerySet) -> VMQuerySet:
    """Machines that are there, and those that are gone but still counted (in a bin), or have left
    backups behind."""
    kept = Q(deleted_at__isnull=True) | Q(allocations__isnull=False) | Q(backups__isnull=False)
    return rows.filter(kept).distinct()


def _held(vm: VM) -> Ask:
    return quotas.held_by(vm, backups.subjects(vm))


# --- inside ---------------------------------------------------------------------------------------
def _at_once(vm: VM, actor: User, to: User) -> bool:
    if not policy.can(to, Action.TEAM_CREATE_VM, vm.team):
        return False
    return to == actor or policy.can(actor, Action.TEAM_MANAGE, vm.team)


@transaction.atomic
def _transfer(
    vm: VM, *, actor: User, owner: User, team: Team, offer: MachineOffer | None = None
) -> None:
    quotas.lock_teams(vm.team_id, team.pk)
    row = VM.objects.alive().select_for_update().filter(pk=vm.pk).first()
    if row is None or (row.team_id, row.owner_id) != (vm.team_id, vm.owner_id):
        raise Conflict("transfer.changed", name=vm.name)  # somebody was quicker
    if offer is not None and not MachineOffer.objects.filter(pk=offer.pk).delete()[0]:
        raise NotFound("transfer.gone")
    if job_services.active_job(row) is not None:
        raise Conflict("transfer.busy", name=row.name)
    twins = VM.objects.alive().filter(team=team, name=row.name).exclude(pk=row.pk)
    if twins.exists():
        raise Invalid("vm.name_taken", fields={"team": "vm.name_taken"}, name=row.name)
    quotas.transfer(row, team=team, user=owner, subjects=backups.subjects(row))
    _write(row, actor=actor, owner=owner, team=team)
    MachineOffer.objects.filter(machine=row.uuid).delete()
    if owner not in (actor, vm.owner):
        notify(
            owner,
            "sharing.given",
            url=reverse("vm_detail", args=[row.uuid]),
            who=actor.display_name(),
            machine=row.name,
        )
    vm.owner, vm.team = owner, team


def _write(row: VM, *, actor: User, owner: User, team: Team) -> None:
    """The row, what was shared by the former owner, and everybody who must hear of it."""
    before = {"owner": row.owner.username, "team": row.team.name}
    was = row.owner
    lost = {row.owner_id, *row.team.memberships.values_list("user_id", flat=True)}
    state.announce(row)  # to those who lose it
    row.owner, row.team = owner, team
    row.save(update_fields=["owner", "team"])
    # They move with it, closed: who has it now says whether they are open again.
    PublishedPort.objects.filter(vm=row).update(opened_by=None)
    shares = list(MachineShare.objects.filter(machine=row.uuid))
    # A new owner says anew who has access; who owns it now needs no share.
    sharing.end([one for one in shares if was != owner or one.team_id == team.pk])
    audit.record(actor, "vm.transfer", row, before=before, after=_names(row), team_id=team.pk)
    timeline.record(
        row,
        "owner",
        actor=actor,
        before=f"{was.display_name()} ({before['team']})",
        after=f"{owner.display_name()} ({team.name})",
    )
    for user_id in sorted(lost):
        announce_on_commit(Revocation(user_id=user_id, machine=row.uuid, reason="transferred"))
    state.announce(row)


def _names(row: VM) -> dict[str, str]:
    return {"owner": row.owner.username, "team": row.team.name}


def _open() -> QuerySet[MachineOffer, MachineOffer]:
    return MachineOffer.objects.filter(expires_at__gt=timezone.now())


def _is_as_it_was(offer: MachineOffer, vm: VM) -> bool:
    return (offer.owner_id, offer.team_id) == (vm.owner_id, vm.team_id)


def _find(offer_id: int, user: User) -> MachineOffer:
    offer = _open().filter(pk=offer_id, to=user).select_related("asked_by").first()
    vm = VM.objects.alive().filter(uuid=offer.machine).first() if offer else None
    if offer is None or vm is None or not _is_as_it_was(offer, vm):
        raise NotFound("transfer.gone")
    return offer
