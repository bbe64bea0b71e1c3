"""What people type, turned into the types that services take. Rules are the services' own."""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import Any

from django import forms
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts import policy
from accounts.models import Team, User
from accounts.policy import Action
from accounts.request_forms import end_of
from vms.knob_form import KnobForm
from vms.lease_rules import BIN_DAYS_MAX, BIN_DAYS_MIN, DAYS_MAX
from vms.models import VM, Flavor, Image
from vms.provisioning import network_choices
from vms.provisioning.batch import SIZE_MAX

CUSTOM = "custom"
EMPTY = "empty"  # in the place of an image
_SEPARATORS = re.compile(r"[\s,;]+")


def split_tags(text: str) -> list[str]:
    return [tag for tag in _SEPARATORS.split(text.strip()) if tag]


class CreateForm(KnobForm):
    """The create page. Field names are those of ``provisioning.request_vm``."""

    name = forms.CharField(max_length=200)
    image = forms.CharField(max_length=20, error_messages={"required": _("Choose an image.")})
    flavor = forms.CharField(max_length=20, required=False)
    vcpus = forms.IntegerField(required=False)
    memory_mib = forms.IntegerField(required=False)
    disk_gib = forms.IntegerField(required=False)
    network = forms.CharField(max_length=64)
    count = forms.IntegerField(required=False, min_value=1, max_value=SIZE_MAX)
    copy = forms.ChoiceField(choices=VM.Copy.choices, initial=VM.Copy.LINKED)
    user = forms.CharField(max_length=64, required=False)
    keys = forms.MultipleChoiceField(required=False)
    pasted_key = forms.CharField(required=False, max_length=20_000)
    password_mode = forms.ChoiceField(
        choices=[("none", ""), ("generate", ""), ("choose", "")], required=False
    )
    password = forms.CharField(required=False, max_length=256, strip=False)
    user_data = forms.CharField(required=False, strip=False)
    hostname = forms.CharField(max_length=200, required=False)
    start = forms.BooleanField(required=False)
    tags = forms.CharField(required=False, max_length=1000)
    description = forms.CharField(required=False, max_length=2000)
    team = forms.ModelChoiceField(Team.objects.none(), required=False)
    ends_on = forms.DateField(required=False, input_formats=["%Y-%m-%d"])
    idempotency_key = forms.CharField(max_length=64, required=False)

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.person = user
        self.images = [
            image
            for image in Image.objects.visible_to(user)
            .to_choose()
            .filter(state=Image.State.READY)
            .select_related("template")
            if image.template is None or image.template.current_id == image.pk
        ]
        self.flavors = list(Flavor.objects.filter(published=True))
        self.ssh_keys = list(user.ssh_keys.all())
        self.networks = network_choices()
        self.teams = _teams(user)
        self.isos = [image for image in self.images if image.kind == Image.Kind.ISO]
        self.fields["team"].queryset = Team.objects.filter(  # type: ignore[attr-defined]
            pk__in=[team.pk for team in self.teams]
        )
        self.fields["keys"].choices = [  # type: ignore[attr-defined]
            (str(key.pk), key.name) for key in self.ssh_keys
        ]

    def clean_image(self) -> Image | None:
        """None: an empty disk."""
        word = self.cleaned_data["image"]
        if word == EMPTY:
            return None
        found = next((one for one in self.images if str(one.pk) == word), None)
        if found is None:
            raise forms.ValidationError(_("This image is not offered any more. Choose another."))
        return found

    def clean_flavor(self) -> Flavor | None:
        word = self.cleaned_data["flavor"]
        if not word or word == CUSTOM:
            return None
        found = next((one for one in self.flavors if str(one.pk) == word), None)
        if found is None:
            raise forms.ValidationError(_("This size is not offered any more. Choose another."))
        return found

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        if data.get("flavor"):
            data["vcpus"] = data["memory_mib"] = None
        if data.get("password_mode") == "choose" and not data.get("password"):
            self.add_error("password", _("Type a password, or have one generated."))
        return data

    def how_many(self) -> int:
        """As typed so far; what makes no sense counts as one."""
        text = self.value("count")
        if not text.isascii() or not text.isdecimal() or len(text) > 4:
            return 1
        return min(max(int(text), 1), SIZE_MAX)

    def chosen_keys(self) -> list[str]:
        """The texts of the ticked keys, and those that were pasted, one a line."""
        ticked = set(self.cleaned_data.get("keys") or ())
        kept = [key.public_key for key in self.ssh_keys if str(key.pk) in ticked]
        pasted = self.cleaned_data.get("pasted_key") or ""
        return kept + [line.strip() for line in pasted.splitlines() if line.strip()]

    def value(self, name: str) -> str:
        """What the input holds now: what was typed, else where it starts."""
        value = self[name].value()
        return "" if value is None else str(value)


