from __future__ import annotations

from django.urls import path

from accounts import preferences
from accounts.views import (
    audit,
    language,
    limits,
    notices,
    people,
    profile,
    requests,
    team_pages,
    teams,
)

urlpatterns = [
    path("preferences/", preferences.change, name="preferences"),
    path("i18n/setlang", language.set_language, name="set_language"),
    path("profile/", profile.show, name="profile"),
    path("profile/keys/", profile.add_key, name="profile_key_add"),
    path("profile/keys/<int:key_id>/remove/", profile.remove_key, name="profile_key_remove"),
    path("profile/tokens/", profile.add_token, name="profile_token_add"),
    path(
        "profile/tokens/<int:token_id>/revoke/", profile.revoke_token, name="profile_token_revoke"
    ),
    path("profile/name/", profile.change_name, name="profile_name"),
    path("profile/preferences/", profile.change_preferences, name="profile_preferences"),
    path("profile/notifications/", notices.choose, name="notification_choices"),
    path("notifications/", notices.index, name="notification_list"),
    path("notifications/read/", notices.read_all, name="notification_read_all"),
    path("notifications/<int:notification_id>/", notices.follow, name="notification_follow"),
    path("admin/audit/", audit.index, name="audit"),
    path("admin/audit/export/<slug:form>/", audit.export, name="audit_export"),
    path("admin/users/", people.index, name="user_list"),
    path("admin/users/new/", people.create, name="user_create"),
    path("admin/users/<int:user_id>/", people.detail, name="user_detail"),
    path("admin/users/<int:user_id>/active/", people.set_active, name="user_set_active"),
    path("admin/users/<int:user_id>/admin/", people.set_admin, name="user_set_admin"),
    path("admin/users/<int:user_id>/password/", people.reset_password, name="user_reset_password"),
    path("admin/limits/", limits.site, name="site_limits"),
    path("teams/<int:team_id>/quota/", limits.team, name="team_quota"),
    path("teams/<int:team_id>/quota/limits/", limits.set_team, name="team_limits"),
    path("teams/<int:team_id>/quota/members/<int:user_id>/", limits.member, name="member_quota"),
    path("admin/requests/rules/", requests.rules, name="request_rules"),
    path("requests/", requests.index, name="request_list"),
    path("requests/new/", requests.new, name="request_new"),
    path("requests/<int:request_id>/", requests.detail, name="request_detail"),
    path("requests/<int:request_id>/edit/", requests.edit, name="request_edit"),
    path("requests/<int:request_id>/comment/", requests.comment, name="request_comment"),
    path("requests/<int:request_id>/withdraw/", requests.withdraw, name="request_withdraw"),
    path("requests/<int:request_id>/decide/", requests.decide, name="request_decide"),
    path("grants/<int:grant_id>/", requests.grant, name="grant"),
    path("admin/teams/", teams.index, name="team_list"),
    path("admin/teams/<int:team_id>/", teams.detail, name="team_detail"),
    path("teams/", team_pages.index, name="my_teams"),
    path("teams/new/", team_pages.create, name="team_create"),
    path("teams/<int:team_id>/", team_pages.show, name="team_page"),
    path("teams/<int:team_id>/name/", team_pages.rename, name="team_rename"),
    path("teams/<int:team_id>/members/", team_pages.set_member, name="team_member_set"),
    path(
        "teams/<int:team_id>/members/<int:user_id>/remove/",
        team_pages.remove_member,
        name="team_member_remove",
    ),
    path("teams/<int:team_id>/invites/", team_pages.invite, name="team_invite"),
    path(
        "teams/<int:team_id>/invites/<int:invite_id>/revoke/",
        team_pages.revoke_invite,
        name="team_invite_revoke",
    ),
    path("join/<str:secret>/", team_pages.join, name="team_join"),
]
