"""What admins do with images. Each is one transaction; the bytes are moved by jobs.

A file is read and hashed outside of any transaction (``add_file``), a host's copy is looked for
outside of any transaction too (``ensure_copy``, called by workers only).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from accounts import audit, policy
from accounts.errors import Busy, Conflict, Invalid
from accounts.policy import Action
from jobs import live
from jobs import services as job_services
from jobs.models import Job
from vms.images import addresses, details, download, files, inspect, poolvolumes
from vms.images.copies import ensure_copy
from vms.images.details import Details
from vms.models import VM, Disk, ExtraDisc, Image

if TYPE_CHECKING:
    from collections.abc import Callable

    from accounts.models import User

__all__ = [
    "add_file",
    "add_url",
    "add_volume",
    "announce",
    "change",
    "delete",
    "edit",
    "ensure_copy",
    "fetch_again",
    "publish",
    "restore",
    "retire",
    "unpublish",
]

FETCH = "image.fetch"
DELETE = "image.delete"
State = Image.State
FETCHED_AGAIN = (Image.Source.URL, Image.Source.POOL)
FORMATS = {".qcow2": "qcow2", ".raw": "raw"}


class _Wrong:
    """What several checks refuse, to be told together."""

    def __init__(self) -> None:
        self.fields: dict[str, str] = {}
        self.params: dict[str, dict[str, Any]] = {}

    def catch(self, field: str, check: Callable[[], Any]) -> Any:
        """``field``: the input that is checked; "" where the check names its inputs itself."""
        try:
            return check()
        except Invalid as error:
            fields = {field: error.code} if field else error.fields
            self.fields |= fields
            self.params |= dict.fromkeys(fields, error.params)
            return None

    def raise_if_any(self) -> None:
        if not self.fields:
            return
        first, code = next(iter(self.fields.items()))
        alone = len(self.fields) == 1
        raise Invalid(
            code if alone else "image.invalid",
            fields=self.fields,
            field_params=self.params,
            **(self.params[first] if alone else {}),
        )


def add_url(
    *,
    actor: User,
    url: str,
    about: Details,
    checksum: str = "",
    checksum_url: str = "",
    publish: bool = False,
    idempotency_key: str | None = None,
) -> tuple[Image, Job]:
    """An image to download. Raises Forbidden, Invalid with every wrong input, Conflict."""
    policy.require(actor, Action.SITE_ADMIN)
    image = Image(
        source=Image.Source.URL,
        published=publish,  # takes effect when it is ready: see ImageQuerySet.visible_to
        created_by=actor,
    )
    wrong = _Wrong()
    source = wrong.catch("url", lambda: addresses.check_url(url))
    if checksum_url:
        wrong.catch("checksum_url", lambda: addresses.check_url(checksum_url))
    wanted = wrong.catch("checksum", lambda: download.parse_checksum(checksum))
    wrong.catch("", lambda: details.apply(image, about))
    wrong.raise_if_any()
    image.url = str(source.url)
    image.format = declared_format(source.file_name)
    if wanted:
        image.checksum_algorithm, image.checksum = wanted.algorithm, wanted.value
    params = {"publish": publish, "checksum_url": checksum_url, "file_name": source.file_name}
    with transaction.atomic():
        insert(image)
        job = enqueue_fetch(image, actor=actor, params=params, idempotency_key=idempotency_key)
        audit.record(actor, "image.add", image, after=recorded(image), job=job)
    return image, job


def add_volume(
    *,
    actor: User,
    pool: int,
    volume: str,
    about: Details,
    publish: bool = False,
    idempotency_key: str | None = None,
) -> tuple[Image, Job]:
    """An image of a disk that lies in a host's pool, which stays as it is. ``pool``: the row's id.
    Raises Forbidden, Invalid with every wrong input, Conflict while something uses the disk."""
    policy.require(actor, Action.SITE_ADMIN)
    image = Image(source=Image.Source.POOL, published=publish, created_by=actor)
    wrong = _Wrong()
    chosen = wrong.catch("volume", lambda: poolvolumes.choose(actor, pool=pool, volume=volume))
    wrong.catch("", lambda: details.apply(image, about))
    wrong.raise_if_any()
    image.format = declared_format(chosen.volume)
    params = {"publish": publish, "pool": chosen.pool_id, "volume": chosen.volume}
    origin = {"host": chosen.host, "pool": chosen.pool, "volume": chosen.volume}
    with transaction.atomic():
        insert(image)
        job = enqueue_fetch(image, actor=actor, params=params, idempotency_key=idempotency_key)
        audit.record(actor, "image.add", image, after=recorded(image) | origin, job=job)
    return image, job


def add_file(*, actor: User | None, path: Path, about: Details, publish: bool) -> Image:
    """A file that is on this machine: inspected, copied and ready when this returns.

    The same file again gives the image that is there; another file of that name replaces it: the
    old image is retired under a name with its date, and machines keep their disks.
    """
    if actor is not None:
        policy.require(actor, Action.SITE_ADMIN)
    checksum = download.hash_file(path, "sha256", lambda _done, _total: None)
    same = Image.objects.filter(name=about.name, checksum=checksum.value, state=State.READY).first()
    if same is not None and files.stored(same).exists():
        if publish and not same.published:
            _set(same, actor, "image.publish", published=True)
        return same
    image = Image(source=Image.Source.BUILT, created_by=actor, published=publish)
    details.apply(image, about)
    try:
        _take_in(path, image)
        with transaction.atomic():
            _make_way(image.name, actor)
            insert(image)
            audit.record(actor, "image.add", image, after=recorded(image))
            announce(image)
    except BaseException:
        files.remove(image)
        raise
    return image


def edit(image: Image, *, actor: User, about: Details) -> Image:
    """None leaves as it is. Machines that exist are not touched."""
    policy.require(actor, Action.SITE_ADMIN)
    with transaction.atomic():
        row = Image.objects.select_for_update().get(pk=image.pk)
        before = details.apply(row, about)
        if before:
            try:
                with transaction.atomic():
                    row.save()
            except IntegrityError as error:
                raise _name_taken(row.name) from error
            after = {field: getattr(row, field) for field in before}
            audit.record(actor, "image.edit", row, before=before, after=after)
            announce(row)
    return row


@transaction.atomic
def change(
    image: Image,
    *,
    actor: User,
    about: Details,
    published: bool | None = None,
    retired: bool | None = None,
) -> Image:
    """Several changes as one: all of them or none. None leaves as it is."""
    image = edit(image, actor=actor, about=about)
    if retired is True and image.state != State.RETIRED:
        image = retire(image, actor=actor)
    elif retired is False and image.state == State.RETIRED:
        image = restore(image, actor=actor)
    if published is True and not image.published:
        image = publish(image, actor=actor)
    elif published is False and image.published:
        image = unpublish(image, actor=actor)
    return image


def publish(image: Image, *, actor: User) -> Image:
    """Everybody may start machines from it."""
    policy.require(actor, Action.SITE_ADMIN)
    return _set(image, actor, "image.publish", only_from=(State.READY,), published=True)


def unpublish(image: Image, *, actor: User) -> Image:
    """Only admins may start machines from it."""
    policy.require(actor, Action.SITE_ADMIN)
    return _set(image, actor, "image.unpublish", published=False)


def retire(image: Image, *, actor: User) -> Image:
    """No new machines; those that exist keep their disks, and hosts keep their copies."""
    policy.require(actor, Action.SITE_ADMIN)
    changes = {"state": State.RETIRED, "published": False}
    return _set(image, actor, "image.retire", only_from=(State.READY,), **changes)


def restore(image: Image, *, actor: User) -> Image:
    """Take a retired image back, unpublished."""
    policy.require(actor, Action.SITE_ADMIN)
    return _set(image, actor, "image.restore", only_from=(State.RETIRED,), state=State.READY)


def delete(image: Image, *, actor: User, idempotency_key: str | None = None) -> Job:
    """Delete its file and the hosts' copies, then the row. Refused while a machine needs it."""
    policy.require(actor, Action.SITE_ADMIN)
    with transaction.atomic():
        row = Image.objects.select_for_update().get(pk=image.pk)
        machines = sorted(
            set(
                Disk.objects.filter(backing_image=row, vm__deleted_at__isnull=True).values_list(
                    "vm__name", flat=True
                )
            )
            | set(VM.objects.alive().filter(iso=row).values_list("name", flat=True))
            | set(VM.objects.alive().filter(extra_discs__image=row).values_list("name", flat=True))
        )
        if machines:
            shown = ", ".join(machines[:5]) + (", …" if len(machines) > 5 else "")
            raise Conflict("image.in_use", name=row.name, count=len(machines), machines=shown)
        active = Job.objects.active().filter(image=row)
        going = active.filter(kind=DELETE).first()
        if going is not None:
            return going
        if active.exists():
            raise Busy("image.busy", name=row.name)
        if row.state in (State.READY, State.RETIRED):
            Image.objects.filter(pk=row.pk).update(state=State.RETIRED, published=False)
        job = job_services.enqueue(
            DELETE,
            actor=actor,
            image=row,
            target_name=row.name,
            params={"image": row.pk},
            idempotency_key=idempotency_key,
        )
        audit.record(actor, "image.delete", row, before=recorded(row), job=job)
        announce(row)
    return job


