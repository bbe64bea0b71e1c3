"""The serial line of a real guest: sign in, share, flood, reset, restart; no browser."""

from __future__ import annotations

import os
import re
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from websockets.sync.client import connect

from tests.cli.test_command_line import Terminal as CommandLine
from tests.cli.test_command_line import open_terminal  # noqa: F401 - a fixture
from tests.consoles.serial_site import Terminal
from tests.e2e.guests import Guest
from tests.e2e.site import Site
from tests.stack import PASSWORD, Stack

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

BOOT_S = 120
ARRIVES_S = 30
TRIES = 3
HANDED_OVER_S = 1.0
FLOOD_S = 15
# The viewer who stalls is kept 4 MiB, the hub twice 1 MiB, and the allocator rounds up.
GROWTH_MIB = 24
ANSWERS_S = 0.5
STOPPED = 4410


@pytest.fixture(scope="module")
def guest(site: Site) -> Guest:
    made = site.create(f"serial-{uuid4().hex[:4]}")
    made.wait_ssh(timeout_s=BOOT_S)
    return made


def open_line(
    site: Site, guest: Guest, user: str = "owner", *, mode: str | None = None, log: bool = False
) -> Terminal:
    body = {"kind": "serial"} | ({"mode": mode} if mode else {})
    ticket = site.stack.api("POST", f"/vms/{guest.uuid}/console", body, user=user)
    return Terminal(
        connect(
            ticket["url"] + ("/log" if log else ""),
            subprotocols=ticket["protocols"],
            compression=None,
            max_size=None,
        )
    )


@pytest.fixture
def terminal(site: Site, guest: Guest) -> Iterator[Terminal]:
    """The owner's, with control and a shell."""
    with open_line(site, guest) as made:
        made.until_told(type="live")
        log_in(made)
        yield made


def log_in(terminal: Terminal) -> None:
    """To a shell, from the prompt that stands at the end of the line. getty forgets what is typed
    while it starts: then it is asked for a new prompt."""
    for _ in range(TRIES):
        if not soon(terminal, "login", "$", timeout_s=BOOT_S):
            continue
        if asks(terminal) == "login":
            terminal.type(b"tiny\r")
            if not soon(terminal, "Password"):
                terminal.type(b"\r")
                continue
            terminal.type(PASSWORD.encode() + b"\r")
            if not soon(terminal, "$"):
                continue
        return
    raise AssertionError(f"no shell in {TRIES} tries: {bytes(terminal.shown[-500:])!r}")


def soon(terminal: Terminal, *prompts: str, timeout_s: float = ARRIVES_S) -> bool:
    try:
        terminal.until(lambda: asks(terminal) in prompts, f"{prompts}", timeout_s)
    except AssertionError:
        return False
    return True


def asks(terminal: Terminal) -> str:
    """What the guest waits for at the end of the line. Its shell asks a terminal where the cursor
    is, and goes on without an answer."""
    found = re.search(rb"(login|Password|\$):? (?:\x1b\[6n)?$", bytes(terminal.shown[-80:]))
    return found[1].decode() if found else ""


def run(terminal: Terminal, command: str, answer: str, timeout_s: float = ARRIVES_S) -> None:
    """``answer`` must not stand in the command itself: the line echoes."""
    terminal.shown.clear()
    terminal.type(command.encode() + b"\r")
    terminal.until_shown(answer.encode(), timeout_s)


def test_sign_in_and_read_back(terminal: Terminal, guest: Guest) -> None:
    run(terminal, "echo it is $((6 * 7)); touch /tmp/typed-on-serial", "it is 42")
    guest.wait_file("/tmp/typed-on-serial", timeout_s=ARRIVES_S)


def test_who_only_looks_sees_all_and_types_nothing(
    site: Site, terminal: Terminal, guest: Guest
) -> None:
    with open_line(site, guest, mode="view") as looking:
        assert looking.until_told(type="hello")["mode"] == "view"
        looking.until_told(type="live")
        looking.type(b"touch /tmp/attacker\r")
        run(terminal, "ls /tmp; echo both $((20 + 3))", "both 23")
        looking.until_shown(b"both 23")
        looking.type(b"touch /tmp/attacker\r")
        run(terminal, "echo last $((20 + 4))", "last 24")
    assert "attacker" not in guest.ssh("ls /tmp").stdout


def test_control_is_handed_over_on_the_open_line(
    site: Site, terminal: Terminal, guest: Guest
) -> None:
    with open_line(site, guest, "admin", mode="view") as other:
        other.until_told(type="live")
        began = time.monotonic()
        site.stack.api("POST", f"/vms/{guest.uuid}/console/take", user="admin")
        terminal.until_told(type="mode", mode="view")
        other.until_told(type="mode", mode="control")
        took = time.monotonic() - began
        print(f"control moved within {took:.2f} s")  # noqa: T201
        assert took < HANDED_OVER_S
        terminal.type(b"touch /tmp/too-late\r")
        run(other, "echo mine $((30 + 3))", "mine 33")
    assert "too-late" not in guest.ssh("ls /tmp").stdout
    site.stack.api("POST", f"/vms/{guest.uuid}/console/take", user="owner")
    terminal.until_told(type="mode", mode="control")


