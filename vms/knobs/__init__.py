"""What a machine is built of beyond its size: processor, firmware, disks, cards, devices.

``words``      what each knob may say
``wish``       what a person said; "" and None mean "as recommended"
``plan``       settled, nothing open; read from a machine's rows too
``offer``      what the hosts have
``recommend``  what the operating system wants, or the machine that an image is a copy of
``settle``     a wish, and what the others know of it -> a plan, or what is wrong with the wish
``platform``, ``disks``, ``cards``  its parts; ``gather`` is what they share

The database is read, never a host.
"""

from __future__ import annotations

from vms.knobs.offer import Offered, offered
from vms.knobs.plan import (
    CardPlan,
    DiskPlan,
    Hardware,
    Knobs,
    from_json,
    knobs_of,
    of_copies,
    of_machine,
)
from vms.knobs.recommend import Recommended, recommended
from vms.knobs.settle import drives_virtio, has_virtio_drivers, settle
from vms.knobs.wish import CardWish, DiskWish, Wish
from vms.knobs.words import (
    BUSES,
    CACHES,
    CARD_MODELS,
    CLOCKS,
    CPU_MODES,
    DISC_BUSES,
    DISCARDS,
    FIRMWARES,
    FORMATS,
    IOS,
    MACHINES,
    VIDEOS,
    WATCHDOGS,
)

__all__ = [
    "BUSES",
    "CACHES",
    "CARD_MODELS",
    "CLOCKS",
    "CPU_MODES",
    "DISCARDS",
    "DISC_BUSES",
    "FIRMWARES",
    "FORMATS",
    "IOS",
    "MACHINES",
    "VIDEOS",
    "WATCHDOGS",
    "CardPlan",
    "CardWish",
    "DiskPlan",
    "DiskWish",
    "Hardware",
    "Knobs",
    "Offered",
    "Recommended",
    "Wish",
    "drives_virtio",
    "from_json",
    "has_virtio_drivers",
    "knobs_of",
    "of_copies",
    "of_machine",
    "offered",
    "recommended",
    "settle",
]
