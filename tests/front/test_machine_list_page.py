"""The list and the first page: what each person sees, and how much SQL that takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import Team, User
from jobs.models import Job
from vms.models import VM, Tag
from vms.templatetags.frame import tray_context

# Session, person, own team; frame (tray, gauge); list (counts, extra counts, rows and what they
# show). The number is the same for one machine and for a full page.
LIST_QUERIES = 20
FIRST_PAGE_QUERIES = 36


def queries_of(client: Client, path: str) -> int:
    client.get(path)  # what is read once per process is read now
    with CaptureQueriesContext(
        connection,
    ) as captured:
        assert client.get(path).status_code == 200
    return len(captured)


def test_the_number_of_queries_does_not_grow(
    browser: Callable[[User], Client], owner: User, team: Team, make_vm: Callable[..., VM]
) -> None:
    client = browser(owner)
    make_vm(owner, team)
    few_list, few_first = queries_of(client, "/machines/"), queries_of(client, "/")
    for number in range(60):
        vm = make_vm(owner, team, observed="shutoff" if number % 3 else "running")
        Tag.objects.create(vm=vm, name="web")
        if number % 10 == 0:
            Job.objects.create(
                kind="vm.start", vm=vm, actor=owner, target_name=vm.name, state="running"
            )
    assert queries_of(client, "/machines/") == few_list <= LIST_QUERIES
    assert queries_of(client, "/") == few_first <= FIRST_PAGE_QUERIES


def test_owner_teammate_and_outsider_see_what_is_theirs(
    browser: Callable[[User], Client], vm: VM, owner: User, teammate: User, outsider: User
) -> None:
    for person, sees in ((owner, True), (teammate, True), (outsider, False)):
        page = browser(person).get("/machines/").content.decode()
        assert (f'id="vm-{vm.uuid}"' in page) is sees
        assert ("You have no machine yet." in page) is not sees


def test_an_empty_site_leads_to_create(browser: Callable[[User], Client], owner: User) -> None:
    page = browser(owner).get("/").content.decode()
    assert "You have no machine yet." in page
    assert 'href="/machines/new/"' in page


def test_search_filter_and_pages(
    browser: Callable[[User], Client], owner: User, team: Team, make_vm: Callable[..., VM]
) -> None:
    for number in range(55):
        make_vm(owner, team, f"node-{number:02d}")
    stopped = make_vm(owner, team, "lonely", observed="shutoff")
    client = browser(owner)
    first = client.get("/machines/").content.decode()
    assert "Page 1 of 2" in first
    found = client.get("/machines/?q=lone&part=results").content.decode()
    assert f'id="vm-{stopped.uuid}"' in found
    assert found.count("<tr id=") == 1
    assert "<html" not in found
    by_state = client.get("/machines/?state=shutoff").content.decode()
    assert by_state.count("<tr id=") == 1
    nothing = client.get("/machines/?q=nowhere").content.decode()
    assert "No machine of yours matches this." in nothing


def test_a_menu_for_each_filter_and_a_way_out_of_each(
    browser: Callable[[User], Client],
    owner: User,
    outsider: User,
    team: Team,
    make_vm: Callable[..., VM],
) -> None:
    tagged, other = make_vm(owner, team, "one"), make_vm(owner, team, "two")
    Tag.objects.create(vm=tagged, name="web")
    client = browser(owner)
    dialog = client.get("/machines/?q=o&sort=-name&part=filters").content.decode()
    for key in ("host", "owner", "image", "tag", "team"):
        assert f'<select name="{key}"' in dialog
    assert '<option value="web"' in dialog
    assert '<input type="hidden" name="q" value="o">' in dialog
    assert '<input type="hidden" name="sort" value="-name">' in dialog
    found = client.get("/machines/?tag=web").content.decode()
    assert f'id="vm-{tagged.uuid}"' in found
    assert f'id="vm-{other.uuid}"' not in found
    assert "Tag: web" in found
    assert 'title="Remove this filter"' in found
    again = client.get("/machines/?tag=web&part=filters").content.decode()
    assert '<option value="web" selected>' in again
    assert "web" not in browser(outsider).get("/machines/?part=filters").content.decode()


def test_a_search_as_typed_moves_the_address_only_for_htmx(
    browser: Callable[[User], Client], owner: User
) -> None:
    client = browser(owner)
    typed = client.get(
        "/machines/?part=results&q=web", headers={"HX-Request": "true", "HX-Target": "div#results"}
    )
    assert typed["HX-Replace-Url"] == "/machines/?q=web"
    assert "HX-Replace-Url" not in client.get("/machines/?part=results&q=web")


def test_the_bulk_bar_touches_only_what_it_may(
    browser: Callable[[User], Client],
    owner: User,
    outsider: User,
    team: Team,
    make_vm: Callable[..., VM],
) -> None:
    stopped = make_vm(owner, team, "a", observed="shutoff")
    running = make_vm(owner, team, "b")
    ids = f"{stopped.uuid} {running.uuid}"
    answer = browser(owner).post(
        "/machines/bulk/", {"verb": "start", "ids": ids}, headers={"HX-Request": "true"}
    )
    assert answer.status_code == 204
    assert "Start%3A%201%20machine" in answer["X-Toast"]
    assert Job.objects.get().vm == stopped
    answer = browser(outsider).post(
        "/machines/bulk/",
        {"verb": "delete", "ids": ids, "confirmed": "1"},
        headers={"HX-Request": "true"},
    )
    assert "No%20machine%20was%20chosen" in answer["X-Toast"]
    assert Job.objects.count() == 1


def test_bulk_delete_names_what_goes(
    browser: Callable[[User], Client], owner: User, vm: VM
) -> None:
    client = browser(owner)
    dialog = client.get(f"/machines/?part=confirm&verb=delete&ids={vm.uuid}").content.decode()
    assert vm.name in dialog
    assert "go to the recycle bin" in dialog
    data = {"verb": "delete", "ids": str(vm.uuid), "confirmed": "1"}
    client.post("/machines/bulk/", data | {"purge": "1"})
    assert Job.objects.get().kind == "vm.delete"


@pytest.mark.parametrize("path", ["/", "/machines/", "/machines/new/", "/jump/", "/frame/tray/"])
def test_strangers_are_led_to_the_sign_in(db: None, path: str) -> None:
    answer = Client().get(path)
    assert answer.status_code == 302
    assert "/accounts/login/" in answer["Location"]
    assert Client().get(path, headers={"HX-Request": "true"}).status_code == 401


def test_a_part_that_does_not_exist_is_not_found(
    browser: Callable[[User], Client], owner: User
) -> None:
    assert browser(owner).get("/machines/?part=../base").status_code == 404


def test_jump_finds_machines_and_pages(
    browser: Callable[[User], Client], vm: VM, owner: User, outsider: User
) -> None:
    assert vm.name in browser(owner).get("/jump/?q=web").content.decode()
    assert vm.name not in browser(outsider).get("/jump/?q=web").content.decode()
    assert 'href="/machines/"' in browser(outsider).get("/jump/?q=mach").content.decode()


def test_a_job_that_ends_while_the_tray_is_made_is_told_once(owner: User, vm: VM) -> None:
    """A page tells of a job that was at work when last looked: one in both lists would be twice."""
    job = Job.objects.create(
        kind="vm.start", vm=vm, actor=owner, target_name=vm.name, state="running"
    )

    def ends_after_the_first_question(execute: Any, sql: str, *rest: Any) -> Any:
        answer = execute(sql, *rest)
        if "SELECT" in sql and 'FROM "jobs_job"' in sql and job.finished_at is None:
            job.state, job.finished_at = Job.State.SUCCEEDED, timezone.now()
            job.save(update_fields=["state", "finished_at"])
        return answer

    with connection.execute_wrapper(ends_after_the_first_question):
        context = tray_context(owner)
    told = [one.id for one in context["tray_finished"]]
    assert not {str(job.id)} & set(told) & set(context["tray_active"].split())


def test_the_copy_that_a_machine_waits_for_is_not_told_beside_it(owner: User) -> None:
    Job.objects.create(
        kind="image.copy",
        actor=owner,
        target_name="x",
        state="succeeded",
        finished_at=timezone.now(),
    )
    assert tray_context(owner)["tray_finished"] == []
