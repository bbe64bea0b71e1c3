"""A machine's end and the rule for idle ones, on a real libvirt. The clock is moved in the rows;
all else is done by the site's own watcher and workers."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta, timezone

import pytest

from tests.e2e.guests import Guest
from tests.e2e.site import TEAM, Site

pytestmark = [pytest.mark.lab, pytest.mark.browser, pytest.mark.timeout(600)]

BOOT_S = 120
STOP_S = 120
ROUND = """
from datetime import timedelta
from django.utils import timezone
from vms.models import VM
from vms.tasks import lease_rounds
past = {{name: timezone.now() - timedelta(days=days) for name, days in {moved!r}.items()}}
VM.objects.filter(uuid={uuid!r}).update(**past)
lease_rounds.delay()
"""

# The guest was asked to shut down long ago.
ASKED = """
from jobs import services
from jobs.models import Job
job = Job.objects.get(vm__uuid={uuid!r}, kind="vm.end_lease")
Job.objects.filter(pk=job.pk).update(data=job.data | {{"asked_at": "2026-01-01T00:00:00+00:00"}})
services.wake(job_id=job.pk)
"""


def after(site: Site, guest: Guest, **days_ago: float) -> None:
    """As if so many days had gone by since; then what beat does each minute."""
    site.manage("shell", "-v0", "-c", ROUND.format(moved=days_ago, uuid=guest.uuid))


def told(site: Site, guest: Guest) -> list[str]:
    """What its owner was told of it, the first at first."""
    rows = site.stack.api("GET", "/me/notifications?page_size=200")["items"]
    about = [row["code"] for row in rows if guest.uuid in row["url"]]
    return about[::-1]


def is_off(guest: Guest) -> None:
    guest.wait(lambda: guest.state_on_host() == "shut off", "its host says off", timeout_s=STOP_S)
    guest.wait_state("shutoff", timeout_s=STOP_S)
    guest.wait_idle(timeout_s=STOP_S)


def do(site: Site, guest: Guest, verb: str) -> None:
    (job,) = site.stack.wait_final(site.stack.api("POST", f"/vms/{guest.uuid}/{verb}"))
    assert job["state"] == "succeeded", job


@pytest.fixture
def guest(site: Site) -> Guest:
    tomorrow = datetime.now(timezone.utc) + timedelta(days=1)
    return site.create(f"ends-{secrets.token_hex(3)}", ends_at=tomorrow.isoformat())


def test_stopped_when_nobody_uses_it_and_at_its_end_and_restored(site: Site, guest: Guest) -> None:
    api = site.stack.api
    guest.wait_ssh(timeout_s=BOOT_S)
    guest.ssh("echo kept > ~/proof && sync && echo in memory > /tmp/thought")
    do(site, guest, "suspend")
    assert guest.state_on_host() == "paused"

    # Nobody uses it: told after seven days, put away with its memory two days later.
    before = api("GET", "/leases/idle", user="admin")
    api("PUT", "/leases/idle", {"idle_days": 7, "idle_stop_days": 2}, user="admin")
    try:
        seen = "SELECT last_active_at FROM vms_vm WHERE uuid = ? AND sampled_at IS NOT NULL"
        rows = (seen, guest.uuid.replace("-", ""))
        guest.wait(lambda: any(row[0] for row in site.stack.rows(*rows)), "watched", timeout_s=60)
        after(site, guest, last_active_at=8, started_at=8)
        guest.wait(lambda: guest.facts()["idle_told_at"], "its owner is told", timeout_s=STOP_S)
        assert told(site, guest) == ["lease.idle"]
        assert guest.state_on_host() == "paused"
        after(site, guest, last_active_at=11, started_at=11, idle_told_at=2.1)
        is_off(guest)
        assert told(site, guest) == ["lease.idle", "lease.idle_stopped"]
    finally:
        api("PUT", "/leases/idle", before, user="admin")

    # It goes on where it was. Its end: stopped by a job, started no more.
    assert "Managed save:   yes" in guest.virsh("dominfo")
    do(site, guest, "start")
    assert guest.state_on_host() == "running"
    guest.wait_ssh(timeout_s=BOOT_S)
    assert guest.ssh("cat /tmp/thought").stdout.strip() == "in memory"
    after(site, guest, ends_at=0.1)
    is_off(guest)
    assert told(site, guest)[2:] == ["lease.over"]
    refused = api("POST", f"/vms/{guest.uuid}/start", ok=False)
    assert refused["code"] == "vm.why.time_over"

    # Later into the recycle bin: off, defined, with its disk.
    days = api("GET", "/leases/rules", user="admin")["bin_days"]
    after(site, guest, lease_over_at=days + 0.1)
    guest.wait(lambda: guest.facts()["binned_at"], "it is in the bin", timeout_s=STOP_S)
    guest.wait_idle()
    assert told(site, guest)[3:] == ["lease.binned"]
    assert guest.state_on_host() == "shut off"
    assert guest.volumes() >= {f"kvmweb-{guest.uuid}-vda.qcow2"}

    # And back, as it was.
    answer = api("POST", f"/vms/{guest.uuid}/take-back", {})
    (job,) = site.stack.wait_final(answer)
    assert job["state"] == "succeeded", job
    next_week = datetime.now(timezone.utc) + timedelta(days=7)
    api("POST", f"/vms/{guest.uuid}/extend", {"until": next_week.isoformat()})
    do(site, guest, "start")
    assert guest.state_on_host() == "running"
    guest.wait_ssh(timeout_s=BOOT_S)
    assert guest.ssh("cat ~/proof").stdout.strip() == "kept"


def test_one_that_ignores_the_power_button_is_switched_off_at_its_end(site: Site) -> None:
    """Its disk is empty: there is only firmware, which hears nothing."""
    name = f"deaf-{secrets.token_hex(3)}"
    tomorrow = datetime.now(timezone.utc) + timedelta(days=1)
    answer = site.stack.create(name=name, image=None, team=TEAM, ends_at=tomorrow.isoformat())
    deaf = site.guest(answer["vm"]["uuid"])
    deaf.wait_state("running", timeout_s=BOOT_S)
    deaf.wait_free(timeout_s=BOOT_S)
    after(site, deaf, ends_at=0.1)

    def waits() -> bool:
        task = deaf.facts()["task"]
        return task is not None and (task["kind"], task["step"]) == ("vm.end_lease", "wait")

    deaf.wait(waits, "it is asked, and waited for", timeout_s=STOP_S)
    refused = site.stack.api("POST", f"/jobs/{deaf.facts()['task']['job']}/cancel", ok=False)
    assert refused["code"] == "job.not_cancellable"
    assert deaf.state_on_host() == "running"
    site.manage("shell", "-v0", "-c", ASKED.format(uuid=deaf.uuid))
    is_off(deaf)
    assert told(site, deaf) == ["lease.over"]
