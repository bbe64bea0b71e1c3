"""People, teams, keys, tokens, limits, what is allocated, and the audit record."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib.auth.models import AbstractUser
from django.db import models
from django.db.models import F, Q
from django.utils import timezone
from django.utils.crypto import salted_hmac
from django.utils.translation import gettext_lazy as _


class User(AbstractUser):
    """A person. ``is_staff`` makes an admin of the whole site."""

    class Theme(models.TextChoices):
        AUTO = "auto", _("Like the system")
        LIGHT = "light", _("Light")
        DARK = "dark", _("Dark")

    language = models.CharField(max_length=10, blank=True, default="")
    theme = models.CharField(max_length=5, choices=Theme.choices, default=Theme.AUTO)
    # Part of the session hash: one more ends every session, also after a reactivation.
    session_epoch = models.PositiveIntegerField(default=0)

    # Set on the instance that an API token without the scope "admin" brings: an admin's everyday
    # token must not reach other people's machines. Never stored.
    acts_as_member: bool = False

    @property
    def is_admin(self) -> bool:
        return self.is_active and self.is_staff and not self.acts_as_member

    def _get_session_auth_hash(self, secret: str | None = None) -> str:
        """Django's, with the epoch beside the password (django/contrib/auth/base_user.py)."""
        value = f"{self.password}:{self.session_epoch}" if self.session_epoch else self.password
        return salted_hmac(
            "kvmweb.accounts.session", value, secret=secret, algorithm="sha256"
        ).hexdigest()

    def display_name(self) -> str:
        return self.get_full_name() or self.username


class Team(models.Model):
    """Who pays: machines count against the quota of their team."""

    class Kind(models.TextChoices):
        PERSONAL = "personal", _("Personal")
        TEAM = "team", _("Team")
        COURSE = "course", _("Course")

    kind = models.CharField(max_length=8, choices=Kind.choices, default=Kind.TEAM)
    name = models.CharField(max_length=64, unique=True)
    personal_of = models.OneToOneField(
        User, null=True, blank=True, on_delete=models.PROTECT, related_name="personal_team"
    )
    members = models.ManyToManyField(User, through="Membership", related_name="teams")
    created_by = models.ForeignKey(
        User, null=True, blank=True, on_delete=models.SET_NULL, related_name="teams_made"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                name="team_personal_has_person",
                condition=Q(kind="personal", personal_of__isnull=False)
                | (~Q(kind="personal") & Q(personal_of__isnull=True)),
            )
        ]

    def __str__(self) -> str:
        return self.name


class Membership(models.Model):
    class Role(models.TextChoices):
        MANAGER = "manager", _("Manager")
        MEMBER = "member", _("Member")
        VIEWER = "viewer", _("Viewer")

    team = models.ForeignKey(Team, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=8, choices=Role.choices, default=Role.MEMBER)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["team", "user"], name="membership_once"),
        ]


class TeamInvite(models.Model):
    """Leave to join a team. Only the SHA-256 of its secret is stored; the link is shown once."""

    team = models.ForeignKey(Team, on_delete=models.CASCADE, related_name="invites")
    role = models.CharField(max_length=8, choices=Membership.Role.choices)
    email = models.EmailField(blank=True)  # where it was sent; empty: the link was copied
    token_hash = models.CharField(max_length=64, unique=True)
    once = models.BooleanField(default=True)  # else for as many as have the link
    uses = models.PositiveIntegerField(default=0)
    created_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-id"]


class MachineShare(models.Model):
    """One machine shown or lent to a person or a team that it does not belong to.

    By the machine's uuid: ``accounts`` knows no machines. A share ends with its machine's owner.
    """

    class Role(models.TextChoices):
        VIEWER = "viewer", _("Viewer: sees it, console without typing")
        OPERATOR = "operator", _("Operator: power and console")
        MANAGER = "manager", _("Manager: everything but who has access")

    machine = models.UUIDField(db_index=True)
    user = models.ForeignKey(
        User, null=True, on_delete=models.CASCADE, related_name="shared_machines"
    )
    team = models.ForeignKey(
        Team, null=True, on_delete=models.CASCADE, related_name="shared_machines"
    )
    role = models.CharField(max_length=8, choices=Role.choices)
    granted_by = models.ForeignKey(
        User, null=True, on_delete=models.SET_NULL, related_name="shares_granted"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.CheckConstraint(
                name="machineshare_person_or_team",
                condition=Q(user__isnull=False, team__isnull=True)
                | Q(user__isnull=True, team__isnull=False),
            ),
            models.UniqueConstraint(fields=["machine", "user"], name="machineshare_person_once"),
            models.UniqueConstraint(fields=["machine", "team"], name="machineshare_team_once"),
        ]


