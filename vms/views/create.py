"""Create: one page, checked and priced as it is filled in."""

from __future__ import annotations

import uuid
from contextlib import suppress
from datetime import datetime
from typing import Any

from django.http import HttpResponse, HttpResponseRedirect, QueryDict
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.dateparse import parse_date
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST

from accounts import messages, policy, requests, sshkeys
from accounts.access import SignedInRequest, signed_in
from accounts.errors import DomainError, Forbidden, Invalid, NotFound, QuotaExceeded
from accounts.fragments import render_page
from accounts.models import Resource, Team
from accounts.policy import Action
from accounts.quotas import Impact
from hosts.models import Host
from vms import advice, cloudconfig, commands, knobs, names, osinfo, passwords, provisioning
from vms.forms import CUSTOM, EMPTY, CreateForm, end_of_day, split_tags
from vms.knobs import Hardware, Wish
from vms.lease_rules import Rulebook, Terms, end_problem
from vms.models import VM, Batch, Image
from vms.provisioning.batch import numbered
from vms.provisioning.validation import Problems, advised_disk_gib, disk_minimum_gib, validate
from vms.views import secrets


@signed_in
@require_http_methods(["GET", "HEAD", "POST"])
def show(request: SignedInRequest) -> HttpResponse:
    if request.method != "POST":
        form = CreateForm(user=request.user, initial=_initial(request))
        return render_page(request, "vms/create.html", _context(form))
    form = CreateForm(request.POST, user=request.user)
    password = ""
    refused = ""
    if form.is_valid():
        password = _password(form)
        try:
            made = _request(request, form, password)
        except Invalid as error:
            _mark(form, error)
        except (NotFound, Forbidden):
            raise
        except DomainError as error:
            refused = messages.text(error.code, error.params)
            context = _context(form, refused=refused, quota=isinstance(error, QuotaExceeded))
            context["more"] = (
                requests.prefilled(error.params, asker=request.user) or context["more"]
            )
            return render_page(request, "vms/create.html", context, status=error.status)
        else:
            page = "vm_batch" if isinstance(made, Batch) else "vm_detail"
            response = HttpResponseRedirect(reverse(page, args=[made.uuid]))
            if password:
                secrets.keep(response, made, password)
            return response
    elif "image" in form.cleaned_data:
        _mark_the_rest(request, form)
    return render_page(request, "vms/create.html", _context(form), status=422)


@signed_in
@require_POST
def preview(request: SignedInRequest) -> HttpResponse:
    """What it would use, the equal commands, and what is wrong with what is typed so far."""
    form = CreateForm(request.POST, user=request.user)
    form.is_valid()
    return render(request, "vms/parts/create_preview.html", _context(form, typed=True))


def _request(request: SignedInRequest, form: CreateForm, password: str) -> VM | Batch:
    data = form.cleaned_data
    wanted = _wanted(request, form, password) | {"idempotency_key": data["idempotency_key"]}
    if (data["count"] or 1) > 1:
        return provisioning.request_batch(count=data["count"], **wanted)
    vm, _job = provisioning.request_vm(hostname=data["hostname"], **wanted)
    return vm


def _wanted(request: SignedInRequest, form: CreateForm, password: str) -> dict[str, Any]:
    """What the services take; an input that the form has refused is as if it were empty."""
    data = form.cleaned_data
    return {
        "actor": request.user,
        "team": data.get("team"),
        "name": data.get("name", ""),
        "image": data["image"],
        "flavor": data.get("flavor"),
        "vcpus": data.get("vcpus"),
        "memory_mib": data.get("memory_mib"),
        "disk_gib": data.get("disk_gib"),
        "network": data.get("network", ""),
        "copy": data.get("copy", ""),
        "user": data.get("user", ""),
        "password": password,
        "ssh_keys": form.chosen_keys(),
        "user_data": data.get("user_data", ""),
        "start": data.get("start", False),
        "tags": split_tags(data.get("tags", "")),
        "description": data.get("description", ""),
        "wish": form.wish(),
        "ends_at": end_of_day(data.get("ends_on"), _latest_end(form, data.get("team"))),
    }


