"""The create page: what it offers, refuses and shows once."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from accounts.models import QuotaLimit, User
from hosts.models import Network, Pool
from vms.models import VM, Flavor, Image

AS_FRAGMENT = {"HX-Request": "true"}


@pytest.fixture
def typed(image: Image, small: Flavor, network: Network, pool: Pool) -> dict[str, Any]:
    return {
        "name": "web-4",
        "image": str(image.pk),
        "flavor": str(small.pk),
        "network": "default",
        "copy": "linked",
        "start": "on",
        "password_mode": "none",
        "idempotency_key": "one",
    }


def test_a_machine_is_asked_for_and_its_page_follows(
    browser: Callable[[User], Client], owner: User, typed: dict[str, Any]
) -> None:
    client = browser(owner)
    answer = client.post("/machines/new/", typed)
    vm = VM.objects.get()
    assert answer["Location"] == f"/machines/{vm.uuid}/"
    page = client.get(answer["Location"]).content.decode()
    assert "Creating" in page
    assert 'class="step' in page


def test_a_second_press_makes_no_second_machine(
    browser: Callable[[User], Client], owner: User, typed: dict[str, Any]
) -> None:
    client = browser(owner)
    first, second = client.post("/machines/new/", typed), client.post("/machines/new/", typed)
    assert first["Location"] == second["Location"]
    assert VM.objects.count() == 1


def test_a_password_is_shown_once_and_kept_nowhere_in_clear(
    browser: Callable[[User], Client], owner: User, typed: dict[str, Any]
) -> None:
    client = browser(owner)
    answer = client.post("/machines/new/", typed | {"password_mode": "generate"})
    vm = VM.objects.get()
    page = client.get(answer["Location"]).content.decode()
    found = re.search(r'class="secret">([^<]+)<', page)
    assert found is not None
    password = found[1]
    assert len(password) >= 12
    assert password not in str(vm.__dict__)
    assert password not in str(dict(client.session))
    assert 'class="secret"' not in client.get(answer["Location"]).content.decode()


def test_the_cookie_of_one_machine_opens_nothing_for_another(
    browser: Callable[[User], Client],
    owner: User,
    typed: dict[str, Any],
    vm: VM,
) -> None:
    client = browser(owner)
    client.post("/machines/new/", typed | {"password_mode": "generate"})
    assert 'class="secret"' not in client.get(f"/machines/{vm.uuid}/").content.decode()


def test_what_is_wrong_is_marked_and_what_was_typed_stays(
    browser: Callable[[User], Client], owner: User, typed: dict[str, Any]
) -> None:
    wrong = typed | {
        "name": "Not A Name",
        "user_data": "packages: [",
        "pasted_key": "ssh-rsa nonsense",
        "description": "kept <b>words</b>",
        "password_mode": "choose",
        "password": "a long enough password",
    }
    answer = browser(owner).post("/machines/new/", wrong)
    page = answer.content.decode()
    assert answer.status_code == 422
    assert page.count('aria-invalid="true"') == 3
    assert page.count("autofocus") >= 1
    for kept in ("Not A Name", "packages: [", "ssh-rsa nonsense", "kept &lt;b&gt;words"):
        assert kept in page
    assert 'value="a long enough password"' in page
    assert not VM.objects.exists()


def test_a_refusal_by_quota_says_which_limit_and_how_much(
    browser: Callable[[User], Client], owner: User, typed: dict[str, Any], large: Flavor
) -> None:
    QuotaLimit.objects.update_or_create(scope="site", resource="vcpus", defaults={"hard": 2})
    client = browser(owner)
    asked = typed | {"flavor": str(large.pk)}
    preview = client.post("/machines/new/preview/", asked, headers=AS_FRAGMENT).content.decode()
    assert "2 too many" in preview
    answer = client.post("/machines/new/", asked)
    page = answer.content.decode()
    assert answer.status_code == 403
    assert "vCPU" in page
    assert "2 too many" in page
    assert 'value="web-4"' in page
    assert not VM.objects.exists()


def test_the_preview_follows_what_is_typed(
    browser: Callable[[User], Client], owner: User, typed: dict[str, Any], vm: VM
) -> None:
    client = browser(owner)
    page = client.post(
        "/machines/new/preview/",
        typed | {"disk_gib": "37", "copy": "full", "name": "web 1", "user_data": "a: ["},
        headers=AS_FRAGMENT,
    ).content.decode()
    assert "37G" in page
    assert "qemu-img convert" in page
    assert 'hx-target="#name-check"' in page
    assert page.count('class="error"') == 2
    assert not VM.objects.exclude(pk=vm.pk).exists()


def test_what_the_form_and_what_the_service_refuse_is_told_together(
    browser: Callable[[User], Client], owner: User, typed: dict[str, Any]
) -> None:
    wrong = typed | {
        "flavor": "custom",
        "vcpus": "two",
        "memory_mib": "1",
        "disk_gib": "0",
        "name": "Bad Name",
        "user": "no one",
        "password_mode": "choose",
        "password": "",
        "pasted_key": "ssh-rsa nonsense",
        "hostname": "-bad-",
        "tags": "a:b",
        "user_data": "packages: [a",
    }
    answer = browser(owner).post("/machines/new/", wrong)
    assert answer.status_code == 422
    marked = set(answer.context["form"].errors)
    assert marked == set(wrong) & marked
    assert {"vcpus", "memory_mib", "disk_gib", "name", "user", "password"} <= marked
    assert {"pasted_key", "hostname", "tags", "user_data"} <= marked
    assert "Ensure this value" not in answer.content.decode()
    assert not VM.objects.exists()


@pytest.mark.parametrize(
    "wild",
    [{"vcpus": "9" * 40}, {"disk_gib": "-3"}, {"image": "x"}, {"flavor": "'"}, {"team": "0"}],
)
def test_wild_input_never_breaks_the_page(
    browser: Callable[[User], Client], owner: User, typed: dict[str, Any], wild: dict[str, str]
) -> None:
    client = browser(owner)
    custom = typed | {"flavor": "custom", "vcpus": "1", "memory_mib": "512"} | wild
    assert client.post("/machines/new/preview/", custom, headers=AS_FRAGMENT).status_code == 200
    assert client.post("/machines/new/", custom).status_code == 422
    assert not VM.objects.exists()


def test_without_an_image_the_page_says_what_to_do(
    browser: Callable[[User], Client], owner: User, admin: User
) -> None:
    assert "ask one" in browser(owner).get("/machines/new/").content.decode()
    assert "no image to start from" in browser(admin).get("/machines/new/").content.decode()
