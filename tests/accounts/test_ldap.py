"""Sign-in by an LDAP directory, with its groups: against a real slapd."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from io import StringIO
from typing import Any

import pytest
from django.core.cache import cache
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.test import Client

from accounts import directory_people, ldap, services, tokens
from accounts.errors import Forbidden
from accounts.models import AuditEntry, DirectoryAccount, Membership, Team, User
from tests import directories
from tests.conftest import PASSWORD as LOCAL_PASSWORD
from tests.directories import BASE, PASSWORD, SEARCH_DN, SEARCH_PASSWORD, Slapd
from vms.models import VM

pytestmark = pytest.mark.django_db

needs_slapd = pytest.mark.skipif(not directories.is_there(), reason="no slapd on this machine")


@pytest.fixture(scope="module")
def slapd() -> Iterator[Slapd]:
    server = Slapd()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def shire(slapd: Slapd, settings: Any) -> Iterator[Slapd]:
    """The directory as the site's only one, with Frodo in it."""
    frodo = slapd.add_person("frodo")
    slapd.add_group("ring-bearers", frodo)
    settings.LDAP = [
        {
            "id": "shire",
            "name": "The Shire",
            "url": slapd.tls_url,
            "ca_file": slapd.ca_file,
            "bind_dn": SEARCH_DN,
            "bind_password": SEARCH_PASSWORD,
            "user_base": f"ou=people,{BASE}",
            "group_base": f"ou=groups,{BASE}",
            "admin_group": "wizards",
            "teams": [
                {"group": "council", "team": "rivendell", "role": "manager"},
                {"group": "ring-bearers", "team": "rivendell", "role": "member"},
            ],
        }
    ]
    yield slapd
    slapd.empty()


FRODO = f"uid=frodo,ou=people,{BASE}"


def sign_in(login: str = "frodo", password: str = PASSWORD) -> tuple[Client, str]:
    """Who asks, and what the page then says (empty: they are in)."""
    client = Client()
    answer = client.post("/accounts/login/", {"login": login, "password": password})
    return client, "" if answer.status_code == 302 else answer.content.decode()


def is_in(login: str = "frodo", password: str = PASSWORD) -> bool:
    client, _text = sign_in(login, password)
    return "_auth_user_id" in client.session


def role(team: Team, username: str) -> str | None:
    row = Membership.objects.filter(team=team, user__username=username).first()
    return row.role if row else None


