"""The steps that follow a guest's first boot; all of them only observe."""

from __future__ import annotations

from collections.abc import Callable

from django.utils.translation import gettext_lazy as _

from jobs.context import JobContext
from jobs.registry import StepSpec
from vms.provisioning import observing

Optional = Callable[[JobContext], bool]


def follow(
    *, boots: Optional, has_seed: Optional, address_weight: int, seed_weight: int
) -> tuple[StepSpec, ...]:
    """Until it has an address (where it ``boots``), until cloud-init is done, and its seed gone
    (where it ``has_seed``)."""
    return (
        StepSpec(
            key="address",
            label=_("Waiting for an address"),
            do=observing.wait_for_address,
            observing=True,
            weight=address_weight,
            optional=boots,
        ),
        StepSpec(
            key="firstboot",
            label=_("Waiting for cloud-init"),
            do=observing.wait_for_first_boot,
            observing=True,
            weight=seed_weight,
            optional=has_seed,
        ),
        StepSpec(
            key="finish",
            label=_("Removing the seed"),
            do=observing.finish,
            observing=True,
            optional=has_seed,
        ),
    )


def after_a_verb() -> tuple[StepSpec, ...]:
    """After a verb that makes the guest boot, while a seed is still there."""
    return follow(
        boots=observing.has_seed, has_seed=observing.has_seed, address_weight=2, seed_weight=2
    )
