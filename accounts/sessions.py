"""Is a browser's session still good? Asked where no request asks: by sockets that stay open.

The row alone does not say so: a changed password makes sessions worthless (their hash differs),
and their rows are deleted only when they are used again.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.auth import HASH_SESSION_KEY, SESSION_KEY
from django.utils.crypto import constant_time_compare

from accounts.models import User


def is_live(session_key: str, user: User) -> bool:
    """Whether ``user``, as the database has them now, is signed in by this session."""
    store: Any = import_module(settings.SESSION_ENGINE).SessionStore(session_key)
    said = store.load()
    if said.get(SESSION_KEY) != str(user.pk):
        return False
    given = str(said.get(HASH_SESSION_KEY, ""))
    good = [user.get_session_auth_hash(), *user.get_session_auth_fallback_hash()]
    return any(constant_time_compare(given, one) for one in good)
