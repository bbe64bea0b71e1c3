"""libvirt's errors -> ours. The only place that reads a ``libvirtError``.

Codes and domains: https://libvirt.org/html/libvirt-virterror.html. Numbers stand where an older
libvirt-python has no name for them.
"""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

import libvirt

from hosts.virt.errors import (
    AgentRefused,
    AgentSilent,
    AlreadyExists,
    ConsoleInUse,
    DomainBusy,
    HostUnreachable,
    NoSpace,
    NoSuchDomain,
    NoSuchNetwork,
    NoSuchPool,
    NoSuchSnapshot,
    NoSuchVolume,
    OperationTimeout,
    ReasonLost,
    UnknownVirtError,
    Unsupported,
    VirtError,
    WrongState,
)

log = logging.getLogger("kvmweb.virt")

AGENT_COMMAND_TIMEOUT = 111  # libvirt 7.10
AGENT_COMMAND_FAILED = 112

BY_CODE: dict[int, type[VirtError]] = {
    libvirt.VIR_ERR_NO_DOMAIN: NoSuchDomain,
    libvirt.VIR_ERR_NO_STORAGE_POOL: NoSuchPool,
    libvirt.VIR_ERR_NO_STORAGE_VOL: NoSuchVolume,
    libvirt.VIR_ERR_NO_NETWORK: NoSuchNetwork,
    libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT: NoSuchSnapshot,
    libvirt.VIR_ERR_DOM_EXIST: AlreadyExists,
    libvirt.VIR_ERR_NETWORK_EXIST: AlreadyExists,
    libvirt.VIR_ERR_STORAGE_VOL_EXIST: AlreadyExists,
    libvirt.VIR_ERR_STORAGE_POOL_BUILT: AlreadyExists,
    libvirt.VIR_ERR_OPERATION_INVALID: WrongState,
    libvirt.VIR_ERR_NO_SUPPORT: Unsupported,
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED: Unsupported,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED: Unsupported,
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED: Unsupported,
    libvirt.VIR_ERR_AGENT_UNRESPONSIVE: AgentSilent,
    libvirt.VIR_ERR_AGENT_UNSYNCED: AgentSilent,
    AGENT_COMMAND_TIMEOUT: AgentSilent,
    AGENT_COMMAND_FAILED: AgentRefused,
    libvirt.VIR_ERR_RESOURCE_BUSY: DomainBusy,
    libvirt.VIR_ERR_OPERATION_TIMEOUT: OperationTimeout,
    libvirt.VIR_ERR_NO_CONNECT: HostUnreachable,
    libvirt.VIR_ERR_INVALID_CONN: HostUnreachable,
    libvirt.VIR_ERR_AUTH_FAILED: HostUnreachable,
    libvirt.VIR_ERR_AUTH_CANCELLED: HostUnreachable,
    libvirt.VIR_ERR_AUTH_UNAVAILABLE: HostUnreachable,
    libvirt.VIR_ERR_RPC: HostUnreachable,
}

# Where libvirt has one code for many things, its words decide. First match counts.
BY_WORDS: tuple[tuple[re.Pattern[str], type[VirtError]], ...] = (
    (re.compile(r"cannot acquire (state change|agent) lock"), DomainBusy),
    (re.compile(r"Active console session exists"), ConsoleInUse),
    (re.compile(r"still being allocated|has asynchronous jobs running"), DomainBusy),
    (
        re.compile(r"No space left on device|[Nn]ot enough (free )?space|Disk quota exceeded"),
        NoSpace,
    ),
    (re.compile(r"already exists|already in use|already defined"), AlreadyExists),
    (re.compile(r"Unable to find any firmware|unsupported flags|does not support"), Unsupported),
    (re.compile(r"[Gg]uest agent is not (responding|available|connected)"), AgentSilent),
    (re.compile(r"unable to execute QEMU agent command"), AgentRefused),
)
# Only these codes are so general that the words are worth a look.
WORDY = {
    libvirt.VIR_ERR_INTERNAL_ERROR,
    libvirt.VIR_ERR_SYSTEM_ERROR,
    libvirt.VIR_ERR_OPERATION_FAILED,
    libvirt.VIR_ERR_OPERATION_INVALID,
    libvirt.VIR_ERR_OPERATION_TIMEOUT,
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED,
    libvirt.VIR_ERR_INVALID_ARG,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
    libvirt.VIR_ERR_XML_ERROR,
}
NO_SPACE_ERRNOS = {errno.ENOSPC, errno.EDQUOT}


def error_class(code: int, domain: int, message: str, os_errno: int = 0) -> type[VirtError]:
    """Which of our errors that is. Pure, so that a table of real ones can test it."""
    wire = domain in (libvirt.VIR_FROM_REMOTE, libvirt.VIR_FROM_RPC)
    if wire and code in (libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_ERR_INTERNAL_ERROR):
        return HostUnreachable
    if code == libvirt.VIR_ERR_SYSTEM_ERROR and os_errno in NO_SPACE_ERRNOS:
        return NoSpace
    if code in WORDY:
        for pattern, error in BY_WORDS:
            if pattern.search(message):
                return error
    return BY_CODE.get(code, UnknownVirtError)


def translate(error: libvirt.libvirtError) -> VirtError:
    """The error to raise, with libvirt's own words logged under its reference."""
    code, domain = error.get_error_code() or 0, error.get_error_domain() or 0
    message = error.get_error_message() or str(error)
    found = error_class(code, domain, message, error.get_int1() or 0) if code else ReasonLost
    translated = found(message)
    log.info(
        "libvirt error ref=%s code=%s domain=%s as=%s: %s",
        translated.ref,
        code,
        domain,
        translated.code,
        message,
    )
    return translated


@contextmanager
def translated() -> Iterator[None]:
    """Whatever libvirt raises inside leaves as a VirtError."""
    try:
        yield
    except libvirt.libvirtError as error:
        raise translate(error) from error
