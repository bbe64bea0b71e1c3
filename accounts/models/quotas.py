"""Limits, what is allocated, requests for more, and what was granted."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.db.models import F, Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts.models.people import Membership, Team, User


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
    # No index of their own: each begins one of those below.
    team = models.ForeignKey(
        Team, on_delete=models.PROTECT, related_name="allocations", db_index=False
    )
    user = models.ForeignKey(
        User, on_delete=models.PROTECT, related_name="allocations", db_index=False
    )
    resource = models.CharField(max_length=20, choices=Resource.choices)
    amount = models.BigIntegerField()
    state = models.CharField(max_length=9, choices=State.choices, default=State.HELD)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        indexes = [
            # With the amount, so that a sum is read from the index alone.
            models.Index(fields=["team", "resource", "amount"], name="allocation_sum_of_team"),
            models.Index(
                fields=["user", "team", "resource", "amount"], name="allocation_sum_of_member"
            ),
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
    """Somebody asks for more than a limit, or for more time for a machine. What was asked stays
    beside what was granted."""

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
    # Set: asks for more time for this machine, and for no amounts.
    machine = models.UUIDField(null=True, blank=True, db_index=True)
    machine_name = models.CharField(max_length=63, blank=True)
    reason = models.TextField()
    until = models.DateTimeField(null=True, blank=True)  # asked for; None: without end
    granted_until = models.DateTimeField(null=True, blank=True)  # of a machine's time
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
