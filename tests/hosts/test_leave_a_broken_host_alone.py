"""One connection per process and host, and a breaker that keeps callers from waiting in a row."""

from __future__ import annotations

import os
from collections.abc import Iterator
from unittest import mock

import pytest

from hosts import connections
from hosts.connections import Breaker
from hosts.models import Host
from hosts.virt.errors import HostUnreachable, NoSuchPool
from hosts.virt.fake import FakeHypervisor


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_it_opens_after_two_failures_and_lets_one_through_after_ten_seconds() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    breaker.failed()
    breaker.before_call()
    breaker.failed()
    assert breaker.is_open
    with pytest.raises(HostUnreachable):
        breaker.before_call()
    clock.now += 10
    breaker.before_call()  # the probe
    with pytest.raises(HostUnreachable):
        breaker.before_call()  # the others wait for its result
    breaker.succeeded()
    breaker.before_call()
    assert not breaker.is_open


def test_a_probe_that_fails_keeps_it_open() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    breaker.failed()
    breaker.failed()
    clock.now += 10
    breaker.before_call()
    breaker.failed()
    with pytest.raises(HostUnreachable):
        breaker.before_call()


@pytest.fixture
def opened(host: Host) -> Iterator[list[FakeHypervisor]]:
    """Every hypervisor that is opened for the host is a new fake."""
    made: list[FakeHypervisor] = []

    def open_new(_host: Host) -> FakeHypervisor:
        made.append(FakeHypervisor("alpha"))
        return made[-1]

    with mock.patch.object(connections, "open_new", open_new):
        connections.close_all()
        yield made
        connections.close_all()


def test_one_connection_is_shared_and_opened_late(host: Host, opened: list[FakeHypervisor]) -> None:
    first = connections.hypervisor(host)
    assert not opened
    first.ping()
    connections.hypervisor(host).ping()
    assert len(opened) == 1


def test_a_host_that_is_away_is_not_asked_again_at_once(
    host: Host, opened: list[FakeHypervisor]
) -> None:
    away = FakeHypervisor("alpha")
    away.unplug()
    with mock.patch.object(connections, "open_new", return_value=away):
        hypervisor = connections.hypervisor(host)
        for _ in range(4):
            with pytest.raises(HostUnreachable):
                hypervisor.list_pools()
    assert away.calls["list_pools"] == connections.FAILURES_TO_OPEN


def test_other_errors_do_not_open_it(host: Host, opened: list[FakeHypervisor]) -> None:
    hypervisor = connections.hypervisor(host)
    for _ in range(5):
        with pytest.raises(NoSuchPool):
            hypervisor.list_volumes("nothing")
    hypervisor.ping()


def test_an_address_that_changed_is_another_connection(
    host: Host, opened: list[FakeHypervisor]
) -> None:
    connections.hypervisor(host).ping()
    host.transport, host.socket_path = Host.Transport.UNIX, "/run/other"
    connections.hypervisor(host).ping()
    assert len(opened) == 2


def test_after_a_fork_the_child_opens_its_own(host: Host, opened: list[FakeHypervisor]) -> None:
    connections.hypervisor(host).ping()
    with mock.patch.object(os, "getpid", return_value=os.getpid() + 1):
        connections.hypervisor(host).ping()
    assert len(opened) == 2
    assert opened[0].calls["close"] == 0  # it is the parent's
