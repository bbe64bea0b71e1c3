"""The API of people: me, my keys and tokens, quota, teams, users."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from ninja import Query, Router
from ninja.responses import Status

from accounts import (
    audit_log,
    invites,
    limits,
    notifications,
    policy,
    quotas,
    services,
    teams,
    tokens,
    webhooks,
)
from accounts.access import SignedInRequest
from accounts.apiauth import Identity, Page, Paging, admin_auth, idempotent, paginate
from accounts.errors import Invalid, NotFound
from accounts.models import Membership, SSHKey, Team, User, WebhookDelivery
from accounts.schemas import (
    AuditFilter,
    AuditOut,
    InviteIn,
    InviteIssued,
    InviteOut,
    JoinIn,
    Limits,
    LimitsOut,
    Me,
    MeChange,
    Member,
    MemberIn,
    NotificationChoices,
    NotificationOut,
    Overs,
    Quota,
    QuotaAsk,
    QuotaCheck,
    SSHKeyIn,
    SSHKeyOut,
    TeamChange,
    TeamDetail,
    TeamIn,
    TeamOut,
    TeamRole,
    TokenIn,
    TokenIssued,
    TokenOut,
    UserChange,
    UserCreated,
    UserIn,
    UserOut,
    WebhookDeliveryOut,
    WebhookIn,
    WebhookMade,
    WebhookOut,
)

router = Router()


class ApiRequest(SignedInRequest):
    auth: Identity


# --- me -----------------------------------------------------------------------------------------
@router.get("/me", response=Me, tags=["me"])
def me(request: ApiRequest) -> dict[str, Any]:
    user = request.user
    memberships = Membership.objects.filter(user=user).select_related("team").order_by("team__name")
    token = request.auth.token
    return {
        "id": user.pk,
        "username": user.username,
        "email": user.email,
        "first_name": user.first_name,
        "last_name": user.last_name,
        "is_admin": user.is_staff and user.is_active,
        "language": user.language,
        "theme": user.theme,
        "scopes": token.scopes if token else list(tokens.SCOPES[: 3 if user.is_admin else 2]),
        "teams": [
            {"id": row.team_id, "name": row.team.name, "kind": row.team.kind, "role": row.role}
            for row in memberships
        ],
    }


@router.patch("/me", response=Me, tags=["me"])
def change_me(request: ApiRequest, payload: MeChange) -> dict[str, Any]:
    services.set_preferences(user=request.user, language=payload.language, theme=payload.theme)
    return me(request)


@router.get("/me/ssh-keys", response=Page[SSHKeyOut], tags=["me"])
def list_ssh_keys(request: ApiRequest, paging: Query[Paging]) -> dict[str, Any]:
    return paginate(SSHKey.objects.filter(user=request.user), paging)


@router.post("/me/ssh-keys", response={201: SSHKeyOut}, tags=["me"])
@idempotent
def add_ssh_key(request: ApiRequest, payload: SSHKeyIn) -> Status[SSHKey]:
    key = services.add_ssh_key(request.user, payload.name, payload.public_key)
    return Status(201, key)


@router.delete("/me/ssh-keys/{int:key_id}", response={204: None}, tags=["me"])
def remove_ssh_key(request: ApiRequest, key_id: int) -> Status[None]:
    services.remove_ssh_key(request.user, key_id)
    return Status(204, None)


@router.get("/me/tokens", response=Page[TokenOut], tags=["me"])
def list_tokens(request: ApiRequest, paging: Query[Paging]) -> dict[str, Any]:
    return paginate(tokens.live_tokens(request.user), paging)


@router.post("/me/tokens", response={201: TokenIssued}, tags=["me"])
def issue_token(request: ApiRequest, payload: TokenIn) -> Status[dict[str, Any]]:
    """A token hands on no more than the one that asks for it may do. No Idempotency-Key: the
    secret must not be stored with the answer."""
    asking = request.auth.token
    if asking is not None and not set(payload.scopes) <= set(asking.scopes):
        raise Invalid("token.scopes_too_wide", fields={"scopes": "token.scopes_too_wide"})
    token, secret = tokens.issue(request.user, payload.name, payload.scopes, payload.expires_at)
    return Status(201, TokenOut.from_orm(token).model_dump() | {"token": secret})


@router.delete("/me/tokens/{int:token_id}", response={204: None}, tags=["me"])
def revoke_token(request: ApiRequest, token_id: int) -> Status[None]:
    tokens.revoke(request.user, token_id)
    return Status(204, None)


@router.get("/me/webhooks", response=Page[WebhookOut], tags=["me"])
def list_webhooks(request: ApiRequest, paging: Query[Paging]) -> dict[str, Any]:
    return paginate(webhooks.of(request.user), paging)


@router.post("/me/webhooks", response={201: WebhookMade}, tags=["me"])
def add_webhook(request: ApiRequest, payload: WebhookIn) -> Status[dict[str, Any]]:
    """What you are told of these topics is posted there. No Idempotency-Key: the secret must not
    be stored with the answer."""
    made, secret = webhooks.add(request.user, **payload.model_dump())
    return Status(201, WebhookOut.from_orm(made).model_dump() | {"secret": secret})


@router.delete("/me/webhooks/{int:webhook_id}", response={204: None}, tags=["me"])
def remove_webhook(request: ApiRequest, webhook_id: int) -> Status[None]:
    webhooks.remove(request.user, webhook_id)
    return Status(204, None)


@router.post("/me/webhooks/{int:webhook_id}/test", response=WebhookDeliveryOut, tags=["me"])
def try_webhook(request: ApiRequest, webhook_id: int) -> WebhookDelivery:
    """Posted within half a minute."""
    return webhooks.try_out(request.user, webhook_id)


@router.get(
    "/me/webhooks/{int:webhook_id}/deliveries", response=Page[WebhookDeliveryOut], tags=["me"]
)
def list_deliveries(request: ApiRequest, webhook_id: int, paging: Query[Paging]) -> dict[str, Any]:
    hook = webhooks.find(request.user, webhook_id)
    return paginate(hook.deliveries.all(), paging)


@router.get("/me/notifications", response=Page[NotificationOut], tags=["me"])
def list_notifications(
    request: ApiRequest, paging: Query[Paging], unread: bool = False
) -> dict[str, Any]:
    rows = notifications.of(request.user)
    return paginate(rows.filter(read_at__isnull=True) if unread else rows, paging)


@router.post("/me/notifications/read", response={204: None}, tags=["me"])
def read_notifications(request: ApiRequest) -> Status[None]:
    notifications.mark_read(request.user)
    return Status(204, None)


@router.post("/me/notifications/{int:notification_id}/read", response={204: None}, tags=["me"])
def read_notification(request: ApiRequest, notification_id: int) -> Status[None]:
    notifications.mark_read(request.user, notification_id)
    return Status(204, None)


@router.get("/me/notification-choices", response=NotificationChoices, tags=["me"])
def notification_choices(request: ApiRequest) -> dict[str, Any]:
    return {"mail": notifications.choices(request.user)}


@router.patch("/me/notification-choices", response=NotificationChoices, tags=["me"])
def choose_notifications(request: ApiRequest, payload: NotificationChoices) -> dict[str, Any]:
    """How topics come by mail from now on; those that are left out stay."""
    notifications.choose(request.user, payload.mail)
    return notification_choices(request)


# --- quota --------------------------------------------------------------------------------------
@router.get("/quota", response=Quota, tags=["quota"])
def quota(request: ApiRequest, team: str | None = None) -> dict[str, Any]:
    """What a team uses of what it may use; ``?team=`` is its id or name."""
    row = find_team(request.user, team)
    return {"team": row.name, "resources": quotas.overview(row, request.user)}


@router.post("/quota/check", response=QuotaCheck, tags=["quota"])
def check_quota(request: ApiRequest, payload: QuotaAsk) -> dict[str, Any]:
    """A dry run: would this fit? Nothing is held for it."""
    row = find_team(request.user, payload.team)
    impacts = quotas.preview(row, request.user, payload.ask())
    fits = not any(impact.missing for impact in impacts)
    return {"team": row.name, "fits": fits, "resources": impacts}


@router.get("/limits", response=LimitsOut, auth=admin_auth, tags=["quota"])
def site_limits(request: ApiRequest) -> dict[str, Any]:  # noqa: ARG001
    """What a team gets that has no limits of its own."""
    return {"limits": limits.rows(None)}


@router.patch("/limits", response=LimitsOut, auth=admin_auth, tags=["quota"])
def set_site_limits(request: ApiRequest, payload: Limits) -> dict[str, Any]:
    """Those that are left out stay; ``null`` takes the default away, which leaves no limit."""
    quotas.set_limits(actor=request.user, limits=payload.given())
    return {"limits": limits.rows(None)}


@router.get("/quota/over", response=Overs, auth=admin_auth, tags=["quota"])
def list_over(request: ApiRequest) -> dict[str, Any]:  # noqa: ARG001
    """Teams and members that use more than their limit: they keep it and cannot grow."""
    return {"items": limits.over()}


@router.get("/teams/{int:team_id}/limits", response=LimitsOut, tags=["quota"])
def team_limits(request: ApiRequest, team_id: int) -> dict[str, Any]:
    team = _team(request.user, team_id)
    return {"team": team.name, "limits": limits.rows(team)}


@router.get("/teams/{int:team_id}/members/{int:user_id}/limits", response=LimitsOut, tags=["quota"])
def member_limits(request: ApiRequest, team_id: int, user_id: int) -> dict[str, Any]:
    """What a member alone may use in the team: for the member and the team's managers."""
    team, user = _member(request.user, team_id, user_id)
    if user.pk != request.user.pk:
        policy.require(request.user, policy.Action.TEAM_MANAGE, team)
    return {"team": team.name, "user": user.username, "limits": limits.rows(team, user)}


