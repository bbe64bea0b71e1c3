"""The files that a host reads: libvirt's, sshd's, and a few of /etc."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from .layout import HOST_NAMES, Host, Lab
from .network import SSH_PORT
from .shell import run

SYSTEM_ETC = Path("/etc/libvirt")

LIBVIRTD_CONF = """\
host_uuid = "{uuid}"
unix_sock_group = "{group}"
unix_sock_rw_perms = "0770"
unix_sock_ro_perms = "0770"
auth_unix_rw = "none"
auth_unix_ro = "none"
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
"""

# Root and no labels: the lab has one user, and AppArmor's profiles know only the usual paths. No
# private /dev for each guest: where /dev/ptmx is a link, as in containers, it would have no ptys.
# No dumps: sudo takes the right to them from what it starts; root in a container may not have it.
QEMU_CONF = """\
user = "root"
group = "root"
security_driver = "none"
namespaces = []
max_core = 0
migration_address = "{address}"
migration_host = "{address}"
"""

SSHD_CONFIG = """\
ListenAddress {ssh_address}:{port}
ListenAddress {switch_address}:{port}
HostKey /etc/libvirt/ssh/host_key
AuthorizedKeysFile /etc/libvirt/ssh/authorized_keys
PidFile /run/libvirt/sshd.pid
AllowUsers root
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
StrictModes no
PrintMotd no
AllowStreamLocalForwarding yes
MaxStartups 100
MaxSessions 100
"""

# sshd without PAM refuses an account whose password is locked with "!"; "*" it lets pass by key.
SHADOW = "root:*:19000:0:99999:7:::\n"


def make_keys(lab: Lab) -> None:
    """The key with which the site, or a person, signs in to every host of the lab."""
    lab.ssh_key.parent.mkdir(mode=0o700, exist_ok=True)
    if not lab.ssh_key.exists():
        _keygen(lab.ssh_key, "kvmweb-lab")
    owner = int(os.environ.get("SUDO_UID", "0"))
    for path in (lab.ssh_key.parent, *lab.ssh_key.parent.iterdir()):
        os.chown(path, owner, -1)


def write(host: Host) -> None:
    """Everything the host reads, anew each time it starts."""
    for name in ("lib", "cache", "log", "etc/ssh", "etc-files"):
        (host.folder / name).mkdir(parents=True, exist_ok=True)
    host.run_folder.mkdir(parents=True, exist_ok=True)
    etc = host.folder / "etc"
    if (SYSTEM_ETC / "nwfilter").is_dir():
        shutil.copytree(SYSTEM_ETC / "nwfilter", etc / "nwfilter", dirs_exist_ok=True)
    (etc / "libvirtd.conf").write_text(LIBVIRTD_CONF.format(uuid=host.uuid, group=host.lab.group))
    (etc / "qemu.conf").write_text(QEMU_CONF.format(address=host.switch_address))
    _write_ssh(host)
    _write_etc(host)


def _write_ssh(host: Host) -> None:
    folder = host.folder / "etc" / "ssh"
    if not (folder / "host_key").exists():
        _keygen(folder / "host_key", host.name)
    shutil.copy(host.lab.ssh_key.with_suffix(".pub"), folder / "authorized_keys")
    (folder / "sshd_config").write_text(
        SSHD_CONFIG.format(
            ssh_address=host.ssh_address, switch_address=host.switch_address, port=SSH_PORT
        )
    )
    key = " ".join((folder / "host_key.pub").read_text().split()[:2])
    known = host.lab.known_hosts
    lines = known.read_text().splitlines() if known.exists() else []
    names = f"{host.ssh_address},{host.switch_address},{host.name}"
    lines = [line for line in lines if not line.startswith(f"{host.ssh_address},")]
    known.write_text("\n".join([*lines, f"{names} {key}"]) + "\n")


def _write_etc(host: Host) -> None:
    files = host.folder / "etc-files"
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost"]
    # Its own name too: libvirt asks for it, and would wait 20 s for a name server.
    lines += [f"10.99.0.{number} {name}" for number, name in enumerate(HOST_NAMES, start=1)]
    (files / "hosts").write_text("\n".join(lines) + "\n")
    (files / "resolv.conf").write_text("# A lab host asks no name server.\n")
    shadow = files / "shadow"
    shadow.touch(mode=0o600)
    shadow.write_text(SHADOW)


def _keygen(path: Path, comment: str) -> None:
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)])
