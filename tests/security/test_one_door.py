"""Every way in, as those who may not: what is not theirs is not there; looking changes nothing.

Each way in by each role is walked in ``test_every_way_in.py``; here are lists, words, and people
who lost what they had.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from accounts import tokens
from accounts.models import Membership, SSHKey, Team, User
from jobs.models import Job
from tests.accounts.test_every_route import OPERATIONS, ROUTES, fill  # noqa: F401
from vms.models import VM, ConsoleTicket, Image

pytestmark = pytest.mark.django_db


@pytest.fixture
def job(vm: VM, owner: User, team: Team) -> Job:
    return Job.objects.create(
        kind="vm.create", vm=vm, actor=owner, team=team, target_name=vm.name, state="failed"
    )


# --- what is not mine does not exist -------------------------------------------------------------
@pytest.mark.parametrize("method", ["get", "post"])
@pytest.mark.parametrize("path", ["/activity/{}/", "/activity/{}/cancel/", "/activity/{}/retry/"])
def test_anothers_job_does_not_exist(
    path: str, method: str, job: Job, outsider: User, browser: Callable[[User], Client]
) -> None:
    assert getattr(browser(outsider), method)(path.format(job.pk)).status_code in (404, 405)
    assert Job.objects.count() == 1


@pytest.mark.parametrize("path", ["/jobs/{}", "/jobs/{}/cancel", "/jobs/{}/retry"])
def test_the_api_hides_anothers_job(
    path: str, job: Job, outsider: User, api: Callable[..., Any]
) -> None:
    method = "GET" if path == "/jobs/{}" else "POST"
    assert api(outsider).request(method, path.format(job.pk)).status_code == 404
    assert api(outsider).get(f"/jobs?vm={job.vm.uuid}").json()["count"] == 0  # type: ignore[union-attr]


def test_lists_searches_and_menus_name_nobody_elses(
    vm: VM, job: Job, outsider: User, browser: Callable[[User], Client]
) -> None:
    VM.objects.filter(pk=vm.pk).update(name="secret-plan", description="secret-plan")
    Job.objects.update(target_name="secret-plan")
    client = browser(outsider)
    for path in (
        "/",
        "/machines/",
        "/machines/?q=secret",
        f"/machines/?q=owner:{vm.owner.username}",
        f"/machines/?host={vm.host_id}&team={vm.team_id}",
        "/machines/?part=results",
        f"/machines/?part=confirm&verb=delete&ids={vm.uuid}",
        "/jump/?q=secret",
        "/jump/",
        "/activity/?q=secret",
        "/activity/",
        "/frame/tray/",
        "/machines/new/",
    ):
        page = client.get(path).content.decode()
        assert "secret-plan" not in page, path
        assert str(vm.uuid) not in page.replace(path, "").replace(path.replace("&", "&amp;"), "")
        assert "rivendell" not in page, path


def test_bulk_leaves_others_alone(
    vm: VM, outsider: User, viewer: User, browser: Callable[[User], Client]
) -> None:
    for person in (outsider, viewer):
        data = {"verb": "delete", "ids": str(vm.uuid), "confirmed": "1"}
        browser(person).post("/machines/bulk/", data)
    assert not Job.objects.exists()


def test_an_image_that_is_not_published_does_not_exist(
    image: Image, owner: User, network: Any, api: Callable[..., Any], browser: Callable[..., Client]
) -> None:
    Image.objects.update(published=False, name="unreleased")
    assert api(owner).get(f"/images/{image.pk}").status_code == 404
    assert api(owner).get("/images").json()["count"] == 0
    body = {"name": "web-1", "vcpus": 1, "memory_mib": 1024, "user": "me"}
    for named in (image.pk, "unreleased", str(image.pk)):
        assert api(owner).post("/vms", body | {"image": named}).status_code == 422
    for path in ("/images/", f"/machines/new/?image={image.pk}"):
        assert "unreleased" not in browser(owner).get(path).content.decode()
    data = {"name": "web-1", "image": image.pk, "flavor": "custom", "vcpus": 1, "memory_mib": 1024}
    assert browser(owner).post("/machines/new/", data).status_code == 422
    assert not VM.objects.exists()


def test_anothers_keys_tokens_and_teams_do_not_exist(
    owner: User, outsider: User, team: Team, api: Callable[..., Any], browser: Callable[..., Client]
) -> None:
    key = SSHKey.objects.create(user=owner, name="k", public_key="ssh-ed25519 A", fingerprint="f")
    token, _secret = tokens.issue(owner, "mine", ["read"], None)
    speaker, client = api(outsider), browser(outsider)
    assert speaker.delete(f"/me/ssh-keys/{key.pk}").status_code == 404
    assert speaker.delete(f"/me/tokens/{token.pk}").status_code == 404
    assert client.post(f"/profile/keys/{key.pk}/remove/").status_code == 404
    assert client.post(f"/profile/tokens/{token.pk}/revoke/").status_code == 404
    for method, path in (
        ("GET", f"/teams/{team.pk}"),
        ("PATCH", f"/teams/{team.pk}"),
        ("POST", f"/teams/{team.pk}/members"),
        ("DELETE", f"/teams/{team.pk}/members/{owner.pk}"),
        ("GET", f"/quota?team={team.pk}"),
        ("GET", f"/quota?team={team.name}"),
    ):
        body = {"name": "x", "username": "outsider", "role": "manager"} if method != "GET" else None
        if method == "PATCH":
            body = {"name": "x"}
        if method == "POST":
            body = {"username": "outsider", "role": "manager"}
        assert speaker.request(method, path, body).status_code == 404, (method, path)
    asked = {"name": "w", "image": 1, "team": team.name, "vcpus": 1, "memory_mib": 512}
    assert speaker.post("/vms", asked).status_code == 422
    assert SSHKey.objects.exists()


def test_nobody_pays_with_anothers_team(
    viewer: User,
    outsider: User,
    team: Team,
    image: Image,
    network: Any,
    api: Callable[..., Any],
    browser: Callable[..., Client],
) -> None:
    body = {"name": "web-1", "image": image.pk, "vcpus": 1, "memory_mib": 1024, "user": "me"}
    assert api(viewer).post("/vms", body | {"team": team.pk}).status_code in (403, 422)
    assert api(outsider).post("/vms", body | {"team": team.pk}).status_code in (404, 422)
    data = body | {"flavor": "custom", "team": team.pk, "copy": "linked", "network": "default"}
    for person in (viewer, outsider):
        assert browser(person).post("/machines/new/", data).status_code in (403, 404, 422)
    assert not VM.objects.exists()


# --- who may look may not touch ------------------------------------------------------------------
@pytest.mark.parametrize("verb", ["start", "force-off", "reset", "delete"])
def test_a_viewer_only_looks(
    verb: str, vm: VM, viewer: User, api: Callable[..., Any], browser: Callable[..., Client]
) -> None:
    assert browser(viewer).post(f"/machines/{vm.uuid}/{verb}/").status_code == 403
    if verb != "delete":
        assert api(viewer).post(f"/vms/{vm.uuid}/{verb}").status_code == 403
    assert api(viewer).delete(f"/vms/{vm.uuid}?force=true").status_code == 403
    assert api(viewer).patch(f"/vms/{vm.uuid}", {"name": "mine"}).status_code == 403
    assert browser(viewer).post(f"/machines/{vm.uuid}/edit/", {"name": "m"}).status_code == 403
    answer = api(viewer).post(f"/vms/{vm.uuid}/console", {"kind": "vnc", "mode": "control"})
    assert answer.status_code == 403
    assert not Job.objects.exists()
    assert not ConsoleTicket.objects.exists()


def test_a_member_does_not_steer_anothers_job(
    job: Job, vm: VM, teammate: User, viewer: User, api: Callable[..., Any], browser: Any
) -> None:
    for person in (teammate, viewer):
        for word in ("cancel", "retry"):
            assert api(person).post(f"/jobs/{job.pk}/{word}").status_code == 403
            assert browser(person).post(f"/activity/{job.pk}/{word}/").status_code == 403
        assert browser(person).post(f"/machines/{vm.uuid}/retry/").status_code == 403
    assert Job.objects.count() == 1


def test_who_left_the_team_has_nothing_of_it(
    vm: VM, job: Job, teammate: User, api: Callable[..., Any], browser: Callable[..., Client]
) -> None:
    Job.objects.update(actor=teammate)
    Membership.objects.filter(user=teammate, team=vm.team).delete()
    assert api(teammate).get(f"/vms/{vm.uuid}").status_code == 404
    assert api(teammate).get(f"/jobs/{job.pk}").status_code == 404
    assert api(teammate).post(f"/jobs/{job.pk}/retry").status_code == 404
    assert browser(teammate).get(f"/machines/{vm.uuid}/").status_code == 404


@pytest.mark.parametrize("path", ["/vms", "/jobs", "/images", "/teams"])
def test_an_admins_everyday_token_sees_what_is_theirs(
    path: str, vm: VM, job: Job, admin: User, api: Callable[..., Any]
) -> None:
    Image.objects.update(published=False)
    everyday, whole = api(admin, ("read",)).get(path).json(), api(admin).get(path).json()
    assert everyday["count"] < whole["count"]
    assert api(admin, ("read", "write")).get(f"/vms/{vm.uuid}").status_code == 404


# --- looking changes nothing ---------------------------------------------------------------------
def _everything() -> dict[str, list[Any]]:
    """The rows of every table; sessions and tokens' last use are not changes."""
    tables = {}
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            if table not in ("django_session", "accounts_apitoken"):
                cursor.execute(f'SELECT * FROM "{table}"')
                tables[table] = cursor.fetchall()
    return tables


