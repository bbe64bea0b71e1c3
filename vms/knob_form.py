"""The create page's advanced part, typed: it makes a ``vms.knobs.Wish``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from vms import answers, knobs
from vms.knobs import CardWish, DiskWish, Wish
from vms.models import Image

# Rows that the page offers beyond the first; the API takes more.
MORE_DISKS, MORE_CARDS, MORE_DISCS = 4, 3, 2
YES_NO = (("yes", _("yes")), ("no", _("no")))
LEAVE_OUT = (
    ("rng", _("Random number generator")),
    ("balloon", _("Memory balloon")),
    ("agent", _("Channel for the guest agent")),
)
BOOT_ORDERS = (
    ("disk", _("Disk")),
    ("disk network", _("Disk, then network")),
    ("network disk", _("Network (PXE), then disk")),
    ("network", _("Network (PXE) only")),
    ("disc disk", _("Disc, then disk")),
    ("disc disk network", _("Disc, disk, then network")),
)


def _word(words: tuple[str, ...]) -> forms.ChoiceField:
    """One of libvirt's or QEMU's own words: they are the same in every language."""
    return forms.ChoiceField(choices=[("", ""), *((word, word) for word in words)], required=False)


def _yes_or_no() -> forms.ChoiceField:
    return forms.ChoiceField(choices=[("", ""), *YES_NO], required=False)


def _number() -> forms.IntegerField:
    return forms.IntegerField(required=False, min_value=1)


class KnobForm(forms.Form):
    """Empty: as the operating system wants it. A field's name is that of its problem in
    ``vms.knobs.settle``."""

    os_id = forms.CharField(max_length=48, required=False)
    machine = _word(knobs.MACHINES)
    firmware = _word(knobs.FIRMWARES)
    tpm = _yes_or_no()
    cpu_mode = _word(knobs.CPU_MODES)
    cpu_model = forms.CharField(max_length=64, required=False)
    sockets, cores, threads = _number(), _number(), _number()
    video = _word(knobs.VIDEOS)
    watchdog = _word(knobs.WATCHDOGS)
    clock = _word(knobs.CLOCKS)
    hyperv = _yes_or_no()
    disc_bus = _word(knobs.DISC_BUSES)
    leave_out = forms.MultipleChoiceField(choices=LEAVE_OUT, required=False)
    boot = forms.ChoiceField(choices=[("", ""), *BOOT_ORDERS], required=False)
    autostart = forms.BooleanField(required=False)
    answers_kind = _word(answers.KINDS)
    answers = forms.CharField(max_length=2 * answers.MAX_BYTES, required=False, strip=False)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.offered = knobs.offered()
        self.isos: list[Image] = []
        if not self.offered.pxe:
            offered = [one for one in BOOT_ORDERS if "network" not in one[0]]
            self.fields["boot"] = forms.ChoiceField(choices=[("", ""), *offered], required=False)
        for name in self._disk_names():
            if name != "disk":
                self.fields[f"{name}_gib"] = _number()
            self.fields[f"{name}_bus"] = _word(knobs.BUSES)
            self.fields[f"{name}_cache"] = _word(knobs.CACHES)
            self.fields[f"{name}_discard"] = _word(knobs.DISCARDS)
            self.fields[f"{name}_io"] = _word(knobs.IOS)
            self.fields[f"{name}_format"] = _word(knobs.FORMATS)
        for name in self._card_names():
            if name != "nic":
                self.fields[f"{name}_network"] = forms.CharField(max_length=64, required=False)
            self.fields[f"{name}_model"] = _word(knobs.CARD_MODELS)
            self.fields[f"{name}_mac"] = forms.CharField(max_length=40, required=False)
        for number in range(1, MORE_DISCS + 1):
            self.fields[f"disc{number}"] = forms.CharField(max_length=20, required=False)

    @staticmethod
    def _disk_names() -> list[str]:
        return ["disk", *(f"disk{number}" for number in range(2, MORE_DISKS + 2))]

    @staticmethod
    def _card_names() -> list[str]:
        return ["nic", *(f"nic{number}" for number in range(2, MORE_CARDS + 2))]

    # --- for the template ---------------------------------------------------------------------

    def disk_rows(self) -> Iterator[dict[str, Any]]:
        for number, name in enumerate(self._disk_names(), start=1):
            parts = ("bus", "cache", "discard", "io", "format")
            # The first disk's size stands under "Size": a second input of its name would win.
            yield self._row(name, number, parts if number == 1 else ("gib", *parts))

    def card_rows(self) -> Iterator[dict[str, Any]]:
        for number, name in enumerate(self._card_names(), start=1):
            yield self._row(name, number, ("network", "model", "mac"))

    def disc_rows(self) -> Iterator[dict[str, Any]]:
        for number in range(1, MORE_DISCS + 1):
            yield {"number": number, "field": self[f"disc{number}"]}

    def _row(self, name: str, number: int, parts: tuple[str, ...]) -> dict[str, Any]:
        fields = {part: self[f"{name}_{part}"] for part in parts if f"{name}_{part}" in self.fields}
        used = any(field.value() or field.errors for field in fields.values())
        return {"number": number, "used": used, **fields}

    @property
    def lacking(self) -> set[str]:
        """Choices that no host has."""
        has = self.offered
        every = {*knobs.FIRMWARES, *knobs.MACHINES, *knobs.VIDEOS}
        lacking = every - {*has.firmwares, *has.machines, *has.videos}
        return lacking if has.kvm else lacking | {"host-passthrough"}

    @property
    def lacking_tpm(self) -> set[str]:
        return set() if self.offered.tpm else {"yes"}

    # --- what it means --------------------------------------------------------------------------

    def wish(self) -> Wish:
        """Of what is valid so far: a field that is not counts as not said."""
        data = self.cleaned_data

        def text(name: str) -> str:
            return str(data.get(name) or "")

        def yes(name: str) -> bool | None:
            return {"yes": True, "no": False}.get(text(name))

        left_out = set(data.get("leave_out") or ())
        given: dict[str, Any] = {name: text(name) for name in _TEXTS}
        given |= {name: data.get(name) for name in ("sockets", "cores", "threads")}
        given |= {name: False for name, _label in LEAVE_OUT if name in left_out}
        return Wish(
            **given,
            tpm=yes("tpm"),
            hyperv=yes("hyperv"),
            disk=self._disk("disk"),
            disks=tuple(
                self._disk(name) for name in self._disk_names()[1:] if data.get(f"{name}_gib")
            ),
            card=CardWish(model=text("nic_model"), mac=text("nic_mac")),
            cards=tuple(
                CardWish(
                    network=text(f"{name}_network"),
                    model=text(f"{name}_model"),
                    mac=text(f"{name}_mac"),
                )
                for name in self._card_names()[1:]
                if data.get(f"{name}_network")
            ),
            discs=self._discs(),
            boot=tuple(text("boot").split()),
            autostart=bool(data.get("autostart")),
            answers=text("answers"),
        )

    def _disk(self, name: str) -> DiskWish:
        data = self.cleaned_data
        parts = ("bus", "cache", "discard", "io", "format")
        words = {part: str(data.get(f"{name}_{part}") or "") for part in parts}
        return DiskWish(size_gib=data.get(f"{name}_gib"), **words)

    def _discs(self) -> tuple[Image, ...]:
        wanted = [self.cleaned_data.get(f"disc{number}") for number in range(1, MORE_DISCS + 1)]
        found = {str(image.pk): image for image in self.isos}
        return tuple(found[pk] for pk in dict.fromkeys(wanted) if pk in found)

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        known = {"", *(str(image.pk) for image in self.isos)}
        for number in range(1, MORE_DISCS + 1):
            if data.get(f"disc{number}", "") not in known:
                self.add_error(f"disc{number}", _("This disc is not offered. Choose another."))
        return data

    def is_advanced(self) -> bool:
        """Something of it was said: then it is shown open."""
        names = [*_TEXTS, "sockets", "cores", "threads", "tpm", "hyperv", "leave_out", "boot"]
        names += [name for name in self.fields if name.startswith(("disk", "nic", "disc"))]
        names = [name for name in names if name not in ("disk_gib", "os_id")]
        return any(self[name].value() for name in names) or bool(self["autostart"].value())


_TEXTS = (
    "os_id",
    "machine",
    "firmware",
    "cpu_mode",
    "cpu_model",
    "video",
    "watchdog",
    "clock",
    "disc_bus",
    "answers_kind",
)
