"""What each code of this app says to a person: what happened, why, what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.formats import date_format
from django.utils.translation import gettext, gettext_noop
from django.utils.translation import gettext_lazy as _

from accounts import messages

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise


def _state_line(word: str, outside: str) -> messages.Message:
    """A timeline line that says when the change did not come from a job of ours."""

    def text(params: Mapping[str, Any]) -> str:
        return gettext(outside) if params.get("outside") else gettext(word)

    return text


def _dated(message: _StrPromise, without: _StrPromise | None = None) -> messages.Message:
    """Moments (names that end in ``_at``) in the reader's way; ``without``: where they are not
    known."""

    def text(params: Mapping[str, Any]) -> str:
        shown = {name: _moment(name, value) for name, value in params.items()}
        moments = [value for name, value in shown.items() if name.endswith("_at")]
        chosen = message if without is None or all(moments) else without
        return str(chosen) % _Places(shown)

    return text


def _by_way(
    asked: _StrPromise, *, saved: _StrPromise, off: _StrPromise | None = None
) -> messages.Message:
    """By how a rule stops a machine (``vms.leases.way_of``)."""
    ways = {"saved": saved, "off": off or asked}

    def text(params: Mapping[str, Any]) -> str:
        return str(ways.get(str(params.get("way")), asked)) % _Places(params)

    return text


def _moment(name: str, value: Any) -> Any:
    if not name.endswith("_at"):
        return value
    moment = parse_datetime(value) if isinstance(value, str) else value
    if not isinstance(moment, datetime):
        return value or ""
    return date_format(timezone.localtime(moment), "DATETIME_FORMAT")


def _move_host(params: Mapping[str, Any]) -> str:
    """Why one host cannot take a machine that would move there."""
    why = params.get("reason") or {"code": "placement.no_pool"}
    return gettext("Host %(host)s cannot take it: %(why)s.") % {
        "host": params.get("host", "?"),
        "why": messages.text(f"{why['code']}.short", why),
    }


class _Places(dict[str, Any]):
    """As in ``accounts.messages``: a place without a parameter stays readable."""

    def __missing__(self, key: str) -> str:
        return "?"


# --- how long machines last ----------------------------------------------------------------------
messages.register(
    {
        "lease.none": _("“%(name)s” has no end: there is nothing to extend."),
        "lease.at_latest": _dated(
            _(
                "“%(name)s” cannot be extended further without a request: the rules let it last "
                "until %(latest_at)s. Ask for more time."
            )
        ),
        "lease.beyond": _dated(
            _("The rules let it last until %(latest_at)s at most. Ask for more time."),
            _("The rules do not let it last so long. Ask for more time."),
        ),
        "lease.bad_end": _("An end lies in the future, within five years."),
        "lease.not_later": _("More time ends later than it does now. Choose a later day."),
        "lease.bad_days": _("Type a number of days from 0 to %(maximum)s."),
        "lease.default_beyond": _("This is longer than the longest. Give fewer days."),
        "lease.bin_days": _("Type a number of days from %(minimum)s to %(maximum)s."),
        "vm.why.time_over": _("Its time is over. Extend it first, or ask for more time."),
        "timeline.lease.set": _dated(_("Ends on %(until_at)s"), _("Lasts without end")),
        "timeline.lease.over": _("Its time is over"),
        "timeline.lease.not_saved": _("Stays suspended: its memory could not be saved"),
        "vm.not_asked": _(
            "Its host could not ask the guest to shut down. It is switched off a few minutes later."
        ),
        "vm.not_saved": _(
            "Its memory could not be saved, for the last time: it was switched off, and what its "
            "programs had in memory is lost."
        ),
        "notice.lease.ends": _by_way(
            _(
                "The machine %(machine)s ends: %(ends_at)s. It is stopped then: asked to shut "
                "down, and switched off if it has not a few minutes later. Extend it if you still "
                "need it."
            ),
            saved=_(
                "The machine %(machine)s ends: %(ends_at)s. It is suspended: its memory is saved "
                "then, and it is off. Extend it if you still need it."
            ),
            off=_(
                "The machine %(machine)s ends: %(ends_at)s. It cannot be started from then on. "
                "Extend it if you still need it."
            ),
        ),
        "notice.lease.over": _by_way(
            _(
                "The time of the machine %(machine)s is over: it is asked to shut down, and "
                "switched off if it has not a few minutes later. Extend it before it goes into "
                "the recycle bin: %(bin_at)s."
            ),
            saved=_(
                "The time of the machine %(machine)s is over. It is suspended: its memory is "
                "saved, and it is off. Extend it before it goes into the recycle bin: %(bin_at)s."
            ),
            off=_(
                "The time of the machine %(machine)s is over: it cannot be started. Extend it "
                "before it goes into the recycle bin: %(bin_at)s."
            ),
        ),
        "notice.lease.not_saved": _(
            "The time of the machine %(machine)s is over, and its memory could not be saved: it "
            "stays suspended for now. That is tried again each day. If it still fails, it is "
            "switched off on %(off_at)s and its memory is lost. Extend it, or resume it and shut "
            "it down."
        ),
        "lease.idle_days": _("Type a number of days from 0 to %(idle_max)s."),
        "lease.idle_stop_days": _("Type a number of days from 1 to %(stop_max)s."),
        "timeline.lease.idle": _("Nobody has used it for %(days)s days"),
        "timeline.lease.kept": _("Kept running"),
        "notice.lease.idle": _by_way(
            _(
                "Nobody has used the machine %(machine)s for %(days)s days. It is stopped on "
                "%(stop_at)s unless you keep it or use it."
            ),
            saved=_(
                "The machine %(machine)s has been suspended or unused for %(days)s days. Its "
                "memory is saved and it is off on %(stop_at)s unless you keep it or use it."
            ),
        ),
        "notice.lease.idle_stopped": _by_way(
            _(
                "The machine %(machine)s is stopped, for nobody uses it: asked to shut down, and "
                "switched off if it has not a few minutes later. Its disks stay: start it when you "
                "need it."
            ),
            saved=_(
                "The machine %(machine)s was suspended and nobody uses it: its memory is saved, "
                "and it is off. Start it when you need it: it goes on where it was."
            ),
        ),
        "notice.lease.idle_not_saved": _(
            "Nobody uses the machine %(machine)s, which is suspended. Its memory could not be "
            "saved, so it stays as it is. Resume it if you need it, or force it off."
        ),
        "notice.backup.put_off": _(
            "Since %(since_at)s no backup of the machine %(machine)s could be made by its plan. "
            "Its page says why."
        ),
        "notice.backup.failed": _(
            "The backup of the machine %(machine)s by its plan failed. The job says why."
        ),
        "notice.lease.binned": _(
            "The machine %(machine)s was put into the recycle bin, for its time is over. It can be "
            "restored there for %(days)s days."
        ),
    }
)

# --- machines ------------------------------------------------------------------------------------
messages.register(
    {
        "vm.not_found": _("There is no such machine, or it is not yours to see."),
        "vm.invalid": _("Some of the input is not right. Correct the marked fields and try again."),
        "vm.name_taken": _("The team has a machine of this name already. Choose another name."),
        "vm.name_race": _("Somebody took the name “%(name)s” in the same moment. Try again."),
        "vm.mac_race": _("No free network address (MAC) was found. Try again."),
        "vm.description_long": _("A description has at most %(limit)s characters."),
        "vm.description_control": _("A description has no control characters. Remove them."),
        "vm.tags_many": _("A machine has at most %(limit)s tags. Remove some."),
        "vm.tag_wrong": _(
            "“%(tag)s” cannot be a tag: it has 1 to 32 letters, digits and . _ @ + - and no spaces."
        ),
        "vm.image_not_ready": _(
            "The image “%(name)s” is not ready for new machines. Choose another one."
        ),
        "vm.image_unknown": _("There is no image “%(name)s” for you. Choose one from the list."),
        "vm.image_copy_failed": _(
            "The image “%(image)s” could not be copied to host %(host)s. Try again; if it stays, "
            "tell an admin."
        ),
        "vm.flavor_unknown": _("There is no size “%(name)s”. Choose one from the list."),
        "vm.flavor_or_custom": _(
            "Give either a size, or the number of vCPUs and the memory, not both."
        ),
        "vm.size_missing": _("Choose a size, or give the number of vCPUs and the memory."),
        "vm.vcpus_range": _("A machine has 1 to %(limit)s vCPUs."),
        "vm.memory_range": _("A machine has %(minimum)s to %(maximum)s MiB of memory."),
        "vm.memory_small": _(
            "The image “%(image)s” needs at least %(minimum)s MiB of memory; this is "
            "%(given)s MiB. Choose a larger size."
        ),
        "vm.disk_range": _("A disk has 1 to %(maximum)s GiB."),
        "vm.disk_small": _(
            "The image “%(image)s” needs a disk of at least %(minimum)s GiB; this is %(given)s GiB."
        ),
        "vm.network_unknown": _(
            "No host offers the network “%(name)s” now. Choose one from the list."
        ),
        "vm.knob_unknown": _("“%(given)s” is no choice here. Choose one from the list."),
        "vm.host_lacks": _("No host that takes machines has %(need)s. Choose otherwise."),
        "vm.secureboot_q35": _("Secure Boot needs the machine type q35."),
        "vm.cpu_model_mode": _("A processor model is only for the mode “custom”."),
        "vm.cpu_model_unknown": _(
            "No host can run the processor model “%(given)s”. Choose one from the list."
        ),
        "vm.topology_product": _(
            "Sockets × cores × threads make %(product)s processors, and the machine has %(n)s."
        ),
        "vm.disks_many": _("A machine has at most %(limit)s disks."),
        "vm.cards_many": _("A machine has at most %(limit)s network cards."),
        "vm.discs_many": _("A machine has at most %(limit)s discs beside the first."),
        "vm.disc_not_iso": _("“%(name)s” is no installation disc, or is not ready."),
        "vm.bus_full": _("No place is left on the bus “%(bus)s”. Choose another."),
        "vm.linked_is_qcow2": _("A linked disk is qcow2. Choose a full copy for a raw one."),
        "vm.ide_needs_pc": _("The bus IDE needs the machine type pc."),
        "vm.io_native_cache": _("The mode “native” needs the cache none or directsync."),
        "vm.mac_wrong": _(
            "“%(given)s” cannot be the address of a card here: like 52:54:00:12:34:56, locally "
            "administered, and not beginning with fe."
        ),
        "vm.mac_taken": _("Another machine has the address %(mac)s."),
        "vm.mac_of_many": _("Several machines cannot share an address. Leave it empty."),
        "vm.boot_unknown": _("Boot from disc, disk and network, each named once."),
        "vm.boot_no_disc": _("There is no installation disc to boot from."),
        "vm.boot_no_pxe": _(
            "No server boots machines on the network “%(network)s”. Choose another network, or ask "
            "an admin, who can say on the host's page that one answers there."
        ),
        "vm.os_unknown": _("“%(name)s” is no operating system that this site knows."),
        "vm.empty_no_cloud_init": _("An empty disk has no cloud-init to read this. Leave it out."),
        "answers.kind": _("Answers are for autoinstall, kickstart or preseed. Choose one."),
        "answers.question": _(
            "At line %(line)s stands no answer. One is: d-i, the question, its type, the value."
        ),
        "answers.secureboot": _(
            "Secure Boot would refuse the installer's kernel. Choose UEFI or BIOS; the system can "
            "have Secure Boot later."
        ),
        "answers.not_debian": _(
            "“%(name)s” is no disc of Debian's installer: %(path)s is not on it. Nothing was "
            "made. Choose such a disc, or answers of another kind."
        ),
        "answers.large": _("Answers have at most %(limit)s KiB."),
        "answers.text": _("Write the answers as plain text, or choose none."),
        "answers.autoinstall": _("It needs “autoinstall:” with “version: 1” in it."),
        "answers.section": _("At line %(line)s a section is not closed by %%end, or not begun."),
        "answers.no_disc": _(
            "Only an installation disc reads answers. Choose one, or leave them out."
        ),
        "advice.bios": _("%(os)s does not start by BIOS. Choose UEFI."),
        "advice.uefi": _("%(os)s does not start by UEFI. Choose BIOS."),
        "advice.tpm": _("The installer of %(os)s refuses a machine without a TPM 2.0."),
        "advice.clock": _("%(os)s takes the clock for local time: it would be hours off."),
        "advice.windows_disk": _(
            "The installer of %(os)s does not see this disk without the virtio drivers. Put their "
            "disc into a drive, or choose the bus SATA."
        ),
        "advice.windows_card": _(
            "%(os)s has no network with this card until the virtio drivers are installed."
        ),
        "advice.cloud_kernel": _(
            "Kernels of cloud images often have no driver for %(bus)s: such a machine does not "
            "find its disk. Virtio is safe, and faster."
        ),
        "advice.cache_unsafe": _(
            "With the cache “unsafe” a host that fails takes what the guest wrote to %(disk)s."
        ),
        "advice.threads": _("Without a cache, “native” is faster for %(disk)s than “threads”."),
        "advice.memory_below": _("%(os)s needs at least %(least)s MiB of memory."),
        "advice.memory_small": _("%(os)s runs better with %(advised)s MiB of memory."),
        "advice.disk_below": _("%(os)s needs a disk of at least %(least)s GiB."),
        "advice.disk_small": _("For %(os)s a disk of %(advised)s GiB is recommended."),
        "advice.vcpus": _("%(os)s needs at least %(least)s vCPUs."),
        "vm.snapshot_unknown": _("The machine has no snapshot “%(name)s”. Choose one of its own."),
        "vm.team_unknown": _("There is no team “%(name)s” for you. Choose one of your teams."),
        "vm.copy_unknown": _("A disk is made as “linked” or as a “full” copy."),
        "vm.user_missing": _(
            "Say for whom the key or the password is: the image names no user of its own."
        ),
        "vm.no_cloud_init": _(
            "The image “%(name)s” does not read a first-boot configuration, so a password or "
            "cloud-config would have no effect. Leave them empty."
        ),
        "vm.keys_many": _("At most %(limit)s SSH keys go into a machine. Choose fewer."),
        "vm.retry_password_gone": _(
            "The password that was chosen for “%(name)s” has been forgotten meanwhile. Create the "
            "machine again with a new one."
        ),
        # Why a verb is not possible.
        "vm.verb_unknown": _("A machine cannot be told to “%(verb)s”."),
        "vm.why.not_allowed": _(
            "Your role in the team does not allow this. Ask its owner or a manager of the team."
        ),
        "vm.why.busy": _("Something else is being done with this machine. Wait until it is over."),
        "vm.why.binned": _("It lies in the recycle bin. Restore it first."),
        "vm.why.independent": _("Its disks stand on no image or template."),
        "vm.why.backup_disks": _("Only a machine whose disks are all qcow2 can be backed up."),
        "vm.why.backup_disk": _("Not a qcow2 disk: it cannot be kept as a backup."),
        "vm.why.backup_place": _("The place for backups on %(host)s is off. Tell an admin."),
        "vm.why.backup_on": _("It runs. Shut it down first: its disks are replaced."),
        "vm.why.backup_snapshots": _("It has snapshots, which would be lost. Delete them first."),
        "backup.not_found": _("There is no such backup."),
        "backup.not_ready": _("Backup %(number)s is not whole, or is being deleted."),
        "backup.no_system": _(
            "Backup %(number)s does not have the disk with the system. Add its disks to a machine "
            "instead."
        ),
        "backup.other_host": _(
            "%(name)s is not on %(host)s, where this backup lies. Choose a machine there, or "
            "download it."
        ),
        "nvram.missing": _("The UEFI variables kept with %(name)s are gone from their host."),
        "nvram.damaged": _(
            "The UEFI variables kept with %(name)s are not what was written: their checksum "
            "differs."
        ),
        "backup.no_nvram": _("Backup %(number)s has no UEFI variables."),
        "backup.file_missing": _(
            "The backup's file is not on its host any more: somebody removed it there. Nothing was "
            "changed. Use another backup, and tell an admin."
        ),
        "backup.in_use": _("A machine is being restored from backup %(number)s. Wait until then."),
        "backup.damaged": _(
            "The backup is not what was written: its checksum differs. Nothing was changed. Use "
            "another backup, and tell an admin."
        ),
        "backup.plan_every": _("Backups are made each day or each week."),
        "backup.plan_also": _("0 to %(limit)s days and weeks can be kept."),
        "backup.downloads": _(
            "%(limit)s backups are being downloaded already. Wait until one is done."
        ),
        "backup.plan_keep": _("1 to %(limit)s backups can be kept."),
        "vm.why.template_on": _("A template is made of a machine that is off. Shut it down first."),
        "vm.why.template_disks": _("A template is made of a machine with one qcow2 disk."),
        "template.not_found": _("There is no such template, or it is not yours to see."),
        "template.name": _("A template's name has 1 to %(limit)s characters."),
        "template.name_taken": _(
            "The team has a template “%(name)s” already. Choose another name, or add a version."
        ),
        "template.description": _("A description has at most 200 characters, in one line."),
        "template.has_children": _(
            "%(count)s machines stand on “%(name)s”: %(machines)s. Delete them first, or keep it."
        ),
        "definition.large": _(
            "Its host's definition of “%(name)s” is too large to be shown here, or is no XML."
        ),
        "guest.nonsense": _(
            "The guest agent in the machine gave an answer that made no sense, so it was not taken."
        ),
        "guest.user": _(
            "A user inside a machine has 1 to 32 letters, digits or . _ - and begins with a letter."
        ),
        "guest.not_frozen": _(
            "The guest agent did not hold the file systems still: the disks are as if the plug had "
            "been pulled."
        ),
        "disc.unknown": _("There is no such disc for you. Choose one from the list."),
        "vm.no_drive": _(
            "“%(name)s” has no CD drive that is empty. It was made without one, or its seed is "
            "still in it: wait until its first boot is over."
        ),
        "vm.no_disc": _("There is no disc in the drive of “%(name)s”."),
        "vm.bin.not_in": _("“%(name)s” does not lie in the recycle bin any more."),
        "vm.bin.name_taken": _(
            "Another machine of the team is called “%(name)s” meanwhile. Choose another name."
        ),
        "vm.bin.days": _("The recycle bin keeps machines for %(minimum)s to %(maximum)s days."),
        "vm.batch_size": _("%(minimum)s to %(maximum)s machines can be made at once."),
        "vm.batch_names_taken": _(
            "%(count)s of these names cannot be used, for the team has such machines already: "
            "%(names)s. Choose another name."
        ),
        "vm.batch_unknown": _("There is no such batch, or it is not yours to see."),
        "vm.why.deleting": _("The machine is being deleted."),
        "vm.why.deleted": _("The machine “%(name)s” has been deleted."),
        "vm.why.shutting_down": _(
            "It is shutting down. Wait, or use “Force off” if the guest does not react."
        ),
        "vm.why.host_down": _("Its host %(host)s cannot be reached. Wait until it is back."),
        "vm.why.runs": _("It runs already."),
        "vm.why.off": _("It is off. Start it first."),
        "vm.why.paused": _("It is suspended. Resume it first."),
        "vm.why.not_paused": _("It is not suspended."),
        "vm.why.crashed": _("It has crashed. Start it again, or force it off."),
        "vm.why.missing": _(
            "Its host does not know it any more. It can only be deleted here, or brought back on "
            "the host."
        ),
        "vm.why.unknown": _("Its state is not known yet."),
        "vm.why.not_saved": _("Its memory is not saved."),
        "vm.why.installing": _(
            "Debian's installer is at work from this disc, which is out when it has ended. Turn "
            "the machine off first to end it now."
        ),
        "vm.why.saved": _(
            "Its memory is saved, and would not fit what you change. Restore it, or discard what "
            "is saved."
        ),
        "keys.unknown": _("Name 1 to %(limit)s keys that a keyboard has."),
        "vm.why.first_boot": _("Its first boot is not over. Start it, and wait until it is."),
        "vm.why.snapshot_uefi": _(
            "It starts by UEFI, whose settings a snapshot cannot hold. Clone it instead."
        ),
        "vm.why.snapshot_format": _(
            "One of its disks is not qcow2 and cannot hold a snapshot. Clone it instead."
        ),
        "vm.why.snapshot_missing": _(
            "Its host does not know this snapshot any more: it was removed by hand. It can only be "
            "deleted here."
        ),
        "vm.why.clone_snapshot_on": _(
            "Its snapshots can be cloned while it is off. Shut it down first, or clone it as it is."
        ),
        "vm.clone_not_linked": _(
            "Its disk stands on no image that a clone could share. Make a full copy."
        ),
        # Moving to another host.
        "vm.why.move_backups": _(
            "Its backups lie on its host and would stay behind. Delete them first, or download "
            "what you need of them."
        ),
        "vm.why.move_template": _(
            "Its disk stands on a template that lies on its host. Make it independent first."
        ),
        "vm.why.move_pool": _(
            "One of its disks is not a file in a storage pool, and cannot be sent to another host."
        ),
        "vm.why.move_tpm": _(
            "What its TPM keeps goes along only while it runs. Start it, and move it then."
        ),
        "vm.why.move_here": _("It is on %(host)s already."),
        "vm.why.move_host": _move_host,
        "vm.why.move_leaving": _(
            "What it has left on %(host)s is still being deleted. Wait until that is over."
        ),
        "vm.why.move_stopped": _(
            "It does not run any more, so it was not moved. Move it as it is now."
        ),
        "vm.why.move_started": _(
            "It was started meanwhile, so it was not moved. Move it while it runs."
        ),
        "vm.move_unknown": _("There is no such host. Choose one from the list."),
        "vm.move_differs": _(
            "The copy of %(name)s on %(host)s is not what was sent. The machine stays where it is; "
            "try again."
        ),
        "timeline.move.asked": _("Move to host %(host)s was asked for"),
        "vm.why.has_snapshots": _(
            "It has snapshots, which hold its disks as they were. Delete them first."
        ),
        # Settings.
        "hardware.disk_unknown": _("The machine has no such disk."),
        "hardware.nic_unknown": _("The machine has no such network card."),
        "hardware.boot_unknown": _(
            "Name at least one disk or network card of the machine, each once."
        ),
        "hardware.boot_no_pxe": _(
            "No server boots machines on that card's network. An admin can say on the host's page "
            "that one answers there."
        ),
        "hardware.first_disk": _("The first disk holds its system and stays. Delete the machine."),
        "hardware.disks_many": _("A machine has at most %(limit)s disks. Remove one first."),
        "hardware.nics_many": _("A machine has at most %(limit)s network cards. Remove one first."),
        "hardware.disk_size": _(
            "The disk can have %(minimum)s to %(maximum)s GiB: a disk only ever grows."
        ),
        "hardware.pool_full": _(
            "The storage of its host has %(free_gib)s GiB left for disks. Choose less, or ask an "
            "admin."
        ),
        "hardware.host_memory": _(
            "Host %(host)s has %(free_mib)s MiB of memory left. Choose less, or stop a machine."
        ),
        "hardware.host_vcpus": _(
            "Host %(host)s has %(free)s vCPUs left. Choose fewer, or stop a machine."
        ),
        # Snapshots.
        "snapshot.not_found": _("There is no such snapshot of this machine."),
        "snapshot.name_wrong": _(
            "A snapshot's name begins with a letter and has at most 63 letters, digits and "
            ". _ + -, and no spaces."
        ),
        "snapshot.name_taken": _(
            "The machine has a snapshot “%(name)s” already. Choose another name."
        ),
        "snapshot.no_memory": _("It is off: it has no memory to keep. Take it without."),
        "vm.confirm_name": _(
            "“%(name)s” is running. Type its name to delete it, or shut it down first."
        ),
        "vm.crashed": _("It has crashed: its QEMU ended by itself. Start it again."),
        "vm.missing": _(
            "Its host answers, but does not know this machine any more. Ask an admin: it may have "
            "been removed or moved by hand."
        ),
        # How the first boot went.
        "vm.no_address": _(
            "The guest has not asked for an address. Look at its console: its network may be set "
            "up by hand."
        ),
        "vm.first_boot_failed": _("cloud-init reported errors: %(excerpt)s"),
        "vm.first_boot_silent": _(
            "cloud-init has not reported for %(minutes)s minutes. Look at the console to see how "
            "far it came."
        ),
        "vm.off_in_first_boot": _(
            "The machine was switched off before its first boot was over. It goes on when it is "
            "started."
        ),
        "vm.shutdown_ignored": _(
            "The guest has not stopped within %(minutes)s minutes of being asked. Use “Force off” "
            "if it must stop."
        ),
        # What a job waits for.
        "waiting.turn": _("Waiting until others of its batch have booted"),
        "waiting.image": _("Waiting until the image is on the host"),
        "waiting.volume": _("Waiting until the host has ended an earlier copy"),
        "waiting.address": _("Waiting for the guest to ask for an address"),
        "waiting.firstboot": _("Waiting for cloud-init inside the guest"),
        "waiting.guest": _("Waiting for the guest to stop"),
        "waiting.clone": _("Waiting until its disks are copied"),
        "waiting.host": _("Waiting until the host can be reached again"),
        "vm.no_screenshot": _("There is no picture of its screen yet."),
        # The timeline.
        "timeline.requested": _("Creation was requested"),
        "timeline.asked": _("Asked: %(task)s"),
        "transfer.is_theirs": _("“%(name)s” belongs to %(who)s already."),
        "transfer.is_in_team": _("“%(name)s” is in the team %(team)s already."),
        "transfer.owner_not_in_team": _(
            "%(who)s cannot have machines in the team %(team)s. Take them in as a member first."
        ),
        "transfer.owner_only": _("Only the owner or an admin can move it to another team."),
        "transfer.changed": _(
            "“%(name)s” has changed hands or was deleted meanwhile. Look at it again."
        ),
        "transfer.busy": _("A job works on “%(name)s”. Wait until it has ended, then try again."),
        "transfer.gone": _(
            "This offer was withdrawn, has ended or was taken. Ask for another if you want it."
        ),
        "timeline.edited": _("Changed: %(what)s"),
        "timeline.outside.defined": _("Its definition was changed on its host, not from here"),
        "timeline.outside.device_added": _("A device was plugged in on its host, not from here"),
        "timeline.outside.device_removed": _("A device was taken out on its host, not from here"),
        "timeline.owner": _("Its owner was %(before)s and is %(after)s now"),
        "timeline.job.succeeded": _("Done: %(task)s"),
        "timeline.job.failed": _("Failed: %(task)s"),
        "timeline.job.cancelled": _("Cancelled: %(task)s"),
        "timeline.first_boot.done": _("The guest has finished its first boot"),
        "timeline.first_boot.failed": _("The guest's first boot reported errors"),
        "timeline.first_boot.silent": _("The guest did not report on its first boot"),
        "timeline.state.running": _state_line(
            gettext_noop("Runs"), gettext_noop("Runs: started outside of KVMWeb")
        ),
        "timeline.state.paused": _state_line(
            gettext_noop("Suspended"), gettext_noop("Suspended outside of KVMWeb")
        ),
        "timeline.state.shutoff": _state_line(
            gettext_noop("Stopped"), gettext_noop("Stopped by the guest or outside of KVMWeb")
        ),
        "timeline.state.crashed": _("Crashed"),
        "timeline.state.missing": _("Its host does not know it any more"),
        "timeline.state.unknown": _("Its state is not known"),
        "timeline.state.rebooted": _("The guest restarted"),
        "timeline.clone.requested": _("Asked: clone of %(source)s"),
        "timeline.clone.lent": _("Asked: clone it as “%(name)s”"),
        "timeline.snapshot.asked": _("Asked: %(task)s “%(name)s”"),
        "timeline.snapshot.taken": _("Snapshot “%(name)s” was taken"),
        "timeline.snapshot.reverted": _("Went back to snapshot “%(name)s”"),
        "timeline.snapshot.deleted": _("Snapshot “%(name)s” was deleted"),
        "timeline.backup.taken": _("Backup %(number)s was taken"),
        "timeline.backup.restoring": _("Asked: restore backup %(number)s over it"),
        "timeline.backup.restored": _("Backup %(number)s was restored"),
        "timeline.backup.made_from": _("Made from backup %(number)s of %(name)s"),
        "timeline.template.asked": _("Asked: make template “%(name)s” of it"),
        "timeline.template.made": _("Became template “%(name)s”"),
        "timeline.binned": _("Moved to the recycle bin"),
        "timeline.taken_back": _("Restored from the recycle bin"),
        "timeline.hardware.changed": _("Changed: %(what)s"),
        "timeline.hardware.in_force": _(
            "From this start on: %(vcpus)s vCPU, %(memory_mib)s MiB of memory"
        ),
        "timeline.adopted": _("Taken in again from its host"),
        "timeline.moved": _("Moved from host %(was)s to host %(host)s"),
    }
)
