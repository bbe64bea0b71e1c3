"""What is sent at each way in of ``docs/contributor/access.md``, so that who may do it has it done.

A way in that is not named here is asked with the objects of ``ways_world`` that its ``{names}`` say
and without a body.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.cache import cache
from django.http import HttpResponse
from django.test import Client
from django.utils import timezone
from PIL import Image as Picture

from tests.security.ways_world import KEY, World
from vms import screenshots
from vms.models import VM, ConsoleControl, ConsoleSession

PAGE = Path(__file__).parents[2] / "docs" / "contributor" / "access.md"
_WAY = re.compile(r"^\| `(GET|POST|PUT|PATCH|DELETE|WS) (\S+)` \| (.+?) \|$")


@dataclass(frozen=True, kw_only=True)
class Example:
    body: dict[str, Any] = field(default_factory=dict)
    at: dict[str, Any] = field(default_factory=dict)  # for {names} of the address
    query: str = ""
    no: int = 403
    hidden: int = 404
    before: Callable[[World, str], None] | None = None  # made so for this one; with the role
    tells: bool = False  # of what is hidden, to who was invited to it
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None


def read() -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """The page's tables: rule -> role -> outcome, and way in -> rule."""
    rules: dict[str, dict[str, str]] = {}
    ways: dict[str, str] = {}
    roles: list[str] = []
    for line in PAGE.read_text().splitlines():
        if found := _WAY.match(line):
            way = f"{found[1]} {found[2]}"
            if way in ways:
                raise ValueError(f"{way} stands there twice")
            ways[way] = found[3]
        elif line.startswith("| rule |"):
            roles = [cell.strip() for cell in line.strip("|").split("|")][1:]
        elif roles and line.startswith("| "):
            name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            rules[name] = dict(zip(roles, cells, strict=True))
        elif not line.startswith("|"):
            roles = []
    return rules, ways


def defaults(w: World) -> dict[str, Any]:
    """For the names in addresses."""
    return {
        "uuid": w.vm.uuid,
        "user_id": w.people["viewer"].pk,
        "team_id": w.team.pk,
        "key_id": w.key.pk,
        "token_id": w.api_token.pk,
        "sign_in_id": w.sign_in.pk,
        "notification_id": w.notification.pk,
        "webhook_id": w.webhook.pk,
        "form": "csv",
        "invite_id": w.invite.pk,
        "secret": w.secret,
        "request_id": w.asked.pk,
        "grant_id": w.grant.pk,
        "job_id": w.job.pk,
        "host_id": w.host.pk,
        "untracked_id": w.untracked.pk,
        "network_id": w.network.pk,
        "image_id": w.image.pk,
        "flavor_id": w.flavor.pk,
        "batch": w.batch.uuid,
        "template_id": w.template.pk,
        "version_id": w.version.pk,
        "number": 1,
        "snapshot_id": w.snapshot.pk,
        "port_id": w.port.pk,
        "share_id": w.share.pk,
        "offer_id": w.offer.pk,
        "recording_id": w.recording.pk,
        "token": w.console_token,
        "target": "vdb",
        "nic_id": w.card.pk,
    }


_STATES = {
    "start": "off",
    "start-paused": "off",
    "resume": "paused",
    "discard-saved": "saved",
}
_VERBS = (
    "start start-paused shutdown force-off reboot reset suspend resume save discard-saved nmi"
).split()


def examples(w: World) -> dict[str, Example]:
    return {
        **_of_oneself(w),
        **_of_people(w),
        **_of_teams(w),
        **_of_requests(w),
        **_of_jobs_and_hosts(w),
        **_of_images(w),
        **_of_machines(w),
        **_of_time(w),
        **_of_settings(w),
        **_of_guests_and_discs(w),
        **_of_snapshots_and_templates(w),
        **_of_ports(w),
        **_of_backups(w),
        **_of_consoles(w),
        **_of_access(w),
    }


E = Example


