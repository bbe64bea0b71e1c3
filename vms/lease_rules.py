"""How long machines may last: the rules of the site, of teams and of sizes.

They are looked up team first, then size, then site; each may leave a number to the next. They hold
for what is asked from then on: a machine keeps the end that it has when they change.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.utils import timezone

from accounts import audit, policy
from accounts.errors import Invalid
from accounts.models import Team, User
from accounts.policy import Action
from vms.models import VM, Flavor, LeaseRule, MachineRules

WITHOUT_END = LeaseRule.WITHOUT_END
STEP_DAYS = 30  # of an extension where no rule has a number
DAYS_MAX = 5 * 366
BIN_DAYS_MIN, BIN_DAYS_MAX = 1, 365


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What holds for a machine of one team and size. Days; 0: without end."""

    default_days: int
    max_days: int

    def first_end(self, now: datetime) -> datetime | None:
        """Of a machine that is made now."""
        return now + timedelta(days=self.default_days) if self.default_days else None

    def latest(self, made_at: datetime) -> datetime | None:
        """To where its people may extend it themselves; None: for ever."""
        return made_at + timedelta(days=self.max_days) if self.max_days else None

    def latest_text(self, made_at: datetime) -> str:
        """For an error's parameters."""
        latest = self.latest(made_at)
        return latest.isoformat() if latest else ""

    def step(self) -> timedelta:
        return timedelta(days=self.default_days or STEP_DAYS)


class Rulebook:
    """All rules, read once: for lists, within one request."""

    def __init__(self, rules: Iterable[LeaseRule]) -> None:
        self.site = LeaseRule()
        self.teams: dict[int, LeaseRule] = {}
        self.flavors: dict[int, LeaseRule] = {}
        for rule in rules:
            if rule.team_id is not None:
                self.teams[rule.team_id] = rule
            elif rule.flavor_id is not None:
                self.flavors[rule.flavor_id] = rule
            else:
                self.site = rule

    @classmethod
    def read(cls) -> Rulebook:
        return cls(LeaseRule.objects.all())

    def terms(self, team_id: int, flavor_id: int | None) -> Terms:
        rules = [self.teams.get(team_id), self.flavors.get(flavor_id or 0), self.site]
        default = _first(rule.default_days for rule in rules if rule)
        most = _first(rule.max_days for rule in rules if rule)
        if most and not 0 < default <= most:
            default = most
        return Terms(default_days=default, max_days=most)

    def terms_of(self, vm: VM) -> Terms:
        return self.terms(vm.team_id, vm.flavor_id)


def _first(numbers: Iterable[int | None]) -> int:
    return next((n for n in numbers if n is not None), WITHOUT_END)


def end_problem(terms: Terms, ends_at: datetime, *, made_at: datetime, free: bool) -> str:
    """The code of what is wrong with an end that somebody chose, or "". ``free``: an admin, whom
    the rules do not bind."""
    now = timezone.now()
    if not now < ends_at <= now + timedelta(days=DAYS_MAX):
        return "lease.bad_end"
    latest = terms.latest(made_at)
    return "lease.beyond" if latest is not None and ends_at > latest and not free else ""


# --- changing the rules ---------------------------------------------------------------------------
def set_rule(
    *,
    actor: User,
    default_days: int | None,
    max_days: int | None,
    team: Team | None = None,
    flavor: Flavor | None = None,
) -> LeaseRule:
    """Of a team, a size, or (neither) the site. None leaves it to the next rule, 0 is without
    end. Raises Forbidden, Invalid with every wrong input."""
    policy.require(actor, Action.SITE_ADMIN)
    wrong = {
        name: "lease.bad_days"
        for name, days in (("default_days", default_days), ("max_days", max_days))
        if days is not None and not 0 <= days <= DAYS_MAX
    }
    if not wrong and default_days and max_days and default_days > max_days:
        wrong["default_days"] = "lease.default_beyond"
    if wrong:
        raise Invalid(next(iter(wrong.values())), fields=wrong, maximum=DAYS_MAX)
    with transaction.atomic():
        had = LeaseRule.objects.select_for_update().filter(team=team, flavor=flavor).first()
        before = _days(had)
        row = had or LeaseRule(team=team, flavor=flavor)
        row.default_days, row.max_days = default_days, max_days
        row.save()
        _record_rule(actor, "lease.set_rule", team, flavor, before=before, after=_days(row))
    return row


def clear_rule(*, actor: User, team: Team | None = None, flavor: Flavor | None = None) -> None:
    """What was overridden is inherited again."""
    policy.require(actor, Action.SITE_ADMIN)
    with transaction.atomic():
        row = LeaseRule.objects.filter(team=team, flavor=flavor).first()
        if row is None:
            return
        before = _days(row)
        row.delete()
        _record_rule(actor, "lease.clear_rule", team, flavor, before=before, after={})


def set_site(
    *, actor: User, default_days: int | None, max_days: int | None, bin_days: int | None
) -> None:
    """The site's rule, and how long after its end a machine goes into the recycle bin (None: as it
    is)."""
    with transaction.atomic():
        set_rule(actor=actor, default_days=default_days, max_days=max_days)
        if bin_days is not None:
            _set_bin_days(bin_days, actor)


# --- inside ---------------------------------------------------------------------------------------
def _days(rule: LeaseRule | None) -> dict[str, int | None]:
    return {"default_days": rule.default_days, "max_days": rule.max_days} if rule else {}


def _record_rule(
    actor: User,
    verb: str,
    team: Team | None,
    flavor: Flavor | None,
    *,
    before: dict[str, int | None],
    after: dict[str, int | None],
) -> None:
    audit.record(
        actor, verb, team or flavor, before=before, after=after, team_id=team.pk if team else None
    )


def _set_bin_days(days: int, actor: User) -> None:
    if not BIN_DAYS_MIN <= days <= BIN_DAYS_MAX:
        raise Invalid(
            "lease.bin_days",
            fields={"bin_days": "lease.bin_days"},
            minimum=BIN_DAYS_MIN,
            maximum=BIN_DAYS_MAX,
        )
    with transaction.atomic():
        rules = MachineRules.locked()
        before, rules.lease_bin_days = rules.lease_bin_days, days
        rules.save(update_fields=["lease_bin_days"])
        after = {"bin_days": days}
        audit.record(actor, "lease.set_rule", before={"bin_days": before}, after=after)
