"""What people do with templates. Each is one transaction; the copying is a job's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import IntegrityError, transaction
from django.db.models import Max, Q, QuerySet

from accounts import audit, policy, quotas
from accounts.errors import Conflict, Forbidden, Invalid, NotFound
from accounts.models import Resource
from accounts.policy import Action
from jobs import live
from jobs import services as job_services
from jobs.models import Job
from vms import knobs, state, timeline
from vms.images.details import family
from vms.lifecycle import active_job
from vms.models import VM, Disk, Image, ImageCopy, Template
from vms.provisioning.validation import GIB
from vms.snapshots import rules

if TYPE_CHECKING:
    from accounts.models import Team, User

KIND = "template.make"
DELETE = "image.delete"
NAME_MAX, DESCRIPTION_MAX = 48, 200


def visible_to(user: User) -> QuerySet[Template, Template]:
    """Public ones, and those of the person's teams."""
    if user.is_admin:
        return Template.objects.all()
    return Template.objects.filter(
        Q(public=True) | Q(team__in=user.memberships.values("team")) | Q(owner=user)
    )


def find(user: User, pk: int) -> Template:
    row = visible_to(user).select_related("team", "owner", "current").filter(pk=pk).first()
    if row is None:
        raise NotFound("template.not_found")
    return row


def may_change(template: Template, user: User) -> bool:
    """Its owner, the managers of its team, and admins."""
    return template.owner_id == user.pk or policy.can(user, Action.TEAM_MANAGE, template.team)


def why_not_make(vm: VM, active: Job | None) -> str | None:
    """The code of why no template can be made of it now."""
    if code := rules.why_not(vm, active):
        return code
    if rules.is_on(vm):
        return "vm.why.template_on"
    disks = list(vm.disks.all())
    if len(disks) != 1 or disks[0].format != "qcow2":
        return "vm.why.template_disks"
    return None


def make(
    vm: VM,
    *,
    actor: User,
    name: str = "",
    into: Template | None = None,
    description: str = "",
    public: bool = False,
) -> tuple[Image, Job]:
    """A new template of the machine's team called ``name``, or a new version of ``into``.

    The version becomes the current one when it is whole. Raises NotFound, Forbidden, Invalid,
    Conflict (``vm.why.*``), Busy, QuotaExceeded.
    """
    policy.require(actor, Action.EDIT, vm)
    policy.require(actor, Action.TEAM_CREATE_VM, vm.team)
    if into is not None and not may_change(into, actor):
        raise Forbidden("forbidden")
    if public:
        policy.require(actor, Action.SITE_ADMIN)
    if len(description) > DESCRIPTION_MAX or not (description.isprintable()):
        raise Invalid("template.description", fields={"description": "template.description"})
    with transaction.atomic():
        quotas.lock_team(vm.team_id)
        row = VM.objects.alive().select_for_update(of=("self",)).filter(pk=vm.pk).first()
        if row is None:
            raise Conflict("vm.why.deleted", name=vm.name)
        if code := why_not_make(row, active_job(row)):
            raise Conflict(code, name=row.name, host=row.host.name if row.host else "")
        template = into or _new(name, row.team, actor, description.strip(), public=public)
        image = _version(row, template, actor)
        _pay(template, image, actor, new=into is None)
        job = job_services.enqueue(
            KIND,
            actor=actor,
            vm=row,
            image=image,
            target_name=image.name,
            params={"image": image.pk},
            queue="bulk",
        )
        about = {"template": template.name, "version": image.template_version}
        audit.record(actor, KIND, row, after=about, job=job, team_id=row.team_id)
        timeline.record(row, "template.asked", actor=actor, job=job, name=template.name)
        state.announce(row)
        announce(template)
    return image, job


def make_ask(vm: VM, *, new: bool) -> quotas.Ask:
    """What a template of this machine takes of the quota; ``new``: it is the first version."""
    disk = vm.disks.first()
    ask: quotas.Ask = {Resource.IMAGES_GIB: disk.size_gib if disk else 0}
    return ask | {Resource.TEMPLATES: 1} if new else ask


def set_current(image: Image, *, actor: User) -> None:
    """Machines are made from this version from now on; those that exist stay as they are."""
    template = _changeable(image, actor)
    with transaction.atomic():
        locked = Template.objects.select_for_update().get(pk=template.pk)
        if image.state != Image.State.READY:
            raise Conflict("image.wrong_state", name=image.name)
        before = locked.current
        locked.current = image
        locked.save(update_fields=["current"])
        audit.record(
            actor,
            "template.current",
            locked,
            before={"version": before.template_version if before else None},
            after={"version": image.template_version},
            team_id=locked.team_id,
        )
        announce(locked)


def set_public(template: Template, *, actor: User, public: bool) -> None:
    """Everybody may make machines from it, or its team alone."""
    policy.require(actor, Action.SITE_ADMIN)
    with transaction.atomic():
        Template.objects.filter(pk=template.pk).update(public=public)
        Image.objects.filter(template=template).update(published=public)
        audit.record(
            actor,
            "template.public",
            template,
            before={"public": template.public},
            after={"public": public},
            team_id=template.team_id,
        )
        announce(template)


