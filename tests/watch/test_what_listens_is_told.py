"""A screen that the network can reach is a failed check on its host's page, until it is closed."""

from __future__ import annotations

from hosts.check_messages import findings
from hosts.models import Host
from hosts.virt.fake import FakeHypervisor
from tests.watch.conftest import EVENTS_ONLY, QUICK, eventually, sees, watched
from vms.models import VM

KEY = "consoles_closed"


def result(host: Host) -> str:
    host.refresh_from_db()
    return next((found.result for found in findings(host.checks) if found.key == KEY), "")


def test_it_is_looked_at_on_connecting_and_again(
    machine: VM, host: Host, fake: FakeHypervisor
) -> None:
    fake.exposed_domains = {"outsider": ["VNC on 0.0.0.0:5901"], "quiet": []}
    with watched(host, timing=QUICK):
        eventually(lambda: result(host) == "fail", "the open screen is told")
        (finding,) = [found for found in findings(host.checks) if found.key == KEY]
        assert "outsider (VNC on 0.0.0.0:5901)" in finding.text
        assert "quiet" not in finding.text
        assert finding.todo
        fake.exposed_domains = {}
        eventually(lambda: result(host) == "pass", "it was closed")


def test_it_is_looked_at_when_a_domain_has_started(
    machine: VM, host: Host, fake: FakeHypervisor
) -> None:
    with watched(host, timing=EVENTS_ONLY):
        sees(machine, "running")
        eventually(lambda: result(host) == "pass", "nothing listens")
        fake.force_off(machine.uuid)
        sees(machine, "shutoff")
        fake.exposed_domains = {"web": ["serial on 0.0.0.0:4555"]}
        fake.start(machine.uuid)
        eventually(lambda: result(host) == "fail", "the open line is told")
