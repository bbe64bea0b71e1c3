"""An admin looks as somebody else: sees what they see, changes nothing, leaves a trace."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from django.test import Client

from accounts import services, sign_ins
from accounts.models import AuditEntry, SignIn, Team, User
from accounts.views.view_as import KEY
from kvmweb import view_as
from tests.conftest import PASSWORD
from vms.models import VM

pytestmark = pytest.mark.django_db
Browser = Callable[[User], Client]


@pytest.fixture
def looking(admin: User, owner: User, vm: VM, browser: Browser) -> Client:
    client = browser(admin)
    assert client.post(f"/admin/users/{owner.pk}/view-as/").status_code == 302
    return client


def test_sees_what_they_see(
    looking: Client, vm: VM, admin: User, make_vm: Callable[..., VM]
) -> None:
    make_vm(admin, Team.objects.get(personal_of=admin), "unseen-vm")
    page = looking.get("/machines/").content.decode()
    assert "web-1" in page
    assert "unseen-vm" not in page
    assert "You see the site as owner does" in page
    assert looking.get("/admin/users/").status_code == 403
    verbs = list(AuditEntry.objects.filter(actor=admin).values_list("verb", flat=True))
    assert "user.view_as" in verbs
    assert verbs.count("user.view_as_page") == 2
    assert not AuditEntry.objects.filter(actor=vm.owner).exists(), "the owner did nothing"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("post", "/machines/{vm}/shutdown/"),
        ("post", "/machines/new/"),
        ("post", "/profile/name/"),
        ("post", "/teams/new/"),
        ("delete", "/api/v1/vms/{vm}"),
        ("patch", "/api/v1/vms/{vm}"),
        ("post", "/api/v1/vms/{vm}/console"),
        ("options", "/machines/"),
        ("get", "/accounts/2fa/recovery-codes/"),
        ("get", "/accounts/2fa/totp/activate/"),
        ("get", "/accounts/password/change/"),
        ("get", "/django-admin/"),
        ("post", "/accounts/logout/"),
    ],
)
def test_changes_nothing_and_opens_no_secrets(
    method: str, path: str, looking: Client, vm: VM
) -> None:
    answer = getattr(looking, method)(path.format(vm=vm.uuid))
    assert answer.status_code == 403
    assert not vm.jobs.exists()


def test_nobody_hides_what_they_looked_at(looking: Client, admin: User, vm: VM) -> None:
    """What a page fetches again and again is not written each time, but it is written."""
    path = f"/machines/{vm.uuid}/"
    for _ in range(3):
        looking.get(path, headers={"HX-Request": "true"})
    looking.get("/activity/?part=rows")
    seen = AuditEntry.objects.filter(actor=admin, verb="user.view_as_page")
    paths = [entry.after["path"] for entry in seen]
    assert sorted(paths) == ["/activity/", path]


def test_what_a_view_writes_is_rolled_back(
    looking: Client, owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def writes(*_args: object) -> Team:
        User.objects.filter(pk=owner.pk).update(first_name="changed")
        return Team.objects.get(personal_of=owner)

    monkeypatch.setattr(services, "complete_new_user", writes)
    assert looking.get("/profile/").status_code == 200
    owner.refresh_from_db()
    assert owner.first_name == ""


def test_ends_with_the_button(looking: Client, owner: User) -> None:
    assert looking.post("/view-as/end/")["Location"] == f"/admin/users/{owner.pk}/"
    assert looking.get("/admin/users/").status_code == 200
    assert AuditEntry.objects.filter(verb="user.view_as_end").exists()


def test_ends_by_itself(looking: Client) -> None:
    session = looking.session
    session[KEY] = session[KEY] | {"at": int(time.time()) - view_as.LIVES_S - 1}
    session.save()
    assert looking.get("/admin/users/").status_code == 200


def test_only_admins_and_only_people_below_them(
    admin: User, owner: User, outsider: User, browser: Browser, make_user: Callable[..., User]
) -> None:
    assert browser(owner).post(f"/admin/users/{outsider.pk}/view-as/").status_code == 403
    other = make_user("other-admin", is_staff=True)
    assert browser(admin).post(f"/admin/users/{other.pk}/view-as/").status_code == 409
    services.set_active(actor=admin, user=outsider, active=False)
    assert browser(admin).post(f"/admin/users/{outsider.pk}/view-as/").status_code == 409


def test_who_is_no_admin_any_more_sees_their_own(
    looking: Client, admin: User, make_user: Callable[..., User], vm: VM
) -> None:
    services.set_admin(actor=make_user("chief", is_staff=True), user=admin, admin=False)
    assert "web-1" not in looking.get("/machines/").content.decode()


# --- sessions ------------------------------------------------------------------------------------
def sign_in(user: User, agent: str) -> Client:
    client = Client(headers={"User-Agent": agent})
    data = {"login": user.username, "password": PASSWORD}
    assert client.post("/accounts/login/", data).status_code == 302
    return client


def test_sessions_are_listed_and_ended(owner: User, outsider: User, browser: Browser) -> None:
    laptop, phone = sign_in(owner, "Laptop/1"), sign_in(owner, "Phone/2")
    page = laptop.get("/profile/").content.decode()
    assert "Phone/2" in page
    assert "This browser" in page
    theirs = SignIn.objects.get(agent="Phone/2")
    assert browser(outsider).post(f"/profile/sessions/{theirs.pk}/end/").status_code == 404
    assert laptop.post(f"/profile/sessions/{theirs.pk}/end/").status_code == 302
    assert phone.get("/profile/").status_code == 302
    assert laptop.get("/profile/").status_code == 200
    sign_in(owner, "Tablet/3")
    laptop.post("/profile/sessions/end/")
    assert [one.agent for one in SignIn.objects.filter(user=owner)] == ["Laptop/1"]
    assert laptop.get("/profile/").status_code == 200


def test_a_changed_password_keeps_this_one_and_its_row(owner: User) -> None:
    laptop, phone = sign_in(owner, "Laptop/1"), sign_in(owner, "Phone/2")
    new = "another horse battery"
    laptop.post(
        "/accounts/password/change/", {"oldpassword": PASSWORD, "password1": new, "password2": new}
    )
    key = laptop.session.session_key or ""
    owner.refresh_from_db()
    listed = sign_ins.live(owner, session_key=key)
    assert [(one.row.agent, one.is_this) for one in listed] == [("Laptop/1", True)]
    assert phone.get("/profile/").status_code == 302


# --- a second factor for admins ------------------------------------------------------------------
def test_admins_must_have_a_second_factor(
    admin: User, owner: User, browser: Browser, api, settings
) -> None:
    settings.ADMIN_MFA_REQUIRED = True
    client = browser(admin)
    assert client.get("/admin/users/")["Location"] == "/accounts/2fa/"
    assert client.get("/")["Location"] == "/accounts/2fa/"
    assert client.post("/admin/limits/", {}).status_code == 403
    assert client.get("/api/v1/users").json()["code"] == "mfa.required"
    assert client.get("/accounts/2fa/").status_code == 200
    assert browser(owner).get("/").status_code == 200
    from allauth.mfa.totp.internal.auth import TOTP

    TOTP.activate(admin, "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP")
    assert client.get("/admin/users/").status_code == 200