def _of_oneself(w: World) -> dict[str, Example]:
    choice = {"mail": {"team": "never"}}
    return {
        "POST /i18n/setlang": E(body={"language": "en"}),
        "POST /profile/preferences/": E(body={"theme": "dark", "language": ""}),
        "POST /profile/keys/": E(body={"name": "mine", "public_key": KEY}),
        "POST /profile/tokens/": E(body={"name": "mine", "scopes": ["read"], "days": "30"}),
        "POST /profile/webhooks/": E(body={"url": "https://example.org/", "topics": ["team"]}),
        "POST /api/v1/me/webhooks": E(body={"url": "https://example.org/", "topics": ["team"]}),
        "PATCH /api/v1/me": E(body={"theme": "dark"}),
        "POST /api/v1/me/ssh-keys": E(body={"name": "mine", "public_key": KEY}),
        "POST /api/v1/me/tokens": E(body={"name": "mine", "scopes": ["read"]}),
        "PATCH /api/v1/me/notification-choices": E(body=choice),
    }


def _limits_form(mode: str = "unlimited") -> dict[str, Any]:
    from accounts.models import Resource

    return {f"{resource.value}_mode": mode for resource in Resource}


def _of_people(w: World) -> dict[str, Example]:
    viewer = {"user_id": w.people["viewer"].pk}
    rule = {"quiet_days": 1, "grant_days": 5, "escalate_hours": 0}
    return {
        "POST /admin/users/new/": E(body={"username": "fresh"}),
        "POST /admin/users/{user_id}/active/": E(at=viewer, body={"active": "0"}),
        "POST /admin/users/{user_id}/admin/": E(at=viewer, body={"admin": "1"}),
        "POST /admin/limits/": E(body=_limits_form()),
        "POST /admin/requests/rules/": E(body=rule),
        "POST /admin/teams/": E(body={"name": "fresh", "manager": "outsider"}),
        "POST /api/v1/users": E(body={"username": "fresh"}),
        "PATCH /api/v1/users/{user_id}": E(body={"is_active": False}),
        "PATCH /api/v1/limits": E(body={"vcpus": 5}),
        "PUT /api/v1/requests/rules": E(body=rule | {"step": {}}),
    }


def _of_teams(w: World) -> dict[str, Example]:
    team, more = w.team.pk, {"user_id": w.more.pk}
    taken = {"username": "outsider", "role": "viewer"}
    invite = {"role": "member", "days": 7}
    hook = {"url": "https://example.org/", "topics": ["team"]}
    of_team = {"webhook_id": w.team_webhook.pk}
    api = "/api/v1/teams/{team_id}/webhooks"
    return {
        "POST /teams/{team_id}/webhooks/": E(body=hook),
        "POST /teams/{team_id}/webhooks/{webhook_id}/test/": E(at=of_team),
        "POST /teams/{team_id}/webhooks/{webhook_id}/remove/": E(at=of_team),
        f"POST {api}": E(body=hook),
        f"DELETE {api}/{{webhook_id}}": E(at=of_team),
        f"POST {api}/{{webhook_id}}/test": E(at=of_team),
        f"GET {api}/{{webhook_id}}/deliveries": E(at=of_team),
        "POST /teams/new/": E(body={"name": "fresh"}),
        "POST /api/v1/teams": E(body={"name": "fresh"}),
        "POST /teams/{team_id}/name/": E(body={"name": "fresh"}),
        "PATCH /api/v1/teams/{team_id}": E(body={"name": "fresh"}),
        "POST /teams/{team_id}/members/": E(body=taken),
        "POST /api/v1/teams/{team_id}/members": E(body=taken),
        "POST /teams/{team_id}/invites/": E(body=invite),
        "POST /api/v1/teams/{team_id}/invites": E(body=invite),
        # Everybody may leave; here somebody else is removed.
        "POST /teams/{team_id}/members/{user_id}/remove/": E(at=more),
        "DELETE /api/v1/teams/{team_id}/members/{user_id}": E(at=more),
        "GET /join/{secret}/": E(tells=True),
        "POST /join/{secret}/": E(before=_is_no_member),
        "POST /api/v1/join": E(body={"secret": w.secret}, before=_is_no_member, tells=True),
        "POST /teams/{team_id}/quota/limits/": E(body=_limits_form("inherit")),
        "GET /teams/{team_id}/quota/members/{user_id}/": E(at=_owner(w)),
        "POST /teams/{team_id}/quota/members/{user_id}/": E(
            at=_owner(w), body=_limits_form("inherit")
        ),
        "GET /api/v1/teams/{team_id}/members/{user_id}/limits": E(at=_owner(w)),
        "PATCH /api/v1/teams/{team_id}/members/{user_id}/limits": E(
            at=_owner(w), body={"vcpus": 3}
        ),
        "PATCH /api/v1/teams/{team_id}/limits": E(body={"vcpus": 3}),
        "GET /api/v1/quota": E(query=f"?team={team}"),
        "POST /api/v1/quota/check": E(body={"team": team, "vcpus": 1}),
    }


