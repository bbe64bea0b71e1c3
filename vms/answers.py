"""Answers for an installer: a small disc in a second drive, which the installer looks for itself.

``autoinstall``  Ubuntu's Subiquity: a NoCloud disc (label ``cidata``) whose user-data has
                 ``autoinstall``. It asks once on the screen whether to go on, unless its kernel's
                 line says ``autoinstall``.
                 https://canonical-subiquity.readthedocs-hosted.com/en/latest/intro-to-autoinstall.html
``kickstart``    Anaconda (Fedora, RHEL and its kin): ``ks.cfg`` on a disc labelled ``OEMDRV``.
                 https://anaconda-installer.readthedocs.io/en/latest/boot-options.html

``preseed``      Debian's installer reads no disc beside its own, but ``preseed.cfg`` within its
                 initrd. So the first boot is of the kernel and the initrd that lie on its disc,
                 with the file added (``vms.provisioning.installer``).
                 https://www.debian.org/releases/stable/amd64/apb.html
"""

from __future__ import annotations

import re
from typing import Any

from accounts.errors import Invalid
from vms import cloudconfig, seeds

AUTOINSTALL, KICKSTART, PRESEED = "autoinstall", "kickstart", "preseed"
KINDS = (AUTOINSTALL, KICKSTART, PRESEED)
MAX_BYTES = 64 * 1024
# What is not answered takes its default, without a question where there is one.
PRESEED_CMDLINE = "auto=true priority=critical"
_SECTION = re.compile(r"%(?!end\b|include\b|ksappend\b)[a-z]+", re.ASCII)
# An owner, a question, its type: debconf-set-selections(1).
_QUESTION = re.compile(
    r"[^\s#]\S*[ \t]+[^\s/]+/\S+[ \t]+"
    r"(?:(?:string|text|password|select|multiselect|note|title|error)\b.*|"
    r"(?:boolean|seen)[ \t]+(?:true|false))\s*",
    re.ASCII,
)
_ENDS_OFF = re.compile(
    r"^\s*d-i[ \t]+debian-installer/exit/(?:poweroff|halt)[ \t]+boolean[ \t]+true\s*$",
    re.ASCII | re.MULTILINE,
)
_CPIO_FIELDS = 13
_CPIO_FILE = 0o100600


def check(kind: str, text: str) -> None:
    """Raises ``Invalid`` with the code under ``answers`` or ``answers_kind``."""
    if kind not in KINDS:
        raise _wrong("answers_kind", "answers.kind")
    if len(text.encode(errors="replace")) > MAX_BYTES:
        raise _wrong("answers", "answers.large", limit=MAX_BYTES // 1024)
    if any(ord(c) < 32 and c not in "\n\r\t" for c in text) or not text.strip():
        raise _wrong("answers", "answers.text")
    if kind == AUTOINSTALL:
        _check_autoinstall(text)
    elif kind == KICKSTART:
        _check_kickstart(text)
    else:
        _check_preseed(text)


def build(kind: str, text: str, *, instance_id: str) -> bytes:
    """The disc. The same input gives the same bytes."""
    plain = _plain(text)
    if kind == KICKSTART:
        return seeds.iso("OEMDRV", {"ks.cfg": plain})
    head = "" if plain.startswith("#cloud-config") else "#cloud-config\n"
    meta = cloudconfig.dump({"instance-id": instance_id})
    return seeds.iso(seeds.LABEL, {"user-data": head + plain, "meta-data": meta})


def in_initrd(text: str, *, after: int) -> bytes:
    """What is appended to an initrd of ``after`` bytes: an archive with ``preseed.cfg``, which the
    kernel unpacks over the first (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    content = _plain(text).encode()
    return (
        bytes(-after % 4)
        + _cpio_entry("preseed.cfg", content, mode=_CPIO_FILE)
        + _cpio_entry("TRAILER!!!", b"", mode=0)
    )


def ends_off(text: str) -> bool:
    """Whether this preseed asks for the machine to be off when it is installed."""
    return _ENDS_OFF.search(text) is not None


def _plain(text: str) -> str:
    return text.replace("\r\n", "\n").rstrip("\n") + "\n"


def _cpio_entry(name: str, content: bytes, *, mode: int) -> bytes:
    """In the format ``newc``: inode, mode, owner, group, links, time, size, two devices, length of
    the name, checksum; each part is filled up to four bytes."""
    fields = [0] * _CPIO_FIELDS
    fields[1], fields[4], fields[6], fields[11] = mode, 1, len(content), len(name) + 1
    head = b"070701" + "".join(f"{field:08x}" for field in fields).encode() + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)


def _check_preseed(text: str) -> None:
    """Each line is a question with its type; debconf would ask for what it could not read."""
    begun, line = 1, ""
    for number, part in enumerate(text.splitlines(), start=1):
        line, begun = (line + part, begun) if line else (part, number)
        if line.lstrip().startswith("#"):
            line = ""
        elif line.endswith("\\"):
            line = line[:-1] + " "
        else:
            _check_question(line.strip(), begun)
            line = ""
    _check_question(line.strip(), begun)


def _check_question(line: str, number: int) -> None:
    if line and not _QUESTION.fullmatch(line):
        raise _wrong("answers", "answers.question", line=number)


def _check_autoinstall(text: str) -> None:
    told = cloudconfig.read(text, field="answers")
    inside = told.get("autoinstall") if isinstance(told, dict) else None
    if not isinstance(inside, dict) or inside.get("version") != 1:
        raise _wrong("answers", "answers.autoinstall")


def _check_kickstart(text: str) -> None:
    """Its sections are closed: Anaconda would stop at one that is not."""
    inside = ""
    for number, line in enumerate(text.splitlines(), start=1):
        word = line.split("#")[0].split()[:1]
        if word == ["%end"]:
            if not inside:
                raise _wrong("answers", "answers.section", line=number)
            inside = ""
        elif word and _SECTION.fullmatch(word[0]) and not inside:
            inside = word[0]
    if inside:
        raise _wrong("answers", "answers.section", line=len(text.splitlines()))


def _wrong(field: str, code: str, **params: Any) -> Invalid:
    return Invalid(code, fields={field: code}, **params)
