"""Where ports are published, and why one is not open now. Pure, but for what the door reads."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from django.conf import settings

from accounts.policy import Action, Door
from hosts.models import Host
from vms import verbs
from vms.models import VM, PublishedPort

if TYPE_CHECKING:
    from jobs.models import Job

NOTE_MAX = 100


def is_on() -> bool:
    """Whether this site publishes ports at all."""
    return bool(settings.PUBLISH_PORTS)


def public_name() -> str:
    """What people type before the port."""
    address = ip_address(settings.PUBLISH_ADDRESS)
    if settings.PUBLISH_NAME:
        return str(settings.PUBLISH_NAME)
    if not address.is_unspecified:
        return f"[{address}]" if address.version == 6 else str(address)
    return urlsplit(settings.SITE_URL).hostname or socket.gethostname()


def why_not_publish(vm: VM, active: Job | None) -> str | None:
    """The code of why no port of the machine can be published now."""
    code = verbs.why_busy(verbs.Situation.of(vm, active))
    if code in ("vm.why.busy", "vm.why.deleting", "vm.why.binned"):
        return code
    if vm.host is not None and vm.host.transport == Host.Transport.TLS:
        return "port.why.tls"
    return None


def why_closed(port: PublishedPort, door: Door) -> str:
    """The code of why nobody is let through, by the rows; "": it is open. ``door``: of who wants it
    open; the machine and its host are loaded with the port."""
    vm = port.vm
    if not is_on() or port.public_port not in settings.PUBLISH_PORTS:
        return "port.why.range"
    if vm.deleted_at is not None or vm.binned_at is not None:
        return "port.why.off"
    if port.opened_by is None or not door.can(Action.EDIT, vm):
        return "port.why.nobody"
    if vm.observed != VM.Observed.RUNNING:
        return "port.why.off"
    if vm.host is None or vm.host.transport == Host.Transport.TLS:
        return "port.why.tls"
    return ""
