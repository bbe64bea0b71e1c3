"""A person is told: by the bell at once, by mail as they chose, in their language."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.core import mail
from django.utils import timezone, translation

from accounts import notifications
from accounts.models import Notification, User
from accounts.notifications import notify

JOINED = {"who": "Otto", "team": "ops", "role": "member"}


def tell(user: User, **more: str) -> Notification:
    row = notify(user, "team.joined", **(JOINED | more))
    assert row is not None
    return row


def test_the_bell_counts_what_is_unread(browser, owner: User, outsider: User) -> None:
    row = tell(owner, url="/teams/")
    tell(owner)
    client = browser(owner)
    assert "2 unread notifications" in client.get("/").content.decode()
    assert "2 unread" in client.get("/notifications/?part=bell").content.decode()
    assert "Otto has joined the team ops" in client.get("/notifications/").content.decode()
    answer = client.post(f"/notifications/{row.pk}/")
    assert answer.status_code == 302
    assert answer["Location"] == "/teams/"
    assert notifications.unread_count(owner) == 1
    client.post("/notifications/read/")
    assert notifications.unread_count(owner) == 0
    assert browser(outsider).post(f"/notifications/{row.pk}/").status_code == 404
    assert "Otto" not in browser(outsider).get("/notifications/").content.decode()


def test_it_never_leads_off_the_site(browser, owner: User) -> None:
    row = tell(owner, url="//evil.example/")
    assert browser(owner).post(f"/notifications/{row.pk}/")["Location"] == "/notifications/"


def test_the_bell_rings_after_the_commit(
    owner: User, monkeypatch, django_capture_on_commit_callbacks
) -> None:
    rung: list[int] = []
    monkeypatch.setattr(notifications, "_ringers", [rung.append])
    with django_capture_on_commit_callbacks(execute=True):
        tell(owner)
        assert rung == []
    assert rung == [owner.pk]


def test_mail_speaks_the_readers_language(owner: User, settings) -> None:
    settings.SITE_URL = "https://vms.example.test"
    User.objects.filter(pk=owner.pk).update(language="zh-hans")
    owner.refresh_from_db()
    tell(owner, url="/teams/7/")
    with translation.override("en"):
        assert notifications.send_due_mail() == 1
        assert notifications.send_due_mail() == 0
    (sent,) = mail.outbox
    assert sent.to == [owner.email]
    assert "https://vms.example.test/teams/7/" in sent.body
    with translation.override("zh-hans"):
        assert notifications.text(Notification.objects.get()) in sent.body
    assert "joined" not in sent.body


def test_once_a_day_is_one_mail_together(owner: User) -> None:
    notifications.choose(owner, {"team": "daily"})
    tell(owner), tell(owner)
    assert notifications.send_due_mail() == 0
    tomorrow = timezone.now() + timedelta(days=1)
    assert all(timezone.now() < row.mail_due_at <= tomorrow for row in Notification.objects.all())
    Notification.objects.update(mail_due_at=timezone.now())
    assert notifications.send_due_mail() == 1
    assert mail.outbox[0].body.count("Otto") == 2


def test_not_by_mail(browser, owner: User) -> None:
    assert browser(owner).post("/profile/notifications/", {"team": "never"}).status_code == 302
    tell(owner)
    assert notifications.send_due_mail() == 0
    assert notifications.unread_count(owner) == 1
    assert browser(owner).post("/profile/notifications/", {"team": "shout"}).status_code == 422


def test_a_mail_server_that_is_away_loses_nothing(owner: User, monkeypatch) -> None:
    def away(*_args: object) -> None:
        raise OSError("connection refused")

    tell(owner)
    with monkeypatch.context() as patch:
        patch.setattr(notifications, "send_mail", away)
        assert notifications.send_due_mail() == 0
    row = Notification.objects.get()
    assert row.mail_due_at is not None
    assert row.mail_due_at > timezone.now()
    Notification.objects.update(mail_due_at=timezone.now())
    assert notifications.send_due_mail() == 1
    assert len(mail.outbox) == 1


def test_who_is_out_is_told_nothing(owner: User, outsider: User) -> None:
    tell(owner)
    owner.is_active = False
    owner.save()
    assert notify(owner, "team.joined", **JOINED) is None
    notifications.send_due_mail()
    assert mail.outbox == []


def test_a_code_without_words_is_a_programming_error(owner: User) -> None:
    for code in ("team.no_such", "nothing.joined"):
        with pytest.raises(LookupError):
            notify(owner, code)


def test_times_are_shown_in_the_readers_way(owner: User, monkeypatch) -> None:
    monkeypatch.setitem(notifications.messages._messages, "notice.team.until", "until %(end_at)s")
    row = notify(owner, "team.until", end_at=timezone.now().replace(year=2031, month=2, day=3))
    assert row is not None
    assert "2031" in notifications.text(row)
    assert "T" not in notifications.text(row).split("until")[1]
