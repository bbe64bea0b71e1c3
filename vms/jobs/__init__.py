"""The kinds of jobs that work on machines, a file for each family. ``VmsConfig.ready`` registers
them."""

from jobs import registry
from vms.jobs import copies, creation, guest, hardware, moving, power, removal, snapshots


def register() -> None:
    for family in (creation, power, removal, snapshots, copies, moving, hardware, guest):
        for kind in family.KINDS:
            registry.register(kind)
