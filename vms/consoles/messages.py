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


messages.register(
    {
        "timeline.console.opened": _opened,
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
