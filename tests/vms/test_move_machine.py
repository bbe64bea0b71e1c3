"""A machine moves to another host: whole on exactly one of the two, whatever happens."""

from __future__ import annotations

import json
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from accounts import quotas
from accounts.errors import Conflict, Forbidden, NotFound
from accounts.models import AuditEntry, QuotaLimit, Resource, Team, User
from hosts import connections
from hosts.models import Host, Network, Pool
from hosts.virt.errors import HostUnreachable, NoSpace, UnknownVirtError
from hosts.virt.fake import FakeHypervisor
from hosts.virt.spec import DomainState, VolumeSpec
from jobs import services as job_services
from jobs.context import JobContext
from jobs.models import Job
from tests.vms.conftest import run_to_end, step_on
from vms import lifecycle, recount
from vms.backups import services as backups
from vms.models import VM, Image, ImageCopy
from vms.moving import places, requests
from vms.snapshots import requests as snapshots

Made = Callable[..., VM]


@pytest.fixture
def beta(host: Host) -> Host:
    """Like alpha, and empty."""
    row = Host.objects.get(pk=host.pk)
    row.pk, row.name = None, "beta"
    row.save()
    Pool.objects.create(
        host=row,
        name="disks",
        uuid=uuid4(),
        kind="dir",
        path="/srv/disks",
        active=True,
        is_default=True,
        capacity_bytes=100 << 30,
        available_bytes=100 << 30,
    )
    Network.objects.create(host=row, name="default", uuid=uuid4(), kind="nat", active=True)
    return row


@pytest.fixture
def there(fake: FakeHypervisor, beta: Host, image: Image) -> Iterator[FakeHypervisor]:
    """Host beta, whose pool has another name and lies elsewhere. The image's copy is there."""
    hypervisor = FakeHypervisor("beta")
    hypervisor.ensure_pool("disks", "/srv/disks")
    hypervisor.create_volume(
        VolumeSpec(pool="disks", name=image.volume_name, capacity_bytes=1 << 30, format="qcow2")
    )
    pool = beta.pools.get()
    ImageCopy.objects.create(image=image, pool=pool, state=ImageCopy.State.READY)
    with connections.use_fake({"alpha": fake, "beta": hypervisor}):
        yield hypervisor


@pytest.fixture(params=[True, False], ids=["runs", "is off"])
def machine(request: pytest.FixtureRequest, there: FakeHypervisor, made: Made) -> VM:
    vm = made()
    if not request.param:
        run_to_end(lifecycle.request(vm, "force_off", actor=vm.owner))
    vm.refresh_from_db()
    return vm


def on(vm: VM) -> bool:
    return vm.observed == "running"


def files_of(vm: VM, at: FakeHypervisor, pool: str) -> set[str]:
    return {one.name for one in at.list_volumes(pool) if str(vm.uuid) in one.name}


def is_whole_on(vm: VM, at: FakeHypervisor, other: FakeHypervisor, *, runs: bool) -> None:
    """And nothing of it is on the other, and its rows say so."""
    vm = VM.objects.get(pk=vm.pk)
    facts = at.domain(vm.uuid)
    assert (facts.state is DomainState.RUNNING) is runs
    assert vm.host is not None
    assert vm.host.name == at.name
    assert vm.moving_to is None
    assert vm.observed == ("running" if runs else "shutoff")
    disk = vm.disks.get()
    assert disk.pool is not None
    assert disk.pool.host == vm.host
    content = at._volume(disk.pool.name, disk.volume).content
    assert content.endswith(b"precious")
    if not runs:  # the file went as it was; what it stands on may lie elsewhere
        image = disk.backing_image
        assert image is not None
        assert stands_on(content) == at.volume(disk.pool.name, image.volume_name).path
    assert facts.disks[0].pool == disk.pool.name
    assert vm.uuid not in {one.uuid for one in other.list_domains()}
    pools = [pool.name for pool in other.list_pools()]
    assert [files_of(vm, other, pool) for pool in pools] == [set()] * len(pools)
    assert recount.run().differences == []


def precious(vm: VM, fake: FakeHypervisor) -> None:
    disk = vm.disks.get()
    assert disk.backing_image is not None
    base = fake.volume("default", disk.backing_image.volume_name).path
    content = overlay(base, disk.size_gib) + b"precious"
    fake._volume("default", disk.volume).content = content


def overlay(base: str, size_gib: int) -> bytes:
    """A file that QEMU made, standing on ``base``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "disk.qcow2"
        made = ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", base]
        subprocess.run([*made, str(path), f"{size_gib}G"], check=True)
        return path.read_bytes()


def stands_on(content: bytes) -> str:
    """As QEMU reads it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "disk.qcow2"
        path.write_bytes(content)
        wanted = ["qemu-img", "info", "--output=json", str(path)]
        done = subprocess.run(wanted, capture_output=True, text=True, check=True)
        found: str = json.loads(done.stdout)["backing-filename"]
        return found


