"""Who has access to a machine and why; sharing it, giving it away, taking what is offered."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from django.db.models import QuerySet
from django.http import HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_POST, require_safe

from accounts import policy, sharing, teams
from accounts.access import SignedInRequest, signed_in
from accounts.errors import Invalid, NotFound
from accounts.fragments import done, render_page
from accounts.models import MachineOffer, MachineShare, Membership, Team, User
from accounts.policy import Action
from vms import ownership, queries
from vms.models import VM

_MEMBERS_SHOWN = 50


@dataclass(frozen=True, kw_only=True)
class AccessRow:
    """One line of "who has access and why"."""

    who: str
    icon: str
    may: str
    why: str
    share: MachineShare | None = None


@dataclass(frozen=True, kw_only=True)
class AccessView:
    rows: list[AccessRow]
    more: int  # members of its team who are not listed one by one
    may_share: bool
    mine: str  # what the reader may, when they may not see who else has access
    offer: MachineOffer | None


def of(vm: VM, user: User) -> AccessView:
    """For the machine's tab. The list is for those who may change it, others read their own."""
    door = policy.door(user)
    may_share = door.can(Action.SHARE, vm)
    owner = AccessRow(
        who=vm.owner.display_name(), icon="user", may=_("everything"), why=_("owner of the machine")
    )
    if not may_share:
        relation = door.relation(vm)
        return AccessView(
            rows=[owner],
            more=0,
            may_share=False,
            mine=_MAY[relation]() if relation else "",
            offer=None,
        )
    members = list(_members(vm)[: _MEMBERS_SHOWN + 1])
    rows = [owner]
    rows += [_of_member(row) for row in members[:_MEMBERS_SHOWN]]
    rows += [_of_share(row) for row in sharing.of(vm)]
    more = _members(vm).count() - _MEMBERS_SHOWN if len(members) > _MEMBERS_SHOWN else 0
    return AccessView(rows=rows, more=more, may_share=True, mine="", offer=ownership.offer_of(vm))


_MAY = {
    policy.Relation.ADMIN: lambda: _("everything"),
    policy.Relation.OWNER: lambda: _("everything"),
    policy.Relation.MANAGER: lambda: _("everything"),
    policy.Relation.SHARED_MANAGER: lambda: _("everything but who has access"),
    policy.Relation.MEMBER: lambda: _("see it, power, console"),
    policy.Relation.VIEWER: lambda: _("see it, console without typing"),
}
_OF_ROLE = {
    MachineShare.Role.VIEWER.value: policy.Relation.VIEWER,
    MachineShare.Role.OPERATOR.value: policy.Relation.MEMBER,
    MachineShare.Role.MANAGER.value: policy.Relation.SHARED_MANAGER,
}


@signed_in
@require_safe
def show(request: SignedInRequest, uuid: UUID) -> HttpResponse:
    """The dialogs of the tab: ``?part=share`` and ``?part=transfer``; without one, the tab."""
    vm = queries.one(request.user, uuid)
    if not request.GET.get("part"):
        return redirect(f"{reverse('vm_detail', args=[vm.uuid])}?tab=access")
    policy.require(request.user, Action.SHARE, vm)
    context = {
        "vm": vm,
        "roles": MachineShare.Role.choices,
        "share": _share_asked(request, vm),
        "share_teams": _teams_to_share_with(request.user, vm),
        "move_teams": [
            team for team in ownership.receiving_teams(request.user) if team.pk != vm.team_id
        ],
        "may_move": request.user.pk == vm.owner_id,
    }
    parts = {"share", "transfer"}
    return render_page(request, "vms/access.html", context, parts=parts)


@signed_in
@require_POST
def share(request: SignedInRequest, uuid: UUID) -> HttpResponse:
    vm = queries.one(request.user, uuid)
    policy.require(request.user, Action.SHARE, vm)
    username, team_id = request.POST.get("username", "").strip(), request.POST.get("team", "")
    if bool(username) == bool(team_id):
        raise Invalid("share.with_whom")
    user = sharing.find_person(username) if username else None
    team = sharing.find_team(request.user, _number(team_id)) if team_id else None
    sharing.share(vm, actor=request.user, role=request.POST.get("role", ""), user=user, team=team)
    whom = user.display_name() if user else team.name if team else ""
    text = _("“%(name)s” is shared with %(whom)s.") % {"name": vm.name, "whom": whom}
    return done(request, text, changed=f"vm:{vm.uuid}")


@signed_in
@require_POST
def unshare(request: SignedInRequest, uuid: UUID, share_id: int) -> HttpResponse:
    vm = queries.one(request.user, uuid)
    sharing.unshare(vm, share_id, actor=request.user)
    sees = policy.can(request.user, Action.SEE, vm)
    goal = "" if sees else reverse("vm_list")
    return done(request, _("The share was ended."), changed=f"vm:{vm.uuid} vm", goal=goal)