class MachineOffer(models.Model):
    """A machine that its owner wants to give away, until the other side takes it or it ends."""

    machine = models.UUIDField(unique=True)  # one at a time
    to = models.ForeignKey(User, on_delete=models.CASCADE, related_name="machines_offered")
    # As it was then: when the machine has moved since, the offer is worth nothing.
    owner = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+")
    team = models.ForeignKey(Team, on_delete=models.CASCADE, related_name="+")
    asked_by = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()


class SSHKey(models.Model):
    """A public key of a person, put into new machines when they choose it."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="ssh_keys")
    name = models.CharField(max_length=64)
    public_key = models.TextField()
    fingerprint = models.CharField(max_length=64)  # "SHA256:..." as ssh-keygen -l prints it
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(fields=["user", "fingerprint"], name="sshkey_once_per_user"),
            models.UniqueConstraint(fields=["user", "name"], name="sshkey_name_once_per_user"),
        ]


class SignIn(models.Model):
    """A browser that somebody signed in with; the session itself is Django's."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="sign_ins")
    session_key = models.CharField(max_length=40, db_index=True)
    address = models.CharField(max_length=45, blank=True)
    agent = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)


class ApiToken(models.Model):
    """A bearer token. Only its SHA-256 is stored; the token itself is shown once."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="api_tokens")
    name = models.CharField(max_length=64)
    prefix = models.CharField(max_length=12)  # what a list shows to tell tokens apart
    token_hash = models.CharField(max_length=64, unique=True)
    scopes = models.JSONField(default=list)  # subset of accounts.tokens.SCOPES
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]


class Notification(models.Model):
    """Something that a person is told: by the bell, and by mail as they chose."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="notifications")
    code = models.CharField(max_length=64)  # "team.joined": the message "notice.team.joined"
    params = models.JSONField(default=dict)
    url = models.CharField(max_length=300, blank=True)  # where it leads, a path of this site
    created_at = models.DateTimeField(auto_now_add=True)
    read_at = models.DateTimeField(null=True, blank=True)
    mail_due_at = models.DateTimeField(null=True, blank=True)  # None: no mail, or it was sent
    mail_tries = models.PositiveSmallIntegerField(default=0)

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(
                fields=["user"], condition=Q(read_at__isnull=True), name="notification_unread"
            ),
            models.Index(
                fields=["mail_due_at"],
                condition=Q(mail_due_at__isnull=False),
                name="notification_mail_due",
            ),
        ]


class NotificationChoice(models.Model):
    """How a person wants a topic by mail; without a row its default holds."""

    class Mail(models.TextChoices):
        NOW = "now", _("At once")
        DAILY = "daily", _("Once a day, together")
        NEVER = "never", _("Not by mail")

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="notification_choices")
    topic = models.CharField(max_length=32)
    mail = models.CharField(max_length=5, choices=Mail.choices)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["user", "topic"], name="notificationchoice_once"),
        ]


class Resource(models.TextChoices):
    """What is counted. Amounts are whole numbers in the unit that the name gives."""

    MACHINES = "machines", _("Machines")
    RUNNING_MACHINES = "running_machines", _("Running machines")
    VCPUS = "vcpus", _("vCPUs")
    RUNNING_VCPUS = "running_vcpus", _("vCPUs of running machines")
    MEMORY_MIB = "memory_mib", _("Memory")
    RUNNING_MEMORY_MIB = "running_memory_mib", _("Memory of running machines")
    DISK_GIB = "disk_gib", _("Disk")
    SNAPSHOTS = "snapshots", _("Snapshots")
    BACKUPS_GIB = "backups_gib", _("Backups")
    PORTS = "ports", _("Published ports")
    TEMPLATES = "templates", _("Templates")
    IMAGES_GIB = "images_gib", _("Images")


