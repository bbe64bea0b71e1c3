"""Asked for where it was refused, decided once, granted for a time, ended without harm."""

from __future__ import annotations

import re
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from django.db import transaction
from django.utils import timezone

from accounts import grants, messages, quotas, requests, rounds
from accounts.errors import Conflict, Forbidden, Invalid, NotFound, QuotaExceeded
from accounts.models import (
    AuditEntry,
    Notification,
    QuotaGrant,
    QuotaRequest,
    Resource,
    Team,
    UsageSample,
    User,
)

R = Resource
Scope, State = QuotaRequest.Scope, QuotaRequest.State


def take(vm, **ask: int) -> None:
    with transaction.atomic():
        quotas.allocate(vm, {Resource(name): amount for name, amount in ask.items()})


def in_days(days: float):
    return timezone.now() + timedelta(days=days)


@pytest.fixture
def asked(teammate: User, team: Team, admin: User) -> QuotaRequest:
    """A member asks for 4 vCPUs and 8 GiB for the team, for 90 days."""
    return requests.ask(
        actor=teammate,
        team=team,
        amounts={R.VCPUS: 4, R.MEMORY_MIB: 8192},
        reason="Semester project, 3 database nodes",
        until=in_days(90),
    )


def approve(request: QuotaRequest, actor: User, granted=None, **more) -> QuotaRequest:
    request.refresh_from_db()
    values = {"version": request.version, "granted": granted or {}, "ends_at": in_days(30)} | more
    return requests.approve(request, actor=actor, **values)


def told(person: User) -> list[str]:
    rows = Notification.objects.filter(user=person, code__startswith="quota.").order_by("pk")
    return [row.code for row in rows]


# --- asking -------------------------------------------------------------------------------------
def test_a_refusal_leads_to_a_request_that_is_filled_in(vm, admin, team, owner, outsider) -> None:
    quotas.set_limit(actor=admin, resource=R.VCPUS, hard=2, team=team)
    quotas.set_limit(actor=admin, resource=R.DISK_GIB, hard=5, team=team)
    with pytest.raises(QuotaExceeded) as caught:
        take(vm, vcpus=3, disk_gib=10)
    assert requests.prefilled(caught.value.params, asker=outsider) == ""
    url = urlsplit(requests.prefilled(caught.value.params, asker=owner))
    assert url.path == "/requests/new/"
    assert {name: value[0] for name, value in parse_qs(url.query).items()} == {
        "team": str(team.pk),
        "scope": "team",
        "vcpus": "1",
        "disk_gib": "5",
    }


def test_a_members_limit_is_asked_for_the_member(make_vm, teammate, team, owner) -> None:
    quotas.set_limit(actor=owner, resource=R.VCPUS, hard=1, team=team, user=teammate)
    with pytest.raises(QuotaExceeded) as caught:
        take(make_vm(teammate, team), vcpus=3)
    assert "scope=member" in requests.prefilled(caught.value.params, asker=teammate)
    assert requests.prefilled(caught.value.params, asker=owner) == "", "nobody asks for another"
    assert requests.prefilled({"resource": "vcpus"}, asker=teammate) == ""


def test_the_profile_leads_to_a_request(browser, outsider: User) -> None:
    page = browser(outsider).get("/profile/").content.decode()
    link = f"/requests/new/?team={outsider.personal_team.pk}"
    assert f'href="{link}"' in page
    assert browser(outsider).get(link).status_code == 200


