"""Making a machine, and cloning one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.utils.translation import gettext_lazy as _

from jobs.registry import JobKind, StepSpec
from vms.cloning import lending
from vms.cloning import requests as cloning
from vms.cloning import steps as clone_steps
from vms.jobs import deadlines
from vms.jobs.first_boot import follow
from vms.models import VM
from vms.provisioning import outcome, steps

if TYPE_CHECKING:
    from jobs.context import JobContext


# What a creation needs follows from its params alone, so that a page can show the steps to come.
def _is_linked(ctx: JobContext) -> bool:
    return bool(ctx.params["copy"] == VM.Copy.LINKED)


def _is_full(ctx: JobContext) -> bool:
    return not _is_linked(ctx)


def _brings_images(ctx: JobContext) -> bool:
    return bool(ctx.params.get("image", True))


def _has_more_disks(ctx: JobContext) -> bool:
    return bool(ctx.params.get("more_disks"))


def _has_nvram(ctx: JobContext) -> bool:
    return bool(ctx.params.get("nvram"))


def _has_cloud_init(ctx: JobContext) -> bool:
    return bool(ctx.params["cloud_init"])


def _has_seed(ctx: JobContext) -> bool:
    return _has_cloud_init(ctx) or bool(ctx.params.get("answers"))


def _starts(ctx: JobContext) -> bool:
    return bool(ctx.params["start"])


def _starts_with_seed(ctx: JobContext) -> bool:
    return _starts(ctx) and _has_cloud_init(ctx)


CREATE = JobKind(
    kind="vm.create",
    label=_("Create machine"),
    verb="creating",
    steps=(
        StepSpec(key="place", label=_("Choosing a host"), do=steps.place),
        StepSpec(
            key="image",
            label=_("Copying the image to the host"),
            do=steps.bring_image,
            weight=8,
            optional=_brings_images,
        ),
        StepSpec(
            key="disk",
            label=_("Making the disk"),
            do=steps.make_disk,
            undo=steps.delete_disk,
            optional=_is_linked,
        ),
        StepSpec(
            key="copy",
            label=_("Copying the disk"),
            do=steps.copy_disk,
            undo=steps.delete_disk,
            slot="copy",
            weight=8,
            optional=_is_full,
        ),
        StepSpec(
            key="disks",
            label=_("Making the other disks"),
            do=steps.make_more_disks,
            undo=steps.delete_disk,
            optional=_has_more_disks,
        ),
        StepSpec(
            key="seed",
            label=_("Writing the seed for the first boot"),
            do=steps.write_seed,
            undo=steps.delete_seed,
            optional=_has_seed,
        ),
        StepSpec(
            key="nvram",
            label=_("Copying what the firmware remembers"),
            do=steps.copy_nvram,
            undo=steps.delete_nvram,
            optional=_has_nvram,
        ),
        StepSpec(
            key="define",
            label=_("Defining the machine"),
            do=steps.define,
            undo=steps.undefine,
        ),
        StepSpec(
            key="boot",
            label=_("Starting"),
            do=steps.boot,
            undo=steps.stop,
            weight=2,
            optional=_starts,
        ),
        *follow(boots=_starts, has_seed=_starts_with_seed, address_weight=6, seed_weight=8),
    ),
    deadline=deadlines.COPY,
    on_success=outcome.succeeded,
    on_failure=outcome.failed,
    retry=outcome.again,
)

CLONE = JobKind(
    kind=cloning.KIND,
    label=_("Clone machine"),
    verb="cloning",
    steps=(
        StepSpec(key="place", label=_("Looking for room on the host"), do=clone_steps.place),
        StepSpec(
            key="rewind",
            label=_("Going to the snapshot"),
            do=clone_steps.rewind,
            undo=clone_steps.wind_back,
            optional=clone_steps.of_snapshot,
        ),
        StepSpec(
            key="copy",
            label=_("Copying the disks"),
            do=clone_steps.copy_disks,
            undo=clone_steps.drop_copies,
            slot="copy",
            weight=12,
        ),
        StepSpec(
            key="back",
            label=_("Going back from the snapshot"),
            do=clone_steps.wind_back,
            optional=clone_steps.of_snapshot,
        ),
        StepSpec(key="give_back", label=_("Giving the source back"), do=clone_steps.give_back),
        *(step for step in CREATE.steps if step.key not in ("place", "image", "disk", "copy")),
    ),
    deadline=deadlines.COPY,
    on_success=outcome.succeeded,
    on_failure=outcome.failed,
)

LEND = JobKind(
    kind=cloning.LENDING,
    label=_("Be cloned"),
    verb="lent",
    steps=(StepSpec(key="lend", label=_("Being read"), do=lending.lend),),
    deadline=deadlines.COPY,
    cancellable=False,  # the clone's own job is cancelled
    on_success=lending.ended,
    on_failure=lending.ended,
)

KINDS = (CREATE, CLONE, LEND)
