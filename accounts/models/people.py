"""People, teams, their keys and tokens, and what is shared."""

from __future__ import annotations

from django.contrib.auth.models import AbstractUser
from django.db import models
from django.db.models import Q
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


class DirectoryAccount(models.Model):
    """Whose account this is in an LDAP directory, by the directory's own identity of them."""

    user = models.OneToOneField(User, on_delete=models.CASCADE, related_name="directory_account")
    directory = models.CharField(max_length=64)  # "id" in KVMWEB_LDAP_FILE
    uid = models.CharField(max_length=255)  # entryUUID, objectGUID
    dn = models.TextField()  # as it was at the last sign-in
    seen_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["directory", "uid"], name="directoryaccount_once")
        ]


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
