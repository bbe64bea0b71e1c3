"""Pictures of the console in each of its states, to be looked at: made as the other pages' are.

KVMWEB_GALLERY=/tmp/gallery scripts/test pages -- tests/front/test_console_gallery.py
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone
from playwright.sync_api import Browser, Error, Page, expect

from accounts.models import User
from tests.front import seed
from tests.front.conftest import Site, is_live
from tests.front.consoles import Console
from tests.front.test_every_page_is_accessible import chinese
from tests.front.test_gallery import FOLDER, LOOKS, sheet
from tests.front.test_play_a_recording import SCREEN
from vms.consoles import sharing
from vms.models import VM, ConsoleAsk, ConsoleControl, ConsoleRecording, ConsoleSession

__all__ = ["chinese"]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not FOLDER, reason="KVMWEB_GALLERY names no folder"),
]

BOOT = (
    b"[    0.000000] Linux version 6.1.0-56-cloud-amd64\r\n[  \x1b[32mOK\x1b[0m  ] Started"
    b" \x1b[1mssh.service\x1b[0m - OpenBSD Secure Shell server.\r\n\r\nDebian GNU/Linux 12 web-1"
    b" ttyS0\r\n\r\nweb-1 login: "
)


@dataclass
class Scene:
    """One page at a time: what stands in the database, and what its machine's console does."""

    made: seed.Demo
    site: Site
    console: Console
    page: Page

    def machine(self, **more: object) -> VM:
        self.console.mode, self.console.refusal, self.console.silent = "control", None, False
        name = f"web-{VM.objects.count() + 1}"
        return seed.machine(self.made, name, **more)  # type: ignore[arg-type]

    def open(self, vm: VM, *, state: str = "") -> None:
        """``state``: what the page must have come to."""
        self.page.goto(f"/machines/{vm.uuid}/console/")
        is_live(self.page)
        if state:
            expect(self.page.locator(f"html[data-console={state}]")).to_have_count(1)

    def nudge(self, vm: VM, topic: str = "vm") -> None:
        self.site.nudge(topic, str(vm.uuid), self.made.member)

    def close(self, code: int, reason: str = "") -> None:
        assert self.console.screen
        self.console.screen.close(code=code, reason=reason)

    def notice(self) -> None:
        expect(self.page.locator("#notice")).to_be_visible()

    def strip(self) -> None:
        expect(self.page.locator("#strip")).to_be_visible()


def _at_it(vm: VM, user: User, kind: str, mode: str) -> None:
    ConsoleSession.objects.create(user=user, vm=vm, kind=kind, mode=mode, carrier="asgi")


def connecting(scene: Scene) -> None:
    vm = scene.machine()
    scene.console.silent = True
    scene.open(vm)
    scene.notice()


def being_made(scene: Scene) -> None:
    vm = scene.machine(observed="unknown", first_boot="pending")
    seed.at_work(vm, "vm.create", 1, 0.42)
    scene.open(vm)
    scene.notice()


def _mine(scene: Scene, vm: VM) -> VM:
    """The person looks at it alone, with control."""
    _at_it(vm, scene.made.member, "vnc", "control")
    ConsoleControl.objects.create(vm=vm, user=scene.made.member, taken_at=timezone.now())
    return vm


def live(scene: Scene) -> None:
    scene.open(_mine(scene, scene.machine()), state="connected")


def live_serial(scene: Scene) -> None:
    scene.console.history = BOOT
    scene.open(_mine(scene, scene.machine()), state="connected")
    scene.page.click("#tab-serial")
    expect(scene.page.locator("#terminal .xterm-rows")).to_contain_text("login:")


def beside_the_machine(scene: Scene) -> None:
    vm = _mine(scene, scene.machine())
    scene.page.goto(f"/machines/{vm.uuid}/?tab=console")
    expect(scene.page.locator("html[data-console=connected]")).to_have_count(1)


def view_only(scene: Scene) -> None:
    vm = scene.machine()
    _at_it(vm, scene.made.admin, "vnc", "control")
    ConsoleControl.objects.create(vm=vm, user=scene.made.admin, taken_at=timezone.now())
    _at_it(vm, scene.made.member, "vnc", "view")
    scene.console.mode = "view"
    scene.open(vm, state="connected")


def asked_for_control(scene: Scene) -> None:
    vm = scene.machine()
    _at_it(vm, scene.made.member, "vnc", "control")
    ConsoleControl.objects.create(vm=vm, user=scene.made.member, taken_at=timezone.now())
    _at_it(vm, scene.made.admin, "vnc", "view")
    _at_it(vm, scene.made.outsider, "serial", "view")
    sharing.invite(vm, actor=scene.made.member, mode="control", once=True)
    scene.open(vm, state="connected")
    ConsoleAsk.objects.create(vm=vm, user=scene.made.admin)
    scene.nudge(vm, "console")
    scene.strip()


