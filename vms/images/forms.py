"""What admins type on the pages of images and sizes. The rules live in the services."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from django import forms
from django.utils.translation import gettext_lazy as _

from accounts.templatetags.ui import gib
from vms.flavors import Size
from vms.images import catalogue
from vms.images.details import Details
from vms.images.poolvolumes import Listed
from vms.models import Flavor, Image


class DetailsForm(forms.Form):
    name = forms.CharField(label=_("Name"), max_length=64, help_text=_("As people choose it."))
    os_id = forms.CharField(
        label=_("Operating system"),
        max_length=32,
        required=False,
        help_text=_("libosinfo's short name, for example debian12 or ubuntu24.04."),
        widget=forms.TextInput(attrs={"autocapitalize": "none", "spellcheck": "false"}),
    )
    version = forms.CharField(label=_("Version"), max_length=32, required=False)
    description = forms.CharField(label=_("Description"), max_length=200, required=False)
    default_user = forms.CharField(
        label=_("First user"),
        max_length=32,
        required=False,
        help_text=_("The name that is suggested for it; each person may choose another."),
        widget=forms.TextInput(attrs={"autocapitalize": "none", "spellcheck": "false"}),
    )
    min_memory_mib = forms.IntegerField(label=_("Least memory (MiB)"), min_value=0, required=False)
    recommended_memory_mib = forms.IntegerField(
        label=_("Recommended memory (MiB)"), min_value=0, required=False
    )
    min_disk_gib = forms.IntegerField(label=_("Least disk (GiB)"), min_value=0, required=False)
    recommended_disk_gib = forms.IntegerField(
        label=_("Recommended disk (GiB)"), min_value=0, required=False
    )
    has_cloud_init = forms.BooleanField(
        label=_("Reads a first-boot configuration (cloud-init)"), required=False, initial=True
    )

    def about(self) -> Details:
        """Empty text stays empty; an empty number or OS takes the default."""
        data = dict(self.cleaned_data)
        values: dict[str, Any] = {name: data.get(name) for name in DetailsForm.base_fields}
        values["os_id"] = values["os_id"] or None
        return Details(**values)


class EditForm(DetailsForm):
    @classmethod
    def of(cls, image: Image) -> EditForm:
        return cls(initial={name: getattr(image, name) for name in DetailsForm.base_fields})


class UrlForm(DetailsForm):
    url = forms.CharField(
        label=_("Address of the image"),
        max_length=500,
        widget=forms.URLInput(attrs={"placeholder": "https://…/disk.qcow2"}),
        help_text=_(
            "qcow2, raw, ISO, VMDK, VDI or OVA, unpacked, by https. It is inspected before it is "
            "ready; VMDK and VDI disks are converted to qcow2."
        ),
    )
    checksum = forms.CharField(
        label=_("Checksum"),
        max_length=140,
        required=False,
        help_text=_("SHA-256 or SHA-512, as the vendor publishes it."),
        widget=forms.TextInput(attrs={"autocapitalize": "none", "spellcheck": "false"}),
    )
    checksum_url = forms.CharField(
        label=_("Or the address of the vendor's checksum file"),
        max_length=500,
        required=False,
        widget=forms.URLInput(attrs={"placeholder": "https://…/SHA256SUMS"}),
    )
    publish = forms.BooleanField(
        label=_("Publish it when it is ready"), required=False, initial=True
    )
    field_order = ("url", "checksum", "checksum_url", "name", "os_id")


class VolumeForm(DetailsForm):
    volume = forms.ChoiceField(
        label=_("Disk in a storage pool"),
        error_messages={"required": _("Choose a disk.")},
        help_text=_(
            "qcow2, raw, ISO, VMDK, VDI or OVA. It is copied, inspected and, where needed, "
            "converted to qcow2; the disk in the pool stays as it is."
        ),
    )
    publish = forms.BooleanField(
        label=_("Publish it when it is ready"), required=False, initial=True
    )
    field_order = ("volume", "name", "os_id")

    def __init__(self, *args: Any, volumes: Sequence[Listed], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._known = {str(one.id): one for one in volumes if not one.used_by}
        groups: dict[str, list[tuple[str, str]]] = {}
        for key, one in self._known.items():
            text = f"{one.volume} · {one.format} · {gib(one.size_bytes)}"
            groups.setdefault(f"{one.host} · {one.pool}", []).append((key, text))
        field = cast("forms.ChoiceField", self.fields["volume"])
        field.choices = [("", _("Choose a disk")), *groups.items()]

    @property
    def has_choice(self) -> bool:
        return bool(self._known)

    def chosen(self) -> Listed:
        return self._known[self.cleaned_data["volume"]]


class CatalogueForm(forms.Form):
    entry = forms.ChoiceField(
        label=_("Image"),
        widget=forms.RadioSelect,
        error_messages={"required": _("Choose an image.")},
    )
    name = forms.CharField(
        label=_("Name"), max_length=64, required=False, help_text=_("Left empty: its own.")
    )
    checksum = forms.CharField(
        label=_("Checksum"),
        max_length=140,
        required=False,
        help_text=_("Left empty, the vendor's checksum file is read."),
        widget=forms.TextInput(attrs={"autocapitalize": "none", "spellcheck": "false"}),
    )
    publish = forms.BooleanField(
        label=_("Publish it when it is ready"), required=False, initial=True
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        entry = cast("forms.ChoiceField", self.fields["entry"])
        entry.choices = [(one.key, one.name) for one in catalogue.entries()]


class FlavorForm(forms.Form):
    name = forms.CharField(label=_("Name"), max_length=32)
    vcpus = forms.IntegerField(label=_("vCPUs"), min_value=1)
    memory_mib = forms.IntegerField(label=_("Memory (MiB)"), min_value=1)
    disk_gib = forms.IntegerField(label=_("Disk (GiB)"), min_value=1)
    description = forms.CharField(label=_("Description"), max_length=128, required=False)
    position = forms.IntegerField(
        label=_("Place in the list"), min_value=0, initial=0, help_text=_("Small numbers first.")
    )
    published = forms.BooleanField(label=_("People may choose it"), required=False, initial=True)

    @classmethod
    def of(cls, flavor: Flavor) -> FlavorForm:
        return cls(initial={name: getattr(flavor, name) for name in cls.base_fields})

    def size(self) -> Size:
        return Size(**self.cleaned_data)
