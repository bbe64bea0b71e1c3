"""The site behind nginx and Caddy, with TLS, at the root and below a path: pages, live, console."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect

from tests.e2e.guests import Guest
from tests.e2e.proxies import behind
from tests.e2e.screen import Screen
from tests.e2e.site import People, Site, is_live
from tests.stack import PASSWORD

pytestmark = [pytest.mark.lab, pytest.mark.browser, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def blank(site: Site) -> Iterator[Guest]:
    """A machine with nothing to boot: its firmware's screen is all that is looked at."""
    name = f"proxied-{secrets.token_hex(3)}"
    answer = site.stack.create(name=name, image="Blank", team="rivendell")
    site.stack.wait(
        lambda: site.stack.api("GET", f"/vms/{answer['vm']['uuid']}")["state"] == "running",
        "the machine runs",
    )
    yield site.guest(answer["vm"]["uuid"])
    site.stack.wait_final(site.stack.delete(answer["vm"]["uuid"]))


@pytest.mark.parametrize(
    ("proxy", "prefix", "carrier"),
    [
        ("nginx", "", "websockify"),
        ("nginx", "/kvm", "websockify"),
        ("nginx", "/kvm", "asgi"),
        ("caddy", "/kvm", "websockify"),
    ],
)
def test_a_console_through_a_proxy(
    site: Site,
    people: People,
    blank: Guest,
    tmp_path: Path,
    proxy: str,
    prefix: str,
    carrier: str,
) -> None:
    if shutil.which(proxy) is None:
        pytest.skip(f"{proxy} is not installed")
    with behind(site.stack, tmp_path, proxy=proxy, prefix=prefix, carrier=carrier) as url:
        page = people.watch(people.context(url, ignore_https_errors=True).new_page())
        page.goto("accounts/login/")
        page.fill("#id_login", "owner")
        page.fill("#id_password", PASSWORD)
        page.click("form[action$='/accounts/login/'] button[type=submit]")
        page.wait_for_url(url)
        page.goto(f"machines/{blank.uuid}/")
        is_live(page)
        assert all(
            cookie["secure"] for cookie in page.context.cookies() if "kvmweb" in cookie["name"]
        )
        assert {cookie["path"] for cookie in page.context.cookies()} == {prefix or "/"}
        page.goto(f"machines/{blank.uuid}/console/")
        Screen(page).wait_connected()
        expect(page.locator("#screen canvas")).to_be_visible()
        rows = site.stack.rows(
            "SELECT carrier, address FROM vms_consolesession ORDER BY id DESC LIMIT 1"
        )
        assert rows == [(carrier, "127.0.0.1")]
        inside = httpx.get(f"{url}healthz", verify=False)
        assert inside.status_code == 200
        if prefix:  # nothing of the site is beside its path (there Caddy answers 200 to anything)
            outside = httpx.get(url.replace(prefix, "/healthz"), verify=False)
            assert outside.content != inside.content
