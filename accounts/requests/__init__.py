"""Asking for more than a limit, and deciding over it.

    open ⇄ asked back -> approved | rejected | withdrawn

Who decides names the version that they have read: a second click, a second admin, a request that
was withdrawn or changed meanwhile get a clear answer, and nothing happens twice. What was asked
stays; what was granted stands beside it and becomes grants (``accounts.grants``). One that names a
machine asks for more time for it (``accounts.leases``) and for no amounts.

``asking``    what its requester does with it
``deciding``  what those do who decide
``rules``     what happens by itself
``reading``   finding one, its amounts, its deciders; the address of one already filled in
``inputs``    what may be asked for and granted
``progress``  the transition, its history, who is told
"""

from accounts.requests.asking import OPEN_MAX, ask, ask_for_time, comment, edit, withdraw
from accounts.requests.deciding import approve, ask_back, escalate, reject
from accounts.requests.inputs import TEXT_MAX
from accounts.requests.reading import asked, deciders, find, history, prefilled, prefilled_for
from accounts.requests.rules import rule, set_rule

__all__ = [
    "OPEN_MAX",
    "TEXT_MAX",
    "approve",
    "ask",
    "ask_back",
    "ask_for_time",
    "asked",
    "comment",
    "deciders",
    "edit",
    "escalate",
    "find",
    "history",
    "prefilled",
    "prefilled_for",
    "reject",
    "rule",
    "set_rule",
    "withdraw",
]
