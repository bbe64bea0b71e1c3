"""The API of machines' time: extend one, ask for more, and the rules."""

from __future__ import annotations

from typing import Annotated, Any

from django.http import HttpRequest
from ninja import Field, Router, Schema
from ninja.responses import Status
from pydantic import AwareDatetime, ConfigDict

from accounts import requests
from accounts.api import find_team
from accounts.apiauth import admin_auth, idempotent, let_in, user_auth
from accounts.errors import NotFound
from accounts.models import QuotaRequest, Team
from accounts.schemas import RequestOut
from vms import idle, lease_rules, leases, presentation, queries
from vms.api import machine_out
from vms.api_schemas import VMOut
from vms.models import Flavor, LeaseRule, MachineRules

router = Router(tags=["machines' time"], auth=user_auth)
Days = Annotated[int, Field(strict=True)]


class _In(Schema):
    model_config = ConfigDict(extra="forbid")


class ExtendIn(_In):
    until: AwareDatetime | None = Field(None, description="default: as far as one click goes")


class AskIn(_In):
    until: AwareDatetime
    reason: str = Field(max_length=4000)


class TermsOut(Schema):
    default_days: int = Field(description="of a new machine; 0: without end")
    max_days: int = Field(description="from when it is made, by extending it; 0: without end")


class RuleIn(_In):
    """null leaves a number to the next rule (team, size, site); 0 is without end."""

    default_days: Days | None = None
    max_days: Days | None = None


class SiteRulesIn(RuleIn):
    bin_days: Days | None = Field(
        None, description="after its end, until it goes into the recycle bin; null: as it is"
    )


class IdleRule(_In):
    idle_days: Days = Field(description="without use, until its people are told; 0: never")
    idle_stop_days: Days = Field(description="after they were told, until it is stopped")


class RuleOut(Schema):
    default_days: int | None
    max_days: int | None


class OfTeam(RuleOut):
    team: str


class OfFlavor(RuleOut):
    flavor: str


class RulesOut(Schema):
    site: RuleOut
    bin_days: int
    teams: list[OfTeam]
    flavors: list[OfFlavor]


@router.post("/vms/{uuid}/extend", response=VMOut, summary="Give it more time", by_alias=True)
def extend(request: HttpRequest, uuid: str, wanted: ExtendIn) -> dict[str, Any]:
    """Within the rules; beyond them a ``409`` or ``422`` says so: ask by ``time-requests``."""
    user = let_in(request).user
    leases.extend(queries.one(user, uuid), actor=user, until=wanted.until)
    return machine_out(presentation.machine(queries.one(user, uuid), user))


@router.post("/vms/{uuid}/time-requests", response={201: RequestOut})
@idempotent
def ask_for_time(request: HttpRequest, uuid: str, wanted: AskIn) -> Status[QuotaRequest]:
    """Ask for more time than the rules give. It is decided as every request: see ``/requests``."""
    user = let_in(request).user
    vm = queries.one(user, uuid)
    made = leases.ask_longer(vm, actor=user, until=wanted.until, reason=wanted.reason)
    return Status(201, requests.find(user, made.pk))


@router.post("/vms/{uuid}/keep", response=VMOut, summary="It is in use", by_alias=True)
def keep(request: HttpRequest, uuid: str) -> dict[str, Any]:
    """Of a machine that would be stopped because nobody uses it: the days begin anew."""
    user = let_in(request).user
    idle.keep(queries.one(user, uuid), actor=user)
    return machine_out(presentation.machine(queries.one(user, uuid), user))


@router.get("/leases/idle", response=IdleRule, auth=admin_auth)
def get_idle(request: HttpRequest) -> dict[str, int]:  # noqa: ARG001
    return _idle()


@router.put("/leases/idle", response=IdleRule, auth=admin_auth)
def set_idle(request: HttpRequest, wanted: IdleRule) -> dict[str, int]:
    """When machines that nobody uses are told of, and stopped."""
    idle.set_rule(actor=let_in(request).user, **wanted.model_dump())
    return _idle()


@router.get("/leases/terms", response=TermsOut, summary="How long a new machine may last")
def terms(
    request: HttpRequest, team: str | None = None, flavor: int | None = None
) -> lease_rules.Terms:
    paying = find_team(let_in(request).user, team)
    return lease_rules.Rulebook.read().terms(paying.pk, flavor)


@router.get("/leases/rules", response=RulesOut, auth=admin_auth)
def get_rules(request: HttpRequest) -> dict[str, Any]:  # noqa: ARG001
    return _rules()


@router.put("/leases/rules", response=RulesOut, auth=admin_auth)
def set_rules(request: HttpRequest, wanted: SiteRulesIn) -> dict[str, Any]:
    """Of the site."""
    user = let_in(request).user
    lease_rules.set_site(
        actor=user,
        default_days=wanted.default_days,
        max_days=wanted.max_days,
        bin_days=wanted.bin_days,
    )
    return _rules()


@router.put("/leases/rules/teams/{int:team_id}", response=RulesOut, auth=admin_auth)
def set_of_team(request: HttpRequest, team_id: int, wanted: RuleIn) -> dict[str, Any]:
    lease_rules.set_rule(actor=let_in(request).user, team=_team(team_id), **wanted.model_dump())
    return _rules()


@router.delete("/leases/rules/teams/{int:team_id}", response=RulesOut, auth=admin_auth)
def clear_of_team(request: HttpRequest, team_id: int) -> dict[str, Any]:
    lease_rules.clear_rule(actor=let_in(request).user, team=_team(team_id))
    return _rules()


@router.put("/leases/rules/flavors/{int:flavor_id}", response=RulesOut, auth=admin_auth)
def set_of_flavor(request: HttpRequest, flavor_id: int, wanted: RuleIn) -> dict[str, Any]:
    lease_rules.set_rule(
        actor=let_in(request).user, flavor=_flavor(flavor_id), **wanted.model_dump()
    )
    return _rules()


@router.delete("/leases/rules/flavors/{int:flavor_id}", response=RulesOut, auth=admin_auth)
def clear_of_flavor(request: HttpRequest, flavor_id: int) -> dict[str, Any]:
    lease_rules.clear_rule(actor=let_in(request).user, flavor=_flavor(flavor_id))
    return _rules()


# --- inside --------------------------------------------------------------------------------------
def _team(team_id: int) -> Team:
    found = Team.objects.filter(pk=team_id).first()
    if found is None:
        raise NotFound
    return found


def _flavor(flavor_id: int) -> Flavor:
    found = Flavor.objects.filter(pk=flavor_id).first()
    if found is None:
        raise NotFound("flavor.not_found")
    return found


def _rules() -> dict[str, Any]:
    rules = list(LeaseRule.objects.select_related("team", "flavor").order_by("pk"))
    site = next((one for one in rules if one.team is None and one.flavor is None), LeaseRule())
    return {
        "site": _days(site),
        "bin_days": MachineRules.current().lease_bin_days,
        "teams": [{"team": one.team.name} | _days(one) for one in rules if one.team],
        "flavors": [{"flavor": one.flavor.name} | _days(one) for one in rules if one.flavor],
    }


def _days(rule: LeaseRule) -> dict[str, int | None]:
    return {"default_days": rule.default_days, "max_days": rule.max_days}


def _idle() -> dict[str, int]:
    rules = MachineRules.current()
    return {"idle_days": rules.idle_days, "idle_stop_days": rules.idle_stop_days}
