"""What joins the hosts, and what keeps everything within the lab.

- ``lab0``: each host's link to a bridge in a namespace of its own (the *switch*), over which
  hosts migrate machines to each other. Nothing else is on that bridge.
- ``site0``: a link to this machine, on which a host answers ssh (and libvirt's TLS, where a test
  has it listen) and never speaks first. A guest's packet, or one that a host's own program sends,
  is dropped there.

No host has a default route, so there is no third way.
"""

from __future__ import annotations

from .layout import SITE_LINK, SWITCH_LINK, Host, Lab
from .namespaces import make_namespace
from .shell import run

BRIDGE = "br0"
SSH_PORT = 22
TLS_PORT = 16514  # libvirt's
CUT_TABLE = "kvmlab_cut"

# Conntrack knows which side began a connection; priority -10 comes before libvirt's own rules.
SITE_RULES = f"""
table inet kvmlab
delete table inet kvmlab
table inet kvmlab {{
  chain input {{
    type filter hook input priority -10; policy accept;
    iifname "{SITE_LINK}" tcp dport {{ {SSH_PORT}, {TLS_PORT} }} accept
    iifname "{SITE_LINK}" drop
  }}
  chain output {{
    type filter hook output priority -10; policy accept;
    oifname "{SITE_LINK}" ct direction reply ct state established,related accept
    oifname "{SITE_LINK}" drop
  }}
  chain forward {{
    type filter hook forward priority -10; policy accept;
    iifname "{SITE_LINK}" drop
    oifname "{SITE_LINK}" drop
  }}
}}
"""


def build_switch(lab: Lab) -> None:
    name = lab.switch_namespace
    make_namespace(name)
    if run(["ip", "-n", name, "link", "show", BRIDGE], check=False).returncode:
        run(["ip", "-n", name, "link", "add", BRIDGE, "type", "bridge"])
    run(["ip", "-n", name, "link", "set", BRIDGE, "up"])


def join(host: Host) -> None:
    """Join the host to the switch and to this machine. Harmless when it is joined."""
    # The rules come first: a link never exists without them.
    run(_nft(host, "-f", "-"), stdin=SITE_RULES)
    _join_site(host)
    _join_switch(host)


def leave(host: Host) -> None:
    # By hand, though the links would go with the namespace: the kernel does that a while later.
    run(["ip", "link", "del", host.site_link], check=False)
    run(["ip", "-n", host.namespace, "link", "del", SWITCH_LINK], check=False)


def cut_ssh(host: Host, *, hang: bool) -> None:
    verdict = "drop" if hang else "meta l4proto tcp reject with tcp reset"
    rules = f"""
table inet {CUT_TABLE} {{
  chain input {{
    type filter hook input priority -20; policy accept;
    iifname "{SITE_LINK}" {verdict}
  }}
}}
"""
    run(_nft(host, "-f", "-"), stdin=rules)


def mend_ssh(host: Host) -> None:
    run(_nft(host, "delete", "table", "inet", CUT_TABLE), check=False)


def _join_site(host: Host) -> None:
    here, there = host.site_link, host.namespace
    if not run(["ip", "link", "show", here], check=False).returncode:
        return
    run(["ip", "link", "add", here, "type", "veth", "peer", "name", SITE_LINK, "netns", there])
    for prefix, link, address in (
        (["ip"], here, host.site_address),
        (["ip", "-n", there], SITE_LINK, host.ssh_address),
    ):
        # No IPv6 on this link: a link-local address would be one more way to guard.
        run([*prefix, "link", "set", link, "addrgenmode", "none"])
        run([*prefix, "addr", "add", f"{address}/30", "dev", link])
        run([*prefix, "link", "set", link, "up"])


def _join_switch(host: Host) -> None:
    there, switch = host.namespace, host.lab.switch_namespace
    if not run(["ip", "-n", there, "link", "show", SWITCH_LINK], check=False).returncode:
        return
    port = f"port-{host.name}"
    run(
        [
            *("ip", "-n", there, "link", "add", SWITCH_LINK),
            *("type", "veth", "peer", "name", port, "netns", switch),
        ]
    )
    run(["ip", "-n", switch, "link", "set", port, "master", BRIDGE, "up"])
    run(["ip", "-n", there, "addr", "add", f"{host.switch_address}/24", "dev", SWITCH_LINK])
    run(["ip", "-n", there, "link", "set", SWITCH_LINK, "up"])


def _nft(host: Host, *argv: str) -> list[str]:
    return ["ip", "netns", "exec", host.namespace, "nft", *argv]
