"""The machine underneath: packages, the right to use libvirt, systemd or none."""

from __future__ import annotations

import getpass
import grp
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from runner import say
from runner.paths import LOGS, ROOT

# What the product needs to run, by Debian's and Ubuntu's common names.
RUN_PACKAGES = """
    python3-dev python3-venv gcc pkg-config libvirt-dev gettext redis-server
    libvirt-daemon-system libvirt-clients qemu-system-x86 qemu-utils dnsmasq-base iptables
    iproute2 procps acl osinfo-db ovmf swtpm swtpm-tools
""".split()
# What the lab and the tests need besides.
LAB_PACKAGES = "nftables openssh-server openssh-client util-linux mount".split()
TEST_PACKAGES = """
    postgresql mmdebstrap virtinst cloud-image-utils genisoimage fonts-noto-cjk openssh-client
    nginx openssl xorriso xkb-data libxkbcommon0 slapd
""".split()
# Not in every release that we support; what needs them is skipped without.
TEST_PACKAGES_WHERE_OFFERED = """
    caddy nodejs tigervnc-viewer virt-viewer xvfb xdotool
""".split()
# Their packages start services of their own; ours live on sockets and ports that we choose.
NOT_TO_RUN = ("redis-server", "nginx", "caddy", "slapd")


NEEDED_COMMANDS = {
    "redis-server": "redis-server",
    "virsh": "libvirt-clients",
    "libvirtd": "libvirt-daemon-system",
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "dnsmasq": "dnsmasq-base",
    "ip": "iproute2",
    "msgfmt": "gettext",
}


def guest_packages() -> list[str]:
    """What ``guests/build`` needs, one package a line in ``guests/packages``."""
    lines = (ROOT / "guests" / "packages").read_text().splitlines()
    return [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]


def is_root() -> bool:
    return os.geteuid() == 0


def has_systemd() -> bool:
    return Path("/run/systemd/system").is_dir()


def as_root(argv: list[str]) -> list[str]:
    """The command with ``sudo`` before it, where we are not root."""
    if is_root():
        return argv
    if not shutil.which("sudo"):
        raise say.StepFailed(
            "this needs root, and there is no sudo",
            f"run as root: {' '.join(argv)}",
        )
    _let_sudo_ask()
    return ["sudo", "-n", *argv]


def _let_sudo_ask() -> None:
    """sudo asks for the password here, where it is seen, and not within a step."""
    if not subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode:
        return
    if not sys.stdin.isatty():
        raise say.StepFailed(
            "this needs root, and sudo wants a password but there is no terminal to ask on",
            "run it in a terminal, as root, or install the packages first and use --no-install",
        )
    with say.paused():
        asked = subprocess.run(["sudo", "-v", "-p", "password of %u for sudo: "], check=False)
    if asked.returncode:
        raise say.StepFailed("sudo refused", "run it as root, or as a user who may use sudo")


def missing(packages: list[str]) -> list[str]:
    shown = subprocess.run(
        ["dpkg-query", "-W", "-f=${Package} ${db:Status-Status}\n", *packages],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    there = {line.split()[0] for line in shown.splitlines() if line.endswith(" installed")}
    return [name for name in dict.fromkeys(packages) if name not in there]


def install(packages: list[str], *, step: say.Step) -> list[str]:
    """Install what is missing with apt; returns what it installed."""
    if not shutil.which("dpkg-query"):
        raise say.StepFailed(
            "this is neither Debian nor Ubuntu",
            "install by hand what docs/admin/install.md lists, then use --no-install",
        )
    wanted = missing(packages)
    if not wanted:
        return []
    log = LOGS / "apt.log"
    _settle_dpkg(step, log)
    advice = (
        "look at the log; often another apt is at work (wait and try again) or the package lists "
        "cannot be reached (check the network)"
    )
    environment = ["env", "DEBIAN_FRONTEND=noninteractive"]
    step.say(f"{len(wanted)} packages to install")
    update = [*environment, "apt-get", "-q", "update"]
    # A third-party source that does not answer must not stop us: the install itself will tell.
    subprocess.run(as_root(update), stdin=subprocess.DEVNULL, capture_output=True, check=False)
    command = [*environment, "apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300"]
    say.run(
        as_root([*command, "install", "--no-install-recommends", *wanted]),
        step=step,
        log=log,
        advice=advice,
    )
    if has_systemd():
        for service in set(NOT_TO_RUN) & set(wanted):
            subprocess.run(
                as_root(["systemctl", "disable", "--now", service]),
                capture_output=True,
                check=False,
            )
    return wanted


def offered(packages: list[str]) -> list[str]:
    """Those of them that this release has."""
    return [
        name
        for name in packages
        if not subprocess.run(
            ["apt-cache", "show", name], capture_output=True, check=False
        ).returncode
    ]


def _settle_dpkg(step: say.Step, log: Path) -> None:
    """Finish what an installation that was stopped left half done, or apt refuses to begin."""
    if subprocess.run(["dpkg", "--audit"], capture_output=True, check=False).stdout:
        command = ["env", "DEBIAN_FRONTEND=noninteractive", "dpkg", "--configure", "-a"]
        say.run(as_root(command), step=step, log=log, advice="run it by hand: dpkg --configure -a")


def require_commands() -> None:
    """What a run without packages installed by us stumbles over, said before anything starts."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing_ones = {
        command: package
        for command, package in NEEDED_COMMANDS.items()
        if shutil.which(command, path=path) is None
    }
    if missing_ones:
        raise say.StepFailed(
            f"not installed: {', '.join(missing_ones)}",
            f"apt-get install {' '.join(dict.fromkeys(missing_ones.values()))}"
            " — or run without --no-install",
        )


def require_room(folder: Path, mib: int) -> None:
    """Refuse to begin what would stop in the middle with a full disk."""
    free = shutil.disk_usage(folder).free // 2**20
    if free < mib:
        raise say.StepFailed(
            f"only {free} MiB are free in {folder}; {mib} MiB are needed",
            "make room there, or name another folder: KVMWEB_VAR=/path ./scripts/up",
        )


def enter_libvirt_group() -> None:
    """Go on as a member of the group ``libvirt``: join it where we must, then start again in it."""
    if is_root():
        return
    try:
        group = grp.getgrnam("libvirt")
    except KeyError:
        return
    if group.gr_gid in (os.getegid(), *os.getgroups()):  # sg makes it the first, and no other
        return
    user = getpass.getuser()
    if user not in group.gr_mem:
        done = subprocess.run(as_root(["usermod", "-aG", "libvirt", user]), check=False)
        if done.returncode:
            raise say.StepFailed(
                "your account may not use libvirt",
                f"sudo usermod -aG libvirt {user}, sign out and in again, then ./scripts/up",
            )
    if os.environ.get("KVMWEB_UP_REENTERED"):
        raise say.StepFailed(
            "the group libvirt does not take effect", "sign out and in again, then ./scripts/up"
        )
    os.environ["KVMWEB_UP_REENTERED"] = "1"
    again = shlex.join([str(ROOT / "scripts" / "up"), *sys.argv[1:]])
    os.execvp("sg", ["sg", "libvirt", "-c", again])