@pytest.fixture
def world(vm: VM, job: Job, outsider: User) -> None:
    Job.objects.create(kind="host.probe", host=vm.host, target_name="alpha")


@pytest.mark.usefixtures("world")
def test_looking_changes_nothing(
    fill: Any,  # noqa: F811
    admin: User,
    owner: User,
    browser: Callable[..., Client],
    api: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every address and operation, by GET and HEAD, as admin and as owner; and none of them asks a
    hypervisor (promise 1)."""

    def asked(*_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("a GET asked a hypervisor")

    monkeypatch.setattr("hosts.connections.hypervisor", asked)
    people = [(browser(person), api(person)) for person in (admin, owner)]
    before = _everything()
    for client, speaker in people:
        for path in ROUTES:
            for query in ("", "?part=results", "?tab=timeline", "?verb=delete&part=confirm"):
                client.get(fill(path) + query)
            client.head(fill(path))
        for method, path, _operation in OPERATIONS:
            if method == "GET":
                assert speaker.get(fill(path)).status_code < 500
    after = _everything()
    refusals = [row for row in after.pop("accounts_auditentry") if "access.refused" not in row]
    assert refusals == before.pop("accounts_auditentry")
    assert after == before


def test_an_id_that_nobody_has(admin: User, api: Callable[..., Any], browser: Any) -> None:
    nobody = uuid.uuid4()
    for path in (f"/vms/{nobody}", f"/jobs/{nobody}", "/vms/no-uuid", "/images/99", "/teams/99"):
        assert api(admin).get(path).status_code == 404, path
    for path in (f"/machines/{nobody}/", f"/activity/{nobody}/", f"/machines/{nobody}/console/"):
        assert browser(admin).get(path).status_code == 404, path
