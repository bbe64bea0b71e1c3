"""A serial console as a person has it: the same line for all, input of one, history, ends."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounts.models import Membership, Team, User
from hosts import connections
from hosts.virt.errors import HostUnreachable
from hosts.virt.fake import FakeHypervisor
from hosts.virt.fake.console import FakeLine
from hosts.virt.spec import VolumeSpec
from tests.consoles.serial_site import SerialSite
from tests.consoles.test_both_carriers_keep_the_contract import wait_for
from vms import seriallog
from vms.consoles import control, gate, sessions, sharing, tickets
from vms.consoles.serial import hub, pump, viewer
from vms.models import VM, ConsoleInvite, ConsoleSession
from vms.provisioning.domain import domain_spec

pytestmark = pytest.mark.django_db(transaction=True)
CODES = gate.CLOSE_CODES
FLOOD_S = float(os.environ.get("KVMWEB_FLOOD_S", "3"))  # a minute was tried by hand
GROWTH_MIB = 32
KEY_S = 0.5


@pytest.fixture
def fake(vm: VM) -> Iterator[FakeHypervisor]:
    """The host with the owner's machine on it, running."""
    made = FakeHypervisor("alpha")
    with connections.use_fake({"alpha": made}):
        disk = vm.disks.get()
        made.create_volume(VolumeSpec(pool="default", name=disk.volume, capacity_bytes=1 << 20))
        made.define(domain_spec(vm))
        made.start(vm.uuid)
        yield made


@pytest.fixture
def site(fake: FakeHypervisor, monkeypatch: pytest.MonkeyPatch) -> Iterator[SerialSite]:
    monkeypatch.setattr(hub, "LINGER_S", 0.1)
    monkeypatch.setattr(hub, "RETRY_S", (0.05,))
    with SerialSite() as made:
        yield made
        wait_for(lambda: not fake.lines, "a line was left open")
        wait_for(
            lambda: not ConsoleSession.objects.filter(ended_at__isnull=True).exists(),
            "a console session was not closed",
        )


def secret(user: User, vm: VM, mode: str = "") -> str:
    return tickets.issue(user=user, vm=vm, kind="serial", mode=mode).secret


def typed(fake: FakeHypervisor, vm: VM, text: bytes) -> None:
    wait_for(lambda: text in fake.lines[vm.uuid].typed, f"{text!r} did not reach the guest")


def test_bytes_flow_both_ways(site: SerialSite, fake: FakeHypervisor, owner: User, vm: VM) -> None:
    with site.open(secret(owner, vm)) as terminal:
        hello = terminal.until_told(type="hello")
        assert hello == {"type": "hello", "mode": "control", "history_bytes": 0}
        terminal.until_told(type="live")
        every_byte = bytes(range(256))
        fake.guest_says(vm.uuid, every_byte * 512)
        terminal.until_shown(every_byte * 512)
        terminal.type(every_byte)
        typed(fake, vm, every_byte)
    wait_for(lambda: ConsoleSession.objects.get().ended_at is not None, "not closed")
    row = ConsoleSession.objects.get()
    assert (row.user, row.kind, row.mode, row.end_reason) == (owner, "serial", "control", "client")
    assert (row.bytes_in, row.bytes_out) == (256, 256 * 512)


def test_everybody_sees_the_same_line(
    site: SerialSite, fake: FakeHypervisor, owner: User, teammate: User, vm: VM
) -> None:
    with site.open(secret(owner, vm)) as first:
        first.until_told(type="live")
        fake.guest_says(vm.uuid, b"web login: ")
        first.until_shown(b"web login: ")
        with site.open(secret(teammate, vm, "view")) as second:
            second.until_shown(b"web login: ")  # late, and yet all of it
            first.type(b"frodo\r")
            typed(fake, vm, b"frodo\r")
            fake.guest_says(vm.uuid, b"frodo\r\nPassword: ")
            for terminal in (first, second):
                terminal.until_shown(b"web login: frodo\r\nPassword: ")
            assert fake.calls["open_console"] == 1


