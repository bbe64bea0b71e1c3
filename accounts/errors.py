"""What can go wrong in a request, as codes and parameters. The text is made at the edge.

    DomainError                a person asked for something that cannot be done (409)
    ├── NotFound               it does not exist, or not for this person (404)
    ├── Forbidden              they see it, but may not do this with it (403)
    ├── Invalid                the input is wrong; ``fields`` says where (422)
    ├── Conflict               not in this state, or somebody was quicker (409)
    │   └── Busy               another job works on it (409)
    ├── QuotaExceeded          a limit would be passed (403); params name it
    ├── TooMany                asked too often (429)
    └── Unavailable            a part that is needed does not answer (503)

``kvmweb.middleware`` turns one into a page, a fragment or problem details (RFC 9457), with the
message that ``accounts.messages`` holds for its code, in the reader's language.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class DomainError(Exception):
    """``code`` is a stable key like ``vm.name_taken``; ``params`` fill its message."""

    status: ClassVar[int] = 409

    def __init__(
        self,
        code: str,
        *,
        fields: Mapping[str, str] | None = None,
        field_params: Mapping[str, Mapping[str, Any]] | None = None,
        **params: Any,
    ) -> None:
        super().__init__(code)
        self.code = code
        self.params = params
        self.fields: dict[str, str] = dict(fields or {})  # input field -> message code
        # What only one field's message needs, where several fields are wrong at once.
        self.field_params = {name: dict(own) for name, own in (field_params or {}).items()}


class NotFound(DomainError):  # noqa: N818
    status = 404

    def __init__(self, code: str = "not_found", **params: Any) -> None:
        super().__init__(code, **params)


class Forbidden(DomainError):  # noqa: N818
    status = 403


class Invalid(DomainError):  # noqa: N818
    """``fields`` maps an input's name to the code of its message; ``params`` serve all of them."""

    status = 422


class Conflict(DomainError):  # noqa: N818
    status = 409


class Busy(Conflict):
    pass


class QuotaExceeded(DomainError):  # noqa: N818
    """params: resource, scope, team, hard, used, asked, missing."""

    status = 403


class TooMany(DomainError):  # noqa: N818
    status = 429


class Unavailable(DomainError):  # noqa: N818
    status = 503