@router.patch(
    "/teams/{int:team_id}/members/{int:user_id}/limits", response=LimitsOut, tags=["quota"]
)
def set_member_limits(
    request: ApiRequest, team_id: int, user_id: int, payload: Limits
) -> dict[str, Any]:
    """Set or clear (``null``) a member's own limits: by a manager of the team, not for oneself."""
    team, user = _member(request.user, team_id, user_id)
    quotas.set_limits(actor=request.user, team=team, user=user, limits=payload.given())
    return {"team": team.name, "user": user.username, "limits": limits.rows(team, user)}


def _member(actor: User, team_id: int, user_id: int) -> tuple[Team, User]:
    team = _team(actor, team_id)
    rows = team.memberships.select_related("user").filter(user=user_id % (1 << 62))
    row = rows.first()
    if row is None:
        raise NotFound
    return team, row.user


# --- teams --------------------------------------------------------------------------------------
def find_team(user: User, wanted: int | str | None) -> Team:
    """A team that the person may see, by id or name; their own when none is named."""
    if wanted is None or wanted == "":
        return services.complete_new_user(user)
    rows = teams.visible_to(user)
    found = rows.filter(name=str(wanted)).first()
    if found is None and str(wanted).isdecimal() and len(str(wanted)) < 19:
        found = rows.filter(pk=int(wanted)).first()
    if found is None:
        raise NotFound
    return found


