"""The recycle bin's page: restore, delete for good, and for admins how long it keeps."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from django.core.paginator import Paginator
from django.http import HttpResponse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_POST, require_safe

from accounts import messages, policy
from accounts.access import SignedInRequest, admin_only, signed_in
from accounts.errors import Invalid
from accounts.fragments import done, render_page
from accounts.policy import Action
from vms import commands, presentation, queries, recycle_bin
from vms.backups import services as backup_services
from vms.models import VM, Backup, MachineRules
from vms.presentation import MachineView

_CHANGED = "vm job"
PAGE_SIZE = 50


@dataclass(frozen=True, kw_only=True)
class BinRow:
    machine: MachineView
    may: bool  # restore it and delete it for good
    name_taken: bool


@dataclass(frozen=True, kw_only=True)
class DiskRow:
    target: str
    size_gib: int
    why_not: str  # it cannot be kept


@dataclass(frozen=True, kw_only=True)
class BackupRow:
    backup: Backup
    can_edit: bool
    can_delete: bool


@signed_in
@require_safe
def show(request: SignedInRequest) -> HttpResponse:
    if request.GET.get("part") == "empty":
        goes = presentation.machines(recycle_bin.deletable(request.user), request.user)
        return render_page(request, "vms/bin.html", {"goes": goes}, parts={"empty"})
    page = Paginator(recycle_bin.rows(request.user), PAGE_SIZE).get_page(request.GET.get("page"))
    rows = _rows(request, list(page.object_list))
    context = {
        "rows": rows,
        "page": page.number,
        "pages": page.paginator.num_pages,
        "previous_url": f"?page={page.number - 1}" if page.has_previous() else "",
        "next_url": f"?page={page.number + 1}" if page.has_next() else "",
        "disk_gib": recycle_bin.disks_gib(request.user),
        "may_empty": any(row.may for row in rows),
        "backups": _backups(request),
        "days": MachineRules.current().bin_days,
        "days_min": recycle_bin.DAYS_MIN,
        "days_max": recycle_bin.DAYS_MAX,
    }
    return render_page(request, "vms/bin.html", context, parts={"rows"})


@signed_in
@require_safe
def ask(request: SignedInRequest, uuid: UUID) -> HttpResponse:
    """The dialogs: restore (what it will take, under which name), or delete for good."""
    vm = queries.one(request.user, uuid)
    policy.require(request.user, Action.DELETE, vm)
    context = {
        "vm": vm,
        "machine": presentation.machine(vm, request.user),
        "volumes": presentation.volumes(vm),
        "backups": vm.backups.count(),
        "disks": disks_to_keep(vm),
        "restore_commands": commands.show_restore(vm),
        "purge_commands": commands.show_verb(vm, "delete"),
        "name_taken": VM.objects.in_use().filter(team=vm.team_id, name=vm.name).exists(),
    }
    return render_page(request, "vms/bin_ask.html", context, parts={"restore", "purge"})


@signed_in
@require_POST
def restore(request: SignedInRequest, uuid: UUID) -> HttpResponse:
    vm = queries.one(request.user, uuid)
    name = request.POST.get("name", "").strip()
    recycle_bin.restore(vm, actor=request.user, name=name)
    text = _("%(name)s is being restored.") % {"name": name or vm.name}
    return done(request, text, tone="work", changed=f"vm:{vm.uuid} {_CHANGED}")


@signed_in
@require_POST
def purge(request: SignedInRequest, uuid: UUID) -> HttpResponse:
    vm = queries.one(request.user, uuid)
    recycle_bin.purge(vm, actor=request.user, keep=request.POST.getlist("keep"))
    text = _("%(name)s is being deleted for good.") % {"name": vm.name}
    return done(request, text, tone="work", changed=f"vm:{vm.uuid} {_CHANGED}")


@signed_in
@require_POST
def empty(request: SignedInRequest) -> HttpResponse:
    count, left = recycle_bin.purge_all(request.user)
    text = ngettext(
        "%(n)d machine is being deleted for good.",
        "%(n)d machines are being deleted for good.",
        count,
    ) % {"n": count}
    if left:
        text += " " + ngettext("%(n)d was left as it is.", "%(n)d were left as they are.", left) % {
            "n": left
        }
    return done(request, text, tone="warn" if left else "work", changed=_CHANGED)


@admin_only
@require_POST
def set_days(request: SignedInRequest) -> HttpResponse:
    text = request.POST.get("days", "")
    days = int(text) if text.isascii() and text.isdecimal() and len(text) <= 4 else 0
    if not recycle_bin.DAYS_MIN <= days <= recycle_bin.DAYS_MAX:
        raise Invalid("vm.bin.days", minimum=recycle_bin.DAYS_MIN, maximum=recycle_bin.DAYS_MAX)
    recycle_bin.set_days(days, actor=request.user)
    return done(request, _("Saved. It holds for machines that are deleted from now on."))


def disks_to_keep(vm: VM) -> list[DiskRow]:
    """What the dialogs ask of each disk when its machine is deleted for good."""
    host = vm.host.name if vm.host else ""
    rows = []
    for disk in vm.disks.all():
        code = backup_services.why_not_keep(vm, disk)
        why = messages.text(code, {"name": vm.name, "host": host}) if code else ""
        rows.append(DiskRow(target=disk.target, size_gib=disk.size_gib, why_not=why))
    return rows


def _backups(request: SignedInRequest) -> list[BackupRow]:
    door = policy.door(request.user)
    return [
        BackupRow(
            backup=backup,
            can_edit=door.can(Action.EDIT, backup.vm),
            can_delete=door.can(Action.DELETE, backup.vm),
        )
        for backup in backup_services.outliving(request.user)
    ]


def _rows(request: SignedInRequest, vms: list[VM]) -> list[BinRow]:
    door = policy.door(request.user)
    names = {vm.name for vm in vms}
    taken = set(
        VM.objects.in_use()
        .filter(team__in={vm.team_id for vm in vms}, name__in=names)
        .values_list("team_id", "name")
    )
    return [
        BinRow(
            machine=machine,
            may=door.can(Action.DELETE, machine.vm),
            name_taken=(machine.vm.team_id, machine.vm.name) in taken,
        )
        for machine in presentation.machines(vms, request.user)
    ]
