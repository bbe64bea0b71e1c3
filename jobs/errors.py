"""What goes wrong inside a job: interrupts of the engine, and errors of steps as codes.

    Interrupt (BaseException)  the engine ends a step from outside; no ``except Exception`` of a
    │                          step may swallow it
    ├── LeaseLost              another worker owns the job now, or may own it soon
    ├── CancelRequested        a person asked to stop
    └── DeadlinePassed
    CommandTimeout             a subprocess of a step ran too long

Steps raise ``DomainError`` or errors of the virt seam. This app is below the one that owns that
seam, so such an error is known by what it carries (``CodedError``), not by its class.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from django.db import InterfaceError, OperationalError

from accounts.errors import DomainError
from jobs.registry import Transient

logger = logging.getLogger(__name__)

INTERNAL = "job.internal"
DEADLINE = "job.deadline"
WORKER_LOST = "job.worker_lost"
CLEANUP_INCOMPLETE = "job.cleanup_incomplete"
UNKNOWN_KIND = "job.unknown_kind"
COMMAND_TIMEOUT = "job.command_timeout"


class Interrupt(BaseException):
    pass


class LeaseLost(Interrupt):
    pass


class CancelRequested(Interrupt):
    pass


class DeadlinePassed(Interrupt):
    pass


class CommandTimeout(Exception):  # noqa: N818 - named like subprocess.TimeoutExpired
    def __init__(self, program: str, timeout_s: float) -> None:
        super().__init__(f"{program} took longer than {timeout_s:g} s")


@runtime_checkable
class CodedError(Protocol):
    """What ``hosts.virt.errors.VirtError`` carries."""

    code: str
    ref: str
    transient: bool


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a step failed, as it is stored and shown."""

    code: str
    params: dict[str, Any] = field(default_factory=dict)
    ref: str = ""  # finds the raw text in the log; "" where there is nothing more to find
    transient: bool = False


def translate(error: Exception, *, where: str) -> Failure:
    """The failure that ``error`` stands for; its raw text goes to the log under the reference."""
    failure = _failure(error)
    if failure.ref:
        logger.warning("%s failed [ref %s]", where, failure.ref, exc_info=error)
    else:
        logger.info("%s failed: %s", where, failure.code)
    return failure


def _failure(error: Exception) -> Failure:
    if isinstance(error, Transient):
        inner = error.__cause__
        if isinstance(inner, Exception) and not isinstance(inner, Transient):
            known = _failure(inner)
            return Failure(code=known.code, params=known.params, ref=known.ref, transient=True)
        return Failure(code=INTERNAL, ref=new_ref(), transient=True)
    if isinstance(error, DomainError):
        return Failure(code=error.code, params=_json_ready(error.params))
    if isinstance(error, CodedError):
        # Its message may name the reference, wherever it is shown.
        params = {"ref": error.ref}
        return Failure(code=error.code, params=params, ref=error.ref, transient=error.transient)
    if isinstance(error, CommandTimeout):
        return Failure(code=COMMAND_TIMEOUT, ref=new_ref())
    # The database went away for a moment, or another process holds its lock.
    away = isinstance(error, (OperationalError, InterfaceError))
    return Failure(code=INTERNAL, ref=new_ref(), transient=away)


def new_ref() -> str:
    return secrets.token_hex(4)


def _json_ready(params: dict[str, Any]) -> dict[str, Any]:
    plain = (bool, int, float, str, list, dict, type(None))
    return {key: value if isinstance(value, plain) else str(value) for key, value in params.items()}
