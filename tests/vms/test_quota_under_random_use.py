"""Several people do random legal and illegal things; after each, the books are right.

* the sum of the allocations is what a recount finds;
* nothing grew past a limit (one that is lowered, a grant that ends may leave somebody over);
* nobody sees what they should not;
* a request is decided once, and its grants are what was granted.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from accounts import grants, limits, quotas, requests, rounds
from accounts.errors import DomainError, Forbidden, NotFound
from accounts.models import (
    Allocation,
    Membership,
    QuotaGrant,
    QuotaLimit,
    QuotaRequest,
    Resource,
    Team,
    User,
)
from hosts import connections
from hosts.models import Host, Network, Pool
from hosts.virt.fake import FakeHypervisor
from hosts.virt.spec import VolumeSpec
from jobs import services as job_services
from jobs.models import Job
from tests.vms.conftest import step_on
from vms import lifecycle, provisioning, recount, state
from vms.models import VM, Image, ImageCopy

R = Resource
LIMITED = (R.MACHINES, R.VCPUS, R.RUNNING_MACHINES, R.RUNNING_VCPUS)
World = dict[str, Any]
# owner, teammate, viewer, outsider, admin, second; more of those who may do something
people = st.sampled_from([0, 0, 1, 1, 2, 3, 4, 4, 5])
some = st.integers(0, 1000)
amounts = st.integers(-1, 4)


class Use(RuleBasedStateMachine):
    world: World  # set by the test: the same people and images for all examples
    seen: Counter[str]  # what came of it all: a test that never gets anywhere proves nothing

    def __init__(self) -> None:
        super().__init__()
        self.atomic = transaction.atomic()
        self.atomic.__enter__()
        self.people: list[User] = self.world["people"]
        self.teams: list[Team] = self.world["teams"]
        self.fake = FakeHypervisor("alpha")
        image: Image = self.world["image"]
        self.fake.create_volume(
            VolumeSpec(
                pool="default",
                name=image.volume_name,
                capacity_bytes=image.virtual_size_bytes,
                format="qcow2",
            )
        )
        self.faked = connections.use_fake({"alpha": self.fake})
        self.faked.__enter__()
        for team in self.teams:
            for resource, hard in zip(LIMITED, (4, 6, 2, 4), strict=True):
                QuotaLimit.objects.create(scope="team", team=team, resource=resource, hard=hard)
        for who, vcpus in ((0, 1), (1, 2)):
            self.create(who, 0, vcpus, start=True)
            self.workers_go_on()
        self.ask(1, 0, 2, R.VCPUS, mine=False)

    def teardown(self) -> None:
        self.faked.__exit__(None, None, None)
        transaction.set_rollback(True)
        self.atomic.__exit__(None, None, None)

    # --- what people do ------------------------------------------------------------------------
    @rule(who=people, which=some, vcpus=st.integers(1, 4), start=st.booleans())
    def create(self, who: int, which: int, vcpus: int, start: bool) -> None:
        with self.asked():
            provisioning.request_vm(
                actor=self.people[who],
                team=self.teams[which % 2],
                name=f"m-{uuid.uuid4().hex[:8]}",
                image=self.world["image"],
                vcpus=vcpus,
                memory_mib=256,
                disk_gib=1,
                start=start,
            )

    @rule(who=people, which=some, verb=st.sampled_from(["start", "force_off", "delete", "suspend"]))
    def verb(self, who: int, which: int, verb: str) -> None:
        if vm := self.one(VM.objects.alive(), which):
            with self.asked():
                lifecycle.request(vm, verb, actor=self.people[who], force=True)

    @rule()
    def workers_go_on(self) -> None:
        for job in Job.objects.active().filter(vm__isnull=False):
            with self.grown():
                for _ in range(12):
                    if job.waiting_for == "address" and job.vm:
                        self.fake.guest_boots(job.vm.uuid, report=False)
                    if step_on(job).is_over:
                        break

    @rule(who=people, which=some)
    def cancel(self, who: int, which: int) -> None:
        job = self.one(Job.objects.active().filter(vm__isnull=False), which)
        if job is not None:
            with self.asked():
                job_services.cancel(job, actor=self.people[who])

    @rule(which=some)
    def stops_or_starts_outside(self, which: int) -> None:
        idle = VM.objects.alive().filter(observed__in=[*state.ON, *state.OFF])
        vm = self.one(idle.exclude(jobs__state__in=Job.ACTIVE_STATES), which)
        if vm is None:
            return
        (self.fake.force_off if vm.observed in state.ON else self.fake.start)(vm.uuid)
        state.observe(vm, self.fake.domain(vm.uuid))  # counted, over the limit or not

    @rule(who=people, which=some, to=people)
    def change_hands(self, who: int, which: int, to: int) -> None:
        vm = self.one(VM.objects.alive().exclude(jobs__state__in=Job.ACTIVE_STATES), which)
        if vm is None:
            return
        team, user = self.teams[which % 2], self.people[to]
        if not team.memberships.filter(user=user).exists():
            return
        with self.asked(), transaction.atomic():
            quotas.transfer(vm, team=team, user=user)
            VM.objects.filter(pk=vm.pk).update(team=team, owner=user)

    @rule(
        who=people, which=some, of=st.none() | people, resource=st.sampled_from(LIMITED), n=amounts
    )
    def set_limit(self, who: int, which: int, of: int | None, resource: Resource, n: int) -> None:
        actor, team = self.people[who], self.teams[which % 2]
        user = None if of is None else self.people[of]
        may = actor.is_staff or (
            user is not None and user != actor and self.role(actor, team) == "manager"
        )
        with self.asked(may=may):
            quotas.set_limit(actor=actor, resource=resource, hard=n, team=team, user=user)

    @rule(who=people, which=some, n=amounts, resource=st.sampled_from(LIMITED), mine=st.booleans())
    def ask(self, who: int, which: int, n: int, resource: Resource, mine: bool) -> None:
        actor, team = self.people[who], self.teams[which % 2]
        with self.asked():
            requests.ask(
                actor=actor,
                team=team,
                scope="member" if mine else "team",
                amounts={resource: n},
                reason="why",
                until=timezone.now() + timedelta(days=9),
            )

    @precondition(lambda self: QuotaRequest.objects.exists())
    @rule(who=people, which=some, n=amounts, how=st.sampled_from("awrb"), stale=st.booleans())
    def decide(self, who: int, which: int, n: int, how: str, stale: bool) -> None:
        request = self.one(QuotaRequest.objects.all(), which)
        assert request is not None
        actor = self.people[who]
        resource = next(iter(requests.asked(request)))
        version = request.version - stale
        open_before = request.is_undecided and not (stale and how != "w")
        with self.asked(may=self.may_decide(actor, request, how)) as done:
            if how == "a":
                end = timezone.now() + timedelta(days=3)
                requests.approve(
                    request, actor=actor, version=version, granted={resource: n}, ends_at=end
                )
            elif how == "w":
                requests.withdraw(request, actor=actor)
            elif how == "r":
                requests.reject(request, actor=actor, version=version, text="no")
            else:
                requests.ask_back(request, actor=actor, version=version, text="why?")
        assert not done or open_before, "decided twice, or what nobody had read"

    @precondition(lambda self: QuotaRequest.objects.exists())
    @rule(which=some, n=st.integers(1, 3))
    def an_admin_grants(self, which: int, n: int) -> None:
        """By chance alone that comes about too seldom."""
        self.decide(who=5, which=which, n=n, how="a", stale=False)

    @precondition(lambda self: QuotaGrant.objects.exists())
    @rule(who=people, which=some, revoke=st.booleans())
    def a_grant_ends(self, who: int, which: int, revoke: bool) -> None:
        grant = self.one(QuotaGrant.objects.all(), which)
        assert grant is not None
        if revoke:
            with self.asked():
                grants.revoke(grant, actor=self.people[who])
            return
        now = timezone.now()
        QuotaGrant.objects.filter(pk=grant.pk).update(
            starts_at=now - timedelta(days=5), expires_at=now - timedelta(seconds=1)
        )
        rounds.run()

    # --- what holds after each -------------------------------------------------------------------
    @invariant()
    def the_sum_is_the_recount(self) -> None:
        self.seen["running"] += VM.objects.alive().filter(observed="running").count()
        self.seen["granted"] += QuotaGrant.objects.count()
        assert recount.run(repair=False).differences == []

    @invariant()
    def nobody_sees_what_is_not_theirs(self) -> None:
        teams = {
            person.pk: dict(person.memberships.values_list("team", "role"))
            for person in self.people
        }
        for person in self.people:
            if person.is_staff:
                continue
            roles = teams[person.pk]
            for vm in VM.objects.visible_to(person):
                assert vm.owner_id == person.pk or vm.team_id in roles
            for one in QuotaRequest.objects.visible_to(person):
                assert one.requester_id == person.pk or roles.get(one.team_id) == "manager"
            for one in QuotaRequest.objects.decidable_by(person):
                assert (one.scope, roles.get(one.team_id)) == ("member", "manager")
                assert one.requester_id != person.pk
            for team in self.teams:
                for grant in grants.of_team(team, person):
                    assert grant.user_id in (None, person.pk) or roles.get(team.pk) == "manager"

    @invariant()
    def grants_are_what_was_granted(self) -> None:
        for request in QuotaRequest.objects.prefetch_related("items", "grants", "events"):
            granted = {i.resource: i.granted for i in request.items.all() if i.granted}
            assert granted == {grant.resource: grant.delta for grant in request.grants.all()}
            kinds = [event.kind for event in request.events.all()]
            assert sum(kinds.count(one) for one in ("approved", "rejected", "withdrawn")) <= 1
            assert request.decided_by_id != request.requester_id

    # --- inside ----------------------------------------------------------------------------------
    @contextmanager
    def asked(self, *, may: bool = True) -> Iterator[list[bool]]:
        """Refused, with a reason, or done; not done by who may not."""
        done: list[bool] = []
        with self.grown():
            try:
                with transaction.atomic():
                    yield done
                    done.append(True)
                self.seen["done"] += 1
            except DomainError as error:
                done.clear()
                self.seen[error.code] += 1
                refused = isinstance(error, (Forbidden, NotFound))
                assert may or refused, error.code  # noqa: PT017 - which one is the question
        assert may or not done, "somebody did what they may not"

    @contextmanager
    def grown(self) -> Iterator[None]:
        """What is used now fits, or is no more than it was."""
        before = self.used()
        yield
        after = self.used()
        over = {(one.team.pk, one.user and one.user.pk, one.resource) for one in limits.over()}
        for key in over:
            assert after[key] <= before.get(key, 0), f"{key} grew past its limit"

    def used(self) -> dict[tuple[int, int | None, Resource], int]:
        found: Counter[tuple[int, int | None, Resource]] = Counter()
        for row in Allocation.objects.all():
            for user in (None, row.user_id):
                found[row.team_id, user, Resource(row.resource)] += row.amount
        return found

    def may_decide(self, actor: User, request: QuotaRequest, how: str) -> bool:
        if how == "w":
            return actor.pk == request.requester_id
        if actor.pk == request.requester_id:
            return False
        manager = self.role(actor, request.team) == "manager"
        return actor.is_staff or (manager and request.scope == "member")

    def role(self, person: User, team: Team) -> str | None:
        row = Membership.objects.filter(user=person, team=team).first()
        return row.role if row else None

    def one(self, rows: Any, which: int) -> Any:
        found = list(rows.order_by("pk"))
        return found[which % len(found)] if found else None


@pytest.fixture
def world(
    owner: User,
    teammate: User,
    viewer: User,
    outsider: User,
    admin: User,
    make_user: Callable[..., User],
    team: Team,
    image: Image,
    host: Host,
    pool: Pool,
    network: Network,
) -> World:
    second = make_user("second", is_staff=True)
    image.has_cloud_init = False
    image.save()
    ImageCopy.objects.create(image=image, pool=pool, state=ImageCopy.State.READY)
    other = Team.objects.create(name="mordor", kind=Team.Kind.TEAM)
    Membership.objects.create(team=other, user=outsider, role="manager")
    Membership.objects.create(team=other, user=owner, role="member")
    return {
        "people": [owner, teammate, viewer, outsider, admin, second],
        "teams": [team, other],
        "image": image,
    }


def test_the_books_are_right_after_anything(world: World) -> None:
    seen: Counter[str] = Counter()
    machine = type("Machine", (Use,), {"world": world, "seen": seen})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=12,
            stateful_step_count=25,
            deadline=None,
            derandomize=True,  # what is asserted below comes about in each run or in none
            suppress_health_check=list(HealthCheck),
        ),
    )
    for what in ("done", "running", "granted", "quota.exceeded", "forbidden"):
        assert seen[what], f"{what} never came: {seen}"
