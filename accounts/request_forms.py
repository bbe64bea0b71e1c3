"""What people type to ask for more quota and to decide over it."""

from __future__ import annotations

from datetime import datetime, time, timedelta
from typing import Any, cast

from django import forms
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from accounts import quotas, requests
from accounts.forms import amount_of, typed
from accounts.models import QuotaRequest, RequestRule, Resource, Team, User

_DATE = "%Y-%m-%d"


def _date_field(label: Any, help_text: Any) -> forms.DateField:
    return forms.DateField(
        label=label,
        required=False,
        help_text=help_text,
        input_formats=[_DATE],
        widget=forms.DateInput(attrs={"type": "date"}, format=_DATE),
    )


def _text_field(label: Any, rows: int = 3, **more: Any) -> forms.CharField:
    return forms.CharField(
        label=label,
        max_length=requests.TEXT_MAX,
        widget=forms.Textarea(attrs={"rows": rows}),
        **more,
    )


def end_of(day: Any) -> datetime | None:
    """The last moment of a day in the site's time zone."""
    if day is None:
        return None
    return timezone.make_aware(datetime.combine(day, time.max.replace(microsecond=0)))


class AmountsForm(forms.Form):
    """A number for each of some resources, in the unit that people type it in."""

    resources: list[Resource]

    def add_amounts(self, initial: dict[Resource, int]) -> None:
        for resource in self.resources:
            self.fields[resource.value] = forms.DecimalField(
                label=resource.label,
                required=False,
                min_value=0,
                max_value=quotas.LARGEST,
                initial=typed(resource, initial[resource]) if resource in initial else None,
                widget=forms.NumberInput(
                    attrs={"step": "any" if resource in quotas.IN_MIB else "1", "min": "0"}
                ),
            )

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        for resource in self.resources:
            value = data.get(resource.value)
            if value is not None and amount_of(resource, value) is None:
                self.add_error(
                    resource.value, gettext("Type how much. Memory goes in steps of 1 MiB.")
                )
        return data

    def amounts(self) -> dict[Resource, int]:
        found = {}
        for resource in self.resources:
            amount = amount_of(resource, self.cleaned_data.get(resource.value))
            if amount is not None:
                found[resource] = amount
        return found


class RequestForm(AmountsForm):
    scope = forms.ChoiceField(
        label=_("For whom"), choices=QuotaRequest.Scope.choices, widget=forms.RadioSelect
    )
    reason = _text_field(
        _("What it is for"), help_text=_("Who decides reads this: what you need it for, and why.")
    )
    until = _date_field(_("Until"), _("The day when you will not need it any more."))

    def __init__(
        self,
        *args: Any,
        team: Team,
        user: User,
        amounts: dict[Resource, int],
        about_time: bool = False,
        **kwargs: Any,
    ) -> None:
        """``about_time``: of a machine, and so of no amounts."""
        super().__init__(*args, **kwargs)
        self.resources = [] if about_time else list(Resource)
        self.add_amounts(amounts)
        self.fields["until"].required = about_time
        if about_time:
            self.fields["until"].help_text = _("The last day that the machine is needed.")
        self.team, self.user = team, user

    def lines(self) -> list[dict[str, Any]]:
        """Each resource with what is used of it, and the input."""
        if not self.resources:
            return []
        used = {impact.resource: impact for impact in quotas.overview(self.team, self.user)}
        return [
            {
                "resource": resource,
                "impact": used[resource],
                "field": self[resource.value],
                "unit": quotas.unit(resource),
                "wanted": bool(self[resource.value].value()),
            }
            for resource in self.resources
        ]

    def positive(self) -> dict[Resource, int]:
        return {resource: amount for resource, amount in self.amounts().items() if amount}


class DecideForm(AmountsForm):
    """The granted amount of each row, the end, and words to the requester and among deciders."""

    version = forms.IntegerField(widget=forms.HiddenInput)
    ends = _date_field(_("Until"), _("Empty: until somebody takes it back."))
    text = _text_field(_("Comment to them"), 2, required=False)
    internal = _text_field(_("Note for those who decide"), 2, required=False)

    def __init__(self, *args: Any, request: QuotaRequest, **kwargs: Any) -> None:
        asked = requests.asked(request)
        day = timezone.localtime(request.until).date() if request.until else None
        kwargs["initial"] = {"version": request.version, "ends": day}
        super().__init__(*args, **kwargs)
        self.resources = list(asked)
        self.add_amounts(asked)
        if request.machine is not None:
            self.fields["ends"].help_text = _("The machine's last day. Empty: as asked.")

    def granted(self) -> dict[Resource, int]:
        """An emptied row grants nothing."""
        return dict.fromkeys(self.resources, 0) | self.amounts()


class RuleForm(AmountsForm):
    quiet_days = forms.IntegerField(
        label=_("Only after so many days without a decision"), min_value=0, max_value=3650
    )
    grant_days = forms.IntegerField(
        label=_("For at most so many days"), min_value=1, max_value=1830
    )
    escalate_hours = forms.IntegerField(
        label=_("Pass on after so many hours"),
        min_value=0,
        max_value=8760,
        help_text=_("0: never."),
    )
    escalate_to = forms.ModelChoiceField(
        label=_("To this admin"),
        queryset=User.objects.none(),
        required=False,
        empty_label=_("All admins"),
    )

    def __init__(self, *args: Any, rule: RequestRule, **kwargs: Any) -> None:
        kwargs["initial"] = {
            "quiet_days": rule.quiet_days,
            "grant_days": rule.grant_days,
            "escalate_hours": rule.escalate_hours,
            "escalate_to": rule.escalate_to_id,
        }
        super().__init__(*args, **kwargs)
        self.resources = list(Resource)
        self.add_amounts({Resource(name): step for name, step in rule.step.items()})
        field = cast("forms.ModelChoiceField[User]", self.fields["escalate_to"])
        field.queryset = User.objects.filter(is_staff=True, is_active=True).order_by("username")

    def lines(self) -> list[dict[str, Any]]:
        return [
            {"resource": resource, "field": self[resource.value], "unit": quotas.unit(resource)}
            for resource in self.resources
        ]


SOON = timedelta(days=90)


def usual_end() -> Any:
    """What a new request asks for unless told otherwise."""
    return (timezone.localtime() + SOON).date()
