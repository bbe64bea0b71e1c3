"""``scripts/up``: from a checkout to a running site with a first image and an admin."""

from __future__ import annotations

import argparse
import contextlib
import errno
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from runner import down, libvirt, processes, pyenv, say, system
from runner.paths import CACHE, LOGS, PYTHON, REDIS_SOCKET, ROOT, UP_JSON, VAR

ADMIN = "admin"
FIRST_PORT = 8000
OK = 200
EVERYWHERE = ("0.0.0.0", "::")
ROOM_MIB = 300  # static files, logs, the first image, and some machines' rows
GET_TIMEOUT_S = 10
START_TIMEOUT_S = 180  # of a busy machine; what ends at once is seen at once
CHECKS_TIMEOUT_S = 60
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


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


def get(url: str, *, token: str = "") -> tuple[int, str]:
    """Status and body; (0, "") when nobody answers."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, headers=headers)
    try:
        # No proxy that the environment names: this is our own address.
        with DIRECT.open(request, timeout=GET_TIMEOUT_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return 0, ""


def prepare_site(step: say.Step, plan: dict[str, Any]) -> dict[str, Any]:
    """Database, texts, static files, admin, hosts and image, by ``prepare.py``."""
    log = LOGS / "up.log"
    with log.open("a") as errors:
        process = subprocess.Popen(
            [str(PYTHON), str(ROOT / "scripts" / "runner" / "prepare.py")],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | {"DJANGO_SETTINGS_MODULE": "kvmweb.settings.base"},
        )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(plan))
    process.stdin.close()
    done: dict[str, Any] = {}
    try:
        for line in process.stdout:
            shown = json.loads(line)
            step.say(shown.get("doing", ""))
            done = shown.get("done", done)
        process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if process.returncode or not done:
        raise say.StepFailed(
            f"it stopped at: {step.detail}",
            "look at the log; then run ./scripts/up again: it goes on where it stopped",
            log=log,
        )
    step.say("")
    return done


def running_site() -> dict[str, Any] | None:
    """What the first ``up`` wrote, when that site still answers."""
    if processes.supervisor_pid() is None:
        return None
    try:
        found: dict[str, Any] = json.loads(UP_JSON.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return found if get(found["url"] + "/healthz")[0] == 200 else None


def is_free(listen: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in listen else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((listen, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise say.StepFailed(
                    f"cannot listen on {listen}, port {port}: {error.strerror}",
                    "choose another with --listen and --port",
                ) from error
            return False
    return True


def free_port(options: argparse.Namespace) -> int:
    """The wanted port, or the first free one; with the console's beside it when it has one."""
    beside = (0, 1) if options.carrier == "websockify" else (0,)
    for port in [options.port] if options.port else range(FIRST_PORT, FIRST_PORT + 20):
        if all(is_free(options.listen, port + more) for more in beside):
            return int(port)
    raise say.StepFailed(
        f"port {options.port or FIRST_PORT} is taken on {options.listen}",
        "choose another with --port",
    )


def address_of(listen: str) -> str:
    """Where this machine itself reaches the site."""
    if listen in EVERYWHERE:
        return "127.0.0.1"
    return f"[{listen}]" if ":" in listen else listen


def write_private(path: Path, found: dict[str, Any]) -> None:
    """As a whole or not at all, and for its owner only."""
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as out:
        json.dump(found, out, indent=1)
        out.write("\n")
    part.rename(path)


