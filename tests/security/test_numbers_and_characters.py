"""Numbers without end and characters that a database does not take are wrong input, not errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import DataError
from django.test import Client, RequestFactory

from accounts.models import User
from kvmweb.middleware import DomainErrorMiddleware
from vms.models import VM, Flavor, Image

pytestmark = pytest.mark.django_db
ENDLESS = "9" * 5000  # int() refuses it
HUGE = str(10**30)  # no column holds it
NUL = "web\0"


@pytest.mark.parametrize("field", ["vcpus", "memory_mib", "disk_gib"])
@pytest.mark.parametrize("number", [ENDLESS, HUGE, "-1", "0", "1.5", "٣", "1e3"])
@pytest.mark.parametrize("path", ["/machines/new/preview/", "/machines/new/"])
def test_the_create_page_takes_any_number(
    path: str,
    field: str,
    number: str,
    owner: User,
    image: Image,
    network: Any,
    browser: Callable[[User], Client],
) -> None:
    data = {"image": image.pk, "flavor": "custom", "name": "web-1", field: number}
    assert browser(owner).post(path, data).status_code in (200, 422)


@pytest.mark.parametrize("number", [ENDLESS, HUGE])
@pytest.mark.parametrize(
    "path",
    [
        "/machines/?page={}",
        "/machines/?host={}&image={}&team={}",
        "/activity/?page={}",
        "/jump/?q={}",
        "/machines/new/?image={}&flavor={}&team={}",
        "/api/v1/vms?page={}",
        "/api/v1/vms?host={}",
        "/api/v1/jobs?page={}",
        "/api/v1/images/{}",
        "/api/v1/flavors/{}",
        "/api/v1/teams/{}",
        "/api/v1/quota?team={}",
        "/api/v1/hosts/{}",
        "/api/v1/users/{}",
        "/admin/images/{}/",
        "/admin/flavors/{}/",
        "/admin/users/{}/",
        "/admin/teams/{}/",
        "/admin/hosts/{}/",
    ],
)
def test_addresses_take_any_number(
    path: str, number: str, admin: User, browser: Callable[[User], Client]
) -> None:
    answer = browser(admin).get(path.replace("{}", number))
    assert answer.status_code in (200, 400, 404, 422)


@pytest.mark.parametrize(
    "wrong",
    [
        {"vcpus": 0},
        {"vcpus": -1},
        {"vcpus": 10**9},
        {"vcpus": 10**30},
        {"vcpus": True},
        {"vcpus": 1.5},
        {"vcpus": None},
        {"memory_mib": 1},
        {"memory_mib": 10**12},
        {"disk_gib": 0},
        {"disk_gib": -5},
        {"disk_gib": 10**9},
        {"name": "web\0"},
        {"name": "x" * 64},
        {"name": "WEB"},
        {"name": "wéb"},
        {"name": "-web"},
        {"name": "web\n"},
        {"name": "\ud800"},
        {"hostname": "a\nb"},
        {"image": 10**30},
        {"image": "\0"},
        {"image": "\ud800"},
        {"flavor": "\0"},
        {"network": "default'/><evil/>"},
        {"network": "\ud800"},
        {"team": 10**30},
        {"user": "root"},
        {"user": "a b"},
        {"user": "x; reboot"},
        {"password": "short"},
        {"password": "a\nb:c:d:e:f"},
        {"ssh_keys": ["no key"]},
        {"ssh_keys": ["ssh-ed25519 AAAA\nssh-rsa BBBB"]},
        {"ssh_keys": [""] * 1000},
        {"user_data": "a: [1"},
        {"user_data": "x" * 100_000},
        {"tags": ["t"] * 1000 + [f"t{n}" for n in range(1000)]},
        {"tags": ["a b"]},
        {"tags": ["\ud800"]},
        {"description": "d" * 100_000},
        {"description": "\ud800"},
        {"description": "\x1b[2J"},
        {"copy": "magic"},
        {"start": "perhaps"},
        {"evil": 1},
    ],
    ids=lambda wrong: str(wrong)[:40].encode("ascii", "backslashreplace").decode(),
)
def test_a_wrong_request_leaves_nothing(
    wrong: dict[str, Any], owner: User, image: Image, network: Any, api: Callable[..., Any]
) -> None:
    good = {"name": "web-1", "image": image.pk, "vcpus": 1, "memory_mib": 1024, "user": "me"}
    answer = api(owner).post("/vms", good | wrong)
    if "ssh_keys" in wrong and wrong["ssh_keys"] == [""] * 1000:
        assert answer.status_code in (202, 422)
        return
    assert answer.status_code in (400, 404, 422), answer.content
    assert not VM.objects.exists()


BOMBS = {
    "billion laughs": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "\n".join(
        f"{c}: &{c} [*{p},*{p},*{p},*{p},*{p},*{p},*{p},*{p}]"
        for p, c in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "nesting": "runcmd: " + "[" * 8000,
    "nested mappings": "x: " + "{a: " * 3000,
    "digits": "runcmd: [" + "9" * 15000 + "]",
    "one wide line": "runcmd: [" + "a," * 8000 + "]",
    "merge keys": "a: &a {x: 1}\n" + "\n".join(f"b{n}: {{<<: *a}}" for n in range(500)),
    "sexagesimal": "runcmd: [" + "1:" * 7000 + "1]",
    "regular expressions": "ntp: {servers: ['" + "a." * 7000 + "!']}",
    "many bad users": "users: [" + "{name: x, foo: 1}," * 800 + "]",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("bomb", BOMBS)
def test_cloud_config_bombs_are_defused(
    bomb: str, owner: User, image: Image, network: Any, api: Callable[..., Any]
) -> None:
    body = {"name": "web-1", "image": image.pk, "vcpus": 1, "memory_mib": 1024, "user": "me"}
    answer = api(owner).post("/vms", body | {"user_data": BOMBS[bomb]})
    assert answer.status_code in (202, 422), answer.content


def test_a_character_that_postgresql_does_not_take_is_wrong_input() -> None:
    """SQLite takes NUL; what psycopg says of it is a person's mistake, not the site's."""
    said = DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
    request = RequestFactory().get("/api/v1/vms")
    answer = DomainErrorMiddleware(lambda _: pytest.fail("not asked")).process_exception(
        request, said
    )
    assert answer is not None
    assert answer.status_code == 400


@pytest.mark.parametrize(
    "path",
    [
        "/machines/?q=%00",
        "/machines/?owner=%00&tag=%00",
        "/jump/?q=%00",
        "/activity/?q=%00",
        "/images/?q=%00",
        "/api/v1/vms?q=%00",
        "/api/v1/images?q=%00&state=%00",
        "/api/v1/quota?team=%00",
        "/admin/users/?q=%00",
    ],
)
def test_nul_in_a_search(path: str, admin: User, browser: Callable[[User], Client]) -> None:
    assert browser(admin).get(path).status_code in (200, 400, 404, 422)


def test_a_size_that_nobody_offers(
    owner: User, image: Image, network: Any, small: Flavor, api: Callable[..., Any]
) -> None:
    Flavor.objects.filter(pk=small.pk).update(published=False)
    body = {"name": "web-1", "image": image.pk, "flavor": small.pk, "user": "me"}
    assert api(owner).post("/vms", body).status_code == 422
