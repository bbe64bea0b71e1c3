"""What is done by a guest's agent."""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _

from jobs.registry import JobKind, StepSpec
from vms import power
from vms.guest import requests, steps
from vms.jobs import deadlines

KINDS = (
    JobKind(
        kind=requests.PASSWORD,
        label=_("Set a password inside"),
        verb="changing",
        steps=(
            StepSpec(key="password", label=_("Telling the guest agent"), do=steps.set_password),
        ),
        deadline=deadlines.POWER,
        on_success=steps.password_set,
        on_failure=steps.password_not_set,
    ),
    JobKind(
        kind=requests.TRIM,
        label=_("Trim"),
        verb="trimming",
        steps=(
            StepSpec(key="trim", label=_("Giving back what its file systems free"), do=steps.trim),
        ),
        deadline=deadlines.POWER,
        on_success=power.succeeded,
        on_failure=power.failed,
    ),
)
