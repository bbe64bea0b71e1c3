"""Every page, for everybody: read aloud, in the dark, on a phone, in Chinese, without errors.

``open_page`` fails a test on anything that the page's console complains about: a script that
broke, or an inline style that the content security policy refused.
"""

from __future__ import annotations

import gettext
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.conf import settings
from django.core.management import call_command
from playwright.sync_api import Browser, Page

from jobs.models import Job
from tests.front import lived_in, seed
from tests.front.conftest import Site
from vms.models import VM, Image

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

Open = Callable[..., Page]
PHONE = {"width": 360, "height": 740}
SERIOUS = ("serious", "critical")
CATALOGUE = Path(settings.BASE_DIR) / "locale/zh_Hans/LC_MESSAGES/django.mo"
DOORS = ("/accounts/login/", "/accounts/signup/", "/accounts/password/reset/")
PAGES = (
    "/",
    "/machines/",
    "/machines/?q=nothing-like-this",
    "/machines/new/",
    "/machines/{running}/",
    "/machines/{running}/?tab=hardware",
    "/machines/{running}/?tab=snapshots",
    "/machines/{running}/?tab=timeline",
    "/machines/{running}/?tab=access",
    "/offers/",
    "/machines/{stopped}/?tab=snapshots",
    "/machines/{kept}/?tab=backups",
    "/machines/bin/",
    "/machines/{running}/clone/",
    "/machines/{making}/",
    "/machines/{stopped}/",
    "/machines/{stopped}/console/",
    "/activity/",
    "/activity/?q=nothing-like-this",
    "/activity/{job}/",
    "/images/",
    "/profile/",
    "/profile/webhooks/",
    "/notifications/",
    "/teams/",
    "/teams/new/",
    "/teams/{team}/",
    "/accounts/password/change/",
    "/accounts/2fa/",
    "/admin/images/",
    "/admin/images/{image}/",
    "/admin/images/new/?source=catalogue",
    "/admin/images/new/?source=url",
    "/admin/images/new/?source=upload",
    "/admin/images/new/?source=pool",
    "/admin/leases/",
    "/admin/flavors/",
    "/admin/flavors/new/",
    "/admin/hosts/",
    "/admin/hosts/new/",
    "/admin/hosts/{host}/",
    "/admin/hosts/{away}/",
    "/admin/users/",
    "/admin/users/new/",
    "/admin/users/{person}/",
    "/admin/teams/",
    "/admin/teams/{team}/",
    "/admin/limits/",
    "/admin/audit/",
    "/admin/audit/?who=nobody-like-this",
    "/no-such-page/",
)
# Text nodes, and what is only read aloud or shown on hover. Code and names are nobody's language.
WORDS = """() => {
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walk.nextNode()) {
    const unspoken = "script, style, code, .code, pre, kbd, [translate='no']";
    if (!walk.currentNode.parentElement.closest(unspoken))
      found.push(walk.currentNode.data);
  }
  for (const name of ["aria-label", "title", "placeholder"])
    for (const element of document.querySelectorAll(`[${name}]`))
      found.push(element.getAttribute(name));
  return [document.title.split(" · ")[0], ...found];
}"""


@pytest.fixture(scope="module", autouse=True)
def chinese() -> dict[str, str]:
    """The compiled catalogue: what stands in the code, and what a Chinese reader sees."""
    call_command("compilemessages", ignore=[".venv"], verbosity=0)
    with CATALOGUE.open("rb") as file:
        texts = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
    return {str(key): text for key, text in texts.items() if isinstance(key, str) and key}


@pytest.fixture
def pages(made: seed.Demo) -> list[str]:
    made = lived_in.site(count=12)
    running = VM.objects.filter(observed="running", jobs__state="failed").first()
    making = Job.objects.get(kind="vm.create", state="running", step="image").vm
    stopped = VM.objects.alive().filter(observed="shutoff").first()
    failed = Job.objects.filter(kind="vm.create", state="failed").first()
    image = Image.objects.of_the_catalogue().exclude(checksum="").first()
    kept = VM.objects.alive().filter(backups__isnull=False).first()
    assert running
    assert stopped
    assert failed
    assert image
    assert kept
    ids = {
        "running": running.uuid,
        "making": making.uuid,
        "stopped": stopped.uuid,
        "kept": kept.uuid,
        "job": failed.pk,
        "image": image.pk,
        "host": made.hosts[0].pk,
        "away": made.hosts[1].pk,
        "person": made.member.pk,
        "team": made.team.pk,
    }
    return [path.format(**ids) for path in PAGES]


@pytest.fixture
def door(chromium: Browser, site: Site) -> Iterator[Page]:
    context = chromium.new_context(base_url=site.url, locale="zh-CN")
    yield context.new_page()
    context.close()


def violations(page: Page, path: str) -> list[str]:
    found = []
    for violation in Axe().run(page).response["violations"]:
        if violation["impact"] in SERIOUS:
            where = [node["html"][:160] for node in violation["nodes"]]
            found.append(f"{path}: {violation['id']}: {where}")
    return found


def too_wide(page: Page, path: str) -> list[str]:
    width = page.evaluate("document.documentElement.scrollWidth")
    return [f"{path}: {width} px"] if width > PHONE["width"] else []


def left_in_english(page: Page, path: str, chinese: dict[str, str]) -> list[str]:
    shown = {re.sub(r"\s+", " ", text).strip() for text in page.evaluate(WORDS) if text}
    return [f"{path}: {text}" for text in shown if chinese.get(text, text) != text]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_any_page(
    open_page: Open, made: seed.Demo, pages: list[str], scheme: str
) -> None:
    page = open_page(made.admin, color_scheme=scheme, reduced_motion="reduce")
    found = []
    for path in pages:
        page.goto(path)
        found += violations(page, path)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("locale", "language"), [("en-US", "en"), ("zh-CN", "zh-hans")])
def test_every_page_fits_a_phone_and_speaks_one_language(
    open_page: Open,
    made: seed.Demo,
    pages: list[str],
    chinese: dict[str, str],
    locale: str,
    language: str,
) -> None:
    page = open_page(made.admin, locale=locale, viewport=PHONE, has_touch=True)
    found = []
    for path in pages:
        page.goto(path)
        assert page.locator("html").get_attribute("lang") == language, path
        found += too_wide(page, path)
        english = left_in_english(page, path, chinese)
        if language == "en":
            assert english, f"{path}: this test would not notice English"
        else:
            found += english
    assert not found, "\n".join(found)


def test_who_has_nothing_yet_gets_pages_that_say_so(
    open_page: Open, made: seed.Demo, chinese: dict[str, str]
) -> None:
    page = open_page(made.outsider, locale="zh-CN", viewport=PHONE)
    found = []
    for path in ("/", "/machines/", "/activity/", "/images/", "/profile/"):
        page.goto(path)
        found += violations(page, path) + too_wide(page, path)
        found += left_in_english(page, path, chinese)
    assert not found, "\n".join(found)


def test_the_doors_are_open_to_everybody(door: Page, chinese: dict[str, str]) -> None:
    door.set_viewport_size(PHONE)
    found = []
    for path in DOORS:
        door.goto(path)
        found += violations(door, path) + too_wide(door, path)
        found += left_in_english(door, path, chinese)
    assert not found, "\n".join(found)