def _mark_the_rest(request: SignedInRequest, form: CreateForm) -> None:
    """The form has refused something; what the services would refuse is told with it."""
    refused = set(form.errors)
    if refused & {"vcpus", "memory_mib"}:
        refused.add("flavor")  # it would miss the number that is marked already
    chosen = form.cleaned_data.get("password_mode") == "choose"
    password = str(form.cleaned_data.get("password", "")) if chosen else ""
    wanted = _wanted(request, form, password)
    wanted["team"] = wanted["team"] or Team.objects.get(personal_of=request.user)
    try:
        validate(hostname=form.cleaned_data.get("hostname", ""), **wanted)
    except Invalid as error:
        for field, text in messages.field_texts(error).items():
            if _shown_at(field) not in refused:
                form.add_error(_shown_at(field), text)


def _password(form: CreateForm) -> str:
    match form.cleaned_data["password_mode"]:
        case "generate":
            return passwords.generate()
        case "choose":
            return str(form.cleaned_data["password"])
    return ""


# Inputs of the service that the form spreads over others.
_SHOWN_AT = {
    "ssh_keys": "pasted_key",
    "ends_at": "ends_on",
    "discs": "disc1",
    "disks": "disk2_gib",
    "cards": "nic2_mac",
}


def _shown_at(field: str) -> str:
    return _SHOWN_AT.get(field, field)


def _mark(form: CreateForm, error: Invalid) -> None:
    """Each wrong input beside its field, in the reader's language."""
    texts = messages.field_texts(error)
    for field, text in texts.items():
        name = _shown_at(field)
        form.add_error(name if name in form.fields else None, text)
    if not texts:
        form.add_error(None, messages.text(error.code, error.params))


def _initial(request: SignedInRequest) -> dict[str, Any]:
    asked: QueryDict = request.GET
    return {
        "name": names.suggest(request.user),
        "image": asked.get("image", ""),
        "flavor": asked.get("flavor", ""),
        "copy": VM.Copy.LINKED,
        "password_mode": "none",
        "keys": [str(key.pk) for key in request.user.ssh_keys.all()],
        "start": True,
        "count": 1,
        "idempotency_key": uuid.uuid4().hex,
        "team": asked.get("team", ""),
        "ends_on": "",
    }


def _context(
    form: CreateForm, *, refused: str = "", quota: bool = False, typed: bool = False
) -> dict[str, Any]:
    image = _image(form)
    size = _size(form, image)
    team = _team(form)
    hardware = _hardware(form, image, size)
    impacts = (
        provisioning.quota_impact(
            form.person,
            team,
            vcpus=size["vcpus"],
            memory_mib=size["memory_mib"],
            disk_gib=hardware.disk_gib,
            start=_starts(form),
            count=form.how_many(),
        )
        if team
        else []
    )
    return {
        "form": form,
        "image": image,
        "empty": form.value("image") == EMPTY,
        "empty_word": EMPTY,
        "systems": osinfo.choices(),
        "system": advice.wanted(hardware.os_id or (image.os_id if image else "")),
        "advice": [
            messages.text(code, params)
            for code, params in advice.of(
                hardware, image=image, vcpus=size["vcpus"], memory_mib=size["memory_mib"]
            )
        ],
        "knobs": hardware.knobs,
        "hardware": hardware,
        "flavor": form.value("flavor") or _first_flavor(form, image),
        "custom": CUSTOM,
        "size": size,
        "team": team,
        "impacts": _worth_showing(impacts),
        "missing": [one for one in impacts if one.missing],
        "more": requests.prefilled_for(team, impacts, asker=form.person, owner=form.person)
        if team
        else "",
        "commands": _commands(form, image, size, hardware),
        "refused": refused,
        "refused_by_quota": quota,
        "first_error": next(iter(form.errors), "") if form.is_bound and not typed else "",
        "time": _time(form, team),
        "count": form.how_many(),
        "batch_names": _batch_names(form),
        "name_text": _name_problem(form, team),
        "cloud_text": _cloud_problem(form),
        "key_text": _key_problem(form),
        "mode": form.value("password_mode") or "none",
        "ticked_keys": form["keys"].value() or [],
        "typed": typed,
    }