def _team(user: User, team_id: int) -> Team:
    return find_team(user, team_id) if team_id < 1 << 62 else find_team(user, "?")


def _team_detail(team: Team) -> dict[str, Any]:
    members = team.memberships.select_related("user").order_by("user__username")
    own = {resource.value: hard for resource, hard in quotas.own_limits(team).items()}
    return TeamOut.from_orm(team).model_dump() | {"members": list(members), "limits": own}


@router.get("/teams", response=Page[TeamOut], tags=["teams"])
def list_teams(request: ApiRequest, paging: Query[Paging]) -> dict[str, Any]:
    return paginate(teams.visible_to(request.user), paging)


@router.post("/teams", response={201: TeamDetail}, tags=["teams"])
@idempotent
def create_team(request: ApiRequest, payload: TeamIn) -> Status[dict[str, Any]]:
    """Admins; others where the site lets people make teams, which they then manage."""
    manager = None
    if payload.manager is not None:
        manager = User.objects.filter(username=payload.manager, is_active=True).first()
        if manager is None:
            fields = {"manager": "user.unknown"}
            raise Invalid("user.unknown", fields=fields, username=payload.manager)
    team = teams.create_team(actor=request.user, name=payload.name, manager=manager)
    return Status(201, _team_detail(team))


@router.get("/teams/{int:team_id}", response=TeamDetail, tags=["teams"])
def get_team(request: ApiRequest, team_id: int) -> dict[str, Any]:
    return _team_detail(_team(request.user, team_id))