@needs_slapd
class TestPeople:
    def test_somebody_new_signs_in_with_their_groups(self, shire: Slapd, team: Team) -> None:
        client, text = sign_in()
        assert text == ""
        user = User.objects.get(username="frodo")
        assert (user.email, user.get_full_name()) == ("frodo@shire.test", "Frodo Baggins")
        assert not user.has_usable_password()
        assert Team.objects.filter(personal_of=user).exists()
        assert role(team, "frodo") == "member"
        assert not user.is_staff
        page = client.get("/profile/").content.decode()
        assert "Change password" not in page
        verbs = set(AuditEntry.objects.values_list("verb", flat=True))
        assert {"user.sign_up", "user.sign_in", "team.by_groups"} <= verbs
        assert is_in(), "the second time too"
        assert User.objects.filter(username="frodo").count() == 1

    def test_changed_groups_change_roles_at_the_next_sign_in(
        self, shire: Slapd, team: Team, owner: User, admin: User, make_vm: Any
    ) -> None:
        sign_in()
        user = User.objects.get(username="frodo")
        machine: VM = make_vm(user, team)
        shire.add_group("council", FRODO)
        shire.add_group("wizards", FRODO)
        sign_in()
        user.refresh_from_db()
        assert (role(team, "frodo"), user.is_staff) == ("manager", True)
        for name in ("council", "wizards", "ring-bearers"):
            shire.delete(f"cn={name},ou=groups,{BASE}")
        sign_in()
        user.refresh_from_db()
        machine.refresh_from_db()
        assert (role(team, "frodo"), user.is_staff) == (None, False)
        assert machine.owner == owner
        assert role(team, "teammate") == "member", "who signs in otherwise is left alone"

    def test_only_groups_below_the_base_count(self, shire: Slapd, team: Team) -> None:
        shire.add_group("wizards", FRODO, below="ou=clubs")
        assert is_in()
        assert not User.objects.get(username="frodo").is_staff

    def test_a_rule_may_name_a_group_by_its_whole_name(
        self, shire: Slapd, team: Team, settings: Any
    ) -> None:
        settings.LDAP[0]["admin_group"] = f"cn=ring-bearers,ou=groups,{BASE}"
        assert is_in()
        assert User.objects.get(username="frodo").is_staff

    def test_groups_within_groups(self, shire: Slapd, team: Team, settings: Any) -> None:
        inner = f"cn=ring-bearers,ou=groups,{BASE}"
        outer = shire.add_group("fellowship", inner)
        shire.add_group("wizards", outer)
        shire.change(inner, member=[FRODO, f"cn=wizards,ou=groups,{BASE}"])  # in a ring
        assert is_in()
        assert not User.objects.get(username="frodo").is_staff
        settings.LDAP[0]["nested_groups"] = True
        assert is_in()
        assert User.objects.get(username="frodo").is_staff

    def test_groups_by_user_name(self, shire: Slapd, team: Team) -> None:
        shire.add("cn=council,ou=groups", "posixGroup", gidNumber="7", memberUid=["frodo"])
        assert is_in()
        assert role(team, "frodo") == "manager"

    def test_gone_or_disabled_or_with_another_password(self, shire: Slapd, settings: Any) -> None:
        assert is_in()
        shire.change(FRODO, userPassword="changed")
        assert not is_in()
        assert is_in(password="changed")
        settings.LDAP[0]["user_filter"] = "(&(uid={name})(!(employeeType=disabled)))"
        shire.change(FRODO, employeeType="disabled")
        assert not is_in(password="changed")
        shire.change(FRODO, employeeType="here")
        assert is_in(password="changed")
        shire.delete(FRODO)
        assert not is_in(password="changed")
        assert ("user.sign_in_failed", "frodo") in set(
            AuditEntry.objects.values_list("verb", "target_name")
        )

    def test_deactivation_here_wins(self, shire: Slapd) -> None:
        sign_in()
        User.objects.filter(username="frodo").update(is_active=False)
        client, text = sign_in()
        assert "_auth_user_id" not in client.session
        assert "deactivated" in text
        refused = AuditEntry.objects.get(verb="user.sign_in_refused")
        assert refused.target_name == "frodo"
        assert PASSWORD not in json.dumps(refused.after)

    def test_renamed_they_keep_their_account_and_another_of_that_name_gets_none(
        self, shire: Slapd
    ) -> None:
        sign_in()
        user = User.objects.get(username="frodo")
        with shire.as_root() as root:
            root.modify_dn(FRODO, "uid=underhill")
        assert is_in("underhill")
        assert User.objects.get(directory_account__dn__startswith="uid=underhill") == user
        assert User.objects.count() == 1
        shire.add_person("frodo")  # somebody else, years later
        client, text = sign_in()
        assert "_auth_user_id" not in client.session
        assert "Ask an admin to connect the two" in text


