"""Limits at each scope, as pages and in the API: inherited or overridden, and who may set them."""

from __future__ import annotations

import re

import pytest
from django.db import transaction

from accounts import limits, quotas
from accounts.models import Resource, Team, User

R = Resource


def form(modes: dict[str, str], default: str = "inherit") -> dict[str, str]:
    """What the browser sends: a kind for each resource, and a number for some."""
    sent = {f"{resource.value}_mode": default for resource in Resource}
    for name, value in modes.items():
        if value.replace(".", "").isdigit():
            sent |= {f"{name}_mode": "limit", name: value}
        else:
            sent[f"{name}_mode"] = value
    return sent


def text_of(answer) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer.content.decode()))


def take(vm, **ask: int) -> None:
    with transaction.atomic():
        quotas.allocate(vm, {Resource(name): amount for name, amount in ask.items()})


def test_a_team_overrides_what_it_inherits_and_clears_it(browser, admin: User, team: Team) -> None:
    page, url = browser(admin), f"/teams/{team.pk}/quota/limits/"
    sent = form({"vcpus": "64", "snapshots": "none", "machines": "unlimited", "memory_mib": "1.5"})
    assert page.post(url, sent).status_code == 302
    held = quotas.effective_limits(team)
    assert (held[R.VCPUS].hard, held[R.VCPUS].scope) == (64, "team")
    assert (held[R.SNAPSHOTS].hard, held[R.MACHINES].hard) == (0, -1)
    assert held[R.MEMORY_MIB].hard == 1536
    assert held[R.DISK_GIB].scope == "site"
    shown = page.get(f"/teams/{team.pk}/quota/").content.decode()
    row = shown[shown.index('id="limit-vcpus"') : shown.index('id="limit-running_vcpus"')]
    assert "<s>" in row, "what is inherited is struck through"
    assert 'name="clear" value="vcpus"' in row
    assert 'value="disk_gib" class' not in shown, "nothing to clear where nothing is overridden"
    assert 'class="limit is-none"' in shown
    assert 'class="limit is-unlimited"' in shown
    page.post(url, sent | {"clear": "vcpus"})
    held = quotas.effective_limits(team)
    assert (held[R.VCPUS].hard, held[R.VCPUS].scope) == (16, "site")
    assert held[R.SNAPSHOTS].hard == 0, "only the one is cleared"


@pytest.mark.parametrize(
    ("name", "value"),
    [("vcpus", ""), ("vcpus", "-2"), ("vcpus", "1.5"), ("memory_mib", "0.0001"), ("vcpus", "x")],
)
def test_a_number_that_is_none(name: str, value: str, browser, admin: User, team: Team) -> None:
    sent = form({}) | {f"{name}_mode": "limit", name: value}
    answer = browser(admin).post(f"/teams/{team.pk}/quota/limits/", sent)
    assert answer.status_code == 422
    assert f'id="id_{name}_error"' in answer.content.decode()
    assert not quotas.own_limits(team)


def test_site_defaults(browser, admin: User, team: Team) -> None:
    page = browser(admin)
    assert page.post("/admin/limits/", form({"vcpus": "5"}, "unlimited")).status_code == 302
    assert quotas.effective_limits(team)[R.VCPUS].hard == 5
    assert quotas.effective_limits(team)[R.DISK_GIB].hard == -1
    assert page.post("/admin/limits/", {"vcpus": "1"}).status_code == 422
    assert page.post("/admin/limits/", form({}, "inherit")).status_code == 422


def test_lowering_says_who_is_over_and_by_how_much(browser, admin: User, team: Team, vm) -> None:
    take(vm, vcpus=4, disk_gib=10)
    page = browser(admin)
    sent = form({"vcpus": "3"}, "unlimited")
    answer = page.post("/admin/limits/", sent, follow=True)
    assert "rivendell: vCPUs 4 of 3, 1 over" in text_of(answer)
    assert quotas.usage(team)[R.VCPUS] == 4
    [one] = limits.over()
    assert (one.team, one.user, one.resource, one.by) == (team, None, R.VCPUS, 1)
    assert "1 over" in text_of(page.get(f"/teams/{team.pk}/quota/"))
    page.post(f"/teams/{team.pk}/quota/limits/", form({"vcpus": "4"}))
    assert limits.over() == []


def test_a_member_is_over_for_themselves(make_vm, teammate: User, owner, team: Team) -> None:
    take(make_vm(teammate, team), machines=2)
    take(make_vm(owner, team), machines=2)
    quotas.set_limit(actor=owner, resource=R.MACHINES, hard=1, team=team, user=teammate)
    [one] = limits.over([team])
    assert (one.user, one.used, one.hard) == (teammate, 2, 1)


