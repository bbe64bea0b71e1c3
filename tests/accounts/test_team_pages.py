"""Teams for the people in them: taking in, inviting, leaving; machines go to somebody who stays."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.core import mail
from django.test import Client
from django.utils import timezone

from accounts import invites, revocations, services, teams
from accounts.errors import Conflict, NotFound
from accounts.models import Allocation, Membership, Notification, Team, TeamInvite, User
from vms.models import VM

pytestmark = pytest.mark.django_db
Browser = Callable[[User], Client]


def role(team: Team, user: User) -> str | None:
    row = Membership.objects.filter(team=team, user=user).first()
    return row.role if row else None


def told(user: User) -> list[str]:
    return list(Notification.objects.filter(user=user).values_list("code", flat=True))


def invited(team: Team, by: User, **more: object) -> str:
    chosen = {"role": "member", "days": 7} | more
    return invites.make(actor=by, team=team, **chosen)[1]  # type: ignore[arg-type]


# --- pages ---------------------------------------------------------------------------------------
def test_everybody_sees_their_teams(
    browser: Browser, owner: User, viewer: User, outsider: User, team: Team
) -> None:
    assert "rivendell" in browser(viewer).get("/teams/").content.decode()
    assert "rivendell" not in browser(outsider).get("/teams/").content.decode()
    page = browser(viewer).get(f"/teams/{team.pk}/").content.decode()
    assert "teammate" in page
    assert "Add member" not in page
    assert "Add member" in browser(owner).get(f"/teams/{team.pk}/").content.decode()
    assert browser(outsider).get(f"/teams/{team.pk}/").status_code == 404


def test_a_manager_takes_in_and_changes_roles(
    browser: Browser, owner: User, outsider: User, teammate: User, team: Team
) -> None:
    at = f"/teams/{team.pk}/members/"
    client = browser(owner)
    assert client.post(at, {"username": "outsider", "role": "viewer"}).status_code == 302
    assert role(team, outsider) == "viewer"
    assert told(outsider) == ["team.added"]
    client.post(at, {"username": "outsider", "role": "manager"})
    assert told(outsider) == ["team.role", "team.added"]
    assert client.post(at, {"username": "nobody", "role": "member"}).status_code == 422
    refused = browser(teammate).post(at, {"username": "teammate", "role": "manager"})
    assert refused.status_code == 403
    assert role(team, teammate) == "member"


def test_renaming(browser: Browser, owner: User, teammate: User, team: Team) -> None:
    at = f"/teams/{team.pk}/name/"
    assert browser(owner).post(at, {"name": "imladris"}).status_code == 302
    assert browser(owner).post(at, {"name": "teammate"}).status_code == 422
    assert browser(teammate).post(at, {"name": "mine"}).status_code == 403
    assert Team.objects.get(pk=team.pk).name == "imladris"


def test_who_may_make_a_team(
    browser: Browser, api, owner: User, outsider: User, settings, admin: User
) -> None:
    assert browser(owner).post("/teams/new/", {"name": "a"}).status_code == 403
    settings.TEAMS_PER_PERSON = 1
    assert browser(owner).post("/teams/new/", {"name": "a"}).status_code == 302
    assert role(Team.objects.get(name="a"), owner) == "manager"
    assert api(owner).post("/teams", {"name": "b"}).json()["code"] == "team.create_closed"
    given = api(outsider).post("/teams", {"name": "c", "manager": "owner"})
    assert given.status_code == 403
    assert browser(admin).post("/teams/new/", {"name": "d"}).status_code == 302


# --- leaving -------------------------------------------------------------------------------------
@pytest.fixture
def theirs(make_vm: Callable[..., VM], teammate: User, team: Team) -> VM:
    vm = make_vm(teammate, team, "theirs")
    Allocation.objects.create(vm=vm, team=team, user=teammate, resource="vcpus", amount=1)
    return vm


def test_leaving_hands_machines_to_a_manager(
    browser: Browser,
    owner: User,
    teammate: User,
    team: Team,
    theirs: VM,
    make_vm: Callable[..., VM],
) -> None:
    elsewhere = make_vm(teammate, Team.objects.get(personal_of=teammate), "own")
    dialog = browser(teammate).get(f"/teams/{team.pk}/?part=remove&user={teammate.pk}")
    assert "1 machine in the team goes to" in dialog.content.decode()
    answer = browser(teammate).post(f"/teams/{team.pk}/members/{teammate.pk}/remove/")
    assert answer["Location"] == "/teams/"
    theirs.refresh_from_db()
    elsewhere.refresh_from_db()
    assert theirs.owner == owner
    assert elsewhere.owner == teammate
    assert Allocation.objects.get(vm=theirs).user == owner
    assert role(team, teammate) is None
    assert set(told(owner)) == {"team.left", "team.handed_over"}
    assert not VM.objects.visible_to(teammate).filter(pk=theirs.pk).exists()
    assert theirs.events.filter(kind="owner").exists()


def test_machines_go_to_who_was_chosen(
    browser: Browser, owner: User, teammate: User, viewer: User, outsider: User, team: Team, make_vm
) -> None:
    made = make_vm(owner, team, "mine")
    teams.set_member(actor=owner, team=team, username="outsider", role="manager")
    at = f"/teams/{team.pk}/members/{owner.pk}/remove/"
    for wrong in ("viewer", "owner", "nobody"):  # may not own machines, leaves, is not there
        assert browser(outsider).post(at, {"heir": wrong}).status_code == 422
    assert browser(outsider).post(at, {"heir": "teammate"}).status_code == 302
    made.refresh_from_db()
    assert made.owner == teammate
    assert told(owner) == ["team.removed"]


def test_what_is_deleted_but_still_counted_goes_too(
    owner: User, teammate: User, team: Team, theirs: VM
) -> None:
    VM.objects.filter(pk=theirs.pk).update(deleted_at=timezone.now())
    assert teams.remove_member(actor=teammate, team=team, user_id=teammate.pk) == 1
    assert Allocation.objects.get(vm=theirs).user == owner


def test_the_last_manager_cannot_leave(
    browser: Browser, owner: User, outsider: User, admin: User, team: Team
) -> None:
    at = f"/teams/{team.pk}/members/{owner.pk}/remove/"
    assert browser(owner).post(at).status_code == 409
    teams.set_member(actor=owner, team=team, username="outsider", role="manager")
    services.set_active(actor=admin, user=outsider, active=False)
    assert browser(owner).post(at).status_code == 409  # the other one cannot act
    assert role(team, owner) == "manager"


def test_others_remove_nobody(
    browser: Browser, teammate: User, viewer: User, outsider: User, owner: User, team: Team
) -> None:
    at = f"/teams/{team.pk}/members/{owner.pk}/remove/"
    assert browser(teammate).post(at).status_code == 403
    assert browser(outsider).post(at).status_code == 404
    assert browser(outsider).get(f"/teams/{team.pk}/?part=remove&user=1").status_code == 404
    dialog = browser(viewer).get(f"/teams/{team.pk}/?part=remove&user={owner.pk}")
    assert dialog.status_code == 403


# --- inviting ------------------------------------------------------------------------------------
def test_a_link_for_one_works_once(
    browser: Browser, owner: User, outsider: User, admin: User, team: Team
) -> None:
    page = browser(owner).post(f"/teams/{team.pk}/invites/", {"role": "member", "days": "7"})
    link = re.search(r"http://testserver(/join/[\w-]+/)", page.content.decode())
    assert link
    stored = TeamInvite.objects.get()
    assert stored.token_hash not in link[1]
    assert link[1].split("/")[2] not in str(stored.__dict__)
    shown = browser(outsider).get(link[1]).content.decode()
    assert "Join the team rivendell" in shown
    assert role(team, outsider) is None  # looking changes nothing
    assert browser(outsider).post(link[1]).status_code == 302
    assert role(team, outsider) == "member"
    assert told(owner) == ["team.joined"]
    assert browser(admin).post(link[1]).status_code == 404
    assert Client().get(link[1])["Location"].startswith("/accounts/login/?next=/join/")


def test_a_link_for_many_counts_them(owner: User, outsider: User, admin: User, team: Team) -> None:
    secret = invited(team, owner, once=False)
    for user in (outsider, admin):
        invites.accept(user=user, secret=secret)
    assert TeamInvite.objects.get().uses == 2
    with pytest.raises(Conflict):
        invites.accept(user=outsider, secret=secret)


@pytest.mark.parametrize("end", ["revoked", "expired", "demoted", "deactivated", "guessed"])
def test_an_invitation_that_has_ended(
    end: str, owner: User, outsider: User, teammate: User, admin: User, team: Team
) -> None:
    teams.set_member(actor=owner, team=team, username="teammate", role="manager")
    secret = invited(team, teammate, role="manager")
    row = TeamInvite.objects.get()
    match end:
        case "revoked":
            invites.revoke(actor=owner, team=team, invite_id=row.pk)
        case "expired":
            TeamInvite.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
        case "demoted":
            teams.set_member(actor=owner, team=team, username="teammate", role="member")
        case "deactivated":
            services.set_active(actor=admin, user=teammate, active=False)
        case _:
            secret = secret[::-1]
    with pytest.raises(NotFound):
        invites.accept(user=outsider, secret=secret)
    assert role(team, outsider) is None


def test_who_was_removed_does_not_come_back_by_a_link(
    owner: User, teammate: User, team: Team
) -> None:
    secret = invited(team, owner, once=False)
    teams.remove_member(actor=owner, team=team, user_id=teammate.pk)
    with pytest.raises(NotFound):
        invites.accept(user=teammate, secret=secret)


def test_only_managers_invite(
    browser: Browser, api, teammate: User, outsider: User, owner: User, team: Team
) -> None:
    for person, status in ((teammate, 403), (outsider, 404)):
        form = {"role": "member", "days": "7"}
        assert browser(person).post(f"/teams/{team.pk}/invites/", form).status_code == status
        assert api(person).post(f"/teams/{team.pk}/invites", {}).status_code == status
        assert api(person).get(f"/teams/{team.pk}/invites").status_code == status
    personal = Team.objects.get(personal_of=owner)
    assert api(owner).post(f"/teams/{personal.pk}/invites", {}).status_code == 409


def test_inviting_by_mail(browser: Browser, owner: User, outsider: User, team: Team) -> None:
    form = {"role": "viewer", "days": "1", "email": "new@example.test", "many": "on"}
    page = browser(owner).post(f"/teams/{team.pk}/invites/", form, follow=True)
    (sent,) = mail.outbox
    assert sent.to == ["new@example.test"]
    link = re.search(r"/join/([\w-]+)/", sent.body)
    assert link
    assert link[1] not in page.content.decode()
    assert TeamInvite.objects.get().once  # one address, one person
    invites.accept(user=outsider, secret=link[1])
    assert role(team, outsider) == "viewer"


def test_mail_that_does_not_leave_revokes(
    browser: Browser, owner: User, team: Team, monkeypatch
) -> None:
    def away(*_args: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(invites, "send_mail", away)
    form = {"role": "viewer", "days": "1", "email": "new@example.test"}
    assert browser(owner).post(f"/teams/{team.pk}/invites/", form).status_code == 503
    assert not invites.open_ones(team).exists()


def test_the_api_of_invitations(api, owner: User, outsider: User, team: Team) -> None:
    made = api(owner).post(f"/teams/{team.pk}/invites", {"role": "viewer", "days": 30}).json()
    listed = api(owner).get(f"/teams/{team.pk}/invites").json()
    assert listed["items"][0]["id"] == made["id"]
    assert "link" not in listed["items"][0]
    secret = made["link"].rstrip("/").split("/")[-1]
    assert api(outsider).post("/join", {"secret": secret}).json()["role"] == "viewer"
    again = api(owner).post(f"/teams/{team.pk}/invites", {}).json()
    assert api(owner).delete(f"/teams/{team.pk}/invites/{again['id']}").status_code == 204
    assert api(owner).post(f"/teams/{team.pk}/invites", {"days": 365}).status_code == 422


def test_leaving_ends_what_was_open(
    owner: User, teammate: User, team: Team, monkeypatch, django_capture_on_commit_callbacks
) -> None:
    told_of: list[revocations.Revocation] = []
    monkeypatch.setattr(revocations, "_callbacks", [told_of.append])
    with django_capture_on_commit_callbacks(execute=True):
        teams.remove_member(actor=teammate, team=team, user_id=teammate.pk)
    assert [(one.user_id, one.team_id) for one in told_of] == [(teammate.pk, team.pk)]
