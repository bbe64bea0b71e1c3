"""What the API of accounts takes and gives."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from ninja import Field, Schema
from pydantic import AwareDatetime, ConfigDict

from accounts import notifications
from accounts.models import Resource


class In(Schema):
    """Input refuses names that it does not know: a typing error must not be ignored."""

    model_config = ConfigDict(extra="forbid")


class TeamRole(Schema):
    id: int
    name: str
    kind: str
    role: str


class Me(Schema):
    id: int
    username: str
    email: str
    first_name: str
    last_name: str
    is_admin: bool
    language: str
    theme: str
    scopes: list[str]
    teams: list[TeamRole]


class MeChange(In):
    language: str | None = None
    theme: str | None = None


class SSHKeyOut(Schema):
    id: int
    name: str
    public_key: str
    fingerprint: str
    created_at: datetime


class SSHKeyIn(In):
    name: str = Field("", max_length=64)
    public_key: str = Field(max_length=16_000)


class TokenOut(Schema):
    id: int
    name: str
    prefix: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


class TokenIn(In):
    name: str = Field(max_length=64)
    scopes: list[str] = Field(["read"], max_length=8)
    expires_at: datetime | None = None


class TokenIssued(TokenOut):
    token: str = Field(description="shown in this answer only")


class NotificationOut(Schema):
    id: int
    code: str
    text: str = Field(description="in the language of the request")
    url: str = Field(description="the page that it leads to, or empty")
    created_at: datetime
    read_at: datetime | None

    @staticmethod
    def resolve_text(obj: Any) -> str:
        return notifications.text(obj)


class NotificationChoices(In):
    mail: dict[str, str] = Field(description="topic -> now, daily or never")


class ResourceImpact(Schema):
    resource: str
    used: int
    asked: int
    after: int = Field(description="used and asked together")
    hard: int = Field(description="-1: unlimited")
    scope: str = Field(description="where the limit comes from: site, team or member")
    missing: int = Field(description="0: it fits")


class LimitOut(Schema):
    resource: str
    own: int | None = Field(description="null: inherited; -1: unlimited; 0: none")
    inherited: int | None = Field(description="what holds where there is none of its own")
    inherited_from: str = Field(description="site or team; empty at the top")
    granted: int = Field(description="added by grants that are live")
    hard: int = Field(description="what holds now, with what is granted; -1: unlimited")
    used: int
    over: int = Field(description="used beyond the limit: kept, but it cannot grow")


class LimitsOut(Schema):
    team: str | None = Field(None, description="null: the site's defaults")
    user: str | None = None
    limits: list[LimitOut]


class OverOut(Schema):
    team: str
    user: str | None
    resource: str
    used: int
    hard: int
    by: int

    @staticmethod
    def resolve_team(obj: Any) -> str:
        return str(obj.team.name)

    @staticmethod
    def resolve_user(obj: Any) -> str | None:
        return str(obj.user.username) if obj.user else None


class Overs(Schema):
    items: list[OverOut]


class Quota(Schema):
    team: str
    resources: list[ResourceImpact]


class QuotaCheck(Schema):
    team: str
    fits: bool
    resources: list[ResourceImpact]


class QuotaAsk(In):
    """What would be taken, in the unit that each name gives."""

    team: int | str | None = Field(None, description="id or name; your own team when left out")
    machines: int = Field(0, ge=0, le=100_000)
    running_machines: int = Field(0, ge=0, le=100_000)
    vcpus: int = Field(0, ge=0, le=1_000_000)
    running_vcpus: int = Field(0, ge=0, le=1_000_000)
    memory_mib: int = Field(0, ge=0, le=1 << 40)
    running_memory_mib: int = Field(0, ge=0, le=1 << 40)
    disk_gib: int = Field(0, ge=0, le=1 << 40)
    snapshots: int = Field(0, ge=0, le=1_000_000)
    backups_gib: int = Field(0, ge=0, le=1 << 40)
    ports: int = Field(0, ge=0, le=1_000_000)
    templates: int = Field(0, ge=0, le=1_000_000)
    images_gib: int = Field(0, ge=0, le=1 << 40)

    def ask(self) -> dict[Resource, int]:
        amounts = {resource: getattr(self, resource.value) for resource in Resource}
        return {resource: amount for resource, amount in amounts.items() if amount}


class Limits(In):
    """Limits set at one scope: ``null`` inherits, -1 is unlimited, 0 is none."""

    machines: int | None = None
    running_machines: int | None = None
    vcpus: int | None = None
    running_vcpus: int | None = None
    memory_mib: int | None = None
    running_memory_mib: int | None = None
    disk_gib: int | None = None
    snapshots: int | None = None
    backups_gib: int | None = None
    ports: int | None = None
    templates: int | None = None
    images_gib: int | None = None

    def given(self) -> dict[Resource, int | None]:
        return {
            Resource(name): value for name, value in self.model_dump(exclude_unset=True).items()
        }


Amount = Annotated[int, Field(strict=True, ge=0, le=1 << 50)]


class RequestIn(In):
    team: int | str | None = Field(None, description="id or name; your own team when left out")
    scope: str = Field("team", description="team, or member: for your own limit in the team")
    amounts: dict[Resource, Amount] = Field(description="how much more of each resource")
    reason: str = Field(max_length=4000)
    until: AwareDatetime | None = None


class RequestEdit(In):
    amounts: dict[Resource, Amount] = Field({}, description="empty for a machine's time")
    reason: str = Field(max_length=4000)
    until: AwareDatetime | None = None


class CommentIn(In):
    text: str = Field(max_length=4000)
    internal: bool = False


class ApproveIn(In):
    version: int = Field(description="of the request as you have read it")
    granted: dict[Resource, Amount] = Field(
        {}, description="for each row that differs from what was asked; 0 grants nothing of it"
    )
    ends_at: AwareDatetime | None = Field(
        None, description="null: until it is taken back; of a machine's time: as asked"
    )
    text: str = Field("", max_length=4000, description="to the requester")
    internal: str = Field("", max_length=4000, description="only for those who may decide")


class DecideIn(In):
    version: int = Field(description="of the request as you have read it")
    text: str = Field(max_length=4000, description="to the requester")
    internal: str = Field("", max_length=4000)


class RequestItemOut(Schema):
    resource: str
    requested: int
    granted: int | None = Field(description="null: not decided")


class RequestEventOut(Schema):
    at: datetime
    actor: str | None = Field(description="null: the site itself")
    kind: str
    text: str
    internal: bool
    facts: dict[str, Any]

    @staticmethod
    def resolve_actor(obj: Any) -> str | None:
        return str(obj.actor.username) if obj.actor else None


class RequestOut(Schema):
    id: int
    team: str
    requester: str
    scope: str
    state: str = Field(description="open, asked_back, approved, rejected or withdrawn")
    version: int
    machine: UUID | None = Field(description="asks for more time for this machine, until `until`")
    machine_name: str
    reason: str
    until: datetime | None
    granted_until: datetime | None = Field(description="of a machine's time")
    created_at: datetime
    decided_at: datetime | None
    decided_by: str | None
    items: list[RequestItemOut]

    @staticmethod
    def resolve_team(obj: Any) -> str:
        return str(obj.team.name)

    @staticmethod
    def resolve_requester(obj: Any) -> str:
        return str(obj.requester.username)

    @staticmethod
    def resolve_decided_by(obj: Any) -> str | None:
        return str(obj.decided_by.username) if obj.decided_by else None

    @staticmethod
    def resolve_items(obj: Any) -> list[Any]:
        return list(obj.items.all())


class GrantOut(Schema):
    id: int
    team: str
    user: str | None = Field(description="null: for the whole team")
    resource: str
    delta: int
    starts_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    request: int | None = Field(None, alias="request_id")

    @staticmethod
    def resolve_team(obj: Any) -> str:
        return str(obj.team.name)

    @staticmethod
    def resolve_user(obj: Any) -> str | None:
        return str(obj.user.username) if obj.user else None


class GrantAfter(Schema):
    """What holds without the grant."""

    resource: str
    used: int
    hard_now: int
    hard: int
    over: int


class Rule(In):
    step: dict[Resource, Amount] = Field(
        description="the largest step that approves itself; empty: none does"
    )
    quiet_days: int = Field(30, ge=0, le=3650)
    grant_days: int = Field(30, ge=1, le=1830)
    escalate_hours: int = Field(0, ge=0, le=8760, description="0: never")
    escalate_to: str | None = Field(None, description="user name of an admin; null: all admins")


class TeamOut(Schema):
    id: int
    name: str
    kind: str
    created_at: datetime


class TeamIn(In):
    name: str = Field(max_length=64)
    manager: str | None = Field(None, description="user name; you when left out")


class TeamChange(In):
    name: str = Field(max_length=64)


class Member(Schema):
    user_id: int
    username: str
    role: str

    @staticmethod
    def resolve_username(obj: Any) -> str:
        return str(obj.user.username)


class TeamDetail(TeamOut):
    members: list[Member]
    limits: dict[str, int] = Field(description="set for this team; what is not here is inherited")


class MemberIn(In):
    username: str = Field(max_length=150)
    role: str = "member"


class InviteOut(Schema):
    id: int
    role: str
    email: str
    once: bool
    uses: int
    created_at: datetime
    expires_at: datetime


class InviteIn(In):
    role: str = "member"
    days: int = Field(7, description="1, 7 or 30")
    once: bool = Field(default=True, description="false: the link works for many people")
    email: str = Field("", max_length=254, description="mail it there; else hand out the link")


class InviteIssued(InviteOut):
    link: str | None = Field(description="shown in this answer only; null when it was mailed")


class JoinIn(In):
    secret: str = Field(max_length=200, description="the last part of the link")


class AuditFilter(In):
    q: str = ""
    who: str = ""
    verb: str = Field("", description="one verb, or the part before its dot")
    since: str = ""
    until: str = ""


class AuditOut(Schema):
    seq: int | None = Field(description="its place in the chain; null for a moment after writing")
    at: datetime
    actor: str
    verb: str
    target_type: str
    target_id: str
    target_name: str
    team_id: int | None
    address: str
    request_id: str
    job_id: str
    before: dict[str, Any]
    after: dict[str, Any]
    hash: str


class UserOut(Schema):
    id: int
    username: str
    email: str
    first_name: str
    last_name: str
    is_active: bool
    is_admin: bool = Field(alias="is_staff")
    last_login: datetime | None
    date_joined: datetime


class UserIn(In):
    username: str = Field(max_length=150)
    email: str = Field("", max_length=254)
    password: str | None = Field(
        None, max_length=128, description="generated and given in the answer when left out"
    )
    is_admin: bool = False


class UserCreated(UserOut):
    password: str | None = Field(None, description="the generated one; shown in this answer only")


class UserChange(In):
    is_active: bool | None = None
    is_admin: bool | None = None


class WebhookIn(In):
    url: str = Field(max_length=500)
    topics: list[str] = Field(
        description="as in `GET /me/notification-choices`; a team has team, quota, lease"
    )
    digest: bool = Field(default=False, description="once a day, together")


class WebhookOut(Schema):
    id: int
    url: str
    topics: list[str]
    digest: bool
    created_at: datetime


class WebhookMade(WebhookOut):
    secret: str = Field(description="signs what is posted; shown only now")


class WebhookDeliveryOut(Schema):
    id: int
    type: str
    created_at: datetime
    due_at: datetime | None = Field(description="of the next try; null: arrived or given up")
    tries: int
    delivered_at: datetime | None
    status: int | None = Field(description="of the last answer")
    error_code: str

    @staticmethod
    def resolve_type(obj: Any) -> str:
        return str(obj.code) or "test"
