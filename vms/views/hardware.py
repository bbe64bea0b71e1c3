"""The tab Hardware: its dialogs, and what they send."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import HttpResponse, QueryDict
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from accounts.access import SignedInRequest, signed_in
from accounts.errors import Invalid, NotFound
from accounts.fragments import done
from accounts.models import User
from vms import commands, discs, flattening, presentation, queries
from vms.hardware import presentation as views
from vms.hardware import requests, rules
from vms.models import VM
from vms.provisioning import network_choices
from vms.provisioning.domain import ISO_TARGET
from vms.views.machine import first_of

DIALOGS = (
    "size",
    "boot",
    "disc",
    "disk-add",
    "disk-grow",
    "disk-remove",
    "disk-flatten",
    "nic-add",
    "nic-remove",
)
BOOT_PLACES = 3  # as many as the dialog offers
_DIGITS = 9


@signed_in
@require_safe
def dialog(request: SignedInRequest, uuid: UUID) -> HttpResponse:
    """``?for=size``; of one disk with ``&disk=vdb``, of one card with ``&nic=7``."""
    word = request.GET.get("for", "")
    if word not in DIALOGS:
        raise NotFound
    vm = queries.one(request.user, uuid)
    context: dict[str, Any] = {
        "vm": vm,
        "machine": presentation.machine(vm, request.user),
        "hardware": views.of(vm, request.user),
        "word": word,
    }
    if word in ("disk-grow", "disk-remove", "disk-flatten"):
        context["disk"] = requests.find_disk(vm, request.GET.get("disk", ""))
    if word == "nic-remove":
        context["nic"] = requests.find_nic(vm, _number(request.GET, "nic") or 0)
    if word == "disc":
        context["discs"] = list(discs.choices(request.user))
    if word == "nic-add":
        context["networks"] = network_choices()
    if word == "size":
        context["vcpus"] = _number(request.GET, "vcpus") or vm.pending.get("vcpus", vm.vcpus)
        asked = _number(request.GET, "memory_mib")
        context["memory_mib"] = asked or vm.pending.get("memory_mib", vm.memory_mib)
    if word == "boot":
        context["devices"] = _boot_choices(vm)
        now = context["hardware"].boot
        context["places"] = [
            (place, now[place - 1] if place <= len(now) else "")
            for place in range(1, BOOT_PLACES + 1)
        ]
    context["commands"] = _commands(vm, word, context)
    response = render(request, "vms/hardware_dialogs.html", context)
    response["Cache-Control"] = "no-store"
    return response


@signed_in
@require_POST
def change(request: SignedInRequest, uuid: UUID, word: str) -> HttpResponse:
    vm = queries.one(request.user, uuid)
    if word not in (*DIALOGS, "nic-change", "autostart", "restart"):
        raise NotFound
    try:
        _carry_out(vm, word, request.POST, request.user)
    except Invalid as error:
        raise first_of(error) from error
    return done(request, _("It is being changed."), tone="work", changed=f"vm:{vm.uuid} vm job")


def _carry_out(vm: VM, word: str, posted: QueryDict, actor: User) -> None:
    match word:
        case "size":
            size = {"vcpus": _number(posted, "vcpus"), "memory_mib": _number(posted, "memory_mib")}
            requests.resize(vm, actor=actor, **size)
        case "boot":
            chosen = (posted.get(f"boot-{place}", "") for place in range(1, BOOT_PLACES + 1))
            devices = list(dict.fromkeys(device for device in chosen if device))
            requests.set_boot_order(vm, actor=actor, devices=devices)
        case "disc":
            discs.insert(vm, actor=actor, image=discs.choice(actor, _number(posted, "disc") or 0))
        case "autostart":
            requests.set_autostart(vm, actor=actor, autostart=posted.get("autostart") == "on")
        case "restart":
            requests.restart(vm, actor=actor)
        case "disk-add" | "disk-grow" | "disk-remove" | "disk-flatten":
            _change_disk(vm, word, posted, actor)
        case "nic-add":
            requests.add_nic(vm, actor=actor, network=posted.get("network", ""))
        case _:
            nic = requests.find_nic(vm, _number(posted, "nic") or 0)
            if word == "nic-remove":
                requests.remove_nic(nic, actor=actor)
            else:
                link_up = {"on": True, "off": False}.get(posted.get("link", ""))
                requests.change_nic(
                    nic, actor=actor, link_up=link_up, network=posted.get("network") or None
                )


def _change_disk(vm: VM, word: str, posted: QueryDict, actor: User) -> None:
    size_gib = _number(posted, "size_gib") or 0
    match word:
        case "disk-add":
            requests.add_disk(vm, actor=actor, size_gib=size_gib)
        case "disk-flatten":
            flattening.request(vm, actor=actor)
        case _:
            disk = requests.find_disk(vm, posted.get("disk", ""))
            if word == "disk-remove":
                requests.remove_disk(disk, actor=actor)
            else:
                requests.grow_disk(disk, actor=actor, size_gib=size_gib)


def _number(given: QueryDict, name: str) -> int | None:
    text = given.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _DIGITS else None


def _boot_choices(vm: VM) -> list[tuple[str, str]]:
    """``(name, label)`` of what it can boot from, in the present order."""
    drive = vm.iso_target or ISO_TARGET
    labels = {drive: f"{drive} ({vm.iso.name})"} if vm.iso else {}
    labels |= {disk.target: f"{disk.target} ({disk.size_gib} GiB)" for disk in vm.disks.all()}
    labels |= {nic.mac: f"{nic.network} ({nic.mac})" for nic in vm.nics.all()}
    first = rules.boot_order(vm)
    others = (name for name in rules.offered_to_boot(vm) if name not in first)
    return [(name, labels[name]) for name in [*first, *others]]


def _commands(vm: VM, word: str, context: dict[str, Any]) -> list[str]:
    if word == "disk-flatten":
        return flattening.show(vm)
    if word == "disc":
        return commands.show_disc(vm, next(iter(context["discs"]), None))
    return commands.show_setting(vm, word, **_about(context))


def _about(context: dict[str, Any]) -> dict[str, Any]:
    """What the commands name."""
    found: dict[str, Any] = {}
    if "vcpus" in context:
        found = {"vcpus": context["vcpus"], "memory_mib": context["memory_mib"]}
    if "disk" in context:
        found["disk"] = context["disk"]
    elif context["word"] == "disk-add":
        found["target"] = rules.free_target(context["vm"])
    if "nic" in context:
        found["mac"] = context["nic"].mac
    if context.get("networks"):
        found["network"] = context["networks"][0][0]
    return found
