"""The backups of a machine: the tab on its page, its dialogs, and what they send."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST, require_safe

from accounts import messages, policy
from accounts.access import SignedInRequest, signed_in
from accounts.errors import NotFound
from accounts.fragments import done
from accounts.models import User
from accounts.policy import Action
from vms import names, queries
from vms.backups import commands, downloads, services
from vms.lifecycle import active_job
from vms.models import VM, Backup, BackupPlan

DIALOGS = ("restore", "new", "attach", "delete")


@dataclass(frozen=True, kw_only=True)
class BackupsView:
    rows: list[Backup]
    plan: BackupPlan | None
    can_edit: bool
    can_delete: bool
    why_not_take: str
    why_not_restore: str
    size_gib: int
    commands: list[str]


def of(vm: VM, user: User) -> BackupsView:
    """Database only; a bounded number of queries."""
    active = active_job(vm)
    rows = services.with_files(vm.backups.select_related("image", "created_by"))
    return BackupsView(
        rows=rows,
        plan=BackupPlan.objects.filter(vm=vm).first(),
        can_edit=policy.can(user, Action.EDIT, vm),
        can_delete=policy.can(user, Action.DELETE, vm),
        why_not_take=_why(vm, services.why_not_take(vm, active)),
        why_not_restore=_why(vm, services.why_not_restore(vm, active)),
        size_gib=sum(row.size_gib for row in rows),
        commands=commands.show_take(vm),
    )


def _why(vm: VM, code: str | None) -> str:
    host = vm.host.name if vm.host else ""
    return messages.text(code, {"host": host, "name": vm.name}) if code else ""


@signed_in
@require_safe
def dialog(request: SignedInRequest, uuid: UUID, number: int) -> HttpResponse:
    """``?for=restore`` (over the machine), ``new``, ``attach`` (a disk to one), ``delete``."""
    word = request.GET.get("for", "")
    if word not in DIALOGS:
        raise NotFound
    vm = services.machine(request.user, uuid)
    policy.require(request.user, Action.EDIT, vm)
    backup, suggestion = services.find(vm, number), names.suggest(request.user, base=vm.name)
    context = {
        "vm": vm,
        "word": word,
        "backup": backup,
        "suggestion": suggestion,
        "commands": commands.show_act(backup, word, name=suggestion),
        "why": _why_no_dialog(vm, backup, word, request.user),
        "machines": services.attachable(backup, request.user) if word == "attach" else [],
        "stays": _stays(vm, backup),
        "firmware_changed": backup.image.hardware.get("firmware", "bios") != vm.firmware,
    }
    return render(request, "vms/backup_dialogs.html", context)


def _why_no_dialog(vm: VM, backup: Backup, word: str, user: User) -> str:
    if word == "restore":
        return of(vm, user).why_not_restore
    if word == "new" and not backup.has_system:
        return messages.text("backup.no_system", {"number": backup.number})
    return ""


def _stays(vm: VM, backup: Backup) -> list[str]:
    """Disks of the machine that the backup does not have: a restore leaves them as they are."""
    kept = {target for target, _image in backup.files}
    return [disk.target for disk in vm.disks.all() if disk.target not in kept]


@signed_in
@require_GET
def download(request: SignedInRequest, uuid: UUID, number: int) -> HttpResponseBase:
    """``?disk=vdb``; the first without."""
    backup = services.find(services.machine(request.user, uuid), number)
    target = request.GET.get("disk", "")
    return downloads.answer(request, backup, actor=request.user, target=target)


@signed_in
@require_POST
def take(request: SignedInRequest, uuid: UUID) -> HttpResponse:
    vm = services.machine(request.user, uuid)
    services.take(vm, actor=request.user)
    text = _("%(name)s is being backed up.") % {"name": vm.name}
    return done(request, text, tone="work", changed=f"vm:{vm.uuid} vm job")


@signed_in
@require_POST
def act(request: SignedInRequest, uuid: UUID, number: int, word: str) -> HttpResponse:
    """``restore``, ``new``, ``attach`` or ``delete``."""
    vm = services.machine(request.user, uuid)
    backup = services.find(vm, number)
    goal, about = "", {"number": str(number)}
    if word == "restore":
        services.restore_over(backup, actor=request.user)
        text = _("Backup %(number)s is being restored.")
    elif word == "new":
        made, _job = services.restore_as_new(
            backup, actor=request.user, name=request.POST.get("name", "").strip()
        )
        text, goal = _("A machine is made from backup %(number)s."), str(made.uuid)
    elif word == "attach":
        to = queries.one(request.user, request.POST.get("machine", ""))
        disk, _job = services.attach(
            backup, actor=request.user, to=to, target=request.POST.get("disk", "")
        )
        text = _("A disk of backup %(number)s is being added to %(machine)s as %(disk)s.")
        about |= {"machine": to.name, "disk": disk.target}
        goal = str(to.uuid)
    elif word == "delete":
        services.delete(backup, actor=request.user)
        text = _("Backup %(number)s is being deleted.")
    else:
        raise NotFound
    return done(
        request,
        text % about,
        tone="work",
        changed=f"vm:{vm.uuid} vm job",
        goal=reverse("vm_detail", args=[goal]) if goal else "",
    )


@signed_in
@require_POST
def plan(request: SignedInRequest, uuid: UUID) -> HttpResponse:
    vm = services.machine(request.user, uuid)

    def number(name: str) -> int:
        text = request.POST.get(name, "")
        return int(text) if text.isascii() and text.isdecimal() and len(text) <= 3 else -1

    wanted = {name: number(name) for name in ("every_days", "keep", "keep_daily", "keep_weekly")}
    services.plan(vm, actor=request.user, **wanted)
    return done(request, _("Saved."), changed=f"vm:{vm.uuid}")
