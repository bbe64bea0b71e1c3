"""What each error code says to a person, in the reader's language.

Every app registers its codes from its own ``messages.py`` (imported in ``AppConfig.ready``). The
texts follow one pattern: what happened, why, what to do next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Union

from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise

    from accounts.errors import DomainError

logger = logging.getLogger(__name__)

# A text with ``%(name)s`` places, or a function where the places need more than their value.
Message = Union["_StrPromise", str, Callable[[Mapping[str, Any]], str]]

_messages: dict[str, Message] = {}


class _Places(dict[str, Any]):
    """A place without a parameter stays readable instead of raising while an error is shown."""

    def __missing__(self, key: str) -> str:
        return "?"


def register(messages: Mapping[str, Message]) -> None:
    """Add codes. Registering a code twice with another text is a programming error."""
    for code, message in messages.items():
        if code in _messages and _messages[code] != message:
            raise ValueError(f"the message of {code} is registered twice")
        _messages[code] = message


def is_known(code: str) -> bool:
    return code in _messages


def codes() -> list[str]:
    return sorted(_messages)


def text(code: str, params: Mapping[str, Any] | None = None) -> str:
    """The message of ``code`` in the active language; never raises."""
    message = _messages.get(code)
    if message is None:
        logger.error("no message for code %s", code)
        return gettext("That did not work (%(code)s). Please tell an admin.") % {"code": code}
    values = _Places(params or {})
    if callable(message):
        return message(values)
    return str(message) % values


def field_texts(error: DomainError) -> dict[str, str]:
    """The message of each input that ``error`` names."""
    return {
        field: text(code, {**error.params, **error.field_params.get(field, {})})
        for field, code in error.fields.items()
    }


def _quota_exceeded(params: Mapping[str, Any]) -> str:
    from accounts.quotas import amount_text, resource_label

    resource = params["resource"]
    values = {
        "resource": resource_label(resource),
        "team": params["team"],
        "hard": amount_text(resource, params["hard"]),
        "used": amount_text(resource, params["used"]),
        "asked": amount_text(resource, params["asked"]),
        "missing": amount_text(resource, params["missing"]),
    }
    if params["scope"] == "member":
        sentence = gettext(
            "Your limit in team %(team)s for “%(resource)s” is %(hard)s. In use: %(used)s. "
            "This needs %(asked)s: %(missing)s too many. Ask for less, delete something, or ask "
            "a manager of the team for more."
        )
    else:
        sentence = gettext(
            "The limit of team %(team)s for “%(resource)s” is %(hard)s. In use: %(used)s. "
            "This needs %(asked)s: %(missing)s too many. Ask for less, delete something, or ask "
            "an admin for more."
        )
    return sentence % values


def _with_role(message: Message) -> Message:
    """``role`` is stored as its key and shown in the reader's language."""

    def filled(params: Mapping[str, Any]) -> str:
        from accounts.models import Membership

        labels = {**dict(Membership.Role.choices), "operator": gettext("Operator")}
        role = params["role"]
        return str(message) % _Places({**params, "role": str(labels.get(role, role)).lower()})

    return filled


def _handed_over_in_team(params: Mapping[str, Any]) -> str:
    count = params["count"] if isinstance(params["count"], int) else 0
    return ngettext(
        "%(count)s machine of %(who)s in the team %(team)s is with %(person)s now.",
        "%(count)s machines of %(who)s in the team %(team)s are with %(person)s now.",
        count,
    ) % _Places(params)


def _handed_over(params: Mapping[str, Any]) -> str:
    count = params["count"] if isinstance(params["count"], int) else 0
    return ngettext(
        "%(count)s machine of %(who)s in the team %(team)s is yours now.",
        "%(count)s machines of %(who)s in the team %(team)s are yours now.",
        count,
    ) % {"count": count, "who": params["who"], "team": params["team"]}


