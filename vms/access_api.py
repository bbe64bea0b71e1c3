"""The API of who has access to a machine: shares, giving away, taking what is offered."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.http import HttpRequest
from ninja import Field, Router, Schema
from ninja.responses import Status

from accounts import policy, sharing, teams
from accounts.apiauth import let_in, user_auth
from accounts.errors import Invalid
from accounts.models import MachineShare, Team, User
from accounts.policy import Action
from accounts.schemas import In
from vms import ownership, queries
from vms.models import VM

router = Router(tags=["access"], auth=user_auth)


class ShareOut(Schema):
    id: int
    user: str | None
    team: str | None
    role: str
    granted_by: str | None
    created_at: datetime


class AccessOut(Schema):
    owner: str
    team: str
    shares: list[ShareOut]
    offered_to: str | None


class ShareIn(In):
    user: str = Field("", max_length=150, description="a user name, or")
    team: int | None = Field(None, description="the id of a team that you are in")
    role: str = Field("viewer", description="viewer, operator or manager")


class TransferIn(In):
    to: str = Field("", max_length=150, description="user name of the new owner, or")
    team: int | None = Field(None, description="another team of yours; the owner stays")


class TransferOut(Schema):
    offered: bool = Field(description="true: they decide; false: it is done")


class OfferOut(Schema):
    id: int
    machine: str
    uuid: UUID
    offered_by: str
    expires_at: datetime
    fits: list[int] = Field(description="ids of your teams whose quota holds it")


class AcceptIn(In):
    team: int | None = Field(None, description="which of your teams; your own when left out")


@router.get("/vms/{uuid}/access", response=AccessOut, summary="Who has access")
def access(request: HttpRequest, uuid: UUID) -> dict[str, Any]:
    user, vm = _asked(request, uuid)
    policy.require(user, Action.SHARE, vm)
    offer = ownership.offer_of(vm)
    return {
        "owner": vm.owner.username,
        "team": vm.team.name,
        "shares": [_share(row) for row in sharing.of(vm)],
        "offered_to": offer.to.username if offer else None,
    }


@router.post("/vms/{uuid}/access", response=ShareOut, summary="Share it, or change a share")
def share(request: HttpRequest, uuid: UUID, payload: ShareIn) -> dict[str, Any]:
    user, vm = _asked(request, uuid)
    policy.require(user, Action.SHARE, vm)
    if bool(payload.user) == (payload.team is not None):
        raise Invalid("share.with_whom", fields={"user": "share.with_whom"})
    row = sharing.share(
        vm,
        actor=user,
        role=payload.role,
        user=sharing.find_person(payload.user) if payload.user else None,
        team=sharing.find_team(user, payload.team) if payload.team is not None else None,
    )
    return _share(row)


@router.delete("/vms/{uuid}/access/{int:share_id}", response={204: None}, summary="End a share")
def unshare(request: HttpRequest, uuid: UUID, share_id: int) -> Status[None]:
    user, vm = _asked(request, uuid)
    sharing.unshare(vm, share_id, actor=user)
    return Status(204, None)


@router.post("/vms/{uuid}/transfer", response=TransferOut, summary="Give it away, or move it")
def transfer(request: HttpRequest, uuid: UUID, payload: TransferIn) -> dict[str, Any]:
    user, vm = _asked(request, uuid)
    policy.require(user, Action.SHARE, vm)
    if bool(payload.to) == (payload.team is not None):
        raise Invalid("share.with_whom", fields={"to": "share.with_whom"})
    if payload.team is None:
        offer = ownership.give(vm, actor=user, to=sharing.find_person(payload.to))
        return {"offered": offer is not None}
    ownership.move_to_team(vm, actor=user, team=_team(user, payload.team))
    return {"offered": False}


@router.delete("/vms/{uuid}/transfer", response={204: None}, summary="Withdraw the offer")
def withdraw(request: HttpRequest, uuid: UUID) -> Status[None]:
    user, vm = _asked(request, uuid)
    ownership.withdraw(vm, actor=user)
    return Status(204, None)


@router.get("/offers", response=list[OfferOut], summary="Machines offered to you")
def offers(request: HttpRequest) -> list[dict[str, Any]]:
    return [
        {
            "id": one.offer.pk,
            "machine": one.vm.name,
            "uuid": one.vm.uuid,
            "offered_by": one.offer.asked_by.username,
            "expires_at": one.offer.expires_at,
            "fits": [team.pk for team in one.fits],
        }
        for one in ownership.open_offers(_user(request))
    ]


@router.post("/offers/{int:offer_id}/accept", response={204: None}, summary="Take it")
def accept(request: HttpRequest, offer_id: int, payload: AcceptIn) -> Status[None]:
    user = _user(request)
    own = Team.objects.get(personal_of=user)
    team = own if payload.team is None else _team(user, payload.team)
    ownership.accept(offer_id, user=user, team=team)
    return Status(204, None)


@router.post("/offers/{int:offer_id}/decline", response={204: None}, summary="Say no to it")
def decline(request: HttpRequest, offer_id: int) -> Status[None]:
    ownership.decline(offer_id, user=_user(request))
    return Status(204, None)


def _user(request: HttpRequest) -> User:
    return let_in(request).user


def _asked(request: HttpRequest, uuid: UUID) -> tuple[User, VM]:
    user = _user(request)
    return user, queries.one(user, uuid)


def _team(user: User, team_id: int) -> Team:
    row = teams.visible_to(user).filter(pk=team_id).first()
    if row is None:
        raise Invalid("share.unknown_team", fields={"team": "share.unknown_team"})
    return row


def _share(row: MachineShare) -> dict[str, Any]:
    return {
        "id": row.pk,
        "user": row.user.username if row.user else None,
        "team": row.team.name if row.team else None,
        "role": row.role,
        "granted_by": row.granted_by.username if row.granted_by else None,
        "created_at": row.created_at,
    }
