"""What the hosts' codes say to a person: what happened, why, what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from accounts import messages


def _nowhere(params: Mapping[str, Any]) -> str:
    """Each host's own reason, when they differ."""
    reasons = [
        gettext("%(host)s: %(reason)s")
        % {"host": why["host"], "reason": messages.text(f"{why['code']}.short", why)}
        for why in params.get("reasons") or []
    ]
    return gettext(
        "No host can take this machine now. %(reasons)s. Ask for a smaller machine, try again "
        "later, or ask an admin."
    ) % {"reasons": "; ".join(reasons)}


messages.register(
    {
        # --- placing a machine ------------------------------------------------------------
        "placement.none": _nowhere,
        "placement.no_hosts": _(
            "There is no host yet that machines could run on. An admin adds one under Admin, Hosts."
        ),
        "placement.maintenance": _(
            "No host takes new machines now: all of them are in maintenance. Try again later, or "
            "ask an admin when it ends."
        ),
        "placement.maintenance.short": _("in maintenance"),
        "placement.unreachable": _(
            "No host answers at the moment, so the machine cannot be made. Machines that exist "
            "are not lost. Try again in a few minutes."
        ),
        "placement.unreachable.short": _("does not answer"),
        "placement.arch": _(
            "The image is made for %(needed)s processors, and no host has one. Choose another "
            "image."
        ),
        "placement.arch.short": _("has %(has)s processors, the image is for %(needed)s"),
        "placement.no_network": _(
            "No host has the network “%(network)s” running. Choose another network, or ask an "
            "admin to start it."
        ),
        "placement.no_network.short": _("its network “%(network)s” is not running"),
        "placement.lacks": _(
            "No host has what this machine needs: %(need)s. Choose otherwise under “Processor and "
            "firmware”, or ask an admin."
        ),
        "placement.lacks.short": _("does not have %(need)s"),
        "placement.no_memory": _(
            "No host has enough memory left: the machine needs %(needed_mib)s MiB, and the most "
            "that is free on one host is %(free_mib)s MiB. Choose a smaller size, or stop a "
            "machine that is not needed."
        ),
        "placement.no_memory.short": _("%(free_mib)s MiB memory free of %(needed_mib)s needed"),
        "placement.no_vcpus": _(
            "No host has enough processors left: the machine needs %(needed)s vCPUs, and the "
            "most that one host can still give is %(free)s. Choose a smaller size, or stop a "
            "machine that is not needed."
        ),
        "placement.no_vcpus.short": _("%(free)s vCPUs free of %(needed)s needed"),
        "placement.no_disk": _(
            "No host has enough disk space left: the machine needs %(needed_gib)s GiB, and the "
            "most that one host can still promise is %(free_gib)s GiB. Choose a smaller disk, "
            "or ask an admin for space."
        ),
        "placement.no_disk.short": _("%(free_gib)s GiB disk free of %(needed_gib)s needed"),
        "placement.no_pool": _(
            "Host %(host)s has no storage pool in use, so it has no place for disks. An admin "
            "finds the pools on the host's page."
        ),
        "placement.no_pool.short": _("has no storage pool in use"),
        # Only of a machine that would move, one host at a time.
        "placement.other_network.short": _("its network “%(network)s” is of another kind"),
        "placement.older_qemu.short": _("its QEMU %(has)s is older than this host's"),
        "placement.other_cpu.short": _(
            "its processor is another one (%(has)s): the machine can move there while it is off"
        ),
        # --- what a hypervisor says (hosts.virt.errors) ---------------------------------------
        "virt.no_such_domain": _(
            "The host does not know this machine any more. An admin finds out more under the "
            "reference %(ref)s."
        ),
        "virt.guest_keeps_device": _(
            "The guest uses the device and does not let go of it. Unmount the disk or take the "
            "card down inside, or shut the machine down first."
        ),
        "virt.no_such_snapshot": _(
            "The host does not know this snapshot any more. Somebody may have removed it by hand."
        ),
        "virt.no_such_volume": _(
            "A disk that is needed is not in the host's pool any more. Tell an admin the "
            "reference %(ref)s."
        ),
        "virt.no_such_pool": _(
            "The host has no such storage pool any more. Tell an admin the reference %(ref)s."
        ),
        "virt.no_such_network": _(
            "The host has no such network any more. Choose another network, or tell an admin the "
            "reference %(ref)s."
        ),
        "virt.already_exists": _(
            "The host has something of that name already. Tell an admin the reference %(ref)s."
        ),
        "virt.wrong_state": _(
            "The machine is not in a state in which this can be done. Look at its state and try "
            "again."
        ),
        "virt.unsupported": _(
            "This host or this machine cannot do that. An admin finds out more under the "
            "reference %(ref)s."
        ),
        "virt.agent_silent": _(
            "The guest agent in the machine does not answer. It may not be installed, or the "
            "machine is still starting."
        ),
        "virt.agent_refused": _(
            "The guest agent in the machine answered that it could not do this. It may be too old, "
            "or not allowed to; look into its log inside the machine."
        ),
        "virt.no_space": _(
            "The host's storage pool is full. Delete machines that are not needed, or ask an "
            "admin for space."
        ),
        "virt.timeout": _(
            "The host took too long over this. Try again; if it stays so, tell an admin the "
            "reference %(ref)s."
        ),
        "virt.busy": _("The host is still at work on this machine. Try again in a moment."),
        "virt.console_in_use": _(
            "Another program reads this machine's serial line already. Close it there (for "
            "example a “virsh console” on the host), then try again."
        ),
        "virt.host_unreachable": _(
            "The host does not answer. Machines on it are not lost; this goes on when it is "
            "back. Reference %(ref)s."
        ),
        "virt.unknown": _(
            "The host refused this. Tell an admin the reference %(ref)s; the host's own words are "
            "in the log under it."
        ),
        # --- hosts ------------------------------------------------------------------------
        "host.name_taken": _("There is a host “%(name)s” already. Choose another name."),
        "host.invalid": _("This host cannot be added as it is. Correct the marked fields."),
        "host.field_wrong": _(
            "This is not accepted here. Use plain names, addresses and paths; a libvirt URI is "
            "never typed, it is made from these fields."
        ),
        "host.has_machines": _(
            "Host %(name)s still has %(count)s machines. Delete or move them first; then the "
            "host can be removed."
        ),
        "host.backup_folder": _(
            "This is no directory for backups. Name one from the root of the host, of letters, "
            "digits and . _ + -: /mnt/backups"
        ),
        "host.pool_unknown": _("This host has no such pool. Choose one from the list."),
        # --- domains that have lost their rows --------------------------------------------------
        "adopt.not_ours": _(
            "“%(name)s” was not made by this site, so it cannot be taken in. Only domains that "
            "carry this site's mark in their metadata can."
        ),
        "adopt.nobody": _(
            "The domain says that it belongs to %(owner)s of team %(team)s, and one of them does "
            "not exist here. Create them under these names, then take it in."
        ),
        "adopt.has_row": _("“%(name)s” has a machine here already. Reload the page."),
        "adopt.was_deleted": _(
            "The machine of “%(name)s” was deleted here, so it cannot come back as it was. “Look "
            "for leftovers” removes its domain."
        ),
        "adopt.name_taken": _(
            "Team %(team)s has another machine named “%(name)s”. Rename that one first."
        ),
        "adopt.disk_unknown": _(
            "The disk %(disk)s of “%(name)s” is in no pool that this site knows. Read the host "
            "again, then take the domain in."
        ),
        # --- acceleration -----------------------------------------------------------------
        "accel.not_listed": _(
            "libvirt on this host does not offer KVM, so machines are emulated, which is slower. "
            "If its processor can virtualize, load the kvm module, give libvirt access to "
            "/dev/kvm, and check again."
        ),
        "accel.no_cpu_flag": _(
            "The processor shows neither VT-x (vmx) nor AMD-V (svm), so KVM cannot work even if "
            "/dev/kvm is there. Switch it on in the firmware, or allow nested virtualization if "
            "this host is itself a virtual machine. Until then machines are emulated."
        ),
        "accel.probe_passed": _("KVM works: a probe machine has started with it."),
        "accel.probe_failed": _(
            "KVM is offered, but a probe machine did not start with it, so machines are emulated. "
            "Look at the kernel log of the host, mend it, and check again."
        ),
        "accel.not_probed": _(
            "KVM is offered, but it has not been tried yet. Until it has, machines are emulated. "
            "Use “Check acceleration”."
        ),
    }
)
