"""What a person is told is posted to their webhook: signed, bounded, and nowhere inside."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from django.utils import timezone

from accounts import notifications, requests, teams, webhooks
from accounts.errors import Conflict, Forbidden, Invalid, NotFound
from accounts.models import (
    AuditEntry,
    Notification,
    Resource,
    Team,
    User,
    Webhook,
    WebhookDelivery,
)
from accounts.notifications import announce, notify


class Receiver:
    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.status = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.got.append((dict(self.headers), body))
                self.send_response(outer.status)
                self.send_header("Location", "http://127.0.0.1:1/")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = int(self.server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}/in?x=1"


@pytest.fixture
def receiver(settings: Any) -> Iterator[Receiver]:
    made = Receiver()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    settings.WEBHOOK_ALLOWED_HOSTS = [f"127.0.0.1:{made.port}"]
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join(5)


@pytest.fixture
def hook(owner: User, receiver: Receiver) -> tuple[Webhook, str]:
    return webhooks.add(owner, url=receiver.url, topics=["team"])


def tell(user: User) -> None:
    notify(user, "team.removed", url="/teams/", team="ops", who="Ada")


def due_now() -> None:
    waiting = WebhookDelivery.objects.exclude(due_at=None)
    waiting.update(due_at=timezone.now() - timedelta(seconds=1))


def test_posted_signed_and_in_their_language(
    hook: tuple[Webhook, str], owner: User, receiver: Receiver
) -> None:
    User.objects.filter(pk=owner.pk).update(language="zh-hans")
    tell(owner)
    assert webhooks.send_due() == 1
    assert webhooks.send_due() == 0  # once
    headers, body = receiver.got[0]
    said = json.loads(body)
    assert said["type"] == "team.removed"
    assert said["params"] == {"team": "ops", "who": "Ada"}
    assert "Ada" in said["text"]
    expected = webhooks.signature(hook[1], headers["KVMWeb-Id"], headers["KVMWeb-Timestamp"], body)
    assert headers["KVMWeb-Signature"] == expected
    other = webhooks.signature("whsec_other", headers["KVMWeb-Id"], "1", body)
    assert headers["KVMWeb-Signature"] != other
    row = WebhookDelivery.objects.get()
    assert (row.due_at, row.status, row.error_code) == (None, 200, "")


def test_the_secret_is_not_stored(hook: tuple[Webhook, str]) -> None:
    values = str(Webhook.objects.values().get())
    assert hook[1].removeprefix("whsec_") not in values
    assert hook[1] not in str(list(AuditEntry.objects.values("after")))


def test_only_what_was_chosen(hook: tuple[Webhook, str], owner: User) -> None:
    notify(owner, "sharing.accepted", who="Ada", machine="web-1")
    assert not WebhookDelivery.objects.exists()


@pytest.mark.parametrize("status", [302, 404, 500])
def test_what_is_refused_is_tried_again_and_then_given_up(
    hook: tuple[Webhook, str], owner: User, receiver: Receiver, status: int
) -> None:
    receiver.status = status
    tell(owner)
    for number in range(1, webhooks.MAX_TRIES + 1):
        due_now()
        assert webhooks.send_due() == 0
        row = WebhookDelivery.objects.get()
        assert (row.tries, row.status) == (number, status)
    assert row.due_at is None
    due_now()
    webhooks.send_due()
    assert len(receiver.got) == webhooks.MAX_TRIES  # no redirect was followed, no try more


def test_a_failure_holds_the_rest_of_its_webhook_only(
    hook: tuple[Webhook, str], owner: User, receiver: Receiver
) -> None:
    for _ in range(3):
        tell(owner)
    receiver.status = 500
    webhooks.send_due()
    assert len(receiver.got) == 1


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://example.org/", "webhook.url_not_https"),
        ("https://127.0.0.1/", "webhook.url_private"),
        ("https://0x7f000001/", "webhook.url_private"),
        ("https://[::ffff:10.0.0.1]/", "webhook.url_private"),
        ("https://169.254.169.254/latest", "webhook.url_private"),
        ("https://a:b@example.org/", "webhook.url_credentials"),
        ("file:///etc/passwd", "webhook.url_scheme"),
        ("", "webhook.url_invalid"),
    ],
)
def test_no_way_inside(owner: User, url: str, code: str) -> None:
    with pytest.raises(Invalid) as caught:
        webhooks.add(owner, url=url, topics=["team"])
    assert caught.value.code == code


def test_a_name_that_turns_inside_later_is_refused_at_the_post(
    owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhooks.add(owner, url="https://hooks.example.org/", topics=["team"])
    inside = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.7", 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_a, **_k: inside)
    tell(owner)
    webhooks.send_due()
    assert WebhookDelivery.objects.get().error_code == "webhook.url_private"


def test_a_deactivated_persons_waits_for_nothing(
    hook: tuple[Webhook, str], owner: User, receiver: Receiver
) -> None:
    tell(owner)
    User.objects.filter(pk=owner.pk).update(is_active=False)
    webhooks.send_due()
    assert receiver.got == []
    assert WebhookDelivery.objects.get().due_at is None


def test_bounds(owner: User, monkeypatch: pytest.MonkeyPatch) -> None:
    for topics in ([], ["nonsense"]):
        with pytest.raises(Invalid):
            webhooks.add(owner, url="https://example.org/", topics=topics)
    for _ in range(webhooks.MAX_HOOKS):
        made, _secret = webhooks.add(owner, url="https://example.org/", topics=["team"])
    with pytest.raises(Conflict, match="too_many"):
        webhooks.add(owner, url="https://example.org/", topics=["team"])
    monkeypatch.setattr(webhooks, "MAX_WAITING", 1)
    webhooks.try_out(owner, made.pk)
    with pytest.raises(Conflict, match="waiting"):
        webhooks.try_out(owner, made.pk)


def test_page_and_api(
    receiver: Receiver, owner: User, outsider: User, browser: Callable[..., Any], api: Any
) -> None:
    client = browser(owner)
    page = client.post("/profile/webhooks/", {"url": receiver.url, "topics": ["team"]})
    secret = webhooks.secret_of(Webhook.objects.get())
    assert secret in page.content.decode()
    assert secret not in client.get("/profile/webhooks/").content.decode()
    mine = Webhook.objects.get()
    assert client.post(f"/profile/webhooks/{mine.pk}/test/").status_code == 302
    webhooks.send_due()
    assert json.loads(receiver.got[0][1])["type"] == "test"
    assert "arrived" in client.get("/profile/webhooks/").content.decode()
    assert client.post("/profile/webhooks/", {"url": "x"}).status_code == 422
    speaker = api(owner)
    made = speaker.post("/me/webhooks", {"url": receiver.url, "topics": ["quota"]}).json()
    assert made["secret"].startswith("whsec_")
    assert speaker.get("/me/webhooks").json()["count"] == 2
    assert speaker.post(f"/me/webhooks/{made['id']}/test").json()["type"] == "test"
    assert speaker.get(f"/me/webhooks/{made['id']}/deliveries").json()["count"] == 1
    assert api(outsider).delete(f"/me/webhooks/{made['id']}").status_code == 404
    with pytest.raises(NotFound):
        webhooks.try_out(outsider, made["id"])
    assert speaker.delete(f"/me/webhooks/{made['id']}").status_code == 204
    assert client.post(f"/profile/webhooks/{mine.pk}/remove/").status_code == 302
    assert not Webhook.objects.exists()


def test_a_digest_is_one_post_a_day(owner: User, receiver: Receiver) -> None:
    hook, secret = webhooks.add(owner, url=receiver.url, topics=["team"], digest=True)
    for _ in range(3):
        tell(owner)
    assert webhooks.send_due() == 0, "not before the hour"
    assert {row.due_at for row in hook.deliveries.all()} == {notifications.next_digest()}
    webhooks.try_out(owner, hook.pk)
    assert webhooks.send_due() == 1  # a test does not wait, nor take the news along
    assert json.loads(receiver.got.pop()[1])["type"] == "test"
    receiver.status = 500
    due_now()
    assert webhooks.send_due() == 0
    assert len(receiver.got) == 1, "one post, however many news"
    receiver.status = 200
    due_now()
    assert webhooks.send_due() == 1
    headers, body = receiver.got[1]
    said = json.loads(body)
    assert (said["type"], len(said["items"])) == ("digest", 3)
    assert said["text"].count("Ada") == 3
    assert {item["type"] for item in said["items"]} == {"team.removed"}
    expected = webhooks.signature(secret, headers["KVMWeb-Id"], headers["KVMWeb-Timestamp"], body)
    assert headers["KVMWeb-Signature"] == expected
    assert not hook.deliveries.exclude(due_at=None).exists()
    due_now()
    assert webhooks.send_due() == 0


# --- of a team ------------------------------------------------------------------------------------
@pytest.fixture
def team_hook(team: Team, owner: User, receiver: Receiver) -> Webhook:
    topics = ["team", "quota", "lease"]
    return webhooks.add(owner, url=receiver.url, topics=topics, team=team)[0]


def said(receiver: Receiver) -> list[str]:
    webhooks.send_due()
    return [json.loads(body)["text"] for _headers, body in receiver.got]


def test_a_team_hears_of_each_thing_once_and_nobody_is_you(
    team: Team, owner: User, teammate: User, outsider: User, team_hook: Webhook, receiver: Any
) -> None:
    teams.set_member(actor=owner, team=team, username=outsider.username, role="manager")
    teams.set_member(actor=owner, team=team, username=outsider.username, role="viewer")
    request = requests.ask(
        actor=teammate, team=team, amounts={Resource.VCPUS: 2}, reason="For the test"
    )
    teams.remove_member(actor=owner, team=team, user_id=outsider.pk)
    names = owner.display_name(), outsider.display_name(), teammate.display_name()
    assert said(receiver) == [
        "{} has taken {} into the team {} as manager.".format(*names[:2], team.name),
        f"The role of {names[1]} in the team {team.name} is viewer now.",
        f"{names[2]} asks for more quota of {team.name}.",
        "{} has removed {} from the team {}.".format(*names[:2], team.name),
    ]
    assert json.loads(receiver.got[0][1])["team"] == team.name
    assert json.loads(receiver.got[2][1])["params"]["person"] == request.requester.display_name()


def test_what_admins_say_among_themselves_is_not_for_the_team(
    team: Team, admin: User, teammate: User, team_hook: Webhook, receiver: Any
) -> None:
    request = requests.ask(actor=teammate, team=team, amounts={Resource.VCPUS: 2}, reason="x")
    requests.comment(request, actor=admin, text="A word among admins", internal=True)
    requests.escalate(request, [admin])
    requests.reject(request, actor=admin, version=1, text="no room")
    told = said(receiver)
    assert len(told) == 2
    assert "rejected" in told[1]
    assert Notification.objects.filter(user=admin, code="quota.escalated").exists()


def test_only_topics_of_teams(team: Team, owner: User, team_hook: Webhook) -> None:
    with pytest.raises(Invalid, match="topics"):
        webhooks.add(owner, url="https://example.org/", topics=["sharing"], team=team)
    with pytest.raises(LookupError):
        announce(team, [], "sharing.accepted", who="Ada", machine="web-1")


def test_managers_set_them_for_all_managers(
    team: Team,
    owner: User,
    teammate: User,
    viewer: User,
    outsider: User,
    admin: User,
    team_hook: Webhook,
) -> None:
    for person, refusal in ((teammate, Forbidden), (viewer, Forbidden), (outsider, NotFound)):
        for act in (webhooks.try_out, webhooks.remove, webhooks.find):
            with pytest.raises(refusal):
                act(person, team_hook.pk, team=team)
        with pytest.raises(refusal):
            webhooks.add(person, url="https://example.org/", topics=["team"], team=team)
    with pytest.raises(NotFound):  # not as one's own, nor through another team
        webhooks.remove(owner, team_hook.pk)
    with pytest.raises(NotFound):
        webhooks.remove(owner, team_hook.pk, team=owner.personal_team)
    webhooks.remove(admin, team_hook.pk, team=team)
    entry = AuditEntry.objects.filter(verb="webhook.remove").get()
    assert (entry.actor, entry.team_id_at) == (admin, team.pk)


def test_it_outlives_who_has_set_it(
    team: Team, owner: User, team_hook: Webhook, receiver: Any
) -> None:
    User.objects.filter(pk=owner.pk).update(is_active=False)
    announce(team, [], "team.left", who="Ada", team=team.name)
    assert said(receiver) == [f"Ada has left the team {team.name}."]


def test_said_when_who_set_it_has_left(
    team: Team,
    owner: User,
    teammate: User,
    browser: Callable[..., Any],
    receiver: Receiver,
) -> None:
    teams.set_member(actor=owner, team=team, username=teammate.username, role="manager")
    webhooks.add(teammate, url=receiver.url, topics=["team"], team=team)
    page = f"/teams/{team.pk}/webhooks/"
    assert "does not manage this team any more" not in browser(owner).get(page).content.decode()
    teams.remove_member(actor=owner, team=team, user_id=teammate.pk)
    assert "does not manage this team any more" in browser(owner).get(page).content.decode()


def test_page_and_api_of_a_team(
    team: Team,
    owner: User,
    teammate: User,
    receiver: Receiver,
    browser: Callable[..., Any],
    api: Any,
) -> None:
    client, page = browser(owner), f"/teams/{team.pk}/webhooks/"
    assert page in client.get(f"/teams/{team.pk}/").content.decode()
    form = {"url": receiver.url, "topics": ["quota"], "digest": "daily"}
    answer = client.post(page, form).content.decode()
    made = Webhook.objects.get()
    assert webhooks.secret_of(made) in answer
    assert (made.team, made.digest) == (team, True)
    assert "once a day" in client.get(page).content.decode()
    assert browser(teammate).get(page).status_code == 403
    assert page not in browser(teammate).get(f"/teams/{team.pk}/").content.decode()
    assert client.get("/profile/webhooks/").content.decode().count("whsec_") == 0
    wrong = {"url": "https://example.org/", "topics": "sharing"}
    assert client.post(page, wrong).status_code == 422
    assert client.post(f"{page}{made.pk}/test/").headers["Location"] == page
    webhooks.send_due()
    assert json.loads(receiver.got[0][1])["team"] == team.name
    base, speaker = f"/teams/{team.pk}/webhooks", api(owner)
    assert speaker.get(base).json()["items"][0]["digest"] is True
    assert speaker.get(f"{base}/{made.pk}/deliveries").json()["count"] == 1
    other = speaker.post(base, {"url": receiver.url, "topics": ["team"]}).json()
    assert other["secret"].startswith("whsec_")
    assert speaker.post(f"{base}/{other['id']}/test").json()["type"] == "test"
    assert api(teammate).get(base).status_code == 403
    assert speaker.delete(f"{base}/{other['id']}").status_code == 204
    assert client.post(f"{page}{made.pk}/remove/").status_code == 302
    assert not Webhook.objects.exists()


def test_a_receiver_that_drips_its_answer_holds_no_worker(
    owner: User, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "WHOLE_S", 1.0)
    ended = threading.Event()

    def drip(server: socket.socket) -> None:
        peer, _ = server.accept()
        with peer, contextlib.suppress(OSError):
            peer.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
            while not ended.wait(0.1):
                peer.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        settings.WEBHOOK_ALLOWED_HOSTS = [f"127.0.0.1:{port}"]
        dripping = threading.Thread(target=drip, args=(server,), daemon=True)
        dripping.start()
        webhooks.add(owner, url=f"http://127.0.0.1:{port}/", topics=["team"])
        tell(owner)
        began = time.monotonic()
        assert webhooks.send_due() == 0
        assert time.monotonic() - began < 4
        ended.set()
        dripping.join(5)
    assert WebhookDelivery.objects.get().error_code == "webhook.timeout"


def test_one_that_does_not_answer_holds_nobody_else_up(
    owner: User, outsider: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "_AT_ONCE", 3)  # fewer than wait for the dead one
    dead, _secret = webhooks.add(owner, url="https://dead.example.org/", topics=["team"])
    good, _secret = webhooks.add(outsider, url="https://good.example.org/", topics=["team"])
    for _ in range(5):
        tell(owner)
    tell(outsider)
    tried: list[int] = []

    def post(hook: Webhook, _claimed: list[WebhookDelivery]) -> int:
        tried.append(hook.pk)
        return 200 if hook.pk == good.pk else 503

    monkeypatch.setattr(webhooks, "_post", post)
    assert webhooks.send_due() == 1
    assert tried == [dead.pk, good.pk]
    assert webhooks.send_due() == 0  # what waits for the dead one is due no more
    assert tried == [dead.pk, good.pk]