def fetch_again(image: Image, *, actor: User) -> tuple[Image, Job]:
    """Download or copy a failed image once more. An upload has to be sent again instead."""
    policy.require(actor, Action.SITE_ADMIN)
    with transaction.atomic():
        row = Image.objects.select_for_update().get(pk=image.pk)
        if row.state != State.FAILED:
            raise Conflict("image.not_failed", name=row.name)
        if row.source not in FETCHED_AGAIN:
            raise Conflict("image.upload_again", name=row.name)
        last = Job.objects.filter(image=row, kind=FETCH).order_by("-created_at").first()
        if row.source == Image.Source.POOL and last is None:  # nobody knows any more which it was
            raise Conflict("image.volume_gone", volume=row.name)
        params = dict(last.params) if last else {"publish": False, "checksum_url": ""}
        row.published = bool(params["publish"])
        clear_failure(row)
        job = enqueue_fetch(row, actor=actor, params=params)
        audit.record(actor, "image.fetch", row, job=job)
    return row, job


# --- shared with uploads and jobs ----------------------------------------------------------------


def insert(image: Image) -> None:
    """Write a new row, in the caller's transaction. Conflict when the name is taken."""
    try:
        with transaction.atomic():
            image.save()
    except IntegrityError as error:
        raise _name_taken(image.name) from error


