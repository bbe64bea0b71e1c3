"""A running site on two lab hosts that drills can break, and what must be true after each of them.
New machines are made on the first; the second takes none, but for machines that move.

Copies on the host are slowed down by a wrapper around ``qemu-img`` in its mount namespace, so
that a small image is long enough "in the middle of a copy"; the wrapper also counts them.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.lab.conftest import RunningLab, tiny_image
from tests.stack import Stack, StackImage

__all__ = ["tiny_image"]

HOST, OTHER = "a", "b"
LEASE_S = int(os.environ.get("KVMWEB_DRILL_LEASE_S", "5"))  # 60, the site's own, takes longer
FINAL_WITHIN_S = 120.0
PATIENCE_S = 840.0  # of a drill with many faults in a row, less than a test may take
RECONCILE_EVERY_S = 2.0
COPY_BYTES_PER_S = 2_000_000
QEMU_IMG = "/usr/bin/qemu-img"
POOL_SIZE = "3G"
SEEDLESS = "Tiny without a seed"  # its machines are whole without having booted
BESIDE = ("serial.log", "nvram.fd")  # files of a machine that no row names
POOL_FOLDER = "/var/lib/libvirt/images"

WRAPPER = """#!/bin/sh
if [ "$1" = convert ]; then
    shift
    echo "$@" >> {log}
    exec {real} convert -r {rate} "$@"
