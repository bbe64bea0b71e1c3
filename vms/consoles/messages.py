"""What the console's error codes say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from accounts import messages


def _opened(params: Mapping[str, Any]) -> str:
    if params.get("mode") == "view":
        return gettext("Console opened, to view only")
    return gettext("Console opened")


def _closed(params: Mapping[str, Any]) -> str:
    return {
        "stopped": gettext("Console closed: the machine stopped"),
        "revoked": gettext("Console closed: access was taken back"),
        "signed_out": gettext("Console closed: signed out"),
        "idle": gettext("Console closed: nothing was done for long"),
    }.get(str(params.get("reason")), gettext("Console closed"))


def _taken(params: Mapping[str, Any]) -> str:
    if params.get("before"):
        return gettext("Console control taken from %(before)s") % params
    return gettext("Console control taken")


def _invited(params: Mapping[str, Any]) -> str:
    if params.get("mode") == "view":
        return gettext("Invite to view the console made")
    return gettext("Invite to control the console made")


def _joined(params: Mapping[str, Any]) -> str:
    if params.get("mode") == "view":
        return gettext("Joined the console by an invite, to view only")
    return gettext("Joined the console by an invite")


def _recording(params: Mapping[str, Any]) -> str:
    if params.get("kind_of_console") == "serial":
        return gettext("Recording of the serial line started")
    return gettext("Recording of the screen started")


def _recorded(params: Mapping[str, Any]) -> str:
    return {
        "full": gettext("Recording ended: it is as large as it may be"),
        "stopped": gettext("Recording ended: the machine stopped"),
        "left": gettext("Recording ended: nobody looked any more"),
        "lost": gettext("Recording ended: the site was restarted"),
        "disk": gettext("Recording ended: the site's disk takes no more"),
        "stopped_by": gettext("Recording stopped"),
    }.get(str(params.get("reason")), gettext("Recording ended"))


messages.register(
    {
        "timeline.console.recording": _recording,
        "timeline.console.recorded": _recorded,
        "timeline.console.recording_deleted": _("Recording deleted"),
        "console.recording_never": _("Consoles are not recorded on this site."),
        "console.recording_runs": _("This console is being recorded already."),
        "console.recording_runs_still": _(
            "This recording is still being made. Stop it, then delete it."
        ),
        "console.recordings_full": _(
            "There is no room for another recording now. Wait until one has ended, or ask an admin "
            "for more room."
        ),
        "console.no_recording": _(
            "There is no such recording: it was deleted, or it is not yours to see."
        ),
        "timeline.console.opened": _opened,
        "timeline.console.closed": _closed,
        "timeline.console.taken": _taken,
        "timeline.console.given": _("Console control handed to %(to)s"),
        "timeline.console.released": _("Console control put down"),
        "timeline.console.invited": _invited,
        "timeline.console.invite_revoked": _("Invite to the console taken back"),
        "timeline.console.joined": _joined,
        "console.held": _(
            "%(name)s has control of this console. Ask for it, or watch until it is free."
        ),
        "console.not_holder": _(
            "You do not have control of this console, so you cannot hand it on."
        ),
        "console.not_here": _("%(name)s is not at this console now. Open the console first."),
        "console.views_only": _(
            "%(name)s may only view this console. Invite them to control, then hand it over."
        ),
        "console.person": _("There is nobody “%(name)s” at this console."),
        "console.invite": _(
            "This invite is not valid: it ended, was taken back, or was not copied whole. Ask "
            "who sent it for a new one."
        ),
        "console.invite_used": _(
            "This invite was for one person, and somebody has used it. Ask who sent it for a new "
            "one."
        ),
        "console.invite_hours": _("An invite is valid for 1 to %(most)s hours."),
        "console.invites_many": _(
            "This console has %(most)s invites already. Take some back, then make a new one."
        ),
        "console.per_address": _(
            "%(most)s consoles are open from your network already. Close one, then open this one."
        ),
        "console.kind": _("There is no such console here. Choose one of: %(kinds)s."),
        "console.mode": _("A console is opened as “view” or as “control”."),
        "console.not_running": _(
            "%(name)s is not running, so it has no screen. Start it, then open its console."
        ),
        "console.ticket": _(
            "This console ticket was used already, is too old, or was taken back. Ask for a new "
            "one."
        ),
        "console.origin": _("Consoles open from this site's own pages only."),
        "console.target": _(
            "The screen of %(name)s cannot be reached on its host. Try again in a moment; if it "
            "stays so, tell an admin (reference %(ref)s)."
        ),
        "console.ssh": _(
            "%(host)s did not open the screen of %(name)s to this site. Try again in a moment; if "
            "it stays so, tell an admin (reference %(ref)s): the account by which this site signs "
            "in there must be allowed to open machines' screens, and its sshd to forward them."
        ),
        "console.next_start": _(
            "The screen of %(name)s opens here after it was shut down and started once: %(host)s "
            "lets this site reach no screens by socket, and this machine still has one (reference "
            "%(ref)s). The serial console works now."
        ),
        "console.no_password": _(
            "The screen of %(name)s asks for no password on %(host)s, so nobody could tell whose "
            "it is, and it is not shown. Shut the machine down and start it here: then it has one "
            "(reference %(ref)s)."
        ),
        "console.wrong_screen": _(
            "What answers where %(name)s should show its screen on %(host)s is not that machine: "
            "nothing of it was shown. Try again in a moment; if it stays so, tell an admin "
            "(reference %(ref)s)."
        ),
        "console.tls": _(
            "%(host)s is connected by TLS, which carries no screens. Use the serial console, or "
            "ask an admin to connect the host by SSH."
        ),
        "console.too_many": _(
            "More than %(per_minute)s consoles were asked for within a minute. Wait a little."
        ),
        "console.per_user": _(
            "You have %(most)s consoles open already. Close one, then open this one."
        ),
        "console.per_vm": _("%(most)s people look at this machine already. Try again later."),
    }
)
