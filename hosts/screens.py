"""By which way the screens of machines on another host are reached: found out, not asked.

QEMU's socket is the libvirt user's own, in a folder of its own: through SSH only root's account
opens it, and only where sshd forwards to sockets. Where that is not so, machines that start from
then on show their screen on a loopback port that asks for a password of each boot.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING

from hosts import connections
from hosts.models import Host
from hosts.virt.errors import HostUnreachable
from hosts.virt.spec import Check

if TYPE_CHECKING:
    from hosts.inventory import Inventory

log = logging.getLogger(__name__)

KEY = "screens_reached"


def look(host: Host, seen: Inventory) -> Inventory:
    """``seen``, with the way for screens and a finding that tells of it. Blocks on the host."""
    if host.transport == Host.Transport.TLS:
        no_way = Check(key=KEY, result="note", params={"why": "tls"})
        return dataclasses.replace(seen, checks=[*seen.checks, no_way])
    try:
        forwards = connections.screen_ways(host)
    except HostUnreachable as error:  # libvirt's own ssh did reach it
        log.warning("screens of %s: %s [%s]", host, error.raw, error.ref)
        failed = Check(key=KEY, result="fail", params={"why": "sign_in", "ref": error.ref})
        return dataclasses.replace(seen, checks=[*seen.checks, failed])
    if forwards is None:
        return seen
    way, check = Host.Screens.SOCKET, Check(key=KEY, result="pass")
    if not (forwards.is_root and forwards.sockets):
        # Who is not root may have been let to the sockets all the same: then it goes on so.
        why = "account" if forwards.sockets else "sockets"
        result = "note" if forwards.ports else "warn" if forwards.sockets else "fail"
        check = Check(key=KEY, result=result, params={"why": why})
        way = Host.Screens.PORT if forwards.ports else Host.Screens.SOCKET
    return dataclasses.replace(seen, screens=way, checks=[*seen.checks, check])