def previous() -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((VAR / "admin.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found


def note_admin(password: str, token: str) -> dict[str, str]:
    """Kept over a second ``up``; never in a file that others can read."""
    found = {"admin": ADMIN, "password": password, "token": token}
    write_private(VAR / "admin.json", found)
    return found


def build_tiny(step: say.Step) -> dict[str, Any]:
    """Build the tiny guest (once; it is cached); returns how it is published."""
    build = ["env", f"KVMWEB_CACHE={CACHE}", str(ROOT / "guests" / "build"), "tiny"]
    log = LOGS / "guest.log"
    advice = "look at the log; ./scripts/up --no-image starts without it"
    try:  # what is in the cache needs no root
        image = say.run(build, step=step, log=log, advice=advice)
    except say.StepFailed:
        if system.is_root():
            raise
        image = say.run(system.as_root(build), step=step, log=log, advice=advice)
    return {
        "file": image,
        "name": "Tiny Linux",
        "os_id": "tiny",
        "publish": True,
        "default_user": "tiny",
        "description": "A 20 MB Linux to try things with: boots in seconds",
        "min_memory_mib": 128,
        "min_disk_gib": 1,
    }


def install(options: argparse.Namespace) -> None:
    if not options.no_install:
        with say.Step("Packages") as step:
            wanted = [*system.RUN_PACKAGES, *system.guest_packages()]
            installed = system.install(
                wanted + (system.LAB_PACKAGES if options.lab else []), step=step
            )
            step.say(f"{len(installed)} installed" if installed else "all there")
    system.require_commands()
    with say.Step("Python environment") as step:
        pyenv.sync(step=step)


def start_hypervisors(options: argparse.Namespace) -> list[dict[str, str]]:
    """The lab's hosts, or this machine's libvirt; how ``add_host`` is told of them."""
    processes.note_started(**{"lab" if options.lab else "local": True})
    if options.lab:
        with say.Step(f"Lab: {options.lab} isolated libvirt hosts") as step:
            found = libvirt.lab_up(options.lab, step)
        return [
            {
                "name": h["name"],
                "uri": h["uri"],
                "transport": "unix",
                "socket_path": h["socket_path"],
            }
            for h in found
        ]
    system.enter_libvirt_group()
    with say.Step("libvirt") as step:
        libvirt.ensure(step)
    return [{"name": "local", "uri": libvirt.URI, "transport": "local", "socket_path": ""}]


def site_environment(options: argparse.Namespace) -> dict[str, str]:
    allowed = ["localhost", "127.0.0.1", "[::1]", socket.gethostname()]
    if options.listen not in ("127.0.0.1", "::1"):
        allowed = ["*"] if options.listen in EVERYWHERE else [*allowed, options.listen]
    ours = {
        "KVMWEB_CONSOLE_CARRIER": options.carrier,
        "KVMWEB_READY_REQUIRES": "worker,beat,watch"
        + (",ports" if os.environ.get("KVMWEB_PUBLISH_PORTS") else ""),
        "KVMWEB_ALLOWED_HOSTS": ",".join(allowed),
    }
    theirs = {name: value for name, value in os.environ.items() if name.startswith("KVMWEB_")}
    return ours | theirs | {"KVMWEB_VAR": str(VAR)}


def start(options: argparse.Namespace) -> dict[str, Any]:
    port = free_port(options)
    system.require_room(VAR, ROOM_MIB)
    install(options)
    hosts = start_hypervisors(options)
    image: dict[str, Any] = {}
    if not options.no_image:
        with say.Step("First image: the tiny guest") as step:
            image = build_tiny(step)
    os.environ.update(site_environment(options))
    processes.write_config(
        listen=options.listen,
        port=port,
        carrier=options.carrier,
        extra_env=site_environment(options),
    )
    with say.Step("Redis") as step:
        start_redis(step)
    with say.Step("Database, admin, hosts, image") as step:
        known = previous()
        password = known.get("password") or secrets.token_urlsafe(12)
        note_admin(password, known.get("token", ""))  # before: a password is never lost
        plan = {"admin": ADMIN, "password": password, "token": known.get("token", "")}
        rows = [{key: host[key] for key in ("name", "transport", "socket_path")} for host in hosts]
        done = prepare_site(step, {**plan, "hosts": rows, "image": image})
        found: dict[str, Any] = dict(note_admin(password, done["token"]))
    url = f"http://{address_of(options.listen)}:{port}"
    with say.Step("Site, workers, watcher") as step:
        start_site(url, found["token"], step)
    found |= {"url": url, "hosts": [{"name": h["name"], "uri": h["uri"]} for h in hosts]}
    with say.Step("Host checks (virt-host-validate, and a probe guest for acceleration)"):
        wait_for_checks(found)
    return {key: found[key] for key in ("url", "admin", "password", "token", "hosts")}


def start_redis(step: say.Step) -> None:
    processes.start_supervisor(step=step)
    processes.wait_until(
        redis_answers,
        timeout_s=START_TIMEOUT_S,
        what="Redis does not answer",
        log=LOGS / "redis.log",
        program="redis",
    )


def redis_answers() -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(2)
        try:
            client.connect(str(REDIS_SOCKET))
            client.sendall(b"PING\r\n")
            return client.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def start_site(url: str, token: str, step: say.Step) -> None:
    shown = processes.supervisorctl("start", "all")
    if shown.returncode not in (0, 7):
        raise say.StepFailed("not all started: " + shown.stdout.strip(), f"look into {LOGS}")
    step.say("pages")
    processes.wait_until(
        lambda: get(url + "/healthz")[0] == OK,
        timeout_s=START_TIMEOUT_S,
        what="the site does not answer",
        log=LOGS / "web.log",
        program="web",
    )
    if get(url + "/api/v1/me", token=token)[0] != OK:
        raise say.StepFailed(
            f"another program answers at {url}", "run ./scripts/up again, or choose a --port"
        )
    step.say("workers and watcher")
    try:
        processes.wait_until(
            lambda: get(url + "/readyz")[0] == OK,
            timeout_s=START_TIMEOUT_S,
            what="not ready",
            log=LOGS / "background.log",
        )
    except say.StepFailed as failed:
        failed.what += f": {get(url + '/readyz')[1].strip()[:300]}"
        raise
    step.say("")


def wait_for_checks(found: dict[str, Any]) -> None:
    """Wait until the hosts have been looked at. A slow host's page tells the rest later."""
    end = time.monotonic() + CHECKS_TIMEOUT_S
    while time.monotonic() < end:
        shown = host_findings(found)
        # The watcher may have noted a finding of its own before the host was read.
        if shown and all(host["libvirt_version"] and host["acceleration"] for host in shown):
            return
        time.sleep(0.5)


def host_findings(found: dict[str, Any]) -> list[dict[str, Any]]:
    """What was checked on the hosts, as their pages say it."""
    status, body = get(found["url"] + "/api/v1/hosts", token=found["token"])
    items: list[dict[str, Any]] = json.loads(body)["items"] if status == OK else []
    names = {host["name"] for host in found["hosts"]}
    return [host for host in items if host["name"] in names]


def words_of(host: dict[str, Any]) -> str:
    if host["reach"] != "up" or not host["capacity"]:
        return "not reached yet; its page tells why"
    room = host["capacity"]
    return (
        f"{room['cpus']} CPUs, {room['memory_mib'] // 1024} GiB, "
        f"libvirt {host['libvirt_version']}, QEMU {host['qemu_version']}"
    )


def tell(found: dict[str, Any]) -> None:
    for host in host_findings(found):
        print(f"\n  Host {host['name']}: {words_of(host)}")
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
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stopped)
    with say.failures_told("up"):
        LOGS.mkdir(parents=True, exist_ok=True)
        VAR.chmod(0o700)
        with processes.only_one("up"):
            found = running_site()
            if found:
                print("KVMWeb is running already (./scripts/down ends it).")
                options.detach = True  # the first one stays the one that ends it
            else:
                processes.stop_supervisor()
                found = start_or_end(options)
                write_private(UP_JSON, found)
        tell(found)
        if not options.detach:
            wait_for_the_end()


def stopped(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def start_or_end(options: argparse.Namespace) -> dict[str, Any]:
    """Start everything; should that fail or be stopped, end what has started."""
    try:
        return start(options)
    except BaseException:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl+C must not stop the tidying
        if processes.read_started() or processes.supervisor_pid():
            with contextlib.suppress(say.StepFailed):
                down.end_all()
        raise


def wait_for_the_end() -> None:
    """Stay until Ctrl+C (or TERM, or ./scripts/down elsewhere), then end what was started."""
    print("Ctrl+C ends it.", flush=True)
    try:
        while processes.supervisor_pid() is not None:
            time.sleep(1)
    except KeyboardInterrupt:
        print()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with processes.only_one("down"):
            down.end_all()
        return
    print("It was ended.")


if __name__ == "__main__":
    main()