def _terms(form: CreateForm, team: Team | None) -> Terms | None:
    if team is None:
        return None
    word = form.value("flavor") or _first_flavor(form, _image(form))
    chosen = next((flavor.pk for flavor in form.flavors if str(flavor.pk) == word), None)
    return Rulebook.read().terms(team.pk, chosen)


def _latest_end(form: CreateForm, team: Team | None) -> datetime | None:
    terms = _terms(form, team or _team(form))
    return terms.latest(timezone.now()) if terms else None


def _time(form: CreateForm, team: Team | None) -> dict[str, Any]:
    """When it would end, as typed so far or as the rules say."""
    terms = _terms(form, team)
    if terms is None:
        return {}
    now = timezone.now()
    latest = terms.latest(now)
    typed = None
    with suppress(ValueError):
        typed = end_of_day(parse_date(form.value("ends_on")), latest)
    code = ""
    if typed:
        free = policy.can(form.person, Action.SITE_ADMIN)
        code = end_problem(terms, typed, made_at=now, free=free)
    return {
        "ends_at": typed if typed and not code else terms.first_end(now),
        "latest": latest,
        "problem": messages.text(code, {"latest_at": terms.latest_text(now)}) if code else "",
        "first_day": timezone.localdate(),
    }


def _worth_showing(impacts: list[Impact]) -> list[Impact]:
    """What is limited; without any limit, what everybody counts in."""
    asked = [one for one in impacts if one.asked]
    plain = {Resource.MACHINES, Resource.VCPUS, Resource.MEMORY_MIB, Resource.DISK_GIB}
    return [one for one in asked if not one.unlimited] or [
        one for one in asked if one.resource in plain
    ]


def _image(form: CreateForm) -> Image | None:
    wanted = form.value("image")
    found = next((image for image in form.images if str(image.pk) == wanted), None)
    return found or (form.images[0] if form.images and not wanted else None)


def _team(form: CreateForm) -> Team | None:
    wanted = form.value("team")
    found = next((team for team in form.teams if str(team.pk) == wanted), None)
    return found or (form.teams[0] if form.teams else None)


def _hardware(form: CreateForm, image: Image | None, size: dict[str, int]) -> Hardware:
    """As it would be made of what is typed so far; what is wrong in it is told elsewhere."""
    return knobs.settle(
        Problems(),
        form.wish() if form.is_bound else Wish(),
        image=image,
        vcpus=size["vcpus"],
        disk_gib=size["disk_gib"],
        network=_network(form),
        networks={name for name, _label in form.networks},
        linked=False,
    )


def _network(form: CreateForm) -> str:
    return form.value("network") or (form.networks[0][0] if form.networks else "default")


def _first_flavor(form: CreateForm, image: Image | None) -> str:
    """The smallest size that carries the image well."""
    needs = (image.recommended_memory_mib or image.min_memory_mib) if image else 0
    needs = needs or _advised(form, image, "memory_mib")
    able = [flavor for flavor in form.flavors if flavor.memory_mib >= needs]
    chosen = able[0] if able else (form.flavors[-1] if form.flavors else None)
    return str(chosen.pk) if chosen else CUSTOM


def _starts(form: CreateForm) -> bool:
    return bool(form["start"].value()) if form.is_bound else True


