"""The file that remote-viewer opens (virt-viewer(1), "CONNECTION FILE").

remote-viewer speaks no VNC over WebSockets, so it cannot come here by itself: the file names the
loopback port to which ``kvmweb console NAME --vnc --port N`` carries the screen, on the machine
where the person sits. It holds no secret, so it may be kept.
"""

from __future__ import annotations

import re

from django.http import HttpResponse

from vms.models import VM

_ODD = re.compile(r"[^A-Za-z0-9._-]")
CONTENT_TYPE = "application/x-virt-viewer"


def text(vm: VM, port: int) -> str:
    """A name that a domain brought from elsewhere may hold anything: it adds no line of its own."""
    lines = (
        "[virt-viewer]",
        "type=vnc",
        "host=127.0.0.1",
        f"port={port}",
        f"title={_plain(vm.name)} %d",
        "enable-usbredir=0",
    )
    return "\n".join(lines) + "\n"


def answer(vm: VM, port: int) -> HttpResponse:
    answer = HttpResponse(text(vm, port), content_type=CONTENT_TYPE)
    answer["Content-Disposition"] = f'attachment; filename="{_plain(vm.name)}.vv"'
    return answer


def _plain(name: str) -> str:
    return _ODD.sub("_", name)
