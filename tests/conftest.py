"""The named cast and the smallest world they live in.

* **owner** manages the team *rivendell* and owns the machines of the tests;
* **teammate** is a member of it, **viewer** may only look;
* **outsider** has a personal team and nothing to do with the others;
* **admin** runs the site.

Each has a personal team, as every person has. ``api(person)`` speaks to the API with their token,
``browser(person)`` is a signed-in Django test client.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.cache import cache
from django.http import HttpResponse
from django.test import Client
from hypothesis import HealthCheck, settings

from accounts import services, tokens
from accounts.models import Membership, Team, User
from hosts.models import Host, Network, Pool
from vms.models import VM, Disk, Flavor, Image, Nic

PASSWORD = "correct horse battery"
GIB = 1024**3
DATABASE_FIXTURES = {"db", "transactional_db", "live_server"}

# How fast a machine makes up inputs says nothing of the product.
settings.register_profile("kvmweb", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kvmweb")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--database-only", action="store_true", help="only tests that reach the database"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On a second database the tests that reach none, and those that say so, would only repeat
    themselves."""
    if not config.getoption("--database-only"):
        return
    reach: list[pytest.Item] = []
    rest: list[pytest.Item] = []
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        reaches = item.get_closest_marker("django_db") or not DATABASE_FIXTURES.isdisjoint(fixtures)
        again = reaches and not item.get_closest_marker("one_database")
        (reach if again else rest).append(item)
    config.hook.pytest_deselected(items=rest)
    items[:] = reach


@pytest.fixture(autouse=True)
def _empty_cache() -> Iterator[None]:
    """Rate limits and heartbeats of one test do not reach the next."""
    cache.clear()
    yield
    cache.clear()


# --- people ---------------------------------------------------------------------------------
@pytest.fixture
def make_user(db: None) -> Callable[..., User]:
    def make(username: str, *, is_staff: bool = False) -> User:
        return services.create_user(
            None, username, f"{username}@example.test", PASSWORD, is_staff=is_staff
        )

    return make


@pytest.fixture
def owner(make_user: Callable[..., User]) -> User:
    return make_user("owner")


@pytest.fixture
def teammate(make_user: Callable[..., User]) -> User:
    return make_user("teammate")


@pytest.fixture
def viewer(make_user: Callable[..., User]) -> User:
    return make_user("viewer")


@pytest.fixture
def outsider(make_user: Callable[..., User]) -> User:
    return make_user("outsider")


@pytest.fixture
def admin(make_user: Callable[..., User]) -> User:
    return make_user("admin", is_staff=True)


@pytest.fixture
def team(owner: User, teammate: User, viewer: User) -> Team:
    row = Team.objects.create(name="rivendell", kind=Team.Kind.TEAM)
    for user, role in (
        (owner, Membership.Role.MANAGER),
        (teammate, Membership.Role.MEMBER),
        (viewer, Membership.Role.VIEWER),
    ):
        Membership.objects.create(team=row, user=user, role=role)
    return row


# --- how they speak to the site ---------------------------------------------------------------
class Api:
    """A person with a bearer token. Bodies are JSON; answers are Django's responses."""

    def __init__(self, secret: str) -> None:
        self.secret = secret
        self.client = Client()

    def request(
        self, method: str, path: str, body: Any = None, *, key: str | None = None
    ) -> HttpResponse:
        headers = {"Authorization": f"Bearer {self.secret}"}
        if key is not None:
            headers["Idempotency-Key"] = key
        data = "" if body is None else json.dumps(body)
        return self.client.generic(
            method, f"/api/v1{path}", data, content_type="application/json", headers=headers
        )

    def get(self, path: str) -> HttpResponse:
        return self.request("GET", path)

    def post(self, path: str, body: Any = None, *, key: str | None = None) -> HttpResponse:
        return self.request("POST", path, body, key=key)

    def patch(self, path: str, body: Any = None) -> HttpResponse:
        return self.request("PATCH", path, body)

    def put(self, path: str, body: Any = None) -> HttpResponse:
        return self.request("PUT", path, body)

    def delete(self, path: str) -> HttpResponse:
        return self.request("DELETE", path)


