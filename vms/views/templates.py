"""Templates: the page of them, and the dialog that makes one of a machine."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from django.db.models import Count, Prefetch, Q
from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts import messages, policy
from accounts.access import SignedInRequest, signed_in
from accounts.errors import Invalid, NotFound
from accounts.fragments import done, render_page
from accounts.policy import Action
from vms import queries
from vms.lifecycle import active_job
from vms.machine_templates import services
from vms.models import Image, Template


@dataclass(frozen=True, kw_only=True)
class VersionRow:
    image: Image
    machines: int
    current: bool
    being_made: bool
    usable: bool


@dataclass(frozen=True, kw_only=True)
class TemplateRow:
    template: Template
    versions: list[VersionRow]
    may: bool  # change it


@signed_in
@require_safe
def show(request: SignedInRequest) -> HttpResponse:
    context = {"rows": rows(request)}
    return render_page(request, "vms/templates.html", context, parts={"rows"})


def rows(request: SignedInRequest) -> list[TemplateRow]:
    """A bounded number of queries, however many templates."""
    alive = Q(disk__vm__deleted_at__isnull=True, disk__vm__isnull=False)
    versions = Image.objects.annotate(
        children=Count("disk__vm", filter=alive, distinct=True)
    ).order_by("-template_version")
    door = policy.door(request.user)
    found = (
        services.visible_to(request.user)
        .select_related("team", "owner")
        .prefetch_related(Prefetch("versions", queryset=versions))
    )
    return [
        TemplateRow(
            template=template,
            may=template.owner_id == request.user.pk or door.can(Action.TEAM_MANAGE, template.team),
            versions=[
                VersionRow(
                    image=image,
                    machines=image.children,  # type: ignore[attr-defined]
                    current=image.pk == template.current_id,
                    being_made=image.state == Image.State.NEW,
                    usable=image.state == Image.State.READY,
                )
                for image in template.versions.all()
            ],
        )
        for template in found
    ]


@signed_in
@require_http_methods(["GET", "HEAD", "POST"])
def make(request: SignedInRequest, uuid: UUID) -> HttpResponse:
    """The dialog, and what it asks for."""
    vm = queries.one(request.user, uuid)
    policy.require(request.user, Action.EDIT, vm)
    mine = [
        template
        for template in services.visible_to(request.user).select_related("team")
        if services.may_change(template, request.user)
    ]
    if request.method != "POST":
        code = services.why_not_make(vm, active_job(vm))
        host = vm.host.name if vm.host else ""
        context = {
            "vm": vm,
            "templates": mine,
            "why": messages.text(code, {"host": host, "name": vm.name}) if code else "",
        }
        return render_page(request, "vms/template_make.html", context)
    chosen = request.POST.get("into", "")
    into = next((one for one in mine if str(one.pk) == chosen), None)
    if chosen and into is None:
        raise NotFound("template.not_found")
    image, _job = services.make(
        vm,
        actor=request.user,
        name=request.POST.get("name", ""),
        into=into,
        description=request.POST.get("description", ""),
        public=bool(request.POST.get("public")),
    )
    text = _("“%(name)s” is being made.") % {"name": image.name}
    return done(request, text, tone="work", changed=f"vm:{vm.uuid} vm job image")


@signed_in
@require_safe
def ask(request: SignedInRequest, version_id: int) -> HttpResponse:
    """The dialog before a version is deleted."""
    context = {"image": _version(request, version_id)}
    return render_page(request, "vms/template_delete.html", context)


@signed_in
@require_POST
def act(request: SignedInRequest, version_id: int, word: str) -> HttpResponse:
    """``current`` or ``delete``, of one version."""
    image = _version(request, version_id)
    if word == "current":
        services.set_current(image, actor=request.user)
        text = _("New machines are made from “%(name)s”.")
    elif word == "delete":
        services.delete_version(image, actor=request.user)
        text = _("“%(name)s” is being deleted.")
    else:
        raise NotFound
    return done(request, text % {"name": image.name}, changed="image job")


def _version(request: SignedInRequest, version_id: int) -> Image:
    visible = services.visible_to(request.user)
    image = Image.objects.filter(pk=version_id, template__in=visible).first()
    if image is None:
        raise NotFound("template.not_found")
    return image


@signed_in
@require_POST
def publish(request: SignedInRequest, template_id: int) -> HttpResponse:
    """For everybody, or for its team alone."""
    template = services.find(request.user, template_id)
    word = request.POST.get("public", "")
    if word not in {"1", "0"}:
        raise Invalid("invalid", fields={"public": "invalid"})
    services.set_public(template, actor=request.user, public=word == "1")
    text = (
        _("Everybody may make machines from “%(name)s”.")
        if word == "1"
        else _("Only its team may make machines from “%(name)s”.")
    )
    goal = reverse("template_list")
    return done(request, text % {"name": template.name}, changed="image", goal=goal)
