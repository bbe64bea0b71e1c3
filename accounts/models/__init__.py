"""People, teams, keys, tokens, limits, what is allocated, and the audit record."""

from accounts.models.notices import (
    Notification,
    NotificationChoice,
)
from accounts.models.people import (
    ApiToken,
    MachineOffer,
    MachineShare,
    Membership,
    SignIn,
    SSHKey,
    Team,
    TeamInvite,
    User,
)
from accounts.models.quotas import (
    Allocation,
    GrantQuerySet,
    QuotaGrant,
    QuotaLimit,
    QuotaRecount,
    QuotaRequest,
    QuotaRequestEvent,
    QuotaRequestItem,
    RequestQuerySet,
    RequestRule,
    Resource,
    UsageSample,
)
from accounts.models.records import (
    AuditAnchor,
    AuditEntry,
    AuditQuerySet,
    IdempotentAnswer,
)

__all__ = [
    "Allocation",
    "ApiToken",
    "AuditAnchor",
    "AuditEntry",
    "AuditQuerySet",
    "GrantQuerySet",
    "IdempotentAnswer",
    "MachineOffer",
    "MachineShare",
    "Membership",
    "Notification",
    "NotificationChoice",
    "QuotaGrant",
    "QuotaLimit",
    "QuotaRecount",
    "QuotaRequest",
    "QuotaRequestEvent",
    "QuotaRequestItem",
    "RequestQuerySet",
    "RequestRule",
    "Resource",
    "SSHKey",
    "SignIn",
    "Team",
    "TeamInvite",
    "UsageSample",
    "User",
]
