"""What people type on the pages of accounts. The rules live in the services: a form only
gathers, and shows the service's complaint at the field that it names."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django import forms
from django.conf import settings
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts import messages, tokens
from accounts.errors import DomainError
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
        scopes = self.fields["scopes"]
        assert isinstance(scopes, forms.MultipleChoiceField)  # noqa: S101 - for the type checker
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
    """One number for each resource; empty inherits."""

    UNITS = {
        Resource.MEMORY_MIB: "MiB",
        Resource.RUNNING_MEMORY_MIB: "MiB",
        Resource.DISK_GIB: "GiB",
        Resource.BACKUPS_GIB: "GiB",
        Resource.IMAGES_GIB: "GiB",
    }

    def __init__(self, *args: Any, inherits: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for resource in Resource:
            unit = self.UNITS.get(resource)
            self.fields[resource.value] = forms.IntegerField(
                label=f"{resource.label} ({unit})" if unit else resource.label,
                required=not inherits,
                min_value=-1,
            )

    def limits(self) -> dict[Resource, int | None]:
        return {resource: self.cleaned_data[resource.value] for resource in Resource}
