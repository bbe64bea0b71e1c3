"""``kvmweb`` as a person runs it: a process with a terminal, against the whole site."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import socket
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from accounts import tokens
from accounts.models import User
from hosts.virt.fake import FakeHypervisor
from kvmweb.asgi import application
from kvmweb_cli.carry import _owner
from tests.conftest import Api
from tests.consoles.serial_site import SerialSite
from tests.consoles.test_both_carriers_keep_the_contract import free_port, wait_for
from tests.consoles.test_serial_line import fake, typed  # noqa: F401 - a fixture
from vms.consoles.serial import hub
from vms.models import VM

pytestmark = pytest.mark.django_db(transaction=True)
COMMAND = Path(__file__).resolve().parents[2] / "scripts" / "kvmweb"
WAIT_S = 20


@pytest.fixture
def site(
    fake: FakeHypervisor,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[SerialSite]:
    monkeypatch.setattr(hub, "LINGER_S", 0.1)
    with SerialSite(application) as made:
        yield made
        wait_for(lambda: not fake.lines, "a line was left open")


@pytest.fixture
def environment(site: SerialSite, owner: User) -> dict[str, str]:
    _, token = tokens.issue(owner, "laptop", ("read", "write"), None)
    return os.environ | {"KVMWEB_URL": f"http://127.0.0.1:{site.port}", "KVMWEB_TOKEN": token}


def run(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [str(COMMAND), *words],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=WAIT_S,
    )


@dataclass
class Terminal:
    process: subprocess.Popen[bytes]
    end: int  # ours
    theirs: int
    shown: bytes = b""

    def until(self, reached: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not reached():
            assert time.monotonic() < deadline, f"{what}: {self.shown!r}"
            if select.select([self.end], [], [], 0.1)[0]:
                with contextlib.suppress(OSError):
                    self.shown += os.read(self.end, 65536)

    def until_shown(self, text: bytes) -> None:
        self.until(lambda: text in self.shown, f"{text!r} on the terminal")

    def settings(self) -> list[object]:
        return termios.tcgetattr(self.theirs)

    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.theirs)[3] & termios.ICANON


@pytest.fixture
def open_terminal(environment: dict[str, str]) -> Iterator[Callable[..., Terminal]]:
    made: list[Terminal] = []

    def start(*words: str) -> Terminal:
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [str(COMMAND), *words], env=environment, stdin=theirs, stdout=theirs, stderr=theirs
        )
        made.append(Terminal(process, ours, theirs))
        return made[-1]

    yield start
    for terminal in made:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.end)
        os.close(terminal.theirs)


def test_the_serial_line_in_a_terminal(
    open_terminal: Callable[..., Terminal],
    fake: FakeHypervisor,  # noqa: F811
    vm: VM,
) -> None:
    fake.guest_says(vm.uuid, b"said before\r\n")
    terminal = open_terminal("console", vm.name)
    before = terminal.settings()
    terminal.until_shown(b"said before")
    assert terminal.is_raw()
    fake.guest_says(vm.uuid, b"\x1b]52;c;ZXZpbA==\x07web login: ")
    terminal.until_shown(b"web login: ")
    assert b"ZXZpbA" not in terminal.shown
    os.write(terminal.end, b"frodo\r\x03")  # Ctrl+C is the guest's
    typed(fake, vm, b"frodo\r\x03")
    os.write(terminal.end, b"last\x1dnot for the guest")
    terminal.until(lambda: terminal.process.poll() is not None, "it ends")
    assert terminal.process.returncode == 0
    assert terminal.settings() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_gives_the_terminal_back(
    open_terminal: Callable[..., Terminal],
    fake: FakeHypervisor,  # noqa: F811
    vm: VM,
    number: signal.Signals,
) -> None:
    terminal = open_terminal("console", str(vm.uuid))
    before = terminal.settings()
    terminal.until_shown(b"Connected")
    terminal.until(terminal.is_raw, "a raw terminal")
    terminal.process.send_signal(number)
    terminal.until(lambda: terminal.process.poll() is not None, "it ends")
    assert terminal.settings() == before


def test_it_ends_with_the_machine(
    open_terminal: Callable[..., Terminal],
    fake: FakeHypervisor,  # noqa: F811
    vm: VM,
) -> None:
    terminal = open_terminal("console", vm.name)
    before = terminal.settings()
    wait_for(lambda: vm.uuid in fake.lines, "the line is open")
    fake.guest_powers_off(vm.uuid)
    terminal.until_shown(b"The machine is stopped.")
    terminal.until(lambda: terminal.process.poll() is not None, "it ends")
    assert terminal.settings() == before


def test_who_looks_is_told_so(
    open_terminal: Callable[..., Terminal],
    fake: FakeHypervisor,  # noqa: F811
    vm: VM,
) -> None:
    terminal = open_terminal("console", vm.name, "--view")
    terminal.until_shown(b"you look")
    os.write(terminal.end, b"rm -rf /\r")
    fake.guest_says(vm.uuid, b"still here")
    terminal.until_shown(b"still here")
    assert bytes(fake.lines[vm.uuid].typed) == b""
    os.write(terminal.end, b"\x1d")
    terminal.until(lambda: terminal.process.poll() is not None, "it ends")


def test_a_pipe_in_and_out(
    environment: dict[str, str],
    fake: FakeHypervisor,  # noqa: F811
    vm: VM,
) -> None:
    process = subprocess.Popen(
        [str(COMMAND), "console", vm.name],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    wait_for(lambda: vm.uuid in fake.lines, "the line is open")
    process.stdin.write(b"uptime\x1d\r")
    process.stdin.flush()
    typed(fake, vm, b"uptime\x1d\r")
    process.stdin.close()
    # At once: the command ends two seconds after the last word.
    fake.guest_says(vm.uuid, b"up 3 days\r\n")
    assert process.wait(WAIT_S) == 0
    assert process.stdout is not None
    assert process.stdout.read() == b"up 3 days\r\n"


def test_the_log(
    environment: dict[str, str],
    fake: FakeHypervisor,  # noqa: F811
    vm: VM,
) -> None:
    said = bytes(range(256)) * 1000
    fake.guest_says(vm.uuid, said)
    done = run(environment, "console", vm.name, "--log")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == said


def test_the_screen_on_a_port(
    environment: dict[str, str],
    fake: FakeHypervisor,  # noqa: F811
    vm: VM,
) -> None:
    port = free_port()
    process = subprocess.Popen(
        [str(COMMAND), "console", vm.name, "--vnc", "--port", str(port)],
        env=environment,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        assert f"127.0.0.1:{port}".encode() in process.stderr.readline()
        for number in (1, 2):  # each connection has a ticket of its own
            with socket.create_connection(("127.0.0.1", port), WAIT_S) as client:
                assert client.recv(12, socket.MSG_WAITALL) == b"RFB 003.008\n"
                client.sendall(b"RFB 003.008\n")
                wait_for(lambda n=number: len(fake.vnc_peers[vm.uuid]) == n, "a display")  # type: ignore[misc]
                display = fake.vnc_peers[vm.uuid][-1]
                display.settimeout(WAIT_S)
                assert display.recv(12, socket.MSG_WAITALL) == b"RFB 003.008\n"
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 0


def test_whose_connection_it_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as client:
            assert _owner(*client.getsockname()) == os.getuid()
        assert _owner("127.0.0.1", 1) is None


def test_errors_are_the_sites_words(environment: dict[str, str], vm: VM) -> None:
    done = run(environment, "console", "nothing")
    assert done.returncode == 1
    assert "There is no machine “nothing”" in done.stderr.decode()
    done = run(environment | {"KVMWEB_TOKEN": "kvmw_wrong"}, "list")
    assert done.returncode == 1
    assert b"token" in done.stderr.lower() or b"sign in" in done.stderr.lower()
    VM.objects.filter(pk=vm.pk).update(observed=VM.Observed.SHUTOFF)
    done = run(environment, "shutdown", vm.name)
    assert done.returncode == 1
    assert b"It is off" in done.stderr


def test_list_and_verbs(environment: dict[str, str], vm: VM) -> None:
    done = run(environment, "list", "state:running")
    assert re.search(rf"^{vm.name} +running +\S+ +alpha$", done.stdout.decode(), re.MULTILINE), done
    assert run(environment, "reset", vm.name, "--no-wait").returncode == 0
    assert vm.jobs.get().kind == "vm.reset"


def test_a_file_for_remote_viewer(
    environment: dict[str, str], api: Callable[..., Api], outsider: User, vm: VM
) -> None:
    done = run(environment, "vv", vm.name, "--port", "5907")
    lines = done.stdout.decode().splitlines()
    assert lines[0] == "[virt-viewer]"
    assert {"type=vnc", "host=127.0.0.1", "port=5907"} <= set(lines)
    assert api(outsider).get(f"/vms/{vm.uuid}/console.vv").status_code == 404
    VM.objects.filter(pk=vm.pk).update(name='x"\ntype=spice')
    done = run(environment, "vv", str(vm.uuid))
    assert done.stdout.decode().count("type=") == 1
