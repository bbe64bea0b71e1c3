"""``manage.py add_default_flavors``: sizes to begin with, where there are none."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from vms.models import Flavor

# Each with its vCPUs, MiB of memory and GiB of disk.
DEFAULTS = (
    ("Tiny", 1, 256, 2),
    ("Small", 1, 1024, 10),
    ("Medium", 2, 2048, 20),
    ("Large", 4, 8192, 40),
)


class Command(BaseCommand):
    help = "Publish four sizes (Tiny, Small, Medium, Large) where no size exists yet."

    def handle(self, *_: Any, **__: Any) -> None:
        if Flavor.objects.exists():
            return
        Flavor.objects.bulk_create(
            Flavor(name=name, vcpus=vcpus, memory_mib=memory, disk_gib=disk, position=position)
            for position, (name, vcpus, memory, disk) in enumerate(DEFAULTS)
        )
        self.stdout.write(f"{len(DEFAULTS)} sizes were published.")