def _is_no_member(w: World, role: str) -> None:
    if role in w.people:
        w.team.memberships.filter(user=w.people[role]).delete()


def _owner(w: World) -> dict[str, Any]:
    return {"user_id": w.people["owner"].pk}


def _of_requests(w: World) -> dict[str, Example]:
    team = w.team.pk
    day = (timezone.now() + timedelta(days=9)).date().isoformat()
    asked = {"team": team, "scope": "team", "vcpus": 1, "reason": "why", "until": day}
    at = (timezone.now() + timedelta(days=9)).isoformat()
    api = {"amounts": {"vcpus": 1}, "reason": "why", "until": at}
    decided = {"version": 1, "decision": "approve", "vcpus": 1, "ends": day}
    return {
        "GET /requests/new/": E(query=f"?team={team}"),
        "POST /requests/new/": E(body=asked),
        "POST /requests/{request_id}/edit/": E(body=asked),
        "POST /requests/{request_id}/comment/": E(body={"text": "please"}),
        "POST /requests/{request_id}/decide/": E(body=decided),
        "POST /api/v1/requests": E(body=api | {"team": team, "scope": "team"}),
        "PATCH /api/v1/requests/{request_id}": E(body=api),
        "POST /api/v1/requests/{request_id}/comments": E(body={"text": "please"}),
        "POST /api/v1/requests/{request_id}/approve": E(body={"version": 1, "ends_at": at}),
        "POST /api/v1/requests/{request_id}/reject": E(body={"version": 1, "text": "no"}),
        "POST /api/v1/requests/{request_id}/ask-back": E(body={"version": 1, "text": "why?"}),
        "GET /api/v1/grants": E(query=f"?team={team}"),
    }


def _of_jobs_and_hosts(w: World) -> dict[str, Example]:
    again = {"job_id": w.failed_create.pk}
    host = {"name": "fresh", "transport": "ssh", "address": "10.0.0.9", "username": "kvm"}
    limits = {
        "vcpu_ratio": 4,
        "memory_reserve_mib": 512,
        "disk_ratio": 1,
        "default_pool": w.pool.pk,
    }
    return {
        "POST /activity/{job_id}/retry/": E(at=again),
        "POST /api/v1/jobs/{job_id}/retry": E(at=again),
        "POST /admin/hosts/new/": E(body=host | {"ssh_host_key": KEY}),
        "POST /admin/hosts/{host_id}/mode/": E(body={"mode": "maintenance"}),
        "POST /admin/hosts/{host_id}/acceleration/": E(body={"acceleration_override": "tcg"}),
        "POST /admin/hosts/{host_id}/limits/": E(body=limits),
        "POST /admin/hosts/{host_id}/backups/": E(body={"pool": w.pool.pk}),
        "POST /admin/hosts/{host_id}/networks/{network_id}/": E(body={"pxe": "on"}),
        "POST /admin/hosts/{host_id}/remove/": E(at={"host_id": w.bare.pk}),
    }


