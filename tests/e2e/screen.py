"""The console page as a person uses it: look whether it is connected, press keys."""

from __future__ import annotations

import contextlib
import re

from playwright.sync_api import Page, expect

from tests.e2e.guests import Guest
from tests.e2e.site import PATIENCE_MS

# A keyboard in an emulated guest holds few keys at a time: type like a person.
KEY_DELAY_MS = 45
CONNECT_MS = 20_000
TRIES = 2
SHELL_TRIES, SHELL_MS = 6, 10_000
PROMPT_S = 90  # login gives up after 60
# In Debian and in busybox alike. Of other people's processes, login's too, nothing can be read.
WAITS_FOR_NAME = """
pid=$(pgrep -f "[g]etty.*tty1" || ps | awk "/[g]etty.*tty1/ { print \\$1 }")
sleeps() { [ "$(cut -d " " -f 3 "/proc/$pid/stat")" = S ]; }
[ -n "$pid" ] && sleeps && sleep 1 && sleeps
"""
ASKS_FOR_PASSWORD = "pgrep -x login || ps | grep -q '[l]ogin'"
HAS_SHELL = "ls -l /proc/[0-9]*/fd/0 2>/dev/null | grep -q '/dev/tty1$'"
ASCII = "azAZyYmM,.-_ 0189 ~!@#$%^&*()+=[]{}\\|;:'\"<>/?`"
OTHER = "azqwyM,;~@#'\"\\|[]{}<>?/*"
PASTED = {
    "us": ASCII,
    "de": ASCII + "äöüßÄÖÜ§°€²µáÈî",
    "gb": OTHER + "£¬€",
    "fr": OTHER + "éèçàù§€êË",
    "es": OTHER + "ñÑç¿¡€áÓ",
    "jp": OTHER,
}
PLAIN = {" ": "Space", "-": "Minus", "/": "Slash", ".": "Period", "=": "Equal", ";": "Semicolon"}
SHIFTED = {
    "_": "Minus",
    ">": "Period",
    "+": "Equal",
    "!": "Digit1",
    "&": "Digit7",
    "|": "Backslash",
}


PROMPT = re.compile(r"(login|Password|\$|#):? ?$")


