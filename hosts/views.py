"""The admin's pages of hosts. They read rows; what changes a host is a job."""

from __future__ import annotations

from typing import Any

from django.contrib import messages as notices
from django.http import HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe
from redis.exceptions import RedisError

from accounts import pulse
from accounts.access import SignedInRequest, admin_only
from accounts.errors import DomainError, Invalid, NotFound
from accounts.forms import add_error
from accounts.fragments import done, render_page
from hosts import presentation, services
from hosts.forms import HostForm, LimitsForm
from hosts.models import Host

_WRONG_INPUT = 422


@admin_only
@require_safe
def index(request: SignedInRequest) -> HttpResponse:
    context = {"hosts": presentation.hosts(), "watched": _is_watched()}
    return render_page(request, "hosts/list.html", context, parts=("rows",))


@admin_only
@require_http_methods(["GET", "HEAD", "POST"])
def add(request: SignedInRequest) -> HttpResponse:
    form = HostForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            host = services.add_host(actor=request.user, **form.cleaned_data)
        except DomainError as error:
            add_error(form, error)
        else:
            notices.success(
                request, _("Host %(name)s was added; it is being read.") % {"name": host.name}
            )
            return redirect("host_detail", host.pk)
    status = _WRONG_INPUT if form.errors else 200
    return render_page(request, "hosts/add.html", {"form": form}, status=status)


@admin_only
@require_safe
def detail(request: SignedInRequest, host_id: int) -> HttpResponse:
    return _detail(request, _find(host_id))


@admin_only
@require_POST
def refresh(request: SignedInRequest, host_id: int) -> HttpResponse:
    host = _find(host_id)
    services.request_refresh(host, actor=request.user)
    return _told(request, host, _("Host %(name)s is being read again."))


@admin_only
@require_POST
def probe(request: SignedInRequest, host_id: int) -> HttpResponse:
    host = _find(host_id)
    services.request_probe(host, actor=request.user)
    return _told(request, host, _("A probe machine is tried on %(name)s."))


@admin_only
@require_POST
def set_mode(request: SignedInRequest, host_id: int) -> HttpResponse:
    host = services.set_mode(_find(host_id), request.POST.get("mode", ""), actor=request.user)
    text = (
        _("Host %(name)s takes machines again.")
        if host.mode == Host.Mode.ACTIVE
        else _("Host %(name)s takes no new machines; those it has go on.")
    )
    return _told(request, host, text)


@admin_only
@require_POST
def override(request: SignedInRequest, host_id: int) -> HttpResponse:
    host = services.set_acceleration_override(
        _find(host_id), request.POST.get("acceleration_override", ""), actor=request.user
    )
    return _told(request, host, _("New machines on %(name)s follow this from now on."))


@admin_only
@require_POST
def set_network(request: SignedInRequest, host_id: int, network_id: int) -> HttpResponse:
    host = _find(host_id)
    served = request.POST.get("pxe") == "on"
    services.set_network_pxe(host, network_id, served=served, actor=request.user)
    return _told(request, host, _("The networks of %(name)s were changed."))


@admin_only
@require_POST
def set_limits(request: SignedInRequest, host_id: int) -> HttpResponse:
    host = _find(host_id)
    form = LimitsForm(request.POST, host=host)
    if not form.is_valid():
        return _detail(request, host, form=form)
    services.set_limits(host, actor=request.user, **form.cleaned_data)
    return _told(request, host, _("The limits of %(name)s were changed."))


@admin_only
@require_POST
def set_backup_place(request: SignedInRequest, host_id: int) -> HttpResponse:
    """``folder``: a directory of the host; else ``pool``, by id, "" for beside the disks."""
    host = _find(host_id)
    folder, wanted = request.POST.get("folder", "").strip(), request.POST.get("pool", "")
    if folder:
        services.request_backup_folder(host, folder, actor=request.user)
        return _told(request, host, _("The directory on %(name)s is being prepared."))
    pool = None
    if wanted:
        number = int(wanted) if wanted.isascii() and wanted.isdecimal() else 0
        pool = host.pools.filter(pk=number, active=True).first()
        if pool is None:
            raise Invalid("host.pool_unknown", fields={"pool": "host.pool_unknown"})
    services.set_backup_place(host, pool, actor=request.user)
    return _told(request, host, _("New backups on %(name)s go there from now on."))


@admin_only
@require_POST
def adopt(request: SignedInRequest, host_id: int, untracked_id: int) -> HttpResponse:
    host = _find(host_id)
    services.request_adoption(host, untracked_id, actor=request.user)
    return _told(request, host, _("The domain on %(name)s is being taken in."))


@admin_only
@require_POST
def sweep(request: SignedInRequest, host_id: int) -> HttpResponse:
    host = _find(host_id)
    services.request_sweep(host, actor=request.user)
    return _told(request, host, _("The site looks for leftovers on %(name)s."))


@admin_only
@require_POST
def remove(request: SignedInRequest, host_id: int) -> HttpResponse:
    host = _find(host_id)
    services.remove_host(host, actor=request.user)
    notices.success(
        request,
        _("Host %(name)s was removed here. Nothing on it was touched.") % {"name": host.name},
    )
    return redirect("host_list")


def _find(host_id: int) -> Host:
    host = Host.objects.filter(pk=host_id).first()
    if host is None:
        raise NotFound
    return host


def _detail(request: SignedInRequest, host: Host, form: LimitsForm | None = None) -> HttpResponse:
    context: dict[str, Any] = {
        "page": presentation.host_page(host),
        "host": host,
        "form": form or LimitsForm(host=host),
        "watched": _is_watched(),
    }
    status = _WRONG_INPUT if form is not None else 200
    return render_page(request, "hosts/detail.html", context, parts=("state",), status=status)


def _told(request: SignedInRequest, host: Host, text: str) -> HttpResponse:
    return done(request, text % {"name": host.name}, changed=f"host:{host.pk} job")


def _is_watched() -> bool:
    """Whether the watcher lives; without it what these pages say grows old."""
    try:
        age_s = pulse.ages_s()["watch"]
    except RedisError:
        return True  # nobody knows, and the page about Redis says so elsewhere
    return age_s is not None and age_s <= pulse.FRESH_S