def test_the_page_is_filled_in_and_asks(browser, teammate: User, team: Team, admin: User) -> None:
    page = browser(teammate)
    url = f"/requests/new/?team={team.pk}&scope=team&vcpus=4&memory_mib=1536&bogus=1"
    shown = page.get(url).content.decode()
    assert re.search(r'name="vcpus" value="4"', shown)
    assert re.search(r'name="memory_mib" value="1.5"', shown)
    sent = {"team": team.pk, "scope": "team", "vcpus": "4", "memory_mib": "1.5"}
    answer = page.post("/requests/new/", sent | {"reason": "nodes", "until": "2046-01-01"})
    assert answer.status_code == 422, "more than five years are too long"
    day = in_days(30).date().isoformat()
    answer = page.post("/requests/new/", sent | {"reason": "nodes", "until": day})
    assert answer.status_code == 302
    made = QuotaRequest.objects.get()
    assert requests.asked(made) == {R.VCPUS: 4, R.MEMORY_MIB: 1536}
    assert made.until is not None
    assert made.until.date().isoformat() == day
    assert told(admin) == ["quota.asked"]
    assert "nodes" in page.get(answer["Location"]).content.decode()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"amounts": {}}, "amounts"),
        ({"amounts": {R.VCPUS: 0}}, "vcpus"),
        ({"amounts": {R.VCPUS: -1}}, "vcpus"),
        ({"amounts": {R.VCPUS: 1 << 60}}, "vcpus"),
        ({"amounts": {R.RUNNING_VCPUS: 1}}, "running_vcpus"),  # unlimited: nothing to ask for
        ({"reason": " "}, "reason"),
        ({"reason": "x" * 2001}, "reason"),
        ({"until": timezone.now() - timedelta(minutes=1)}, "until"),
        ({"until": timezone.now() + timedelta(days=9999)}, "until"),
        ({"scope": "site"}, "scope"),
        ({"scope": Scope.MEMBER}, "vcpus"),  # has no limit of their own
    ],
)
def test_what_cannot_be_asked(changes, field: str, teammate: User, team: Team) -> None:
    good = {"amounts": {R.VCPUS: 4}, "reason": "why"}
    with pytest.raises(Invalid) as caught:
        requests.ask(actor=teammate, team=team, **(good | changes))
    assert field in caught.value.fields
    assert all(messages.is_known(code) for code in caught.value.fields.values())
    assert not QuotaRequest.objects.exists()


def test_who_may_ask(viewer: User, outsider: User, team: Team) -> None:
    for person, error in ((viewer, Forbidden), (outsider, NotFound)):
        with pytest.raises(error):
            requests.ask(actor=person, team=team, amounts={R.VCPUS: 1}, reason="why")


def test_not_without_end(teammate: User, team: Team) -> None:
    for _ in range(requests.OPEN_MAX):
        requests.ask(actor=teammate, team=team, amounts={R.VCPUS: 1}, reason="why")
    with pytest.raises(Conflict, match="too_many"):
        requests.ask(actor=teammate, team=team, amounts={R.VCPUS: 1}, reason="why")


# --- deciding -----------------------------------------------------------------------------------
def test_granted_in_part_for_a_time(asked, admin, teammate, team, make_vm) -> None:
    approve(asked, admin, {R.VCPUS: 2, R.MEMORY_MIB: 0}, text="Take two first")
    asked.refresh_from_db()
    assert (asked.state, asked.decided_by) == (State.APPROVED, admin)
    items = {item.resource: (item.requested, item.granted) for item in asked.items.all()}
    assert items == {"vcpus": (4, 2), "memory_mib": (8192, 0)}, "what was asked stays"
    [grant] = QuotaGrant.objects.all()
    assert (grant.resource, grant.delta, grant.user) == ("vcpus", 2, None)
    assert quotas.effective_limits(team)[R.VCPUS].hard == 18
    take(make_vm(teammate, team), vcpus=18)
    assert told(teammate) == ["quota.approved_in_part"]
    QuotaGrant.objects.update(starts_at=in_days(-2), expires_at=in_days(-1))
    assert quotas.usage(team)[R.VCPUS] == 18, "its end takes nothing away"
    with pytest.raises(QuotaExceeded) as caught:
        take(make_vm(teammate, team), vcpus=1)
    assert caught.value.params["missing"] == 3


def test_nothing_happens_twice(asked, admin, make_user, teammate) -> None:
    other = make_user("other", is_staff=True)
    approve(asked, admin)
    for again in (admin, other):
        with pytest.raises(Conflict, match="is_approved") as caught:
            approve(asked, again)
        assert "admin" in messages.text(caught.value.code, caught.value.params)
    with pytest.raises(Conflict, match="is_approved"):
        requests.withdraw(asked, actor=teammate)
    with pytest.raises(Conflict, match="is_approved"):
        requests.reject(asked, actor=other, version=1, text="no")
    assert QuotaGrant.objects.count() == 2


