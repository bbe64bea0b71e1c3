"""Admins publish sizes; people see the published ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from accounts.models import AuditEntry, User
from vms.models import Flavor

GOOD = {"name": "Medium", "vcpus": 2, "memory_mib": 2048, "disk_gib": 20}


def test_admin_adds_changes_and_deletes(api: Callable[..., Any], admin: User, owner: User) -> None:
    made = api(admin).post("/flavors", GOOD)
    assert made.status_code == 201
    path = f"/flavors/{made.json()['id']}"
    assert api(owner).get(path).json()["vcpus"] == 2
    assert api(admin).patch(path, {"published": False}).json()["published"] is False
    assert api(owner).get(path).status_code == 404
    assert api(owner).get("/flavors").json()["count"] == 0
    assert api(admin).get("/flavors").json()["count"] == 1
    assert api(admin).delete(path).status_code == 204
    assert not Flavor.objects.exists()
    assert set(AuditEntry.objects.filter(target_type="flavor").values_list("verb", flat=True)) == {
        "flavor.add",
        "flavor.edit",
        "flavor.delete",
    }


def test_others_may_not(api: Callable[..., Any], owner: User, small: Flavor) -> None:
    assert api(owner).post("/flavors", GOOD).status_code == 403
    assert api(owner).patch(f"/flavors/{small.pk}", {"vcpus": 9}).status_code == 403
    assert api(owner).delete(f"/flavors/{small.pk}").status_code == 403
    small.refresh_from_db()
    assert small.vcpus == 1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 33}, "name"),
        ({"vcpus": 0}, "vcpus"),
        ({"vcpus": 65}, "vcpus"),  # more than any machine may have
        ({"memory_mib": 1}, "memory_mib"),
        ({"memory_mib": 2**20 + 1}, "memory_mib"),
        ({"disk_gib": 0}, "disk_gib"),
        ({"disk_gib": 16_385}, "disk_gib"),
        ({"description": "x" * 129}, "description"),
        ({"position": -1}, "position"),
    ],
)
def test_wrong_input(
    change: dict[str, Any], field: str, api: Callable[..., Any], admin: User
) -> None:
    answer = api(admin).post("/flavors", GOOD | change)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert not Flavor.objects.exists()


def test_a_name_once(api: Callable[..., Any], admin: User) -> None:
    api(admin).post("/flavors", GOOD)
    answer = api(admin).post("/flavors", GOOD)
    assert answer.json()["errors"][0]["code"] == "flavor.name_taken"