def _of_images(w: World) -> dict[str, Example]:
    unused, failed = {"image_id": w.unused.pk}, {"image_id": w.failed_image.pk}
    hidden, retired = {"image_id": w.hidden.pk}, {"image_id": w.retired.pk}
    upload = {"image_id": w.upload.pk}
    url = {"name": "fresh", "url": "https://example.org/b.qcow2", "checksum": "a" * 64}
    size = {"name": "fresh", "vcpus": 1, "memory_mib": 512, "disk_gib": 5}
    form = size | {"position": 0}
    page, api = "POST /admin/images/{image_id}", "/api/v1/images/{image_id}"
    return {
        "POST /admin/images/new/": E(body=url | {"source": "url"}),
        f"{page}/": E(body={"name": "fresh", "os_id": "linux"}),
        f"{page}/publish/": E(at=hidden),
        f"{page}/retire/": E(at=unused),
        f"{page}/restore/": E(at=retired),
        f"{page}/fetch/": E(at=failed),
        f"{page}/delete/": E(at=unused),
        f"{page}/cancel-upload/": E(at=upload),
        "POST /admin/flavors/new/": E(body=form),
        "POST /admin/flavors/{flavor_id}/": E(body=form),
        "POST /api/v1/images": E(body=url),
        f"GET {api}": E(at=hidden),
        f"PATCH {api}": E(body={"name": "fresh"}),
        f"DELETE {api}": E(at=unused),
        f"POST {api}/fetch": E(at=failed),
        "POST /api/v1/images/uploads": E(body={"name": "fresh", "size_bytes": 100}),
        f"GET {api}/upload": E(at=upload),
        f"PATCH {api}/upload": E(at=upload, raw=b"0123456789", headers={"Upload-Offset": "0"}),
        f"DELETE {api}/upload": E(at=upload),
        "POST /api/v1/flavors": E(body=size),
        "PATCH /api/v1/flavors/{flavor_id}": E(body={"vcpus": 2}),
    }


def _of_time(w: World) -> dict[str, Example]:
    later = timezone.now() + timedelta(days=40)
    page, api, day = "POST /machines/{uuid}/time", "POST /api/v1/vms/{uuid}", later.date()
    idle = {"idle_days": 7, "idle_stop_days": 2}
    return {
        f"{page}/extend/": E(before=_ends),
        f"{page}/end/": E(before=_ends, body={"day": day.isoformat()}),
        f"{page}/forever/": E(before=_ends),
        f"{page}/ask/": E(before=_ends, body={"day": day.isoformat(), "reason": "why"}),
        "POST /admin/leases/": E(body={"default_days": 5, "max_days": 9, "bin_days": 3}),
        "POST /admin/leases/idle/": E(body=idle),
        "POST /admin/leases/override/": E(body={"about": f"team:{w.team.pk}", "max_days": 9}),
        f"{api}/extend": E(before=_ends),
        f"{api}/time-requests": E(before=_ends, body={"until": later.isoformat(), "reason": "why"}),
        "GET /api/v1/leases/terms": E(query=f"?team={w.team.pk}"),
        "PUT /api/v1/leases/rules": E(body={"default_days": 5}),
        "PUT /api/v1/leases/rules/teams/{team_id}": E(body={"max_days": 9}),
        "PUT /api/v1/leases/rules/flavors/{flavor_id}": E(body={"max_days": 9}),
        "PUT /api/v1/leases/idle": E(body=idle),
    }


def _ends(w: World, role: str) -> None:
    VM.objects.filter(pk=w.vm.pk).update(ends_at=timezone.now() + timedelta(days=5))


