"""Where a machine can move to, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from accounts import messages

if TYPE_CHECKING:
    from hosts.placement import Place


def why_not(place: Place) -> str:
    """ "": it fits."""
    if place.refusal is None:
        return ""
    return messages.text(f"{place.refusal['code']}.short", place.refusal)