class Screen:
    """Keys go through the browser's own events, noVNC and the carrier into the guest."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def wait_connected(self, *, timeout_ms: float = CONNECT_MS) -> None:
        expect(self.page.locator("html[data-console=connected]")).to_have_count(
            1, timeout=timeout_ms
        )

    def wait_ended(self, *, timeout_ms: float = CONNECT_MS) -> None:
        expect(self.page.locator("html[data-console=ended]")).to_have_count(1, timeout=timeout_ms)

    def type(self, text: str) -> None:
        """Press the keys of a US keyboard; ``\\n`` is Enter."""
        self.page.locator("#screen canvas").focus()
        for character in text:
            self._press(character)

    def _press(self, character: str) -> None:
        shift = character.isupper() or character in SHIFTED
        if shift:
            self.page.keyboard.down("Shift")
        self.page.keyboard.press(_key(character), delay=KEY_DELAY_MS)
        if shift:
            self.page.keyboard.up("Shift")
        self.page.wait_for_timeout(KEY_DELAY_MS)

    def log_in(self, guest: Guest, user: str, password: str) -> None:
        """Log in on the screen. The guest itself says, over SSH, how far it is.

        Nothing is typed ahead: busybox's getty takes what comes while it starts for the habit of
        a terminal that ends lines with LF, and then its login waits for ever.
        """
        for _ in range(TRIES):
            _soon(guest, WAITS_FOR_NAME, "the guest waits for a name", timeout_s=PROMPT_S)
            self.type(f"{user}\n")
            if not _soon(guest, ASKS_FOR_PASSWORD, "the guest asks for a password"):
                continue
            self.type(f"{password}\n")
            if _soon(guest, HAS_SHELL, "the guest has a shell on its screen"):
                return
        raise AssertionError(f"no log-in on the screen in {TRIES} tries")


class Line:
    """The serial tab, with the keys of a browser and what xterm.js shows."""

    def __init__(self, page: Page, uuid: str, *, url: str = "") -> None:
        """``url``: the site's, where the page is not the one of its context."""
        self.page = page
        page.goto(f"{url}/machines/{uuid}/console/")
        if page.get_attribute("#tab-serial", "aria-selected") != "true":
            page.click("#tab-serial")
        self.wait_connected()

    def wait_connected(self) -> None:
        connected = "html[data-console=connected][data-console-kind=serial]"
        expect(self.page.locator(connected)).to_have_count(1, timeout=CONNECT_MS)

    def asks(self) -> str:
        """What the guest waits for at the end of what is shown: a word, "$" or ""."""
        shown = self.page.locator("#terminal .xterm-rows").inner_text().rstrip()
        found = PROMPT.search(shown.replace("\xa0", " "))
        return found[1] if found else ""

    def type(self, text: str) -> None:
        self.page.locator("#terminal textarea").focus()
        self.page.keyboard.type(text)

    def says(self, text: str, *, timeout_s: float = 30) -> None:
        rows = self.page.locator("#terminal .xterm-rows")
        expect(rows).to_contain_text(text, timeout=timeout_s * 1000)

    def log_in(self, guest: Guest, user: str, password: str) -> None:
        """To a shell. getty forgets what is typed while it starts: then it is asked again."""

        for _ in range(TRIES + 1):
            asked = self._answer("\n", guest, "login", "$")
            if asked == "login":
                asked = self._answer(f"{user}\n", guest, "Password")
            if asked == "Password":
                asked = self._answer(f"{password}\n", guest, "$")
            if asked == "$":
                return
        raise AssertionError("no log-in on the serial line")

    def wait_shell(self) -> None:
        """Where somebody is signed in. What is typed while the line is opened again is dropped, and
        the page says so: then it is typed again, as a person would."""
        rows = self.page.locator("#terminal .xterm-rows")
        for _ in range(SHELL_TRIES):
            self.type("\necho up-$((1+1))\n")
            with contextlib.suppress(AssertionError):
                expect(rows).to_contain_text("up-2", timeout=SHELL_MS)
                return
        raise AssertionError("no shell on the serial line")

    def _answer(self, text: str, guest: Guest, *prompts: str) -> str:
        """Which of ``prompts`` the guest waits at after ``text``; "": none of them, soon."""
        seen: list[str] = []

        def asks_again() -> bool:
            # Looked at once: between two looks the guest may have begun another line.
            seen.append(self.asks())
            return seen[-1] in prompts

        self.type(text)
        try:
            guest.wait(asks_again, f"{prompts} on the line", timeout_s=20)
        except AssertionError:
            return ""
        return seen[-1]


def paste(page: Page, text: str, layout: str = "us") -> None:
    """As keys; slowly, for an emulated keyboard."""
    page.evaluate("() => delete document.documentElement.dataset.typing")
    page.click("#open-clipboard")
    page.fill("#clipboard-text", text)
    page.select_option("#clipboard-layout", layout)
    page.check("#clipboard-slow")
    page.click("#clipboard-type")


def has_typed(page: Page, how: str = "done") -> None:
    expect(page.locator(f"html[data-typing={how}]")).to_have_count(1, timeout=PATIENCE_MS)


def _soon(guest: Guest, command: str, what: str, *, timeout_s: float = 20) -> bool:
    try:
        guest.wait(lambda: guest.ssh(command).returncode == 0, what, timeout_s=timeout_s)
    except AssertionError:
        return False
    return True


def _key(character: str) -> str:
    if character == "\n":
        return "Enter"
    if character.isalpha():
        return f"Key{character.upper()}"
    if character.isdigit():
        return f"Digit{character}"
    return PLAIN.get(character) or SHIFTED[character]