def _of_machines(w: World) -> dict[str, Example]:
    image, team = w.image.pk, w.team.pk
    new = {
        "name": "fresh",
        "image": image,
        "vcpus": 1,
        "memory_mib": 1024,
        "disk_gib": 10,
        "user": "me",
        "password": "correct horse",
        "team": team,
    }
    form = new | {"flavor": "custom", "network": "default", "copy": "linked"}
    form |= {"password_mode": "generate"}
    binned = {"uuid": w.binned.uuid}
    power = {
        f"POST {where}/{verb}{end}": E(at={"uuid": w.things[_STATES.get(verb, "vm")].uuid})
        for where, end in (("/machines/{uuid}", "/"), ("/api/v1/vms/{uuid}", ""))
        for verb in _VERBS
    }
    disc = {"uuid": w.with_disc.uuid}
    off = {"uuid": w.off.uuid}
    return power | {
        "POST /machines/bulk/": E(body={"verb": "start", "ids": ""}),
        "POST /machines/new/": E(body=form, hidden=422, no=422),
        "POST /machines/new/preview/": E(body={"name": "fresh"}),
        "POST /machines/{uuid}/delete/": E(at=off),
        "POST /machines/{uuid}/edit/": E(body={"name": "fresh"}),
        "POST /machines/{uuid}/retry/": E(at={"uuid": w.failed.uuid}),
        "POST /machines/{uuid}/eject/": E(at=disc),
        "POST /machines/{uuid}/cancel/": E(at={"uuid": w.busy.uuid}),
        "POST /machines/{uuid}/clone/": E(at=off, body={"name": "fresh", "copy": "full"}),
        "GET /machines/bin/{uuid}/": E(at=binned, query="?for=restore"),
        "POST /machines/bin/{uuid}/restore/": E(at=binned),
        "POST /machines/bin/{uuid}/purge/": E(at=binned),
        "POST /machines/bin/days/": E(body={"days": 9}),
        "POST /api/v1/vms": E(body=new, hidden=422),
        "POST /api/v1/batches": E(body=new | {"count": 2}, hidden=422),
        "POST /api/v1/vms/{uuid}/take-back": E(at=binned),
        "PATCH /api/v1/vms/{uuid}": E(body={"name": "fresh"}),
        "DELETE /api/v1/vms/{uuid}": E(query="?force=true"),
        "POST /api/v1/vms/{uuid}/clone": E(at=off, body={"name": "fresh"}),
        "POST /api/v1/vms/{uuid}/eject": E(at=disc),
        "POST /api/v1/vms/{uuid}/keys": E(body={"keys": ["ctrl", "alt", "delete"]}),
        "GET /api/v1/vms/{uuid}/screenshot": E(before=_a_screenshot),
    }


def _a_screenshot(w: World, role: str) -> None:
    out = io.BytesIO()
    Picture.new("RGB", (8, 8)).save(out, "PNG")
    content = screenshots.compact(out.getvalue())
    cache.set(screenshots._key(w.vm.uuid, w.vm.started_at), content)


def _of_guests_and_discs(w: World) -> dict[str, Example]:
    secret = {"user": "root", "password": "correct horse"}
    disc, linked = {"uuid": w.off.uuid}, {"uuid": w.linked.uuid}
    elsewhere = {"host": w.other_host.pk}
    page, api = "POST /machines/{uuid}", "/api/v1/vms/{uuid}"
    return {
        f"{page}/keys/": E(body={"keys": "ctrl-alt-delete"}),
        f"{page}/guest/password/": E(body=secret),
        f"PUT {api}/guest/password": E(body=secret),
        f"{page}/hardware/disc/": E(at=disc, body={"disc": w.disc.pk}),
        f"PUT {api}/disc": E(at=disc, body={"image": w.disc.pk}),
        f"{page}/hardware/disk-flatten/": E(at=linked),
        f"POST {api}/flatten": E(at=linked),
        f"{page}/move/": E(at={"uuid": w.two.uuid}, body=elsewhere),
        f"POST {api}/migrate": E(at={"uuid": w.two.uuid}, body=elsewhere),
    }


def _of_settings(w: World) -> dict[str, Example]:
    two, off = {"uuid": w.two.uuid}, {"uuid": w.off.uuid}
    page, api = "POST /machines/{uuid}/hardware", "/api/v1/vms/{uuid}"
    return {
        "GET /machines/{uuid}/hardware/": E(query="?for=size"),
        "GET /machines/{uuid}/growth/{action}/": E(at={"action": "size"}),
        "POST /api/v1/vms/{uuid}/quota/check": E(body={"action": "size"}),
        f"{page}/size/": E(at=off, body={"vcpus": 2}),
        f"{page}/boot/": E(at=off, body={"boot-1": "vda"}),
        f"{page}/disk-add/": E(at=two, body={"size_gib": 1}),
        f"{page}/disk-grow/": E(at=two, body={"disk": "vdb", "size_gib": 9}),
        f"{page}/disk-remove/": E(at=two, body={"disk": "vdb"}),
        f"{page}/nic-add/": E(at=off, body={"network": "default"}),
        f"{page}/nic-remove/": E(at=two, body={"nic": w.card.pk}),
        f"{page}/nic-change/": E(at=two, body={"nic": w.card.pk, "link": "off"}),
        f"{page}/autostart/": E(body={"autostart": "on"}),
        f"PUT {api}/hardware/size": E(at=off, body={"vcpus": 2}),
        f"PUT {api}/hardware/boot-order": E(at=off, body={"devices": ["vda"]}),
        f"PUT {api}/hardware/autostart": E(body={"autostart": True}),
        f"POST {api}/disks": E(at=two, body={"size_gib": 1}),
        f"PATCH {api}/disks/{{target}}": E(at=two, body={"size_gib": 9}),
        f"DELETE {api}/disks/{{target}}": E(at=two),
        f"POST {api}/nics": E(at=off, body={"network": "default"}),
        f"PATCH {api}/nics/{{nic_id}}": E(at=two, body={"link_up": False}),
        f"DELETE {api}/nics/{{nic_id}}": E(at=two),
    }


