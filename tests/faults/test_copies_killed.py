"""Workers are killed at step boundaries of clones, snapshots, backups, restores, templates and
disks that are made independent; the pool fills, a disk's file and a domain go while they work.

A run takes some boundaries: KVMWEB_DRILL_SEED picks others, KVMWEB_DRILL_ALL=1 takes them all.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.faults.conftest import HOST, POOL_FOLDER, SEEDLESS, Drill
from tests.faults.test_killed_at_every_boundary import boundaries

pytestmark = [pytest.mark.lab, pytest.mark.broker, pytest.mark.timeout(1800)]

ALL = bool(os.environ.get("KVMWEB_DRILL_ALL"))
SEED = os.environ.get("KVMWEB_DRILL_SEED", "1")
PER_KIND = 2
FILLER = f"{POOL_FOLDER}/filler"
# What a machine of one disk, without a snapshot to go to, and not started, does not come to.
NOT_REACHED = {
    "vm.clone": ("disks", "rewind", "back", "seed", "boot", "address", "firstboot", "finish"),
    "vm.snapshot_revert": ("start",),
}


def some(kind: str, *which: str) -> list[str]:
    """Boundaries of it, to be killed at."""
    points = [
        point
        for point in boundaries(kind, *(which or ("before-do", "after-do")))
        if point.split("/")[1].split(":")[0] not in NOT_REACHED.get(kind, ())
    ]
    return points if ALL else random.Random(f"{SEED} {kind}").sample(points, PER_KIND)


def ask(drill: Drill, machine: dict[str, Any], path: str, body: Any = None) -> dict[str, Any]:
    answer: dict[str, Any] = drill.stack.api("POST", f"/vms/{machine['uuid']}/{path}", body)
    return answer


def killed(drill: Drill, points: list[str], *answers: dict[str, Any]) -> list[dict[str, Any]]:
    jobs = drill.settle(*answers)
    assert drill.disarm() == set(points), f"seed {SEED}"
    assert {job["state"] for job in jobs} == {"succeeded"}, (SEED, jobs)
    return jobs


def machines(drill: Drill, count: int, **changes: Any) -> list[dict[str, Any]]:
    answers = [drill.create(image=SEEDLESS, **changes) for _ in range(count)]
    assert {job["state"] for job in drill.settle(*answers)} == {"succeeded"}
    return [answer["vm"] for answer in answers]


def disk_of(drill: Drill, machine: dict[str, Any]) -> str:
    sql = "SELECT d.volume FROM vms_disk d JOIN vms_vm v ON v.id = d.vm_id WHERE v.uuid = ?"
    (volume,) = drill.stack.rows(sql, machine["uuid"].replace("-", ""))[0]
    return f"{POOL_FOLDER}/{volume}"


def assert_same(drill: Drill, one: str, other: str) -> None:
    drill.lab.exec(HOST, "qemu-img", "compare", "-U", "-f", "qcow2", "-F", "qcow2", one, other)


def kept_files(drill: Drill) -> set[str]:
    """Backups and template versions on the host; all copies of images look alike there."""
    names = drill.lab.exec(HOST, "ls", POOL_FOLDER).stdout.split()
    return {name for name in names if name.startswith("kvmweb-image-")}


def assert_nothing_is_left_over(drill: Drill) -> None:
    rows = drill.stack.rows(
        "SELECT i.uuid, i.format FROM vms_imagecopy c JOIN vms_image i ON i.id = c.image_id"
    )
    expected = {
        f"kvmweb-image-{'-'.join((u[:8], u[8:12], u[12:16], u[16:20], u[20:]))}.{form or 'qcow2'}"
        for u, form in rows
    }
    assert kept_files(drill) == expected
    states = drill.stack.rows("SELECT DISTINCT state FROM vms_imagecopy")
    assert states in ([], [("ready",)]), states
    drill.assert_nothing_is_orphaned()


def test_done_all_the_same(drill: Drill) -> None:
    cloned, snapped, kept, sealed = machines(drill, 4)
    image = disk_of(drill, cloned)

    points = [*some("vm.clone"), *some("vm.snapshot"), *some("vm.backup"), *some("template.make")]
    drill.arm(*[f"{point} kill" for point in points])
    clone = ask(drill, cloned, "clone", {"name": "drill-copy", "copy": "full", "start": False})
    template = ask(drill, sealed, "template", {"name": f"golden-{SEED}"})
    backup = ask(drill, kept, "backups")
    snapshot = ask(drill, snapped, "snapshots", {"name": "before", "memory": False})
    killed(drill, points, clone, template, backup, snapshot)
    assert_nothing_is_left_over(drill)
    assert_same(drill, image, disk_of(drill, clone["vm"]))
    for source in ("backup", "template"):
        sql = "SELECT uuid FROM vms_image WHERE source = ? AND state = 'ready'"
        (u,) = drill.stack.rows(sql, source)[-1]
        dashed = "-".join((u[:8], u[8:12], u[12:16], u[16:20], u[20:]))
        assert_same(drill, image, f"{POOL_FOLDER}/kvmweb-image-{dashed}.qcow2")

    kinds = ("vm.restore_backup", "vm.snapshot_revert", "vm.flatten")
    points = [point for kind in kinds for point in some(kind)]
    drill.arm(*[f"{point} kill" for point in points])
    restored = ask(drill, kept, "backups/1/restore", {})
    reverted = ask(drill, snapped, f"snapshots/{snapshot['snapshot']}/revert", {})
    flat = ask(drill, sealed, "flatten")
    killed(drill, points, restored, reverted, flat)
    assert_nothing_is_left_over(drill)
    for machine in (kept, sealed, snapped):
        assert_same(drill, image, disk_of(drill, machine))
    for machine in (kept, sealed):  # neither stands on anything any more
        shown = drill.lab.exec(HOST, "qemu-img", "info", "-U", disk_of(drill, machine)).stdout
        assert "backing file" not in shown


def test_undone_all_the_same(drill: Drill) -> None:
    """They fail at their end, and the worker dies while it takes back what was done."""
    cloned, kept, sealed = machines(drill, 3)
    before = kept_files(drill)
    points = [
        point
        for kind in ("vm.clone", "vm.backup", "template.make")
        for point in some(kind, "before-undo", "after-undo")
    ]
    ends = ("vm.clone/define", "vm.backup/sum", "template.make/copy")
    drill.arm(*[f"{p} kill" for p in points], *[f"{end}:after-do raise 2" for end in ends])
    answers = [
        ask(drill, cloned, "clone", {"name": "drill-not", "copy": "full", "start": False}),
        ask(drill, kept, "backups"),
        ask(drill, sealed, "template", {"name": f"lead-{SEED}"}),
    ]
    jobs = drill.settle(*answers)
    hit = drill.disarm()
    assert set(points) <= hit, (SEED, set(points) - hit)
    assert {job["state"] for job in jobs} == {"failed"}, (SEED, jobs)
    assert kept_files(drill) == before
    assert_nothing_is_left_over(drill)
    assert drill.stack.api("GET", f"/vms/{kept['uuid']}/backups")["count"] == 0


def idle(drill: Drill, machine: dict[str, Any]) -> None:
    """Until nothing is done with it: what it was lent for has ended before."""

    def free() -> bool:
        drill.reconcile()
        return not drill.stack.api("GET", f"/vms/{machine['uuid']}")["task"]

    drill.stack.wait(free, "nothing is done with it")


@contextmanager
def nearly_full_pool(drill: Drill, room_mib: int = 4) -> Iterator[None]:
    """Less room is left than a copy of the tiny image takes."""
    free = drill.lab.exec(HOST, "df", "--output=avail", "-B1M", POOL_FOLDER).stdout.split()[1]
    drill.lab.exec(HOST, "fallocate", "-l", f"{int(free) - room_mib}M", FILLER)
    try:
        yield
    finally:
        drill.lab.exec(HOST, "rm", FILLER)


def test_the_pool_fills_up_in_the_middle_of_a_copy_of_a_machine(drill: Drill) -> None:
    """A backup, a clone and a restore end with a clear error; what was there is there."""
    (machine,) = machines(drill, 1)
    disk = disk_of(drill, machine)
    before, original = kept_files(drill), f"{POOL_FOLDER}/../original.qcow2"
    drill.lab.exec(HOST, "cp", disk, original)
    with nearly_full_pool(drill):
        (backup,) = drill.settle(ask(drill, machine, "backups"))
        wanted = {"name": "drill-no-room", "copy": "full", "start": False}
        (clone,) = drill.settle(ask(drill, machine, "clone", wanted))
        idle(drill, machine)
    for job in (backup, clone):
        assert (job["state"], job["error"]["code"]) == ("failed", "virt.no_space"), job
        assert job["error"]["ref"], job
    assert kept_files(drill) == before
    assert_nothing_is_left_over(drill)
    (job,) = drill.settle(ask(drill, machine, "backups"))
    assert job["state"] == "succeeded", job
    with nearly_full_pool(drill):
        (restore,) = drill.settle(ask(drill, machine, "backups/1/restore", {}))
    assert (restore["state"], restore["error"]["code"]) == ("failed", "virt.no_space"), restore
    assert disk_of(drill, machine) == disk
    assert_same(drill, disk, original)
    assert_nothing_is_left_over(drill)
    (job,) = drill.settle(ask(drill, machine, "backups/1/restore", {}))
    assert job["state"] == "succeeded", job
    assert_same(drill, disk_of(drill, machine), original)
    drill.lab.exec(HOST, "rm", original)


def test_the_pool_fills_up_in_the_middle_of_a_snapshot_with_memory(drill: Drill) -> None:
    (machine,) = machines(drill, 1, start=True)
    with nearly_full_pool(drill, room_mib=2):
        (job,) = drill.settle(ask(drill, machine, "snapshots", {"name": "big", "memory": True}))
    said = (job["state"], (job["error"] or {}).get("code"))
    assert said == ("failed", "virt.no_space"), (job, drill.stack.tail())
    assert drill.lab.virsh(HOST, "snapshot-list", machine["uuid"], "--name").split() == []
    assert drill.stack.api("GET", f"/vms/{machine['uuid']}/snapshots")["items"] == []
    assert_nothing_is_left_over(drill)
    # What it had is whole, and takes a snapshot now.
    (job,) = drill.settle(ask(drill, machine, "force-off"))
    drill.lab.exec(HOST, "qemu-img", "check", "-q", disk_of(drill, machine))
    (job,) = drill.settle(ask(drill, machine, "snapshots", {"name": "small"}))
    assert job["state"] == "succeeded", job


def test_a_disk_whose_file_was_removed(drill: Drill) -> None:
    (machine,) = machines(drill, 1)
    (job,) = drill.settle(ask(drill, machine, "backups"))
    assert job["state"] == "succeeded", job
    before = kept_files(drill)
    drill.lab.exec(HOST, "rm", disk_of(drill, machine))
    drill.lab.virsh(HOST, "pool-refresh", "default")
    (job,) = drill.settle(ask(drill, machine, "backups"))
    assert (job["state"], job["error"]["code"]) == ("failed", "virt.no_such_volume"), job
    assert kept_files(drill) == before
    # What is left is enough to bring it back.
    (job,) = drill.settle(ask(drill, machine, "backups/1/restore", {}))
    assert job["state"] == "succeeded", job
    assert_nothing_is_left_over(drill)


def test_undefined_by_hand_in_the_middle_of_a_backup(drill: Drill) -> None:
    (machine,) = machines(drill, 1, copy="full")
    with drill.slow_copies():
        answer = ask(drill, machine, "backups")
        drill.stack.wait(drill.copies.exists, "the copy is under way", timeout_s=60)
        drill.lab.virsh(HOST, "undefine", machine["uuid"])
        (job,) = drill.settle(answer)
    assert job["state"] in {"succeeded", "failed"}, job
    drill.settle(drill.stack.delete(machine["uuid"]))
    assert_nothing_is_left_over(drill)
