"""From a refusal to a machine: asked for, granted in part, made, and the grant's end."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.utils import timezone
from playwright.sync_api import Page, expect

from accounts import quotas, rounds
from accounts.models import QuotaGrant, QuotaLimit, QuotaRequest, Resource, UsageSample
from tests.front import seed
from vms.models import VM

pytestmark = [pytest.mark.browser]
Open = Callable[..., Page]


def fill_in(page: Page, name: str) -> None:
    page.goto("/machines/new/")
    page.get_by_role("radio", name="Debian 12").check()
    page.get_by_role("radio", name="M 2 vCPU").check()
    page.fill("#id_name", name)


def test_refused_asked_granted_in_part_made_and_ended(open_page: Open, made: seed.Demo) -> None:
    team = made.member.personal_team
    QuotaLimit.objects.create(scope="team", team=team, resource="vcpus", hard=3)
    seed.machine(made, "web-1")  # takes 2
    page = open_page(made.member, "/")
    fill_in(page, "web-2")
    aside = page.locator("#create-preview")
    expect(aside).to_contain_text("after this: 4 of 3")
    expect(aside).to_contain_text("Over the limit of mia: 1 too many.")
    page.click("#create-button")
    expect(page.locator("#form-errors")).to_contain_text("1 too many")
    page.click("#ask-for-more")
    expect(page.get_by_label("vCPUs", exact=True)).to_have_value("1")
    page.get_by_label("vCPUs", exact=True).fill("4")
    page.get_by_label("What it is for").fill("A second web server, and two for tests")
    page.click("#send-request")
    expect(page.locator("h1")).to_contain_text("mia asks for more")

    admin = open_page(made.admin, "/requests/")
    admin.locator("#requests").get_by_role("link", name="mia").click()
    expect(admin.locator("#line-vcpus")).to_contain_text("+4")
    expect(admin.locator("#line-vcpus")).to_contain_text("committed")
    admin.get_by_label("vCPUs", exact=True).fill("1")
    admin.get_by_label("Comment to them").fill("One now; come back for the tests.")
    admin.click("#approve")
    expect(admin.locator("h1 + .lead")).to_contain_text("Approved")
    expect(admin.locator("#line-vcpus")).to_contain_text("+4")
    expect(admin.locator("#line-vcpus")).to_contain_text("+1")

    page.reload()
    expect(page.locator(".history")).to_contain_text("One now; come back for the tests.")
    fill_in(page, "web-2")
    expect(aside).to_contain_text("after this: 4 of 4")
    page.click("#create-button")
    page.wait_for_url("**/machines/*-*/")
    assert VM.objects.get(name="web-2").vcpus == 2

    now = timezone.now()
    QuotaGrant.objects.update(starts_at=now - timedelta(days=9), expires_at=now)
    rounds.run()
    page.goto(f"/teams/{team.pk}/quota/")
    expect(page.locator("#limit-vcpus")).to_contain_text("1 over")
    assert quotas.usage(team)[Resource.VCPUS] == 4, "nothing is taken away"
    fill_in(page, "web-3")
    page.click("#create-button")
    expect(page.locator("#form-errors")).to_contain_text("3 too many")


def test_an_override_is_set_and_cleared(open_page: Open, made: seed.Demo) -> None:
    page = open_page(made.admin, f"/teams/{made.team.pk}/quota/")
    row = page.locator("#limit-vcpus")
    expect(row.get_by_label("vCPUs: how much")).to_be_hidden()
    row.get_by_role("combobox").select_option("limit")
    row.get_by_label("vCPUs: how much").fill("12")
    page.get_by_role("button", name="Save the limits").click()
    expect(page.locator("#limit-vcpus s")).to_have_text("96")
    page.get_by_role("button", name="Clear the override of vCPUs").click()
    expect(page.locator("#limit-vcpus s")).to_have_count(0)


def lived_in(made: seed.Demo) -> QuotaRequest:
    """A team with use over a month, and a request with some history."""
    from accounts import requests

    team = made.team
    for name in ("web-1", "web-2", "db-1"):
        seed.machine(made, name, team=team)
    today = timezone.now().date()
    for n in range(24):
        UsageSample.objects.create(
            team=team, resource="vcpus", day=today - timedelta(days=n), peak=7 - n // 4
        )
    QuotaLimit.objects.create(scope="team", team=team, resource="vcpus", hard=8)
    QuotaLimit.objects.create(scope="team", team=team, resource="snapshots", hard=0)
    QuotaLimit.objects.create(scope="team", team=team, resource="ports", hard=-1)
    QuotaLimit.objects.create(scope="team", team=team, resource="machines", hard=2)
    first = requests.ask(
        actor=made.member, team=team, amounts={Resource.DISK_GIB: 40}, reason="Backups"
    )
    requests.approve(
        first,
        actor=made.admin,
        version=1,
        granted={Resource.DISK_GIB: 20},
        ends_at=timezone.now() + timedelta(days=5),
    )
    request = requests.ask(
        actor=made.member,
        team=team,
        amounts={Resource.VCPUS: 4, Resource.MEMORY_MIB: 8192, Resource.MACHINES: 2},
        reason="Semester project, 3 database nodes",
        until=timezone.now() + timedelta(days=120),
    )
    requests.comment(request, actor=made.admin, text="Enough room on both hosts", internal=True)
    return request


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_and_nothing_is_too_wide(
    open_page: Open, made: seed.Demo, scheme: str
) -> None:
    request = lived_in(made)
    grant = QuotaGrant.objects.get()
    page = open_page(made.admin, "/", color_scheme=scheme)
    for path in (
        "/requests/",
        f"/requests/{request.pk}/",
        f"/teams/{made.team.pk}/quota/",
        f"/teams/{made.team.pk}/quota/members/{made.member.pk}/",
        f"/requests/new/?team={made.team.pk}&vcpus=2",
        f"/grants/{grant.pk}/",
        "/admin/limits/",
        "/admin/requests/rules/",
    ):
        page.set_viewport_size({"width": 1280, "height": 800})
        page.goto(path)
        results = Axe().run(page)
        assert results.violations_count == 0, f"{path}: {results.generate_report()}"
        page.set_viewport_size({"width": 360, "height": 740})
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path


def test_a_dialog_says_what_it_will_take_as_it_is_typed(
    open_page: Open, made: seed.Demo, tmp_path: Path
) -> None:
    team = made.member.personal_team
    vm = seed.machine(made, "web-1")
    held = quotas.usage(team)[Resource.DISK_GIB]
    QuotaLimit.objects.create(scope="team", team=team, resource="disk_gib", hard=held + 12)
    page = open_page(made.member, f"/machines/{vm.uuid}/?tab=hardware")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_role("button", name="Add disk").click()
    dialog = page.locator("#dialog")
    expect(dialog).to_contain_text(f"after this: {held + 10} GiB of {held + 12} GiB")
    expect(dialog.get_by_role("link", name="Ask for more")).to_have_count(0)
    dialog.get_by_label("Size (GiB)").fill("20")
    expect(dialog).to_contain_text("8 GiB too many")
    page.screenshot(path=tmp_path / "growth.png")
    assert not [url for url in asked if "csrf" in url]
    dialog.get_by_role("link", name="Ask for more").click()
    expect(page.locator("input[name=disk_gib]")).to_have_value("8")