def test_who_only_looks_types_nothing(
    site: SerialSite, fake: FakeHypervisor, owner: User, viewer: User, vm: VM
) -> None:
    with site.open(secret(viewer, vm)) as looking, site.open(secret(owner, vm)) as holding:
        assert looking.until_told(type="hello")["mode"] == "view"
        holding.until_told(type="live")
        for _ in range(20):
            looking.type(b"rm -rf /\r")
        looking.say(type="size", cols=200, rows=50)
        # Its own acknowledgement comes after its keys: they have been dealt with.
        fake.guest_says(vm.uuid, b"still here")
        looking.until_shown(b"still here")
        holding.type(b"whoami\r")
        typed(fake, vm, b"whoami\r")
        assert bytes(fake.lines[vm.uuid].typed) == b"whoami\r"


def test_control_moves_and_the_line_stays(
    site: SerialSite,
    fake: FakeHypervisor,
    owner: User,
    teammate: User,
    vm: VM,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without Redis in this test the re-check does it; with Redis it is told (tests/lab)."""
    monkeypatch.setattr(sessions, "RECHECK_S", 0.1)
    with site.open(secret(owner, vm)) as first:
        first.until_told(type="live")
        with transaction.atomic():
            control.move(vm, teammate, actor=owner)
        assert first.until_told(type="mode") == {"type": "mode", "mode": "view"}
        first.type(b"too late\r")
        with site.open(secret(teammate, vm)) as second:
            assert second.until_told(type="hello")["mode"] == "control"
            second.until_told(type="live")
            second.type(b"mine\r")
            typed(fake, vm, b"mine\r")
        fake.guest_says(vm.uuid, b"it goes on")
        first.until_shown(b"it goes on")
        assert bytes(fake.lines[vm.uuid].typed) == b"mine\r"
        assert ConsoleSession.objects.filter(user=owner).get().mode == "view"


def test_history_is_the_hosts(site: SerialSite, fake: FakeHypervisor, owner: User, vm: VM) -> None:
    """What was said before anybody looked, and in boots before this one."""
    fake.guest_says(vm.uuid, b"the first boot\r\n")
    fake.force_off(vm.uuid)
    fake.start(vm.uuid)
    fake.guest_says(vm.uuid, b"the second boot\r\n")
    with site.open(secret(owner, vm)) as terminal:
        history = b"the first boot\r\nthe second boot\r\n"
        assert terminal.until_told(type="hello")["history_bytes"] == len(history)
        terminal.until_told(type="live")
        assert bytes(terminal.shown) == history


def test_a_stopped_machine_shows_its_last_words(
    site: SerialSite, fake: FakeHypervisor, owner: User, vm: VM
) -> None:
    fake.guest_says(vm.uuid, b"Kernel panic - not syncing\r\n")
    fake.guest_crashes(vm.uuid)
    with site.open(secret(owner, vm)) as terminal:
        assert terminal.until_closed() == CODES["stopped"]
        assert bytes(terminal.shown) == b"Kernel panic - not syncing\r\n"
        assert terminal.told[-1] == {"type": "end", "reason": "stopped"}


def test_it_says_when_the_machine_stops(
    site: SerialSite, fake: FakeHypervisor, owner: User, vm: VM
) -> None:
    with site.open(secret(owner, vm)) as terminal:
        terminal.until_told(type="live")
        fake.guest_says(vm.uuid, b"reboot: Power down\r\n")
        fake.guest_powers_off(vm.uuid)
        assert terminal.until_closed() == CODES["stopped"]
        assert terminal.shown.endswith(b"Power down\r\n")


def test_a_daemon_that_restarts_is_waited_for(
    site: SerialSite, fake: FakeHypervisor, owner: User, vm: VM
) -> None:
    """The guest goes on meanwhile; what it said comes from the host's log."""
    before, gap = b"before " * 50, b"while nobody listened "
    with site.open(secret(owner, vm)) as terminal:
        terminal.until_told(type="live")
        fake.guest_says(vm.uuid, before)
        terminal.until_shown(before)
        fake.fail_next("domain", HostUnreachable(), times=2)
        fake.fail_next("open_console", HostUnreachable(), times=2)
        fake.lines[vm.uuid].break_off()
        fake.guest_says(vm.uuid, gap)
        terminal.until_told(type="line", state="waiting", why="host")
        terminal.until_told(type="line", state="open")
        fake.guest_says(vm.uuid, b"after")
        terminal.until_shown(b"after")
        assert bytes(terminal.shown) == before + gap + b"after"
        terminal.type(b"x")
        typed(fake, vm, b"x")


def test_a_reader_elsewhere_is_not_thrown_out(
    site: SerialSite, fake: FakeHypervisor, owner: User, vm: VM
) -> None:
    theirs = fake.open_console(vm.uuid, lambda _data: None, lambda: None)
    with site.open(secret(owner, vm)) as terminal:
        terminal.until_told(type="line", state="waiting", why="in_use")
        assert fake.lines[vm.uuid] is theirs
        theirs.close()
        terminal.until_told(type="line", state="open")


def test_a_line_that_opens_too_late_is_closed(
    site: SerialSite,
    fake: FakeHypervisor,
    owner: User,
    vm: VM,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who came has gone before the host answered; the line is not left taken."""
    opened: list[FakeLine] = []
    open_console = fake.open_console

    def watched(*arguments: Any) -> FakeLine:
        opened.append(open_console(*arguments))
        return opened[-1]

    monkeypatch.setattr(fake, "open_console", watched)
    fake.delay("open_console", 1)
    with site.open(secret(owner, vm)):
        wait_for(lambda: fake.calls["open_console"] == 1, "the line is being opened")
    wait_for(lambda: not hub._hubs, "the hub has ended")
    assert opened == []
    wait_for(lambda: bool(opened) and not opened[0]._open, "opened late, and closed")


def test_a_machine_that_moves_is_followed(
    site: SerialSite, fake: FakeHypervisor, owner: User, vm: VM, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = FakeHypervisor("beta")
    spec = domain_spec(vm)
    for volume in fake.list_volumes("default"):
        other.create_volume(VolumeSpec(pool="default", name=volume.name, capacity_bytes=1))
    host = vm.host
    assert host is not None
    host.pk, host.name = None, "beta"
    host.save()
    with (
        connections.use_fake({"alpha": fake, "beta": other}),
        site.open(secret(owner, vm)) as terminal,
    ):
        terminal.until_told(type="live")
        other.define(spec)
        other.start(vm.uuid)
        fake.vanish(vm.uuid)
        terminal.until_told(type="line", state="waiting", why="moving")
        VM.objects.filter(pk=vm.pk).update(host=host)
        terminal.until_told(type="line", state="open")
        other.guest_says(vm.uuid, b"on the other side")
        terminal.until_shown(b"on the other side")
    wait_for(lambda: not other.lines, "a line was left open")


def test_an_invite_that_ends_ends_it_at_once(
    site: SerialSite, fake: FakeHypervisor, owner: User, outsider: User, vm: VM
) -> None:
    row, token = sharing.invite(vm, actor=owner)
    sharing.join(token, actor=outsider)
    ConsoleInvite.objects.filter(pk=row.pk).update(
        expires_at=timezone.now() + timedelta(seconds=1.5)
    )
    with site.open(secret(outsider, vm)) as terminal:
        terminal.until_told(type="live")
        assert terminal.until_closed() == CODES["revoked"]  # long before the next re-check


def test_revoked_access_ends_it(
    site: SerialSite,
    fake: FakeHypervisor,
    teammate: User,
    team: Team,
    vm: VM,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sessions, "RECHECK_S", 0.1)
    with site.open(secret(teammate, vm)) as terminal:
        terminal.until_told(type="live")
        Membership.objects.filter(team=team, user=teammate).delete()
        assert terminal.until_closed() == CODES["revoked"]
        assert terminal.told[-1] == {"type": "end", "reason": "revoked"}


def test_a_ticket_is_for_one_kind_and_one_use(site: SerialSite, owner: User, vm: VM) -> None:
    of_the_screen = tickets.issue(user=owner, vm=vm, kind="vnc").secret
    with site.open(of_the_screen) as terminal:
        assert terminal.until_closed() == CODES["refused"]
    once = secret(owner, vm)
    with site.open(once) as terminal:
        terminal.until_told(type="live")
    with site.open(once) as again:
        assert again.until_closed() == CODES["refused"]


def test_who_does_not_acknowledge_gets_a_window_and_then_the_newest(
    site: SerialSite, fake: FakeHypervisor, owner: User, teammate: User, vm: VM
) -> None:
    with site.open(secret(owner, vm)) as quick, site.open(secret(teammate, vm, "view")) as slow:
        slow.acknowledges = False
        for terminal in (quick, slow):
            terminal.until_told(type="live")
        sent = 0
        while sent < 2 * viewer.BEHIND_BYTES:
            piece = b"%07d\n" % sent * 8192
            fake.guest_says(vm.uuid, piece)
            sent += len(piece)
            while len(quick.shown) < sent:
                quick.read()
        # What of the flood was under way when the window closed, and then the newest.
        with contextlib.suppress(TimeoutError):
            while True:
                slow.read(timeout_s=0.5)
        assert 0 <= len(slow.shown) - viewer.WINDOW_BYTES < viewer.FRAME_BYTES
        slow.acknowledges = True
        slow.say(type="ack", bytes=len(slow.shown))

        def skipped() -> int:
            return sum(told["bytes"] for told in slow.told if told["type"] == "skipped")

        slow.until(lambda: len(slow.shown) + skipped() == sent, f"the rest of {sent}")
        assert skipped() > viewer.BEHIND_BYTES // 2
        assert slow.shown.endswith(quick.shown[-1000:])


def test_a_flood_at_full_rate_is_bounded_and_what_is_typed_passes(
    site: SerialSite, fake: FakeHypervisor, owner: User, teammate: User, vm: VM
) -> None:
    """As fast as this process can be given bytes: far faster than any serial line."""
    with site.open(secret(owner, vm)) as quick, site.open(secret(teammate, vm, "view")) as stalled:
        stalled.acknowledges = False
        for terminal in (quick, stalled):
            terminal.until_told(type="live")
        line = fake.lines[vm.uuid]
        over = threading.Event()
        said = 0

        def flood() -> None:
            nonlocal said
            piece = b"flood " * 10_000
            while not over.is_set():
                line.receive(piece)
                said += len(piece)

        flooding = threading.Thread(target=flood)
        before, began, waits = memory_mib(), time.monotonic(), []
        flooding.start()
        try:
            while time.monotonic() - began < FLOOD_S:
                asked = time.monotonic()
                line.typed.clear()
                quick.type(b"k")
                quick.until(lambda: bool(line.typed), "what is typed arrives")
                waits.append(time.monotonic() - asked)
                quick.shown.clear()
        finally:
            over.set()
            flooding.join()
        grown = memory_mib() - before
    rate = said / FLOOD_S / (1 << 20)
    print(  # noqa: T201
        f"{rate:.0f} MiB/s for {FLOOD_S:g} s: {grown:.0f} MiB more, a key in"
        f" {statistics.median(waits) * 1000:.0f} ms, at worst {max(waits) * 1000:.0f} ms"
    )
    assert rate > 10
    assert grown < GROWTH_MIB
    assert statistics.median(waits) < KEY_S


def memory_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


GARBAGE = st.one_of(
    st.text(max_size=200),
    st.sampled_from(["[" * 1000, "{}", "null", "1e999", '{"type": "ack", "bytes": NaN}']),
    st.builds(
        lambda kind, fields: json.dumps({"type": kind, **fields}),
        st.sampled_from(["ack", "size", "hello", "end", "", 1, None]),
        st.dictionaries(
            st.sampled_from(["bytes", "cols", "rows", "x"]),
            st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9)),
            max_size=3,
        ),
    ),
)


@given(GARBAGE)
@settings(
    max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
def test_no_text_frame_breaks_the_pump(text: str) -> None:
    class Line:
        size = (80, 24)

        def resize(self, columns: int, rows: int) -> None:
            self.size = (columns, rows)

    line = Line()
    seat = viewer.Viewer(mode="control", hub=line)  # type: ignore[arg-type]
    with contextlib.suppress(pump.ProtocolError):
        pump._take_message(seat, text)
    assert all(0 < side <= pump.MOST_COLUMNS for side in line.size)
    assert seat._unacknowledged == 0


@pytest.mark.parametrize(
    "text",
    [
        "no json",
        "[]",
        '{"type": "ack", "bytes": 1}',
        '{"type": "ack", "bytes": -1}',
        '{"type": "size", "cols": 0, "rows": 1}',
        '{"type": "ack", "bytes": 0, "x": "' + "x" * 2000 + '"}',
    ],
)
def test_what_no_page_sends_ends_the_console(
    site: SerialSite, owner: User, vm: VM, text: str
) -> None:
    with site.open(secret(owner, vm)) as terminal:
        terminal.until_told(type="live")
        terminal.socket.send(text)
        assert terminal.until_closed() == CODES["protocol"]


def test_a_guest_that_does_not_read_holds_up_only_who_types(
    site: SerialSite,
    fake: FakeHypervisor,
    owner: User,
    viewer: User,
    vm: VM,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hub, "ROOM_WAIT_S", 0.3)
    fake.delay("write_console", 1)
    with site.open(secret(owner, vm)) as typing, site.open(secret(viewer, vm)) as looking:
        for terminal in (typing, looking):
            terminal.until_told(type="live")
        typing.type(b"x" * (4 * hub.INPUT_MOST_BYTES))
        fake.guest_says(vm.uuid, b"I do not listen")
        looking.until_shown(b"I do not listen", timeout_s=2)
        dropped = typing.until_told(type="dropped")["bytes"]
        assert dropped >= 3 * hub.INPUT_MOST_BYTES - 2 * hub.WRITE_BYTES
        assert len(fake.lines[vm.uuid].typed) <= hub.INPUT_MOST_BYTES


def test_the_whole_log_is_downloaded(
    site: SerialSite, fake: FakeHypervisor, owner: User, outsider: User, vm: VM
) -> None:
    fake.guest_says(vm.uuid, b"all of it\r\n" * 200_000)  # 2.2 MB: more than a hub keeps
    fake.force_off(vm.uuid)
    with site.open(secret(owner, vm, "view"), "/ws/console/serial/log") as download:
        download.acknowledges = False
        assert download.until_closed() == CODES["client"]
        assert download.told == [{"type": "log", "bytes": 2_200_000}]
        assert bytes(download.shown) == b"all of it\r\n" * 200_000
    with site.open("guess", "/ws/console/serial/log") as download:
        assert download.until_closed() == CODES["refused"]


def test_older_turns_of_the_log_come_first(fake: FakeHypervisor, vm: VM) -> None:
    fake.guest_says(vm.uuid, b"newest")
    log = seriallog.place(vm)
    assert log is not None
    for turn, said in ((".1", b"oldest "), (".0", b"older ")):
        fake.create_volume(VolumeSpec(pool="default", name=log.name + turn, capacity_bytes=0))
        fake._pools["default"].volumes[log.name + turn].content = said
    assert log.read_all() == b"oldest older newest"
    assert log.read_end(8) == b"r newest"
    log.remove()
    assert {facts.name for facts in fake.list_volumes("default")} == {vm.disks.get().volume}
    assert log.read_all() == b""