@needs_slapd
class TestLeavers:
    @pytest.fixture
    def frodo_and_sam(self, shire: Slapd) -> dict[str, Client]:
        shire.add_person("sam")
        return {name: sign_in(name)[0] for name in ("frodo", "sam")}

    def works(self, client: Client) -> bool:
        return bool(client.get("/profile/").status_code == 200)

    def test_who_is_gone_twice_is_signed_out(
        self, shire: Slapd, frodo_and_sam: dict[str, Client], settings: Any
    ) -> None:
        user = User.objects.get(username="frodo")
        _row, secret = tokens.issue(user, "cli", ("read",), None)
        directory_people.end_of_leavers()
        shire.delete(FRODO)
        directory_people.end_of_leavers()
        assert self.works(frodo_and_sam["frodo"]), "once may be a mistake"
        url = settings.LDAP[0]["url"]
        settings.LDAP[0]["url"] = f"ldaps://127.0.0.1:{directories.free_port()}"
        directory_people.end_of_leavers()
        assert self.works(frodo_and_sam["frodo"]), "no answer says nothing"
        settings.LDAP[0]["url"] = url
        directory_people.end_of_leavers()
        assert not self.works(frodo_and_sam["frodo"])
        assert tokens.authenticate(secret) is None
        assert self.works(frodo_and_sam["sam"])
        for _round in range(3):
            directory_people.end_of_leavers()
        assert AuditEntry.objects.filter(verb="user.left_directory").count() == 1
        user.refresh_from_db()
        assert user.is_active

    def test_a_directory_that_knows_nobody_is_not_believed(
        self, shire: Slapd, frodo_and_sam: dict[str, Client], settings: Any
    ) -> None:
        settings.LDAP[0]["user_base"] = f"ou=clubs,{BASE}"
        for _round in range(3):
            directory_people.end_of_leavers()
        assert self.works(frodo_and_sam["frodo"])

    def test_disabled_in_active_directory(self, shire: Slapd, settings: Any) -> None:
        settings.LDAP[0] |= {"kind": "active_directory"}
        people = {}
        for number, name in enumerate(("merry", "pippin")):
            entry = {"sAMAccountName": name, "objectCategory": "person", "sn": name}
            entry |= {"userAccountControl": "512", "userPassword": PASSWORD}
            guid = bytes([40 + number, *b"()*\\", *range(200, 211)])
            people[name] = shire.add(f"cn={name},ou=people", "adUser", objectGUID=guid, **entry)
        clients = {name: sign_in(name)[0] for name in people}
        shire.change(people["merry"], userAccountControl="514")
        directory_people.end_of_leavers()
        directory_people.end_of_leavers()
        assert not self.works(clients["merry"])
        assert self.works(clients["pippin"])


@needs_slapd
class TestLocalAccounts:
    def test_one_of_the_same_name_is_not_taken_over(
        self, shire: Slapd, owner: User, team: Team
    ) -> None:
        shire.add_person("owner")
        client, text = sign_in("owner")
        assert "_auth_user_id" not in client.session
        assert "an account named “owner” was made here before" in text
        assert role(team, "owner") == "manager"
        assert is_in("owner", LOCAL_PASSWORD), "the local password still opens it"
        assert not DirectoryAccount.objects.exists()

    def test_nor_by_its_address(self, shire: Slapd, owner: User) -> None:
        shire.change(FRODO, mail=owner.email)
        assert is_in()
        assert User.objects.get(username="frodo").email == ""
        assert is_in(owner.email, LOCAL_PASSWORD)

    def test_an_admin_connects_the_two(self, shire: Slapd, owner: User) -> None:
        with pytest.raises(CommandError, match="knows nobody"):
            call_command("connect_directory", "owner", "shire")
        out = StringIO()
        before = Client()
        before.force_login(owner)
        call_command("connect_directory", "owner", "shire", "--name", "frodo", stdout=out)
        assert FRODO in out.getvalue()
        client, _text = sign_in()
        assert client.session["_auth_user_id"] == str(owner.pk)
        assert before.get("/profile/").status_code == 302, "earlier sessions have ended"
        assert not is_in("owner", LOCAL_PASSWORD)
        with pytest.raises(CommandError, match="connected already"):
            call_command("connect_directory", "owner", "shire", "--name", "frodo")

    def test_no_password_is_set_beside_the_directorys(
        self, shire: Slapd, admin: User, browser: Callable[[User], Client]
    ) -> None:
        client, _text = sign_in()
        user = User.objects.get(username="frodo")
        with pytest.raises(Forbidden):
            services.set_password(actor=admin, user=user, password="another horse battery")
        new = "another horse battery"
        answer = client.post("/accounts/password/set/", {"password1": new, "password2": new})
        assert answer.status_code == 403
        user.refresh_from_db()
        assert not user.has_usable_password()
        page = browser(admin).get(f"/admin/users/{user.pk}/").content.decode()
        assert "The Shire" in page
        assert "Generate a new password" not in page

    def test_sign_up_can_be_closed(self, shire: Slapd, settings: Any) -> None:
        settings.LDAP[0]["sign_up"] = False
        _client, text = sign_in()
        assert "you have no account here" in text
        assert not User.objects.exists()


