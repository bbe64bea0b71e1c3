"""Of a wish: network cards."""

from __future__ import annotations

import re
from dataclasses import replace

from hosts.models import Untracked
from vms.knobs.gather import Settling
from vms.knobs.plan import CardPlan
from vms.knobs.recommend import Recommended
from vms.knobs.wish import Wish
from vms.knobs.words import CARD_MODELS
from vms.models import Nic

CARDS_MAX = 8
MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
LOCAL_UNICAST = 2  # the two low bits of its first byte: given by whoever runs the machines
TAP_BYTE = 0xFE  # libvirt keeps these for its own end of the cable


def settle_cards(
    settling: Settling,
    wish: Wish,
    advice: Recommended,
    network: str,
    networks: set[str],
    *,
    many: bool,
) -> tuple[CardPlan, ...]:
    problems = settling.problems
    wishes = (replace(wish.card, network=network), *wish.cards)
    if len(wishes) > CARDS_MAX:
        problems.add("cards", "vm.cards_many", limit=CARDS_MAX)
        wishes = wishes[:CARDS_MAX]
    plans = []
    for number, one in enumerate(wishes, start=1):
        name = "nic" if number == 1 else f"nic{number}"
        plan = CardPlan(
            network=one.network, model=one.model or advice.card_model, mac=one.mac.strip().lower()
        )
        settling.one_of(f"{name}_model", plan.model, CARD_MODELS)
        if number > 1 and plan.network not in networks:
            problems.add(f"{name}_network", "vm.network_unknown", name=plan.network[:64])
        if plan.mac:
            _check_mac(settling, f"{name}_mac", plan.mac, many=many)
        plans.append(plan)
    return tuple(plans)


def _check_mac(settling: Settling, name: str, mac: str, *, many: bool) -> None:
    problems = settling.problems
    if many:
        problems.add(name, "vm.mac_of_many")
        return
    first = int(mac[:2], 16) if MAC.fullmatch(mac) else TAP_BYTE
    if first & 3 != LOCAL_UNICAST or first == TAP_BYTE:
        problems.add(name, "vm.mac_wrong", given=mac[:20])
    elif mac in settling.taken_macs or _is_somebodys(mac):
        problems.add(name, "vm.mac_taken", mac=mac)
    settling.taken_macs.add(mac)


def _is_somebodys(mac: str) -> bool:
    """A machine's, or a domain's that a host has and no machine is."""
    if Nic.objects.filter(mac=mac, vm__deleted_at__isnull=True).exists():
        return True
    strangers = Untracked.objects.filter(kind=Untracked.Kind.DOMAIN).values_list("facts", flat=True)
    return any(nic["mac"] == mac for facts in strangers for nic in facts.get("nics", ()))