class QuotaLimit(models.Model):
    """A limit: a missing row inherits, -1 is unlimited, 0 is none."""

    UNLIMITED: ClassVar[int] = -1

    class Scope(models.TextChoices):
        SITE = "site", _("Site default")
        TEAM = "team", _("Team")
        MEMBER = "member", _("Member in team")

    scope = models.CharField(max_length=6, choices=Scope.choices)
    team = models.ForeignKey(Team, null=True, blank=True, on_delete=models.CASCADE)
    user = models.ForeignKey(User, null=True, blank=True, on_delete=models.CASCADE)
    resource = models.CharField(max_length=20, choices=Resource.choices)
    hard = models.BigIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["resource"], condition=Q(scope="site"), name="quotalimit_site_once"
            ),
            models.UniqueConstraint(
                fields=["team", "resource"], condition=Q(scope="team"), name="quotalimit_team_once"
            ),
            models.UniqueConstraint(
                fields=["team", "user", "resource"],
                condition=Q(scope="member"),
                name="quotalimit_member_once",
            ),
            models.CheckConstraint(
                name="quotalimit_scope_has_its_keys",
                condition=Q(scope="site", team__isnull=True, user__isnull=True)
                | Q(scope="team", team__isnull=False, user__isnull=True)
                | Q(scope="member", team__isnull=False, user__isnull=False),
            ),
            models.CheckConstraint(
                name="quotalimit_not_below_unlimited", condition=Q(hard__gte=-1)
            ),
        ]


class Allocation(models.Model):
    """What a machine, or another thing of a team, holds of the team's quota. Usage is always the
    SUM of these rows.

    ``subject`` names the part that it is for, like ``snapshot:12``, so that a part can be given
    back alone; what belongs to no machine (``template:3``) has only its subject.
    """

    class State(models.TextChoices):
        HELD = "held"  # promised to a job that has not had its effect yet
        ACTIVE = "active"  # confirmed by the hypervisor
        RELEASING = "releasing"  # still counted until the hypervisor has confirmed

    vm = models.ForeignKey(
        "vms.VM", null=True, blank=True, on_delete=models.PROTECT, related_name="allocations"
    )
    subject = models.CharField(max_length=64, blank=True, default="")
    team = models.ForeignKey(Team, on_delete=models.PROTECT, related_name="allocations")
    user = models.ForeignKey(User, on_delete=models.PROTECT, related_name="allocations")
    resource = models.CharField(max_length=20, choices=Resource.choices)
    amount = models.BigIntegerField()
    state = models.CharField(max_length=9, choices=State.choices, default=State.HELD)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        indexes = [
            models.Index(fields=["team", "resource"]),
            models.Index(fields=["user", "team"]),
            models.Index(
                fields=["subject"], condition=~Q(subject=""), name="allocation_by_subject"
            ),
        ]
        constraints = [
            models.CheckConstraint(name="allocation_positive", condition=Q(amount__gt=0)),
            models.CheckConstraint(
                name="allocation_is_for_something", condition=Q(vm__isnull=False) | ~Q(subject="")
            ),
        ]


class RequestQuerySet(models.QuerySet["QuotaRequest"]):
    def visible_to(self, user: User) -> RequestQuerySet:
        """Their own, and those of teams that they manage; an admin sees all."""
        if user.is_admin:
            return self.all()
        managed = user.memberships.filter(role=Membership.Role.MANAGER)
        return self.filter(Q(requester=user) | Q(team__in=managed.values("team")))

    def decidable_by(self, user: User) -> RequestQuerySet:
        """Those that this person may decide. Nobody decides their own."""
        others = self.exclude(requester=user)
        if user.is_admin:
            return others
        managed = user.memberships.filter(role=Membership.Role.MANAGER)
        return others.filter(scope=QuotaRequest.Scope.MEMBER, team__in=managed.values("team"))


class QuotaRequest(models.Model):
    """Somebody asks for more than a limit. What was asked stays beside what was granted."""

    class Scope(models.TextChoices):
        TEAM = "team", _("For the whole team")
        MEMBER = "member", _("For me in the team")

    class State(models.TextChoices):
        OPEN = "open", _("Waiting for a decision")
        ASKED_BACK = "asked_back", _("Waiting for an answer")
        APPROVED = "approved", _("Approved")
        REJECTED = "rejected", _("Rejected")
        WITHDRAWN = "withdrawn", _("Withdrawn")

    UNDECIDED: ClassVar[tuple[str, ...]] = ("open", "asked_back")

    team = models.ForeignKey(Team, on_delete=models.CASCADE, related_name="quota_requests")
    requester = models.ForeignKey(User, on_delete=models.PROTECT, related_name="quota_requests")
    scope = models.CharField(max_length=6, choices=Scope.choices, default=Scope.TEAM)
    state = models.CharField(max_length=10, choices=State.choices, default=State.OPEN)
    # One more at each change: who decides names the one that they have read.
    version = models.PositiveIntegerField(default=1)
    reason = models.TextField()
    until = models.DateTimeField(null=True, blank=True)  # asked for; None: without end
    created_at = models.DateTimeField(auto_now_add=True)
    decided_at = models.DateTimeField(null=True, blank=True)
    # None on a decided one: the site's own rule.
    decided_by = models.ForeignKey(
        User, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    escalated_at = models.DateTimeField(null=True, blank=True)

    objects = RequestQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["state", "created_at"])]

    @property
    def is_undecided(self) -> bool:
        return self.state in self.UNDECIDED


