"""The pages of images and sizes: everybody sees what is published, admins manage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from accounts import messages
from accounts.models import User
from jobs.models import Job
from tests.images.server import ImageServer
from vms.images import services, uploads
from vms.images.details import Details
from vms.models import Flavor, Image

Browser = Callable[[User], Client]

ADMIN_PAGES = [
    "/admin/images/",
    "/admin/images/?part=rows",
    "/admin/images/new/",
    "/admin/images/new/?source=url",
    "/admin/images/new/?source=upload",
    "/admin/images/new/?source=pool",
    "/admin/images/{image}/",
    "/admin/images/{image}/?part=state",
    "/admin/images/{image}/?part=delete",
    "/admin/flavors/",
    "/admin/flavors/new/",
    "/admin/flavors/{flavor}/",
]


@pytest.mark.parametrize("path", ADMIN_PAGES)
@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_admin_pages_open_for_admins_only(
    path: str,
    language: str,
    browser: Browser,
    admin: User,
    owner: User,
    ready: Image,
    small: Flavor,
) -> None:
    path = path.format(image=ready.pk, flavor=small.pk)
    User.objects.filter(pk=admin.pk).update(language=language)
    answer = browser(admin).get(path)
    assert answer.status_code == 200, answer.content[:2000]
    assert b"style=" not in answer.content
    assert browser(owner).get(path).status_code == 403
    assert Client().get(path).status_code == 302


def test_everybody_sees_the_published_images(
    browser: Browser, owner: User, admin: User, ready: Image
) -> None:
    services.add_url(actor=admin, url="https://example.org/x", about=Details(name="Secret"))
    page = browser(owner).get("/images/").content.decode()
    assert "Debian 12" in page
    assert "Secret" not in page
    assert f"image={ready.pk}" in page
    assert "Debian" not in browser(owner).get("/images/?q=fedora").content.decode()
    services.unpublish(ready, actor=admin)
    assert "No image is published yet" in browser(owner).get("/images/").content.decode()


def test_every_state_has_its_words(
    browser: Browser, admin: User, ready: Image, django_assert_max_num_queries: Any
) -> None:
    services.add_url(actor=admin, url="https://example.org/x", about=Details(name="Downloading"))
    uploads.begin(actor=admin, size_bytes=10, file_name="x", about=Details(name="Uploading"))
    Image.objects.create(
        name="Broken",
        source="url",
        state="failed",
        error_code="image.truncated",
        error_ref="abcd1234",
    )
    client = browser(admin)
    client.get("/admin/images/")
    with django_assert_max_num_queries(20):
        page = client.get("/admin/images/?part=rows").content.decode()
    for words in ("Published", "Upload not finished", "Failed", "abcd1234", "is missing"):
        assert words in page


def test_add_from_the_catalogue(browser: Browser, admin: User) -> None:
    client = browser(admin)
    answer = client.post(
        "/admin/images/new/", {"source": "catalogue", "entry": "debian-12", "publish": "on"}
    )
    assert answer.status_code == 302
    image = Image.objects.get()
    assert (image.name, image.published, image.state) == ("Debian 12", True, "new")
    assert Job.objects.get().params["checksum_url"].endswith("SHA512SUMS")
    again = client.post("/admin/images/new/", {"source": "catalogue", "entry": "debian-12"})
    assert again.status_code == 422
    assert "already" in again.content.decode()


def test_add_by_address_says_what_is_wrong(
    browser: Browser, admin: User, server: ImageServer
) -> None:
    client = browser(admin)
    wrong = client.post(
        "/admin/images/new/", {"source": "url", "name": "x", "url": "http://192.168.0.1/x"}
    )
    assert wrong.status_code == 422
    assert "only fetched by https" in wrong.content.decode()
    every = {"url": "http://192.168.0.1/x", "checksum": "12", "checksum_url": "ftp://example.org/x"}
    wrong = client.post("/admin/images/new/", {"source": "url", "name": "a/b", **every})
    assert set(wrong.context["url_form"].errors) == {"url", "checksum", "checksum_url"}
    assert "allow it in KVMWEB_IMAGE_ALLOWED_HOSTS" in wrong.content.decode()
    assert not Image.objects.exists()
    good = client.post(
        "/admin/images/new/",
        {"source": "url", "name": "x", "url": server.url("/x.qcow2"), "has_cloud_init": "on"},
    )
    assert good.status_code == 302
    assert Image.objects.get().has_cloud_init is True


def test_edit_and_act(browser: Browser, admin: User, owner: User, ready: Image) -> None:
    client = browser(admin)
    path = f"/admin/images/{ready.pk}/"
    client.post(path, {"name": "Debian", "os_id": "debian12", "has_cloud_init": "on"})
    ready.refresh_from_db()
    assert ready.name == "Debian"
    assert client.post(path, {"name": ""}).status_code == 422
    for verb, state, published in (
        ("unpublish", "ready", False),
        ("publish", "ready", True),
        ("retire", "retired", False),
        ("restore", "ready", False),
    ):
        assert client.post(f"{path}{verb}/").status_code == 302
        ready.refresh_from_db()
        assert (ready.state, ready.published) == (state, published)
    assert client.get(f"{path}publish/").status_code == 405
    assert client.post(f"{path}explode/").status_code == 404
    assert browser(owner).post(f"{path}publish/").status_code == 403
    assert client.post(f"{path}delete/").status_code == 302
    assert Job.objects.get().kind == "image.delete"


def test_sizes(browser: Browser, admin: User, owner: User) -> None:
    client = browser(admin)
    good = {"name": "M", "vcpus": 2, "memory_mib": 2048, "disk_gib": 20, "position": 1}
    assert client.post("/admin/flavors/new/", good | {"vcpus": 0}).status_code == 422
    assert client.post("/admin/flavors/new/", good).status_code == 302
    flavor = Flavor.objects.get()
    assert client.post("/admin/flavors/new/", good).status_code == 422
    client.post(f"/admin/flavors/{flavor.pk}/", good | {"vcpus": 4})
    flavor.refresh_from_db()
    assert flavor.vcpus == 4
    assert browser(owner).post(f"/admin/flavors/{flavor.pk}/delete/").status_code == 403
    assert client.post(f"/admin/flavors/{flavor.pk}/delete/").status_code == 302
    assert not Flavor.objects.exists()


def test_every_code_has_its_words() -> None:
    """Codes as they stand in the source of images, seeds, names and sizes."""
    import re
    from pathlib import Path

    root = Path(__file__).parents[2] / "vms"
    sources = [
        *(root / "images").glob("*.py"),
        *(root / f"{name}.py" for name in ("names", "passwords", "cloudconfig", "flavors")),
    ]
    verbs = {services.FETCH, services.DELETE, "image.copy"}
    quoted = r'"((?:image|flavor|name|hostname|username|password|cloudconfig)\.[a-z0-9_]+)"'
    found: set[str] = set()
    for path in sources:
        if path.name != "messages.py":
            text = re.sub(r"audit\.record\([^)]*\)|_set\([^)]*\)", "", path.read_text())
            found |= set(re.findall(quoted, text))
    missing = sorted(code for code in found - verbs if not messages.is_known(code))
    assert missing == []
    assert len(found) > 100
