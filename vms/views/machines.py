"""The list of machines: live, searched, filtered, in pages, with verbs for many at once."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_POST, require_safe

from accounts import messages
from accounts.access import SignedInRequest, signed_in
from accounts.errors import Invalid
from accounts.fragments import done, render_page
from accounts.models import User
from vms import lifecycle, presentation, queries
from vms.lifecycle import BulkResult
from vms.models import VM, MachineRules
from vms.queries import ListQuery
from vms.verbs import Verb

# Verbs of the bulk bar that first say what is lost.
_ASK_FIRST = {Verb.RESET.value, Verb.FORCE_OFF.value, Verb.DELETE.value}
_MOST_AT_ONCE = queries.MAX_PAGE_SIZE
_UUID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.IGNORECASE)
# For one machine that somebody looks at.
_ONE_BY_ONE = {Verb.START_PAUSED, Verb.NMI, Verb.DISCARD_SAVED}
# What a choice in the dialog of filters leaves as it is.
_KEPT = {"q", "state", "sort"}
# Of the bulk bar, in this order: label and icon as everywhere.
_BULK_VERBS = tuple(verb for verb in Verb if verb not in _ONE_BY_ONE)


@signed_in
@require_safe
def show(request: SignedInRequest) -> HttpResponse:
    """The page, its live ``results``, the dialog of its filters, or the one before a verb that
    loses something."""
    if request.GET.get("part") == "confirm":
        return _confirm(request)
    query = ListQuery.from_params(request.GET)
    if request.GET.get("part") == "filters":
        return _filters(request, query)
    found = queries.page(request.user, query)
    query_string = query.params(page=found.page)
    machines = presentation.machines(found.vms, request.user)
    context = {
        "query": query,
        "found": found,
        "query_string": query_string,
        "machines": machines,
        "chips": _chips(query, found.counts),
        "narrowed": _narrowed(query),
        "columns": _columns(query),
        "filters": [(key, value) for key, value in parse_qsl(query_string) if key != "q"],
        "previous": query.params(page=found.page - 1) if found.page > 1 else None,
        "next": query.params(page=found.page + 1) if found.page < found.pages else None,
        "bulk_verbs": [_verb_face(verb) for verb in _BULK_VERBS],
    }
    response = render_page(request, "vms/list.html", context, parts={"results"})
    if request.headers.get("HX-Target"):
        # A search as typed: the address follows, without one step of history for each letter.
        response["HX-Replace-Url"] = f"{reverse('vm_list')}?{query_string}".rstrip("?")
    return response


@signed_in
@require_POST
def bulk(request: SignedInRequest) -> HttpResponse:
    """One verb for the ticked machines; each is settled for itself."""
    verb = request.POST.get("verb", "").replace("-", "_")
    if verb not in lifecycle.VERBS:
        raise Invalid("invalid", fields={"verb": "invalid"})
    vms = _ticked(request.user, request.POST.get("ids", ""))
    result = lifecycle.request_many(
        vms,
        verb,
        actor=request.user,
        force=bool(request.POST.get("confirmed")),
        purge=bool(request.POST.get("purge")),
    )
    text, tone = _told(verb, result)
    return done(request, text, tone=tone, changed="vm job")


def _filters(request: SignedInRequest, query: ListQuery) -> HttpResponse:
    """The dialog with a menu for each filter. It is asked for when it is opened, so that the list
    itself never pays for the menus."""
    choices = queries.choices(request.user)
    offered = {
        "host": choices.hosts,
        "owner": choices.owners,
        "image": choices.images,
        "tag": choices.tags,
        "team": choices.teams,
    }
    menus = [
        {"key": key, "label": label, "value": getattr(query, key), "choices": offered[key]}
        for key, label in _filter_labels().items()
    ]
    context = {
        "menus": menus,
        "kept": [(key, value) for key, value in parse_qsl(query.params(page=1)) if key in _KEPT],
        "bare": query.params(**dict.fromkeys(offered, "")),
    }
    return render_page(request, "vms/list_filters.html", context, parts={"filters"})


def _confirm(request: SignedInRequest) -> HttpResponse:
    verb = request.GET.get("verb", "").replace("-", "_")
    if verb not in _ASK_FIRST:
        raise Invalid("invalid", fields={"verb": "invalid"})
    machines = presentation.machines(
        _ticked(request.user, request.GET.get("ids", "")), request.user
    )
    able = [machine for machine in machines if machine.verb(verb).allowed]
    context = {
        "machines": able,
        "verb": verb,
        "face": _verb_face(Verb(verb)),
        "running": sum(machine.state.key == "running" for machine in able),
        "bin_days": MachineRules.current().bin_days,
        "ids": " ".join(str(machine.uuid) for machine in able),
    }
    return render_page(request, "vms/bulk_confirm.html", context, parts={"confirm"})


def _ticked(user: User, text: str) -> list[VM]:
    """The machines of these ids that ``user`` sees; another id does not exist for them."""
    wanted = [found[0] for found in _UUID.finditer(text)][:_MOST_AT_ONCE]
    seen = VM.objects.visible_to(user).filter(uuid__in=wanted)
    return list(queries.with_related(seen))


def _told(verb: str, result: BulkResult) -> tuple[str, str]:
    """What happened, as one sentence, and its tone."""
    label = presentation.verb_label(verb)
    count = len(result.done)
    text = (
        ngettext("%(verb)s: %(n)d machine.", "%(verb)s: %(n)d machines.", count)
        % {"verb": label, "n": count}
        if count
        else ""
    )
    if not result.refused:
        return text or _("No machine was chosen."), "work" if count else "warn"
    vm, error = result.refused[0]
    left = ngettext(
        "%(n)d was left as it is (%(name)s: %(why)s)",
        "%(n)d were left as they are (%(name)s: %(why)s)",
        len(result.refused),
    ) % {
        "n": len(result.refused),
        "name": vm.name,
        "why": messages.text(error.code, error.params),
    }
    return f"{text} {left}".strip(), "warn" if count else "bad"


def _verb_face(verb: Verb) -> dict[str, object]:
    return {
        "verb": verb.value,
        "label": presentation.verb_label(verb.value),
        "icon": presentation.verb_icon(verb.value),
        "ask": verb.value in _ASK_FIRST,
        "danger": verb.value in _ASK_FIRST,
    }


def _chips(query: ListQuery, counts: dict[str, int]) -> list[dict[str, object]]:
    """The states as filters with their numbers; those that occur, and the chosen one."""
    faces = [
        ("", _("All"), "", ""),
        ("running", _("Running"), "circle-play", "state-running"),
        ("shutoff", _("Stopped"), "circle-stop", "state-stopped"),
        ("paused", _("Paused"), "circle-pause", "state-paused"),
        ("busy", _("At work"), "loader-circle", "state-working"),
        ("fault", _("With a fault"), "circle-alert", "state-failed"),
        ("crashed", _("Crashed"), "circle-alert", "state-failed"),
        ("missing", _("Missing"), "circle-help", "state-failed"),
        ("unknown", _("Unknown"), "circle-help", "state-unknown"),
    ]
    return [
        {
            "label": label,
            "icon": icon,
            "css": css,
            "count": counts[state or "all"],
            "params": query.params(state=state),
            "current": query.state == state,
        }
        for state, label, icon, css in faces
        if counts[state or "all"] or query.state == state or state in {"", "running", "shutoff"}
    ]


def _filter_labels() -> dict[str, str]:
    return {
        "host": _("Host"),
        "owner": _("Owner"),
        "image": _("Image"),
        "tag": _("Tag"),
        "team": _("Team"),
    }


def _narrowed(query: ListQuery) -> list[dict[str, str]]:
    """The filters that are set beside the state, each with the address without it."""
    return [
        {"label": label, "value": getattr(query, key), "params": query.params(**{key: ""})}
        for key, label in _filter_labels().items()
        if getattr(query, key)
    ]


def _columns(query: ListQuery) -> dict[str, dict[str, str]]:
    """For each column that sorts: where its head leads, and how it is sorted now."""
    turned = query.sort.startswith("-")
    current = query.sort.removeprefix("-")
    columns = {}
    for key in queries.SORTS:
        here = key == current
        goal = f"-{key}" if here and not turned else key
        order = ("descending" if turned else "ascending") if here else "none"
        columns[key] = {"params": query.params(sort=goal), "order": order}
    return columns
