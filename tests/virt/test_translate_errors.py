"""Real libvirt errors, as libvirt 8 to 10 words them, become ours."""

from __future__ import annotations

import errno
import logging

import libvirt
import pytest

from hosts.virt import errors
from hosts.virt.translate import error_class, translate, translated

QEMU, STORAGE, RPC, REMOTE = (
    libvirt.VIR_FROM_QEMU,
    libvirt.VIR_FROM_STORAGE,
    libvirt.VIR_FROM_RPC,
    libvirt.VIR_FROM_REMOTE,
)
CASES = [
    (42, QEMU, "Domain not found: no domain with matching uuid 'x'", errors.NoSuchDomain),
    (49, STORAGE, "Storage pool not found: no storage pool with matching name", errors.NoSuchPool),
    (50, STORAGE, "Storage volume not found: no storage vol", errors.NoSuchVolume),
    (43, libvirt.VIR_FROM_NETWORK, "Network not found", errors.NoSuchNetwork),
    (90, STORAGE, "storage volume 'x' exists already", errors.AlreadyExists),
    (55, STORAGE, "volume target path '/p/x' already exists", errors.AlreadyExists),
    (9, QEMU, "operation failed: domain 'x' already exists with uuid y", errors.AlreadyExists),
    (55, QEMU, "Requested operation is not valid: domain is not running", errors.WrongState),
    (55, STORAGE, "volume 'x' is still being allocated.", errors.DomainBusy),
    (1, STORAGE, "internal error: pool 'x' has asynchronous jobs running.", errors.DomainBusy),
    (
        68,
        QEMU,
        "Timed out during operation: cannot acquire state change lock (held by monitor)",
        errors.DomainBusy,
    ),
    (68, QEMU, "Timed out during operation: something else", errors.OperationTimeout),
    (87, QEMU, "resource busy", errors.DomainBusy),
    (
        9,
        QEMU,
        "operation failed: Active console session exists for this domain",
        errors.ConsoleInUse,
    ),
    (86, QEMU, "Guest agent is not responding: not connected", errors.AgentSilent),
    (74, QEMU, "argument unsupported: QEMU guest agent is not configured", errors.Unsupported),
    (84, QEMU, "Operation not supported", errors.Unsupported),
    (67, QEMU, "unsupported configuration: TPM", errors.Unsupported),
    (9, QEMU, "operation failed: Unable to find any firmware to satisfy 'efi'", errors.Unsupported),
    (1, STORAGE, "internal error: qemu-img: writing: No space left on device", errors.NoSpace),
    (38, RPC, "Cannot write data: Broken pipe", errors.HostUnreachable),
    (38, RPC, "End of file while reading data: Input/output error", errors.HostUnreachable),
    (1, RPC, "internal error: client socket is closed", errors.HostUnreachable),
    (1, REMOTE, "internal error: connection closed", errors.HostUnreachable),
    (6, libvirt.VIR_FROM_NONE, "invalid connection pointer in", errors.HostUnreachable),
    (38, QEMU, "Cannot access storage file '/x': No such file", errors.UnknownVirtError),
    (1, QEMU, "internal error: qemu unexpectedly closed the monitor", errors.UnknownVirtError),
]  # fmt: skip


@pytest.mark.parametrize(("code", "domain", "message", "expected"), CASES)
def test_each(code: int, domain: int, message: str, expected: type[errors.VirtError]) -> None:
    assert error_class(code, domain, message) is expected


def test_a_full_disk_is_known_by_its_errno() -> None:
    """The words depend on the daemon's language; the number does not."""
    code = libvirt.VIR_ERR_SYSTEM_ERROR
    assert error_class(code, STORAGE, "Auf dem Gerät ist …", errno.ENOSPC) is errors.NoSpace


def test_the_raw_words_go_to_the_log_under_the_reference(
    caplog: pytest.LogCaptureFixture,
) -> None:
    conn = libvirt.open("test:///default")
    with (
        caplog.at_level(logging.INFO, "kvmweb.virt"),
        pytest.raises(errors.NoSuchDomain) as caught,
        translated(),
    ):
        conn.lookupByName("nobody")
    conn.close()
    assert isinstance(caught.value.__cause__, libvirt.libvirtError)
    assert caught.value.ref in caplog.text
    assert "Domain not found" in caplog.text


def test_an_error_whose_reason_the_binding_lost_may_pass() -> None:
    libvirt.virResetLastError()
    lost = translate(libvirt.libvirtError("virStorageVolLookupByName() failed"))
    assert type(lost) is errors.ReasonLost
    assert lost.transient
    assert lost.code == "virt.unknown"


def test_only_what_may_pass_is_transient() -> None:
    transient = {error.__name__ for error in errors.VirtError.__subclasses__() if error.transient}
    assert transient == {"DomainBusy", "HostUnreachable"}
