"""A real site for a real browser: uvicorn with the test's database and a Redis of its own."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgiref.sync import async_to_sync
from django.conf import settings
from django.test import Client
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from accounts.models import User
from tests.front import seed
from tests.front.consoles import Console
from tests.servers import Process, Redis, database_url, wait_for

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


PATIENCE_MS = 10_000


def is_live(page: Page) -> None:
    """Wait until its socket is open: from then on a nudge reaches it."""
    expect(page.locator("html[data-socket=open]")).to_have_count(1, timeout=PATIENCE_MS)


@dataclass
class Site:
    url: str
    redis: Redis

    def nudge(self, topic: str, subject: str, user: User) -> None:
        """What the watcher's process does after it has written a row."""
        from channels_redis.pubsub import RedisPubSubChannelLayer

        async def send() -> None:
            layer = RedisPubSubChannelLayer(hosts=[self.redis.url], prefix="kvmweb")
            message = {"type": "nudge", "topic": topic, "id": subject}
            await layer.group_send(f"user.{user.pk}", message)
            await layer.flush()

        # In a thread of its own: Playwright's loop runs in this one.
        thread = threading.Thread(target=async_to_sync(send))
        thread.start()
        thread.join()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    # Playwright's own loop lets Django believe that the tests are asynchronous.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def made(transactional_db: None) -> seed.Demo:
    return seed.base()


@pytest.fixture
def site(made: seed.Demo, tmp_path: Path) -> Iterator[Site]:
    redis = Redis(tmp_path / "redis")
    redis.start()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {
        "DJANGO_SETTINGS_MODULE": "kvmweb.settings.test",
        "KVMWEB_DATABASE_URL": database_url(),
        "KVMWEB_REDIS_URL": redis.url,
        "KVMWEB_VAR": str(tmp_path),
        "KVMWEB_SECRET_KEY": settings.SECRET_KEY,
        "WHITENOISE_USE_FINDERS": "1",
    }
    argv = ["-m", "uvicorn", "tests.front.asgi:application", "--port", str(port)]
    server = Process(*argv, "--log-level", "warning", env=env, log=tmp_path / "site.log")
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert server.alive(), server.log.read_text()
        try:
            return httpx.get(f"{url}/accounts/login/").status_code == 200
        except httpx.TransportError:
            return False

    wait_for(answers, "the site answers", timeout_s=60)
    yield Site(url=url, redis=redis)
    server.stop()
    redis.stop()


class Errors(list[str]):
    """What the page's console complained about: a refused inline style is an error too."""

    def watch(self, page: Page) -> None:
        page.on("console", lambda m: self.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: self.append(str(error)))


@pytest.fixture
def open_page(
    chromium: Browser, site: Site, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Page]]:
    """``open_page(user)``: a page of a person who is signed in; fails on any console error."""
    contexts: list[BrowserContext] = []
    errors = Errors()

    def open_for(user: User, path: str = "/", **options: Any) -> Page:
        values = {"viewport": {"width": 1280, "height": 800}, "locale": "en-US"}
        context = chromium.new_context(base_url=site.url, **(values | options))
        contexts.append(context)
        client = Client()
        client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
        name = settings.SESSION_COOKIE_NAME
        context.add_cookies([{"name": name, "value": client.cookies[name].value, "url": site.url}])
        page = context.new_page()
        errors.watch(page)
        page.set_default_timeout(PATIENCE_MS)
        page.goto(path)
        is_live(page)
        return page

    yield open_for
    for number, context in enumerate(contexts):
        if getattr(request.node, "failed", False):
            for page in context.pages:
                page.screenshot(path=f"/tmp/{request.node.name}-{number}.png")
        context.close()
    ignored = ("status of 4", "WebSocket connection", "(code: 4503, reason: console.target)")
    assert not [text for text in errors if not any(part in text for part in ignored)]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome: Any = yield
    report = outcome.get_result()
    if report.when == "call":
        item.failed = report.failed  # type: ignore[attr-defined]


@pytest.fixture
def console(chromium: Browser, monkeypatch: pytest.MonkeyPatch) -> Console:
    """Answers for the machine on every page that this test opens."""
    made = Console()
    new_context = chromium.new_context

    def watched(**options: Any) -> BrowserContext:
        context = new_context(**options)
        made.watch(context)
        return context

    monkeypatch.setattr(chromium, "new_context", watched)
    return made
