"""What people are told: the bell in the frame, and mail in their own language.

``notify`` is called inside the transaction of what it tells of. The words of ``notify(user,
"team.joined", team="ops")`` are the message ``notice.team.joined`` of ``accounts.messages``; its
topic is ``team``, the part before the first dot, for which each person chooses how it comes by
mail. Mail that is due lies in the rows, so a digest is only mail that is due later, and a mail
server that is away loses nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.mail import send_mail
from django.db import transaction
from django.db.models import QuerySet
from django.template.loader import render_to_string
from django.utils import timezone, translation
from django.utils.dateparse import parse_datetime
from django.utils.formats import date_format
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from accounts import messages
from accounts.errors import Invalid, NotFound
from accounts.models import Notification, NotificationChoice, Team, User

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise

logger = logging.getLogger(__name__)

Mail = NotificationChoice.Mail
DIGEST_HOUR = 8  # of the site's time zone
KEPT = timedelta(days=90)
MAX_MAIL_TRIES = 8
_RETRY_AFTER = timedelta(minutes=5)
_PEOPLE_AT_A_TIME = 100
_IN_ONE_MAIL = 50
_NO_MAIL = ("console", "dummy")

Ringer = Callable[[int], None]
_ringers: list[Ringer] = []
_listeners: list[Callable[[Notification], None]] = []
_team_listeners: list[Callable[[TeamNews], None]] = []
_topics: dict[str, tuple[str | _StrPromise, Mail]] = {}
_team_topics: dict[str, str | _StrPromise] = {}


@dataclass(frozen=True, kw_only=True)
class TeamNews:
    """What has happened to a team, told once however many people are told of it."""

    team: Team
    code: str
    params: Mapping[str, Any]
    url: str


def register_topic(
    topic: str,
    label: str | _StrPromise,
    *,
    mail: Mail = Mail.NOW,
    of_team: str | _StrPromise = "",
) -> None:
    """A kind of news that people choose for, and how it comes by mail until they do. ``of_team``:
    what it is called for a team, where teams have such news (``announce``)."""
    _topics[topic] = (label, mail)
    if of_team:
        _team_topics[topic] = of_team


def on_notified(ring: Ringer) -> Ringer:
    """Register who is told, after the commit, that a person (by id) has news."""
    if ring not in _ringers:
        _ringers.append(ring)
    return ring


def notify(user: User, code: str, *, url: str = "", **params: Any) -> Notification | None:
    """Tell a person. ``url`` is the path that it leads to; ``params`` fill its words.

    Times are given as datetimes under names that end in ``_at`` and are shown in the reader's
    way. A deactivated person is told nothing. Raises ``LookupError`` for a code without words or
    a topic that is not registered.
    """
    topic = code.partition(".")[0]
    if topic not in _topics or not messages.is_known(f"notice.{code}"):
        raise LookupError(code)
    if not user.is_active:
        return None
    row = Notification.objects.create(
        user=user,
        code=code,
        params={name: _stored(value) for name, value in params.items()},
        url=url,
        mail_due_at=_mail_due(user, topic),
    )
    for listener in tuple(_listeners):
        listener(row)
    ring_on_commit(user.pk)
    return row


def announce(
    team: Team, people: Iterable[User], code: str, /, *, url: str = "", **params: Any
) -> None:
    """``notify`` each of these people of what concerns their team, and whoever listens for the
    team once. In the words for the team (``team_notice.<code>``, else the same) nobody is "you":
    who was told is named by the params. For what every manager of the team may know."""
    if code.partition(".")[0] not in _team_topics:
        raise LookupError(code)
    for person in people:
        notify(person, code, url=url, **params)
    stored = {name: _stored(value) for name, value in params.items()}
    for listener in tuple(_team_listeners):
        listener(TeamNews(team=team, code=code, params=stored, url=url))


def on_team_notice(listener: Callable[[TeamNews], None]) -> None:
    """Register who hears of each piece of a team's news, in its transaction."""
    if listener not in _team_listeners:
        _team_listeners.append(listener)


def on_notice(listener: Callable[[Notification], None]) -> None:
    """Register who hears of each, in its transaction: another channel."""
    if listener not in _listeners:
        _listeners.append(listener)


def ring_on_commit(user_id: int) -> None:
    def ring() -> None:
        for ringer in tuple(_ringers):
            ringer(user_id)

    transaction.on_commit(ring)


def text(row: Notification) -> str:
    """Its words in the active language."""
    return words(row.code, row.params)


def words(code: str, params: Mapping[str, Any], *, of_team: bool = False) -> str:
    """What a code says in the active language, to a person or to their team."""
    key = f"team_notice.{code}"
    if not of_team or not messages.is_known(key):
        key = f"notice.{code}"
    return messages.text(key, {name: _shown(name, value) for name, value in params.items()})


def of(user: User) -> QuerySet[Notification, Notification]:
    """The newest first."""
    return Notification.objects.filter(user=user)


def unread_count(user: User) -> int:
    return Notification.objects.filter(user=user, read_at__isnull=True).count()


def mark_read(user: User, notification_id: int | None = None) -> Notification | None:
    """One of them, or all; returns the one. ``NotFound`` for what is not theirs."""
    rows = of(user)
    one = None
    if notification_id is not None:
        rows = rows.filter(pk=notification_id)
        one = rows.first()
        if one is None:
            raise NotFound
    with transaction.atomic():
        if rows.filter(read_at__isnull=True).update(read_at=timezone.now()):
            ring_on_commit(user.pk)
    return one


