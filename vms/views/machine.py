"""A machine's page, its verbs, and the dialogs before those that lose something."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts import messages, policy
from accounts.access import SignedInRequest, signed_in
from accounts.errors import Invalid, NotFound
from accounts.fragments import done, render_page
from accounts.policy import Action
from jobs import services as job_services
from jobs.models import Job
from vms import (
    commands,
    discs,
    idle,
    keys,
    leases,
    lifecycle,
    presentation,
    queries,
    services,
    timeline,
)
from vms.consoles import page as console_page
from vms.forms import EditForm
from vms.guest import presentation as guest
from vms.guest import reading
from vms.hardware import presentation as hardware
from vms.hardware import rules
from vms.models import VM, MachineRules
from vms.ports import presentation as ports
from vms.presentation import MachineView, StepView
from vms.provisioning import network_choices
from vms.snapshots import presentation as snapshots
from vms.state import CREATIONS
from vms.verbs import Verb
from vms.views import access, secrets
from vms.views.recycle_bin import disks_to_keep

TABS = ("overview", "console", "hardware", "guest", "snapshots", "backups", "timeline", "access")


@dataclass(frozen=True, kw_only=True)
class CreateProgress:
    """How the machine was or is being made, as long as that is news."""

    job: Job
    steps: list[StepView]
    share: float | None
    failed: bool
    why: str


@signed_in
@require_safe
def show(request: SignedInRequest, uuid: UUID) -> HttpResponse:
    try:
        vm = queries.one(request.user, uuid)
    except NotFound:
        return _gone(request, uuid)
    machine = presentation.machine(vm, request.user)
    tab = request.GET.get("tab", "overview")
    tab = tab if tab in TABS else "overview"
    asked = _verb_asked(machine, request.GET.get("verb", ""))
    only = request.GET.get("only", "") if tab == "timeline" else ""
    context = {
        "machine": machine,
        "vm": vm,
        "tab": tab,
        "primary": _primary(machine),
        # A page has one primary action: while it runs that is its console.
        "primary_css": "" if machine.can_console and vm.observed == "running" else "primary",
        "verb": asked,
        "disks": disks_to_keep(vm) if asked and asked.verb == Verb.DELETE.value else [],
        "volumes": presentation.volumes(vm),
        "secret": secrets.read(request, vm),
        "edit_form": EditForm.of(vm),
        "bin_days": MachineRules.current().bin_days if asked else 0,
        "idle_stops_at": idle.stops_at(vm, MachineRules.current()) if vm.idle_told_at else None,
        "bin_at": leases.goes_to_bin_at(vm, MachineRules.current().lease_bin_days)
        if vm.lease_over_at
        else None,
    }
    if tab == "console":
        policy.require(request.user, Action.CONSOLE_VIEW, vm)
        context |= console_page.context(machine, request.user)
    if request.GET.get("part", "machine") == "machine":
        context |= {
            "may_eject": rules.why_not(vm, lifecycle.active_job(vm)) is None,
            "making": _making(vm),
            "entries": timeline.entries(vm, 50 if tab == "timeline" else 6, only=only),
            "only": only,
            "groups": _timeline_groups(),
            "access": access.of(vm, request.user) if tab == "access" else None,
        }
        if tab == "hardware":
            context["hardware"] = hardware.of(vm, request.user)
            context["networks"] = network_choices()
            context["ports"] = ports.of(vm, request.user)
        if tab == "guest":
            reading.ask(vm)
            context["guest"] = guest.of(vm, request.user)
            context["guest_commands"] = commands.show_guest(vm, "facts")
        if tab == "backups":
            from vms.views import backups

            context["backups"] = backups.of(vm, request.user)
        if tab == "snapshots":
            context["snapshots"] = snapshots.of(vm, request.user)
    parts = {"machine", "menu", "confirm", "edit"}
    response = render_page(request, "vms/detail.html", context, parts=parts)
    if context["secret"] and not request.GET.get("part"):
        secrets.forget(response, vm)
    return response


@signed_in
@require_POST
def act(request: SignedInRequest, uuid: UUID, word: str) -> HttpResponse:
    """``word`` is a verb as the address spells it: ``force-off``."""
    verb = word.replace("-", "_")
    if verb not in lifecycle.VERBS or "_" in word:
        raise NotFound
    vm = queries.one(request.user, uuid)
    confirm_name = request.POST.get("confirm_name", "").strip()
    job = lifecycle.request(
        vm,
        verb,
        actor=request.user,
        confirm_name=confirm_name,
        purge=bool(request.POST.get("purge")),
        keep=request.POST.getlist("keep"),
        by=request.POST.get("by", ""),
    )
    text = _("%(what)s: %(name)s") % {"what": presentation.task(job).word, "name": vm.name}
    goal = reverse("vm_list") if verb == Verb.DELETE.value else ""
    on_its_page = request.POST.get("from") == "page"
    return done(
        request,
        text,
        tone="work",
        changed=f"vm:{vm.uuid} vm job",
        goal=goal if on_its_page else "",
    )


@signed_in
@require_POST
def edit(request: SignedInRequest, uuid: UUID) -> HttpResponse:
    vm = queries.one(request.user, uuid)
    form = EditForm(request.POST)
    if not form.is_valid():
        raise Invalid("invalid", fields=dict.fromkeys(form.errors, "invalid"))
    try:
        services.edit_vm(vm, actor=request.user, **form.changes())
    except Invalid as error:
        raise first_of(error) from error
    return done(request, _("Saved."), changed=f"vm:{vm.uuid} vm")


def first_of(error: Invalid) -> Invalid:
    """A toast has room for one sentence: the first wrong input's own."""
    if not error.fields:
        return error
    field, code = next(iter(error.fields.items()))
    return Invalid(code, fields={field: code}, **(error.field_params.get(field) or error.params))


