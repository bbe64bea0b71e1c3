"""What people type on the pages of accounts. The rules live in the services: a form only
gathers, and shows the service's complaint at the field that it names."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, cast

from django import forms
from django.conf import settings
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from accounts import messages, quotas, tokens
from accounts.errors import DomainError
from accounts.limits import Row as LimitRow
from accounts.models import Membership, Resource, User


def add_error(form: forms.Form, error: DomainError) -> None:
    """Show a service's refusal: at its fields, or above the form."""
    texts = messages.field_texts(error)
    named = {field: text for field, text in texts.items() if field in form.fields}
    for field, text in named.items():
        form.add_error(field, text)
    if not named:
        form.add_error(None, messages.text(error.code, error.params))


class NameForm(forms.Form):
    first_name = forms.CharField(label=_("First name"), max_length=150, required=False)
    last_name = forms.CharField(label=_("Last name"), max_length=150, required=False)


class PreferencesForm(forms.Form):
    language = forms.ChoiceField(
        label=_("Language"),
        choices=[("", _("Like the browser")), *settings.LANGUAGES],
        required=False,
    )
    theme = forms.ChoiceField(label=_("Theme"), choices=User.Theme.choices)


class SSHKeyForm(forms.Form):
    name = forms.CharField(
        label=_("Name"),
        max_length=64,
        required=False,
        help_text=_("How you will know it again. Left empty, the key's comment is taken."),
    )
    public_key = forms.CharField(
        label=_("Public key"),
        widget=forms.Textarea(
            attrs={
                "rows": 3,
                "spellcheck": "false",
                "autocomplete": "off",
                "placeholder": "ssh-ed25519 AAAA… you@laptop",
            }
        ),
        help_text=_(
            "The one line of the file that ends in .pub, for example ~/.ssh/id_ed25519.pub."
        ),
    )


class TokenForm(forms.Form):
    LIFETIMES = (
        ("30", _("30 days")),
        ("90", _("90 days")),
        ("365", _("One year")),
        ("", _("Without end")),
    )
    SCOPES = {
        "read": _("Read: see what you can see"),
        "write": _("Write: create and change"),
        "admin": _("Admin: manage the site"),
    }

    name = forms.CharField(
        label=_("Name"), max_length=64, help_text=_("What it is for, for example “laptop”.")
    )
    scopes = forms.MultipleChoiceField(
        label=_("It may"), widget=forms.CheckboxSelectMultiple, initial=["read", "write"]
    )
    days = forms.ChoiceField(
        label=_("It lives for"), choices=LIFETIMES, required=False, initial="90"
    )

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        allowed = tokens.SCOPES if user.is_admin else ("read", "write")
        scopes = cast("forms.MultipleChoiceField", self.fields["scopes"])
        scopes.choices = [(scope, self.SCOPES[scope]) for scope in allowed]

    def expires_at(self) -> Any:
        days = self.cleaned_data["days"]
        return timezone.now() + timedelta(days=int(days)) if days else None


class UserForm(forms.Form):
    username = forms.CharField(
        label=_("User name"),
        max_length=150,
        widget=forms.TextInput(attrs={"autocomplete": "off", "autocapitalize": "none"}),
    )
    email = forms.EmailField(label=_("E-mail"), required=False)
    is_admin = forms.BooleanField(label=_("Is an admin of the site"), required=False)


class TeamForm(forms.Form):
    name = forms.CharField(label=_("Name"), max_length=64)
    manager = forms.CharField(
        label=_("Manager"),
        max_length=150,
        help_text=_("The user name of who manages the team: members, and all of its machines."),
    )


class TeamNameForm(forms.Form):
    name = forms.CharField(label=_("Name"), max_length=64)


class InviteForm(forms.Form):
    email = forms.CharField(
        label=_("E-mail"),
        max_length=254,
        required=False,
        widget=forms.EmailInput(attrs={"autocomplete": "off"}),
        help_text=_("Left empty, you get a link to hand out yourself."),
    )
    role = forms.ChoiceField(
        label=_("Role"), choices=Membership.Role.choices, initial=Membership.Role.MEMBER
    )
    days = forms.TypedChoiceField(
        label=_("It lives for"),
        choices=((1, _("1 day")), (7, _("7 days")), (30, _("30 days"))),
        initial=7,
        coerce=int,
    )
    many = forms.BooleanField(label=_("The link works for many people"), required=False)

    def chosen(self) -> dict[str, Any]:
        chosen = dict(self.cleaned_data)
        chosen["once"] = not chosen.pop("many")
        return chosen


