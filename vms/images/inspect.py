"""Is this file a disk that a machine may start from? Files from outside are hostile.

Nothing of QEMU opens a file before ``examine`` has accepted it. ``examine`` reads the file with
oslo.utils' ``format_inspector`` (OpenStack's answer to CVE-2024-32498) and with checks of our own,
and takes exactly three things: a whole qcow2 that refers to no other file, a raw disk with a boot
sector, and an ISO disc, which guests only ever see as a CD-ROM. The format is what the content
says, never what the name says. Only then does ``verify`` let ``qemu-img`` look, with the format
given, and bounded in memory, CPU and time. ``foreign`` has the disks that are converted first.

qcow2: https://gitlab.com/qemu-project/qemu/-/blob/master/docs/interop/qcow2.txt
"""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from oslo_utils.imageutils import format_inspector

from accounts.errors import Invalid, Unavailable
from vms.images import isofile, rawdisk

GIB = 1024**3
# Every header that any known format keeps lies in the first 320 KiB (VHDX's is the last).
HEAD_BYTES = 1024 * 1024
QEMU_IMG_MEMORY_BYTES = 2 * GIB
QEMU_IMG_CPU_S = 120
QEMU_IMG_TIMEOUT_S = 300
CHECK_OK, CHECK_LEAKS = 0, 3  # qemu-img(1): leaked clusters waste space and harm nothing

Run = Callable[[list[str], float], "subprocess.CompletedProcess[bytes]"]


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    format: str  # qcow2 | raw
    virtual_size_bytes: int
    file_size_bytes: int
    kind: str = "disk"  # disk | iso


def inspect(path: Path, *, declared: str = "", run: Run | None = None) -> ImageFacts:
    """Both halves. ``declared`` (``qcow2``, ``raw`` or empty) must agree with what is found.

    Raises ``Invalid("image....")`` with why the file is refused.
    """
    facts = examine(path, declared=declared)
    verify(path, facts, run=run)
    return facts


def examine(path: Path, *, declared: str = "") -> ImageFacts:
    """What the bytes say, without any tool of QEMU's."""
    size = path.stat().st_size
    with path.open("rb") as handle:
        head = handle.read(HEAD_BYTES)
    if not head:
        raise Invalid("image.empty_file")
    rawdisk.refuse_known_mistakes(head)
    if isofile.is_iso(head):
        return _examine_iso(head, size, declared)
    found = _detect(head)
    if found == "qcow2":
        from vms.images import qcow2  # and numpy with it

        virtual_size = qcow2.examine(path, size)
    else:
        found = "raw"
        virtual_size = rawdisk.examine(path, head, size)
    if declared and declared != found:
        raise Invalid("image.format_differs", declared=declared, found=found)
    limit_gib: int = settings.IMAGE_MAX_VIRTUAL_GIB
    if virtual_size > limit_gib * GIB:
        shown = -(-virtual_size // GIB)
        raise Invalid("image.virtual_too_big", virtual_gib=shown, limit_gib=limit_gib)
    return ImageFacts(format=found, virtual_size_bytes=virtual_size, file_size_bytes=size)


def _examine_iso(head: bytes, size: int, declared: str) -> ImageFacts:
    """A disc, also one that boots from a stick (it has a boot sector as well), and nothing else
    beside it."""
    found = _formats(head) - {"gpt"}
    if found != {"iso"}:
        raise Invalid("image.ambiguous", formats=", ".join(sorted(found)))
    if declared == "qcow2":
        raise Invalid("image.format_differs", declared=declared, found="iso")
    return ImageFacts(
        format="raw",
        virtual_size_bytes=isofile.examine(head, size),
        file_size_bytes=size,
        kind="iso",
    )


def verify(path: Path, facts: ImageFacts, *, run: Run | None = None) -> None:
    """Let ``qemu-img`` agree, on a file that ``examine`` accepted. ``run`` starts a program."""
    run = run or _run
    source = ["--output=json", "-f", facts.format, str(path)]
    if facts.format == "qcow2":
        result = run(bounded(["qemu-img", "check", *source]), QEMU_IMG_TIMEOUT_S)
        if result.returncode not in {CHECK_OK, CHECK_LEAKS}:
            raise Invalid("image.check_failed")
    result = run(bounded(["qemu-img", "info", *source]), QEMU_IMG_TIMEOUT_S)
    if result.returncode != 0:
        raise Invalid("image.check_failed")
    info = json.loads(result.stdout)
    if info.get("backing-filename") or info.get("encrypted"):
        raise Invalid("image.check_failed")
    if info.get("virtual-size") != facts.virtual_size_bytes:
        raise Invalid("image.check_failed")


def _detect(head: bytes) -> str:
    """``qcow2``, or ``disk`` for something that can only be a raw disk."""
    matches = _matches(head)
    if len(matches) > 1:  # one header hidden in another
        raise Invalid("image.ambiguous", formats=", ".join(sorted(matches)))
    name, inspector = next(iter(matches.items()))
    if name not in {"qcow2", "gpt", "raw"}:
        raise Invalid("image.format_refused", format=name.upper())
    if name == "qcow2":
        _refuse_unsafe(inspector)
        return "qcow2"
    return "disk"


def _matches(head: bytes) -> dict[str, format_inspector.FileInspector]:
    wrapper = format_inspector.InspectWrapper(io.BytesIO(head))
    while wrapper.read(4096):
        pass
    wrapper.close()
    return {str(match): match for match in wrapper.formats or ()}


def _formats(head: bytes) -> set[str]:
    return set(_matches(head))


def _refuse_unsafe(inspector: format_inspector.FileInspector) -> None:
    try:
        inspector.safety_check()
    except format_inspector.SafetyCheckFailed as failed:
        for name in ("backing_file", "data_file", "unknown_features"):
            if name in failed.failures:
                raise Invalid(f"image.{name}") from None
        raise Invalid("image.corrupt") from None
    except format_inspector.ImageFormatError:
        raise Invalid("image.truncated") from None


def bounded(argv: list[str], *, cpu_s: int = QEMU_IMG_CPU_S) -> list[str]:
    """The command with limits on what it may take of this machine."""
    limits = [f"--as={QEMU_IMG_MEMORY_BYTES}", f"--cpu={cpu_s}", "--core=0"]
    return ["prlimit", *limits, "--", *argv]


def _run(argv: list[str], timeout_s: float) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(argv, capture_output=True, timeout=timeout_s, check=False)
    except FileNotFoundError as error:
        raise Unavailable("image.qemu_img_missing") from error
    except subprocess.TimeoutExpired as error:
        raise Invalid("image.check_failed") from error
