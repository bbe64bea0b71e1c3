"""``scripts/test``: install what is missing, run every test, say how many passed."""

from __future__ import annotations

import argparse
import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from runner import pyenv, say, system
from runner.paths import CACHE, LOGS, PYTHON, ROOT, VENV

STAGES = ("check", "unit", "postgres", "pages", "lab", "e2e")
ROOT_STAGES = ("lab", "e2e")
BESIDE = ("pages", "lab", "e2e")
# Emulated guests and a browser on a busy machine miss a deadline now and then: such a test gets a
# second and a third try, and the summary counts them. Of the unit tests many talk to processes and
# sockets: one more try.
AGAIN = ("--reruns", "2", "-rR")
ONCE_MORE = ("--reruns", "1", "-rR")
# By thread: a test that hangs for good costs its worker and gets another, where the signal's
# exception would wait for the loop that hangs.
SPREAD = ("-n", "2", "-o", "timeout_method=thread")
NOT_UNIT = "not lab and not browser and not debian"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def pytest(title: str, *words: str, env: dict[str, str] | None = None, to: Any = None) -> bool:
    """One run of pytest, its output shown as it comes, or written ``to`` a file; True when it
    passed."""
    print(f"\n=== {title}", file=to, flush=True)
    began = time.monotonic()
    done = subprocess.run(
        [str(PYTHON), "-m", "pytest", "-q", *words],
        cwd=ROOT,
        env=dict(os.environ, KVMWEB_CACHE=str(CACHE), **(env or {})),
        check=False,
        stdout=to,
        stderr=subprocess.STDOUT if to else None,
    )
    took = f"{time.monotonic() - began:.0f} s"
    print(f"=== {title}: {took}, exit {done.returncode}", file=to, flush=True)
    return done.returncode == 0


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """A private PostgreSQL on a unix socket; yields its database URL."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
    if not binaries:
        raise say.StepFailed("no PostgreSQL server", "apt-get install postgresql")
    owner = "postgres" if system.is_root() else pwd.getpwuid(os.getuid()).pw_name
    home = Path(tempfile.mkdtemp(prefix="kvmweb-pg-", dir="/tmp"))
    become = ["setpriv", f"--reuid={owner}", f"--regid={owner}", "--clear-groups"]
    prefix = become if system.is_root() else []
    if system.is_root():
        shutil.chown(home, owner, owner)
    pg_ctl = [*prefix, str(binaries[-1] / "pg_ctl"), "-D", str(home / "data"), "-w"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "cwd": home}
    initdb = [*prefix, str(binaries[-1] / "initdb"), "-D", str(home / "data"), "-U", "kvmweb"]
    subprocess.run([*initdb, "--auth=trust", "--no-sync"], check=True, **quiet)  # type: ignore[call-overload]
    settings = f"-c listen_addresses= -c unix_socket_directories={home} -c fsync=off"
    start = [*pg_ctl, "-l", str(home / "log"), "-o", settings, "start"]
    subprocess.run(start, check=True, **quiet)  # type: ignore[call-overload]
    try:
        yield f"postgres://kvmweb@{str(home).replace('/', '%2F')}/postgres"
    finally:
        subprocess.run([*pg_ctl, "-m", "immediate", "stop"], check=False, **quiet)  # type: ignore[call-overload]
        shutil.rmtree(home, ignore_errors=True)


def find_chromium(step: say.Step) -> str:
    for name in CHROMIUM:
        if found := shutil.which(name):
            return found
    with contextlib.suppress(say.StepFailed):
        system.install(["chromium"], step=step)
    for name in CHROMIUM:
        if found := shutil.which(name):
            return found
    # Ubuntu has Chromium only as a snap: Playwright's own build is the way there.
    say.run(
        [PYTHON, "-m", "playwright", "install", "--with-deps", "chromium"],
        step=step,
        log=LOGS / "chromium.log",
        advice="install Chromium or Google Chrome by hand",
    )
    return ""


def prepare(*, install: bool, chromium: bool, guests: bool) -> None:
    if install:
        with say.Step("Packages") as step:
            packages = [*system.RUN_PACKAGES, *system.LAB_PACKAGES, *system.TEST_PACKAGES]
            new = system.install([*packages, *system.guest_packages()], step=step)
            # After the lists were brought up to date.
            some = system.offered(system.TEST_PACKAGES_WHERE_OFFERED)
            if shutil.which("node"):
                some = [name for name in some if name != "nodejs"]
            new += system.install(some, step=step)
            step.say(f"{len(new)} new")
    with say.Step("Python environment") as step:
        pyenv.sync(step=step, dev=True)
    if chromium:
        with say.Step("Chromium") as step:
            os.environ["KVMWEB_CHROMIUM"] = find_chromium(step)
    with say.Step("Texts") as step:
        say.run(
            [PYTHON, "manage.py", "compilemessages", "--ignore=.venv"],
            step=step,
            log=LOGS / "test.log",
            advice="look at the log",
            cwd=ROOT,
            shown=False,
            env=dict(os.environ, KVMWEB_SECRET_KEY="compile"),
        )
    if guests and system.is_root():
        for guest in ("tiny", "debian"):
            with say.Step(f"Guest image: {guest}") as step:
                say.run(
                    [ROOT / "guests" / "build", guest],
                    step=step,
                    env=dict(os.environ, KVMWEB_CACHE=str(CACHE)),
                    log=LOGS / "guest.log",
                    advice="look at the log",
                )


def run_stages(stages: Sequence[str], words: list[str]) -> list[str]:
    """Those that failed. An emulated guest keeps one core busy, so with all stages asked for the
    whole product is tried beside the pages and the lab; what it said is shown at the end."""
    wanted = [stage for stage in STAGES if stage in stages]
    if wanted != list(STAGES) or not system.is_root():
        return [stage for stage in wanted if not run_stage(stage, words)]
    failed = [stage for stage in wanted if stage not in BESIDE and not run_stage(stage, words)]
    log = LOGS / "test-e2e.log"
    with log.open("w") as said, ThreadPoolExecutor(1) as side:
        print(f"\n=== e2e runs beside the next ones: {log}", flush=True)
        whole = side.submit(run_stage, "e2e", words, said)
        failed += [stage for stage in ("pages", "lab") if not run_stage(stage, words)]
        passed = whole.result()
    print(log.read_text(errors="replace"), flush=True)
    return failed if passed else [*failed, "e2e"]


def run_stage(stage: str, words: list[str], to: Any = None) -> bool:
    if stage == "check":
        return (
            subprocess.run([str(ROOT / "scripts" / "check")], cwd=ROOT, check=False).returncode == 0
        )
    if stage == "unit":
        return pytest("Unit tests, SQLite", "-m", NOT_UNIT, *ONCE_MORE, *(words or SPREAD))
    if stage == "postgres":
        with postgres() as url:
            env = {"KVMWEB_DATABASE_URL": url}
            only = ("-m", NOT_UNIT, "--database-only", *ONCE_MORE)
            return pytest("Unit tests, PostgreSQL", *only, *(words or SPREAD), env=env)
    # Playwright's loop stays in its process: what drives Chromium gets processes of its own.
    if stage == "pages":
        return pytest("Pages in Chromium", "-m", "browser", "tests/front", *AGAIN, *words)
    if not system.is_root():
        print(f"{stage}: needs root (libvirt hosts in namespaces): run sudo ./scripts/test {stage}")
        return True
    if stage == "lab":
        apart = ["--ignore=tests/e2e", "--ignore=tests/front"]
        return pytest(
            "Real libvirt hosts and guests", "-m", "lab or debian", *apart, *AGAIN, *words
        )
    whole = ("-m", "lab", "tests/e2e", *AGAIN, *words)
    return pytest("The whole product, by browser and API", *whole, to=to)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="test", description="Install what is missing and run every test."
    )
    parser.add_argument("--no-install", action="store_true", help="install no packages")
    parser.add_argument("stages", nargs="*", help=f"some of: {' '.join(STAGES)} (default: all)")
    argv, words = sys.argv[1:], []
    if "--" in argv:  # what follows is pytest's
        argv, words = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    options = parser.parse_args(argv)
    if unknown := set(options.stages) - set(STAGES):
        parser.error(f"no such stage: {' '.join(unknown)}; pytest's own options come after --")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # pytest ends with us, as on Ctrl+C
    with say.failures_told("test"):
        LOGS.mkdir(parents=True, exist_ok=True)
        # Tests start some hundred processes: none compiles again what another one has.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(CACHE / "bytecode")
        # Last: the machine's own programs (virt-install) look for python3 on the path.
        os.environ["PATH"] = f"{os.environ['PATH']}:{VENV / 'bin'}"
        stages = options.stages or STAGES
        prepare(
            install=not options.no_install,
            chromium="pages" in stages or "e2e" in stages,
            guests=any(stage in stages for stage in ROOT_STAGES),
        )
        failed = run_stages(stages, words)
    if failed:
        print(f"\ntest: failed: {', '.join(failed)}", file=sys.stderr)
        sys.exit(1)
    print("\ntest: all passed")


if __name__ == "__main__":
    main()