class MemberForm(forms.Form):
    username = forms.CharField(label=_("User name"), max_length=150)
    role = forms.ChoiceField(
        label=_("Role"), choices=Membership.Role.choices, initial=Membership.Role.MEMBER
    )


class LimitsForm(forms.Form):
    """Each resource: inherited, a number, unlimited or none.

    Memory is typed in GiB and kept in MiB.
    """

    INHERIT, LIMIT, FREE, NONE = "inherit", "limit", "unlimited", "none"
    _MODES = {LIMIT: _("Limit"), FREE: _("Unlimited"), NONE: _("None")}

    def __init__(self, *args: Any, rows: list[LimitRow], inherits: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.limit_rows = rows
        modes = list(self._MODES.items())
        for row in rows:
            name = row.resource.value
            choices = [(self.INHERIT, _inherit_label(row)), *modes] if inherits else modes
            self.fields[f"{name}_mode"] = forms.ChoiceField(
                label=row.label, choices=choices, initial=self._mode(row)
            )
            self.fields[name] = forms.DecimalField(
                label=_("%(resource)s: how much") % {"resource": row.label},
                required=False,
                min_value=0,
                max_value=quotas.LARGEST,
                initial=typed(row.resource, row.own) if row.own and row.own > 0 else None,
                widget=forms.NumberInput(attrs={"step": _step(row.resource), "min": "0"}),
            )

    def lines(self) -> list[dict[str, Any]]:
        """For the template: what is known of each resource beside its inputs."""
        return [
            {
                "row": row,
                "mode": self[f"{row.resource.value}_mode"],
                "number": self[row.resource.value],
                "unit": quotas.unit(row.resource),
            }
            for row in self.limit_rows
        ]

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        for row in self.limit_rows:
            name = row.resource.value
            if data.get(f"{name}_mode") != self.LIMIT or name in self.errors:
                continue
            if amount_of(row.resource, data.get(name)) is None:
                self.add_error(name, gettext("Type how much. Memory goes in steps of 1 MiB."))
        return data

    def limits(self) -> dict[Resource, int | None]:
        return {row.resource: self._chosen(row.resource) for row in self.limit_rows}

    def _chosen(self, resource: Resource) -> int | None:
        match self.cleaned_data[f"{resource.value}_mode"]:
            case self.INHERIT:
                return None
            case self.FREE:
                return quotas.UNLIMITED
            case self.NONE:
                return 0
        return amount_of(resource, self.cleaned_data[resource.value])

    def _mode(self, row: LimitRow) -> str:
        if row.own is None:
            return self.INHERIT
        if row.own == quotas.UNLIMITED:
            return self.FREE
        return self.LIMIT if row.own else self.NONE


_MIB_PER_GIB = 1024


def _step(resource: Resource) -> str:
    return "any" if resource in quotas.IN_MIB else "1"


def typed(resource: Resource, amount: int) -> Any:
    """An amount as it stands in an input."""
    if resource not in quotas.IN_MIB:
        return amount
    whole, rest = divmod(amount, _MIB_PER_GIB)
    return whole if not rest else amount / _MIB_PER_GIB


def amount_of(resource: Resource, typed: Any) -> int | None:
    """What was typed in the resource's own unit; None where that is no whole number."""
    if typed is None:
        return None
    amount = typed * _MIB_PER_GIB if resource in quotas.IN_MIB else typed
    return int(amount) if amount == int(amount) else None


def _inherit_label(row: LimitRow) -> str:
    if row.inherited is None:
        return str(_("Inherit"))
    text = quotas.limit_text(row.resource, row.inherited)
    return str(_("Inherit: %(limit)s") % {"limit": text})


class WebhookForm(forms.Form):
    url = forms.CharField(
        label=_("Address"),
        max_length=500,
        widget=forms.URLInput(attrs={"placeholder": "https://", "autocomplete": "off"}),
    )
    topics = forms.MultipleChoiceField(
        label=_("What is posted"), widget=forms.CheckboxSelectMultiple
    )

    digest = forms.ChoiceField(
        label=_("When"),
        choices=[("", _("At once")), ("daily", _("Once a day, together"))],
        required=False,
    )

    def __init__(self, *args: Any, topics: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["topics"].choices = list(topics.items())  # type: ignore[attr-defined]

    def clean_digest(self) -> bool:
        return bool(self.cleaned_data["digest"])
