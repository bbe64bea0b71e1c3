"""The errors that leave this seam; every libvirt error is translated into one of them, once.

    VirtError
    ├── NoSuchDomain / NoSuchVolume / NoSuchPool / NoSuchNetwork / NoSuchSnapshot
    ├── AlreadyExists          a domain or volume of that name is there
    ├── WrongState             e.g. "domain is not running"
    ├── Unsupported            this host or guest cannot do it
    │   └── NoPassword         its screen asks for none, so nobody can tell whose it is
    ├── GuestKeepsDevice       it does not let go of what is to be unplugged
    ├── AgentSilent            the guest agent does not answer
    ├── AgentRefused           it answers that it cannot or may not
    ├── NoSpace                the pool is full
    ├── OperationTimeout       libvirt gave up, or we did
    ├── ConsoleInUse           somebody else reads the serial line
    ├── DomainBusy             another operation holds the domain's lock (transient)
    ├── HostUnreachable        no connection, or it broke (transient)
    └── UnknownVirtError       anything else
        └── ReasonLost         the binding lost what went wrong (transient)

``code`` is the key of the message that a person sees. ``ref`` finds the raw text in the log:
the raw text is for admins only.
"""

# ruff: noqa: N818 - the names say what happened, as libvirt's own do

from __future__ import annotations

import secrets
from typing import ClassVar


class VirtError(Exception):
    code: ClassVar[str] = "virt.unknown"
    transient: ClassVar[bool] = False

    def __init__(self, raw: str = "", *, ref: str | None = None) -> None:
        super().__init__(raw or self.code)
        self.raw = raw
        self.ref = ref or secrets.token_hex(4)


class NoSuchDomain(VirtError):
    code = "virt.no_such_domain"


class NoSuchVolume(VirtError):
    code = "virt.no_such_volume"


class NoSuchPool(VirtError):
    code = "virt.no_such_pool"


class NoSuchNetwork(VirtError):
    code = "virt.no_such_network"


class NoSuchSnapshot(VirtError):
    code = "virt.no_such_snapshot"


class AlreadyExists(VirtError):
    code = "virt.already_exists"


class WrongState(VirtError):
    code = "virt.wrong_state"


class Unsupported(VirtError):
    code = "virt.unsupported"


class NoPassword(Unsupported):
    pass


class GuestKeepsDevice(VirtError):
    code = "virt.guest_keeps_device"


class AgentSilent(VirtError):
    code = "virt.agent_silent"


class AgentRefused(VirtError):
    code = "virt.agent_refused"


class NoSpace(VirtError):
    code = "virt.no_space"


class OperationTimeout(VirtError):
    code = "virt.timeout"


class DomainBusy(VirtError):
    code = "virt.busy"
    transient = True


class ConsoleInUse(VirtError):
    code = "virt.console_in_use"


class HostUnreachable(VirtError):
    code = "virt.host_unreachable"
    transient = True


class UnknownVirtError(VirtError):
    code = "virt.unknown"


class ReasonLost(UnknownVirtError):
    """libvirt keeps a thread's last error until the thread's next call, and Python may free an
    object, which is a call, before the binding has read it."""

    transient = True
