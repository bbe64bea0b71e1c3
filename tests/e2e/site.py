"""The site with its people, as browsers see it. One for all tests of this folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.e2e.guests import Guest
from tests.lab.conftest import RunningLab
from tests.stack import PASSWORD, Stack

PATIENCE_MS = 30_000
TEAM = "rivendell"
VIEWER = "viewer"

# Notes, with the browser's clock, each state that the machine's page has shown.
RECORDER = """
window.__seen = [];
new MutationObserver(() => {
  const badge = document.querySelector(".machine-head .state");
  if (!badge) return;
  const steps = {};
  for (const step of document.querySelectorAll("li.step")) {
    steps[step.id.slice(5)] = step.className.replace("step ", "");
  }
  const share = document.querySelector("#making-title + span")?.textContent.trim() ?? "";
  const now = { state: badge.textContent.trim(), steps, share };
  const last = window.__seen.at(-1);
  if (last && JSON.stringify({ ...last, at: 0 }) === JSON.stringify({ at: 0, ...now })) return;
  window.__seen.push({ at: Date.now(), ...now });
}).observe(document, { subtree: true, childList: true, characterData: true, attributes: true });
"""


def is_live(page: Page) -> None:
    """Wait until its socket is open: from then on a nudge reaches it."""
    expect(page.locator("html[data-socket=open]")).to_have_count(1, timeout=PATIENCE_MS)


def sign_in(page: Page, name: str, password: str = PASSWORD) -> None:
    page.goto("/accounts/login/")
    page.fill("#id_login", name)
    page.fill("#id_password", password)
    page.click("form[action$='/accounts/login/'] button[type=submit]")
    page.wait_for_url(lambda url: "/accounts/login" not in url)


@dataclass
class People:
    """The browsers of one test: ``page("owner", "/machines/")``."""

    browser: Browser
    url: str
    states: dict[str, Any]
    contexts: list[BrowserContext] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def context(self, url: str = "", **options: Any) -> BrowserContext:
        values: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}, "locale": "en-US"}
        context = self.browser.new_context(base_url=url or self.url, **(values | options))
        context.add_init_script(RECORDER)
        context.set_default_timeout(PATIENCE_MS)
        self.contexts.append(context)
        return context

    def page(self, name: str, path: str = "/", **options: Any) -> Page:
        """A page of somebody who is signed in."""
        if name not in self.states:
            context = self.context()
            sign_in(context.new_page(), name)
            self.states[name] = context.storage_state()
            context.close()
            self.contexts.remove(context)
        page = self.watch(self.context(storage_state=self.states[name], **options).new_page())
        page.goto(path)
        return page

    def watch(self, page: Page) -> Page:
        """Keep what its console says."""
        page.on("console", lambda m: self.messages.append(f"{m.type}: {m.text}"))
        page.on("pageerror", lambda error: self.messages.append(f"pageerror: {error}"))
        return page

    def close(self) -> None:
        for context in self.contexts:
            context.close()


@dataclass
class Site:
    stack: Stack
    lab: RunningLab
    key: Path

    @property
    def public_key(self) -> str:
        return self.key.with_suffix(".pub").read_text().strip()

    def populate(self) -> None:
        """A team with a viewer, and the sizes that the create page offers."""
        api = self.stack.api
        person = {"username": VIEWER, "email": "viewer@example.test", "password": PASSWORD}
        api("POST", "/users", person, user="admin")
        team = api("POST", "/teams", {"name": TEAM, "manager": "owner"}, user="admin")
        member = {"username": VIEWER, "role": "viewer"}
        api("POST", f"/teams/{team['id']}/members", member, user="admin")
        for position, (name, memory_mib) in enumerate((("XS", 128), ("S", 768))):
            size = {"vcpus": 1, "memory_mib": memory_mib, "disk_gib": 1 if position == 0 else 4}
            flavor = {"name": name, "published": True, "position": position, **size}
            api("POST", "/flavors", flavor, user="admin")

    def manage(self, *words: str) -> None:
        self.stack.manage(*words)

    def set_host_mode(self, name: str, mode: str) -> None:
        words = f"set_mode(Host.objects.get(name={name!r}), {mode!r}, actor=None)"
        imports = "from hosts.models import Host; from hosts.services import set_mode; "
        self.manage("shell", "-c", imports + words)

    def guest(self, uuid: str, key: Path | None = None) -> Guest:
        return Guest(stack=self.stack, lab=self.lab, uuid=uuid, key=key or self.key)

    def create(self, name: str, **changes: Any) -> Guest:
        """A tiny machine of the team, asked for over the API; waits until it is ready."""
        wanted = {"team": TEAM, "ssh_keys": [self.public_key], "password": PASSWORD, **changes}
        answer = self.stack.create(name=name, **wanted)
        (job,) = self.stack.wait_final(answer, timeout_s=180)
        assert job["state"] == "succeeded", job
        return self.guest(answer["vm"]["uuid"])

    def clear(self) -> None:
        """Delete every machine: what is left running costs the tests after these their time."""
        answers: list[dict[str, Any]] = []
        for vm in self.stack.api("GET", "/vms?page_size=200", user="admin")["items"]:
            task = vm["task"]
            if task and task["kind"] == "vm.delete":
                answers.append({"job": {"id": task["job"]}})
                continue
            self.guest(vm["uuid"]).wait_free(timeout_s=120)
            answers.append(self.stack.delete(vm["uuid"]))
        if answers:
            self.stack.wait_final(*answers)


def state_of(page: Page) -> str:
    return page.locator(".machine-head .state").first.inner_text().strip()


def follows(
    page: Page, act: Callable[[], object], word: str, *, within_s: float, what: str
) -> float:
    """Do something outside of the page; seconds from its end until the page says ``word``."""
    began = time.time()
    act()
    ended = time.time()
    script = "w => document.querySelector('.machine-head .state')?.textContent.trim() === w"
    page.wait_for_function(script, arg=word, timeout=PATIENCE_MS)
    shown = page.evaluate("w => window.__seen.findLast((seen) => seen.state === w).at / 1000", word)
    took: float = shown - ended
    print(f"{what} took {ended - began:.2f} s; {took:.2f} s later the page said {word}")  # noqa: T201
    assert took < within_s, f"{what}: {word} after {took:.2f} s, allowed are {within_s} s"
    return took
