"""The API of images and flavors: the same services as the pages."""

from __future__ import annotations

from datetime import datetime
from typing import Any, BinaryIO, cast
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from ninja import Field, Query, Router, Schema
from pydantic import ConfigDict

from accounts import messages
from accounts.apiauth import (
    Identity,
    Page,
    Paging,
    admin_auth,
    idempotent,
    let_in,
    paginate,
    user_auth,
)
from accounts.errors import Invalid, NotFound
from accounts.models import User
from jobs.api import JobBrief, brief
from vms import flavors
from vms.images import catalogue, poolvolumes, services, uploads
from vms.images.details import Details
from vms.models import Flavor, Image

router = Router()


# --- what goes in and out ------------------------------------------------------------------------


class DetailsIn(Schema):
    model_config = ConfigDict(extra="forbid")

    name: str | None = None
    os_id: str | None = Field(None, description="libosinfo's short name, like debian12")
    version: str | None = None
    description: str | None = None
    icon: str | None = None
    min_memory_mib: int | None = None
    min_disk_gib: int | None = None
    recommended_memory_mib: int | None = None
    recommended_disk_gib: int | None = None
    default_user: str | None = None
    has_cloud_init: bool | None = None

    def about(self) -> Details:
        return Details(**{field: getattr(self, field) for field in Details.__dataclass_fields__})


class ImageIn(DetailsIn):
    """From ``url``, an entry of ``GET /images/catalogue``, or a disk of ``GET /images/volumes``."""

    url: str = ""
    pool: int | None = Field(None, description="the pool in which the disk lies, with volume")
    volume: str = Field("", description="its name there; it stays as it is")
    checksum: str = Field("", description="SHA-256 or SHA-512, in hexadecimal")
    checksum_url: str = Field("", description="the vendor's SHA256SUMS, SHA512SUMS or CHECKSUM")
    catalogue: str = ""
    publish: bool = False


class UploadIn(DetailsIn):
    name: str
    size_bytes: int
    file_name: str = ""
    checksum: str = ""
    publish: bool = False


class ImageChange(DetailsIn):
    published: bool | None = None
    retired: bool | None = Field(None, description="no new machines; those that exist stay")


class ErrorOut(Schema):
    code: str
    message: str
    ref: str


class ImageOut(Schema):
    id: int
    uuid: UUID
    name: str
    kind: str = Field(description="disk, or iso: a disc to install from")
    os_id: str
    icon: str
    version: str
    arch: str
    description: str
    state: str
    published: bool
    source: str
    url: str | None = Field(description="admins only")
    format: str
    virtual_size_bytes: int
    file_size_bytes: int
    checksum: str
    checksum_algorithm: str
    min_memory_mib: int
    min_disk_gib: int
    recommended_memory_mib: int
    recommended_disk_gib: int
    default_user: str
    has_cloud_init: bool
    upload: UploadOut | None
    error: ErrorOut | None
    created_at: datetime


class UploadOut(Schema):
    offset: int
    size_bytes: int
    chunk_bytes: int = uploads.CHUNK_BYTES


class EntryOut(Schema):
    key: str
    name: str
    os_id: str
    icon: str
    version: str
    default_user: str
    url: str
    checksum_url: str


class VolumeOut(Schema):
    host: str
    pool_id: int
    pool: str
    volume: str
    format: str = Field(description="as libvirt tells it")
    size_bytes: int = Field(description="of the disk in it")
    allocation_bytes: int
    used_by: str = Field(description='a domain or volume that uses it: not to be imported; or ""')
    seen_at: datetime


class Looking(Schema):
    jobs: list[JobBrief]


class Accepted(Schema):
    job: JobBrief
    image: ImageOut


class JobAccepted(Schema):
    job: JobBrief


class FlavorIn(Schema):
    model_config = ConfigDict(extra="forbid")

    name: str | None = None
    vcpus: int | None = None
    memory_mib: int | None = None
    disk_gib: int | None = None
    description: str | None = None
    published: bool | None = None
    position: int | None = None

    def size(self) -> flavors.Size:
        return flavors.Size(**self.dict())


class FlavorOut(Schema):
    id: int
    name: str
    vcpus: int
    memory_mib: int
    disk_gib: int
    description: str
    published: bool
    position: int


ImageOut.model_rebuild()


# --- images --------------------------------------------------------------------------------------


@router.get("/images", response=Page[ImageOut], auth=user_auth, tags=["images"])
def list_images(
    request: HttpRequest, paging: Query[Paging], state: str = "", q: str = ""
) -> dict[str, Any]:
    """The images that you may use; admins see all."""
    user = _identity(request).user
    rows = Image.objects.visible_to(user).of_the_catalogue()
    if state:
        rows = rows.filter(state=state)
    if q:
        rows = rows.filter(name__icontains=q)
    page = paginate(rows, paging)
    return {"items": [shown(image, user) for image in page["items"]], "count": page["count"]}


