"""The steps of ``template.make``: a full copy of the machine's disk, beside it on its host.

The machine is off and this is its active job, so nothing writes the disk meanwhile. The copy stands
on nothing; the seed is gone already, and each machine made from it gets a seed with an instance-id
of its own, which makes cloud-init give it a new identity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.utils import timezone

from accounts import quotas
from accounts.errors import Conflict, DomainError
from hosts.virt.spec import VolumeSpec
from jobs.models import Job
from vms import at_host, nvram, state, timeline
from vms.machine_templates import services
from vms.models import Image, ImageCopy, Template
from vms.provisioning.steps import afresh, delete_volume

if TYPE_CHECKING:
    from jobs.context import JobContext


def copy(ctx: JobContext) -> None:
    vm, image = at_host.machine(ctx), _image(ctx)
    disk = vm.disks.select_related("pool")[0]
    if at_host.is_on(vm):
        raise Conflict("vm.why.template_on", name=vm.name)
    if disk.pool is None:
        raise RuntimeError("a machine that was made has its disk in a pool")
    at, pool = at_host.hypervisor(vm), disk.pool.name
    kept = nvram.keep(vm, image, pool)
    facts = at.volume(pool, disk.volume)
    spec = VolumeSpec(
        pool=pool, name=image.volume_name, capacity_bytes=facts.capacity_bytes, format="qcow2"
    )

    def progress(done: int, total: int) -> None:
        ctx.progress(done / total if total else None)

    made = afresh(at, spec, lambda: at.clone_volume(pool, disk.volume, spec, progress))
    ctx.save_data(size=made.allocation_bytes, nvram=kept)


def drop(ctx: JobContext) -> None:
    vm = at_host.machine(ctx)
    image = Image.objects.filter(pk=ctx.params["image"]).first()
    disk = vm.disks.select_related("pool").first()
    if image is not None and image.state != Image.State.READY and disk and disk.pool:
        delete_volume(at_host.hypervisor(vm), disk.pool.name, image.volume_name)
        nvram.drop(at_host.hypervisor(vm), image, disk.pool.name)


def made(job: Job) -> None:
    image = Image.objects.filter(pk=job.params["image"]).first()
    if image is None or image.template is None:
        return
    ImageCopy.objects.filter(image=image).update(
        state=ImageCopy.State.READY, copied_at=timezone.now()
    )
    Image.objects.filter(pk=image.pk).update(
        state=Image.State.READY,
        file_size_bytes=job.data.get("size", 0),
        **nvram.columns(job.data.get("nvram")),
    )
    Template.objects.filter(pk=image.template.pk).update(current=image)
    quotas.activate_subject(services.subject(image))
    services.announce(image.template)
    _tell(job, "template.made", name=image.template.name)


def not_made(job: Job) -> None:
    image = Image.objects.filter(pk=job.params["image"]).first()
    if image is not None:
        if image.template is not None:
            services.announce(image.template)
        services.forget(image)
        image.copies.all().delete()
        image.delete()
    _tell(job, f"job.{job.state}", task=job.kind)


def _image(ctx: JobContext) -> Image:
    image = Image.objects.filter(pk=ctx.params["image"]).first()
    if image is None:
        raise DomainError("image.gone", name=ctx.job.target_name)
    return image


def _tell(job: Job, kind: str, **params: str) -> None:
    vm = job.vm
    if vm is None:
        return
    timeline.record(vm, kind, actor=job.actor, job=job, **params)
    state.announce(vm)