def test_a_withdrawn_one_is_not_decided(asked, admin, teammate) -> None:
    requests.withdraw(asked, actor=teammate)
    with pytest.raises(Conflict, match="is_withdrawn"):
        approve(asked, admin)
    assert not QuotaGrant.objects.exists()


def test_one_that_changed_is_read_again(asked, admin, teammate) -> None:
    read = asked.version
    requests.edit(asked, actor=teammate, amounts={R.VCPUS: 400}, reason="more", until=in_days(9))
    with pytest.raises(Conflict, match="has_changed"):
        requests.approve(asked, actor=admin, version=read, granted={}, ends_at=None)
    first, edited = asked.events.all()
    assert first.facts["amounts"] == {"vcpus": 4, "memory_mib": 8192}
    assert edited.facts["before"]["amounts"] == {"vcpus": 4, "memory_mib": 8192}


def test_nobody_decides_their_own(asked, team, owner, admin, make_user, browser) -> None:
    own = requests.ask(actor=owner, team=team, amounts={R.VCPUS: 1}, reason="why")
    admins = requests.ask(actor=admin, team=admin.personal_team, amounts={R.VCPUS: 1}, reason="why")
    for request, person in ((own, owner), (admins, admin), (asked, owner)):
        with pytest.raises(Forbidden):
            approve(request, person)
    answer = browser(admin).post(f"/requests/{admins.pk}/decide/", {"decision": "approve"})
    assert answer.status_code == 403
    assert admin not in requests.deciders(admins)
    assert not QuotaGrant.objects.exists()
    approve(admins, make_user("other", is_staff=True))


def test_a_manager_decides_a_members_own_limit(team, owner, teammate, admin, viewer) -> None:
    quotas.set_limit(actor=owner, resource=R.VCPUS, hard=1, team=team, user=teammate)
    request = requests.ask(
        actor=teammate, team=team, scope=Scope.MEMBER, amounts={R.VCPUS: 2}, reason="why"
    )
    assert requests.deciders(request) == [owner]
    with pytest.raises(NotFound):
        approve(request, viewer)
    approve(request, owner)
    assert quotas.effective_limits(team, teammate)[R.VCPUS].hard == 3
    assert quotas.effective_limits(team)[R.VCPUS].hard == 16, "the team's stays"
    assert QuotaGrant.objects.get().user == teammate


@pytest.mark.parametrize(
    "granted", [{R.VCPUS: -1}, {R.VCPUS: 1 << 60}, {R.DISK_GIB: 5}, {R.VCPUS: 0, R.MEMORY_MIB: 0}]
)
def test_what_cannot_be_granted(granted, asked, admin) -> None:
    with pytest.raises(Invalid):
        approve(asked, admin, granted)
    with pytest.raises(Invalid):
        approve(asked, admin, ends_at=in_days(-1))
    asked.refresh_from_db()
    assert asked.state == State.OPEN


def test_asked_back_and_answered(asked, admin, teammate) -> None:
    requests.ask_back(asked, actor=admin, version=1, text="Which nodes?")
    assert told(teammate) == ["quota.asked_back"]
    asked.refresh_from_db()
    assert asked.state == State.ASKED_BACK
    requests.comment(asked, actor=teammate, text="db-1 to db-3")
    asked.refresh_from_db()
    assert asked.state == State.OPEN
    approve(asked, admin)


def test_internal_words_stay_among_those_who_decide(asked, admin, teammate, owner, api, browser):
    requests.comment(asked, actor=admin, text="SECRET-THOUGHT", internal=True)
    approve(asked, admin, internal="SECRET-TOO")
    with pytest.raises(Forbidden):
        requests.comment(asked, actor=teammate, text="me too", internal=True)
    for person, sees in ((admin, True), (teammate, False), (owner, False)):
        page = browser(person).get(f"/requests/{asked.pk}/").content.decode()
        said = api(person).get(f"/requests/{asked.pk}/history").content.decode()
        assert ("SECRET" in page, "SECRET" in said) == (sees, sees), person
    assert "SECRET" not in str(list(AuditEntry.objects.values("before", "after")))