@router.get("/images/catalogue", response=list[EntryOut], auth=admin_auth, tags=["images"])
def list_catalogue(request: HttpRequest) -> list[catalogue.Entry]:  # noqa: ARG001
    """Well-known cloud images."""
    return list(catalogue.entries())


@router.get("/images/volumes", response=Page[VolumeOut], auth=admin_auth, tags=["images"])
def list_volumes(request: HttpRequest, paging: Query[Paging]) -> dict[str, Any]:
    """Disks in the hosts' storage pools that nothing of this site owns, as they were last seen."""
    volumes = poolvolumes.listed(_identity(request).user)
    start = (paging.page - 1) * paging.page_size
    return {"items": volumes[start : start + paging.page_size], "count": len(volumes)}


@router.post("/images/volumes", response={202: Looking}, auth=admin_auth, tags=["images"])
@idempotent
def look_for_volumes(request: HttpRequest) -> tuple[int, dict[str, Any]]:
    """Look through the pools of every host that can be reached."""
    jobs = poolvolumes.look(actor=_identity(request).user)
    return 202, {"jobs": [brief(job) for job in jobs]}


@router.post("/images", response={202: Accepted}, auth=admin_auth, tags=["images"])
@idempotent
def add_image(request: HttpRequest, payload: ImageIn) -> tuple[int, dict[str, Any]]:
    """Download an image, or copy it from a pool. It is inspected before it is ready."""
    user = _identity(request).user
    if payload.pool is not None:
        image, job = services.add_volume(
            actor=user,
            pool=payload.pool,
            volume=payload.volume,
            about=payload.about(),
            publish=payload.publish,
        )
        return 202, {"job": brief(job), "image": shown(image, user)}
    about, url, checksum_url = payload.about(), payload.url, payload.checksum_url
    if payload.catalogue:
        entry = catalogue.find(payload.catalogue)
        about = entry.about(payload.name or "")
        url, checksum_url = entry.url, "" if payload.checksum else entry.checksum_url
    if not url:
        raise Invalid("image.source_missing", fields={"url": "image.source_missing"})
    image, job = services.add_url(
        actor=user,
        url=url,
        about=about,
        checksum=payload.checksum,
        checksum_url=checksum_url,
        publish=payload.publish,
    )
    return 202, {"job": brief(job), "image": shown(image, user)}


@router.get("/images/{int:image_id}", response=ImageOut, auth=user_auth, tags=["images"])
def get_image(request: HttpRequest, image_id: int) -> dict[str, Any]:
    return shown(_find(request, image_id), _identity(request).user)


@router.patch("/images/{int:image_id}", response=ImageOut, auth=admin_auth, tags=["images"])
def change_image(request: HttpRequest, image_id: int, payload: ImageChange) -> dict[str, Any]:
    """Change what is said of it, publish it, retire it."""
    user, image = _identity(request).user, _find(request, image_id)
    image = services.change(
        image,
        actor=user,
        about=payload.about(),
        published=payload.published,
        retired=payload.retired,
    )
    return shown(image, user)


@router.delete(
    "/images/{int:image_id}", response={202: JobAccepted}, auth=admin_auth, tags=["images"]
)
def delete_image(request: HttpRequest, image_id: int) -> tuple[int, dict[str, Any]]:
    """Delete it and every host's copy. Refused while a machine stands on it."""
    job = services.delete(_find(request, image_id), actor=_identity(request).user)
    return 202, {"job": brief(job)}


@router.post(
    "/images/{int:image_id}/fetch", response={202: Accepted}, auth=admin_auth, tags=["images"]
)
@idempotent
def fetch_image_again(request: HttpRequest, image_id: int) -> tuple[int, dict[str, Any]]:
    """Download or copy a failed image once more."""
    user = _identity(request).user
    image, job = services.fetch_again(_find(request, image_id), actor=user)
    return 202, {"job": brief(job), "image": shown(image, user)}


# --- uploads -------------------------------------------------------------------------------------


@router.post("/images/uploads", response={201: ImageOut}, auth=admin_auth, tags=["images"])
@idempotent
def begin_upload(request: HttpRequest, payload: UploadIn) -> tuple[int, dict[str, Any]]:
    """Announce a file. Then send it by ``PATCH /images/{id}/upload``, piece by piece."""
    user = _identity(request).user
    image = uploads.begin(
        actor=user,
        size_bytes=payload.size_bytes,
        file_name=payload.file_name,
        about=payload.about(),
        checksum=payload.checksum,
        publish=payload.publish,
    )
    return 201, shown(image, user)


