"""The API of requests for more quota, of grants and of the rules."""

from __future__ import annotations

from typing import Any

from ninja import Query, Router
from ninja.responses import Status

from accounts import grants, requests
from accounts.api import ApiRequest, find_team
from accounts.apiauth import Page, Paging, admin_auth, idempotent, paginate
from accounts.errors import Invalid
from accounts.models import QuotaGrant, QuotaRequest, QuotaRequestEvent, RequestRule, User
from accounts.schemas import (
    ApproveIn,
    CommentIn,
    DecideIn,
    GrantAfter,
    GrantOut,
    RequestEdit,
    RequestEventOut,
    RequestIn,
    RequestOut,
    Rule,
)

router = Router(tags=["requests"])
_WITH = ("team", "requester", "decided_by")


@router.get("/requests", response=Page[RequestOut])
def list_requests(
    request: ApiRequest, paging: Query[Paging], state: str = "", decidable: bool = False
) -> dict[str, Any]:
    """Your own, and those of teams that you manage; ``decidable``: that wait for you."""
    rows = QuotaRequest.objects.visible_to(request.user)
    if decidable:
        mine = QuotaRequest.objects.decidable_by(request.user).values("pk")
        rows = rows.filter(pk__in=mine, state__in=QuotaRequest.UNDECIDED)
    if state:
        rows = rows.filter(state=state)
    return paginate(rows.select_related(*_WITH).prefetch_related("items"), paging)


@router.post("/requests", response={201: RequestOut})
@idempotent
def ask(request: ApiRequest, payload: RequestIn) -> Status[QuotaRequest]:
    """Ask for more than a limit. The refusal's ``request_url`` leads to the page for it."""
    made = requests.ask(
        actor=request.user,
        team=find_team(request.user, payload.team),
        amounts=payload.amounts,
        reason=payload.reason,
        scope=payload.scope,
        until=payload.until,
    )
    return Status(201, requests.find(request.user, made.pk))


@router.get("/requests/rules", response=Rule, auth=admin_auth)
def get_rule(request: ApiRequest) -> dict[str, Any]:  # noqa: ARG001
    return _rule(requests.rule())


@router.put("/requests/rules", response=Rule, auth=admin_auth)
def set_rule(request: ApiRequest, payload: Rule) -> dict[str, Any]:
    """What is approved and passed on by itself."""
    to = None
    if payload.escalate_to:
        admins = User.objects.filter(is_staff=True, is_active=True)
        to = admins.filter(username=payload.escalate_to).first()
        if to is None:
            fields = {"escalate_to": "rule.unknown_admin"}
            raise Invalid("rule.unknown_admin", fields=fields, username=payload.escalate_to)
    row = requests.set_rule(
        actor=request.user,
        step=payload.step,
        quiet_days=payload.quiet_days,
        grant_days=payload.grant_days,
        escalate_hours=payload.escalate_hours,
        escalate_to=to,
    )
    return _rule(row)


@router.get("/requests/{int:request_id}", response=RequestOut)
def get_request(request: ApiRequest, request_id: int) -> QuotaRequest:
    return requests.find(request.user, request_id)


@router.patch("/requests/{int:request_id}", response=RequestOut)
def edit(request: ApiRequest, request_id: int, payload: RequestEdit) -> QuotaRequest:
    """By who asked, while it is undecided; what it said before stays in its history."""
    found = requests.find(request.user, request_id)
    requests.edit(
        found,
        actor=request.user,
        amounts=payload.amounts,
        reason=payload.reason,
        until=payload.until,
    )
    return requests.find(request.user, request_id)


@router.get("/requests/{int:request_id}/history", response=Page[RequestEventOut])
def history(request: ApiRequest, request_id: int, paging: Query[Paging]) -> dict[str, Any]:
    found = requests.find(request.user, request_id)
    return paginate(requests.history(found, request.user), paging)


@router.post("/requests/{int:request_id}/comments", response={201: RequestEventOut})
@idempotent
def comment(request: ApiRequest, request_id: int, payload: CommentIn) -> Status[QuotaRequestEvent]:
    found = requests.find(request.user, request_id)
    event = requests.comment(
        found, actor=request.user, text=payload.text, internal=payload.internal
    )
    return Status(201, event)


@router.post("/requests/{int:request_id}/withdraw", response=RequestOut)
def withdraw(request: ApiRequest, request_id: int) -> QuotaRequest:
    requests.withdraw(requests.find(request.user, request_id), actor=request.user)
    return requests.find(request.user, request_id)


@router.post("/requests/{int:request_id}/approve", response=RequestOut)
def approve(request: ApiRequest, request_id: int, payload: ApproveIn) -> QuotaRequest:
    """Once: a second decision, or one over a request that has changed, is a 409 and does
    nothing."""
    requests.approve(
        requests.find(request.user, request_id),
        actor=request.user,
        version=payload.version,
        granted=payload.granted,
        ends_at=payload.ends_at,
        text=payload.text,
        internal=payload.internal,
    )
    return requests.find(request.user, request_id)


@router.post("/requests/{int:request_id}/reject", response=RequestOut)
def reject(request: ApiRequest, request_id: int, payload: DecideIn) -> QuotaRequest:
    requests.reject(
        requests.find(request.user, request_id),
        actor=request.user,
        version=payload.version,
        text=payload.text,
        internal=payload.internal,
    )
    return requests.find(request.user, request_id)


@router.post("/requests/{int:request_id}/ask-back", response=RequestOut)
def ask_back(request: ApiRequest, request_id: int, payload: DecideIn) -> QuotaRequest:
    requests.ask_back(
        requests.find(request.user, request_id),
        actor=request.user,
        version=payload.version,
        text=payload.text,
    )
    return requests.find(request.user, request_id)


@router.get("/grants", response=Page[GrantOut])
def list_grants(
    request: ApiRequest, paging: Query[Paging], team: str | None = None
) -> dict[str, Any]:
    """Those of a team that are live."""
    return paginate(grants.of_team(find_team(request.user, team), request.user), paging)


@router.get("/grants/{int:grant_id}/without", response=GrantAfter)
def without_grant(request: ApiRequest, grant_id: int) -> grants.After:
    """What its end, or taking it back, would mean now."""
    return grants.without(grants.find(request.user, grant_id))


@router.post("/grants/{int:grant_id}/revoke", response=GrantOut)
def revoke(request: ApiRequest, grant_id: int) -> QuotaGrant:
    """Take it back. Destroys nothing; it blocks growth until what is used fits again."""
    return grants.revoke(grants.find(request.user, grant_id), actor=request.user)


def _rule(row: RequestRule) -> dict[str, Any]:
    return {
        "step": row.step,
        "quiet_days": row.quiet_days,
        "grant_days": row.grant_days,
        "escalate_hours": row.escalate_hours,
        "escalate_to": row.escalate_to.username if row.escalate_to else None,
    }
