"""What the codes of published ports say to a person."""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _

from accounts import messages

messages.register(
    {
        "port.off": _("This site publishes no ports. An admin can switch it on."),
        "port.not_found": _("There is no such published port of this machine."),
        "port.wrong": _("Type a TCP port: a whole number from 1 to 65535."),
        "port.taken": _("Port %(port)s of this machine is published already."),
        "port.note_wrong": _("A note is one line of at most %(limit)s characters."),
        "port.full": _(
            "All ports that this site may use are taken. Close one that nobody needs, or ask an "
            "admin for more."
        ),
        "port.why.range": _(
            "This site does not use that port any more. Close it and publish it again."
        ),
        "port.why.off": _("The machine does not run."),
        "port.why.nobody": _(
            "The machine was given away, or who opened the port may not change the machine any "
            "more. Open it again if it is still wanted."
        ),
        "port.why.tls": _(
            "The machine's host is connected by TLS, which carries no ports. An admin can connect "
            "the host by SSH."
        ),
        "port.why.elsewhere": _(
            "The network of host %(host)s is not on the site's machine. An admin can connect the "
            "host by SSH."
        ),
        "port.why.no_network": _(
            "None of its network cards is on a network whose addresses libvirt gives out. A "
            "machine on a bridge is reached at its own address."
        ),
        "port.why.no_address": _(
            "Its host has given the machine no IPv4 address yet. The guest asks for one by DHCP."
        ),
        "port.why.not_its_own": _(
            "Another machine answers at its address, so nobody is let through. Restart the "
            "machine's network."
        ),
        "port.why.silent": _(
            "The machine refused the last connection or did not answer. Look whether the service "
            "runs in the guest and its firewall lets it in."
        ),
        "port.why.host": _("The machine's host did not answer in time. It is tried again."),
        "port.why.forwarding": _(
            "The SSH server of host %(host)s forwards no ports. An admin can allow it there "
            "(AllowTcpForwarding, PermitOpen)."
        ),
        "port.why.taken": _(
            "Another program uses this port of the site. Close it and publish it again, which "
            "takes another."
        ),
        "timeline.port.published": _("Port %(port)s was published as %(public)s"),
        "timeline.port.opened": _("Published port %(port)s was opened again"),
        "timeline.port.closed": _("Published port %(port)s was closed"),
    }
)
