"""The audit record cannot be changed unseen; admins search and export it; its beginning may go."""

from __future__ import annotations

import csv
import io
import json
import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, models, transaction
from django.test import Client
from django.utils import timezone

from accounts import audit, audit_log, chain
from accounts.models import AuditAnchor, AuditEntry, Team, User

pytestmark = pytest.mark.django_db(transaction=True)


def written(owner: User, count: int = 5) -> list[AuditEntry]:
    """Entries in the chain, after those that made the people."""
    made = [
        audit.record(owner, "team.rename", after={"n": n, "text": "é\u2028", "share": 0.1 + n})
        for n in range(count)
    ]
    return list(AuditEntry.objects.filter(pk__in=[one.pk for one in made]).order_by("seq"))


def raw(**where: object) -> models.QuerySet[AuditEntry, AuditEntry]:
    """Past the guard, as somebody with the database in hand."""
    rows: models.QuerySet[AuditEntry, AuditEntry] = models.QuerySet(AuditEntry)
    return rows.filter(**where)


def test_every_entry_has_its_place(owner: User) -> None:
    rows = written(owner)
    assert [row.seq for row in rows] == list(range(rows[0].seq or 0, (rows[0].seq or 0) + 5))
    assert len({row.hash for row in rows}) == 5
    assert chain.verify().holds


def test_one_transaction_seals_once_and_only_when_it_commits(owner: User) -> None:
    with transaction.atomic():
        audit.record(owner, "team.rename", target_name="rolled back")
        transaction.set_rollback(True)
    assert not AuditEntry.objects.filter(target_name="rolled back").exists()
    with transaction.atomic():
        for _ in range(3):
            audit.record(owner, "team.rename")
        sealing = [task for task in connection.run_on_commit if task[1] is chain._seal_quietly]
        assert len(sealing) == 1
        assert AuditEntry.objects.filter(seq__isnull=True).count() == 3
    assert not AuditEntry.objects.filter(seq__isnull=True).exists()
    assert chain.verify().holds


