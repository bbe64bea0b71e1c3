"""Every change that a page or the API makes leaves an entry in the audit record."""

from __future__ import annotations

import re

import pytest
from django.core.cache import cache
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from accounts.models import AuditEntry
from tests.security import ways_in
from tests.security.ways_in import Example, ask, outcome
from tests.security.ways_world import ROLES, World

pytestmark = pytest.mark.django_db
RULES, WAYS = ways_in.read()
CHANGES = {way: rule for way, rule in WAYS.items() if not way.startswith(("WS ", "GET ", "HEAD "))}
_WRITES = re.compile(r'^(INSERT INTO|UPDATE|DELETE FROM) "(\w+)"')
NO_CHANGE = {"accounts_auditentry", "accounts_apitoken", "django_session"}
# Taste, news and questions, which change nothing for anybody else.
NOT_OF_THE_RECORD = {
    "POST /i18n/setlang",
    "POST /profile/preferences/",
    "PATCH /api/v1/me",  # language and theme; a name is in the record
    "POST /notifications/read/",
    "POST /notifications/{notification_id}/",
    "POST /api/v1/me/notifications/read",
    "POST /api/v1/me/notifications/{notification_id}/read",
    "PATCH /api/v1/me/notification-choices",
    "POST /profile/webhooks/{webhook_id}/test/",
    "POST /api/v1/me/webhooks/{webhook_id}/test",
    "POST /teams/{team_id}/webhooks/{webhook_id}/test/",
    "POST /api/v1/teams/{team_id}/webhooks/{webhook_id}/test",
    # Its begin and its end are in it.
    "PATCH /api/v1/images/{image_id}/upload",
    # A ticket; the console that it opens is.
    "POST /api/v1/vms/{uuid}/console",
    "POST /machines/{uuid}/console/control/withdraw/",
    "DELETE /api/v1/vms/{uuid}/console/ask",
}


def test_it_is(world: World, examples: dict[str, Example]) -> None:
    silent: dict[str, set[str]] = {}
    for way, rule in CHANGES.items():
        example = examples.get(way, Example())
        role = next(one for one in reversed(ROLES) if RULES[rule][one] == "yes")
        with transaction.atomic():
            cache.clear()
            if example.before:
                example.before(world, role)
            before = AuditEntry.objects.count()
            with CaptureQueriesContext(connection) as queries:
                answer = ask(world, way, example, role)
            written = {
                found[2] for one in queries if (found := _WRITES.match(one["sql"]))
            } - NO_CHANGE
            told = AuditEntry.objects.count() > before
            transaction.set_rollback(True)
        assert outcome(answer, example, "yes") == "yes", (way, role)
        if written and not told:
            silent[way] = written
    unforeseen = {way: tables for way, tables in silent.items() if way not in NOT_OF_THE_RECORD}
    assert not unforeseen, "\n".join(f"{way} writes {t}" for way, t in unforeseen.items())
    assert not NOT_OF_THE_RECORD - set(silent), "these are in the record: take them off the list"