def delete_version(image: Image, *, actor: User) -> Job:
    """Refused while a disk stands on it. With its last version the template goes."""
    template = _changeable(image, actor)
    with transaction.atomic():
        quotas.lock_team(template.team_id)
        row = Image.objects.select_for_update().get(pk=image.pk)
        children = Disk.objects.filter(backing_image=row, vm__deleted_at__isnull=True)
        if names := sorted(set(children.values_list("vm__name", flat=True))):
            shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
            raise Conflict("template.has_children", name=row.name, count=len(names), machines=shown)
        active = Job.objects.active().filter(image=row)
        if active.exists():
            raise Conflict("image.busy", name=row.name)
        Image.objects.filter(pk=row.pk).update(state=Image.State.RETIRED, published=False)
        _choose_current(template, without=row)
        job = job_services.enqueue(
            DELETE,
            actor=actor,
            image=row,
            team=template.team,
            target_name=row.name,
            params={"image": row.pk},
        )
        audit.record(
            actor,
            "template.delete_version",
            template,
            before={"version": row.template_version},
            job=job,
            team_id=template.team_id,
        )
        announce(template)
    return job


def announce(template: Template) -> None:
    groups = {live.ADMINS, f"team.{template.team_id}", f"user.{template.owner_id}"}
    live.publish_on_commit("image", template.pk, groups=groups)


def subject(thing: Template | Image) -> str:
    """Under which its quota is held."""
    return f"{'template' if isinstance(thing, Template) else 'version'}:{thing.pk}"


def forget(image: Image) -> None:
    """A version is gone, or never came to be: its quota is free, and the template's with the
    last one. In the caller's transaction; the row goes with the caller."""
    quotas.release_subject(subject(image))
    template = image.template
    if template is None:
        return
    _choose_current(template, without=image)
    if not Image.objects.filter(template=template).exclude(pk=image.pk).exists():
        quotas.release_subject(subject(template))
        Image.objects.filter(pk=image.pk).update(template=None)
        template.delete()


# --- inside the transaction ----------------------------------------------------------------------


def _changeable(image: Image, actor: User) -> Template:
    template = image.template
    if template is None:
        raise NotFound("template.not_found")
    find(actor, template.pk)
    if not may_change(template, actor):
        raise Forbidden("forbidden")
    return template


def _new(name: str, team: Team, actor: User, description: str, *, public: bool) -> Template:
    name = name.strip()
    if not 0 < len(name) <= NAME_MAX or not name.isprintable():
        raise Invalid("template.name", fields={"name": "template.name"}, limit=NAME_MAX)
    template = Template(name=name, team=team, owner=actor, description=description, public=public)
    try:
        with transaction.atomic():
            template.save()
    except IntegrityError as error:
        raise Invalid(
            "template.name_taken", fields={"name": "template.name_taken"}, name=name
        ) from error
    return template


def _version(vm: VM, template: Template, actor: User) -> Image:
    disk = vm.disks.select_related("pool")[0]
    if disk.pool is None:
        raise Conflict("vm.why.unknown")
    newest = Image.objects.filter(template=template).aggregate(n=Max("template_version"))["n"]
    number = (newest or 0) + 1
    source = vm.image
    image = Image.objects.create(
        name=_image_name(template, number),
        source=Image.Source.TEMPLATE,
        state=Image.State.NEW,
        template=template,
        template_version=number,
        team=template.team,
        published=template.public,
        format="qcow2",
        os_id=source.os_id if source else "linux",
        icon=source.icon if source else family("linux"),
        version=source.version if source else "",
        arch=source.arch if source else "x86_64",
        description=template.description,
        virtual_size_bytes=disk.size_gib * GIB,
        min_disk_gib=disk.size_gib,
        recommended_disk_gib=disk.size_gib,
        min_memory_mib=source.min_memory_mib if source else 0,
        recommended_memory_mib=vm.memory_mib,
        default_user=vm.first_user,
        hardware=knobs.of_copies(vm),
        has_cloud_init=source.has_cloud_init if source else True,
        created_by=actor,
    )
    ImageCopy.objects.create(image=image, pool=disk.pool, state=ImageCopy.State.COPYING)
    return image


def _pay(template: Template, image: Image, actor: User, *, new: bool) -> None:
    parts: dict[str, quotas.Ask] = {subject(image): {Resource.IMAGES_GIB: image.min_disk_gib}}
    if new:
        parts[subject(template)] = {Resource.TEMPLATES: 1}
    quotas.allocate_parts(parts, team=template.team, user=actor)
    quotas.activate_subject(subject(template))


def _image_name(template: Template, number: int) -> str:
    """Names of images are unique on the site, templates' only in their team."""
    name = f"{template.name} v{number}"
    taken = Image.objects.filter(name=name).exists()
    return f"{name} #{template.pk}" if taken else name


def _choose_current(template: Template, *, without: Image) -> None:
    """The newest that is whole, when the current one goes."""
    if template.current_id != without.pk:
        return
    rest = Image.objects.filter(template=template, state=Image.State.READY).exclude(pk=without.pk)
    template.current = rest.order_by("-template_version").first()
    template.save(update_fields=["current"])