class EditForm(forms.Form):
    name = forms.CharField(max_length=200, strip=True)
    description = forms.CharField(required=False, max_length=2000)
    tags = forms.CharField(required=False, max_length=1000)

    @classmethod
    def of(cls, vm: VM) -> EditForm:
        tags = " ".join(tag.name for tag in vm.tags.all())
        return cls(initial={"name": vm.name, "description": vm.description, "tags": tags})

    def changes(self) -> dict[str, Any]:
        return {
            "name": self.cleaned_data["name"],
            "description": self.cleaned_data["description"],
            "tags": split_tags(self.cleaned_data["tags"]),
        }


def _teams(user: User) -> list[Team]:
    """Where this person may create, their own first."""
    mine = Team.objects.filter(memberships__user=user) | Team.objects.filter(personal_of=user)
    able = [team for team in mine.distinct() if policy.can(user, Action.TEAM_CREATE_VM, team)]
    return sorted(able, key=lambda team: (team.personal_of_id != user.pk, team.name))


def end_of_day(day: date | None, latest: datetime | None) -> datetime | None:
    """The day's last moment, or ``latest`` where the rules end within that day."""
    moment = end_of(day)
    if moment is not None and latest is not None and timezone.localdate(latest) == day:
        return min(moment, latest)
    return moment


_DAYS_HINT = _("Empty: as the next rule says. 0: without end.")


def _days(label: Any, help_text: Any = "") -> forms.IntegerField:
    return forms.IntegerField(
        label=label, required=False, min_value=0, max_value=DAYS_MAX, help_text=help_text
    )


class SiteLeaseForm(forms.Form):
    default_days = _days(_("A new machine lasts (days)"), _("Empty or 0: without end."))
    max_days = _days(
        _("It can be extended to (days after it was made)"),
        _("Beyond this its people ask, and an admin decides. Empty or 0: without end."),
    )
    bin_days = forms.IntegerField(
        label=_("After its end it goes into the recycle bin (days)"),
        min_value=BIN_DAYS_MIN,
        max_value=BIN_DAYS_MAX,
    )


class IdleForm(forms.Form):
    idle_days = forms.IntegerField(
        label=_("Days without use until its people are told"),
        min_value=0,
        max_value=365,
        help_text=_("0: never. Use is CPU time or network traffic over ten minutes, or a console."),
    )
    idle_stop_days = forms.IntegerField(
        label=_("Days after that until it is stopped"), min_value=1, max_value=90
    )


class LeaseRuleForm(forms.Form):
    about = forms.ChoiceField(label=_("For"))
    default_days = _days(_("A new machine lasts (days)"), _DAYS_HINT)
    max_days = _days(_("It can be extended to (days after it was made)"), _DAYS_HINT)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        teams = [(f"team:{pk}", name) for pk, name in Team.objects.values_list("pk", "name")]
        sizes = [(f"flavor:{pk}", name) for pk, name in Flavor.objects.values_list("pk", "name")]
        groups = [(_("Sizes"), sizes), (_("Teams"), teams)]
        self.fields["about"].choices = [group for group in groups if group[1]]  # type: ignore[attr-defined]

    def team(self) -> Team | None:
        kind, _colon, pk = self.cleaned_data["about"].partition(":")
        return Team.objects.get(pk=int(pk)) if kind == "team" else None

    def flavor(self) -> Flavor | None:
        kind, _colon, pk = self.cleaned_data["about"].partition(":")
        return Flavor.objects.get(pk=int(pk)) if kind == "flavor" else None