def choices(user: User) -> dict[str, Mail]:
    """How each topic comes by mail."""
    chosen = dict(NotificationChoice.objects.filter(user=user).values_list("topic", "mail"))
    return {topic: Mail(chosen.get(topic, default)) for topic, (_label, default) in _topics.items()}


def topics() -> dict[str, str]:
    """Topic -> what it is called, in the active language."""
    return {topic: str(label) for topic, (label, _mail) in _topics.items()}


def team_topics() -> dict[str, str]:
    """The same of what teams have news of."""
    return {topic: str(label) for topic, label in _team_topics.items()}


def choose(user: User, wanted: Mapping[str, str]) -> None:
    """Store how topics come by mail from now on."""
    wrong = {
        topic: "notice.choice_unknown"
        for topic, mail in wanted.items()
        if topic not in _topics or mail not in Mail.values
    }
    if wrong:
        raise Invalid("notice.choice_unknown", fields=wrong)
    with transaction.atomic():
        for topic, mail in wanted.items():
            NotificationChoice.objects.update_or_create(
                user=user, topic=topic, defaults={"mail": mail}
            )


def mail_is_set_up() -> bool:
    """Without a mail server nothing is sent, and pages do not offer it."""
    return not any(f".{word}." in settings.EMAIL_BACKEND for word in _NO_MAIL)


def send_due_mail() -> int:
    """Send every person what is due, in one mail; returns how many mails left.

    A row is claimed before its mail is sent and settled after it, so that two workers do not send
    the same; a worker that dies in between sends it again later.
    """
    due = Notification.objects.filter(
        mail_due_at__lte=timezone.now(), mail_tries__lt=MAX_MAIL_TRIES
    )
    people = due.order_by("user").values_list("user_id", flat=True).distinct()
    return sum(_send_to(user_id) for user_id in list(people[:_PEOPLE_AT_A_TIME]))


def forget_old() -> None:
    """What was told long ago, read or not."""
    Notification.objects.filter(created_at__lt=timezone.now() - KEPT).delete()


def language_of(user: User) -> str:
    return user.language or settings.LANGUAGE_CODE


def site_link(path: str, *, base: str = "") -> str:
    """A path as a mail can link it, on ``base`` (``https://host``) or nowhere (empty) where the
    site's own address is not set."""
    site = settings.SITE_URL.rstrip("/") or base
    return f"{site}{path}" if site and path else ""


def _send_to(user_id: int) -> int:
    user = User.objects.get(pk=user_id)
    rows = _claim(user)
    if not rows:
        return 0
    if user.email and user.is_active:
        try:
            _send(user, rows)
        except OSError as error:  # smtplib's errors are OSErrors
            logger.warning("mail to user %s was not sent: %s", user.pk, error)
            return 0
    Notification.objects.filter(pk__in=[row.pk for row in rows]).update(mail_due_at=None)
    return 1


def _claim(user: User) -> list[Notification]:
    now = timezone.now()
    with transaction.atomic():
        rows = list(
            of(user)
            .select_for_update()
            .filter(mail_due_at__lte=now, mail_tries__lt=MAX_MAIL_TRIES)
            .order_by("id")[:_IN_ONE_MAIL]
        )
        for row in rows:
            row.mail_tries += 1
            row.mail_due_at = now + _RETRY_AFTER * 2 ** (row.mail_tries - 1)
        Notification.objects.bulk_update(rows, ["mail_tries", "mail_due_at"])
    return rows


def _send(user: User, rows: list[Notification]) -> None:
    with translation.override(language_of(user)):
        items = [{"text": text(row), "link": site_link(row.url)} for row in rows]
        subject = (
            items[0]["text"].split("\n")[0]
            if len(items) == 1
            else ngettext("%(n)d message", "%(n)d messages", len(items)) % {"n": len(items)}
        )
        body = render_to_string(
            "accounts/mail/notices.txt", {"person": user.display_name(), "items": items}
        )
        send_mail(f"KVMWeb: {subject}"[:200], body, None, [user.email])


def _mail_due(user: User, topic: str) -> datetime | None:
    if not user.email or not mail_is_set_up():
        return None
    row = NotificationChoice.objects.filter(user=user, topic=topic).first()
    match Mail(row.mail) if row else _topics[topic][1]:
        case Mail.NOW:
            return timezone.now()
        case Mail.DAILY:
            return next_digest()
        case _:
            return None


def next_digest() -> datetime:
    """When what comes once a day is next sent."""
    here = timezone.localtime()
    moment = here.replace(hour=DIGEST_HOUR, minute=0, second=0, microsecond=0)
    return moment if moment > here else moment + timedelta(days=1)


def _stored(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return value if isinstance(value, (int, float, bool, type(None))) else str(value)


def _shown(name: str, value: Any) -> Any:
    if not name.endswith("_at") or not isinstance(value, str):
        return value
    moment = parse_datetime(value)
    if moment is None:
        return value
    return date_format(timezone.localtime(moment), "DATETIME_FORMAT")


register_topic("team", _("Teams"), of_team=_("Who joins and leaves, and roles"))
register_topic("sharing", _("Machines that are shared with me or given to me"))