@router.get("/images/{int:image_id}/upload", response=UploadOut, auth=admin_auth, tags=["images"])
def get_upload(request: HttpRequest, image_id: int, response: HttpResponse) -> dict[str, Any]:
    """How much has come, and so where to go on."""
    image = _find(request, image_id)
    response["Upload-Offset"] = str(image.upload_received_bytes)
    response["Upload-Length"] = str(image.upload_total_bytes)
    response["Cache-Control"] = "no-store"
    return {"offset": image.upload_received_bytes, "size_bytes": image.upload_total_bytes}


class PieceOut(Schema):
    offset: int
    job: JobBrief | None


@router.patch("/images/{int:image_id}/upload", response=PieceOut, auth=admin_auth, tags=["images"])
def append_upload(request: HttpRequest, image_id: int, response: HttpResponse) -> dict[str, Any]:
    """One piece: its bytes as the body, the place of the first in the header ``Upload-Offset``.
    409 with ``params.offset`` says where to go on. The job comes with the last piece."""
    image, job = uploads.append(
        _find(request, image_id),
        actor=_identity(request).user,
        offset=_number(request.headers.get("Upload-Offset", "")),
        length=_number(request.headers.get("Content-Length", "")),
        body=cast(BinaryIO, request),  # Django's requests are read like files
    )
    response["Upload-Offset"] = str(image.upload_received_bytes)
    return {"offset": image.upload_received_bytes, "job": brief(job) if job else None}


@router.delete(
    "/images/{int:image_id}/upload", response={204: None}, auth=admin_auth, tags=["images"]
)
def cancel_upload(request: HttpRequest, image_id: int) -> tuple[int, None]:
    """Forget an upload that has not come to its end."""
    uploads.cancel(_find(request, image_id), actor=_identity(request).user)
    return 204, None


# --- flavors -------------------------------------------------------------------------------------


@router.get("/flavors", response=Page[FlavorOut], auth=user_auth, tags=["flavors"])
def list_flavors(request: HttpRequest, paging: Query[Paging]) -> dict[str, Any]:
    return paginate(flavors.visible_to(_identity(request).user), paging)


@router.post("/flavors", response={201: FlavorOut}, auth=admin_auth, tags=["flavors"])
@idempotent
def add_flavor(request: HttpRequest, payload: FlavorIn) -> tuple[int, Flavor]:
    return 201, flavors.add(actor=_identity(request).user, size=payload.size())


@router.get("/flavors/{int:flavor_id}", response=FlavorOut, auth=user_auth, tags=["flavors"])
def get_flavor(request: HttpRequest, flavor_id: int) -> Flavor:
    return _find_flavor(request, flavor_id)


@router.patch("/flavors/{int:flavor_id}", response=FlavorOut, auth=admin_auth, tags=["flavors"])
def change_flavor(request: HttpRequest, flavor_id: int, payload: FlavorIn) -> Flavor:
    """Machines that were made of it keep the size that they have."""
    flavor = _find_flavor(request, flavor_id)
    return flavors.edit(flavor, actor=_identity(request).user, size=payload.size())


@router.delete("/flavors/{int:flavor_id}", response={204: None}, auth=admin_auth, tags=["flavors"])
def delete_flavor(request: HttpRequest, flavor_id: int) -> tuple[int, None]:
    flavors.delete(_find_flavor(request, flavor_id), actor=_identity(request).user)
    return 204, None


# --- inside --------------------------------------------------------------------------------------


def shown(image: Image, user: User) -> dict[str, Any]:
    """An image as this person may see it."""
    fields = set(ImageOut.model_fields) - {"id", "url", "upload", "error"}
    return {field: getattr(image, field) for field in fields} | {
        "id": image.pk,
        "url": image.url if user.is_admin else None,
        "upload": _upload(image),
        "error": _error(image),
    }


def _upload(image: Image) -> dict[str, int] | None:
    if not uploads.is_open(image):
        return None
    return {"offset": image.upload_received_bytes, "size_bytes": image.upload_total_bytes}


def _error(image: Image) -> dict[str, str] | None:
    if not image.error_code:
        return None
    text = messages.text(image.error_code, image.error_params)
    return {"code": image.error_code, "message": text, "ref": image.error_ref}


def _identity(request: HttpRequest) -> Identity:
    return let_in(request)


def _find(request: HttpRequest, image_id: int) -> Image:
    image = Image.objects.visible_to(_identity(request).user).filter(pk=image_id).first()
    if image is None:
        raise NotFound("image.not_found")
    return image


def _find_flavor(request: HttpRequest, flavor_id: int) -> Flavor:
    flavor = flavors.visible_to(_identity(request).user).filter(pk=flavor_id).first()
    if flavor is None:
        raise NotFound("flavor.not_found")
    return flavor


def _number(text: str) -> int:
    """A header's number; -1 is refused by whoever reads it."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 15 else -1