fi
exec {real} "$@"
"""


class Drill:
    """The site, its hosts, and the ways to hurt them."""

    def __init__(self, stack: Stack, lab: RunningLab) -> None:
        self.stack = stack
        self.lab = lab
        self.copies = lab.folder / "copies.log"
        self.celery = Celery(broker=f"redis+socket://{stack.redis_socket}")
        self._reconciled_at = 0.0
        self._count = 0

    # --- ask --------------------------------------------------------------------------------------

    def create(self, **changes: Any) -> dict[str, Any]:
        self._count += 1
        return self.stack.create(name=f"drill-{self._count}", **({"start": False} | changes))

    def settle(self, *answers: dict[str, Any]) -> list[dict[str, Any]]:
        """The jobs, once they are final. Whatever is done to one meanwhile, how often: within
        120 s it is final or has gone on (claimed anew, or at another step)."""
        ids = [answer["job"]["id"] for answer in answers]
        went_on: dict[str, tuple[object, float]] = {}

        def over() -> list[dict[str, Any]] | None:
            self.stack.keep_running()
            self.reconcile()
            now, active = time.monotonic(), False
            for job_id, *where in self._whereabouts(ids):
                if where[0] not in ("queued", "running", "compensating"):
                    continue
                active = True
                was, since = went_on.setdefault(job_id, (where, now))
                if was != where:
                    went_on[job_id] = (where, now)
                elif now - since > FINAL_WITHIN_S:
                    raise AssertionError(f"{job_id} stands still: {where}\n{self.stack.tail()}")
            return None if active else [self.stack.job(job_id) for job_id in ids]

        found: list[dict[str, Any]] = self.stack.wait(
            over, "the jobs are final", timeout_s=PATIENCE_S
        )
        return found

    def _whereabouts(self, job_ids: list[str]) -> list[tuple[Any, ...]]:
        marks = ",".join("?" * len(job_ids))
        return self.stack.rows(
            f"SELECT id, state, attempt, step FROM jobs_job WHERE id IN ({marks})",
            *[job_id.replace("-", "") for job_id in job_ids],
        )

    def reconcile(self) -> None:
        """What beat does every 15 s, more often, to keep the drills short."""
        if time.monotonic() - self._reconciled_at > RECONCILE_EVERY_S:
            self._reconciled_at = time.monotonic()
            self.celery.send_task("jobs.reconcile", queue="quick", expires=5)

    def deliver(self, job_id: str, times: int) -> None:
        for n in range(times):
            self.celery.send_task("jobs.run", args=[job_id], queue=("quick", "bulk")[n % 2])

    def set_mode(self, host: str, mode: str) -> None:
        imports = "from hosts.models import Host; from hosts.services import set_mode; "
        words = f"set_mode(Host.objects.get(name={host!r}), {mode!r}, actor=None)"
        self.stack.manage("shell", "-c", imports + words)

    # --- hurt -------------------------------------------------------------------------------------

    def arm(self, *lines: str) -> None:
        self.stack.failpoints.write_text("".join(f"{line}\n" for line in lines))
        self._hits.unlink(missing_ok=True)

    def disarm(self) -> set[str]:
        """The failpoints that were hit."""
        self.stack.failpoints.unlink(missing_ok=True)
        return set(self._hits.read_text().split()) if self._hits.exists() else set()

    @property
    def _hits(self) -> Path:
        return self.stack.failpoints.with_name(self.stack.failpoints.name + ".hits")

    def wait_for_hits(self, count: int) -> None:
        def hit() -> bool:
            return self._hits.exists() and len(self._hits.read_text().split()) >= count

        self.stack.wait(hit, f"{count} failpoints are hit")

    def kill_children(self, worker: str) -> None:
        for pid in self.stack.children(worker):
            os.kill(pid, signal.SIGKILL)

    def kill_worker(self, worker: str) -> None:
        """The worker and its children at once, as the out-of-memory killer may."""
        os.killpg(self.stack.processes[worker].pid, signal.SIGKILL)

    @contextmanager
    def slow_copies(self) -> Iterator[None]:
        self.copies.unlink(missing_ok=True)
        self.lab.exec(HOST, "mount", "--bind", str(self.lab.folder / "slow-qemu-img"), QEMU_IMG)
        try:
            yield
        finally:
            self.lab.exec(HOST, "umount", QEMU_IMG)

    def wait_in_the_middle_of_a_copy(self, answer: dict[str, Any]) -> None:
        volume = f"{POOL_FOLDER}/kvmweb-{answer['vm']['uuid']}-vda.qcow2"

        def writes() -> bool:
            found = self.lab.exec(HOST, "stat", "-c", "%b", volume, check=False)
            return found.returncode == 0 and int(found.stdout) * 512 > 2_000_000

        self.stack.wait(writes, "the copy is under way", timeout_s=60)

    # --- look -------------------------------------------------------------------------------------

    def domains(self, host: str = HOST) -> set[str]:
        return set(self.lab.virsh(host, "list", "--all", "--uuid").split())

    def files(self, host: str = HOST) -> set[str]:
        """What is in the pool's folder, listed by libvirt or not; images' copies left out."""
        names = self.lab.exec(host, "ls", POOL_FOLDER).stdout.split()
        return {name for name in names if not name.startswith(("kvmweb-image-", "lost+found"))}

    def expected(self, host: str = HOST) -> tuple[set[str], set[str]]:
        """(domains, files) that the rows speak of."""
        alive = self.stack.rows(
            "SELECT v.uuid, v.seed_volume FROM vms_vm v JOIN hosts_host h ON h.id = v.host_id"
            " WHERE v.deleted_at IS NULL AND h.name = ?",
            host,
        )
        disks = self.stack.rows(
            "SELECT d.volume FROM vms_disk d JOIN vms_vm v ON v.id = d.vm_id"
            " JOIN hosts_pool p ON p.id = d.pool_id JOIN hosts_host h ON h.id = p.host_id"
            " WHERE v.deleted_at IS NULL AND h.name = ?",
            host,
        )
        uuids = {_dashed(row[0]) for row in alive}
        return uuids, {row[0] for row in disks} | {row[1] for row in alive if row[1]}

    def assert_nothing_is_orphaned(self) -> None:
        """Hosts and rows agree, and the quota equals a recount, within the time allowed."""
        problems: list[str] = []

        def agree() -> bool:
            self.reconcile()
            self.stack.keep_running()
            problems[:] = self._disagreements()
            return not problems

        try:
            self.stack.wait(agree, "hosts and rows agree", timeout_s=FINAL_WITHIN_S)
        except AssertionError as error:
            raise AssertionError(f"{problems}\n{error}") from None

    def _disagreements(self) -> list[str]:
        problems = []
        for host in (HOST, OTHER):
            uuids, files = self.expected(host)
            if (known := self.domains(host)) != uuids:
                problems.append(f"domains on {host}: {known} are not {uuids}")
            beside = {f"kvmweb-{uuid}-{what}" for uuid in uuids for what in BESIDE}
            found = self.files(host) - beside
            if found != files:
                problems.append(f"files on {host}: {found} are not {files}")
        orphans = self.stack.rows(
            "SELECT a.resource FROM accounts_allocation a JOIN vms_vm v ON v.id = a.vm_id"
            " WHERE v.deleted_at IS NOT NULL"
        )
        wrong = self.stack.rows(
            "SELECT v.name, a.resource, SUM(a.amount) FROM vms_vm v"
            " LEFT JOIN accounts_allocation a ON a.vm_id = v.id AND a.resource = 'memory_mib'"
            " WHERE v.deleted_at IS NULL GROUP BY v.id"
            " HAVING SUM(a.amount) IS NOT v.memory_mib"
        )
        uncounted = self.stack.rows(
            "SELECT v.name FROM vms_vm v WHERE v.deleted_at IS NULL"
            " AND (v.observed IN ('running', 'paused')) !="
            " EXISTS (SELECT 1 FROM accounts_allocation a"
            "         WHERE a.vm_id = v.id AND a.resource = 'running_machines')"
        )
        problems += [f"allocations: {row}" for row in [*orphans, *wrong, *uncounted]]
        return problems

    def assert_a_recount_agrees(self) -> None:
        """What is held, resource by resource, against the rows and what the host itself says."""
        self.stack.manage("recount_quotas", "--dry-run", "--hosts")

    def assert_next_create_works(self) -> None:
        answer = self.create()
        assert self.settle(answer)[0]["state"] == "succeeded"
        assert self.settle(self.stack.delete(answer["vm"]["uuid"]))[0]["state"] == "succeeded"
        self.assert_nothing_is_orphaned()

    def assert_disk_is_whole(self, answer: dict[str, Any]) -> None:
        """A full copy that was cut off passes ``qemu-img check``: compare its content."""
        vm = answer["vm"]["uuid"].replace("-", "")
        of_vm = "SELECT i.uuid FROM vms_image i JOIN vms_vm v ON v.image_id = i.id WHERE v.uuid = ?"
        (uuid,) = self.stack.rows(of_vm, vm)[0]
        image = f"{POOL_FOLDER}/kvmweb-image-{_dashed(uuid)}.qcow2"
        disk = f"{POOL_FOLDER}/kvmweb-{answer['vm']['uuid']}-vda.qcow2"
        self.lab.exec(HOST, "qemu-img", "compare", "-U", "-f", "qcow2", "-F", "qcow2", image, disk)


def _dashed(text: str) -> str:
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


@pytest.fixture(scope="session")
def small_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    """A lab of its own: its libvirtd is restarted, and its small pools are filled up."""
    if os.geteuid() != 0:
        pytest.skip("the lab makes namespaces: run the tests as root")
    running = RunningLab(tmp_path_factory.mktemp("lab"))
    try:
        running.run("up", "2", "--pool-size", POOL_SIZE)
        running.refresh()
        yield running
    finally:
        running.run("down", "--purge")


@pytest.fixture(scope="session")
def _site(
    small_lab: RunningLab, tiny_image: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Drill]:
    lab = small_lab
    real = lab.folder / "real-qemu-img"
    shutil.copy(QEMU_IMG, real)
    wrapper = lab.folder / "slow-qemu-img"
    wrapper.write_text(
        WRAPPER.format(log=lab.folder / "copies.log", real=real, rate=COPY_BYTES_PER_S)
    )
    wrapper.chmod(0o755)
    with Stack(
        tmp_path_factory.mktemp("site"),
        hosts=[(name, lab.host(name).socket_path) for name in (HOST, OTHER)],
        images=[
            StackImage(path=tiny_image),
            StackImage(path=tiny_image, name=SEEDLESS, has_cloud_init=False),
        ],
        lease_s=LEASE_S,
    ) as stack:
        drill = Drill(stack, lab)
        drill.set_mode(OTHER, "maintenance")
        # The image is brought to the host once, before anything is broken.
        drill.assert_next_create_works()
        yield drill


@pytest.fixture
def drill(_site: Drill) -> Iterator[Drill]:
    """The site as a drill finds it: nothing armed, no machine, and as it must leave it."""
    _site.stack.keep_running()
    yield _site
    _site.disarm()
    _clear(_site)


def _clear(site: Drill) -> None:
    left = [vm["uuid"] for vm in site.stack.api("GET", "/vms?page_size=200")["items"]]
    if left:
        site.settle(*[site.stack.delete(uuid) for uuid in left])