def clear_up() -> None:
    for job in Job.objects.active().filter(kind=requests.LEAVE):
        assert run_to_end(job).state == Job.State.SUCCEEDED


def test_it_moves(
    machine: VM, beta: Host, fake: FakeHypervisor, there: FakeHypervisor, admin: User, team: Team
) -> None:
    precious(machine, fake)
    runs, before = on(machine), quotas.usage(team)
    job = run_to_end(requests.request(machine, actor=admin, host=beta))
    assert job.state == Job.State.SUCCEEDED, (job.error_code, job.error_params, job.step)
    clear_up()
    is_whole_on(machine, there, fake, runs=runs)
    assert quotas.usage(team) == before
    assert there.calls["start"] == 0  # it went on, or stayed off
    stands_on = there.volume("disks", machine.disks.get().volume).backing_path
    assert not runs or stands_on == there.volume("disks", machine.image.volume_name).path  # type: ignore[union-attr]
    kinds = list(machine.events.values_list("kind", flat=True))
    assert kinds.count("moved") == kinds.count("move.asked") == 1
    entry = AuditEntry.objects.get(verb="vm.migrate")
    assert (entry.before, entry.after) == ({"host": "alpha"}, {"host": "beta"})
    if not runs:
        run_to_end(lifecycle.request(VM.objects.get(pk=machine.pk), "start", actor=admin))
        assert there.domain(machine.uuid).state is DomainState.RUNNING


def test_and_back(
    machine: VM, beta: Host, fake: FakeHypervisor, there: FakeHypervisor, admin: User
) -> None:
    """Not before what it has left is gone: the new files would have the old ones' names."""
    precious(machine, fake)
    runs, alpha = on(machine), machine.host
    assert alpha is not None
    run_to_end(requests.request(machine, actor=admin, host=beta))
    moved = VM.objects.get(pk=machine.pk)
    with pytest.raises(Conflict, match="move_leaving"):
        requests.request(moved, actor=admin, host=alpha)
    clear_up()
    with pytest.raises(Conflict, match="move_here"):
        requests.request(moved, actor=admin, host=beta)
    assert run_to_end(requests.request(moved, actor=admin, host=alpha)).state == "succeeded"
    clear_up()
    is_whole_on(machine, fake, there, runs=runs)


@pytest.mark.parametrize(
    ("method", "at_there"),
    [
        ("create_volume", True),
        ("upload_volume", True),
        ("move_running", False),
        ("send_definition", False),
        ("open_volume", False),
        ("undefine", False),
    ],
)
def test_one_that_fails_stays(
    machine: VM,
    method: str,
    at_there: bool,
    beta: Host,
    fake: FakeHypervisor,
    there: FakeHypervisor,
    admin: User,
    team: Team,
) -> None:
    precious(machine, fake)
    runs, before = on(machine), quotas.usage(team)
    live = ("create_volume", "move_running")
    cold = ("create_volume", "upload_volume", "send_definition", "open_volume", "undefine")
    if method not in (live if runs else cold):
        pytest.skip("not a part of it")
    (there if at_there else fake).fail_next(method, NoSpace("No space left on device"))
    job = run_to_end(requests.request(machine, actor=admin, host=beta))
    assert (job.state, job.error_code) == (Job.State.FAILED, "virt.no_space")
    is_whole_on(machine, fake, there, runs=runs)
    assert quotas.usage(team) == before
    assert not Job.objects.filter(kind=requests.LEAVE).exists()


def test_a_host_that_is_away_for_a_moment_is_tried_again(
    machine: VM, beta: Host, fake: FakeHypervisor, there: FakeHypervisor, admin: User
) -> None:
    precious(machine, fake)
    runs = on(machine)
    method = "move_running" if runs else "send_definition"
    fake.fail_next(method, HostUnreachable("keepalive"), times=2)
    job = run_to_end(requests.request(machine, actor=admin, host=beta))
    assert job.state == Job.State.SUCCEEDED, job.error_code
    clear_up()
    is_whole_on(machine, there, fake, runs=runs)


