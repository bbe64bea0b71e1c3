"""``scripts/up``: from a checkout to a running site with a first image and an admin."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from runner import libvirt, processes, pyenv, say, system
from runner.paths import CACHE, LOGS, PYTHON, ROOT, UP_JSON, VAR

ADMIN = "admin"
FIRST_PORT = 8000


def options_of(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="up", description="Install what is missing and start KVMWeb on this machine."
    )
    parser.add_argument("--detach", action="store_true", help="return when the site answers")
    parser.add_argument(
        "--lab",
        type=int,
        metavar="N",
        default=0,
        help="use N isolated libvirt hosts (a, b, c …) in place of this machine's libvirt",
    )
    parser.add_argument("--port", type=int, help=f"default: {FIRST_PORT}, or the next free one")
    parser.add_argument("--listen", default="127.0.0.1", help="address to listen on")
    parser.add_argument(
        "--carrier", choices=["asgi", "websockify"], default="asgi", help="of the VNC consoles"
    )
    parser.add_argument("--no-install", action="store_true", help="install no packages")
    parser.add_argument("--no-image", action="store_true", help="build no first image")
    options = parser.parse_args(argv)
    if not 0 <= options.lab <= 9:
        parser.error("--lab takes 1 to 9")
    return options


def get(url: str, timeout_s: float = 3) -> tuple[int, str]:
    """Status and body; (0, "") when nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")
    except OSError:
        return 0, ""


def manage(
    step: say.Step, *words: str, env: dict[str, str] | None = None, shown: bool = True
) -> None:
    say.run(
        [PYTHON, "manage.py", *words],
        step=step,
        log=LOGS / "up.log",
        advice="look at the log; ./scripts/down and then ./scripts/up starts afresh, data stays",
        env=dict(os.environ, **(env or {})),
        cwd=ROOT,
        shown=shown,
    )


def manage_output(*words: str, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(PYTHON), "manage.py", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ, **(env or {})),
    )
    if done.returncode:
        with (LOGS / "up.log").open("a") as log:
            log.write(done.stdout + done.stderr)
        raise say.StepFailed(f"manage.py {words[0]} failed", "look at the log", log=LOGS / "up.log")
    return done.stdout.strip()


