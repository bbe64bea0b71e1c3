"""The kinds of jobs that work on machines, a file for each family. ``VmsConfig.ready`` registers
them."""

from dataclasses import replace

from jobs import registry
from vms.jobs import copies, creation, guest, hardware, moving, needs, power, removal, snapshots


def register() -> None:
    for family in (creation, power, removal, snapshots, copies, moving, hardware, guest):
        for kind in family.KINDS:
            registry.register(replace(kind, needs=needs.of(kind.kind)))