@pytest.mark.parametrize(
    "change",
    [
        {"verb": "team.create"},
        {"actor_name": "sauron"},
        {"after": {"n": 99}},
        {"address": "203.0.113.9"},
        {"at": timezone.now() - timedelta(days=3)},
        {"target_id": "7"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_entry_shows(owner: User, change: dict[str, object]) -> None:
    rows = written(owner)
    raw(pk=rows[2].pk).update(**change)
    found = chain.verify()
    assert (found.why, found.broken) == ("changed", rows[2].seq)


def test_a_removed_entry_shows(owner: User) -> None:
    rows = written(owner)
    raw(pk=rows[2].pk)._raw_delete(using="default")
    assert chain.verify().why == "missing"


def test_a_forged_entry_shows(owner: User) -> None:
    """Who does not know the site's secret cannot compute a hash."""
    rows = written(owner)
    raw(pk=rows[4].pk).update(verb="user.sign_in", hash="0" * 64)
    assert chain.verify().why == "changed"


def test_entries_that_changed_places_show(owner: User) -> None:
    rows = written(owner)
    raw(pk=rows[1].pk).update(seq=-1)
    raw(pk=rows[2].pk).update(seq=rows[1].seq)
    raw(pk=rows[1].pk).update(seq=rows[2].seq)
    assert chain.verify().why == "changed"


def test_a_cut_off_end_shows_against_a_noted_head(owner: User, capsys) -> None:
    rows = written(owner)
    call_command("verify_audit")
    noted = capsys.readouterr().out.strip().splitlines()[-1]
    written(owner, 2)
    call_command("verify_audit", expect=noted)
    raw(seq__gte=rows[3].seq)._raw_delete(using="default")
    assert chain.verify().holds, "without the note nobody can tell"
    with pytest.raises(CommandError):
        call_command("verify_audit", expect=noted)


def test_the_command_fails_on_a_broken_chain(owner: User) -> None:
    rows = written(owner)
    raw(pk=rows[1].pk).update(verb="x")
    with pytest.raises(CommandError, match="tampered"):
        call_command("verify_audit")


def test_an_older_key_still_verifies(owner: User, settings) -> None:
    written(owner)
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "another"
    written(owner)
    assert chain.verify().holds
    settings.SECRET_KEY_FALLBACKS = []
    assert chain.verify().why == "changed"


def test_many_at_once_make_one_chain(owner: User) -> None:
    """Threads with connections of their own, as workers have: no fork, no gap, no lost entry."""
    before = AuditEntry.objects.count()
    failed: list[Exception] = []

    def work() -> None:
        try:
            for _ in range(8):
                with transaction.atomic():
                    audit.record(owner, "team.rename")
        except Exception as error:  # noqa: BLE001 - shown below
            failed.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    chain.seal()
    assert AuditEntry.objects.count() == before + 48
    seqs = list(AuditEntry.objects.order_by("seq").values_list("seq", flat=True))
    assert seqs == list(range(1, len(seqs) + 1))
    assert chain.verify().holds


def test_an_entry_that_a_dying_process_left_is_sealed_later(owner: User, monkeypatch) -> None:
    monkeypatch.setattr(chain, "seal_on_commit", lambda: None)
    audit.record(owner, "team.rename")
    assert chain.verify().holds  # it is young
    raw(seq__isnull=True).update(at=timezone.now() - timedelta(hours=1))
    assert chain.verify().why == "unsealed"
    assert chain.seal() == 1
    assert chain.verify().holds


# --- how long it is kept -------------------------------------------------------------------------
def test_the_beginning_goes_and_the_rest_holds(owner: User, settings) -> None:
    rows = written(owner, 6)
    raw(seq__lte=rows[2].seq).update(at=timezone.now() - timedelta(days=400))
    # As they would be had they been written then.
    raw(seq__isnull=False).update(seq=None, hash="")
    chain.seal()
    settings.AUDIT_DAYS = 365
    dropped = audit_log.retire_old()
    assert dropped >= 3
    assert not AuditEntry.objects.filter(pk=rows[2].pk).exists()
    found = chain.verify()
    assert found.holds
    assert found.first == dropped + 1
    assert AuditEntry.objects.filter(verb="audit.retire").get().after["entries"] == dropped
    assert audit_log.retire_old() == 0
    AuditAnchor.objects.update(hash="0" * 64)
    assert chain.verify().why == "anchor"


def test_nothing_goes_unless_it_is_asked_for(owner: User, settings) -> None:
    written(owner)
    raw().update(at=timezone.now() - timedelta(days=4000))
    assert settings.AUDIT_DAYS == 0
    assert audit_log.retire_old() == 0


# --- reading it ----------------------------------------------------------------------------------
def test_admins_search(
    admin: User, owner: User, team: Team, browser: Callable[[User], Client]
) -> None:
    audit.record(owner, "team.rename", team, before={"name": "a"}, after={"password": "hunter2"})
    audit.record(admin, "vm.share", team)
    client = browser(admin)
    page = client.get("/admin/audit/").content.decode()
    assert "Renamed a team" in page
    assert "Shared a machine" in page
    assert "hunter2" not in page
    rows = "/admin/audit/?part=rows&"
    assert "Renamed" not in client.get(f"{rows}who=admin").content.decode()
    assert "Renamed" in client.get(f"{rows}who=owner&q=rivendell").content.decode()
    assert "Renamed" in client.get(f"{rows}verb=team.rename").content.decode()
    assert "Renamed" in client.get(f"{rows}verb=team").content.decode()
    today = timezone.now().date()
    assert "Renamed" in client.get(f"{rows}since={today}&until={today}").content.decode()
    tomorrow = today + timedelta(days=1)
    assert "Renamed" not in client.get(f"{rows}since={tomorrow}").content.decode()
    for odd in ("since=2026-02-31", "before=x", "before=99999999999999999999", "q=%25"):
        assert client.get(f"{rows}{odd}").status_code == 200
    assert browser(owner).get("/admin/audit/").status_code == 403


def test_pages_go_back_without_gaps(admin: User, browser: Callable[[User], Client]) -> None:
    for n in range(130):
        AuditEntry.objects.create(actor_name="bulk", verb="team.rename", target_name=f"t{n}.")
    seen, at = [], "/admin/audit/?who=bulk"
    for _ in range(2):
        answer = browser(admin).get(at)
        seen += [one["entry"].target_name for one in answer.context["entries"]]
        at = f"/admin/audit/?{answer.context['older']}"
    assert seen == [f"t{n}." for n in reversed(range(130))]


def test_export(admin: User, owner: User, browser: Callable[[User], Client]) -> None:
    audit.record(owner, "team.rename", target_name="=cmd()", after={"n": 1})
    client = browser(admin)
    assert client.get("/admin/audit/export/csv/").status_code == 405
    answer = client.post("/admin/audit/export/csv/", {"who": "owner", "verb": "team.rename"})
    assert answer.streaming
    (line,) = list(csv.DictReader(io.StringIO(answer.getvalue().decode())))
    assert line["target_name"] == "'=cmd()"
    assert json.loads(line["after"]) == {"n": 1}
    answer = client.post("/admin/audit/export/jsonl/", {"verb": "team.rename"})
    (row,) = [json.loads(text) for text in answer.getvalue().decode().splitlines()]
    assert row["actor"] == "owner"
    assert len(row["hash"]) == 64
    assert AuditEntry.objects.filter(verb="audit.export", actor=admin).count() == 2
    assert client.post("/admin/audit/export/xml/").status_code == 404
    assert browser(owner).post("/admin/audit/export/csv/").status_code == 403


def test_it_stays_append_only(owner: User) -> None:
    row = written(owner, 1)[0]
    for change in (row.save, row.delete, AuditEntry.objects.all().delete):
        with pytest.raises(TypeError):
            change()
    with pytest.raises(TypeError):
        AuditEntry.objects.update(verb="x")