def test_it_is_in_the_audit_record(asked, admin) -> None:
    approve(asked, admin, {R.VCPUS: 2})
    verbs = list(AuditEntry.objects.order_by("id").values_list("verb", flat=True))
    assert verbs[-2:] == ["request.create", "request.approve"]
    entry = AuditEntry.objects.get(verb="request.approve")
    assert entry.before["amounts"]["vcpus"] == 4
    assert entry.after["amounts"]["vcpus"] == 2


# --- who sees what ------------------------------------------------------------------------------
def test_who_sees_a_request(asked, admin, teammate, owner, viewer, outsider, browser, api) -> None:
    url = f"/requests/{asked.pk}/"
    for person, status in (
        (teammate, 200),
        (owner, 200),
        (admin, 200),
        (viewer, 404),
        (outsider, 404),
    ):
        assert browser(person).get(url).status_code == status
        assert api(person).get(f"/requests/{asked.pk}").status_code == status
        listed = api(person).get("/requests").json()["count"]
        assert listed == (1 if status == 200 else 0)
        assert ("Semester" in browser(person).get("/requests/?show=all").content.decode()) is False


@pytest.mark.parametrize("verb", ["edit", "comment", "withdraw", "decide"])
def test_others_change_nothing(verb: str, asked, outsider, viewer, owner, browser) -> None:
    sent = {"decision": "approve", "text": "x", "version": "1"}
    for person in (outsider, viewer):
        assert browser(person).post(f"/requests/{asked.pk}/{verb}/", sent).status_code == 404
    if verb != "comment":
        assert browser(owner).post(f"/requests/{asked.pk}/{verb}/", sent).status_code == 403
    asked.refresh_from_db()
    assert (asked.state, asked.version) == (State.OPEN, 1)


def test_an_everyday_token_of_an_admin_decides_nothing(asked, admin, api) -> None:
    assert api(admin, ("read", "write")).get(f"/requests/{asked.pk}").status_code == 404


# --- pages of those who decide ------------------------------------------------------------------
def test_the_queue_and_its_decision(asked, admin, teammate, team, browser, host, pool) -> None:
    UsageSample.objects.create(team=team, resource="vcpus", day=timezone.now().date(), peak=7)
    page = browser(admin)
    assert f'id="request-{asked.pk}"' in page.get("/requests/").content.decode()
    shown = page.get(f"/requests/{asked.pk}/").content.decode()
    for words in ("Semester project", "+4", "+8 GiB", "columns-chart", "committed", "Earlier"):
        assert words in shown, words
    sent = {
        "version": "1",
        "vcpus": "2",
        "memory_mib": "",
        "ends": in_days(10).date().isoformat(),
        "text": "two",
        "internal": "",
    }
    assert page.post(f"/requests/{asked.pk}/decide/", sent | {"decision": "no"}).status_code == 404
    wrong = page.post(f"/requests/{asked.pk}/decide/", sent | {"decision": "approve", "vcpus": "x"})
    assert wrong.status_code == 422
    assert page.post(f"/requests/{asked.pk}/decide/", sent | {"decision": "approve"}).url
    assert QuotaGrant.objects.get().delta == 2, "an emptied row grants nothing"
    again = page.post(f"/requests/{asked.pk}/decide/", sent | {"decision": "approve"}, follow=True)
    assert "has approved this request already" in again.content.decode()
    assert QuotaGrant.objects.count() == 1
    assert 'id="approve"' not in again.content.decode()