@needs_slapd
class TestHostile:
    @pytest.mark.parametrize("password", ["", "\u00ad", "\u200b", "\0", "\0x"])
    def test_no_password_binds_nobody(self, shire: Slapd, password: str) -> None:
        """This slapd takes a bind without a password as one of nobody, and says yes."""
        one = ldap.read(shire_settings(shire))
        assert ldap.sign_in(one, "frodo", password) is None
        assert not is_in(password=password)

    @pytest.mark.parametrize(
        "name",
        ["*", "fro*", "frodo)(uid=*", "*)(|(uid=*", "frodo\\2a", "frodo\0", " frodo", "ｆrodo"],
    )
    def test_a_name_is_never_part_of_the_question(self, shire: Slapd, name: str) -> None:
        assert ldap.sign_in(ldap.read(shire_settings(shire)), name, PASSWORD) is None
        assert ldap.sign_in(ldap.read(direct_settings(shire)), name, PASSWORD) is None

    def test_a_comma_does_not_lead_to_another_entry(self, shire: Slapd) -> None:
        name = f"frodo,ou=people,{BASE}"
        one = ldap.read(direct_settings(shire) | {"user_dn": "uid={name}"})
        assert ldap.sign_in(one, name, PASSWORD) is None

    def test_two_of_one_name_are_nobody(self, shire: Slapd) -> None:
        shire.add("cn=other,ou=people", "inetOrgPerson", sn="x", uid="frodo", userPassword="mine")
        assert not is_in()
        assert not is_in(password="mine")

    def test_spellings_share_one_throttle(self, shire: Slapd, settings: Any) -> None:
        settings.ACCOUNT_RATE_LIMITS = {"login_failed": "5/5m/key"}
        cache.clear()
        for login in ("frodo", "Frodo", "FRODO", "frodo ", "frodo"):
            assert not is_in(login, "wrong")
        assert not is_in(), "the right one comes too late"

    def test_certificates_are_checked(self, shire: Slapd, settings: Any) -> None:
        for url in (shire.tls_url, shire.url):
            settings.LDAP[0] |= {"url": url, "ca_file": shire.ca_file}
            assert is_in(), "LDAPS, StartTLS"
            settings.LDAP[0]["ca_file"] = ""
            _client, text = sign_in()
            assert "does not answer" in text, "by nobody we know"
            settings.LDAP[0] |= {
                "url": url.replace("127.0.0.1", "localhost"),
                "ca_file": shire.ca_file,
            }
            _client, text = sign_in()
            assert "does not answer" in text, "somebody else's certificate"

    def test_no_password_goes_out_in_clear_unless_asked_for(self, shire: Slapd) -> None:
        heard = bytearray()
        with listening(heard, relay_to=shire.port) as port:
            entry = shire_settings(shire) | {"url": f"ldap://127.0.0.1:{port}"}
            assert ldap.sign_in(ldap.read(entry), "frodo", PASSWORD) is not None
            assert heard
            assert PASSWORD.encode() not in heard
            assert SEARCH_PASSWORD.encode() not in heard
            in_clear = ldap.read(entry | {"send_passwords_unencrypted": True})
            assert ldap.sign_in(in_clear, "frodo", PASSWORD) is not None
            assert PASSWORD.encode() in heard


@needs_slapd
class TestKinds:
    def test_without_a_search_account(self, shire: Slapd, team: Team, settings: Any) -> None:
        settings.LDAP[0] = direct_settings(shire) | {"teams": settings.LDAP[0]["teams"]}
        assert is_in()
        assert role(team, "frodo") == "member"
        assert not is_in(password="wrong")
        assert not is_in("sam")

    def test_active_directory(self, shire: Slapd, team: Team, settings: Any) -> None:
        settings.LDAP[0] |= {"kind": "active_directory"}
        entry = {
            "cn": "Sam Gamgee",
            "sn": "Gamgee",
            "sAMAccountName": "sam",
            "userPrincipalName": "sam@shire.test",
            "userAccountControl": "512",
            "objectCategory": "person",
            "objectGUID": bytes(range(240, 256)),
            "userPassword": PASSWORD,
        }
        sam = shire.add("cn=Sam Gamgee,ou=people", "adUser", **entry)
        shire.change(f"cn=ring-bearers,ou=groups,{BASE}", member=[FRODO, sam])
        assert is_in("sam")
        assert is_in("SAM@shire.test")
        row = DirectoryAccount.objects.get(user__username="sam")
        assert row.uid == bytes(range(240, 256)).hex()
        assert role(team, "sam") == "member"
        shire.change(sam, userAccountControl=str(512 + 2))
        assert not is_in("sam"), "disabled there"

    def test_the_command_says_what_the_directory_knows(self, shire: Slapd) -> None:
        out = StringIO()
        call_command("check_directory", "frodo", stdout=out)
        assert FRODO in out.getvalue()
        assert "in ring-bearers" in out.getvalue()
        assert SEARCH_PASSWORD not in out.getvalue()

    def test_the_next_server_answers_where_the_first_is_down(
        self, shire: Slapd, settings: Any
    ) -> None:
        settings.LDAP[0]["url"] = [
            f"ldaps://127.0.0.1:{directories.free_port()}",
            shire.tls_url,
        ]
        assert is_in()


