"""Hosts that hang, die, come back; and a process that forks."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from hosts.virt import connection as connection_module
from hosts.virt.client import LibvirtHypervisor
from hosts.virt.connection import Connection
from hosts.virt.errors import (
    HostUnreachable,
    NoSpace,
    NoSuchDomain,
    OperationTimeout,
    VirtError,
)
from hosts.virt.fake import FakeHypervisor
from hosts.virt.protocol import Hypervisor
from hosts.virt.spec import VolumeSpec
from tests.lab.conftest import RunningLab

# Issue 2 and design 7: a host that hangs is given up after 15 to 20 s.
GIVEN_UP_AFTER_S = 20.0


def _takes(call: Callable[[], Any]) -> tuple[float, BaseException | None]:
    started = time.monotonic()
    try:
        call()
    except VirtError as error:
        return time.monotonic() - started, error
    return time.monotonic() - started, None


def test_nobody_there() -> None:
    hypervisor = LibvirtHypervisor("qemu+unix:///system?socket=/nonexistent/libvirt-sock")
    with pytest.raises(HostUnreachable):
        hypervisor.ping()
    hypervisor.close()


@pytest.fixture
def silent_daemon(tmp_path: Path) -> str:
    """A socket that takes connections and never says a word, like a stopped libvirtd."""
    import socket

    path = tmp_path / "sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(5)
    silent_listeners.append(listener)
    return f"qemu+unix:///system?socket={path}"


silent_listeners: list[Any] = []


def test_a_daemon_that_never_answers_the_door(
    silent_daemon: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "OPEN_TIMEOUT_S", 1.0)
    took, error = _takes(LibvirtHypervisor(silent_daemon).ping)
    assert isinstance(error, HostUnreachable)
    assert took < 3


def test_a_call_that_hangs_on_a_living_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon still answers: the operation is at fault, not the host."""
    connection = Connection("test:///default")
    stuck = threading.Event()
    took, error = _takes(lambda: connection.call(lambda _conn: stuck.wait(30), 0.5))
    stuck.set()
    assert isinstance(error, OperationTimeout)
    assert not isinstance(error, HostUnreachable)
    assert took < 2
    connection.call(lambda conn: conn.getLibVersion())
    connection.close()


@pytest.mark.lab
def test_a_stopped_libvirtd_is_given_up(lab: RunningLab) -> None:
    host = lab.host("b")
    hypervisor = LibvirtHypervisor(host.uri)
    hypervisor.ping()
    pid = int(lab.exec("b", "cat", "/run/libvirt/libvirtd.pid").stdout)
    os.kill(pid, signal.SIGSTOP)
    try:
        results: list[tuple[float, BaseException | None]] = []
        threads = [
            threading.Thread(target=lambda call=call: results.append(_takes(call)))
            for call in (hypervisor.ping, hypervisor.list_domains, hypervisor.list_pools)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(results) == 3
        for took, error in results:
            assert isinstance(error, HostUnreachable), error
            assert took < GIVEN_UP_AFTER_S
    finally:
        os.kill(pid, signal.SIGCONT)
    hypervisor.ping()
    hypervisor.close()


@pytest.mark.lab
def test_a_restarted_libvirtd_is_found_again(lab: RunningLab) -> None:
    hypervisor = LibvirtHypervisor(lab.host("b").uri)
    hypervisor.ping()
    lab.run("stop-libvirtd", "b", "--kill")
    with pytest.raises(HostUnreachable):
        hypervisor.ping()
    lab.run("start-libvirtd", "b")
    hypervisor.ping()
    hypervisor.close()


def _in_child(hypervisor: Hypervisor, answers: Pipe) -> None:
    try:
        hypervisor.ping()
        answers.send("child " + hypervisor.facts().hostname)
        hypervisor.close()
    except VirtError as error:
        answers.send(repr(error))


@pytest.mark.lab
def test_a_forked_child_opens_its_own_connection(lab: RunningLab) -> None:
    """The parent's stays whole: it still works after the child has closed its own and ended."""
    hypervisor = LibvirtHypervisor(lab.host("a").uri)
    parents = hypervisor.facts().hostname
    ours, theirs = multiprocessing.Pipe()
    fork = multiprocessing.get_context("fork")
    child = fork.Process(target=_in_child, args=(hypervisor, theirs))
    child.start()
    assert ours.poll(30), "the child says nothing"
    assert ours.recv() == f"child {parents}"
    child.join(30)
    assert child.exitcode == 0
    assert hypervisor.facts().hostname == parents
    hypervisor.close()


@pytest.mark.lab
def test_listing_costs_the_same_for_any_number_of_domains(
    lab: RunningLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    import libvirt

    hypervisor = LibvirtHypervisor(lab.host("a").uri)
    asked: list[str] = []
    for name in ("XMLDesc", "info", "state", "isActive", "isPersistent", "autostart"):
        monkeypatch.setattr(
            libvirt.virDomain, name, lambda *_args, name=name: asked.append(name), raising=True
        )
    hypervisor.list_domains()
    assert asked == []
    hypervisor.close()


@pytest.mark.lab
def test_a_full_pool_stops_an_upload(lab: RunningLab) -> None:
    """A real file system of 1 MiB under the pool."""
    hypervisor = LibvirtHypervisor(lab.host("a").uri)
    path = "/var/lib/libvirt/full"
    lab.exec("a", "mkdir", "-p", path)
    lab.exec("a", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", path)
    size = 4 * 1024**2
    try:
        hypervisor.ensure_pool("full", path)
        hypervisor.create_volume(
            VolumeSpec(pool="full", name="big", capacity_bytes=size, format="raw")
        )
        with pytest.raises(NoSpace):
            hypervisor.upload_volume(
                "full", "big", io.BytesIO(os.urandom(size)), size, lambda *_: None
            )
        hypervisor.delete_volume("full", "big")
    finally:
        lab.virsh("a", "pool-destroy", "full")
        lab.virsh("a", "pool-undefine", "full")
        lab.exec("a", "umount", path)
        hypervisor.close()


# --- the fake's faults ------------------------------------------------------------------------


def test_the_fake_fails_on_demand() -> None:
    fake = FakeHypervisor()
    spec = VolumeSpec(pool="default", name="d", capacity_bytes=1024)
    fake.fail_next("create_volume", NoSpace())
    with pytest.raises(NoSpace):
        fake.create_volume(spec)
    fake.create_volume(spec)
    assert fake.calls["create_volume"] == 2
    with pytest.raises(AttributeError):
        fake.fail_next("creat_volume", NoSpace())


def test_the_fake_can_be_unplugged() -> None:
    fake = FakeHypervisor()
    fake.unplug()
    with pytest.raises(HostUnreachable):
        fake.list_domains()
    with pytest.raises(HostUnreachable):
        fake.events().subscribe(lambda _event: None)
    fake.plug()
    with pytest.raises(NoSuchDomain):
        fake.domain(uuid4())


def test_the_fake_holds_under_threads() -> None:
    fake = FakeHypervisor()
    gate = threading.Barrier(8)
    outcomes: list[str] = []

    def create() -> None:
        gate.wait()
        try:
            fake.create_volume(VolumeSpec(pool="default", name="one", capacity_bytes=1))
            outcomes.append("made")
        except VirtError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(outcomes) == ["made", *["virt.already_exists"] * 7]
