"""The API of consoles: tickets, who is here, control, invites, recordings. GETs read the database
and the site's own files only."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.urls import reverse
from ninja import Field, Router, Schema
from pydantic import ConfigDict

from accounts.apiauth import Identity, Page, let_in, user_auth
from accounts.errors import NotFound
from accounts.models import User
from vms import downloads
from vms.consoles import recorder, recordings, sharing, tickets, viewerfile
from vms.models import VM, ConsoleInvite, ConsoleRecording

router = Router(tags=["consoles"], auth=user_auth)


class ConsoleIn(Schema):
    model_config = ConfigDict(extra="forbid")

    kind: Literal["vnc", "serial"] = "vnc"
    mode: Literal["view", "control"] | None = Field(
        None, description="default: control where you may and nobody else has it, else view"
    )
    take: bool = Field(default=False, description="take control back from who has it")


class ConsoleOut(Schema):
    url: str
    protocols: list[str]
    kind: str
    mode: str
    expires_at: datetime


class PersonOut(Schema):
    user_id: int
    name: str
    kind: str
    mode: str
    since: datetime
    is_me: bool
    invited: bool


class MayOut(Schema):
    ask: bool
    give: bool
    take: bool
    release: bool
    invite: bool
    record: bool


class RecordingOut(Schema):
    id: UUID
    kind: str
    started_by: str | None = Field(description="null: the site records every console")
    started_at: datetime
    ended_at: datetime | None = Field(description="null: it is being made")
    end_reason: str
    size_bytes: int
    duration_ms: int


class SharingOut(Schema):
    people: list[PersonOut]
    holder_id: int | None
    holder_name: str
    asks: list[PersonOut]
    i_asked: bool
    i_may: MayOut
    recordings: list[RecordingOut] = Field(description="that are being made now")


class RecordingIndexOut(RecordingOut):
    vm: UUID
    entries: list[list[int]] = Field(
        description="of a screen: where it can be entered, as [milliseconds, offset, width, height]"
    )


class RecordIn(Schema):
    model_config = ConfigDict(extra="forbid")

    kind: Literal["vnc", "serial"] = "vnc"


class GiveIn(Schema):
    model_config = ConfigDict(extra="forbid")

    to: int | str = Field(description="a person at this console, by id or user name")


class InviteIn(Schema):
    model_config = ConfigDict(extra="forbid")

    mode: Literal["view", "control"] = "view"
    once: bool = Field(default=False, description="for the first person who joins, and no other")
    hours: int = Field(24, description="how long it is valid")


class InviteOut(Schema):
    id: int
    mode: str
    once: bool
    made_by: str
    made_at: datetime
    expires_at: datetime
    used_by: list[str]


class NewInviteOut(InviteOut):
    url: str = Field(description="the link; told this once")


# --- tickets -------------------------------------------------------------------------------------


@router.post("/vms/{uuid}/console", response=ConsoleOut, summary="Leave to open its console once")
def open_console(request: HttpRequest, uuid: str, wanted: ConsoleIn) -> dict[str, Any]:
    identity = _identity(request)
    ticket = tickets.issue(
        user=identity.user,
        vm=sharing.machine(identity.user, uuid),
        kind=wanted.kind,
        mode=wanted.mode or "",
        take=wanted.take,
        session_key=identity.session_key,
        api_token=identity.token,
    )
    return ticket.answer(request)


@router.get(
    "/vms/{uuid}/console.vv",
    response={200: str},
    summary="A file for remote-viewer, for the port of `kvmweb console NAME --vnc --port N`",
)
def console_vv(
    request: HttpRequest, uuid: str, port: Annotated[int, Field(ge=1, le=65535)] = 5900
) -> HttpResponse:
    """It names a port of the reader's own machine: this site opens none."""
    vm = sharing.machine(_identity(request).user, uuid)
    return viewerfile.answer(vm, port)


# --- who is here ---------------------------------------------------------------------------------