register(
    {
        "not_found": _("This does not exist, or it is not yours to see. Check the address."),
        "forbidden": _(
            "You can see this, but you may not do that with it. Ask its owner or a manager of "
            "its team."
        ),
        "admin_only": _("Only admins may do this. Ask an admin of this site."),
        "sign_in_needed": _("Sign in first, or send a valid API token."),
        "invalid": _("Some of the input is not right. Correct the marked fields and try again."),
        "internal": _(
            "The site made a mistake and has noted it. Try again; if it stays, tell an admin the "
            "reference %(ref)s."
        ),
        "csrf_failed": _(
            "This form had expired, or it came from another site. Go back, reload the page and "
            "send it again."
        ),
        "bad_request": _("The site could not read this request."),
        "body_too_large": _("This request is larger than the site accepts."),
        "too_many": _("That was too often. Wait %(retry_after)s seconds and try again."),
        "redis_unreachable": _(
            "A part of the site (Redis) does not answer at the moment. Nothing was lost; try "
            "again in a minute."
        ),
        "database_busy": _("The database is busy. Nothing was changed; try again in a moment."),
        "quota.exceeded": _quota_exceeded,
        "quota.bad_limit": _(
            "A limit is a whole number: 0 for none, -1 for unlimited, nothing to inherit."
        ),
        "api.scope_missing": _(
            "This token lacks the scope “%(scope)s”. Make a token that has it on your profile."
        ),
        "api.idempotency_key_invalid": _(
            "An Idempotency-Key is 1 to 128 printable ASCII characters."
        ),
        "api.idempotency_key_reused": _(
            "This Idempotency-Key was used for another request. Use a new key for a new request."
        ),
        "api.idempotency_key_retry": _(
            "A request with the same Idempotency-Key has just failed. Send this one again."
        ),
        "user.username_taken": _("The user name “%(username)s” is taken. Choose another."),
        "user.username_invalid": _(
            "A user name has 1 to 150 letters, digits and @ . + - _ and no spaces."
        ),
        "user.password_elsewhere": _(
            "This account signs in by the directory of your organization and has no password "
            "here. Change the password there."
        ),
        "directory.unreachable": _(
            "The directory of your organization does not answer, so your password cannot be "
            "checked. Try again in a minute; if it stays so, tell an admin."
        ),
        "directory.name_taken": _(
            "The directory knows you, but an account named “%(username)s” was made here before. "
            "Ask an admin to connect the two."
        ),
        "directory.deactivated": _("This account is deactivated. Ask an admin."),
        "directory.no_sign_up": _(
            "The directory knows you, but you have no account here. Ask an admin to make one."
        ),
        "directory.person_unknown": _("The directory knows nobody called “%(name)s”."),
        "directory.connected_already": _(
            "This account, or this person of the directory, is connected already."
        ),
        "user.email_taken": _("Another user has this e-mail address already."),
        "user.email_invalid": _("This is not an e-mail address."),
        "user.password_weak": _("This password is not safe enough: %(reasons)s"),
        "user.language_unknown": _("The site does not speak this language."),
        "user.theme_unknown": _("The theme is “auto”, “light” or “dark”."),
        "user.last_admin": _(
            "This is the last active admin. Make another user an admin first, or nobody could "
            "manage the site."
        ),
        "user.not_yourself": _("You cannot do this to your own account. Ask another admin."),
        "user.unknown": _("There is no active user “%(username)s”."),
        "team.name_taken": _("There is a team “%(name)s” already. Choose another name."),
        "team.name_invalid": _("A team's name has 1 to 64 characters and no line breaks."),
        "team.personal_fixed": _(
            "A personal team belongs to one person: its name and members cannot be changed."
        ),
        "team.last_manager": _("A team needs a manager. Make somebody else a manager first."),
        "team.role_unknown": _("A role is “manager”, “member” or “viewer”."),
        "webhook.url_invalid": _("This is no valid address. Type it again."),
        "webhook.url_scheme": _("The address must begin with https:// and name a server."),
        "webhook.url_credentials": _("Leave name and password out of the address."),
        "webhook.url_not_https": _("%(host)s must be reached by https, or be allowed by an admin."),
        "webhook.url_private": _(
            "%(host)s is inside a private network. An admin can allow it (WEBHOOK_ALLOWED_HOSTS)."
        ),
        "webhook.url_unresolved": _("There is no server “%(host)s”. Check the address."),
        "webhook.timeout": _("It did not answer in time."),
        "webhook.unreachable": _("It could not be reached, or its certificate is not valid."),
        "webhook.refused": _("It did not answer with success (2xx)."),
        "webhook.deactivated": _("Its person is deactivated."),
        "webhook.too_many": _("There are %(maximum)s webhooks, the most. Remove one first."),
        "webhook.waiting": _("Too much waits for this webhook already. Wait, or remove it."),
        "webhook.topics": _("Choose what is posted, of what the page offers."),
        "notice.choice_unknown": _("Mail comes at once (now), once a day (daily) or never."),
        "notice.team.joined": _with_role(_("%(who)s has joined the team %(team)s as %(role)s.")),
        "notice.team.added": _with_role(
            _("%(who)s has taken you into the team %(team)s as %(role)s.")
        ),
        "notice.team.role": _with_role(_("Your role in the team %(team)s is %(role)s now.")),
        "notice.team.removed": _("%(who)s has removed you from the team %(team)s."),
        "notice.team.left": _("%(who)s has left the team %(team)s."),
        "notice.team.handed_over": _handed_over,
        "team_notice.team.added": _with_role(
            _("%(who)s has taken %(person)s into the team %(team)s as %(role)s.")
        ),
        "team_notice.team.role": _with_role(
            _("The role of %(person)s in the team %(team)s is %(role)s now.")
        ),
        "team_notice.team.removed": _("%(who)s has removed %(person)s from the team %(team)s."),
        "team_notice.team.handed_over": _handed_over_in_team,
        "team.create_closed": _(
            "You may make %(maximum)s teams and have made them. Ask an admin for another."
        ),
        "team.bad_heir": _("Choose a manager or member of the team who stays in it."),
        "team.no_heir": _(
            "Nobody in the team can take over what they have in it. Take in a manager first."
        ),
        "invite.bad_days": _("An invitation ends after 1, 7 or 30 days."),
        "invite.too_many": _(
            "The team has %(maximum)s open invitations, the most at a time. Revoke some first."
        ),
        "invite.no_mail": _("This site has no mail server. Make a link and send it yourself."),
        "invite.not_sent": _(
            "The mail to %(email)s could not be sent, so the invitation was revoked. Try again, or "
            "make a link and send it yourself."
        ),
        "invite.gone": _(
            "This invitation does not exist, has ended or was used. Ask who sent it for another."
        ),
        "invite.already_member": _("You are in the team %(team)s already."),
        "notice.sharing.shared": _with_role(
            _("%(who)s shares the machine %(machine)s with you as %(role)s.")
        ),
        "notice.sharing.ended": _("%(who)s no longer shares the machine %(machine)s with you."),
        "notice.sharing.offered": _(
            "%(who)s wants to give you the machine %(machine)s. Take it until %(end_at)s."
        ),
        "notice.sharing.accepted": _("%(who)s has taken the machine %(machine)s."),
        "notice.sharing.declined": _("%(who)s did not take the machine %(machine)s."),
        "notice.sharing.given": _("%(who)s has made you the owner of the machine %(machine)s."),
        "share.unknown_team": _("You are in no such team."),
        "share.role_unknown": _("A share is for a “viewer”, an “operator” or a “manager”."),
        "share.with_whom": _("Name one person, or choose one team."),
        "share.is_theirs": _("It is theirs already: owners and their team need no share."),
        "share.too_many": _(
            "This machine is shared %(maximum)s times, the most there can be. Share it with a "
            "team instead."
        ),
        "view_as.read_only": _(
            "You look at the site as somebody else, so nothing can be changed and their sign-in "
            "stays closed. End it first, at the top of the page."
        ),
        "view_as.not_them": _(
            "You can look at the site as an active person who is no admin. Choose another."
        ),
        "mfa.required": _(
            "Admins of this site need a second factor. Set one up under “Second factor” on your "
            "profile."
        ),
        "sshkey.empty": _("Paste a public key: one line that begins with a type like ssh-ed25519."),
        "sshkey.too_long": _("This is too long for one public key. Paste a single key."),
        "sshkey.private": _(
            "This is a private key. Never give it away; if you sent it anywhere, replace it. "
            "Paste the file that ends in .pub."
        ),
        "sshkey.several_lines": _("Paste one key at a time, on one line."),
        "sshkey.options": _(
            "Options before the key (like command= or from=) are not accepted. Paste the key "
            "alone, beginning with its type."
        ),
        "sshkey.certificate": _("This is a certificate. Paste the public key itself."),
        "sshkey.type": _(
            "Keys of the type “%(type)s” are not accepted. Use ssh-ed25519, ecdsa or rsa; "
            "“ssh-keygen -t ed25519” makes one."
        ),
        "sshkey.damaged": _("This key is damaged or incomplete. Copy the whole line again."),
        "sshkey.rsa_short": _(
            "This RSA key has %(bits)s bits; at least %(minimum)s are needed. "
            "“ssh-keygen -t ed25519” makes a better one."
        ),
        "sshkey.rsa_long": _("This RSA key has %(bits)s bits; at most %(maximum)s are accepted."),
        "sshkey.not_ascii": _("A public key has plain letters only. Copy the line again."),
        "sshkey.duplicate": _("You have this key already, as “%(name)s”."),
        "sshkey.name_taken": _("You have a key named “%(name)s” already. Choose another name."),
        "sshkey.name_invalid": _("A key's name has 1 to 64 characters and no line breaks."),
        "sshkey.too_many": _("You have %(maximum)s keys, the most that are kept. Remove one."),
        "token.name_invalid": _("A token's name has 1 to 64 characters and no line breaks."),
        "token.scopes_invalid": _("Choose at least one scope among: read, write, admin."),
        "token.scopes_too_wide": _(
            "A token can only make tokens with scopes that it has itself. Sign in with the browser "
            "for more."
        ),
        "token.admin_scope": _("Only admins can make a token with the scope “admin”."),
        "token.expiry_past": _("A token's end must lie in the future."),
        "token.too_many": _("You have %(maximum)s live tokens, the most at a time. Revoke one."),
    }
)
