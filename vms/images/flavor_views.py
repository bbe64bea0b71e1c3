"""The admin's pages of sizes."""

from __future__ import annotations

from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts.access import SignedInRequest, admin_only
from accounts.errors import DomainError, NotFound
from accounts.forms import add_error
from accounts.fragments import done, render_page
from vms import flavors
from vms.images.forms import FlavorForm
from vms.models import Flavor

_WRONG_INPUT = 422


@admin_only
@require_safe
def flavor_list(request: SignedInRequest) -> HttpResponse:
    return render_page(request, "images/flavor_list.html", {"flavors": Flavor.objects.all()})


@admin_only
@require_http_methods(["GET", "HEAD", "POST"])
def flavor_add(request: SignedInRequest) -> HttpResponse:
    form = FlavorForm(request.POST or None)
    return _form_page(request, form, None)


@admin_only
@require_http_methods(["GET", "HEAD", "POST"])
def flavor_edit(request: SignedInRequest, flavor_id: int) -> HttpResponse:
    flavor = _find(flavor_id)
    form = FlavorForm(request.POST) if request.method == "POST" else FlavorForm.of(flavor)
    return _form_page(request, form, flavor)


@admin_only
@require_POST
def flavor_delete(request: SignedInRequest, flavor_id: int) -> HttpResponse:
    flavor = _find(flavor_id)
    flavors.delete(flavor, actor=request.user)
    text = _("The size “%(name)s” was deleted. Machines keep theirs.") % {"name": flavor.name}
    return done(request, text, goal=reverse("flavor_list"))


def _form_page(request: SignedInRequest, form: FlavorForm, flavor: Flavor | None) -> HttpResponse:
    if request.method == "POST" and form.is_valid():
        try:
            saved = (
                flavors.add(actor=request.user, size=form.size())
                if flavor is None
                else flavors.edit(flavor, actor=request.user, size=form.size())
            )
        except DomainError as error:
            add_error(form, error)
        else:
            text = _("The size “%(name)s” was saved.") % {"name": saved.name}
            return done(request, text, goal=reverse("flavor_list"))
    status = _WRONG_INPUT if form.errors else 200
    context = {"form": form, "flavor": flavor}
    return render_page(request, "images/flavor.html", context, status=status)


def _find(flavor_id: int) -> Flavor:
    flavor = Flavor.objects.filter(pk=flavor_id).first()
    if flavor is None:
        raise NotFound("flavor.not_found")
    return flavor
