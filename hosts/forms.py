"""The inputs of the hosts' admin pages. What is allowed is decided by ``hosts.services``."""

from __future__ import annotations

from django import forms
from django.utils.translation import gettext_lazy as _

from hosts.models import Host, Pool

RATIO_MAX = 64.0


class HostForm(forms.Form):
    """A host is named by the parts of its address; a libvirt URI is made from them."""

    name = forms.SlugField(
        label=_("Name"), max_length=63, help_text=_("Short, as people should see it: “host-a”.")
    )
    transport = forms.ChoiceField(label=_("Reached by"), choices=Host.Transport.choices)
    address = forms.CharField(
        label=_("Address"),
        required=False,
        max_length=253,
        help_text=_("A host name or an IP address."),
    )
    port = forms.IntegerField(
        label=_("Port"),
        required=False,
        min_value=1,
        max_value=65535,
        help_text=_("Only when it is not the usual one (SSH 22, TLS 16514)."),
    )
    username = forms.CharField(
        label=_("User"),
        required=False,
        max_length=32,
        help_text=_("A user of that host who is in its group libvirt."),
    )
    ssh_host_key = forms.CharField(
        label=_("SSH host key"),
        required=False,
        widget=forms.Textarea(attrs={"rows": 2, "spellcheck": "false"}),
        help_text=_(
            "The public host key, as “ssh-keyscan” prints it. Compare it with what the host "
            "itself shows; the site talks to nobody else."
        ),
    )
    socket_path = forms.CharField(
        label=_("Socket"),
        required=False,
        max_length=107,
        help_text=_("For a libvirt socket on this machine: its path."),
    )


class LimitsForm(forms.Form):
    """How much of a host may be promised to machines."""

    vcpu_ratio = forms.FloatField(
        label=_("vCPUs for each processor"),
        min_value=0.1,
        max_value=RATIO_MAX,
        help_text=_("16 means: sixteen vCPUs of running machines for each processor of the host."),
    )
    memory_reserve_mib = forms.IntegerField(
        label=_("Memory kept for the host"),
        min_value=0,
        max_value=2**31 - 1,
        help_text=_("In MiB. The rest may be promised to running machines; it is never shared."),
    )
    disk_ratio = forms.FloatField(
        label=_("Disk space promised for each free GiB"),
        min_value=0.1,
        max_value=RATIO_MAX,
        help_text=_(
            "Disks grow as they are written. 3 means: machines may be promised three times the "
            "space that is free. 1 promises no more than there is."
        ),
    )
    default_pool = forms.ModelChoiceField(
        label=_("Pool for new disks"), queryset=Pool.objects.none(), empty_label=None
    )

    def __init__(self, *args: object, host: Host, **kwargs: object) -> None:
        kwargs.setdefault(
            "initial",
            {
                "vcpu_ratio": host.vcpu_ratio,
                "memory_reserve_mib": host.memory_reserve_mib,
                "disk_ratio": host.disk_ratio,
                "default_pool": host.pools.filter(is_default=True).first(),
            },
        )
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        field = self.fields["default_pool"]
        if isinstance(field, forms.ModelChoiceField):
            field.queryset = host.pools.filter(active=True)
