"""``scripts/lab``: the command line."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from . import daemons, faults, host
from .layout import Lab
from .namespaces import enter
from .shell import LabError

CHECKOUT = Path(__file__).resolve().parents[3]
NEEDED = ("ip", "nft", "nsenter", "unshare", "libvirtd", "virtlogd", "virsh", "ssh-keygen")
READS = ("uri",)  # the only verbs that need no root


def main() -> int:
    arguments = _parser().parse_args()
    try:
        if os.geteuid() != 0 and arguments.verb not in READS:
            _become_root()
        # What lies in sbin is not on everybody's path, nor on sudo's everywhere.
        os.environ["PATH"] = f"{os.environ.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin"
        result: int = arguments.call(arguments)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    return result


def _parser() -> argparse.ArgumentParser:
    folder = argparse.ArgumentParser(add_help=False)
    folder.add_argument(
        "--dir",
        dest="folder",
        default=argparse.SUPPRESS,
        help="the lab's folder (default: $KVMWEB_LAB_DIR, else var/lab in the checkout)",
    )
    parser = argparse.ArgumentParser(
        prog="scripts/lab", description="Isolated libvirt hosts on this machine.", parents=[folder]
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, call: Callable[[argparse.Namespace], int], text: str) -> _Verb:
        sub = verbs.add_parser(name, help=text, description=text, parents=[folder])
        sub.set_defaults(call=call)
        return sub

    sub = verb("up", _up, "start N hosts (a, b, c ...), or bring back those that died")
    sub.add_argument("count", type=int, nargs="?", default=2, metavar="N")
    sub.add_argument("--pool-size", metavar="SIZE", help="give each host a pool of e.g. 2G only")
    sub.add_argument("--json", action="store_true")
    sub = verb("down", _down, "end exactly what `up` started, guests included")
    sub.add_argument("--purge", action="store_true", help="also remove disks and definitions")
    verb("status", _status, "what runs").add_argument("--json", action="store_true")
    _host(verb("uri", _uri, "the libvirt URI of a host, for use from outside"))
    _rest(_host(verb("virsh", _virsh, "virsh on a host")))
    _rest(_host(verb("exec", _exec, "run a command inside a host")))
    _rest(_host(verb("ssh", _ssh, "run a command on a host through its sshd")))
    for name, call, text in (
        ("stop-libvirtd", _stop_libvirtd, "stop a host's libvirtd; its guests go on"),
        ("restart", _restart, "restart a host's libvirtd; its guests go on"),
    ):
        _host(verb(name, call, text)).add_argument(
            "--kill", action="store_true", help="with SIGKILL"
        )
    _host(verb("start-libvirtd", _start_libvirtd, "start a host's libvirtd again"))
    cut = _host(verb("cut", _cut, "make a host unreachable while its guests go on"))
    cut.add_argument("--how", choices=("refuse", "hang"), default="refuse")
    _host(verb("mend", _mend, "make a host reachable again"))
    _host(verb("kill", _kill, "a power cut: the host and its guests die at once"))
    return parser


_Verb = argparse.ArgumentParser


def _host(sub: _Verb) -> _Verb:
    sub.add_argument("host", help="a, b, c ...")
    return sub


def _rest(sub: _Verb) -> _Verb:
    sub.add_argument("words", nargs=argparse.REMAINDER, metavar="...")
    return sub


def _lab(arguments: argparse.Namespace) -> Lab:
    chosen = getattr(arguments, "folder", None) or os.environ.get("KVMWEB_LAB_DIR")
    return Lab(Path(chosen or CHECKOUT / "var" / "lab").resolve())


def _up(arguments: argparse.Namespace) -> int:
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        raise LabError(
            f"Not installed: {', '.join(missing)}. Install libvirt-daemon-system, libvirt-clients, "
            "qemu-system-x86, nftables, iproute2, util-linux and openssh-server."
        )
    lab = _lab(arguments)
    with lab.locked():
        hosts = host.up_lab(lab, arguments.count, pool_size=arguments.pool_size, say=_say)
    return _print(lab, as_json=arguments.json) if hosts else 1


def _down(arguments: argparse.Namespace) -> int:
    lab = _lab(arguments)
    with lab.locked():
        host.down_lab(lab, purge=arguments.purge, say=_say)
    return 0


def _status(arguments: argparse.Namespace) -> int:
    return _print(_lab(arguments), as_json=arguments.json)


def _uri(arguments: argparse.Namespace) -> int:
    print(_lab(arguments).host(arguments.host).uri)
    return 0


def _virsh(arguments: argparse.Namespace) -> int:
    return _run(arguments, ["virsh", "-c", "qemu:///system", *arguments.words])


def _exec(arguments: argparse.Namespace) -> int:
    words = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
    return _run(arguments, words or [os.environ.get("SHELL", "/bin/sh")])


def _ssh(arguments: argparse.Namespace) -> int:
    lab = _lab(arguments)
    target = lab.host(arguments.host)
    options = {
        "IdentityFile": lab.ssh_key,
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": lab.known_hosts,
        "StrictHostKeyChecking": "yes",
        "ConnectTimeout": 5,
    }
    flags = [f"-o{name}={value}" for name, value in options.items()]
    argv = ["ssh", "-F", "none", *flags, f"root@{target.ssh_address}", *arguments.words]
    return subprocess.run(argv, check=False).returncode


def _stop_libvirtd(arguments: argparse.Namespace) -> int:
    faults.stop_libvirtd(_lab(arguments).host(arguments.host), kill=arguments.kill)
    return 0


def _start_libvirtd(arguments: argparse.Namespace) -> int:
    daemons.start_libvirtd(_lab(arguments).host(arguments.host))
    return 0


def _restart(arguments: argparse.Namespace) -> int:
    faults.restart_libvirtd(_lab(arguments).host(arguments.host), kill=arguments.kill)
    return 0


def _cut(arguments: argparse.Namespace) -> int:
    faults.cut(_lab(arguments).host(arguments.host), arguments.how)
    return 0


def _mend(arguments: argparse.Namespace) -> int:
    faults.mend(_lab(arguments).host(arguments.host))
    return 0


def _kill(arguments: argparse.Namespace) -> int:
    host.kill(_lab(arguments).host(arguments.host))
    return 0


def _run(arguments: argparse.Namespace, words: list[str]) -> int:
    """As a child of ours, with our terminal: its exit status becomes ours."""
    argv = enter(_lab(arguments).host(arguments.host), words)
    try:
        return subprocess.run(argv, check=False).returncode
    except KeyboardInterrupt:
        return 130


def _print(lab: Lab, *, as_json: bool) -> int:
    facts = [host.describe(each) for each in lab.hosts]
    if as_json:
        print(json.dumps(facts, indent=1))
        return 0
    print(f"Lab {lab.id} in {lab.folder}" + ("" if facts else ": nothing runs"))
    for fact in facts:
        print(f"  {fact['name']}  {fact['reach']:8} {fact['guests']} guests  {fact['uri']}")
    return 0


def _become_root() -> None:
    sudo = shutil.which("sudo")
    if sudo is None:
        raise LabError("The lab makes namespaces: run it as root, or install sudo.")
    keep = "--preserve-env=KVMWEB_LAB_DIR"
    os.execv(sudo, [sudo, keep, "--", sys.executable, *sys.argv])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