def test_one_that_is_cancelled_stays(
    machine: VM,
    beta: Host,
    fake: FakeHypervisor,
    there: FakeHypervisor,
    admin: User,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    precious(machine, fake)
    runs = on(machine)
    job = requests.request(machine, actor=admin, host=beta)
    method = "move_running" if runs else "upload_volume"
    at: Any = fake if runs else there
    real = getattr(at, method)

    monkeypatch.setitem(JobContext.checkpoint.__kwdefaults__, "max_age_s", 0)

    def cancelled(*args: Any, **kwargs: Any) -> Any:
        job_services.cancel(Job.objects.get(pk=job.pk), actor=admin)
        return real(*args, **kwargs)

    setattr(at, method, cancelled)
    done = run_to_end(job)
    assert done.state == Job.State.CANCELLED
    is_whole_on(machine, fake, there, runs=runs)


class Killed(BaseException):
    """The worker is gone: nothing of the engine's own clean-up runs."""


@pytest.mark.parametrize("where", ["before the turn", "after the turn"])
def test_a_worker_that_is_killed(
    machine: VM,
    where: str,
    beta: Host,
    fake: FakeHypervisor,
    there: FakeHypervisor,
    admin: User,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next one finds out on which host it is, and goes on from there."""
    precious(machine, fake)
    runs = on(machine)
    job = requests.request(machine, actor=admin, host=beta)
    method: str = "move_running" if runs else "send_definition"
    if where == "after the turn" and not runs:
        method = "undefine"
    real: Any = getattr(fake, method)

    def killed(*args: Any, **kwargs: Any) -> None:
        if where == "after the turn":
            real(*args, **kwargs)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(fake, method, killed)
        with pytest.raises(Killed):
            run_to_end(job)
    job.refresh_from_db()
    Job.objects.filter(pk=job.pk).update(worker="")
    assert run_to_end(job).state == Job.State.SUCCEEDED, job.error_code
    clear_up()
    is_whole_on(machine, there, fake, runs=runs)


def test_one_that_stops_or_starts_meanwhile_is_not_moved(
    machine: VM, beta: Host, fake: FakeHypervisor, there: FakeHypervisor, admin: User
) -> None:
    precious(machine, fake)
    runs = on(machine)
    job = requests.request(machine, actor=admin, host=beta)
    if runs:
        fake.force_off(machine.uuid)
    else:
        fake.start(machine.uuid)
    done = run_to_end(job)
    assert done.error_code == ("vm.why.move_stopped" if runs else "vm.why.move_started")
    is_whole_on(machine, fake, there, runs=not runs)


def test_the_files_that_it_left_wait_for_their_host(
    machine: VM, beta: Host, fake: FakeHypervisor, there: FakeHypervisor, admin: User
) -> None:
    precious(machine, fake)
    runs = on(machine)
    run_to_end(requests.request(machine, actor=admin, host=beta))
    fake.unplug()
    job = step_on(Job.objects.get(kind=requests.LEAVE))
    assert job.waiting_for == "host"
    fake.plug()
    assert files_of(machine, fake, "default")
    assert run_to_end(job).state == Job.State.SUCCEEDED
    is_whole_on(machine, there, fake, runs=runs)


def test_who_may(machine: VM, beta: Host, owner: User, teammate: User, outsider: User) -> None:
    for person, error in ((owner, Forbidden), (teammate, Forbidden), (outsider, NotFound)):
        with pytest.raises(error):
            requests.request(machine, actor=person, host=beta)


def test_a_team_over_its_limit_has_no_less_of_it(
    machine: VM, beta: Host, fake: FakeHypervisor, there: FakeHypervisor, admin: User, team: Team
) -> None:
    """It takes nothing more: a limit that was lowered below what there is keeps nobody."""
    precious(machine, fake)
    runs = on(machine)
    limit = {"scope": QuotaLimit.Scope.TEAM, "team": team, "resource": Resource.VCPUS}
    QuotaLimit.objects.update_or_create(**limit, defaults={"hard": 0})
    job = run_to_end(requests.request(machine, actor=admin, host=beta))
    assert job.state == Job.State.SUCCEEDED
    clear_up()
    is_whole_on(machine, there, fake, runs=runs)


def refusals(vm: VM) -> dict[str, str]:
    return {one.host.name: one.refusal["code"] for one in places.of(vm) if one.refusal}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"mode": "maintenance"}, "placement.maintenance"),
        ({"reach": "down"}, "placement.unreachable"),
        ({"arch": "aarch64"}, "placement.arch"),
        ({"memory_mib": 1100}, "placement.no_memory"),
        ({"cpus": 0}, "placement.no_vcpus"),
        ({"qemu_version": "4.2.0"}, "placement.older_qemu"),
    ],
)
def test_hosts_that_cannot_take_it(
    machine: VM, beta: Host, admin: User, change: dict[str, Any], code: str
) -> None:
    Host.objects.filter(pk=machine.host_id).update(qemu_version="7.2.0", arch="x86_64")
    Host.objects.filter(pk=beta.pk).update(**{"qemu_version": "7.2.0", "arch": "x86_64"} | change)
    machine = VM.objects.get(pk=machine.pk)
    assert refusals(machine) == {"beta": code}
    with pytest.raises(Conflict, match="move_host"):
        requests.request(machine, actor=admin, host=Host.objects.get(pk=beta.pk))


def test_a_network_of_another_kind_and_a_pool_without_room(machine: VM, beta: Host) -> None:
    beta.networks.update(kind="bridge")
    assert refusals(machine) == {"beta": "placement.other_network"}
    beta.networks.update(kind="nat", active=False)
    assert refusals(machine) == {"beta": "placement.no_network"}
    beta.networks.update(active=True)
    assert refusals(machine) == {}
    beta.pools.update(available_bytes=1 << 20)
    assert refusals(machine) == {"beta": "placement.no_disk"}


def test_another_processor_takes_it_while_it_is_off(machine: VM, beta: Host) -> None:
    kvm = {"acceleration": "kvm"}
    Host.objects.update(**kvm)
    Host.objects.filter(pk=beta.pk).update(cpu_model="Other")
    found = refusals(VM.objects.get(pk=machine.pk))
    assert found == ({"beta": "placement.other_cpu"} if on(machine) else {})
    Host.objects.filter(pk=beta.pk).update(acceleration="tcg")
    assert refusals(VM.objects.get(pk=machine.pk)) == {"beta": "placement.lacks"}


def test_two_that_move_there_do_not_take_the_same_room(
    there: FakeHypervisor,
    made: Made,
    beta: Host,
    admin: User,
) -> None:
    Host.objects.filter(pk=beta.pk).update(mode=Host.Mode.MAINTENANCE)
    first, second = made(name="web-1"), made(name="web-2")
    room = beta.memory_reserve_mib + first.memory_mib
    Host.objects.filter(pk=beta.pk).update(mode=Host.Mode.ACTIVE, memory_mib=room)
    beta.refresh_from_db()
    requests.request(first, actor=admin, host=beta)
    with pytest.raises(Conflict, match="move_host"):
        requests.request(second, actor=admin, host=beta)


def test_what_would_stay_behind_keeps_it(
    machine: VM,
    beta: Host,
    fake: FakeHypervisor,
    admin: User,
    owner: User,
) -> None:
    _row, job = snapshots.take(machine, actor=owner, name="before")
    run_to_end(job)
    with pytest.raises(Conflict, match="has_snapshots"):
        requests.request(machine, actor=admin, host=beta)
    run_to_end(snapshots.delete(machine.snapshots.get(), actor=owner))
    _backup, job = backups.take(machine, actor=owner)
    run_to_end(job)
    with pytest.raises(Conflict, match="move_backups"):
        requests.request(machine, actor=admin, host=beta)


def test_a_suspended_machine_is_asked_to_go_on_first(
    there: FakeHypervisor,
    made: Made,
    beta: Host,
    admin: User,
) -> None:
    vm = made()
    run_to_end(lifecycle.request(vm, "suspend", actor=admin))
    with pytest.raises(Conflict, match="paused"):
        requests.request(VM.objects.get(pk=vm.pk), actor=admin, host=beta)


def test_an_error_of_libvirts_is_told(
    machine: VM, beta: Host, fake: FakeHypervisor, admin: User
) -> None:
    runs = on(machine)
    fake.fail_next("move_running" if runs else "send_definition", UnknownVirtError("no route"))
    job = run_to_end(requests.request(machine, actor=admin, host=beta))
    assert job.error_code == "virt.unknown"
    assert VM.objects.get(pk=machine.pk).fault_code == "virt.unknown"


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        (
            {"transport": "unix"},
            {"transport": "unix", "socket_path": "/run/b/sock"},
            "qemu+unix:///system?socket=/run/b/sock",
        ),
        (
            {"transport": "ssh"},
            {"transport": "unix", "socket_path": "/run/b/sock", "hostname": "site"},
            "qemu+ssh://site/system?socket=/run/b/sock",
        ),
        (
            {"transport": "ssh"},
            {"transport": "local", "hostname": "site"},
            "qemu+ssh://site/system",
        ),
        (
            {"transport": "local"},
            {"transport": "ssh", "username": "kvm", "address": "fd00::2", "port": 2222},
            "qemu+ssh://kvm@[fd00::2]:2222/system",
        ),
    ],
)
def test_the_other_host_as_one_reaches_it_from_here(
    machine: VM, beta: Host, source: dict[str, Any], target: dict[str, Any], said: str
) -> None:
    Host.objects.filter(pk=machine.host_id).update(**source)
    Host.objects.filter(pk=beta.pk).update(**target)
    vm = VM.objects.get(pk=machine.pk)
    last = shlex.split(requests.show(vm, Host.objects.get(pk=beta.pk))[-1])
    assert last[-2:] == [vm.domain_name, said]
    by_address = on(vm) and "address" in target
    assert ("tcp://[fd00::2]" in last) is by_address
