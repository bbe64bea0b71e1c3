"""What requests for more quota, grants and their news say to a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext_lazy as _

from accounts.messages import Message, register
from accounts.models import Resource
from accounts.quotas import amount_text, resource_label


class _Places(dict[str, Any]):
    """As in ``accounts.messages``: a place without a parameter stays readable."""

    def __missing__(self, key: str) -> str:
        return "?"


def _amount(message: Message) -> Message:
    """``amount`` of ``resource`` is stored as a number and shown in its unit."""

    def filled(params: Mapping[str, Any]) -> str:
        shown = dict(params)
        if shown.get("resource") in Resource.values:
            resource = shown["resource"]
            shown["resource"] = resource_label(resource)
            shown["amount"] = amount_text(resource, shown["amount"])
        return str(message) % _Places(shown)

    return filled


def _by(message: Message, by_the_site: Message) -> Message:
    """Another sentence where no person did it."""

    def filled(params: Mapping[str, Any]) -> str:
        return str(message if params.get("who") else by_the_site) % _Places(params)

    return filled


def _of(quota: Message, time: Message) -> Message:
    """Another sentence where it is about a machine's time."""

    def filled(params: Mapping[str, Any]) -> str:
        return str(time if params.get("machine") else quota) % _Places(params)

    return filled


register(
    {
        "request.invalid": _("Some of the input is not right. Correct the marked fields."),
        "request.nothing": _("Ask for something: type how much more of at least one resource."),
        "request.bad_amount": _("Type a whole number above 0."),
        "request.bad_reason": _("Say what it is for, in 1 to %(maximum)s characters."),
        "request.bad_text": _("Write 1 to %(maximum)s characters."),
        "request.bad_end": _("The end must lie in the future, within five years."),
        "request.scope_unknown": _("Ask for the team (“team”) or for yourself in it (“member”)."),
        "request.unlimited": _("There is no limit of this: no need to ask."),
        "request.no_own_limit": _(
            "You have no limit of your own of this in the team. Ask for the whole team instead."
        ),
        "request.grants_nothing": _("This grants nothing. Grant something, or reject it."),
        "request.too_many": _(
            "You have %(maximum)s open requests, the most at a time. Withdraw one or wait."
        ),
        "request.time_asked": _(
            "More time for “%(name)s” was asked for already. Wait for the decision, or change that "
            "request."
        ),
        "request.machine_gone": _(
            "The machine “%(name)s” is deleted or belongs to another team now. Reject the request."
        ),
        "request.is_approved": _by(
            _("%(who)s has approved this request already. Nothing was granted twice."),
            _("This request has approved itself by the site's rule. Nothing was granted twice."),
        ),
        "request.is_rejected": _("%(who)s has rejected this request already."),
        "request.is_withdrawn": _("This request was withdrawn. There is nothing to decide."),
        "request.has_changed": _(
            "This request has changed since you read it. Look at it again, then decide."
        ),
        "grant.is_over": _("This grant has ended or was taken back already."),
        "rule.bad_number": _("Type a whole number, 0 or more."),
        "rule.unknown_admin": _("There is no active admin “%(username)s”."),
        "notice.quota.asked": _of(
            _("%(who)s asks for more quota. Decide it."),
            _("%(who)s asks for more time for the machine %(machine)s. Decide it."),
        ),
        "notice.quota.changed": _of(
            _("%(who)s has changed a request for more quota. Look again."),
            _("%(who)s has changed a request for more time for %(machine)s. Look again."),
        ),
        "notice.quota.commented": _of(
            _("%(who)s has written about a request for more quota."),
            _("%(who)s has written about a request for more time for %(machine)s."),
        ),
        "notice.quota.asked_back": _("%(who)s asks you something about your request."),
        "notice.quota.approved": _of(
            _("Your request for more quota of %(team)s was approved."),
            _("Your request for more time for the machine %(machine)s was approved."),
        ),
        "notice.quota.approved_in_part": _of(
            _("Your request for more quota of %(team)s was approved with changes."),
            _("Your request for more time for the machine %(machine)s was approved with changes."),
        ),
        "notice.quota.rejected": _of(
            _("Your request for more quota of %(team)s was rejected."),
            _("Your request for more time for the machine %(machine)s was rejected."),
        ),
        "notice.quota.escalated": _of(
            _("%(who)s has waited too long for more quota. The request was passed to you."),
            _(
                "%(who)s has waited too long for more time for %(machine)s. The request was passed "
                "to you."
            ),
        ),
        "team_notice.quota.asked": _of(
            _("%(who)s asks for more quota of %(team)s."),
            _("%(who)s asks for more time for the machine %(machine)s."),
        ),
        "team_notice.quota.changed": _of(
            _("%(who)s has changed a request for more quota of %(team)s."),
            _("%(who)s has changed a request for more time for %(machine)s."),
        ),
        "team_notice.quota.asked_back": _("%(who)s has a question about %(person)s's request."),
        "team_notice.quota.approved": _of(
            _("%(person)s's request for more quota of %(team)s was approved."),
            _("%(person)s's request for more time for the machine %(machine)s was approved."),
        ),
        "team_notice.quota.approved_in_part": _of(
            _("%(person)s's request for more quota of %(team)s was approved with changes."),
            _(
                "%(person)s's request for more time for the machine %(machine)s was approved with "
                "changes."
            ),
        ),
        "team_notice.quota.rejected": _of(
            _("%(person)s's request for more quota of %(team)s was rejected."),
            _("%(person)s's request for more time for the machine %(machine)s was rejected."),
        ),
        "notice.quota.ends": _amount(
            _(
                "The extra %(amount)s of “%(resource)s” of %(team)s ends: %(ends_at)s. Nothing is "
                "taken away then, but growth stops where it is over."
            )
        ),
        "notice.quota.ended": _amount(
            _("The extra %(amount)s of “%(resource)s” of %(team)s has ended.")
        ),
        "notice.quota.revoked": _amount(
            _("The extra %(amount)s of “%(resource)s” of %(team)s was taken back.")
        ),
    }
)