def test_the_queue_has_a_bounded_number_of_queries(
    asked, admin, team, make_user, browser, django_assert_max_num_queries
) -> None:
    for n in range(15):
        person = make_user(f"u{n}")
        team.memberships.create(user=person, role="member")
        requests.ask(actor=person, team=team, amounts={R.VCPUS: 1, R.DISK_GIB: 2}, reason="why")
    page = browser(admin)
    with django_assert_max_num_queries(22):
        page.get("/requests/")
    with django_assert_max_num_queries(45):
        page.get(f"/requests/{asked.pk}/")


# --- grants over time ---------------------------------------------------------------------------
def test_warned_once_a_week_and_once_a_day_before(asked, admin, teammate, owner) -> None:
    approve(asked, admin, {R.VCPUS: 2, R.MEMORY_MIB: 0}, ends_at=in_days(30))
    Notification.objects.all().delete()
    rounds.run()
    assert told(teammate) == []
    QuotaGrant.objects.update(starts_at=in_days(-20), expires_at=in_days(6.9))
    for _ in range(3):
        rounds.run()
    assert told(teammate) == told(owner) == ["quota.ends"]
    QuotaGrant.objects.update(expires_at=in_days(0.9))
    for _ in range(3):
        rounds.run()
    assert told(teammate) == ["quota.ends", "quota.ends"]
    QuotaGrant.objects.update(starts_at=in_days(-1), expires_at=in_days(-0.1))
    for _ in range(3):
        rounds.run()
    assert told(teammate) == ["quota.ends", "quota.ends", "quota.ended"]
    text = messages.text(
        "notice.quota.ended", Notification.objects.filter(user=teammate).latest("pk").params
    )
    assert "extra 2 of “vCPUs” of rivendell" in text
    kinds = list(asked.events.values_list("kind", flat=True))
    assert kinds == ["created", "approved", "warned", "warned", "ended"]


def test_a_short_grant_is_not_warned_of_on_its_first_day(asked, admin, teammate) -> None:
    approve(asked, admin, {R.VCPUS: 2, R.MEMORY_MIB: 0}, ends_at=in_days(0.5))
    Notification.objects.all().delete()
    rounds.run()
    assert told(teammate) == []


def test_taken_back_after_a_look(asked, admin, teammate, team, owner, make_vm, browser) -> None:
    approve(asked, admin, {R.VCPUS: 2, R.MEMORY_MIB: 0})
    take(make_vm(teammate, team), vcpus=18)
    grant = QuotaGrant.objects.get()
    after = grants.without(grant)
    assert (after.used, after.hard_now, after.hard, after.over) == (18, 18, 16, 2)
    assert "2 too many" in browser(admin).get(f"/grants/{grant.pk}/").content.decode()
    for person in (owner, teammate):
        assert browser(person).get(f"/grants/{grant.pk}/").status_code == 200
        assert browser(person).post(f"/grants/{grant.pk}/").status_code == 403
    assert browser(admin).post(f"/grants/{grant.pk}/").status_code == 302
    assert quotas.usage(team)[R.VCPUS] == 18
    assert quotas.effective_limits(team)[R.VCPUS].hard == 16
    with pytest.raises(Conflict, match="is_over"):
        grants.revoke(grant, actor=admin)
    rounds.run()
    assert told(teammate).count("quota.revoked") == 1
    assert "quota.ended" not in told(teammate)


def test_a_members_grant_is_nobody_elses(asked, owner, teammate, viewer, outsider, team, browser):
    quotas.set_limit(actor=owner, resource=R.VCPUS, hard=1, team=team, user=teammate)
    mine = requests.ask(
        actor=teammate, team=team, scope=Scope.MEMBER, amounts={R.VCPUS: 2}, reason="why"
    )
    approve(mine, owner)
    url = f"/grants/{QuotaGrant.objects.get().pk}/"
    for person, status in ((teammate, 200), (owner, 200), (viewer, 404), (outsider, 404)):
        assert browser(person).get(url).status_code == status
    assert browser(teammate).post(url).status_code == 403
    assert list(grants.of_team(team, viewer)) == []


# --- by itself ----------------------------------------------------------------------------------
def rule(admin: User, **changes) -> None:
    values = {"step": {}, "quiet_days": 30, "grant_days": 20, "escalate_hours": 0}
    requests.set_rule(actor=admin, **(values | changes))


