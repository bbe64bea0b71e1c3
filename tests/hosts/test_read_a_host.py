"""A host is brought in, read into rows, and KVM is taken only where it was seen to work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from accounts.errors import Conflict, Invalid
from accounts.models import AuditEntry, User
from hosts import check_messages, connections, inventory, presentation, services
from hosts.models import Host
from hosts.virt import checks
from hosts.virt.fake import FakeHypervisor
from hosts.virt.spec import Check
from jobs.models import Job
from tests.jobs.driving import finish

PROBE = "acceleration_probe"


@pytest.fixture
def fake(db: None) -> Iterator[FakeHypervisor]:
    hypervisor = FakeHypervisor("beta", domain_types=("qemu", "kvm"))
    with connections.use_fake({"beta": hypervisor}):
        yield hypervisor


def test_an_admin_adds_a_host_and_a_job_reads_it(fake: FakeHypervisor, admin: User) -> None:
    host = services.add_host(
        actor=admin, name="beta", transport="unix", socket_path="/run/lab/libvirt-sock"
    )
    job = finish(Job.objects.get(kind="host.refresh", host=host))
    assert job.state == Job.State.SUCCEEDED
    host.refresh_from_db()
    assert host.reach == Host.Reach.UP
    assert (host.cpus, host.memory_mib) == (8, 32768)
    assert host.pools.get(is_default=True).name == "default"
    assert host.networks.get().active
    assert host.acceleration == "kvm"
    assert AuditEntry.objects.filter(verb="host.add", actor=admin).exists()


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"transport": "unix", "socket_path": "relative"}, "socket_path"),
        ({"transport": "unix", "socket_path": "/run/x?command=id"}, "socket_path"),
        ({"transport": "ssh", "address": "h?command=id", "ssh_host_key": "x"}, "address"),
        ({"transport": "ssh", "address": "-oProxyCommand=id"}, "address"),
        ({"transport": "tls", "address": "a/b"}, "address"),
        ({"transport": "ext"}, "transport"),
        ({"transport": "local", "name": "no spaces"}, "name"),
    ],
)
def test_what_could_become_another_uri_is_refused(
    admin: User, fields: dict[str, str], wrong: str
) -> None:
    with pytest.raises(Invalid) as refused:
        services.add_host(actor=admin, **({"name": "beta"} | fields))
    assert wrong in refused.value.fields
    assert not Host.objects.exists()


def test_a_name_is_taken_once(admin: User, host: Host) -> None:
    with pytest.raises(Conflict) as refused:
        services.add_host(actor=admin, name=host.name, transport="local")
    assert refused.value.code == "host.name_taken"


@pytest.mark.parametrize(
    ("listed", "flag", "probe", "chosen", "why"),
    [
        (("qemu",), True, "pass", "tcg", "accel.not_listed"),
        (("qemu", "kvm"), False, "pass", "tcg", "accel.no_cpu_flag"),
        (("qemu", "kvm"), True, None, "", "accel.not_probed"),
        (("qemu", "kvm"), True, "fail", "tcg", "accel.probe_failed"),
        (("qemu", "kvm"), True, "pass", "kvm", "accel.probe_passed"),
    ],
)
def test_kvm_is_taken_where_all_three_say_so(
    listed: tuple[str, ...], flag: bool, probe: str | None, chosen: str, why: str
) -> None:
    assert inventory.acceleration(domain_types=listed, cpu_virt_flag=flag, probe=probe) == (
        chosen,
        why,
    )


def test_a_probe_that_hangs_means_emulation_until_an_admin_says_otherwise(
    fake: FakeHypervisor, admin: User
) -> None:
    fake.probe_result = Check(key=PROBE, result="fail", params={"reason": "hang"})
    host = services.add_host(actor=admin, name="beta", transport="local")
    finish(Job.objects.get(host=host))
    host.refresh_from_db()
    assert host.domain_type == "qemu"
    [said] = [one for one in check_messages.findings(host.checks) if one.key == PROBE]
    assert "hung" in said.text
    assert said.todo
    host = services.set_acceleration_override(host, "kvm", actor=admin)
    assert host.domain_type == "kvm"
    assert presentation.acceleration(host).overridden


def test_reading_again_keeps_what_the_probe_found(fake: FakeHypervisor, admin: User) -> None:
    host = services.add_host(actor=admin, name="beta", transport="local")
    finish(Job.objects.get(host=host))
    fake.probe_result = Check(key=PROBE, result="fail", params={"reason": "hang"})
    finish(services.request_refresh(host, actor=admin))
    host.refresh_from_db()
    assert host.acceleration == "kvm"
    finish(services.request_probe(host, actor=admin))
    host.refresh_from_db()
    assert host.acceleration == "tcg"


def test_two_clicks_make_one_job(fake: FakeHypervisor, admin: User, host: Host) -> None:
    first = services.request_refresh(host, actor=admin)
    assert services.request_refresh(host, actor=admin) == first


def test_a_host_without_pool_and_network_gets_them(fake: FakeHypervisor, admin: User) -> None:
    fake._pools.clear()
    host = services.add_host(actor=admin, name="beta", transport="local")
    services.refresh_host(host.pk)
    pool = host.pools.get()
    assert (pool.name, pool.is_default) == ("default", True)
    assert "default" in fake._pools


def test_a_pool_that_is_gone_is_off_and_its_row_stays(fake: FakeHypervisor, admin: User) -> None:
    fake.ensure_pool("fast", "/srv/fast")
    host = services.add_host(actor=admin, name="beta", transport="local")
    services.refresh_host(host.pk)
    del fake._pools["fast"]
    services.refresh_host(host.pk)
    assert not host.pools.get(name="fast").active
    assert host.pools.get(name="default").active


def test_every_check_has_its_words() -> None:
    for key in checks.KEYS:
        for result in ("pass", "warn", "fail", "note"):
            said = check_messages.finding({"key": key, "result": result, "params": {}})
            assert said.text != key, key
            assert said.word


def test_the_command_that_up_uses_may_be_repeated(fake: FakeHypervisor) -> None:
    def run(socket: str) -> dict[str, object]:
        out = StringIO()
        call_command(
            "add_host", "--name=beta", "--transport=unix", f"--socket-path={socket}", stdout=out
        )
        answer: dict[str, object] = json.loads(out.getvalue())
        return answer

    assert run("/run/one")["made"] is True
    assert run("/run/one")["made"] is False
    run("/run/two")
    assert Host.objects.get().socket_path == "/run/two"
    with pytest.raises(CommandError, match="--socket-path"):
        run("not-a-path")
    assert Host.objects.get().socket_path == "/run/two"


def test_check_host_prints_it_in_plain_words(fake: FakeHypervisor, admin: User) -> None:
    services.add_host(actor=admin, name="beta", transport="local")
    out = StringIO()
    call_command("check_host", "beta", stdout=out)
    assert "KVM works: a probe machine has started with it." in out.getvalue()
    fake.unplug()
    with pytest.raises(CommandError):
        call_command("check_host", "beta", stdout=StringIO(), stderr=StringIO())
    assert Host.objects.get().reach == Host.Reach.DOWN


def test_a_host_with_machines_is_not_removed(
    admin: User, host: Host, vm: object, fake: FakeHypervisor
) -> None:
    with pytest.raises(Conflict) as refused:
        services.remove_host(host, actor=admin)
    assert refused.value.code == "host.has_machines"
    host.machines.update(deleted_at="2026-01-01T00:00:00Z")
    services.remove_host(host, actor=admin)
    assert not Host.objects.filter(name=host.name).exists()