@router.get("/vms/{uuid}/console/sharing", response=SharingOut, summary="Who is at its console")
def console_sharing(request: HttpRequest, uuid: str) -> dict[str, Any]:
    return _sharing(request, uuid)


@router.post("/vms/{uuid}/console/ask", response=SharingOut, summary="Ask for control")
def ask_for_control(request: HttpRequest, uuid: str) -> dict[str, Any]:
    """Where nobody has control, it is yours at once."""
    user = _identity(request).user
    sharing.ask(sharing.machine(user, uuid), actor=user)
    return _sharing(request, uuid)


@router.delete("/vms/{uuid}/console/ask", response=SharingOut, summary="Ask no longer")
def withdraw_ask(request: HttpRequest, uuid: str) -> dict[str, Any]:
    user = _identity(request).user
    sharing.withdraw(sharing.machine(user, uuid), actor=user)
    return _sharing(request, uuid)


@router.post("/vms/{uuid}/console/give", response=SharingOut, summary="Hand control over")
def give_control(request: HttpRequest, uuid: str, wanted: GiveIn) -> dict[str, Any]:
    user = _identity(request).user
    vm = sharing.machine(user, uuid)
    sharing.give(vm, actor=user, to=_person_at(vm, user, wanted.to))
    return _sharing(request, uuid)


@router.post("/vms/{uuid}/console/take", response=SharingOut, summary="Take control")
def take_control(request: HttpRequest, uuid: str) -> dict[str, Any]:
    """Back from another: owner, manager of the team, admin."""
    user = _identity(request).user
    sharing.take(sharing.machine(user, uuid), actor=user)
    return _sharing(request, uuid)


@router.post("/vms/{uuid}/console/release", response=SharingOut, summary="Put control down")
def release_control(request: HttpRequest, uuid: str) -> dict[str, Any]:
    user = _identity(request).user
    sharing.release(sharing.machine(user, uuid), actor=user)
    return _sharing(request, uuid)


# --- invites -------------------------------------------------------------------------------------


@router.get(
    "/vms/{uuid}/console/invites", response=Page[InviteOut], summary="Invites that are valid"
)
def list_invites(request: HttpRequest, uuid: str) -> dict[str, Any]:
    user = _identity(request).user
    rows = sharing.list_invites(sharing.machine(user, uuid), actor=user)
    return {"items": [_invite(row) for row in rows], "count": len(rows)}


@router.post(
    "/vms/{uuid}/console/invites", response={201: NewInviteOut}, summary="Invite to its console"
)
def make_invite(request: HttpRequest, uuid: str, wanted: InviteIn) -> tuple[int, dict[str, Any]]:
    """The link is for people who can sign in here. It opens the console, not the machine."""
    user = _identity(request).user
    row, token = sharing.invite(
        sharing.machine(user, uuid),
        actor=user,
        mode=wanted.mode,
        once=wanted.once,
        hours=wanted.hours,
    )
    path = reverse("console_join", args=[token])
    return 201, _invite(row) | {"url": request.build_absolute_uri(path)}


@router.delete(
    "/vms/{uuid}/console/invites/{invite_id}", response={204: None}, summary="Take an invite back"
)
def revoke_invite(request: HttpRequest, uuid: str, invite_id: int) -> tuple[int, None]:
    """Consoles of those who came by it end at once."""
    user = _identity(request).user
    vm = sharing.machine(user, uuid)
    sharing.require_steward(vm, user)
    row = ConsoleInvite.objects.select_related("vm").filter(vm=vm, pk=invite_id).first()
    if row is None:
        raise NotFound
    sharing.revoke_invite(row, actor=user)
    return 204, None


# --- recordings ----------------------------------------------------------------------------------


@router.get("/vms/{uuid}/recordings", response=Page[RecordingOut], summary="Its recordings")
def list_recordings(request: HttpRequest, uuid: str) -> dict[str, Any]:
    user = _identity(request).user
    rows = recordings.listed(sharing.machine(user, uuid), user)
    return {"items": [_recording(row) for row in rows], "count": len(rows)}