def _of_snapshots_and_templates(w: World) -> dict[str, Example]:
    off = {"uuid": w.off.uuid}
    page, api = "POST /machines/{uuid}/snapshots", "/api/v1/vms/{uuid}/snapshots"
    return {
        f"{page}/take/": E(at=off, body={"name": "fresh"}),
        f"{page}/{{snapshot_id}}/revert/": E(at=off),
        f"{page}/{{snapshot_id}}/delete/": E(at=off),
        f"POST {api}": E(at=off, body={"name": "fresh"}),
        f"POST {api}/{{snapshot_id}}/revert": E(at=off),
        f"DELETE {api}/{{snapshot_id}}": E(at=off),
        "POST /templates/{template_id}/public/": E(body={"public": "1"}),
        "POST /machines/{uuid}/template/": E(at=off, body={"name": "fresh"}),
        "POST /api/v1/vms/{uuid}/template": E(at=off, body={"name": "fresh"}),
        "POST /api/v1/templates/{template_id}/current": E(body={"version": 1}),
    }


def _of_ports(_w: World) -> dict[str, Example]:
    return {
        "POST /machines/{uuid}/ports/publish/": E(body={"guest_port": 80}),
        "POST /api/v1/vms/{uuid}/ports": E(body={"guest_port": 80}),
    }


def _of_backups(w: World) -> dict[str, Example]:
    kept = {"uuid": w.kept.uuid}
    plan = {"every_days": 1, "keep": 3}
    page, api = "/machines/{uuid}/backups", "/api/v1/vms/{uuid}/backups"
    return {
        f"POST {page}/plan/": E(at=kept, body=plan | {"keep_daily": 0, "keep_weekly": 0}),
        f"GET {page}/{{number}}/": E(at=kept, query="?for=delete"),
        f"GET {page}/{{number}}/file/": E(at=kept),
        f"POST {page}/{{number}}/restore/": E(at=kept),
        f"POST {page}/{{number}}/new/": E(at=kept, body={"name": "fresh"}),
        f"POST {page}/{{number}}/attach/": E(at=kept, body={"machine": w.kept.uuid}),
        f"POST {page}/{{number}}/delete/": E(at=kept),
        f"PUT {api}/plan": E(body=plan),
        f"GET {api}/{{number}}/file": E(at=kept),
        f"POST {api}/{{number}}/restore": E(at=kept, body={"name": ""}),
        f"POST {api}/{{number}}/attach": E(at=kept, body={"vm": str(w.kept.uuid)}),
        f"DELETE {api}/{{number}}": E(at=kept),
    }


def _of_consoles(w: World) -> dict[str, Example]:
    invite = {"invite_id": w.console_invite.pk}
    owner = w.people["owner"].pk
    on = {"recording_id": w.recording_on.pk}
    page, api = "/machines/{uuid}/console", "/api/v1/vms/{uuid}/console"
    return {
        f"POST {page}/control/give/": E(body={"to": owner}, before=_owner_is_there),
        f"POST {page}/control/ask/": E(before=_is_there),
        f"POST {page}/control/release/": E(before=_has_control, no=409),
        "GET /console/join/{token}/": E(tells=True),
        f"POST {page}/invites/": E(body={"mode": "view", "hours": 1}),
        f"POST {page}/invites/{{invite_id}}/revoke/": E(at=invite),
        f"POST {page}/record/": E(body={"kind": "vnc"}),
        "POST /recordings/{recording_id}/stop/": E(at=on),
        f"POST {api}": E(body={"kind": "vnc", "mode": "control"}),
        f"POST {api}/ask": E(before=_is_there),
        f"POST {api}/release": E(before=_has_control, no=409),
        f"POST {api}/give": E(body={"to": owner}, before=_owner_is_there),
        f"POST {api}/invites": E(body={"mode": "view", "hours": 1}),
        f"DELETE {api}/invites/{{invite_id}}": E(at=invite),
        "POST /api/v1/vms/{uuid}/recordings": E(body={"kind": "vnc"}),
        "POST /api/v1/recordings/{recording_id}/stop": E(at=on),
    }