def enqueue_fetch(
    image: Image,
    *,
    actor: User | None,
    params: dict[str, Any],
    idempotency_key: str | None = None,
) -> Job:
    job = job_services.enqueue(
        FETCH,
        actor=actor,
        image=image,
        target_name=image.name,
        params=params,
        idempotency_key=idempotency_key,
    )
    announce(image)
    return job


def clear_failure(image: Image) -> None:
    image.state, image.error_code, image.error_params, image.error_ref = State.NEW, "", {}, ""
    image.save(update_fields=["state", "published", "error_code", "error_params", "error_ref"])


def declared_format(file_name: str) -> str:
    """What a file's name promises; ``.img`` promises nothing."""
    return FORMATS.get(Path(file_name.lower()).suffix, "")


def announce(image: Image) -> None:
    """Nudge open pages when the transaction is over."""
    live.publish_on_commit("image", image.pk, groups={live.ADMINS})


def recorded(image: Image) -> dict[str, Any]:
    """What the audit record keeps of an image."""
    return {
        "source": image.source,
        "url": image.url,
        "checksum": image.checksum,
        "os_id": image.os_id,
        "published": image.published,
        "state": image.state,
    }


def _set(
    image: Image,
    actor: User | None,
    verb: str,
    *,
    only_from: tuple[State, ...] = (),
    **changes: Any,
) -> Image:
    with transaction.atomic():
        row = Image.objects.select_for_update().get(pk=image.pk)
        if only_from and row.state not in only_from:
            raise Conflict("image.wrong_state", name=row.name)
        if Job.objects.active().filter(image=row, kind=DELETE).exists():
            raise Conflict("image.being_deleted", name=row.name)
        before = {field: getattr(row, field) for field in changes}
        if before != changes:
            for field, value in changes.items():
                setattr(row, field, value)
            row.save(update_fields=list(changes))
            audit.record(actor, verb, row, before=before, after=changes)
            announce(row)
    return row