@router.post("/vms/{uuid}/recordings", response={201: RecordingOut}, summary="Record its console")
def start_recording(
    request: HttpRequest, uuid: str, wanted: RecordIn
) -> tuple[int, dict[str, Any]]:
    """Everybody at the console is told. It ends with the machine, or when it is stopped."""
    user = _identity(request).user
    row = recordings.start(sharing.machine(user, uuid), wanted.kind, actor=user)
    transaction.on_commit(lambda: recorder.begin(row.pk))
    return 201, _recording(row)


@router.get("/recordings/{recording_id}", response=RecordingIndexOut, summary="One recording")
def get_recording(request: HttpRequest, recording_id: str) -> dict[str, Any]:
    row = recordings.one(_identity(request).user, recording_id)
    entries = recordings.entries(row)
    return _recording(row) | {"vm": row.vm.uuid, "entries": entries}


@router.post("/recordings/{recording_id}/stop", response=RecordingOut, summary="Stop recording")
def stop_recording(request: HttpRequest, recording_id: str) -> dict[str, Any]:
    """It ends within seconds: then it has ``ended_at``."""
    user = _identity(request).user
    row = recordings.one(user, recording_id)
    recordings.ask_to_stop(row, actor=user)
    return _recording(row)


@router.get("/recordings/{recording_id}/data", summary="What was recorded")
def recording_data(request: HttpRequest, recording_id: str) -> HttpResponseBase:
    """A screen as FBS, a serial line as asciicast; ``Range`` takes a part."""
    row = recordings.one(_identity(request).user, recording_id)
    return downloads.answer(
        request,
        recordings.file_of(row),
        content_type=recordings.CONTENT_TYPES[row.kind],
        name=f"{row.vm.name}-{row.started_at:%Y-%m-%d-%H%M}.{recordings.EXTENSIONS[row.kind]}",
        may=lambda user: recordings.may_see(user, row.pk),
    )


@router.delete("/recordings/{recording_id}", response={204: None}, summary="Delete a recording")
def delete_recording(request: HttpRequest, recording_id: str) -> tuple[int, None]:
    user = _identity(request).user
    recordings.delete(recordings.one(user, recording_id), actor=user)
    return 204, None


# --- inside --------------------------------------------------------------------------------------


def _identity(request: HttpRequest) -> Identity:
    return let_in(request)


def _sharing(request: HttpRequest, uuid: str) -> dict[str, Any]:
    user = _identity(request).user
    found = sharing.state(sharing.machine(user, uuid), user)
    return vars(found) | {"recordings": [_recording(row) for row in found.recordings]}


def _recording(row: ConsoleRecording) -> dict[str, Any]:
    return {
        "id": row.pk,
        "kind": row.kind,
        "started_by": row.started_by.display_name() if row.started_by else None,
        "started_at": row.started_at,
        "ended_at": row.ended_at,
        "end_reason": row.end_reason,
        "size_bytes": row.size_bytes,
        "duration_ms": row.duration_ms,
    }


def _person_at(vm: VM, user: User, wanted: int | str) -> User:
    """Only people at this console are found: names of others are nobody's business here."""
    here = {person.user_id for person in sharing.state(vm, user).people}
    rows = User.objects.filter(pk__in=here, is_active=True)
    if isinstance(wanted, int):
        found = rows.filter(pk=wanted).first()
    else:
        found = rows.filter(username=wanted).first()
    if found is None:
        raise NotFound("console.person", name=str(wanted)[:64])
    return found


def _invite(row: ConsoleInvite) -> dict[str, Any]:
    return {
        "id": row.pk,
        "mode": row.mode,
        "once": row.once,
        "made_by": row.made_by.display_name(),
        "made_at": row.made_at,
        "expires_at": row.expires_at,
        "used_by": [use.user.display_name() for use in row.uses.all()],
    }
