"""One machine's screen for many viewers, over one connection to its display.

    display (QEMU) -> upstream.DisplayClient -> screen.Screen -> encode.*  -> viewer.Viewer (each)
                          ours, Raw            what it shows    once         a server of RFB 3.8

``room`` joins them. Nothing that a viewer sends reaches the display: view-only by construction.

Who calls these two gets numpy and Pillow with them (10 MiB): most processes show no screen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vms.consoles.hub.room import View
    from vms.consoles.recorder import Sink
    from vms.models import VM


async def open_view(vm: VM) -> View:
    from vms.consoles.hub import room

    return await room.open_view(vm)


async def record(vm: VM, sink: Sink) -> str:
    from vms.consoles.hub import recording

    return await recording.record(vm, sink)
