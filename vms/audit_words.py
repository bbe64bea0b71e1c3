"""What the audit's verbs about hosts, images, machines and consoles are called."""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _

from accounts import audit_words

audit_words.register(
    {
        "console.close": _("Closed a console"),
        "console.invite": _("Invited to a console"),
        "console.invite_revoke": _("Revoked an invitation to a console"),
        "console.join": _("Joined a console by invitation"),
        "console.open": _("Opened a console"),
        "console.control_given": _("Handed a console's control over"),
        "console.control_released": _("Put a console's control down"),
        "console.control_taken": _("Took a console's control"),
        "console.record": _("Began to record a console"),
        "console.record_stop": _("Stopped a recording"),
        "console.recording_delete": _("Deleted a recording"),
        "host.acceleration": _("Changed how a host runs machines"),
        "site.bin_days": _("Changed how long the recycle bin keeps"),
        "template.current": _("Chose a template's current version"),
        "template.delete_version": _("Deleted a version of a template"),
        "template.public": _("Changed who sees a template"),
        "vm.backup_plan": _("Changed a machine's backup plan"),
        "vm.create_batch": _("Asked for several machines"),
        "vm.delete_backup": _("Deleted a backup"),
        "flavor.add": _("Added a size"),
        "flavor.delete": _("Deleted a size"),
        "flavor.edit": _("Changed a size"),
        "host.add": _("Added a host"),
        "host.backup_place": _("Changed where a host's backups go"),
        "host.edit": _("Changed how a host is reached"),
        "host.network_pxe": _("Said whether a network boots machines"),
        "host.limits": _("Changed what a host may carry"),
        "host.mode": _("Changed what a host takes"),
        "host.remove": _("Removed a host"),
        "image.add": _("Added an image"),
        "image.edit": _("Changed an image"),
        "image.publish": _("Published an image"),
        "image.restore": _("Brought an image back"),
        "image.retire": _("Retired an image"),
        "image.unpublish": _("Took an image back from people"),
        "image.upload_cancel": _("Cancelled an upload"),
        "quota.recount": _("Corrected what a machine counts"),
        "lease.clear_rule": _("Took a rule of machines' time away"),
        "lease.set_idle": _("Changed the rule for machines that nobody uses"),
        "lease.set_rule": _("Changed a rule of machines' time"),
        "vm.adopt": _("Took a machine over that had no row"),
        "vm.change_owner": _("Changed a machine's owner"),
        "vm.decline": _("Declined a machine"),
        "vm.download_backup": _("Downloaded a backup"),
        "vm.edit": _("Changed a machine"),
        "vm.keep": _("Kept a machine that nobody used"),
        "vm.extend": _("Gave a machine more time"),
        "vm.offer": _("Offered a machine"),
        "vm.set_end": _("Changed the end of a machine"),
        "vm.take_over": _("Found a machine on another host"),
        "vm.transfer": _("Gave a machine to another owner or team"),
        "vm.withdraw_offer": _("Withdrew the offer of a machine"),
    }
)
