"""One site for all of a module's walks: each test, and each case in it, is rolled back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings
from django.db import transaction

from tests.security import ways_in, ways_world
from tests.security.ways_in import Example
from tests.security.ways_world import World


@pytest.fixture(scope="module")
def world(django_db_setup: None, django_db_blocker: Any) -> Iterator[World]:
    with django_db_blocker.unblock():
        atomic = transaction.atomic()
        atomic._from_testcase = True  # type: ignore[attr-defined]  # the tests' own are inside it
        with atomic, pytest.MonkeyPatch.context() as patch:
            # No page and no operation waits for a hypervisor: what changes there is a job.
            patch.setattr("hosts.connections.hypervisor", _asked)
            patch.setattr(settings, "PUBLISH_PORTS", range(20000, 20100))
            yield ways_world.build()
            transaction.set_rollback(True)


def _asked(*_args: Any, **_kwargs: Any) -> None:
    raise AssertionError("a hypervisor was asked")


@pytest.fixture(scope="module")
def examples(world: World) -> dict[str, Example]:
    return ways_in.examples(world)