def people(scene: Scene) -> None:
    asked_for_control(scene)
    scene.page.click("#people-button")


def stopped(scene: Scene) -> None:
    scene.open(scene.machine(observed="shutoff"))
    scene.notice()


def suspended(scene: Scene) -> None:
    scene.open(scene.machine(observed="paused"), state="connected")
    scene.notice()


def moved(scene: Scene) -> None:
    vm = _mine(scene, scene.machine())
    scene.open(vm, state="connected")
    scene.made.hosts[1].reach = "up"
    scene.made.hosts[1].save()
    VM.objects.filter(pk=vm.pk).update(host=scene.made.hosts[1])
    scene.nudge(vm)
    scene.strip()


def host_away(scene: Scene) -> None:
    scene.made.hosts[1].reach = "down"
    scene.made.hosts[1].save()
    scene.open(scene.machine(host=scene.made.hosts[1]))


def lost(scene: Scene) -> None:
    scene.open(scene.machine(), state="connected")
    scene.console.silent = True
    scene.close(4500)
    scene.notice()


def refused(scene: Scene) -> None:
    vm = scene.machine()
    scene.console.refusal = (
        409,
        "It is connected by TLS, which carries no screens. Use the serial console.",
    )
    scene.open(vm)
    expect(scene.page.locator("#notice-reconnect")).to_be_visible()


def idle(scene: Scene) -> None:
    scene.open(scene.machine(), state="connected")
    scene.close(4408, "idle")
    scene.notice()


def recorded(scene: Scene) -> None:
    vm = _mine(scene, scene.machine())
    for kind in ("vnc", "serial"):
        ConsoleRecording.objects.create(
            vm=vm,
            kind=kind,
            started_by=scene.made.member,
            path=f"{kind}-{vm.pk}",
            started_at=timezone.now(),
        )
    scene.open(vm, state="connected")


def pasting(scene: Scene) -> None:
    scene.open(_mine(scene, scene.machine()), state="connected")
    scene.page.click("#open-clipboard")
    scene.page.select_option("#clipboard-layout", "de")
    scene.page.fill("#clipboard-text", "Grüße 中 naïve ✓\nsudo apt update\n")


def keys(scene: Scene) -> None:
    scene.open(_mine(scene, scene.machine()), state="connected")
    scene.page.click("#keys-button")


def view(scene: Scene) -> None:
    scene.open(_mine(scene, scene.machine()), state="connected")
    scene.page.click("#view-button")
    scene.page.get_by_role("radio").nth(2).check()
    scene.strip()


def player(scene: Scene) -> None:
    vm, now = scene.machine(), timezone.now()
    row = ConsoleRecording.objects.create(
        vm=vm,
        kind="vnc",
        started_by=scene.made.member,
        path=f"done-{vm.pk}",
        size_bytes=1 << 21,
        started_at=now - timedelta(minutes=3),
        ended_at=now,
        duration_ms=1200,
    )
    scene.page.route(
        "**/data", lambda route: route.fulfill(content_type="application/octet-stream", body=SCREEN)
    )
    scene.page.goto(f"/recordings/{row.pk}/")
    expect(scene.page.locator("html[data-player=paused]")).to_have_count(1)


SCENES: tuple[Callable[[Scene], None], ...] = (
    connecting,
    being_made,
    live,
    live_serial,
    beside_the_machine,
    view_only,
    asked_for_control,
    people,
    stopped,
    suspended,
    moved,
    host_away,
    lost,
    refused,
    idle,
    recorded,
    pasting,
    keys,
    view,
    player,
)


def test_console_gallery(
    chromium: Browser, open_page: Callable[..., Page], made: seed.Demo, site: Site
) -> None:
    folder = Path(FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    scenes = []
    for scheme, locale, size in LOOKS:
        phone = size["width"] < 600
        page = open_page(
            made.member,
            color_scheme=scheme,
            locale=locale,
            viewport=size,
            has_touch=phone,
            is_mobile=phone,
            reduced_motion="reduce",
        )
        console = Console()
        console.watch(page.context)
        scenes.append(Scene(made, site, console, page))
    odd = []
    for number, show in enumerate(SCENES):
        shots = []
        for scene in scenes:
            try:
                show(scene)
            except (AssertionError, Error) as error:  # a picture of it tells more
                odd.append(f"{show.__name__}: {error}")
            scene.page.wait_for_timeout(200)
            shots.append(scene.page.screenshot())
        name = show.__name__.replace("_", "-")
        sheet(shots).save(folder / f"console-{number:02}-{name}.png")
    assert not odd, "\n".join(odd)
