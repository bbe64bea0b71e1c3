"""Django's admin: a look at the tables. Changes go through the site's own pages, which audit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from allauth.account.decorators import secure_admin_login
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from django.contrib import admin
from django.contrib.auth.models import Group
from django.db.models import Model
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from accounts.models import (
    Allocation,
    ApiToken,
    AuditEntry,
    Membership,
    QuotaLimit,
    SSHKey,
    Team,
    User,
)

if TYPE_CHECKING:
    _Base = admin.ModelAdmin[Model]
else:
    _Base = admin.ModelAdmin

# Django's own sign-in has neither our throttle nor the second factor, and its change of a password
# is not audited: both lead to the site's own pages.
admin.site.login = secure_admin_login(admin.site.login)  # type: ignore[method-assign]


def _change_password(request: HttpRequest, extra_context: Any = None) -> HttpResponse:  # noqa: ARG001
    return redirect("account_change_password")


admin.site.password_change = _change_password  # type: ignore[method-assign,assignment]

# Registered by others with leave to change, without audit; authenticators show their secret.
for model in (Group, EmailAddress, Authenticator):
    if admin.site.is_registered(model):
        admin.site.unregister(model)


class ReadOnly(_Base):
    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: ARG002
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        return False


@admin.register(User)
class UserAdmin(ReadOnly):
    list_display = ("username", "email", "is_active", "is_staff", "last_login")
    search_fields = ("username", "email")
    exclude = ("password",)


@admin.register(Team)
class TeamAdmin(ReadOnly):
    list_display = ("name", "kind", "created_at")
    search_fields = ("name",)


@admin.register(Membership)
class MembershipAdmin(ReadOnly):
    list_display = ("team", "user", "role")
    list_select_related = ("team", "user")


@admin.register(SSHKey)
class SSHKeyAdmin(ReadOnly):
    list_display = ("user", "name", "fingerprint")
    list_select_related = ("user",)


@admin.register(ApiToken)
class ApiTokenAdmin(ReadOnly):
    list_display = ("user", "name", "prefix", "expires_at", "last_used_at", "revoked_at")
    list_select_related = ("user",)
    exclude = ("token_hash",)


@admin.register(QuotaLimit)
class QuotaLimitAdmin(ReadOnly):
    list_display = ("scope", "team", "user", "resource", "hard")
    list_select_related = ("team", "user")


@admin.register(Allocation)
class AllocationAdmin(ReadOnly):
    list_display = ("vm", "team", "user", "resource", "amount", "state")
    list_select_related = ("vm", "team", "user")


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnly):
    list_display = ("at", "actor_name", "verb", "target_type", "target_name", "address")
    list_filter = ("verb",)
    search_fields = ("actor_name", "target_name", "target_id", "request_id")
    show_full_result_count = False
