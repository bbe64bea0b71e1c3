"""A site on one lab host for the benchmarks of creation, and how long it takes to make machines."""

from __future__ import annotations

import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.bare import POOL, Bare
from tests.stack import Stack, StackImage

HOST = "a"
POLL_S = 0.005
NEWS_S = 0.002
PATIENCE_S = 300.0
SEEDLESS = "Tiny without a seed"  # its machines are whole without having booted
UNFINISHED = {"queued", "running", "compensating"}
SIZE: dict[str, Any] = {"vcpus": 1, "memory_mib": 64, "disk_gib": 1}


class Site:
    def __init__(self, stack: Stack, bare: Bare) -> None:
        self.stack = stack
        self.bare = bare
        self._made = 0
        self._line = sqlite3.connect(f"file:{stack.database}?mode=ro", uri=True, timeout=30)
        self._seen = -1
        first = self._ask()
        self._wait_running([first["vm"]["uuid"]])  # brings the image to the host, once
        self.image = self.file_of(1)  # the first that was added
        self.template_xml = bare.dump(first["vm"]["name"])
        self._remove([first["vm"]["uuid"]])

    def script(self, count: int, *, image: str = "") -> float:
        return self.bare.run(
            template_xml=self.template_xml,
            image=image or self.image,
            disk_gib=SIZE["disk_gib"],
            count=count,
        )

    def make(self, count: int, **changes: Any) -> float:
        """Seconds from the first POST until the last of them runs. They are removed again."""
        begin = time.monotonic()
        uuids = [self._ask(**changes)["vm"]["uuid"] for _ in range(count)]
        self._wait_running(uuids)
        took = time.monotonic() - begin
        self._remove(uuids)
        return took

    def machine(self, **changes: Any) -> dict[str, Any]:
        """One that stays: its facts, once its making is over or it runs."""
        answer = self._ask(**changes)
        if changes.get("start", True):
            self._wait_running([answer["vm"]["uuid"]])
            self._settle([answer["vm"]["uuid"]])
        else:
            self.timed_job(lambda: answer)
        found: dict[str, Any] = self.stack.api("GET", f"/vms/{answer['vm']['uuid']}")
        return found

    def timed_job(self, ask: Callable[[], dict[str, Any]]) -> float:
        """Seconds from the request until the job that it gives has succeeded."""
        begin = time.monotonic()
        answer = ask()
        while (state := self.stack.states([answer["job"]["id"]])) & UNFINISHED:
            if time.monotonic() - begin > PATIENCE_S:
                raise RuntimeError(f"the job does not end\n{self.stack.tail()}")
            self._wait_for_a_write()
        took = time.monotonic() - begin
        if state != {"succeeded"}:
            raise RuntimeError(f"the job failed: {self.stack.job(answer['job']['id'])}")
        return took

    def wait_booted(self, uuid: str) -> None:
        """Until its first boot is over and its seed is gone."""
        sql = (
            "SELECT 1 FROM vms_vm v WHERE v.uuid = ? AND v.seed_volume = '' AND NOT EXISTS"
            " (SELECT 1 FROM jobs_job j WHERE j.vm_id = v.id AND j.state IN ('queued', 'running'))"
        )
        end = time.monotonic() + PATIENCE_S
        while not self.stack.rows(sql, uuid.replace("-", "")):
            if time.monotonic() > end:
                raise RuntimeError(f"it does not boot\n{self.stack.tail()}")
            time.sleep(POLL_S)

    def domain_of(self, uuid: str) -> str:
        sql = "SELECT domain_name FROM vms_vm WHERE uuid = ?"
        name: str = self.stack.rows(sql, uuid.replace("-", ""))[0][0]
        return name

    def remove(self, uuid: str) -> None:
        self._remove([uuid])

    def _wait_for_a_write(self) -> None:
        """Somebody has written to the database since the last call, or a second has gone by. Asking
        for the row again and again would take a good part of a core from what is measured."""
        end = time.monotonic() + 1
        while time.monotonic() < end:
            seen: int = self._line.execute("PRAGMA data_version").fetchone()[0]
            if seen != self._seen:
                self._seen = seen
                return
            time.sleep(NEWS_S)

    def _ask(self, **changes: Any) -> dict[str, Any]:
        self._made += 1
        return self.stack.create(name=f"bench-{self._made}", **(SIZE | changes))

    def _wait_running(self, uuids: list[str]) -> None:
        keys = [uuid.replace("-", "") for uuid in uuids]
        marks = ",".join("?" * len(keys))
        sql = f"SELECT count(*) FROM vms_vm WHERE observed = 'running' AND uuid IN ({marks})"
        end = time.monotonic() + PATIENCE_S
        while self.stack.rows(sql, *keys)[0][0] < len(keys):
            if failed := self.stack.rows("SELECT error_code FROM jobs_job WHERE state = 'failed'"):
                raise RuntimeError(f"jobs failed: {failed}")
            if time.monotonic() > end:
                raise RuntimeError(f"they do not run\n{self.stack.tail()}")
            self._wait_for_a_write()

    def _remove(self, uuids: list[str]) -> None:
        self._settle(uuids)
        self.stack.wait_final(*[self.stack.delete(uuid) for uuid in uuids], timeout_s=PATIENCE_S)

    def _settle(self, uuids: list[str]) -> None:
        """A domain runs a moment before its job has written that it booted."""
        keys = [uuid.replace("-", "") for uuid in uuids]
        marks = ",".join("?" * len(keys))
        busy = (
            "SELECT count(*) FROM jobs_job j JOIN vms_vm v ON v.id = j.vm_id WHERE j.observing = 0 "
            f"AND j.state IN ('queued', 'running', 'compensating') AND v.uuid IN ({marks})"
        )
        end = time.monotonic() + PATIENCE_S
        while self.stack.rows(busy, *keys)[0][0] and time.monotonic() < end:
            time.sleep(POLL_S)

    def file_of(self, image_id: int) -> str:
        """Its copy on the host."""
        (key,) = self.stack.rows("SELECT uuid FROM vms_image WHERE id = ?", image_id)[0]
        dashed = "-".join((key[:8], key[8:12], key[12:16], key[16:20], key[20:]))
        return f"{POOL}/kvmweb-image-{dashed}.qcow2"