@router.patch("/teams/{int:team_id}", response=TeamDetail, tags=["teams"])
def rename_team(request: ApiRequest, team_id: int, payload: TeamChange) -> dict[str, Any]:
    team = _team(request.user, team_id)
    teams.rename_team(actor=request.user, team=team, name=payload.name)
    return _team_detail(team)


@router.post("/teams/{int:team_id}/members", response=Member, tags=["teams"])
@idempotent
def set_member(request: ApiRequest, team_id: int, payload: MemberIn) -> Membership:
    """Take somebody in, or give a member another role (manager, member, viewer)."""
    team = _team(request.user, team_id)
    return teams.set_member(
        actor=request.user, team=team, username=payload.username, role=payload.role
    )


@router.delete("/teams/{int:team_id}/members/{int:user_id}", response={204: None}, tags=["teams"])
def remove_member(request: ApiRequest, team_id: int, user_id: int, heir: str = "") -> Status[None]:
    """Remove a member, or leave. ``?heir=`` (a user name) takes over what they have in the team;
    a manager does where nobody is named."""
    team = _team(request.user, team_id)
    taking = User.objects.filter(username=heir).first() if heir else None
    if heir and taking is None:
        raise Invalid("team.bad_heir", fields={"heir": "team.bad_heir"})
    teams.remove_member(actor=request.user, team=team, user_id=user_id, heir=taking)
    return Status(204, None)


@router.get("/teams/{int:team_id}/invites", response=Page[InviteOut], tags=["teams"])
def list_invites(request: ApiRequest, team_id: int, paging: Query[Paging]) -> dict[str, Any]:
    team = _team(request.user, team_id)
    policy.require(request.user, policy.Action.TEAM_MANAGE, team)
    return paginate(invites.open_ones(team), paging)


@router.post("/teams/{int:team_id}/invites", response={201: InviteIssued}, tags=["teams"])
def invite(request: ApiRequest, team_id: int, payload: InviteIn) -> Status[dict[str, Any]]:
    """No Idempotency-Key: the link must not be stored with the answer."""
    team = _team(request.user, team_id)
    row, secret = invites.make(actor=request.user, team=team, **payload.model_dump())
    link = invites.link(secret, base=f"{request.scheme}://{request.get_host()}")
    if row.email:
        invites.send(row, link, actor=request.user)
    shown = None if row.email else link
    return Status(201, InviteOut.from_orm(row).model_dump() | {"link": shown})


@router.delete("/teams/{int:team_id}/invites/{int:invite_id}", response={204: None}, tags=["teams"])
def revoke_invite(request: ApiRequest, team_id: int, invite_id: int) -> Status[None]:
    invites.revoke(actor=request.user, team=_team(request.user, team_id), invite_id=invite_id)
    return Status(204, None)


@router.get("/teams/{int:team_id}/webhooks", response=Page[WebhookOut], tags=["teams"])
def list_team_webhooks(request: ApiRequest, team_id: int, paging: Query[Paging]) -> dict[str, Any]:
    team = _team(request.user, team_id)
    policy.require(request.user, policy.Action.TEAM_MANAGE, team)
    return paginate(webhooks.of_team(team), paging)


@router.post("/teams/{int:team_id}/webhooks", response={201: WebhookMade}, tags=["teams"])
def add_team_webhook(
    request: ApiRequest, team_id: int, payload: WebhookIn
) -> Status[dict[str, Any]]:
    """What happens to the team, of these topics, is posted there. No Idempotency-Key: the secret
    must not be stored with the answer."""
    team = _team(request.user, team_id)
    made, secret = webhooks.add(request.user, team=team, **payload.model_dump())
    return Status(201, WebhookOut.from_orm(made).model_dump() | {"secret": secret})


