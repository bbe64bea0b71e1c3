"""A security key as the second factor: Chromium's own authenticator, the site's real pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from accounts.models import AuditEntry, User
from tests.front import seed
from tests.front.conftest import PATIENCE_MS, Errors, Site

pytestmark = [pytest.mark.browser]


@dataclass
class Keyed:
    """A browser with a security key in it, signed in nowhere."""

    page: Page
    devtools: Any
    authenticator: str


@pytest.fixture
def keyed(chromium: Browser, site: Site) -> Iterator[Keyed]:
    # Browsers let keys know sites by name, never by address.
    at = site.url.replace("127.0.0.1", "localhost")
    context = chromium.new_context(base_url=at, locale="en-US")
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    errors = Errors()
    errors.watch(page)
    devtools = context.new_cdp_session(page)
    devtools.send("WebAuthn.enable")
    options = {
        "protocol": "ctap2",
        "transport": "usb",
        "hasUserVerification": True,
        "isUserVerified": True,
        "automaticPresenceSimulation": True,
    }
    made = devtools.send("WebAuthn.addVirtualAuthenticator", {"options": options})
    yield Keyed(page, devtools, made["authenticatorId"])
    context.close()
    ignored = ("status of 4", "WebSocket connection")
    assert not [text for text in errors if not any(part in text for part in ignored)]


def sign_in(page: Page, user: User) -> None:
    page.goto("/accounts/login/")
    page.fill("#id_login", user.username)
    page.fill("#id_password", seed.PASSWORD)
    page.locator(".entrance-card").get_by_role("button", name="Sign in", exact=True).click()


def sign_out(page: Page) -> None:
    page.goto("/accounts/logout/")
    page.locator(".entrance-card").get_by_role("button", name="Sign out").click()
    expect(page.locator("#id_login")).to_be_visible()


def show_password_again(page: Page) -> None:
    """The site asks for it before it touches a second factor, unless it has just done so."""
    if "reauthenticate" in page.url:
        is_accessible(page)
        page.fill("#id_password", seed.PASSWORD)
        page.locator("form:has(#id_password)").get_by_role("button").first.click()


def open_add(page: Page) -> None:
    page.goto("/accounts/2fa/webauthn/add/")
    show_password_again(page)
    expect(page.locator("#mfa_webauthn_add")).to_be_visible()


def is_signed_in(page: Page) -> None:
    expect(page.locator("[popovertarget=user-menu]").first).to_be_attached()


def password_alone_opens_nothing(page: Page) -> None:
    page.goto("/profile/")
    expect(page.locator("#id_code")).to_be_visible()
    assert page.request.get("/api/v1/me").status == 401


def is_accessible(page: Page) -> None:
    found = Axe().run(page).response["violations"]
    assert not [one for one in found if one["impact"] in ("serious", "critical")], found


def verbs(user: User) -> set[str]:
    return set(AuditEntry.objects.filter(target_id=str(user.pk)).values_list("verb", flat=True))


def test_a_key_is_added_asked_for_and_removed(keyed: Keyed, made: seed.Demo) -> None:
    user, page = made.member, keyed.page
    sign_in(page, user)
    is_signed_in(page)
    open_add(page)
    is_accessible(page)
    page.fill("#id_name", "Blue key")
    page.click("#mfa_webauthn_add")
    codes = page.locator("#recovery_codes").input_value().split()
    assert len(codes) == 10
    open_add(page)
    page.click("#mfa_webauthn_add")
    expect(page.get_by_text("This key is one of yours already.")).to_be_visible()

    sign_out(page)
    sign_in(page, user)
    expect(page.locator("#mfa_webauthn_authenticate")).to_be_visible()
    is_accessible(page)
    password_alone_opens_nothing(page)
    page.click("#mfa_webauthn_authenticate")
    is_signed_in(page)

    sign_out(page)
    sign_in(page, user)
    page.fill("#id_code", "00000000")
    page.locator("form:has(#id_code)").get_by_role("button").click()
    expect(page.locator("#id_code + .error")).to_be_visible()
    page.fill("#id_code", codes[0])
    page.locator("form:has(#id_code)").get_by_role("button").click()
    is_signed_in(page)
    sign_out(page)
    sign_in(page, user)
    page.fill("#id_code", codes[0])  # a code works once
    page.locator("form:has(#id_code)").get_by_role("button").click()
    expect(page.locator("#id_code + .error")).to_be_visible()
    page.click("#mfa_webauthn_authenticate")
    is_signed_in(page)

    page.goto("/accounts/2fa/webauthn/")
    expect(page.locator("table")).to_contain_text("Blue key")
    is_accessible(page)
    page.get_by_role("link", name="Remove").click()
    page.wait_for_url(re.compile("reauthenticate|remove"))
    show_password_again(page)
    page.get_by_role("button", name="Remove").click()
    expect(page.get_by_text("No security key yet.")).to_be_visible()
    sign_out(page)
    sign_in(page, user)
    is_signed_in(page)
    assert {
        "user.add_second_factor",
        "user.second_factor_failed",
        "user.remove_second_factor",
    } <= verbs(user)


def test_somebody_elses_key_opens_nothing(keyed: Keyed, made: seed.Demo) -> None:
    user, page = made.member, keyed.page
    sign_in(page, user)
    open_add(page)
    page.click("#mfa_webauthn_add")
    expect(page.locator("#recovery_codes")).to_be_visible()
    sign_out(page)
    keyed.devtools.send("WebAuthn.clearCredentials", {"authenticatorId": keyed.authenticator})
    sign_in(page, user)
    page.click("#mfa_webauthn_authenticate")
    expect(page.locator("[data-why=refused]")).to_be_visible()
    password_alone_opens_nothing(page)