class QuotaRequestItem(models.Model):
    """One resource of a request: how much more."""

    request = models.ForeignKey(QuotaRequest, on_delete=models.CASCADE, related_name="items")
    resource = models.CharField(max_length=20, choices=Resource.choices)
    requested = models.BigIntegerField()
    granted = models.BigIntegerField(null=True, blank=True)  # None: not decided

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(fields=["request", "resource"], name="requestitem_once"),
            models.CheckConstraint(name="requestitem_asks_for_more", condition=Q(requested__gt=0)),
            models.CheckConstraint(
                name="requestitem_grants_no_less",
                condition=Q(granted__isnull=True) | Q(granted__gte=0),
            ),
        ]


class QuotaRequestEvent(models.Model):
    """What happened to a request: its history, comments among it."""

    class Kind(models.TextChoices):
        CREATED = "created", _("asked")
        EDITED = "edited", _("changed the request")
        COMMENTED = "commented", _("wrote")
        ASKED_BACK = "asked_back", _("asked back")
        APPROVED = "approved", _("approved")
        AUTO_APPROVED = "auto", _("approved by the site's rule")
        REJECTED = "rejected", _("rejected")
        WITHDRAWN = "withdrawn", _("withdrew it")
        ESCALATED = "escalated", _("passed on after waiting")
        WARNED = "warned", _("told that the grant will end")
        ENDED = "ended", _("the grant ended")
        REVOKED = "revoked", _("took the grant back")

    request = models.ForeignKey(QuotaRequest, on_delete=models.CASCADE, related_name="events")
    at = models.DateTimeField(auto_now_add=True)
    actor = models.ForeignKey(User, null=True, on_delete=models.PROTECT, related_name="+")
    kind = models.CharField(max_length=10, choices=Kind.choices)
    text = models.TextField(blank=True)
    internal = models.BooleanField(default=False)  # for those who decide alone
    facts = models.JSONField(default=dict)  # amounts before and after, for example

    class Meta:
        ordering = ["id"]


class RequestRule(models.Model):
    """What happens to requests by itself. One row; everything is off at first."""

    # Resource -> the largest step that approves itself; empty: none does.
    step = models.JSONField(default=dict, blank=True)
    quiet_days = models.PositiveIntegerField(default=30)  # since the person's last decision
    grant_days = models.PositiveIntegerField(default=30)  # the longest that such a grant lasts
    escalate_hours = models.PositiveIntegerField(default=0)  # 0: never
    escalate_to = models.ForeignKey(
        User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )

    class Meta:
        constraints = [models.CheckConstraint(name="requestrule_is_one", condition=Q(pk=1))]


class UsageSample(models.Model):
    """The most that a team, or a member in it, used of a resource on one day (UTC)."""

    team = models.ForeignKey(Team, on_delete=models.CASCADE)
    user = models.ForeignKey(User, null=True, on_delete=models.CASCADE)  # None: the whole team
    resource = models.CharField(max_length=20, choices=Resource.choices)
    day = models.DateField()
    peak = models.BigIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["team", "resource", "day"],
                condition=Q(user__isnull=True),
                name="usagesample_of_team_once",
            ),
            models.UniqueConstraint(
                fields=["team", "user", "resource", "day"],
                condition=Q(user__isnull=False),
                name="usagesample_of_member_once",
            ),
        ]


class GrantQuerySet(models.QuerySet["QuotaGrant"]):
    def live(self) -> GrantQuerySet:
        """Those that count now."""
        now = timezone.now()
        return self.filter(
            Q(expires_at__isnull=True) | Q(expires_at__gt=now),
            starts_at__lte=now,
            revoked_at__isnull=True,
        )