@router.delete(
    "/teams/{int:team_id}/webhooks/{int:webhook_id}", response={204: None}, tags=["teams"]
)
def remove_team_webhook(request: ApiRequest, team_id: int, webhook_id: int) -> Status[None]:
    webhooks.remove(request.user, webhook_id, team=_team(request.user, team_id))
    return Status(204, None)


@router.post(
    "/teams/{int:team_id}/webhooks/{int:webhook_id}/test",
    response=WebhookDeliveryOut,
    tags=["teams"],
)
def try_team_webhook(request: ApiRequest, team_id: int, webhook_id: int) -> WebhookDelivery:
    """Posted within half a minute."""
    return webhooks.try_out(request.user, webhook_id, team=_team(request.user, team_id))


@router.get(
    "/teams/{int:team_id}/webhooks/{int:webhook_id}/deliveries",
    response=Page[WebhookDeliveryOut],
    tags=["teams"],
)
def list_team_deliveries(
    request: ApiRequest, team_id: int, webhook_id: int, paging: Query[Paging]
) -> dict[str, Any]:
    hook = webhooks.find(request.user, webhook_id, team=_team(request.user, team_id))
    return paginate(hook.deliveries.all(), paging)


@router.post("/join", response=TeamRole, tags=["teams"])
def join(request: ApiRequest, payload: JoinIn) -> dict[str, Any]:
    """Accept an invitation."""
    row = invites.accept(user=request.user, secret=payload.secret)
    return {"id": row.team_id, "name": row.team.name, "kind": row.team.kind, "role": row.role}


@router.patch("/teams/{int:team_id}/limits", response=TeamDetail, auth=admin_auth, tags=["teams"])
def set_limits(request: ApiRequest, team_id: int, payload: Limits) -> dict[str, Any]:
    """Set or clear (``null``) limits of the team; those that are left out stay."""
    team = _team(request.user, team_id)
    quotas.set_limits(actor=request.user, team=team, limits=payload.given())
    return _team_detail(team)


# --- audit (admins) ------------------------------------------------------------------------------
@router.get("/audit", response=Page[AuditOut], auth=admin_auth, tags=["audit"])
def list_audit(
    request: HttpRequest,  # noqa: ARG001
    paging: Query[Paging],
    wanted: Query[AuditFilter],
) -> dict[str, Any]:
    """The newest first. ``since`` and ``until`` are days, the last one included."""
    query = audit_log.AuditQuery.from_params(wanted.model_dump())
    page = paginate(query.rows(), paging)
    return page | {"items": [audit_log.as_dict(row) for row in page["items"]]}


# --- users (admins) -----------------------------------------------------------------------------
def _user(user_id: int) -> User:
    found = User.objects.filter(pk=user_id).first() if user_id < 1 << 62 else None
    if found is None:
        raise NotFound
    return found


@router.get("/users", response=Page[UserOut], auth=admin_auth, tags=["users"])
def list_users(
    request: HttpRequest,  # noqa: ARG001
    paging: Query[Paging],
    q: str = "",
) -> dict[str, Any]:
    return paginate(services.search_users(q), paging)


@router.post("/users", response={201: UserCreated}, auth=admin_auth, tags=["users"])
def create_user(request: ApiRequest, payload: UserIn) -> Status[dict[str, Any]]:
    """No Idempotency-Key: a generated password must not be stored with the answer; the user
    name is unique already."""
    password = payload.password or services.generate_password()
    user = services.create_user(
        request.user, payload.username, payload.email, password, is_staff=payload.is_admin
    )
    shown = None if payload.password else password
    return Status(201, UserOut.from_orm(user).model_dump(by_alias=True) | {"password": shown})


@router.get("/users/{int:user_id}", response=UserOut, auth=admin_auth, tags=["users"])
def get_user(request: HttpRequest, user_id: int) -> User:  # noqa: ARG001
    return _user(user_id)


@router.patch("/users/{int:user_id}", response=UserOut, auth=admin_auth, tags=["users"])
def change_user(request: ApiRequest, user_id: int, payload: UserChange) -> User:
    user = _user(user_id)
    services.change_user(
        actor=request.user, user=user, active=payload.is_active, admin=payload.is_admin
    )
    return _user(user_id)