def _name_taken(name: str) -> Invalid:
    return Invalid("image.name_taken", fields={"name": "image.name_taken"}, name=name)


def _make_way(name: str, actor: User | None) -> None:
    """Retire the image that has this name, under another one."""
    old = Image.objects.select_for_update().filter(name=name).first()
    if old is None:
        return
    if Job.objects.active().filter(image=old, kind=FETCH).exists():
        raise _name_taken(name)
    stamp = timezone.now().strftime("%Y-%m-%d %H.%M.%S")
    before = {"name": old.name, "state": old.state}
    old.name = f"{old.name[:40]} ({stamp})"
    old.published = False
    if old.state == State.READY:
        old.state = State.RETIRED
    old.save(update_fields=["name", "published", "state"])
    audit.record(
        actor, "image.retire", old, before=before, after={"name": old.name, "state": old.state}
    )
    announce(old)


def _take_in(path: Path, image: Image) -> None:
    """Copy, hash and inspect; all that is said of the image is said of our own copy, which
    nobody else can write to."""
    download.refuse_without_space(files.folder(), path.stat().st_size)
    target = files.part(image)
    with (
        path.open("rb") as source,
        os.fdopen(os.open(target, download.WRITE_MODE, 0o600), "wb") as copy,
    ):
        shutil.copyfileobj(source, copy, 1024 * 1024)
        copy.flush()
        os.fsync(copy.fileno())
    checksum = download.hash_file(target, "sha256", lambda _done, _total: None)
    facts = inspect.inspect(target)
    image.checksum_algorithm, image.checksum = checksum.algorithm, checksum.value
    image.format = facts.format
    image.virtual_size_bytes = facts.virtual_size_bytes
    image.file_size_bytes = facts.file_size_bytes
    image.kind = facts.kind
    image.has_cloud_init = image.has_cloud_init and facts.kind == Image.Kind.DISK
    image.state = State.READY
    target.rename(files.stored(image))


def forget(image: Image) -> bool:
    """Take an image out of the database when its files are gone, in the caller's transaction.
    Deleted machines are kept as a record and still point to it. False: a disk needs the row."""
    if Disk.objects.filter(backing_image=image, vm__deleted_at__isnull=True).exists():
        return False
    if VM.objects.alive().filter(iso=image).exists():
        return False
    if ExtraDisc.objects.filter(image=image, vm__deleted_at__isnull=True).exists():
        return False
    if image.source == Image.Source.BACKUP:
        from vms.backups import services as backups

        backups.forget(image)
    if image.template is not None:
        from vms.machine_templates import services as templates

        templates.forget(image)
    ExtraDisc.objects.filter(image=image).delete()
    VM.objects.filter(iso=image).update(iso=None)
    VM.objects.filter(image=image).update(image=None)
    Disk.objects.filter(backing_image=image).update(backing_image=None)
    image.copies.all().delete()
    image.delete()
    return True
