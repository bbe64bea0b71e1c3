"""Enqueue, cancel, retry, list: by page and API, by owner, teammate and outsider."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts.errors import Busy, Conflict, Forbidden, NotFound
from accounts.models import AuditEntry, Team, User
from jobs import engine, presentation, registry, services
from jobs.models import Job
from jobs.registry import JobKind, Park, StepSpec
from tests.jobs import kinds
from tests.jobs.driving import finish
from vms.models import VM

pytestmark = pytest.mark.django_db(transaction=True)

Enqueue = Callable[..., Job]


def _watch(_ctx: object) -> None:
    raise Park(600)


OBSERVED = registry.register(
    JobKind(
        kind="test.observed",
        label="Create machine",
        verb="creating",
        steps=(kinds.ONE, StepSpec(key="watch", label="Waiting", do=_watch, observing=True)),
    )
)


def _again(job: Job) -> Job:
    return services.enqueue(
        job.kind, actor=job.actor, vm=job.vm, target_name=job.target_name, params=job.params
    )


registry.register(
    JobKind(
        kind="test.retried",
        label="Start",
        verb="starting",
        steps=(StepSpec(key="a", label="Boot", do=kinds.breaks),),
        retry=_again,
    )
)


# --- one active job for a machine ---------------------------------------------------------------
def test_a_machine_has_one_job_at_a_time(enqueue: Enqueue, vm: VM, owner: User) -> None:
    enqueue("test.files", vm=vm, actor=owner, target_name="web-1")
    with pytest.raises(Busy) as refused:
        enqueue("test.breaks", vm=vm, actor=owner)
    assert refused.value.code == "job.busy"
    assert refused.value.params["name"] == "web-1"
    assert Job.objects.count() == 1


def test_the_database_refuses_a_second_one_too(enqueue: Enqueue, vm: VM, monkeypatch: Any) -> None:
    enqueue("test.files", vm=vm)
    monkeypatch.setattr(services, "_make_room", lambda _vm: None)  # both looked at once
    with pytest.raises(Busy):
        enqueue("test.files", vm=vm)


def test_a_job_that_only_observes_makes_room(enqueue: Enqueue, vm: VM, owner: User) -> None:
    first = enqueue("test.observed", vm=vm, actor=owner)
    engine.run(first.pk)
    second = enqueue("test.files", vm=vm, actor=owner)
    first.refresh_from_db()
    assert first.state == "succeeded"
    assert services.active_job(vm) == second


def test_the_job_takes_host_and_team_from_its_machine(enqueue: Enqueue, vm: VM) -> None:
    job = enqueue("test.files", vm=vm)
    assert (job.host, job.team) == (vm.host, vm.team)


# --- the same request twice ---------------------------------------------------------------------
def test_the_same_key_gives_the_same_job(enqueue: Enqueue, owner: User, outsider: User) -> None:
    job = enqueue("test.files", actor=owner, idempotency_key="k1")
    again = services.enqueue("test.files", actor=owner, target_name="x", idempotency_key="k1")
    assert again == job
    with pytest.raises(Conflict, match="idempotency_reused"):
        services.enqueue("test.files", actor=outsider, target_name="x", idempotency_key="k1")
    with pytest.raises(Conflict, match="idempotency_reused"):
        services.enqueue("test.breaks", actor=owner, target_name="x", idempotency_key="k1")


# --- who may ------------------------------------------------------------------------------------
def test_who_sees_and_cancels(
    enqueue: Enqueue, vm: VM, owner: User, teammate: User, outsider: User, admin: User
) -> None:
    job = enqueue("test.files", vm=vm, actor=owner)
    seen = {
        user: job in Job.objects.visible_to(user) for user in (owner, teammate, outsider, admin)
    }
    assert seen == {owner: True, teammate: True, outsider: False, admin: True}
    with pytest.raises(Forbidden):
        services.cancel(job, actor=teammate)
    with pytest.raises(NotFound):
        services.cancel(job, actor=outsider)
    services.cancel(job, actor=admin)
    entry = AuditEntry.objects.filter(verb="job.cancel").get()
    assert (entry.actor, entry.job_id) == (admin, str(job.pk))


def test_a_lost_machine_takes_its_jobs_along(
    enqueue: Enqueue, vm: VM, owner: User, outsider: User
) -> None:
    job = enqueue("test.files", vm=vm, actor=owner)
    VM.objects.filter(pk=vm.pk).update(owner=outsider, team=outsider.personal_team)
    assert job not in Job.objects.visible_to(owner)
    assert job in Job.objects.visible_to(outsider)


# --- the API ------------------------------------------------------------------------------------
def test_the_api_lists_what_a_person_sees(
    enqueue: Enqueue, vm: VM, owner: User, teammate: User, outsider: User, api: Callable[..., Any]
) -> None:
    job = enqueue("test.files", vm=vm, actor=owner, target_name="web-1")
    finish(enqueue("test.files", actor=owner))
    answer = api(owner).get("/jobs?state=queued").json()
    assert answer["count"] == 1
    shown = answer["items"][0]
    assert {key: shown[key] for key in ("id", "kind", "state", "progress", "step", "error")} == {
        "id": str(job.pk),
        "kind": "test.files",
        "state": "queued",
        "progress": None,
        "step": "",
        "error": None,
    }
    assert (shown["vm"], shown["actor"], shown["target"]) == (str(vm.uuid), "owner", "web-1")
    assert api(owner).get(f"/jobs?vm={vm.uuid}").json()["count"] == 1
    assert api(owner).get("/jobs").json()["count"] == 2
    assert api(teammate).get("/jobs").json()["count"] == 1
    assert api(outsider).get("/jobs").json() == {"items": [], "count": 0}
    assert api(outsider).get(f"/jobs/{job.pk}").status_code == 404
    assert api(teammate).post(f"/jobs/{job.pk}/cancel").status_code == 403
    cancelled = api(owner).post(f"/jobs/{job.pk}/cancel")
    assert (cancelled.status_code, cancelled.json()["job"]["state"]) == (202, "cancelled")
    assert api(owner).post(f"/jobs/{job.pk}/cancel").status_code == 409


def test_a_failed_job_is_tried_again_once(
    enqueue: Enqueue, vm: VM, owner: User, api: Callable[..., Any]
) -> None:
    job = finish(enqueue("test.retried", vm=vm, actor=owner))
    shown = api(owner).get(f"/jobs/{job.pk}").json()
    assert shown["error"]["code"] == "job.internal"
    assert shown["error"]["ref"] == job.error_ref
    assert "reference" in shown["error"]["message"]
    assert [step["state"] for step in shown["steps"]] == ["failed"]
    again = api(owner).post(f"/jobs/{job.pk}/retry", key="again-1")
    assert again.status_code == 202
    repeated = api(owner).post(f"/jobs/{job.pk}/retry", key="again-1")
    assert repeated.json() == again.json()
    assert api(owner).post(f"/jobs/{job.pk}/retry").status_code == 409
    job.refresh_from_db()
    assert str(job.retried_by_id) == again.json()["job"]["id"]


def test_what_cannot_be_retried_says_so(enqueue: Enqueue, owner: User) -> None:
    job = finish(enqueue("test.breaks", actor=owner))
    with pytest.raises(Conflict, match="no_retry"):
        services.retry(job, actor=owner)
    with pytest.raises(Conflict, match="not_failed"):
        services.retry(finish(enqueue("test.files", actor=owner)), actor=owner)


def test_a_list_costs_the_same_for_any_number_of_jobs(
    enqueue: Enqueue, owner: User, team: Team, api: Callable[..., Any]
) -> None:
    asked = api(owner)
    asked.get("/jobs")  # a token's first use is recorded
    counts = []
    for _ in range(2):
        for _ in range(5):
            enqueue("test.files", actor=owner, team=team)
        with CaptureQueriesContext(
            connection,
        ) as queries:
            asked.get("/jobs")
        counts.append(len(queries))
    assert counts[0] == counts[1]


# --- in words -----------------------------------------------------------------------------------
def test_how_far_a_job_is(enqueue: Enqueue, owner: User, outsider: User) -> None:
    job = enqueue("test.waits", actor=owner)
    engine.run(job.pk)
    Job.objects.update(progress=0.5)
    job = Job.objects.with_everything().get(pk=job.pk)
    shown = presentation.view(job, reader=owner)
    assert (shown.label, shown.step_label, shown.percent) == ("test.waits", "Wait", 50)
    assert [step.state for step in shown.steps] == ["done", "running", "pending"]
    assert (shown.can_cancel, shown.can_retry) == (True, False)
    assert not presentation.view(job, reader=outsider).can_cancel


def test_the_time_left_follows_the_pace_so_far(enqueue: Enqueue) -> None:
    from datetime import timedelta

    from django.utils import timezone

    job = enqueue("test.waits")
    engine.run(job.pk)
    Job.objects.update(progress=0.25)
    job.steps.filter(key="wait").update(started_at=timezone.now() - timedelta(seconds=30))
    left = presentation.eta_s(Job.objects.with_everything().get(pk=job.pk))
    assert left == pytest.approx(90, abs=5)


def test_a_retry_in_progress_is_said_in_words(enqueue: Enqueue) -> None:
    job = enqueue("test.stumbles", params={"times": 1})
    engine.run(job.pk)
    job.refresh_from_db()
    assert presentation.waiting(job).startswith("Did not work yet and is tried again shortly.")