@pytest.fixture
def api(db: None) -> Callable[..., Api]:
    """``api(owner).get("/me")``; all scopes that the person may have unless told otherwise."""

    def for_user(user: User, scopes: tuple[str, ...] | None = None) -> Api:
        allowed = tokens.SCOPES if user.is_staff else ("read", "write")
        _, secret = tokens.issue(user, "test", scopes or allowed, None)
        return Api(secret)

    return for_user


@pytest.fixture
def browser(db: None) -> Callable[[User], Client]:
    def for_user(user: User) -> Client:
        client = Client()
        client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
        return client

    return for_user


# --- what machines are made of ----------------------------------------------------------------
@pytest.fixture
def host(db: None) -> Host:
    """A reachable host with room; by ``hosts.connections.use_fake`` a test gives it a fake."""
    return Host.objects.create(
        name="alpha",
        transport=Host.Transport.LOCAL,
        reach=Host.Reach.UP,
        hostname="alpha",
        arch="x86_64",
        cpus=16,
        memory_mib=65536,
        acceleration="tcg",
    )


@pytest.fixture
def pool(host: Host) -> Pool:
    return Pool.objects.create(
        host=host,
        name="default",
        uuid=uuid.uuid4(),
        kind="dir",
        path="/var/lib/libvirt/images",
        active=True,
        autostart=True,
        is_default=True,
        capacity_bytes=1000 * GIB,
        available_bytes=900 * GIB,
        allocation_bytes=100 * GIB,
    )


@pytest.fixture
def network(host: Host) -> Network:
    return Network.objects.create(
        host=host,
        name="default",
        uuid=uuid.uuid4(),
        kind="nat",
        bridge="virbr0",
        cidr="192.168.122.0/24",
        active=True,
        autostart=True,
    )


@pytest.fixture
def image(db: None) -> Image:
    return Image.objects.create(
        name="Tiny Linux",
        os_id="linux",
        source=Image.Source.BUILT,
        state=Image.State.READY,
        published=True,
        format="qcow2",
        virtual_size_bytes=GIB,
        file_size_bytes=14 * 1024**2,
        min_memory_mib=128,
        min_disk_gib=1,
        default_user="tiny",
    )


@pytest.fixture
def small(db: None) -> Flavor:
    return Flavor.objects.create(name="Small", vcpus=1, memory_mib=1024, disk_gib=10, position=1)


@pytest.fixture
def large(db: None) -> Flavor:
    return Flavor.objects.create(name="Large", vcpus=4, memory_mib=8192, disk_gib=40, position=2)


@pytest.fixture
def flavors(small: Flavor, large: Flavor) -> list[Flavor]:
    return [small, large]


@pytest.fixture
def make_vm(host: Host, image: Image, pool: Pool) -> Callable[..., VM]:
    """A machine's rows as they are after it was made: no job, no allocation."""
    made = 0

    def make(owner: User, team: Team, name: str | None = None, **fields: Any) -> VM:
        nonlocal made
        made += 1
        name = name or f"web-{made}"
        values: dict[str, Any] = {
            "host": host,
            "image": image,
            "vcpus": 1,
            "memory_mib": 1024,
            "hostname": name,
            "domain_name": f"{name}-{uuid.uuid4().hex[:8]}",
            "desired": VM.Desired.RUNNING,
            "observed": VM.Observed.RUNNING,
        }
        vm = VM.objects.create(name=name, owner=owner, team=team, **(values | fields))
        Disk.objects.create(vm=vm, pool=pool, volume=f"kvmweb-{vm.uuid}-vda.qcow2", size_gib=10)
        Nic.objects.create(
            vm=vm, mac=f"52:54:00:00:{made // 256:02x}:{made % 256:02x}", network="default"
        )
        return vm

    return make


@pytest.fixture
def vm(make_vm: Callable[..., VM], owner: User, team: Team) -> VM:
    """The owner's running machine in the team."""
    return make_vm(owner, team, "web-1")
