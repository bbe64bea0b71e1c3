"""A job's way: forward, parked, woken, tried again, cancelled, late, undone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from accounts.errors import Conflict
from accounts.models import User
from jobs import engine, errors, registry, services
from jobs.context import JobContext
from jobs.models import Job, Step
from jobs.registry import JobKind, Park, StepSpec, Transient
from tests.jobs import kinds
from tests.jobs.conftest import directory
from tests.jobs.driving import finish, lose_worker, pass_deadline, pass_pause
from tests.servers import wait_for

pytestmark = pytest.mark.django_db(transaction=True)

Enqueue = Callable[..., Job]


@pytest.fixture
def kind() -> Callable[..., str]:
    """Register a kind for one test; gives its name back."""

    def add(*steps: StepSpec, **more: Any) -> str:
        name = f"t.{len(registry.all_kinds())}"
        registry.register(JobKind(kind=name, label="Test", verb="testing", steps=steps, **more))
        return name

    return add


def states(job: Job) -> dict[str, str]:
    return dict(job.steps.values_list("key", "state"))


def step(key: str, do: Callable[[JobContext], None], **more: Any) -> StepSpec:
    return StepSpec(key=key, label=key, do=do, **more)


# --- forward ------------------------------------------------------------------------------------
def test_steps_run_in_order_and_are_recorded(enqueue: Enqueue) -> None:
    job = enqueue("test.files")
    assert states(job) == {"one": "pending", "two": "pending", "three": "pending"}
    finish(job)
    assert job.state == "succeeded"
    assert job.progress == 1.0
    assert (job.worker, job.lease_until) == ("", None)
    assert job.started_at
    assert job.finished_at
    assert set(states(job).values()) == {"done"}
    assert kinds.lines(directory(job)) == ["do one", "do two", "do three"]


def test_a_job_that_is_over_does_not_run_again(enqueue: Enqueue) -> None:
    job = finish(enqueue("test.files"))
    assert not engine.run(job.pk)
    assert kinds.lines(directory(job)).count("do one") == 1


def test_a_step_that_is_not_needed_is_skipped(kind: Callable[..., str], enqueue: Enqueue) -> None:
    name = kind(
        step("maybe", lambda _ctx: pytest.fail("not needed"), optional=lambda _ctx: False),
        step("then", lambda _ctx: None),
    )
    job = finish(enqueue(name))
    assert states(job) == {"maybe": "skipped", "then": "done"}


def test_an_effect_that_is_there_is_not_made_again(enqueue: Enqueue) -> None:
    job = enqueue("test.files")
    (directory(job) / "effect-one").touch()
    finish(job)
    assert kinds.lines(directory(job)) == ["do two", "do three"]


def test_data_of_a_step_reaches_the_next_claim(kind: Callable[..., str], enqueue: Enqueue) -> None:
    seen: list[str] = []

    def first(ctx: JobContext) -> None:
        ctx.save_data(volume="vda-1")
        raise Park(5)

    def look(ctx: JobContext) -> None:
        seen.append(ctx.data["volume"])

    name = kind(step("a", first, check=lambda ctx: "volume" in ctx.data), step("b", look))
    assert finish(enqueue(name)).state == "succeeded"
    assert seen == ["vda-1"]


def test_callbacks_run_with_the_end(kind: Callable[..., str], enqueue: Enqueue) -> None:
    ended: list[tuple[str, bool]] = []

    def note(job: Job) -> None:
        ended.append((job.state, connection.in_atomic_block))

    name = kind(step("a", lambda _ctx: None), on_success=note)
    finish(enqueue(name))
    name = kind(step("a", kinds.breaks), on_failure=note)
    finish(enqueue(name))
    assert ended == [("succeeded", True), ("failed", True)]


def test_a_callback_that_breaks_does_not_keep_the_job_from_ending(
    kind: Callable[..., str], enqueue: Enqueue
) -> None:
    calls: list[int] = []

    def on_success(_job: Job) -> None:
        calls.append(1)
        raise RuntimeError("the other app's fault")

    name = kind(step("a", lambda _ctx: None), on_success=on_success)
    job = finish(enqueue(name))
    assert (job.state, job.warning_code) == ("succeeded", "job.internal")
    assert len(calls) == registry.get(name).max_retries + 1


# --- parked and woken ---------------------------------------------------------------------------
def test_park_gives_the_worker_back_until_woken(enqueue: Enqueue) -> None:
    job = enqueue("test.waits")
    assert engine.run(job.pk)
    job.refresh_from_db()
    assert (job.state, job.worker, job.waiting_for) == ("running", "", "go")
    assert not engine.run(job.pk)  # its time has not come
    (directory(job) / "go").touch()
    services.wake(job_id=job.pk)
    assert engine.run(job.pk)
    job.refresh_from_db()
    assert job.state == "succeeded"
    assert job.retries == 0
    assert kinds.lines(directory(job)) == ["do one", "looked", "looked", "do two"]


def test_a_wake_up_while_the_worker_looks_is_not_lost(
    kind: Callable[..., str], enqueue: Enqueue
) -> None:
    def look(ctx: JobContext) -> None:
        if ctx.job.attempt == 1:
            services.wake(job_id=ctx.job.pk)  # the event comes before the park is written
            raise Park(600)

    job = enqueue(kind(step("look", look)))
    engine.run(job.pk)
    assert engine.run(job.pk)  # at once, not in ten minutes
    job.refresh_from_db()
    assert job.state == "succeeded"


def test_an_event_does_not_cut_the_pause_after_an_error_short(enqueue: Enqueue) -> None:
    job = enqueue("test.stumbles", params={"times": 1})
    engine.run(job.pk)
    services.wake(job_id=job.pk)
    assert not engine.run(job.pk)


def test_a_wake_up_during_a_second_try_is_not_lost(
    kind: Callable[..., str], enqueue: Enqueue
) -> None:
    def look(ctx: JobContext) -> None:
        if ctx.job.attempt == 1:
            raise Transient
        if ctx.job.attempt == 2:
            services.wake(job_id=ctx.job.pk)
            raise Park(600)

    job = enqueue(kind(step("look", look)))
    engine.run(job.pk)
    pass_pause(job)
    engine.run(job.pk)
    assert engine.run(job.pk)
    job.refresh_from_db()
    assert job.state == "succeeded"


def test_progress_of_a_parked_step_stays(kind: Callable[..., str], enqueue: Enqueue) -> None:
    def mirror(ctx: JobContext) -> None:
        ctx.progress(0.42)
        raise Park(600)

    job = enqueue(kind(step("image", mirror)))
    engine.run(job.pk)
    job.refresh_from_db()
    assert (job.state, job.progress) == ("running", 0.42)


# --- tried again --------------------------------------------------------------------------------
def test_a_transient_error_is_tried_again_with_growing_pauses(enqueue: Enqueue) -> None:
    job = enqueue("test.stumbles", params={"times": 3})
    pauses = []
    for tries in (1, 2, 3):
        engine.run(job.pk)
        job.refresh_from_db()
        assert (job.state, job.retries) == ("running", tries)
        assert job.lease_until
        pauses.append((job.lease_until - timezone.now()).seconds)
        pass_pause(job)
    assert pauses == sorted(pauses)
    finish(job)
    assert (job.state, job.retries) == ("succeeded", 0)


def test_transient_errors_end_after_a_bounded_number(enqueue: Enqueue) -> None:
    job = finish(enqueue("test.stumbles", params={"times": 100}))
    assert job.state == "failed"
    assert (
        kinds.lines(directory(job)).count("tried") == registry.get("test.stumbles").max_retries + 1
    )
    assert kinds.effects(directory(job)) == set()


def test_an_error_of_the_hypervisor_is_known_by_what_it_carries(
    kind: Callable[..., str], enqueue: Enqueue
) -> None:
    from hosts.virt.errors import DomainBusy, NoSpace

    def full(_ctx: JobContext) -> None:
        raise NoSpace("virStorageVolCreateXML: no space left", ref="cafe0001")

    job = finish(enqueue(kind(step("disk", full))))
    assert (job.error_code, job.error_ref) == ("virt.no_space", "cafe0001")

    tries: list[int] = []

    def busy(_ctx: JobContext) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise DomainBusy("cannot acquire state change lock")

    assert finish(enqueue(kind(step("start", busy)))).state == "succeeded"


def test_a_domain_error_keeps_code_and_parameters(
    kind: Callable[..., str], enqueue: Enqueue
) -> None:
    def refuse(_ctx: JobContext) -> None:
        raise Conflict("vm.wrong_state", state="paused")

    job = finish(enqueue(kind(step("a", refuse))))
    assert (job.error_code, job.error_params) == ("vm.wrong_state", {"state": "paused"})


# --- undone -------------------------------------------------------------------------------------
def test_failure_undoes_in_reverse_order(enqueue: Enqueue) -> None:
    job = finish(enqueue("test.breaks"))
    assert (job.state, job.error_code) == ("failed", "job.internal")
    assert job.error_ref
    assert kinds.lines(directory(job)) == ["do one", "do two", "undo two", "undo one"]
    assert states(job) == {"one": "undone", "two": "undone", "last": "failed"}
    assert job.step == "last"  # the page says where it failed, not where cleaning up ended


def test_an_undo_that_fails_is_tried_until_it_works(
    kind: Callable[..., str], enqueue: Enqueue
) -> None:
    tries: list[int] = []

    def undo(_ctx: JobContext) -> None:
        tries.append(1)
        if len(tries) < 4:
            raise Transient

    name = kind(step("a", lambda _ctx: None, undo=undo), step("b", kinds.breaks))
    job = enqueue(name)
    engine.run(job.pk)
    job.refresh_from_db()
    assert (job.state, job.worker) == ("compensating", "")
    finish(job)
    assert (job.state, job.error_code, job.warning_code) == ("failed", "job.internal", "")
    assert len(tries) == 4


def test_an_undo_that_never_works_is_given_up_aloud_and_the_others_still_run(
    kind: Callable[..., str], enqueue: Enqueue
) -> None:
    seen: list[str] = []
    name = kind(
        step("a", lambda _ctx: None, undo=lambda _ctx: seen.append("undo a")),
        step("b", lambda _ctx: None, undo=kinds.breaks),
        step("c", kinds.breaks),
        on_failure=lambda job: seen.append(job.warning_code),
    )
    job = finish(enqueue(name))
    assert (job.state, job.error_code) == ("failed", "job.internal")
    assert job.warning_code == errors.CLEANUP_INCOMPLETE
    assert seen == ["undo a", errors.CLEANUP_INCOMPLETE]
    assert states(job) == {"a": "undone", "b": "done", "c": "failed"}


def test_a_worker_lost_too_often_at_one_step_fails_the_job(enqueue: Enqueue) -> None:
    job = enqueue("test.waits")
    engine.run(job.pk)
    for _ in range(registry.get("test.waits").max_retries + 1):
        Job.objects.filter(pk=job.pk).update(worker="gone:1")
        lose_worker(job)
        engine.run(job.pk)
    job.refresh_from_db()
    assert (job.state, job.error_code) == ("failed", "job.worker_lost")
    assert kinds.effects(directory(job)) == set()


# --- cancelled ----------------------------------------------------------------------------------
def test_a_job_that_nobody_began_is_cancelled_at_once(enqueue: Enqueue, owner: User) -> None:
    job = enqueue("test.files", actor=owner)
    services.cancel(job, actor=owner)
    job.refresh_from_db()
    assert job.state == "cancelled"
    assert not engine.run(job.pk)


def test_cancel_stops_a_program_in_the_middle_and_undoes(enqueue: Enqueue, owner: User) -> None:
    job = enqueue("test.sleeps", actor=owner)
    worker = _in_background(job)
    pid_file = directory(job) / "pid"
    wait_for(lambda: pid_file.exists() and pid_file.read_text().strip(), "the program runs")
    services.cancel(job, actor=owner)
    worker.join(10)
    job.refresh_from_db()
    assert job.state == "cancelled"
    assert job.error_code == ""
    assert kinds.lines(directory(job)) == ["do one", "sleeping", "undo one"]
    assert not Path(f"/proc/{pid_file.read_text().strip()}").exists()


def test_cancel_of_a_parked_job_undoes_at_the_next_claim(enqueue: Enqueue, owner: User) -> None:
    job = enqueue("test.waits", actor=owner)
    engine.run(job.pk)
    services.cancel(job, actor=owner)
    assert engine.run(job.pk)  # woken by the cancel
    job.refresh_from_db()
    assert job.state == "cancelled"
    assert kinds.effects(directory(job)) == set()


def test_what_cannot_be_cancelled_says_so(
    kind: Callable[..., str], enqueue: Enqueue, owner: User
) -> None:
    job = enqueue(kind(step("a", lambda _ctx: None), cancellable=False), actor=owner)
    with pytest.raises(Conflict, match=r"job\.not_cancellable"):
        services.cancel(job, actor=owner)
    finish(job)
    with pytest.raises(Conflict, match=r"job\.already_over"):
        services.cancel(job, actor=owner)


# --- late ---------------------------------------------------------------------------------------
def test_the_deadline_ends_a_program_and_the_job(enqueue: Enqueue) -> None:
    job = finish(enqueue("test.late"))
    assert (job.state, job.error_code) == ("failed", "job.deadline")
    assert kinds.effects(directory(job)) == set()


def test_a_parked_job_past_its_deadline_is_called_back(enqueue: Enqueue) -> None:
    from jobs import reconcile

    job = enqueue("test.waits")
    engine.run(job.pk)
    pass_deadline(job)
    reconcile.run()
    assert engine.run(job.pk)
    job.refresh_from_db()
    assert (job.state, job.error_code) == ("failed", "job.deadline")


def test_waiting_for_a_place_does_not_count_against_the_deadline(
    kind: Callable[..., str], enqueue: Enqueue
) -> None:
    def wait(_ctx: JobContext) -> None:
        raise Park(3600, stops_clock=True)

    job = enqueue(kind(step("a", wait)))
    engine.run(job.pk)
    job.refresh_from_db()
    assert job.deadline
    assert job.started_at
    assert (job.deadline - job.started_at).total_seconds() > 3600


# --- observing ----------------------------------------------------------------------------------
@pytest.fixture
def observed(kind: Callable[..., str]) -> str:
    """The thing works after ``make``; ``watch`` only looks."""

    def watch(_ctx: JobContext) -> None:
        raise Park(600, waiting_for="address")

    return kind(kinds.ONE, step("watch", watch, observing=True), kinds.TWO)


def test_late_while_observing_is_a_success_with_a_warning(enqueue: Enqueue, observed: str) -> None:
    job = enqueue(observed)
    engine.run(job.pk)
    pass_deadline(job)
    finish(job)
    assert (job.state, job.warning_code, job.error_code) == ("succeeded", "job.deadline", "")
    assert kinds.effects(directory(job)) == {"effect-one"}


def test_cancel_while_observing_keeps_the_thing(
    enqueue: Enqueue, observed: str, owner: User
) -> None:
    job = enqueue(observed, actor=owner)
    engine.run(job.pk)
    services.cancel(job, actor=owner)
    job.refresh_from_db()
    assert job.state == "succeeded"
    assert kinds.effects(directory(job)) == {"effect-one"}
    assert states(job)["watch"] == "skipped"


def test_an_error_while_observing_is_a_warning(kind: Callable[..., str], enqueue: Enqueue) -> None:
    job = finish(enqueue(kind(kinds.ONE, step("watch", kinds.breaks, observing=True))))
    assert (job.state, job.warning_code) == ("succeeded", "job.internal")
    assert kinds.effects(directory(job)) == {"effect-one"}


# --- the registry -------------------------------------------------------------------------------
def test_a_kind_that_this_version_does_not_know_fails_plainly() -> None:
    job = Job.objects.create(kind="from.the.future")
    assert engine.run(job.pk)
    job.refresh_from_db()
    assert (job.state, job.error_code) == ("failed", "job.unknown_kind")


def test_step_keys_do_not_repeat(kind: Callable[..., str]) -> None:
    with pytest.raises(ValueError, match="repeat"):
        kind(kinds.ONE, kinds.ONE)


def test_steps_left_behind_by_a_dead_worker_are_not_running_for_ever(
    enqueue: Enqueue, observed: str
) -> None:
    job = enqueue(observed)
    engine.run(job.pk)
    finished = finish_by_cancel(job)
    assert not finished.steps.filter(state=Step.State.RUNNING).exists()


def finish_by_cancel(job: Job) -> Job:
    services.cancel(job, actor=None)
    job.refresh_from_db()
    return job


def _in_background(job: Job) -> threading.Thread:
    def work() -> None:
        try:
            engine.run(job.pk)
        finally:
            connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    return thread