class QuotaGrant(models.Model):
    """More than the limit, for a time: added to it while it is live. Never changed but revoked."""

    team = models.ForeignKey(Team, on_delete=models.CASCADE, related_name="grants")
    # Set: added to the limit of this member in the team, not to the team's.
    user = models.ForeignKey(User, null=True, blank=True, on_delete=models.CASCADE)
    resource = models.CharField(max_length=20, choices=Resource.choices)
    delta = models.BigIntegerField()
    starts_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True, blank=True)  # None: until it is revoked
    revoked_at = models.DateTimeField(null=True, blank=True)
    revoked_by = models.ForeignKey(
        User, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    request = models.ForeignKey(
        QuotaRequest, null=True, blank=True, on_delete=models.CASCADE, related_name="grants"
    )
    warned_days = models.PositiveSmallIntegerField(null=True, blank=True)  # the last warning sent
    end_told_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = GrantQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["team", "expires_at"])]
        constraints = [
            models.CheckConstraint(name="quotagrant_positive", condition=Q(delta__gt=0)),
            models.CheckConstraint(
                name="quotagrant_ends_after_its_start",
                condition=Q(expires_at__isnull=True) | Q(expires_at__gt=F("starts_at")),
            ),
        ]


class QuotaRecount(models.Model):
    """One recount of all machines: how many, and where the sum of allocations was another."""

    at = models.DateTimeField(auto_now_add=True, db_index=True)
    checked = models.PositiveIntegerField()
    # [{machine, uuid, team, resource, held, counted, host}], of vms.recount.Difference
    differences = models.JSONField(default=list)
    repaired = models.BooleanField(default=True)

    class Meta:
        ordering = ["-id"]


class AuditQuerySet(models.QuerySet["AuditEntry"]):
    def update(self, **kwargs: Any) -> int:  # noqa: ARG002
        raise TypeError("the audit record is append-only")

    def delete(self) -> tuple[int, dict[str, int]]:
        raise TypeError("the audit record is append-only")


class AuditEntry(models.Model):
    """Who did what to which object, from where, with before and after. Append-only."""

    at = models.DateTimeField(auto_now_add=True, db_index=True)
    actor = models.ForeignKey(User, null=True, on_delete=models.DO_NOTHING, db_constraint=False)
    actor_name = models.CharField(max_length=150)  # stays when the person is gone
    verb = models.CharField(max_length=48)  # "vm.create", "image.publish", "user.sign_in"
    target_type = models.CharField(max_length=32, blank=True)
    target_id = models.CharField(max_length=64, blank=True)
    target_name = models.CharField(max_length=128, blank=True)
    team_id_at = models.BigIntegerField(null=True)
    address = models.CharField(max_length=45, blank=True)
    request_id = models.CharField(max_length=36, blank=True)
    job_id = models.CharField(max_length=36, blank=True)
    before = models.JSONField(default=dict)
    after = models.JSONField(default=dict)
    # Its place in the chain, given right after the commit: see accounts.chain.
    seq = models.BigIntegerField(null=True, unique=True)
    hash = models.CharField(max_length=64, blank=True)

    objects = AuditQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["target_type", "target_id"]),
            models.Index(fields=["id"], condition=Q(seq__isnull=True), name="audit_unsealed"),
        ]

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self.pk is not None:
            raise TypeError("the audit record is append-only")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:  # noqa: ARG002
        raise TypeError("the audit record is append-only")


class AuditAnchor(models.Model):
    """What the chain hangs on when its beginning was dropped: the last place and hash before."""

    ONLY: ClassVar[int] = 1

    seq = models.BigIntegerField(default=0)
    hash = models.CharField(max_length=64, blank=True)
    seal = models.CharField(max_length=64, blank=True)


class IdempotentAnswer(models.Model):
    """What a request with an Idempotency-Key answered; a repetition gets the same answer.

    Written in the transaction of the request's effect, so that both exist or neither.
    """

    user = models.ForeignKey(User, on_delete=models.CASCADE)
    key = models.CharField(max_length=128)
    request_hash = models.CharField(max_length=64)  # HMAC of method, path and body
    status = models.PositiveSmallIntegerField(null=True)
    content_type = models.CharField(max_length=64, blank=True)
    body = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["user", "key"], name="idempotency_key_once_per_user")
        ]
