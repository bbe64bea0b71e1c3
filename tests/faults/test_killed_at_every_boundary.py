"""A worker is killed at each boundary of each step of making, undoing and deleting a machine."""

from __future__ import annotations

from typing import Any

import pytest

from jobs import registry
from tests.faults.conftest import LEASE_S, Drill

pytestmark = [pytest.mark.lab, pytest.mark.broker, pytest.mark.timeout(900)]

# Between them they come through every step but the one that only a template's machines with UEFI
# have (vms/test_nvram_and_tpm.py).
NOT_THEIRS = ("nvram",)
SECOND_DISK = {"disks": [{"size_gib": 1}]}
WAYS: tuple[dict[str, Any], ...] = ({"start": True}, {"copy": "full", **SECOND_DISK})
# Each kill costs one lease. With the site's own (60 s) several are made at once and die in turn:
# as many as the small pool promises to hold.
TOGETHER = 1 if LEASE_S < 30 else 2


def boundaries(kind: str, *which: str) -> list[str]:
    return [
        f"{kind}/{step.key}:{when}"
        for step in registry.get(kind).steps
        for when in which
        if step.key not in NOT_THEIRS and (when.endswith("-do") or step.undo is not None)
    ]


def test_while_made_and_while_deleted(drill: Drill) -> None:
    points = [*boundaries("vm.create", "before-do", "after-do"), "vm.create/final:before"]
    points.append("vm.create/claim:after")
    drill.arm(*[f"{point} kill" for point in points])
    asked = [drill.create(**how) for how in WAYS for _ in range(TOGETHER)]
    jobs = drill.settle(*asked)
    assert drill.disarm() == set(points)
    assert {job["state"] for job in jobs} == {"succeeded"}, jobs
    drill.assert_nothing_is_orphaned()
    drill.assert_a_recount_agrees()
    drill.assert_disk_is_whole(asked[-1])

    points = [*boundaries("vm.delete", "before-do", "after-do"), "vm.delete/final:before"]
    points = [point for point in points if "/keep:" not in point and "/sum:" not in point]
    drill.arm(*[f"{point} kill" for point in points])
    removals = [drill.stack.delete(answer["vm"]["uuid"]) for answer in asked]
    jobs = drill.settle(*removals)
    assert drill.disarm() == set(points)
    assert {job["state"] for job in jobs} == {"succeeded"}, jobs
    assert drill.domains() == set()
    assert drill.files() == set()
    drill.assert_next_create_works()


def test_while_undone(drill: Drill) -> None:
    points = boundaries("vm.create", "before-undo", "after-undo")
    drill.arm(
        # The worker and its child in turn, so that a whole worker dies as well.
        *[f"{point} {('kill', 'kill-worker')[n % 2 and n < 4]}" for n, point in enumerate(points)],
        "vm.create/boot:after-do raise 2",
    )
    copied = drill.create(start=True, copy="full", **SECOND_DISK)
    jobs = drill.settle(drill.create(start=True), copied)
    hit = drill.disarm()
    assert set(points) <= hit, set(points) - hit
    assert [(job["state"], job["error"]["code"]) for job in jobs] == [
        ("failed", "job.internal"),
        ("failed", "job.internal"),
    ]
    drill.assert_nothing_is_orphaned()
    assert drill.domains() == set()
    assert drill.files() == set()
    drill.assert_next_create_works()
