"""Pages as a person has them: live, by keyboard, on a phone, in the dark, for screen readers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from jobs.models import Job
from tests.front import seed
from tests.front.conftest import PATIENCE_MS, Site, is_live
from vms.models import VM, Nic, Tag

pytestmark = pytest.mark.browser

Open = Callable[..., Page]


def test_a_change_outside_shows_within_a_second(
    open_page: Open, site: Site, made: seed.Demo
) -> None:
    vm = seed.machine(made, "web-1")
    page = open_page(made.member, "/machines/")
    row = page.locator(f"#vm-{vm.uuid}")
    expect(row).to_contain_text("Running")
    page.check(f"#select-{vm.uuid}")
    VM.objects.filter(pk=vm.pk).update(observed="shutoff")
    site.nudge("vm", str(vm.uuid), made.member)
    expect(row).to_contain_text("Stopped", timeout=1000)
    # What the person had ticked stays ticked, and the bar offers what makes sense now.
    expect(page.locator(f"#select-{vm.uuid}")).to_be_checked()
    expect(page.locator("#bulk [data-verb=start]")).to_be_visible()
    expect(page.locator("#bulk [data-verb=shutdown]")).to_be_hidden()


def test_typing_in_the_search_narrows_and_keeps_the_focus(open_page: Open, made: seed.Demo) -> None:
    seed.machine(made, "web-1")
    seed.machine(made, "db-1")
    page = open_page(made.member, "/machines/")
    page.keyboard.press("/")
    page.keyboard.type("db")
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.locator("#list-search")).to_be_focused()
    page.wait_for_url("**/machines/?q=db")


def test_the_steps_of_a_machine_move_while_it_is_made(
    open_page: Open, site: Site, made: seed.Demo
) -> None:
    vm = seed.machine(made, "web-3", observed="unknown", first_boot="pending")
    job = seed.at_work(vm, "vm.create", 1, 0.42)
    page = open_page(made.member, f"/machines/{vm.uuid}/")
    expect(page.locator("#step-image")).to_contain_text("42 %")
    Job.objects.filter(pk=job.pk).update(progress=0.77)
    site.nudge("job", str(job.pk), made.member)
    site.nudge("vm", str(vm.uuid), made.member)
    expect(page.locator("#step-image")).to_contain_text("77 %", timeout=2000)
    expect(page.locator("#tray progress").first).to_be_visible()


def test_a_job_that_ends_is_told_on_whatever_page(
    open_page: Open, site: Site, made: seed.Demo
) -> None:
    from django.utils import timezone

    vm = seed.machine(made, "web-3", observed="unknown")
    job = seed.at_work(vm, "vm.create", 1, 0.42)
    page = open_page(made.member, f"/machines/{vm.uuid}/")
    page.goto("/machines/new/")
    is_live(page)
    Job.objects.filter(pk=job.pk).update(state="succeeded", finished_at=timezone.now())
    site.nudge("job", str(job.pk), made.member)
    expect(page.locator("#toasts")).to_contain_text("web-3 is ready.")
    expect(page.locator("#toasts a")).to_have_attribute("href", f"/machines/{vm.uuid}/")


def test_a_machine_is_created_by_keyboard_and_mouse(open_page: Open, made: seed.Demo) -> None:
    page = open_page(made.member, "/")
    page.keyboard.press("c")
    page.wait_for_url("**/machines/new/")
    page.get_by_role("radio", name="Debian 12").check()
    page.get_by_role("radio", name="M 2 vCPU").check()
    aside = page.locator("#create-preview")
    expect(aside).to_contain_text("after this: 2 of")
    expect(page.locator("#image-hint")).to_contain_text("Recommended for Debian 12")
    page.fill("#id_name", "Wrong Name")
    expect(page.locator("#name-check .error")).to_be_visible()
    page.fill("#id_name", "web-77")
    expect(page.locator("#name-check .fine")).to_be_visible()
    expect(page.locator("#command-lines")).to_contain_text("--name web-77")
    page.get_by_label("Generate").check()
    page.click("#create-button")
    page.wait_for_url("**/machines/*-*/")
    expect(page.locator(".secret")).to_be_visible()
    expect(page.locator("h1")).to_have_text("web-77")
    assert VM.objects.get(name="web-77").memory_mib == 2048


def test_a_wrong_form_keeps_what_was_typed_and_focuses_the_first_error(
    open_page: Open, made: seed.Demo
) -> None:
    page = open_page(made.member, "/machines/new/")
    page.get_by_text("Advanced").click()
    page.fill("#id_hostname", "bad_host!")
    page.fill("#id_description", "still here")
    page.click("#create-button")
    expect(page.locator("#form-errors")).to_be_visible()
    expect(page.locator("#id_hostname")).to_be_focused()
    expect(page.locator("#id_description")).to_have_value("still here")


def test_delete_waits_for_the_name_and_gives_the_focus_back(
    open_page: Open, made: seed.Demo
) -> None:
    vm = seed.machine(made, "web-1")
    page = open_page(made.member, f"/machines/{vm.uuid}/")
    page.click("#machine-menu-button")
    page.get_by_role("button", name="Delete…").click()
    dialog = page.locator("#dialog")
    expect(dialog).to_contain_text(f"kvmweb-{vm.uuid}-vda.qcow2")
    delete = dialog.get_by_role("button", name="Delete")
    expect(delete).to_be_disabled()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    page.click("#machine-menu-button")
    page.get_by_role("button", name="Delete…").click()
    page.fill("#confirm-name", "web-1")
    delete.click()
    page.wait_for_url("**/machines/")
    assert Job.objects.get(vm=vm).kind == "vm.bin"


def test_what_a_dialog_asked_for_in_vain_is_said_in_it(open_page: Open, made: seed.Demo) -> None:
    vm = seed.machine(made, "web-3")
    page = open_page(made.member, f"/machines/{vm.uuid}/")
    page.click("#machine-menu-button")
    page.locator("#machine-menu").get_by_text("Name, description, tags").click()
    page.locator("#edit-name").fill("Bad Name")
    page.locator("#dialog").get_by_role("button", name="Save").click()
    refused = page.locator("#dialog [data-refused]")
    expect(refused).to_contain_text("cannot be in a name")
    expect(page.locator("#toasts .toast")).to_have_count(0)  # it would lie under the veil
    assert page.locator("#edit-name").input_value() == "Bad Name"
    page.locator("#edit-name").fill("good-name")
    page.locator("#dialog").get_by_role("button", name="Save").click()
    expect(page.locator("#dialog")).to_be_hidden()
    expect(page.locator("h1")).to_have_text("good-name")


def test_the_list_is_narrowed_by_its_menus(open_page: Open, made: seed.Demo) -> None:
    tagged, other = seed.machine(made, "web-1"), seed.machine(made, "web-2")
    Tag.objects.create(vm=tagged, name="exam")
    page = open_page(made.member, "/machines/?q=web")
    page.get_by_role("button", name="Filter…").click()
    page.locator("#dialog").get_by_label("Tag").select_option("exam")
    page.locator("#dialog").get_by_role("button", name="Show").click()
    expect(page.locator(f"#vm-{tagged.uuid}")).to_be_visible()
    expect(page.locator(f"#vm-{other.uuid}")).to_have_count(0)
    expect(page.locator("#list-search")).to_have_value("web")
    page.get_by_role("link", name="Tag: exam").click()
    expect(page.locator(f"#vm-{other.uuid}")).to_be_visible()


def test_a_refused_verb_says_why_in_a_toast(open_page: Open, made: seed.Demo) -> None:
    vm = seed.machine(made, "web-1")
    page = open_page(made.member, f"/machines/{vm.uuid}/")
    VM.objects.filter(pk=vm.pk).update(observed="shutoff")  # and nobody has told the page
    page.get_by_role("button", name="Shut down").click()
    expect(page.locator("#toasts .tone-bad")).to_contain_text("off")


def test_an_address_is_copied_and_that_is_said(open_page: Open, made: seed.Demo) -> None:
    vm = seed.machine(made, "web-1")
    Nic.objects.filter(vm=vm).update(addresses=["192.168.122.14"])
    page = open_page(
        made.member,
        f"/machines/{vm.uuid}/",
        permissions=["clipboard-read", "clipboard-write"],
    )
    page.locator("[data-copy^='ssh ']").click()
    expect(page.get_by_text("Copied").first).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == "ssh debian@192.168.122.14"


def test_jump_finds_a_machine_by_keyboard(open_page: Open, made: seed.Demo) -> None:
    vm = seed.machine(made, "web-1")
    page = open_page(made.member, "/")
    page.keyboard.press("Control+k")
    page.keyboard.type("web")
    expect(page.locator(f"#jump-{vm.uuid}")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/machines/{vm.uuid}/")


def test_keys_go_and_help(open_page: Open, made: seed.Demo) -> None:
    page = open_page(made.member, "/")
    page.keyboard.press("g")
    page.keyboard.press("m")
    page.wait_for_url("**/machines/")
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#keys")).to_be_hidden()


def test_the_page_polls_and_says_so_while_the_socket_is_down(
    open_page: Open, made: seed.Demo
) -> None:
    vm = seed.machine(made, "web-1")
    page = open_page(made.member, "/machines/")
    page.route_web_socket("**/ws/live", lambda socket: socket.close())
    page.reload()
    expect(page.locator("html[data-socket=closed]")).to_have_count(1)
    VM.objects.filter(pk=vm.pk).update(observed="paused")
    expect(page.locator(f"#vm-{vm.uuid}")).to_contain_text("Paused", timeout=PATIENCE_MS)
    expect(page.locator("#offline")).to_be_visible(timeout=PATIENCE_MS)


def test_theme_and_language_are_settled_by_the_server(open_page: Open, made: seed.Demo) -> None:
    page = open_page(made.member, "/machines/")
    page.click("[popovertarget=theme-menu]")
    page.get_by_role("button", name="Dark").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.click("[popovertarget=language-menu]")
    page.get_by_role("button", name="简体中文").click()
    expect(page.locator("html")).to_have_attribute("lang", "zh-hans")
    made.member.refresh_from_db()
    assert (made.member.theme, made.member.language) == ("dark", "zh-hans")


NARROWED = "/machines/?host=node-1&owner=mia&tag=web"
PATHS = ["/", "/machines/", NARROWED, "/machines/new/", "vm", "vm?tab=hardware", "vm?tab=timeline"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_any_page(open_page: Open, made: seed.Demo, scheme: str) -> None:
    seed.demo(21)
    vm = VM.objects.filter(jobs__kind="vm.create", owner=made.member).first()
    assert vm is not None
    page = open_page(made.member, "/", color_scheme=scheme)
    for path in PATHS:
        page.goto(path.replace("vm", f"/machines/{vm.uuid}/") if path.startswith("vm") else path)
        results = Axe().run(page)
        assert results.violations_count == 0, f"{path}: {results.generate_report()}"


def test_axe_finds_nothing_at_the_door(chromium: Browser, site: Site) -> None:
    page = chromium.new_page(base_url=site.url)
    page.goto("/accounts/login/")
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()
    page.get_by_label("User name").fill("mia")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.get_by_label("User name")).to_have_value("mia")
    page.get_by_label("Password").fill(seed.PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("h1")).to_have_text("Overview")
    page.context.close()


@pytest.mark.parametrize("width", [360, 768, 1280, 3840])
def test_no_page_is_wider_than_its_screen(open_page: Open, made: seed.Demo, width: int) -> None:
    seed.demo(21)
    vm = VM.objects.filter(jobs__kind="vm.create", owner=made.member).first()
    assert vm is not None
    page = open_page(made.member, "/", viewport={"width": width, "height": 740})
    for path in PATHS:
        page.goto(path.replace("vm", f"/machines/{vm.uuid}/") if path.startswith("vm") else path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
