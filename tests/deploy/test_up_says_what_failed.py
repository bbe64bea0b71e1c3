"""``scripts/up`` that cannot go on: which step, why, and what to do; and nothing stays behind."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
A_STEP_THAT_FAILS = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from runner import say
with say.failures_told("up"), say.Step("First image") as step:
    say.run(["sh", "-c", "echo no room; exit 3"], step=step, log=Path(sys.argv[2]), advice="--x")
"""


def test_a_step_that_fails_is_named_with_its_log_and_a_way_on(tmp_path: Path) -> None:
    log = tmp_path / "guest.log"
    done = subprocess.run(
        [sys.executable, "-c", A_STEP_THAT_FAILS, str(ROOT / "scripts"), str(log)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "✗ First image" in done.stdout
    assert "sh ended with code 3" in done.stderr
    assert f"the last lines of {log}:" in done.stderr
    assert "no room" in done.stderr
    assert "What to do: --x" in done.stderr


def test_a_taken_port_ends_it_before_anything_is_begun(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [ROOT / "scripts" / "up", "--no-install", "--detach", "--port", str(port)],
            env=os.environ | {"KVMWEB_VAR": str(tmp_path / "var")},
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=60,
        )
    assert done.returncode == 1
    assert f"port {port} is taken" in done.stderr
    assert "What to do: choose another with --port" in done.stderr
    assert not (tmp_path / "var" / "up.json").exists()
    assert not (tmp_path / "var" / "started.json").exists()
    shutil.rmtree(tmp_path / "var")


AS_SG_STARTS_IT = """
import grp, os, sys
sys.path.insert(0, sys.argv[1])
from runner import system
group = grp.struct_group(("libvirt", "x", 4711, ["dev"]))
system.is_root, grp.getgrnam = lambda: False, lambda name: group
os.getgroups, os.getegid = lambda: [1000], lambda: 4711
system.enter_libvirt_group()
print("goes on")
"""


def test_the_group_that_sg_gives_is_enough() -> None:
    """It is the first group of the process, and not among the others."""
    done = subprocess.run(
        [sys.executable, "-c", AS_SG_STARTS_IT, str(ROOT / "scripts")],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"KVMWEB_UP_REENTERED": "1"},
    )
    assert done.stdout == "goes on\n", done.stderr
