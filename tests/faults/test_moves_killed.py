"""Moves to another host, while a machine runs and while it is off: workers are killed at each step
boundary and in the middle, the target's pool fills, a person cancels, and an admin destroys and
undefines the domain meanwhile. After each the machine is whole on exactly one of the two hosts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.faults.conftest import HOST, OTHER, POOL_FOLDER, SEEDLESS, Drill
from tests.faults.test_killed_at_every_boundary import boundaries

pytestmark = [pytest.mark.lab, pytest.mark.broker, pytest.mark.timeout(900)]

FILLER = f"{POOL_FOLDER}/filler"
ROOM_MIB = 4  # less than what a machine here has written
# What stands on the machine's disk, where its guest writes nothing.
KEPT = "0x5a 600M 12M"
SLOWLY, FAST = "1", "1000"  # MiB/s
MIDDLE_S = 60


@pytest.fixture
def both(drill: Drill) -> Iterator[Drill]:
    """The second host takes what moves; new machines are made on the first, while it does not."""
    yield drill
    drill.set_mode(OTHER, "maintenance")


def machines(
    drill: Drill, *, live: int = 0, off: int = 0, speed: str = FAST, **changes: Any
) -> list[str]:
    """Their UUIDs, those that run first: each with something on its disk."""
    answers = [drill.create(image=SEEDLESS, **changes) for _ in range(live + off)]
    assert {job["state"] for job in drill.settle(*answers)} == {"succeeded"}
    uuids = [str(answer["vm"]["uuid"]) for answer in answers]
    for uuid in uuids:
        drill.lab.exec(HOST, "qemu-io", "-f", "qcow2", "-c", f"write -P {KEPT}", disk(uuid))
    jobs = drill.settle(*[ask(drill, uuid, "start") for uuid in uuids[:live]]) if live else []
    assert {job["state"] for job in jobs} <= {"succeeded"}
    for uuid in uuids[:live]:
        drill.lab.virsh(HOST, "migrate-setspeed", uuid, speed)
    drill.set_mode(OTHER, "active")
    return uuids


def ask(drill: Drill, uuid: str, path: str, body: Any = None) -> dict[str, Any]:
    answer: dict[str, Any] = drill.stack.api("POST", f"/vms/{uuid}/{path}", body, user="admin")
    return answer


def move(drill: Drill, *uuids: str) -> list[dict[str, Any]]:
    ((host,),) = drill.stack.rows("SELECT id FROM hosts_host WHERE name = ?", OTHER)
    return [ask(drill, uuid, "migrate", {"host": host}) for uuid in uuids]


def disk(uuid: str) -> str:
    return f"{POOL_FOLDER}/kvmweb-{uuid}-vda.qcow2"


def nvram(uuid: str) -> str:
    return f"{POOL_FOLDER}/kvmweb-{uuid}-nvram.fd"


def has_booted(drill: Drill, host: str, uuid: str) -> bool:
    """UEFI has written down there what it boots."""
    words = ("grep", "-qaP", r"\x00".join("BootOrder"), nvram(uuid))
    return drill.lab.exec(host, *words, check=False).returncode == 0


def goes(drill: Drill, uuid: str) -> bool:
    said = drill.lab.run("virsh", HOST, "domjobinfo", uuid, check=False).stdout
    return "Outgoing migration" in said


def in_the_middle(drill: Drill, uuid: str) -> None:
    """Until libvirt moves it, and something of it is there."""

    def moves() -> bool:
        return goes(drill, uuid) and uuid in drill.domains(OTHER)

    drill.stack.wait(moves, "it is moving", timeout_s=MIDDLE_S)


def is_whole_on(drill: Drill, host: str, *uuids: str, state: str) -> None:
    """Its rows say so too, and nothing of it is anywhere else."""
    drill.assert_nothing_is_orphaned()
    for uuid in uuids:
        assert drill.lab.virsh(host, "domstate", uuid).strip() == state
        path = disk(uuid)
        wanted = ("qemu-io", "-r", "-U", "-f", "qcow2", "-c", f"read -P {KEPT}", path)
        said = drill.lab.exec(host, *wanted).stdout
        assert "verification failed" not in said, said
        if state == "shut off":
            drill.lab.exec(host, "qemu-img", "check", "-q", path)
        assert "backing file:" in drill.lab.exec(host, "qemu-img", "info", "-U", path).stdout
        facts = seen(drill, uuid, lambda facts: facts["state"] == state.replace(" ", ""))
        assert (facts["host"], facts["task"]) == (host, None)


def fits(drill: Drill, uuid: str) -> None:
    """Until the site has seen the room that there is again."""

    def says() -> bool:
        found = drill.stack.api("GET", f"/vms/{uuid}/migrate", user="admin")
        return any(place["name"] == OTHER and place["fits"] for place in found["items"])

    drill.stack.wait(says, "it could move", timeout_s=2 * MIDDLE_S)


def seen(drill: Drill, uuid: str, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def says() -> bool:
        found.update(drill.stack.api("GET", f"/vms/{uuid}", user="admin"))
        return wanted(found)

    drill.stack.wait(says, f"the site says so of {uuid}", timeout_s=MIDDLE_S)
    return found


def ended(jobs: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(job["state"], (job["error"] or {}).get("code", "")) for job in jobs]


def test_killed_at_each_boundary(both: Drill) -> None:
    """With what UEFI remembers of them."""
    runs, off = machines(both, live=1, off=1, hardware={"firmware": "uefi"})
    both.lab.exec(HOST, "dd", "if=/dev/urandom", f"of={nvram(off)}", "bs=1k", "count=528")
    remembered = both.lab.exec(HOST, "sha256sum", nvram(off)).stdout
    both.stack.wait(lambda: has_booted(both, HOST, runs), "it boots", timeout_s=MIDDLE_S)
    points = [f"vm.migrate/{point}" for point in ("claim:after", "final:before")]
    points += [f"host.leave/{point}" for point in ("claim:after", "final:before")]
    points += boundaries("vm.migrate", "before-do", "after-do")
    points += boundaries("host.leave", "before-do", "after-do")
    both.arm(*[f"{point} kill" for point in points])
    assert ended(both.settle(*move(both, runs, off))) == [("succeeded", "")] * 2
    is_whole_on(both, OTHER, runs, state="running")
    is_whole_on(both, OTHER, off, state="shut off")
    assert both.lab.exec(OTHER, "sha256sum", nvram(off)).stdout == remembered
    assert has_booted(both, OTHER, runs)
    both.assert_a_recount_agrees()
    assert both.disarm() == set(points)


def test_killed_while_it_goes_and_while_it_is_undone(both: Drill) -> None:
    runs, off = machines(both, live=1, off=1, speed=SLOWLY)
    points = [
        point
        for point in boundaries("vm.migrate", "before-undo", "after-undo")
        if "/move:" not in point
    ]
    both.arm(*[f"{point} kill" for point in points], "vm.migrate/switch:before-do raise")
    asked = move(both, runs, off)
    in_the_middle(both, runs)
    both.kill_children("bulk")
    # libvirt ends it with the connection that asked for it; the next attempt is not slow.
    both.stack.wait(lambda: not goes(both, runs), "it ends", timeout_s=MIDDLE_S)
    both.lab.virsh(HOST, "migrate-setspeed", runs, FAST)
    assert ended(both.settle(*asked)) == [("succeeded", ""), ("failed", "job.internal")]
    is_whole_on(both, OTHER, runs, state="running")
    is_whole_on(both, HOST, off, state="shut off")
    both.assert_a_recount_agrees()
    assert both.disarm() == {*points, "vm.migrate/switch:before-do"}


def test_what_else_happens_while_they_go(both: Drill) -> None:
    """One that runs is asked to move again and again, at last with one that is off."""
    runs, off = machines(both, live=1, off=1, speed=SLOWLY)

    # A person cancels, and the worker is killed while that is undone.
    points = ["vm.migrate/move:before-undo", "vm.migrate/move:after-undo"]
    both.arm(*[f"{point} kill" for point in points])
    (asked,) = move(both, runs)
    in_the_middle(both, runs)
    both.stack.api("POST", f"/jobs/{asked['job']['id']}/cancel", user="admin")
    assert ended(both.settle(asked)) == [("cancelled", "")]
    is_whole_on(both, HOST, runs, state="running")
    assert both.disarm() == set(points)

    # What arrives is destroyed by hand.
    (asked,) = move(both, runs)
    in_the_middle(both, runs)
    both.lab.virsh(OTHER, "destroy", runs)
    (job,) = both.settle(asked)
    assert job["state"] == "failed", job
    is_whole_on(both, HOST, runs, state="running")

    # The pool there fills up after they were placed.
    both.arm("vm.migrate/move:before-do hold", "vm.migrate/copy:before-do hold")
    jobs = move(both, runs, off)
    both.wait_for_hits(2)
    df = both.lab.exec(OTHER, "df", "--output=avail", "-B1M", POOL_FOLDER).stdout
    both.lab.exec(OTHER, "fallocate", "-l", f"{int(df.split()[1]) - ROOM_MIB}M", FILLER)
    both.lab.virsh(HOST, "migrate-setspeed", runs, FAST)
    both.disarm()
    try:
        jobs = both.settle(*jobs)
    finally:
        both.lab.exec(OTHER, "rm", FILLER)
        both.lab.virsh(OTHER, "pool-refresh", "default")
    assert ended(jobs) == [("failed", "virt.no_space")] * 2, both.stack.tail()
    assert all(job["error"]["ref"] for job in jobs)
    is_whole_on(both, HOST, runs, state="running")
    is_whole_on(both, HOST, off, state="shut off")

    # It is destroyed by hand. (libvirt itself refuses to undefine one that is migrated.)
    both.lab.virsh(HOST, "migrate-setspeed", runs, SLOWLY)
    fits(both, runs)
    (asked,) = move(both, runs)
    in_the_middle(both, runs)
    both.lab.virsh(HOST, "destroy", runs)
    assert ended(both.settle(asked)) == [("failed", "vm.why.move_stopped")]
    is_whole_on(both, HOST, runs, state="shut off")
    both.assert_a_recount_agrees()


def test_started_and_undefined_by_hand_before_they_went(both: Drill) -> None:
    """Two that are off: their files are there already."""
    started, undefined = machines(both, off=2)
    both.arm("vm.migrate/switch:before-do hold 2")
    asked = move(both, started, undefined)
    both.wait_for_hits(2)
    both.lab.virsh(HOST, "start", started)
    definition = both.lab.folder / "undefined.xml"
    definition.write_text(both.lab.virsh(HOST, "dumpxml", "--security-info", undefined))
    both.lab.virsh(HOST, "undefine", undefined)
    both.disarm()
    said = ended(both.settle(*asked))
    assert said == [("failed", "vm.why.move_started"), ("failed", "virt.no_such_domain")]
    assert undefined not in both.domains() | both.domains(OTHER)
    # Its files were kept where it was: an admin who defines it again has it back.
    both.lab.virsh(HOST, "define", str(definition))
    is_whole_on(both, HOST, started, state="running")
    is_whole_on(both, HOST, undefined, state="shut off")
    both.assert_a_recount_agrees()