@pytest.mark.parametrize("scheme", ["ldap", "ldaps"])
def test_one_that_never_answers_costs_seconds(scheme: str, settings: Any, owner: User) -> None:
    with listening(bytearray()) as port:
        settings.LDAP = [plain_settings() | {"url": f"{scheme}://127.0.0.1:{port}", "timeout_s": 1}]
        began = time.monotonic()
        _client, text = sign_in()
        assert time.monotonic() - began < 10
        assert "The directory of your organization does not answer" in text
        assert is_in("owner", LOCAL_PASSWORD), "local accounts need no directory"


def test_nested_groups_of_active_directory_are_its_own_work() -> None:
    entry = plain_settings() | {
        "kind": "active_directory",
        "nested_groups": True,
        "group_base": BASE,
    }
    wanted = "(member:1.2.840.113556.1.4.1941:={dn})"
    assert ldap.read(entry).filter_of_groups() == wanted


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "http://127.0.0.1"},
        {"url": []},
        {"kind": "novell"},
        {"passwords": "x"},
        {"bind_password": ""},
        {"bind_dn": "", "user_dn": "{name}@shire.test"},
        {"bind_dn": ""},
        {"admin_group": "wizards"},
        {"user_filter": "(uid=frodo)"},
        {"ca_file": "/nowhere/ca.pem"},
        {"timeout_s": 0},
    ],
)
def test_a_file_that_cannot_be_meant_so_is_refused(wrong: dict[str, Any]) -> None:
    ldap.read(plain_settings())
    with pytest.raises(ImproperlyConfigured):
        ldap.read(plain_settings() | wrong)


def plain_settings() -> dict[str, Any]:
    return {
        "id": "shire",
        "name": "The Shire",
        "url": "ldaps://127.0.0.1:1",
        "bind_dn": SEARCH_DN,
        "bind_password": SEARCH_PASSWORD,
        "user_base": f"ou=people,{BASE}",
    }


def shire_settings(server: Slapd) -> dict[str, Any]:
    return plain_settings() | {"url": server.tls_url, "ca_file": server.ca_file}


def direct_settings(server: Slapd) -> dict[str, Any]:
    return {
        "id": "shire",
        "name": "The Shire",
        "url": server.tls_url,
        "ca_file": server.ca_file,
        "user_dn": f"uid={{name}},ou=people,{BASE}",
        "group_base": f"ou=groups,{BASE}",
    }


class listening:  # noqa: N801 - used as a context
    """A port that takes connections and keeps what it hears; passed on, or never answered."""

    def __init__(self, heard: bytearray, *, relay_to: int = 0) -> None:
        self.heard = heard
        self.relay_to = relay_to
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.open: list[socket.socket] = [self.socket]

    def __enter__(self) -> int:
        threading.Thread(target=self._accept, daemon=True).start()
        return int(self.socket.getsockname()[1])

    def __exit__(self, *_exc: object) -> None:
        for one in self.open:
            # Closing alone does not wake a thread that waits in it.
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _address = self.socket.accept()
            except OSError:
                return
            self.open.append(client)
            if self.relay_to:
                server = socket.create_connection(("127.0.0.1", self.relay_to))
                self.open.append(server)
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                self.heard += data
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return
