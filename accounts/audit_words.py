"""What the audit's verbs are called, in the reader's language.

Other apps register theirs (``register``), or a function for verbs that follow from something else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from django.utils.translation import gettext_lazy as _

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise

Words = Mapping[str, "str | _StrPromise"]
_words: dict[str, str | _StrPromise] = {}
_finders: list[Callable[[str], str]] = []


def register(words: Words) -> None:
    _words.update(words)


def register_finder(finder: Callable[[str], str]) -> None:
    """Asked for verbs that nobody registered; answers ``""`` when it does not know either."""
    if finder not in _finders:
        _finders.append(finder)


def of(verb: str) -> str:
    """The verb in words; the verb itself where nobody knows words for it."""
    if verb in _words:
        return str(_words[verb])
    return next((word for finder in _finders if (word := finder(verb))), verb)


register(
    {
        "webhook.add": _("Added a webhook"),
        "webhook.remove": _("Removed a webhook"),
        "access.refused": _("Was refused"),
        "audit.export": _("Exported the audit record"),
        "audit.retire": _("Dropped audit entries past their time"),
        "grant.end": _("A grant ended"),
        "grant.revoke": _("Revoked a grant"),
        "request.approve": _("Approved a request"),
        "request.ask_back": _("Asked the requester back"),
        "request.comment": _("Commented on a request"),
        "request.create": _("Asked for more"),
        "request.edit": _("Changed a request"),
        "request.escalate": _("Passed a waiting request on"),
        "request.reject": _("Rejected a request"),
        "request.set_rule": _("Changed a rule of requests"),
        "request.withdraw": _("Withdrew a request"),
        "quota.set_limit": _("Set a limit"),
        "sshkey.add": _("Added an SSH key"),
        "sshkey.remove": _("Removed an SSH key"),
        "team.by_groups": _("Team or role by groups of the provider"),
        "team.create": _("Made a team"),
        "team.invite": _("Invited into a team"),
        "team.join": _("Joined a team"),
        "team.remove_member": _("Removed from a team"),
        "team.rename": _("Renamed a team"),
        "team.revoke_invite": _("Revoked an invitation"),
        "team.set_member": _("Set a member's role"),
        "token.issue": _("Made an API token"),
        "token.revoke": _("Revoked an API token"),
        "user.change_password": _("Changed their password"),
        "user.add_second_factor": _("Added a second factor"),
        "user.remove_second_factor": _("Removed a second factor"),
        "user.reset_second_factor": _("Made new recovery codes"),
        "user.second_factor_failed": _("Gave a wrong second factor"),
        "user.connect_directory": _("Connected an account with the directory"),
        "user.create": _("Made an account"),
        "user.deactivate": _("Deactivated a person"),
        "user.end_sessions": _("Ended sessions"),
        "user.view_as": _("Began to view the site as"),
        "user.view_as_end": _("Ended viewing the site as"),
        "user.view_as_page": _("Viewed a page as"),
        "user.reactivate": _("Reactivated a person"),
        "user.reset_password": _("Gave a new password"),
        "user.left_directory": _("Was signed out: gone from the directory"),
        "user.set_admin": _("Changed who is an admin"),
        "user.set_name": _("Changed their name"),
        "user.sign_in": _("Signed in"),
        "user.sign_in_failed": _("Failed to sign in"),
        "user.sign_in_refused": _("Was not let in by the directory"),
        "user.sign_out": _("Signed out"),
        "user.sign_up": _("Signed up"),
        "vm.share": _("Shared a machine"),
        "vm.unshare": _("Ended a share"),
    }
)
