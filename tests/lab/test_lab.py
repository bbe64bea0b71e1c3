"""The lab: hosts that are apart, can be broken and mended, and let nothing out."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.conftest import LAB_COMMAND, LabHost, RunningLab
from tests.lab.machines import wait_for

pytestmark = [pytest.mark.lab]


def virsh(uri: str, *argv: str, timeout_s: float = 10) -> subprocess.CompletedProcess[str]:
    """As the site connects: from outside the host, through its socket."""
    return subprocess.run(
        ["virsh", "-c", uri, *argv], capture_output=True, text=True, check=False, timeout=timeout_s
    )


@pytest.fixture
def own_lab(tmp_path: Path) -> Iterator[RunningLab]:
    """A lab of one host that the test may break for good."""
    if os.geteuid() != 0:
        pytest.skip("the lab makes namespaces: run the tests as root")
    lab = RunningLab(tmp_path / "lab")
    try:
        yield lab
    finally:
        lab.run("down", "--purge")


def test_each_host_is_a_libvirt_of_its_own(lab: RunningLab) -> None:
    first, second = lab.hosts[:2]
    assert first.uuid != second.uuid
    assert first.subnet != second.subnet
    for host in (first, second):
        assert virsh(host.uri, "hostname").stdout.strip() == host.name
        assert host.uuid in virsh(host.uri, "capabilities").stdout
        assert "default   active   yes" in virsh(host.uri, "net-list").stdout
        assert "default   active   yes" in virsh(host.uri, "pool-list").stdout
        network = virsh(host.uri, "net-dumpxml", "default").stdout
        assert host.subnet.removesuffix(".0/24") in network
        assert "<forward mode='nat'>" in network


def test_a_change_on_one_host_is_not_seen_on_the_other(lab: RunningLab) -> None:
    lab.virsh("a", "vol-create-as", "default", "only-on-a.raw", "1M", "--format", "raw")
    try:
        assert "only-on-a.raw" in lab.virsh("a", "vol-list", "default")
        assert "only-on-a.raw" not in lab.virsh("b", "vol-list", "default")
    finally:
        lab.virsh("a", "vol-delete", "only-on-a.raw", "--pool", "default")


def test_a_host_is_reached_by_ssh_with_its_pinned_key(lab: RunningLab) -> None:
    way = lab.host("b").ssh
    assert lab.run("ssh", "b", "hostname").stdout.strip() == "b"
    uri = (
        f"qemu+libssh2://{way.user}@{way.host}:{way.port}/system"
        f"?keyfile={way.key}&known_hosts={way.known_hosts}&known_hosts_verify=normal"
        "&sshauth=privkey"
    )
    assert virsh(uri, "hostname", timeout_s=30).stdout.strip() == "b"


def test_hosts_reach_each_other_for_migrations(lab: RunningLab) -> None:
    as_host = [str(LAB_COMMAND), "--dir", str(lab.folder), "exec", "a", "--"]
    assert tries_to_connect(as_host, "b", 22)


@contextlib.contextmanager
def guest_namespace(host: LabHost, lab: RunningLab) -> Iterator[str]:
    """A network namespace on the host's guest bridge: what a guest could send, this can."""
    guest = f"probe-{os.getpid()}"  # not named as the lab's own: `down` takes those
    inside = ["ip", "netns", "exec", guest]
    run = lab.exec
    subprocess.run(["ip", "netns", "add", guest], check=True)
    try:
        # A link's other end goes to a namespace by any process in it: here libvirtd.
        pid = run(host.name, "cat", "/run/libvirt/libvirtd.pid").stdout.strip()
        subprocess.run(
            [
                *("ip", "-n", guest, "link", "add", "eth0", "type", "veth"),
                *("peer", "name", "probe0", "netns", pid),
            ],
            check=True,
        )
        run(host.name, "ip", "link", "set", "probe0", "master", "virbr0", "up")
        prefix = host.subnet.rpartition(".")[0]
        for argv in (
            ["ip", "addr", "add", f"{prefix}.250/24", "dev", "eth0"],
            ["ip", "link", "set", "eth0", "up"],
            ["ip", "route", "add", "default", "via", f"{prefix}.1"],
        ):
            subprocess.run([*inside, *argv], check=True)
        yield guest
    finally:
        subprocess.run(["ip", "netns", "del", guest], check=True)


def tries_to_connect(prefix: list[str], address: str, port: int) -> bool:
    code = f"import socket; socket.create_connection(({address!r}, {port}), timeout=3)"
    argv = [*prefix, "/usr/bin/python3", "-c", code]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def test_nothing_that_a_guest_sends_leaves_the_lab(lab: RunningLab) -> None:
    host = lab.host("a")
    heard: list[str] = []
    with socket.create_server((host.site_address, 0)) as here, guest_namespace(host, lab) as guest:
        port = here.getsockname()[1]

        def listen() -> None:
            with contextlib.suppress(OSError):  # the test closes it
                while True:
                    connection, peer = here.accept()
                    heard.append(peer[0])
                    connection.close()

        threading.Thread(target=listen, daemon=True).start()
        as_guest = ["ip", "netns", "exec", guest]
        as_host = [str(LAB_COMMAND), "--dir", str(lab.folder), "exec", "a", "--"]
        gateway = f"{host.subnet.rpartition('.')[0]}.1"
        # It can be heard at all, and the guest's network works as far as its own host.
        assert tries_to_connect([], host.site_address, port)
        wait_for(
            lambda: tries_to_connect(as_guest, gateway, 53),
            what="the bridge to forward",
            timeout_s=20,
        )
        assert not tries_to_connect(as_guest, host.site_address, port)
        assert not tries_to_connect(as_host, host.site_address, port)
        assert not tries_to_connect(as_guest, "192.0.2.1", 80)
        assert not tries_to_connect(as_host, "192.0.2.1", 80)
    assert heard == [host.site_address]
    for name in ("a", "b"):
        assert "default" not in lab.exec(name, "ip", "route").stdout
        assert "default" not in lab.exec(name, "ip", "-6", "route").stdout


