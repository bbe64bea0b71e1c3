"""The pages of images: what everybody may choose, and what admins manage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts.access import SignedInRequest, admin_only, signed_in
from accounts.errors import DomainError, NotFound
from accounts.forms import add_error
from accounts.fragments import done, render_page
from vms.images import catalogue, poolvolumes, presentation, services, uploads
from vms.images.forms import CatalogueForm, DetailsForm, EditForm, UrlForm, VolumeForm
from vms.models import Image

_WRONG_INPUT = 422


@signed_in
@require_safe
def image_list(request: SignedInRequest) -> HttpResponse:
    """The published images, as cards."""
    wanted = request.GET.get("q", "").strip()
    rows = Image.objects.of_the_catalogue().filter(published=True, state=Image.State.READY)
    if wanted:
        rows = rows.filter(name__icontains=wanted)
    context = {"images": presentation.views(rows, request.user), "q": wanted}
    return render_page(request, "images/list.html", context, parts={"cards"})


@admin_only
@require_safe
def admin_image_list(request: SignedInRequest) -> HttpResponse:
    context = {"images": presentation.views(Image.objects.of_the_catalogue(), request.user)}
    return render_page(request, "images/admin_list.html", context, parts={"rows"})


@admin_only
@require_http_methods(["GET", "HEAD", "POST"])
def admin_image_add(request: SignedInRequest) -> HttpResponse:
    """From the catalogue, by address, out of a host's pool, or (by ``upload.js`` and the API) from
    the browser."""
    source = request.POST.get("source") or request.GET.get("source", "catalogue")
    from_catalogue, by_url = CatalogueForm(), UrlForm()
    volumes = poolvolumes.listed(request.user) if source == "pool" else []
    from_pool = VolumeForm(volumes=volumes)
    if request.method == "POST" and source == "look":
        poolvolumes.look(actor=request.user)
        text = _("The hosts' pools are being looked through. Open this page again in a moment.")
        return done(request, text, goal=f"{reverse('admin_image_add')}?source=pool")
    added: Image | None = None
    if request.method == "POST" and source == "catalogue":
        from_catalogue = CatalogueForm(request.POST)
        added = _submitted(from_catalogue, lambda: _add_entry(request, from_catalogue))
    elif request.method == "POST" and source == "pool":
        from_pool = VolumeForm(request.POST, volumes=volumes)
        added = _submitted(from_pool, lambda: _add_volume(request, from_pool))
    elif request.method == "POST":
        by_url = UrlForm(request.POST)
        added = _submitted(by_url, lambda: _add_url(request, by_url))
    if added is not None:
        text = _("“%(name)s” is being fetched.") % {"name": added.name}
        return done(request, text, goal=reverse("admin_image_list"))
    context = {
        "source": source,
        "catalogue_form": from_catalogue,
        "url_form": by_url,
        "upload_form": DetailsForm(prefix="upload"),
        "pool_form": from_pool,
        "used_volumes": [one for one in volumes if one.used_by],
        "entries": catalogue.entries(),
        "chunk_bytes": uploads.CHUNK_BYTES,
    }
    wrong = from_catalogue.errors or by_url.errors or from_pool.errors
    status = _WRONG_INPUT if wrong else 200
    return render_page(request, "images/add.html", context, status=status)


@admin_only
@require_http_methods(["GET", "HEAD", "POST"])
def admin_image_edit(request: SignedInRequest, image_id: int) -> HttpResponse:
    image = _find(image_id)
    form = EditForm(request.POST) if request.method == "POST" else EditForm.of(image)
    if request.method == "POST":
        changed = _submitted(
            form, lambda: services.edit(image, actor=request.user, about=form.about())
        )
        if changed is not None:
            text = _("“%(name)s” was changed.") % {"name": changed.name}
            return done(request, text, goal=reverse("admin_image_list"))
    view = presentation.views([image], request.user)[0]
    context = {"form": form, "view": view, "image": view.image}
    status = _WRONG_INPUT if form.errors else 200
    return render_page(
        request, "images/edit.html", context, parts={"state", "delete"}, status=status
    )


@admin_only
@require_POST
def admin_image_act(request: SignedInRequest, image_id: int, verb: str) -> HttpResponse:
    """One of ``_VERBS``; a refusal becomes a toast with its reason."""
    if verb not in _VERBS:
        raise NotFound
    image = _find(image_id)
    act, text = _VERBS[verb]
    act(image, actor=request.user)
    goal = reverse("admin_image_list") if verb in _LEAVES else ""
    return done(request, _(text) % {"name": image.name}, changed=f"image:{image_id} job", goal=goal)


# verb -> (service, what is said when it is done)
_VERBS: dict[str, tuple[Callable[..., Any], str]] = {
    "publish": (services.publish, gettext_noop("“%(name)s” is published: everybody may use it.")),
    "unpublish": (services.unpublish, gettext_noop("“%(name)s” is for admins only now.")),
    "retire": (
        services.retire,
        gettext_noop("“%(name)s” is retired: no new machines; those that exist keep their disks."),
    ),
    "restore": (services.restore, gettext_noop("“%(name)s” is back, not published yet.")),
    "fetch": (services.fetch_again, gettext_noop("“%(name)s” is fetched again.")),
    "delete": (services.delete, gettext_noop("“%(name)s” is being deleted.")),
    "cancel-upload": (uploads.cancel, gettext_noop("The upload of “%(name)s” was forgotten.")),
}
_LEAVES = {"delete", "cancel-upload"}


def _submitted(form: Any, call: Callable[[], Image]) -> Image | None:
    """The image, or None with the reasons in the form."""
    if not form.is_valid():
        return None
    try:
        return call()
    except DomainError as error:
        add_error(form, error)
        return None


def _add_entry(request: SignedInRequest, form: CatalogueForm) -> Image:
    data = form.cleaned_data
    entry = catalogue.find(data["entry"])
    image, _job = services.add_url(
        actor=request.user,
        url=entry.url,
        about=entry.about(data["name"]),
        checksum=data["checksum"],
        checksum_url="" if data["checksum"] else entry.checksum_url,
        publish=data["publish"],
    )
    return image


def _add_url(request: SignedInRequest, form: UrlForm) -> Image:
    data = form.cleaned_data
    image, _job = services.add_url(
        actor=request.user,
        url=data["url"],
        about=form.about(),
        checksum=data["checksum"],
        checksum_url=data["checksum_url"],
        publish=data["publish"],
    )
    return image


def _add_volume(request: SignedInRequest, form: VolumeForm) -> Image:
    chosen = form.chosen()
    image, _job = services.add_volume(
        actor=request.user,
        pool=chosen.pool_id,
        volume=chosen.volume,
        about=form.about(),
        publish=form.cleaned_data["publish"],
    )
    return image


def _find(image_id: int) -> Image:
    image = Image.objects.filter(pk=image_id).first()
    if image is None:
        raise NotFound("image.not_found")
    return image
