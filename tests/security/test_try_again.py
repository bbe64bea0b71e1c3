"""A second try asks every question again: what was allowed then may not be allowed now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from accounts import quotas
from accounts.models import Membership, Resource, User
from jobs.models import Job
from vms.models import VM, Image

pytestmark = pytest.mark.django_db


@pytest.fixture
def failed(owner: User, image: Image, network: Any, team: Any, api: Callable[..., Any]) -> Job:
    """The owner's machine that could not be made."""
    body = {"name": "web-1", "image": image.pk, "vcpus": 2, "memory_mib": 1024, "user": "me"}
    answer = api(owner).post("/vms", body | {"team": team.pk})
    job = Job.objects.get(pk=answer.json()["job"]["id"])
    Job.objects.filter(pk=job.pk).update(state=Job.State.FAILED)
    assert job.vm is not None
    quotas.release(job.vm)  # type: ignore[arg-type]
    VM.objects.update(deleted_at=job.created_at)
    return job


def again(api: Callable[..., Any], who: User, job: Job) -> int | str:
    """202, or the code of why not."""
    answer = api(who).post(f"/jobs/{job.pk}/retry")
    return 202 if answer.status_code == 202 else str(answer.json()["code"])


def test_it_is_made_once_more_and_only_once(
    failed: Job, owner: User, api: Callable[..., Any]
) -> None:
    assert again(api, owner, failed) == 202
    assert again(api, owner, failed) == "job.retried_already"
    assert VM.objects.alive().count() == 1


def test_not_from_an_image_that_was_taken_back(
    failed: Job, owner: User, api: Callable[..., Any]
) -> None:
    Image.objects.update(published=False)
    assert again(api, owner, failed) == "vm.invalid"


def test_not_by_who_may_only_look_now(failed: Job, owner: User, api: Callable[..., Any]) -> None:
    Membership.objects.filter(user=owner, team=failed.team).update(role=Membership.Role.VIEWER)
    assert again(api, owner, failed) == "forbidden"


def test_not_for_who_left_the_team(failed: Job, owner: User, api: Callable[..., Any]) -> None:
    Membership.objects.filter(user=owner, team=failed.team).delete()
    assert again(api, owner, failed) == "not_found"


def test_not_beyond_the_quota(
    failed: Job, owner: User, admin: User, api: Callable[..., Any]
) -> None:
    quotas.set_limit(actor=admin, resource=Resource.VCPUS, hard=1, team=failed.team)
    assert again(api, owner, failed) == "quota.exceeded"
    assert not VM.objects.alive().exists()