@pytest.fixture
def environment(site: Site) -> dict[str, str]:
    token = site.stack.tokens["owner"]
    return os.environ | {"KVMWEB_URL": site.stack.url, "KVMWEB_TOKEN": token}


def test_the_command_line_has_the_line_in_its_terminal(
    terminal: Terminal,
    guest: Guest,
    open_terminal: Callable[..., CommandLine],  # noqa: F811
) -> None:
    terminal.type(b"\r")
    command = open_terminal("console", guest.facts()["name"])
    command.until_shown(b"$ ")
    os.write(command.end, b"echo typed $((40 + 3))\r")
    command.until_shown(b"typed 43")
    terminal.until_shown(b"typed 43")  # one line, for everybody
    os.write(command.end, b"\x1d")
    command.until(lambda: command.process.poll() is not None, "Ctrl+] leaves")
    assert command.process.returncode == 0


def memory_mib(stack: Stack) -> float:
    status = Path(f"/proc/{stack.processes['web'].pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


def test_a_flood_is_bounded_and_delays_nobody(site: Site, terminal: Terminal, guest: Guest) -> None:
    with open_line(site, guest, mode="view") as stalled:
        stalled.until_told(type="live")
        before = memory_mib(site.stack)
        terminal.shown.clear()
        terminal.type(f"timeout {FLOOD_S} yes flood; echo end $((40 + 4))\r".encode())
        answers: list[float] = []
        most = before
        flooding = threading.Event()

        def look() -> None:
            nonlocal most
            with httpx.Client(base_url=site.stack.url, timeout=30) as client:
                while not flooding.wait(0.05):
                    began = time.monotonic()
                    assert client.get("/healthz").status_code == 200
                    answers.append(time.monotonic() - began)
                    most = max(most, memory_mib(site.stack))

        looking = threading.Thread(target=look)
        looking.start()
        try:
            terminal.until_shown(b"end 44", FLOOD_S + ARRIVES_S)
        finally:
            flooding.set()
            looking.join()
    median, worst = statistics.median(answers), max(answers)
    print(  # noqa: T201
        f"{len(terminal.shown) / FLOOD_S / 1024:.0f} KiB/s for {FLOOD_S} s: memory {before:.0f} to"
        f" {most:.0f} MiB, /healthz median {median * 1000:.0f} ms, worst {worst * 1000:.0f} ms"
    )
    assert len(terminal.shown) > FLOOD_S * 1024
    assert most - before < GROWTH_MIB
    assert median < ANSWERS_S


def test_history_survives_a_reset_and_a_stop(site: Site, terminal: Terminal, guest: Guest) -> None:
    run(terminal, "echo marker $((50 + 5))", "marker 55")
    terminal.shown.clear()
    guest.virsh("reset")
    terminal.until_shown(b"login: ", BOOT_S)  # the same connection
    guest.virsh("destroy")
    assert terminal.until_closed() == STOPPED
    with open_line(site, guest) as stopped:
        assert stopped.until_closed() == STOPPED
        assert b"marker 55" in stopped.shown
    guest.virsh("start")
    guest.wait_state("running")
    with open_line(site, guest) as again:
        again.until_shown(b"marker 55")
        again.shown.clear()
        again.until_shown(b"login: ", BOOT_S)
    with open_line(site, guest, mode="view", log=True) as download:
        download.acknowledges = False
        download.until_closed()
        assert b"marker 55" in download.shown
        assert download.told == [{"type": "log", "bytes": len(download.shown)}]


def test_a_restarted_daemon_is_waited_for(site: Site, guest: Guest) -> None:
    with open_line(site, guest) as terminal:
        terminal.until_told(type="live")
        log_in(terminal)
        site.lab.run("restart", guest.host)
        terminal.until_told(type="line", state="waiting", timeout_s=ARRIVES_S)
        terminal.until_told(type="line", state="open", timeout_s=ARRIVES_S)
        run(terminal, "echo again $((60 + 6))", "again 66")


def test_nothing_of_it_is_left(site: Site, guest: Guest) -> None:
    assert any("serial.log" in name for name in guest.volumes())
    host = guest.host
    guest.wait_free(timeout_s=BOOT_S)
    (job,) = site.stack.wait_final(site.stack.delete(guest.uuid))
    assert job["state"] == "succeeded"
    files = site.lab.exec(host, "ls", "/var/lib/libvirt/images").stdout
    assert guest.uuid not in files