def against(benchmark: str, site: list[float], plain: list[float], **more: Any) -> str:
    """``compared`` as the JSON of a benchmark."""
    return json.dumps({"benchmark": benchmark, **compared(site, plain, **more)}, indent=1)


def compared(
    site: list[float], plain: list[float], *, factor: float, extra_s: float = 0.0, **more: Any
) -> dict[str, Any]:
    """The medians of both, in one run, and whether the goal is met. ``extra_s``: for what the
    plain way does not do (the row, the door, the quota, the seed)."""
    site_s, plain_s = statistics.median(site), statistics.median(plain)
    return {
        **more,
        "site_s": [round(value, 3) for value in site],
        "plain_s": [round(value, 3) for value in plain],
        "site_median_s": round(site_s, 3),
        "plain_median_s": round(plain_s, 3),
        "ratio": round(site_s / plain_s, 2),
        "goal": f"at most {factor} x" + (f" + {extra_s} s" if extra_s else ""),
        "met": site_s <= plain_s * factor + extra_s,
    }


@contextmanager
def running_site(lab_folder: Path | None, *, pages: bool = False) -> Iterator[Site]:
    """On host a of the lab in ``lab_folder``; None: a lab is made for it."""
    with tempfile.TemporaryDirectory(prefix="kvmweb-bench-") as temporary:
        folder = Path(temporary)
        lab = [str(ROOT / "scripts" / "lab"), "--dir", str(lab_folder or folder / "lab")]
        if lab_folder is None:
            _run([*lab, "up", "1"])
        try:
            hosts = json.loads(_run([*lab, "status", "--json"]))
            socket_path = next(host["socket_path"] for host in hosts if host["name"] == HOST)
            tiny = _run([str(ROOT / "guests" / "build"), "tiny"]).splitlines()[-1]
            with Stack(
                folder / "site",
                hosts=[(HOST, socket_path)],
                images=[
                    StackImage(path=Path(tiny)),
                    StackImage(path=Path(tiny), name=SEEDLESS, has_cloud_init=False),
                ],
                pages=pages,
            ) as stack:
                yield Site(stack, Bare(lab, HOST, folder))
        finally:
            if lab_folder is None:
                _run([*lab, "down", "--purge"])


def _run(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{argv}: {done.stdout}{done.stderr}")
    return done.stdout