def test_nothing_happens_by_itself_at_first(asked) -> None:
    QuotaRequest.objects.update(created_at=in_days(-100))
    rounds.run()
    asked.refresh_from_db()
    assert (asked.state, asked.escalated_at) == (State.OPEN, None)


def test_a_small_step_approves_itself_once(teammate, owner, team, admin) -> None:
    rule(admin, step={R.VCPUS: 2})
    made = requests.ask(
        actor=teammate, team=team, amounts={R.VCPUS: 2}, reason="why", until=in_days(90)
    )
    assert made.state == State.APPROVED
    assert made.decided_by is None
    assert "auto" in made.events.values_list("kind", flat=True)
    grant = QuotaGrant.objects.get()
    assert grant.expires_at is not None
    assert grant.expires_at < in_days(20.1), "no longer than the rule says"
    for person in (teammate, owner):  # neither they nor another of the team, one after the other
        again = requests.ask(actor=person, team=team, amounts={R.VCPUS: 1}, reason="more")
        assert again.state == State.OPEN
    assert QuotaGrant.objects.count() == 1


@pytest.mark.parametrize("amounts", [{R.VCPUS: 3}, {R.VCPUS: 1, R.DISK_GIB: 1}])
def test_a_larger_step_waits(amounts, teammate, team, admin) -> None:
    rule(admin, step={R.VCPUS: 2})
    made = requests.ask(actor=teammate, team=team, amounts=amounts, reason="why")
    assert made.state == State.OPEN


def test_one_that_waits_is_passed_on_once(asked, admin, make_user) -> None:
    chief = make_user("chief", is_staff=True)
    rule(admin, escalate_hours=4, escalate_to=chief)
    rounds.run()
    assert told(chief) == []
    QuotaRequest.objects.update(created_at=in_days(-1))
    for _ in range(3):
        rounds.run()
    assert told(chief) == ["quota.escalated"]
    event = asked.events.get(kind="escalated")
    assert event.facts["to"] == ["chief"]


def test_rules_are_for_admins_and_checked(owner, admin, browser, api) -> None:
    with pytest.raises(Forbidden):
        rule(owner)
    with pytest.raises(Invalid):
        rule(admin, grant_days=0)
    assert api(owner).get("/requests/rules").status_code == 403
    body = {"step": {"vcpus": 2}, "escalate_hours": 5, "escalate_to": "admin"}
    assert api(admin).put("/requests/rules", body).json()["step"] == {"vcpus": 2}
    wrong = api(admin).put("/requests/rules", body | {"escalate_to": "owner"})
    assert wrong.status_code == 422
    page = browser(admin)
    shown = page.get("/admin/requests/rules/").content.decode()
    assert re.search(r'name="vcpus" value="2"', shown)
    sent = {"vcpus": "", "quiet_days": "30", "grant_days": "30", "escalate_hours": "0"}
    assert page.post("/admin/requests/rules/", sent).status_code == 302
    assert requests.rule().step == {}


# --- samples ------------------------------------------------------------------------------------
def test_the_most_of_each_day_is_kept(vm, team, owner) -> None:
    take(vm, vcpus=4)
    rounds.sample_usage()
    with transaction.atomic():
        quotas.settle(vm, {R.VCPUS: 1})
    rounds.sample_usage()
    points = rounds.peaks(team.pk, None, "vcpus", days=3)
    assert [peak for _day, peak in points] == [None, None, 4], "a day without a look is no zero"
    assert rounds.peaks(team.pk, owner.pk, "vcpus", days=1)[0][1] == 4
    assert rounds.peaks(team.pk, None, "disk_gib", days=1)[0][1] == 0


def test_sampling_takes_few_queries(make_vm, owner, team, django_assert_max_num_queries) -> None:
    for _ in range(10):
        quotas.count(make_vm(owner, team), {R.VCPUS: 1, R.MACHINES: 1})
    with django_assert_max_num_queries(8):
        rounds.sample_usage()