def running_site() -> dict[str, Any] | None:
    """What the first ``up`` wrote, when that site still answers."""
    if processes.supervisor_pid() is None:
        return None
    try:
        found: dict[str, Any] = json.loads(UP_JSON.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return found if get(found["url"] + "/healthz")[0] == 200 else None


def free_port(wanted: int | None, listen: str) -> int:
    for port in [wanted] if wanted else range(FIRST_PORT, FIRST_PORT + 20):
        with socket.socket(socket.AF_INET6 if ":" in listen else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((listen, port))
            except OSError:
                continue
            return port
    raise say.StepFailed(
        f"port {wanted or FIRST_PORT} is taken on {listen}", "choose another with --port"
    )


def write_up_json(found: dict[str, Any]) -> None:
    descriptor = os.open(UP_JSON, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as out:
        json.dump(found, out, indent=1)
        out.write("\n")
    UP_JSON.chmod(0o600)


def previous() -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((VAR / "admin.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found


def make_admin(step: say.Step) -> dict[str, str]:
    """The admin with a random password, and an API token; kept over a second ``up``."""
    known = previous()
    password = known.get("password") or secrets.token_urlsafe(12)
    manage(
        step,
        "kvmweb_init",
        env={"KVMWEB_ADMIN_NAME": ADMIN, "KVMWEB_ADMIN_PASSWORD": password},
        shown=False,
    )
    token = known.get("token")
    if not token:
        token = manage_output(
            "create_token", ADMIN, "--name", "scripts/up", "--scopes", "read,write,admin"
        )
        token = token.split()[-1]
    found = {"admin": ADMIN, "password": password, "token": token}
    path = VAR / "admin.json"
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(json.dumps(found))
    return found


def add_hosts(
    options: argparse.Namespace, step: say.Step, lab: list[dict[str, str]]
) -> list[dict[str, str]]:
    if not options.lab:
        manage(step, "add_host", "--name", "local", "--transport", "local")
        return [{"name": "local", "uri": libvirt.URI}]
    for host in lab:
        manage(
            step,
            *("add_host", "--name", host["name"]),
            *("--transport", "unix", "--socket-path", host["socket_path"]),
        )
    return [{"name": host["name"], "uri": host["uri"]} for host in lab]


def publish_tiny(step: say.Step) -> None:
    """Build the tiny guest (once; it is cached) and publish it as the first image."""
    image = CACHE / "guests" / "tiny.qcow2"
    image.parent.mkdir(parents=True, exist_ok=True)
    say.run(
        system.as_root(
            ["env", f"KVMWEB_CACHE={CACHE}", str(ROOT / "guests" / "build"), "tiny", str(image)]
        ),
        step=step,
        log=LOGS / "guest.log",
        advice="look at the log; ./scripts/up --no-image starts without it",
    )
    manage(
        step,
        *("add_image", "--file", str(image), "--name", "Tiny Linux", "--os-id", "tiny"),
        *("--publish", "--default-user", "tiny"),
        *("--description", "A 20 MB Linux to try things with: boots in seconds"),
        *("--min-memory-mib", "128", "--min-disk-gib", "1"),
    )


def start(options: argparse.Namespace) -> dict[str, Any]:
    if not options.no_install:
        with say.Step("Packages") as step:
            wanted = [*system.RUN_PACKAGES, *system.guest_packages()]
            installed = system.install(
                wanted + (system.LAB_PACKAGES if options.lab else []), step=step
            )
            step.say(f"{len(installed)} installed" if installed else "all there")
    with say.Step("Python environment") as step:
        pyenv.sync(step=step)
    lab: list[dict[str, str]] = []
    if options.lab:
        with say.Step(f"Lab: {options.lab} isolated libvirt hosts") as step:
            lab = libvirt.lab_up(options.lab, step)
    else:
        system.enter_libvirt_group()
        with say.Step("libvirt") as step:
            libvirt.ensure(step)
    port = free_port(options.port, options.listen)
    allowed = ["localhost", "127.0.0.1", "[::1]", socket.gethostname()]
    if options.listen not in ("127.0.0.1", "::1"):
        allowed = ["*"] if options.listen in ("0.0.0.0", "::") else [*allowed, options.listen]
    extra = {
        "KVMWEB_VAR": str(VAR),
        "KVMWEB_CONSOLE_CARRIER": options.carrier,
        "KVMWEB_READY_REQUIRES": "worker,beat,watch",
        "KVMWEB_ALLOWED_HOSTS": ",".join(allowed),
    }
    for name, value in os.environ.items():
        if name.startswith("KVMWEB_") and name not in extra:
            extra[name] = value
    os.environ["KVMWEB_VAR"] = str(VAR)
    processes.write_config(
        listen=options.listen, port=port, carrier=options.carrier, extra_env=extra
    )
    with say.Step("Database, texts and static files") as step:
        manage(step, "migrate", "--no-input", shown=False)
        manage(step, "compilemessages", "--ignore=.venv", shown=False)
        manage(step, "collectstatic", "--no-input", shown=False)
    with say.Step("Redis") as step:
        processes.start_supervisor(step=step)
        processes.note_started(supervisor=True)
        processes.wait_until(
            (VAR / "redis.sock").exists,
            timeout_s=20,
            what="Redis has no socket",
            log=LOGS / "redis.log",
        )
    with say.Step("Admin") as step:
        found: dict[str, Any] = make_admin(step)
        manage(step, "add_default_flavors", shown=False)
    with say.Step("Site, workers, watcher") as step:
        shown = processes.supervisorctl("start", "all")
        if shown.returncode not in (0, 7):
            raise say.StepFailed("not all started: " + shown.stdout.strip(), "look into var/log")
        everywhere = options.listen in ("0.0.0.0", "::")
        url = f"http://{'127.0.0.1' if everywhere else options.listen}:{port}"
        processes.wait_until(
            lambda: get(url + "/healthz")[0] == 200,
            timeout_s=60,
            what="the site does not answer",
            log=LOGS / "web.log",
        )
    with say.Step("Host checks (virt-host-validate, and a probe guest for acceleration)") as step:
        hosts = add_hosts(options, step, lab)
    if not options.no_image:
        with say.Step("First image: the tiny guest") as step:
            publish_tiny(step)
    with say.Step("Ready") as step:
        processes.wait_until(
            lambda: get(url + "/readyz")[0] == 200,
            timeout_s=60,
            what="/readyz does not say yes: " + get(url + "/readyz")[1][:300],
            log=LOGS / "web.log",
        )
    return {"url": url, **found, "hosts": hosts}


def host_findings(found: dict[str, Any]) -> list[dict[str, Any]]:
    """What was checked on the hosts, as their pages say it."""
    request = urllib.request.Request(
        found["url"] + "/api/v1/hosts", headers={"Authorization": f"Bearer {found['token']}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            items: list[dict[str, Any]] = json.load(answer)["items"]
    except OSError:
        return []
    return items


def tell(found: dict[str, Any]) -> None:
    for host in host_findings(found):
        print(
            f"\n  Host {host['name']}: {host['cpus']} CPUs, {host['memory_mib'] // 1024} GiB",
            end="",
        )
        print(f", libvirt {host['libvirt_version']}, QEMU {host['qemu_version']}")
        for check in host["checks"]:
            if check["result"] in ("warn", "fail"):
                print(f"    ! {check['text']}")
                if check["todo"]:
                    print(f"      {check['todo']}")
            elif check["key"].startswith("acceleration"):
                print(f"    · {check['text']}")
    print(
        f"\n  KVMWeb is at  {found['url']}\n"
        f"  sign in as    {found['admin']}\n"
        f"  password      {found['password']}\n"
        f"\n  logs: {LOGS}   end it: ./scripts/down\n",
        flush=True,
    )


def main() -> None:
    options = options_of()
    with say.failures_told("up"):
        LOGS.mkdir(parents=True, exist_ok=True)
        VAR.chmod(0o700)
        with (VAR / "up.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise say.StepFailed(
                    "another ./scripts/up is at work in this checkout", "wait until it has finished"
                ) from None
            found = running_site()
            if found:
                print("KVMWeb is running already.")
                options.detach = True  # the first one stays the one that ends it
            else:
                processes.stop_supervisor()
                found = start(options)
                write_up_json(found)
        tell(found)
        if not options.detach:
            wait_for_the_end()


def wait_for_the_end() -> None:
    """Stay until Ctrl+C (or TERM), then end what was started."""
    print("Ctrl+C ends it.", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        signal.pause()
    except (KeyboardInterrupt, SystemExit):
        print()
        script = Path(ROOT / "scripts" / "down")
        os.execv(script, [str(script)])


if __name__ == "__main__":
    main()