@pytest.mark.parametrize("how", ["refuse", "hang"])
def test_a_host_is_cut_off_and_mended(lab: RunningLab, how: str) -> None:
    host = lab.host("b")
    daemon = lab.exec("b", "cat", "/run/libvirt/libvirtd.pid").stdout
    watcher = subprocess.Popen(
        ["virsh", "-k", "1", "-K", "2", "-c", host.uri, "event", "--all", "--loop"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        lab.run("cut", "b", "--how", how)
        assert watcher.wait(timeout=20) != 0, "an open connection goes on as if nothing were"
        if how == "refuse":
            assert "Connection refused" in virsh(host.uri, "list").stderr
            assert "refused" in lab.run("ssh", "b", "true", check=False).stderr
        else:
            with pytest.raises(subprocess.TimeoutExpired):
                virsh(host.uri, "list", timeout_s=2)
        assert {fact["name"]: fact["reach"] for fact in lab.status()}["b"] == how
    finally:
        watcher.kill()
        watcher.communicate()
        lab.run("mend", "b")
    assert virsh(host.uri, "hostname").stdout.strip() == "b"
    assert lab.run("ssh", "b", "hostname").stdout.strip() == "b"
    assert lab.exec("b", "cat", "/run/libvirt/libvirtd.pid").stdout == daemon


@pytest.mark.parametrize("kill", [[], ["--kill"]])
def test_libvirtd_is_stopped_and_started_while_the_host_goes_on(
    lab: RunningLab, kill: list[str]
) -> None:
    host = lab.host("b")
    lab.run("stop-libvirtd", "b", *kill)
    assert virsh(host.uri, "list").returncode != 0
    assert {fact["name"]: fact["reach"] for fact in lab.status()}["b"] == "stopped"
    assert lab.run("ssh", "b", "hostname").stdout.strip() == "b"
    lab.run("start-libvirtd", "b")
    assert virsh(host.uri, "hostname").stdout.strip() == "b"


def test_up_brings_back_a_dead_host_and_leaves_the_living_alone(own_lab: RunningLab) -> None:
    own_lab.run("up", "2")
    own_lab.refresh()
    own_lab.virsh("a", "vol-create-as", "default", "kept.raw", "1M", "--format", "raw")
    living = own_lab.exec("b", "cat", "/run/libvirt/libvirtd.pid").stdout
    own_lab.run("kill", "a")
    assert [fact["reach"] for fact in own_lab.status()] == ["dead", "ok"]
    own_lab.run("up", "2")
    assert [fact["reach"] for fact in own_lab.status()] == ["ok", "ok"]
    assert "kept.raw" in own_lab.virsh("a", "vol-list", "default")
    assert own_lab.exec("b", "cat", "/run/libvirt/libvirtd.pid").stdout == living


def test_up_prints_what_a_program_needs(own_lab: RunningLab) -> None:
    facts = json.loads(own_lab.run("up", "1", "--json").stdout)
    assert [fact["name"] for fact in facts] == ["a"]
    assert facts[0]["uri"] == own_lab.run("uri", "a").stdout.strip()
    assert facts[0]["uri"].endswith(facts[0]["socket_path"])
    assert Path(facts[0]["socket_path"]).is_socket()


def test_a_pool_that_fills_up(own_lab: RunningLab) -> None:
    own_lab.run("up", "1", "--pool-size", "64M")
    own_lab.refresh()
    refused = own_lab.run(
        *("virsh", "a", "vol-create-as", "default", "big.raw", "200M"),
        *("--allocation", "200M", "--format", "raw"),
        check=False,
    )
    assert refused.returncode != 0
    assert "No space left" in refused.stderr
    own_lab.virsh("a", "vol-create-as", "default", "small.raw", "1M", "--format", "raw")


def test_down_ends_all_of_this_lab_and_nothing_else(own_lab: RunningLab, lab: RunningLab) -> None:
    own_lab.run("up", "1")
    own_lab.refresh()
    host = own_lab.host("a")
    ours = own_lab.exec("a", "cat", "/run/libvirt/libvirtd.pid").stdout.strip()
    others = lab.exec("a", "cat", "/run/libvirt/libvirtd.pid").stdout.strip()
    own_lab.run("down", "--purge")
    own_lab.run("down", "--purge")  # harmless when repeated
    # A dead process stays as a zombie until this machine's init has buried it.
    wait_for(lambda: not Path(f"/proc/{ours}").exists(), what="libvirtd's end", timeout_s=20)
    assert Path(f"/proc/{others}").exists()
    assert not Path(host.socket_path).parent.exists()
    assert not own_lab.folder.exists()
    links = subprocess.run(["ip", "-o", "addr"], capture_output=True, text=True, check=True).stdout
    assert host.site_address not in links
    namespaces = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    lab_id = Path(host.socket_path).parents[1].name
    assert lab_id not in namespaces
    wait_for(lambda: own_lab.status() == [], what="an empty lab", timeout_s=5)