# --- the API ------------------------------------------------------------------------------------
def test_the_whole_way_over_the_api(api, teammate, admin, team, make_vm) -> None:
    speaker, decider = api(teammate), api(admin)
    body = {
        "team": team.name,
        "amounts": {"vcpus": 4},
        "reason": "nodes",
        "until": in_days(30).isoformat(),
    }
    made = speaker.post("/requests", body, key="k-1")
    assert made.status_code == 201
    assert speaker.post("/requests", body, key="k-1").json() == made.json()
    number = made.json()["id"]
    changed = speaker.patch(
        f"/requests/{number}", {"amounts": {"vcpus": 6}, "reason": "more nodes"}
    ).json()
    assert (changed["version"], changed["until"]) == (2, None)
    assert decider.get("/requests?decidable=true").json()["count"] == 1
    stale = decider.post(f"/requests/{number}/approve", {"version": 1})
    assert (stale.status_code, stale.json()["code"]) == (409, "request.has_changed")
    back = decider.post(f"/requests/{number}/ask-back", {"version": 2, "text": "why 6?"})
    assert back.json()["state"] == "asked_back"
    speaker.post(f"/requests/{number}/comments", {"text": "six nodes"})
    done = decider.post(f"/requests/{number}/approve", {"version": 4, "granted": {"vcpus": 5}})
    assert done.json()["items"] == [{"resource": "vcpus", "requested": 6, "granted": 5}]
    [grant] = speaker.get(f"/grants?team={team.pk}").json()["items"]
    assert (grant["delta"], grant["expires_at"], grant["request"]) == (5, None, number)
    assert speaker.post(f"/grants/{grant['id']}/revoke").status_code == 403
    assert decider.get(f"/grants/{grant['id']}/without").json()["hard"] == 16
    assert decider.post(f"/grants/{grant['id']}/revoke").json()["revoked_at"]
    history = speaker.get(f"/requests/{number}/history").json()["items"]
    kinds = [one["kind"] for one in history]
    assert kinds == ["created", "edited", "asked_back", "commented", "approved", "revoked"]


@pytest.mark.parametrize(
    "changes",
    [
        {"amounts": {"vcpus": -1}},
        {"amounts": {"vcpus": 0}},
        {"amounts": {"vcpus": 1.5}},
        {"amounts": {"vcpus": True}},
        {"amounts": {"vcpus": "4"}},
        {"amounts": {"vcpus": 10**30}},
        {"amounts": {"gpus": 1}},
        {"amounts": {}},
        {"until": "2001-01-01T00:00:00Z"},
        {"until": "2030-01-01T00:00:00"},
        {"scope": "site"},
        {"reason": ""},
    ],
)
def test_bad_input_over_the_api(changes, api, teammate, team) -> None:
    body = {"team": team.name, "amounts": {"vcpus": 4}, "reason": "nodes"} | changes
    answer = api(teammate).post("/requests", body)
    assert answer.status_code == 422
    assert not QuotaRequest.objects.exists()


def test_other_peoples_ids(api, outsider, asked, team) -> None:
    speaker = api(outsider)
    body = {"team": team.pk, "amounts": {"vcpus": 4}, "reason": "nodes"}
    assert speaker.post("/requests", body).status_code == 404
    for number in (asked.pk, 1 << 63, 10**30):
        assert speaker.post(f"/requests/{number}/withdraw").status_code == 404
        assert speaker.get(f"/grants/{number}/without").status_code == 404


def test_a_refusal_in_the_api_links_the_request(
    api, owner, team, image, network, admin, pool
) -> None:
    quotas.set_limit(actor=admin, resource=R.VCPUS, hard=1, team=team)
    body = {"name": "web-9", "image": image.pk, "vcpus": 3, "memory_mib": 1024, "team": team.pk}
    answer = api(owner).post("/vms", body | {"user": "me"})
    assert answer.status_code == 403, answer.content
    link = urlsplit(answer.json()["request_url"])
    assert link.path == "/requests/new/"
    assert "vcpus=2" in link.query
