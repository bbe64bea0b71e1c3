"""Answers for an installer: a small disc in a second drive, which the installer looks for itself.

``autoinstall``  Ubuntu's Subiquity: a NoCloud disc (label ``cidata``) whose user-data has
                 ``autoinstall``. It asks once on the screen whether to go on, unless its kernel's
                 line says ``autoinstall``.
                 https://canonical-subiquity.readthedocs-hosted.com/en/latest/intro-to-autoinstall.html
``kickstart``    Anaconda (Fedora, RHEL and its kin): ``ks.cfg`` on a disc labelled ``OEMDRV``.
                 https://anaconda-installer.readthedocs.io/en/latest/boot-options.html

Debian's installer takes a preseed only by its kernel's line or within its initrd: no disc beside it
is read, so there is no such kind here.
"""

from __future__ import annotations

import re
from typing import Any

from accounts.errors import Invalid
from vms import cloudconfig, seeds

AUTOINSTALL, KICKSTART = "autoinstall", "kickstart"
KINDS = (AUTOINSTALL, KICKSTART)
MAX_BYTES = 64 * 1024
_SECTION = re.compile(r"%(?!end\b|include\b|ksappend\b)[a-z]+", re.ASCII)


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
    else:
        _check_kickstart(text)


def build(kind: str, text: str, *, instance_id: str) -> bytes:
    """The disc. The same input gives the same bytes."""
    plain = text.replace("\r\n", "\n").rstrip("\n") + "\n"
    if kind == KICKSTART:
        return seeds.iso("OEMDRV", {"ks.cfg": plain})
    head = "" if plain.startswith("#cloud-config") else "#cloud-config\n"
    meta = cloudconfig.dump({"instance-id": instance_id})
    return seeds.iso(seeds.LABEL, {"user-data": head + plain, "meta-data": meta})


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