def _is_there(w: World, role: str) -> None:
    """At the console, so that there is something to ask for."""
    if role in w.people:
        ConsoleSession.objects.create(
            user=w.people[role], vm=w.vm, kind="vnc", mode="view", carrier="asgi"
        )


def _has_control(w: World, role: str) -> None:
    if role in w.people:
        ConsoleControl.objects.create(vm=w.vm, user=w.people[role])
        ConsoleSession.objects.create(
            user=w.people[role], vm=w.vm, kind="vnc", mode="control", carrier="asgi"
        )


def _owner_is_there(w: World, role: str) -> None:
    ConsoleSession.objects.create(
        user=w.people["owner"], vm=w.vm, kind="vnc", mode="view", carrier="asgi"
    )


def _of_access(w: World) -> dict[str, Example]:
    page, api = "/machines/{uuid}/access", "/api/v1/vms/{uuid}"
    offered = {"uuid": w.offered.uuid}
    return {
        f"GET {page}/": E(query="?part=share"),
        f"POST {page}/share/": E(body={"username": "outsider", "role": "viewer"}),
        f"POST {page}/transfer/": E(body={"username": "outsider"}),
        f"POST {page}/withdraw/": E(at=offered),
        "GET /offers/": E(tells=True),
        "GET /api/v1/offers": E(tells=True),
        "POST /offers/{offer_id}/accept/": E(
            body={"team": w.people["owner"].personal_team.pk}, hidden=422
        ),
        f"POST {api}/access": E(body={"user": "outsider", "role": "viewer"}),
        f"POST {api}/transfer": E(body={"to": "outsider"}),
        f"DELETE {api}/transfer": E(at=offered),
    }


# --- asking --------------------------------------------------------------------------------------
def address(world: World, way: str, example: Example) -> str:
    known = defaults(world) | example.at
    path = way.split(" ", 1)[1]
    return re.sub(r"{(\w+)}", lambda found: str(known[found[1]]), path) + example.query


def ask(world: World, way: str, example: Example, role: str, **how: Any) -> HttpResponse:
    """As that person, with all that their token or session may; rolled back by the caller."""
    method, path = way.split(" ", 1)
    client = Client()
    headers = dict(example.headers)
    token = how.get("token", world.tokens.get(role))
    by_token = path.startswith("/api/") and not how.get("by_session")
    if by_token and token is not None:
        headers["Authorization"] = f"Bearer {token}"
    elif not by_token and role in world.cookies:
        client.cookies[settings.SESSION_COOKIE_NAME] = how.get("cookie", world.cookies[role])
    at = address(world, way, example)
    if example.raw is not None:
        return client.generic(method, at, example.raw, headers=headers)
    if path.startswith("/api/"):
        data = "" if method == "GET" else json.dumps(example.body)
        return client.generic(method, at, data, content_type="application/json", headers=headers)
    send = getattr(client, method.lower())
    return send(at, example.body, headers=headers) if method == "POST" else send(at)


def outcome(answer: HttpResponse, example: Example, wanted: str = "") -> str:
    """In the table's words; where two of them answer alike, in the wanted one."""
    status = answer.status_code
    if status == 401 or (status == 302 and answer["Location"].startswith("/accounts/login/")):
        return "sign in"
    for word, statuses in (("no", (403, example.no)), ("hidden", (404, example.hidden))):
        if status in statuses and wanted in ("", word, "yes"):
            return word
    if 200 <= status < 400:
        return "yes"
    return f"{status} {said(answer)}"


def said(answer: HttpResponse) -> str:
    if answer.streaming:
        return ""
    text = answer.content.decode()
    told = re.findall(r"(?s)data-error[^>]*>(.*?)<", text)
    return " ".join(told)[:300] or text[:300]