def _size(form: CreateForm, image: Image | None) -> dict[str, int]:
    word = form.value("flavor") or _first_flavor(form, image)
    flavor = next((one for one in form.flavors if str(one.pk) == word), None)
    least = disk_minimum_gib(image)
    default_disk = max(
        flavor.disk_gib if flavor else advised_disk_gib(image, form.value("os_id")), least
    )
    return {
        "vcpus": flavor.vcpus if flavor else _whole(form.value("vcpus"), 1),
        "memory_mib": flavor.memory_mib if flavor else _whole(form.value("memory_mib"), 1024),
        "disk_gib": _whole(form.value("disk_gib"), default_disk),
        "default_disk_gib": default_disk,
        "least_disk_gib": least,
    }


_LARGEST, _DIGITS = 10**9, 18


def _whole(text: str, default: int) -> int:
    """A number that is still being typed: anything else counts as not typed."""
    if not text.isascii() or not text.isdecimal():
        return default
    if len(text) > _DIGITS:  # int() itself refuses thousands of them
        return _LARGEST
    return min(int(text), _LARGEST) or default


def _name_problem(form: CreateForm, team: Team | None) -> str:
    name = form.value("name")
    if not form.is_bound or team is None:
        return ""
    try:
        names.validate_name(name)
    except Invalid as error:
        return messages.text(error.code, error.params)
    for one in _batch_names(form) or [name]:
        if code := provisioning.name_problem(team, one):
            text = messages.text(code, {"name": one, "team": team.name, "name_limit": 63})
            return f"{one}: {text}" if one != name else text
    return ""


def _batch_names(form: CreateForm) -> list[str]:
    """The first and the last name of a batch; empty for one machine."""
    count, name = form.how_many(), form.value("name").strip()
    if count < 2 or not name:
        return []
    names = numbered(name, count)
    return [names[0], names[-1]]


def _cloud_problem(form: CreateForm) -> str:
    text = form.value("user_data")
    if not text.strip():
        return ""
    try:
        cloudconfig.parse(text, first_user=form.value("user"))
    except Invalid as error:
        return messages.text(error.fields.get("user_data", error.code), error.params)
    return ""


def _key_problem(form: CreateForm) -> str:
    for line in form.value("pasted_key").splitlines():
        if not line.strip():
            continue
        try:
            sshkeys.parse(line.strip())
        except Invalid as error:
            return messages.text(error.code, error.params)
    return ""


def _advised(form: CreateForm, image: Image | None, what: str) -> int:
    """What the system's makers recommend; 0 for an image that runs in less than its installer."""
    if image is not None and image.kind == Image.Kind.DISK:
        return 0
    found = advice.wanted(form.value("os_id") or (image.os_id if image else ""))
    return getattr(found, what) if found else 0


def _commands(
    form: CreateForm, image: Image | None, size: dict[str, int], hardware: Hardware
) -> list[str]:
    if image is None and form.value("image") != EMPTY:
        return []
    lines = commands.show_create(
        name=next(iter(_batch_names(form)), form.value("name") or _("name")),
        image=image,
        vcpus=size["vcpus"],
        memory_mib=size["memory_mib"],
        disk_gib=size["disk_gib"],
        network=_network(form),
        hardware=hardware,
        copy=form.value("copy") or VM.Copy.LINKED.value,
        user=form.value("user") or (image.default_user if image else ""),
        has_password=form.value("password_mode") in ("generate", "choose"),
        ssh_keys=_keys_so_far(form),
        user_data=form.value("user_data"),
        hostname=form.value("hostname"),
        start=_starts(form),
        domain_type=_domain_type(),
    )
    return lines + commands.show_again(_batch_names(form))


def _domain_type() -> str:
    """What a new machine will get where it is most likely to land."""
    hosts = Host.objects.filter(mode=Host.Mode.ACTIVE)
    return "kvm" if any(host.domain_type == "kvm" for host in hosts) else "qemu"


def _keys_so_far(form: CreateForm) -> list[str]:
    ticked = set(form["keys"].value() or ())
    kept = [key.public_key for key in form.ssh_keys if str(key.pk) in ticked]
    pasted = form.value("pasted_key").splitlines()
    return kept + [line.strip() for line in pasted if line.strip()]
