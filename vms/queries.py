"""What the list of machines shows: filters, search, order, pages, counts. Database only.

The number of SQL statements does not depend on the number of machines; a page of 50 out of
10,000 is one indexed slice, plus one grouped count for the tabs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from urllib.parse import urlencode
from uuid import UUID

from django.db.models import Count, F, Prefetch, Q, QuerySet, TextField
from django.db.models.expressions import OrderBy
from django.db.models.functions import Cast

from accounts.errors import NotFound
from accounts.models import Team, User
from hosts.models import Host
from jobs.models import Job
from vms.models import VM, Image, Nic, Tag

PAGE_SIZE = 50
MAX_PAGE_SIZE = 200
MAX_CHOICES = 500  # of one filter's menu; the search field finds the rest
STATES = ("running", "paused", "shutoff", "crashed", "missing", "unknown", "busy", "fault")
SORTS = {
    "name": "name",
    "created": "created_at",
    "ends": "ends_at",
    "state": "observed",
    "cpu": "cpu_percent",
    "memory": "memory_mib",
    "host": "host__name",
    "owner": "owner__username",
}
_WORD = re.compile(r'(?:(?P<key>tag|owner|state|host|image|team):)?(?P<value>"[^"]*"|\S+)')


@dataclass(frozen=True, kw_only=True)
class ListQuery:
    """What a person asked of the list, as its query string says it."""

    q: str = ""
    state: str = ""
    host: str = ""
    owner: str = ""
    image: str = ""
    tag: str = ""
    team: str = ""
    sort: str = "name"
    page: int = 1
    page_size: int = PAGE_SIZE

    @classmethod
    def from_params(cls, params: Mapping[str, str]) -> ListQuery:
        """From a query string; what makes no sense is dropped rather than refused."""
        sort = params.get("sort", "")
        state = params.get("state", "")
        return cls(
            q=params.get("q", "").strip()[:200],
            state=state if state in STATES else "",
            host=params.get("host", "")[:63],
            owner=params.get("owner", "")[:150],
            image=params.get("image", "")[:64],
            tag=params.get("tag", "")[:32],
            team=params.get("team", "")[:64],
            sort=sort if sort.removeprefix("-") in SORTS else "name",
            page=_number(params.get("page"), default=1, most=1_000_000),
            page_size=_number(params.get("page_size"), default=PAGE_SIZE, most=MAX_PAGE_SIZE),
        )

    def params(self, **changes: str | int) -> str:
        """The query string with ``changes``; another filter starts again at page 1."""
        if changes and "page" not in changes:
            changes["page"] = 1
        wanted = asdict(replace(self, **changes))  # type: ignore[arg-type]
        default = asdict(ListQuery())
        return urlencode({key: value for key, value in wanted.items() if value != default[key]})

    @property
    def filtered(self) -> bool:
        return any((self.q, self.state, self.host, self.owner, self.image, self.tag, self.team))


@dataclass(frozen=True, kw_only=True)
class ListPage:
    vms: list[VM]
    count: int  # of all pages
    page: int
    pages: int
    counts: dict[str, int]  # by state, with the other filters applied


@dataclass(frozen=True, kw_only=True)
class FilterChoices:
    """``(value, label)`` for each menu."""

    hosts: list[tuple[str, str]]
    images: list[tuple[str, str]]
    owners: list[tuple[str, str]]
    teams: list[tuple[str, str]]
    tags: list[tuple[str, str]]


def page(user: User, query: ListQuery) -> ListPage:
    """One page of the machines that ``user`` may see."""
    filtered = _search(_filter(VM.objects.visible_to(user).in_use(), query), query.q)
    counts = count_by_state(filtered)
    if query.state:
        filtered = with_state(filtered, query.state)
    count = counts[query.state or "all"]
    pages = max(1, -(-count // query.page_size))
    number = min(query.page, pages)
    start = (number - 1) * query.page_size
    # Sort and skip narrow rows, then read the wide ones of this page.
    ordered = filtered.order_by(*_order(query.sort)).values_list("pk", flat=True)
    keys = list(ordered[start : start + query.page_size])
    rows = with_related(VM.objects.alive()).in_bulk(keys)
    vms = [rows[key] for key in keys if key in rows]
    return ListPage(vms=vms, count=count, page=number, pages=pages, counts=counts)


def one(user: User, uuid: UUID | str) -> VM:
    """The machine with all that its page needs. NotFound, also when it is not for ``user``."""
    vm = with_related(VM.objects.visible_to(user)).filter(uuid=as_uuid(uuid)).first()
    if vm is None:
        raise NotFound("vm.not_found")
    return vm


def as_uuid(text: UUID | str) -> UUID:
    """NotFound: no machine can have it."""
    if isinstance(text, UUID):
        return text
    try:
        return UUID(text)
    except ValueError as error:
        raise NotFound("vm.not_found") from error


def with_related(machines: QuerySet[VM]) -> QuerySet[VM]:
    """What presentation reads: joined or prefetched, never a query for each machine."""
    active = Job.objects.filter(state__in=Job.ACTIVE_STATES)
    return machines.select_related(
        "owner", "team", "host", "image", "flavor", "batch", "iso"
    ).prefetch_related(
        "nics", "disks", "tags", Prefetch("jobs", queryset=active, to_attr="active_jobs")
    )


def with_state(machines: QuerySet[VM], state: str) -> QuerySet[VM]:
    if state == "busy":
        return machines.filter(_busy())
    if state == "fault":
        return machines.exclude(fault_code="")
    return machines.filter(observed=state)


def count_by_state(machines: QuerySet[VM]) -> dict[str, int]:
    """One pass for all of them; ``busy`` and ``fault`` overlap with the states."""
    wanted = {state: Q(observed=state) for state in STATES}
    wanted |= {"busy": _busy(), "fault": ~Q(fault_code="")}
    counts: dict[str, int] = machines.order_by().aggregate(
        all=Count("id"), **{state: Count("id", filter=which) for state, which in wanted.items()}
    )
    return counts


def choices(user: User) -> FilterChoices:
    """The menus of the filters: only what occurs among the machines that ``user`` sees."""
    seen = VM.objects.visible_to(user).in_use().order_by()

    def names(model: type[Host | Image | Team], column: str) -> list[tuple[str, str]]:
        rows = model._default_manager.filter(pk__in=seen.values(column)).order_by("name")
        return [(name, name) for name in rows.values_list("name", flat=True)[:MAX_CHOICES]]

    owners = User.objects.filter(pk__in=seen.values("owner")).order_by("username")[:MAX_CHOICES]
    tags = Tag.objects.filter(vm__in=seen.values("id")).order_by("name")
    return FilterChoices(
        hosts=names(Host, "host"),
        images=names(Image, "image"),
        owners=[(owner.username, owner.display_name()) for owner in owners],
        teams=names(Team, "team"),
        tags=[(t, t) for t in tags.values_list("name", flat=True).distinct()[:MAX_CHOICES]],
    )


# --- filters -----------------------------------------------------------------------------------


# Uncorrelated on purpose, here and below: the few matching rows are found once, not looked for
# from each machine.
def _busy() -> Q:
    active = Job.objects.filter(vm__isnull=False, state__in=Job.ACTIVE_STATES)
    return Q(pk__in=active.order_by().values("vm"))


_FILTERS = {
    "host": "host__name",
    "owner": "owner__username",
    "image": "image__name",
    "team": "team__name",
}


def _filter(machines: QuerySet[VM], query: ListQuery) -> QuerySet[VM]:
    for key, column in _FILTERS.items():
        if value := getattr(query, key):
            machines = machines.filter(_named(column, value))
    if query.tag:
        machines = machines.filter(_tagged(query.tag))
    return machines


def _named(column: str, value: str) -> Q:
    """By name, or by numeric id (as the API's ids are)."""
    named = Q(**{f"{column}__iexact": value})
    if value.isdecimal() and len(value) <= 18:
        named |= Q(**{f"{column.split('__', maxsplit=1)[0]}_id": int(value)})
    return named


def _tagged(tag: str) -> Q:
    return Q(pk__in=Tag.objects.order_by().filter(name__iexact=tag).values("vm"))


def _search(machines: QuerySet[VM], text: str) -> QuerySet[VM]:
    """Every word must be found: in the name, an address, a tag, or where its key says."""
    for match in _WORD.finditer(text):
        key, value = match["key"], match["value"].strip('"')
        if not value:
            continue
        if key == "state":
            word = "shutoff" if value.lower() == "stopped" else value.lower()
            machines = with_state(machines, word) if word in STATES else machines.none()
        elif key == "tag":
            machines = machines.filter(_tagged(value))
        elif key:
            machines = machines.filter(_named(_FILTERS[key], value))
        else:
            machines = machines.filter(_anywhere(value))
    return machines


def _anywhere(word: str) -> Q:
    found = Q(name__icontains=word) | Q(
        pk__in=Tag.objects.order_by().filter(name__icontains=word).values("vm")
    )
    if set(word.lower()) <= set("0123456789abcdef.:"):  # could be a part of an address or MAC
        nics = Nic.objects.annotate(known=Cast("addresses", TextField())).filter(
            Q(known__contains=word) | Q(mac__startswith=word.lower())
        )
        found |= Q(pk__in=nics.order_by().values("vm"))
    return found


def _order(sort: str) -> tuple[OrderBy | str, ...]:
    """What has no value comes last in either direction; equal ones keep one order."""
    column = F(SORTS[sort.removeprefix("-")])
    if sort.startswith("-"):
        return (column.desc(nulls_last=True), "name", "id")
    return (column.asc(nulls_last=True), "name", "id")


def _number(text: str | None, *, default: int, most: int) -> int:
    if text is None or not text.isascii() or not text.isdecimal() or len(text) > 9:
        return default
    return min(max(int(text), 1), most)
