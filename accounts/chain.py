"""The audit record as a chain: each entry's hash covers its content and the hash before it.

Entries are written in the transactions that they tell of and get their place in the chain right
after the commit, in a short transaction of its own: a lock that is held to the end of every
audited transaction would make them wait for each other. A process that dies between the two leaves
the entry to the next one that seals. Ids may commit out of order, so the chain counts by ``seq``.

The hash is an HMAC by a key made of the site's secret: who can write the database, but does not
know the secret, cannot change or remove an entry unseen. Old entries can be dropped from the front
(``retire``): an anchor keeps the hash that the rest hangs on.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from datetime import timezone as tz

from django.conf import settings
from django.db import DatabaseError, connection, models, transaction
from django.utils import timezone
from django.utils.encoding import force_bytes

from accounts.models import AuditAnchor, AuditEntry

logger = logging.getLogger(__name__)

AT_A_TIME = 500
UNSEALED_FOR = timedelta(minutes=5)  # longer is a finding: seals come within milliseconds
_SALT = b"kvmweb.accounts.audit:"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What ``verify`` has found. ``broken`` is the first place where the chain does not hold."""

    checked: int
    first: int
    head: int
    head_hash: str
    broken: int | None = None
    why: str = ""  # changed | missing | unsealed | anchor | head

    @property
    def holds(self) -> bool:
        return not self.why


def seal_on_commit() -> None:
    """Once for each transaction, however many entries it writes."""
    if any(task[1] is _seal_quietly for task in connection.run_on_commit):
        return
    transaction.on_commit(_seal_quietly)


def seal() -> int:
    """Give every committed entry without a place its place; how many they were."""
    sealed = 0
    while True:
        with transaction.atomic():
            anchor = _lock()
            rows = list(_unsealed().order_by("id")[:AT_A_TIME])
            if not rows:
                return sealed
            seq, previous = _head(anchor)
            for row in rows:
                seq += 1
                previous = digest(previous, row, _keys()[0])
                # The entry itself is append-only; only its place may be filled in, once.
                models.QuerySet(AuditEntry).filter(pk=row.pk, seq__isnull=True).update(
                    seq=seq, hash=previous
                )
            sealed += len(rows)


def verify(*, expect: tuple[int, str] | None = None) -> Verdict:
    """Follow the chain from its anchor. ``expect`` is a place and its hash that were noted
    earlier: without it nobody can tell a chain whose newest end was cut off."""
    anchor = AuditAnchor.objects.filter(pk=AuditAnchor.ONLY).first()
    seq, previous = (anchor.seq, anchor.hash) if anchor else (0, "")
    first = seq + 1
    found_expected = expect is None or expect == (seq, previous)
    if anchor is not None and anchor.seq and not _is_anchor(anchor):
        return Verdict(
            checked=0, first=first, head=seq, head_hash=previous, broken=seq, why="anchor"
        )
    for row in _sealed().order_by("seq").iterator(chunk_size=AT_A_TIME):
        why = _fault(row, seq + 1, previous)
        if why:
            return Verdict(
                checked=seq + 1 - first,
                first=first,
                head=seq,
                head_hash=previous,
                broken=seq + 1,
                why=why,
            )
        seq, previous = seq + 1, row.hash
        found_expected = found_expected or expect == (seq, previous)
    why, broken = "", None
    if not found_expected and expect is not None and expect[0] >= first:
        why, broken = "head", expect[0]
    elif _unsealed().filter(at__lt=timezone.now() - UNSEALED_FOR).exists():
        why, broken = "unsealed", seq + 1
    return Verdict(
        checked=seq + 1 - first, first=first, head=seq, head_hash=previous, broken=broken, why=why
    )


def retire(before: datetime, *, note: Callable[[int], object]) -> int:
    """Drop entries older than ``before`` from the front of the chain; how many they were.

    What is dropped is only ever a whole beginning, so that the rest stays verifiable from the
    anchor. ``note`` records it, in the same transaction.
    """
    with transaction.atomic():
        anchor = _lock()
        kept = _sealed().filter(at__gte=before).order_by("seq").values_list("seq", flat=True)
        newest_kept = kept.first()
        rows = _sealed().filter(at__lt=before)
        if newest_kept is not None:
            rows = rows.filter(seq__lt=newest_kept)
        last = rows.order_by("-seq").first()
        if last is None:
            return 0
        AuditAnchor.objects.filter(pk=anchor.pk).update(
            seq=last.seq, hash=last.hash, seal=_sign_anchor(last.seq or 0, last.hash, _keys()[0])
        )
        # Past the guard of the model: this is the one way in which entries go.
        everything: models.QuerySet[AuditEntry, AuditEntry] = models.QuerySet(AuditEntry)
        doomed = everything.filter(seq__lte=last.seq)
        count = int(doomed._raw_delete(using=connection.alias))
        note(count)
    return count


def digest(previous: str, row: AuditEntry, key: bytes) -> str:
    """HMAC-SHA256 over the hash before and the content, as JSON with sorted keys."""
    content = {
        "id": row.pk,
        "at": row.at.astimezone(tz.utc).isoformat(),
        "actor": row.actor_id,
        "actor_name": row.actor_name,
        "verb": row.verb,
        "target": [row.target_type, row.target_id, row.target_name],
        "team": row.team_id_at,
        "address": row.address,
        "request": row.request_id,
        "job": row.job_id,
        "before": row.before,
        "after": row.after,
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hmac.new(key, f"{previous}\n{text}".encode(), hashlib.sha256).hexdigest()


def _fault(row: AuditEntry, seq: int, previous: str) -> str:
    if row.seq != seq:
        return "missing"
    if not _is_one_of(row.hash, (digest(previous, row, key) for key in _keys())):
        return "changed"
    return ""


def _is_anchor(anchor: AuditAnchor) -> bool:
    signed = (_sign_anchor(anchor.seq, anchor.hash, key) for key in _keys())
    return _is_one_of(anchor.seal, signed)


def _sign_anchor(seq: int, head: str, key: bytes) -> str:
    return hmac.new(key, f"anchor {seq} {head}".encode(), hashlib.sha256).hexdigest()


def _is_one_of(given: str, good: Iterable[str]) -> bool:
    return any(hmac.compare_digest(given, one) for one in good)


def _keys() -> list[bytes]:
    """The present key first; earlier ones still verify what was written under them."""
    secrets = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    return [hashlib.sha256(_SALT + force_bytes(secret)).digest() for secret in secrets]


def _lock() -> AuditAnchor:
    """On PostgreSQL the anchor's row; on SQLite the writing transaction itself."""
    AuditAnchor.objects.get_or_create(pk=AuditAnchor.ONLY)
    return AuditAnchor.objects.select_for_update().get(pk=AuditAnchor.ONLY)


def _head(anchor: AuditAnchor) -> tuple[int, str]:
    last = _sealed().order_by("-seq").only("seq", "hash").first()
    return (last.seq or 0, last.hash) if last else (anchor.seq, anchor.hash)


def _sealed() -> models.QuerySet[AuditEntry, AuditEntry]:
    return AuditEntry.objects.filter(seq__isnull=False)


def _unsealed() -> models.QuerySet[AuditEntry, AuditEntry]:
    return AuditEntry.objects.filter(seq__isnull=True)


def _seal_quietly() -> None:
    try:
        seal()
    except DatabaseError:
        # What was asked for is done and committed; the next entry seals this one as well.
        logger.exception("an audit entry waits for its place in the chain")