def test_a_manager_sets_a_members_limits(browser, owner: User, teammate: User, team: Team) -> None:
    url = f"/teams/{team.pk}/quota/members/{teammate.pk}/"
    assert browser(owner).post(url, form({"vcpus": "2"})).status_code == 302
    assert quotas.effective_limits(team, teammate)[R.VCPUS].scope == "member"
    shown = browser(teammate).get(url)
    assert shown.status_code == 200
    assert "<select" not in shown.content.decode(), "to look at"
    assert browser(teammate).post(url, form({"vcpus": "9"})).status_code == 403


def test_who_sees_and_sets_what(
    browser, owner, teammate, viewer, outsider, admin, team: Team
) -> None:
    page, post = f"/teams/{team.pk}/quota/", f"/teams/{team.pk}/quota/limits/"
    for person in (owner, teammate, viewer, admin):
        assert browser(person).get(page).status_code == 200
    assert browser(outsider).get(page).status_code == 404
    assert browser(outsider).post(post, form({})).status_code == 404
    for person in (owner, teammate, viewer):
        assert browser(person).post(post, form({"vcpus": "99"})).status_code == 403
    mine = f"/teams/{team.pk}/quota/members/{owner.pk}/"
    assert browser(owner).get(mine).status_code == 200
    assert browser(owner).post(mine, form({"vcpus": "99"})).status_code == 403
    assert browser(teammate).get(mine).status_code == 403
    assert browser(outsider).get(mine).status_code == 404
    assert browser(owner).get(f"/teams/{team.pk}/quota/members/{outsider.pk}/").status_code == 404
    assert not quotas.own_limits(team)


def test_pages_have_a_bounded_number_of_queries(
    browser, admin, make_user, team, make_vm, django_assert_max_num_queries
) -> None:
    for n in range(12):
        person = make_user(f"u{n}")
        team.memberships.create(user=person, role="member")
        quotas.set_limit(actor=admin, resource=R.VCPUS, hard=0, team=team, user=person)
        quotas.count(make_vm(person, team), {R.VCPUS: 2})
    page = browser(admin)
    with django_assert_max_num_queries(30):
        page.get(f"/teams/{team.pk}/quota/")
    with django_assert_max_num_queries(24):
        page.get("/admin/limits/")


def test_the_api_of_limits(api, owner, teammate, outsider, admin, team: Team) -> None:
    rows = {
        r["resource"]: r for r in api(teammate).get(f"/teams/{team.pk}/limits").json()["limits"]
    }
    assert rows["vcpus"] | {"used": 0} == {
        "resource": "vcpus",
        "own": None,
        "inherited": 16,
        "inherited_from": "site",
        "granted": 0,
        "hard": 16,
        "used": 0,
        "over": 0,
    }
    of_member = f"/teams/{team.pk}/members/{teammate.pk}/limits"
    assert api(owner).patch(of_member, {"vcpus": 2}).status_code == 200
    assert api(teammate).patch(of_member, {"vcpus": 3}).status_code == 403
    assert api(teammate).get(of_member).status_code == 200
    assert api(outsider).get(of_member).status_code == 404
    assert api(outsider).patch(of_member, {"vcpus": 3}).status_code == 404
    assert api(owner).patch("/limits", {"vcpus": 3}).status_code == 403
    site = api(admin).patch("/limits", {"vcpus": 3}).json()
    assert site["team"] is None
    assert quotas.effective_limits(team)[R.VCPUS].hard == 3
    assert api(admin).patch("/limits", {"vcpus": -2}).status_code == 422
    assert api(admin).get("/quota/over").json() == {"items": []}


def test_a_dry_run_is_the_same_function(api, vm, owner, team, admin) -> None:
    take(vm, vcpus=6)
    quotas.set_limit(actor=admin, resource=R.VCPUS, hard=8, team=team)
    ask = {"team": team.name, "vcpus": 3}
    answer = api(owner).post("/quota/check", ask).json()
    assert answer["fits"] is False
    [one] = answer["resources"]
    assert (one["after"], one["hard"], one["missing"], one["scope"]) == (9, 8, 1, "team")
    assert api(owner).post("/quota/check", ask | {"vcpus": 2}).json()["fits"] is True
    for wrong in (-1, 1.5, 1 << 60, "many"):
        assert api(owner).post("/quota/check", {"vcpus": wrong}).status_code == 422
