"""A guest's SSH server is reached through a published port of the site, from where the guest's
network is and through SSH to its host; and no more once the port is closed."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hosts.virt import ssh
from tests.e2e.guests import Guest
from tests.e2e.site import Site
from tests.lab.conftest import LAB_COMMAND, ROOT

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

# Inside the host's network: says what the service says first; then waits for the end.
VISITOR = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 20) as line:
    line.settimeout(60)
    print(line.recv(200).split(b"\\r\\n")[0].decode(), flush=True)
    while "stay" in sys.argv and line.recv(4096):
        pass
"""
# In the site's own network, which has no way to the guest but by SSH; nothing of it is written.
BY_SSH = """
import asyncio
from dataclasses import replace
from vms.models import VM
from vms.ports import targets
vm = VM.objects.select_related("host").get(uuid={uuid!r})
vm.host.transport, vm.host.address, vm.host.port = "ssh", {address!r}, {port!r}
vm.host.username, vm.host.ssh_host_key = {user!r}, {host_key!r}
found = targets.find(vm)
async def visit():
    end = await targets.open_port(vm, 22)
    try:
        said = await asyncio.wait_for(end.read(200), 60)
        assert said.startswith(b"SSH-2.0-"), said
    finally:
        end.close()
async def is_refused():
    try:
        await targets.open_port(vm, 22)
    except targets.NoWay as error:
        assert error.code == "port.why.not_its_own", error
    else:
        raise AssertionError("another machine's address was taken")
asyncio.run(visit())
targets.find = lambda _vm: replace(found, mac="52:54:00:00:00:99")
asyncio.run(is_refused())
"""


@contextlib.contextmanager
def publishing(site: Site, host: str, folder: Path) -> Iterator[None]:
    """``manage.py publishports`` where the host's networks are."""
    note = folder / "pid"
    run = f'echo $$ > {note}; cd {ROOT}; exec "$0" manage.py publishports'
    argv = [str(LAB_COMMAND), "--dir", str(site.lab.folder), "exec", host, "--"]
    with (folder / "ports.log").open("wb") as log:
        started = subprocess.Popen(
            [*argv, "sh", "-c", run, sys.executable],
            cwd=ROOT,
            env=site.stack.env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        site.stack.wait(note.exists, "it starts", timeout_s=30)
        yield
    finally:
        if note.exists() and started.poll() is None:
            os.kill(int(note.read_text()), signal.SIGTERM)
        started.wait(30)


def visit(guest: Guest, port: int, *more: str) -> subprocess.Popen[str]:
    argv = [str(LAB_COMMAND), "--dir", str(guest.lab.folder), "exec", guest.host, "--"]
    return subprocess.Popen(
        [*argv, sys.executable, "-c", VISITOR, str(port), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def answers(guest: Guest, port: int) -> bool:
    said, _ = visit(guest, port).communicate(timeout=90)
    return said.startswith("SSH-2.0-")


def test_the_guest_answers_until_it_is_closed(site: Site, tmp_path: Path) -> None:
    guest = site.create(f"port-{secrets.token_hex(3)}", tags=["port"])
    api, at = site.stack.api, f"/vms/{guest.uuid}/ports"
    made = api("POST", at, {"guest_port": 22})
    port = made["public_port"]

    def state() -> str:
        return str(api("GET", at)["items"][0]["state"])

    with publishing(site, guest.host, tmp_path):
        guest.wait(lambda: state() == "open", "the port is open", timeout_s=60)
        guest.wait(lambda: answers(guest, port), "the guest's SSH server answers", timeout_s=90)
        staying = visit(guest, port, "stay")
        assert staying.stdout is not None
        assert staying.stdout.readline().startswith("SSH-2.0-")
        api("DELETE", f"{at}/{made['id']}")
        staying.wait(10)
        assert not answers(guest, port)

    through_ssh(site, guest)
    site.stack.wait_final(site.stack.delete(guest.uuid))


def through_ssh(site: Site, guest: Guest) -> None:
    way = site.lab.host(guest.host).ssh
    key = ssh.identity(site.stack.var / "ssh")
    key.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    shutil.copy(way.key, key)
    key.chmod(0o600)
    lines = Path(way.known_hosts).read_text().splitlines()
    host_key = "\n".join(line for line in lines if way.host in line.split()[0])
    try:
        site.manage(
            "shell",
            "-v0",
            "-c",
            BY_SSH.format(
                uuid=guest.uuid,
                address=way.host,
                port=way.port,
                user=way.user,
                host_key=host_key,
            ),
        )
    finally:
        key.unlink()