@signed_in
@require_POST
def eject(request: SignedInRequest, uuid: UUID) -> HttpResponse:
    """Take the installation disc out of its drive."""
    vm = queries.one(request.user, uuid)
    discs.eject(vm, actor=request.user)
    return done(request, _("The disc is being ejected."), tone="work", changed=f"vm:{vm.uuid} job")


@signed_in
@require_http_methods(["GET", "HEAD", "POST"])
def send_keys(request: SignedInRequest, uuid: UUID) -> HttpResponse:
    """The usual combinations, for whom the console's menu is not at hand."""
    vm = queries.one(request.user, uuid)
    policy.require(request.user, Action.CONSOLE_CONTROL, vm)
    if request.method != "POST":
        first = next(iter(keys.PRESETS.values()))
        context = {
            "vm": vm,
            "presets": [(name, key_words(names)) for name, names in keys.PRESETS.items()],
            "commands": commands.show_keys(vm, first),
        }
        return render_page(request, "vms/keys.html", context)
    names = keys.PRESETS.get(request.POST.get("keys", ""), ())
    lifecycle.send_keys(vm, names, actor=request.user)
    return done(request, _("The keys are being pressed."), tone="work", changed=f"vm:{vm.uuid} job")


def key_words(names: Sequence[str]) -> str:
    """``Ctrl+Alt+F2``."""
    return "+".join(name.capitalize() for name in names)


@signed_in
@require_POST
def cancel(request: SignedInRequest, uuid: UUID) -> HttpResponse:
    """Stop what is being done with the machine, and clean up."""
    vm = queries.one(request.user, uuid)
    job = lifecycle.active_job(vm)
    if job is None:
        return done(request, _("It had just ended."), changed=f"vm:{vm.uuid} job")
    policy.require(request.user, Action.JOB_CANCEL, job)
    job_services.cancel(job, actor=request.user)
    return done(
        request, _("It is being stopped and cleaned up."), tone="work", changed=f"vm:{vm.uuid} job"
    )


@signed_in
@require_POST
def retry(request: SignedInRequest, uuid: UUID) -> HttpResponse:
    """The machine whose making failed once more, with the same input: as a new machine."""
    vm = _with_deleted(request, uuid)
    job = vm.jobs.filter(state__in=Job.FINAL_STATES).order_by("-created_at").first()
    if job is None:
        raise NotFound
    again = job_services.retry(job, actor=request.user)
    goal = reverse("vm_detail", args=[again.vm.uuid]) if again.vm and again.vm != vm else ""
    return done(
        request, _("It is tried again."), tone="work", changed=f"vm:{vm.uuid} job", goal=goal
    )


def _gone(request: SignedInRequest, uuid: UUID) -> HttpResponse:
    """What became of a machine that is no more, for those who could see it: whoever watches a
    machine being made must not lose sight of it when that fails."""
    vm = _with_deleted(request, uuid)
    job = vm.jobs.order_by("-created_at").first()
    making = _making(vm)
    context = {
        "vm": vm,
        "job": job,
        "making": making if making and making.failed else None,
        "may_retry": bool(
            making and making.failed and policy.can(request.user, Action.JOB_CANCEL, making.job)
        ),
        "entries": timeline.entries(vm, 10),
    }
    # A page that was open shows the end in place; an address that is opened now is not found.
    status = 200 if request.GET.get("part") else 404
    return render_page(request, "vms/gone.html", context, parts={"machine"}, status=status)


def _with_deleted(request: SignedInRequest, uuid: UUID) -> VM:
    rows = VM.objects.select_related("owner", "team", "image", "host")
    vm = rows.filter(uuid=uuid).first()
    if vm is None or not policy.can(request.user, Action.SEE, vm):
        raise NotFound("vm.not_found")
    return vm


def _timeline_groups() -> list[tuple[str, str]]:
    """``(value, label)`` of the filter; "" is all."""
    labels = {
        "": _("All"),
        "state": _("States"),
        "jobs": _("Jobs"),
        "settings": _("Settings"),
        "snapshots": _("Snapshots and backups"),
        "consoles": _("Consoles"),
    }
    return [(value, labels[value]) for value in ("", *timeline.GROUPS)]


# --- what the page needs -------------------------------------------------------------------------

_PRIMARY_BY_STATE = {
    "running": Verb.SHUTDOWN,
    "shutoff": Verb.START,
    "crashed": Verb.START,
    "paused": Verb.RESUME,
}


def _primary(machine: MachineView) -> presentation.VerbView | None:
    """The one verb that most people want in this state."""
    verb = _PRIMARY_BY_STATE.get(machine.vm.observed)
    if verb is None or machine.state.key == "working":
        return None
    view = machine.verb(verb.value)
    return view if view.allowed else None


def _verb_asked(machine: MachineView, name: str) -> presentation.VerbView | None:
    name = name.replace("-", "_")
    return next((view for view in machine.verbs if view.verb == name), None)


def _making(vm: VM) -> CreateProgress | None:
    """The create job while it works, and after it failed or its first boot did."""
    job = (
        vm.jobs.filter(kind__in=CREATIONS).prefetch_related("steps").order_by("-created_at").first()
    )
    if job is None or job.state == Job.State.SUCCEEDED:
        return None
    failed = job.state in (Job.State.FAILED, Job.State.CANCELLED)
    return CreateProgress(
        job=job,
        steps=presentation.steps(job),
        share=presentation.task(job).progress,
        failed=failed,
        why=messages.text(job.error_code, job.error_params) if job.error_code else "",
    )
