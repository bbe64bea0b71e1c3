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
    iproute2 procps
""".split()
# What the lab and the tests need besides.
LAB_PACKAGES = "nftables openssh-server openssh-client util-linux mount".split()
TEST_PACKAGES = """
    postgresql mmdebstrap virtinst cloud-image-utils genisoimage fonts-noto-cjk openssh-client
""".split()


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
    return ["sudo", "-n" if not sys.stdin.isatty() else "-p[up] password for %u: ", *argv]


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
    if "redis-server" in wanted and has_systemd():
        # The package starts a Redis of its own on a TCP port; ours lives on a socket in var/.
        subprocess.run(
            as_root(["systemctl", "disable", "--now", "redis-server"]),
            capture_output=True,
            check=False,
        )
    return wanted


def enter_libvirt_group() -> None:
    """Go on as a member of the group ``libvirt``: join it where we must, then start again in it."""
    if is_root():
        return
    try:
        group = grp.getgrnam("libvirt")
    except KeyError:
        return
    if group.gr_gid in os.getgroups():
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
    again = shlex.join([sys.executable, "-m", "runner.up", *sys.argv[1:]])
    os.execvp("sg", ["sg", "libvirt", "-c", again])
