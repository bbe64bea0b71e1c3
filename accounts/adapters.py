from allauth.account.adapter import DefaultAccountAdapter
from django.conf import settings
from django.http import HttpRequest


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]
    """Sign-up is closed unless the admin opens it."""

    def is_open_for_signup(self, request: HttpRequest) -> bool:  # noqa: ARG002
        return bool(settings.OPEN_SIGNUP)
