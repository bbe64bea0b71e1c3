"""From a wish to hardware: what is open is filled in, or what is wrong is gathered."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from accounts.errors import Invalid
from hosts.models import Network
from vms import answers, osinfo
from vms.knobs.cards import settle_cards
from vms.knobs.disks import settle_disks
from vms.knobs.gather import Settling
from vms.knobs.offer import offered
from vms.knobs.plan import Hardware
from vms.knobs.platform import settle_platform
from vms.knobs.recommend import recommended
from vms.knobs.wish import Wish
from vms.knobs.words import BOOTS
from vms.models import Image

if TYPE_CHECKING:
    from vms.provisioning.validation import Problems

DISCS_MAX = 2  # beyond the first
OS_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,47}")


def settle(
    problems: Problems,
    wish: Wish,
    *,
    image: Image | None,
    vcpus: int,
    disk_gib: int,
    network: str,
    networks: set[str],
    linked: bool,
    many: bool = False,
) -> Hardware:
    """``networks``: those that may be chosen. ``many``: for a batch, whose cards cannot share a
    MAC. What is wrong is in ``problems`` afterwards, and the result is then of no use."""
    has = offered()
    os_id = wish.os_id or (image.os_id if image else "")
    known = osinfo.find(wish.os_id) is not None or not osinfo.is_there()
    if wish.os_id and not (known and OS_ID.fullmatch(wish.os_id)):
        problems.add("os_id", "vm.os_unknown", name=wish.os_id[:40])
    drivers = any(has_virtio_drivers(disc) for disc in wish.discs)
    advice = recommended(os_id, has=has, with_drivers=drivers, image=image)
    settling = Settling(problems, has)
    _check_answers(problems, wish, image)
    knobs = settle_platform(settling, wish, replace(advice.knobs, drive=image is None), vcpus)
    if wish.answers_kind == answers.PRESEED and knobs.firmware == "secureboot":
        problems.add("answers_kind", "answers.secureboot")
    return Hardware(
        os_id=wish.os_id,
        knobs=knobs,
        disks=settle_disks(settling, wish, advice, knobs, disk_gib, linked=linked),
        cards=settle_cards(settling, wish, advice, network, networks, many=many),
        discs=_discs(problems, wish),
        boot=_boot(problems, wish, image, network),
        autostart=wish.autostart,
        answers_kind=wish.answers_kind,
        answers=wish.answers,
    )


def _check_answers(problems: Problems, wish: Wish, image: Image | None) -> None:
    if not wish.answers_kind and not wish.answers.strip():
        return
    if image is None or image.kind != Image.Kind.ISO:
        problems.add("answers", "answers.no_disc")
        return
    try:
        answers.check(wish.answers_kind, wish.answers)
    except Invalid as error:
        for name, code in error.fields.items():
            problems.add(name, code, **error.params)


def drives_virtio(hardware: Hardware) -> bool:
    """Whether a disc with virtio's drivers for Windows is in a drive."""
    return any(has_virtio_drivers(disc) for disc in hardware.discs)


def has_virtio_drivers(image: Image) -> bool:
    """A disc with virtio's drivers for Windows, as Fedora publishes it (virtio-win.iso)."""
    return "virtio-win" in (image.os_id, image.name.lower()[:10])


def _discs(problems: Problems, wish: Wish) -> tuple[Image, ...]:
    if len(wish.discs) > DISCS_MAX:
        problems.add("discs", "vm.discs_many", limit=DISCS_MAX)
    for disc in wish.discs:
        if disc.kind != Image.Kind.ISO or disc.state != Image.State.READY:
            problems.add("discs", "vm.disc_not_iso", name=disc.name)
    return wish.discs[:DISCS_MAX]


def _boot(problems: Problems, wish: Wish, image: Image | None, network: str) -> tuple[str, ...]:
    if not set(wish.boot) <= set(BOOTS) or len(set(wish.boot)) != len(wish.boot):
        problems.add("boot", "vm.boot_unknown")
    if "disc" in wish.boot and not (image is not None and image.kind == Image.Kind.ISO):
        problems.add("boot", "vm.boot_no_disc")
    if "network" in wish.boot and network not in Network.that_boot():
        problems.add("boot", "vm.boot_no_pxe", network=network[:64])
    return wish.boot