@signed_in
@require_POST
def transfer(request: SignedInRequest, uuid: UUID) -> HttpResponse:
    """Give it to ``username``, or move it to ``team``."""
    vm = queries.one(request.user, uuid)
    policy.require(request.user, Action.SHARE, vm)
    username, team_id = request.POST.get("username", "").strip(), request.POST.get("team", "")
    if bool(username) == bool(team_id):
        raise Invalid("share.with_whom")
    if team_id:
        team = Team.objects.filter(pk=_number(team_id)).first()
        if team is None:
            raise Invalid("share.unknown_team")
        ownership.move_to_team(vm, actor=request.user, team=team)
        text = _("“%(name)s” is in the team %(team)s now.") % {"name": vm.name, "team": team.name}
    else:
        to = sharing.find_person(username)
        offer = ownership.give(vm, actor=request.user, to=to)
        text = (
            _("“%(name)s” is offered to %(who)s, who decides.")
            if offer
            else _("“%(name)s” belongs to %(who)s now.")
        ) % {"name": vm.name, "who": to.display_name()}
    goal = "" if policy.can(request.user, Action.SEE, vm) else reverse("vm_list")
    return done(request, text, changed=f"vm:{vm.uuid} vm", goal=goal)


@signed_in
@require_POST
def withdraw(request: SignedInRequest, uuid: UUID) -> HttpResponse:
    vm = queries.one(request.user, uuid)
    ownership.withdraw(vm, actor=request.user)
    return done(request, _("The offer was withdrawn."), changed=f"vm:{vm.uuid}")


# --- the receiving side ---------------------------------------------------------------------------
@signed_in
@require_safe
def offers(request: SignedInRequest) -> HttpResponse:
    context = {"offers": ownership.open_offers(request.user)}
    return render_page(request, "vms/offers.html", context)


@signed_in
@require_POST
def accept(request: SignedInRequest, offer_id: int) -> HttpResponse:
    team = teams.visible_to(request.user).filter(pk=_number(request.POST.get("team", ""))).first()
    if team is None:
        raise Invalid("share.unknown_team")
    vm = ownership.accept(offer_id, user=request.user, team=team)
    text = _("“%(name)s” is yours now.") % {"name": vm.name}
    return done(request, text, goal=reverse("vm_detail", args=[vm.uuid]))


@signed_in
@require_POST
def decline(request: SignedInRequest, offer_id: int) -> HttpResponse:
    ownership.decline(offer_id, user=request.user)
    return done(request, _("The offer was declined."), goal=reverse("machine_offers"))


# --- inside ---------------------------------------------------------------------------------------
def _members(vm: VM) -> QuerySet[Membership, Membership]:
    return (
        Membership.objects.filter(team=vm.team, user__is_active=True)
        .exclude(user=vm.owner)
        .select_related("user")
        .order_by("user__username")
    )


def _of_member(row: Membership) -> AccessRow:
    relation = policy.Relation(row.role)
    why = _("%(role)s of the team") % {"role": row.get_role_display()}
    return AccessRow(who=row.user.display_name(), icon="user", may=_MAY[relation](), why=why)


def _of_share(row: MachineShare) -> AccessRow:
    may = _MAY[_OF_ROLE[row.role]]()
    by = row.granted_by.display_name() if row.granted_by else _("somebody who is gone")
    if row.team is not None:
        count = row.team.memberships.count()
        who = ngettext(
            "Team %(team)s (%(count)s member)", "Team %(team)s (%(count)s members)", count
        ) % {"team": row.team.name, "count": count}
        return AccessRow(
            who=who, icon="users", may=may, why=_("shared by %(by)s") % {"by": by}, share=row
        )
    who = row.user.display_name() if row.user else ""
    return AccessRow(
        who=who, icon="user", may=may, why=_("shared by %(by)s") % {"by": by}, share=row
    )


def _teams_to_share_with(user: User, vm: VM) -> list[Team]:
    rows = teams.visible_to(user).exclude(kind=Team.Kind.PERSONAL).exclude(pk=vm.team_id)
    return list(rows.order_by("name")[:200])


def _share_asked(request: SignedInRequest, vm: VM) -> MachineShare | None:
    wanted = request.GET.get("share", "")
    if not wanted:
        return None
    row = sharing.of(vm).filter(pk=_number(wanted)).first()
    if row is None:
        raise NotFound
    return row


def _number(text: str) -> int:
    """An id from a form; 0, which nobody has, for what is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else 0
