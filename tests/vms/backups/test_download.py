"""Downloads: whole, from where they broke, by who may, and no longer than they may."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.test import Client
from django.utils import timezone

from accounts import tokens
from accounts.models import ApiToken, AuditEntry, Membership, User
from hosts.models import Host
from hosts.virt.errors import VirtError
from hosts.virt.fake import FakeHypervisor
from tests.vms.backups.helpers import ranged, taken, write
from vms import downloads as file_downloads
from vms.backups import downloads, services
from vms.models import VM


def broken_off(
    client: Client, path: str, after_the_first: Callable[[], Any], **said: dict[str, str]
) -> int:
    """How many bytes come when that happens after the first piece."""
    answer = client.get(path, **said)  # type: ignore[arg-type]
    assert answer.status_code == 200

    async def take() -> int:
        got = 0
        async for piece in answer.streaming_content:
            if not got:
                await sync_to_async(after_the_first)()
            got += len(piece)
        return got

    return async_to_sync(take)()


class TestDownload:
    @pytest.fixture(autouse=True)
    def _nobody_downloads(self) -> None:
        """Answers of other tests that nobody read are in cycles, until they are collected."""
        gc.collect()
        downloads._taken.clear()

    @pytest.fixture
    def path(self, vm: VM, fake: FakeHypervisor, owner: User) -> str:
        write(fake, vm, bytes(range(256)) * 10_000)  # several pieces
        taken(vm, owner)
        return f"/machines/{vm.uuid}/backups/1/file/"

    def test_whole_and_from_where_it_broke(
        self, path: str, vm: VM, owner: User, browser: Callable[[User], Client]
    ) -> None:
        whole, client = bytes(range(256)) * 10_000, browser(owner)
        answer = client.get(path)
        backup = vm.backups.get()
        assert answer["ETag"] == f'"{backup.image.checksum}"'
        assert answer["Content-Length"] == str(len(whole)) == str(backup.image.file_size_bytes)
        assert "attachment" in answer["Content-Disposition"]
        assert ranged(client, path) == (200, whole)
        assert hashlib.sha256(whole).hexdigest() == backup.image.checksum
        assert ranged(client, path, "bytes=2000000-") == (206, whole[2_000_000:])
        assert ranged(client, path, "bytes=5-9") == (206, whole[5:10])
        assert ranged(client, path, f"bytes={len(whole)}-")[0] == 416
        tag = {"If-Range": answer["ETag"]}
        assert ranged(client, path, "bytes=7-", **tag) == (206, whole[7:])
        assert ranged(client, path, "bytes=7-", **{"If-Range": '"another"'}) == (200, whole)
        del answer  # of which nobody read
        gc.collect()
        assert not list(downloads._taken)

    def test_by_who_may_and_written_down(
        self,
        path: str,
        vm: VM,
        owner: User,
        teammate: User,
        viewer: User,
        outsider: User,
        browser: Callable[[User], Client],
        api: Callable[..., Any],
    ) -> None:
        assert browser(outsider).get(path).status_code == 404
        for person in (teammate, viewer):
            assert browser(person).get(path).status_code == 403
        assert not AuditEntry.objects.filter(verb="vm.download_backup").exists()
        answer = api(owner).get(f"/vms/{vm.uuid}/backups/1/file")
        assert answer.status_code == 200
        assert api(outsider).get(f"/vms/{vm.uuid}/backups/1/file").status_code == 404
        assert AuditEntry.objects.get(verb="vm.download_backup").actor == owner

    def test_cut_off_when_it_is_not_what_was_written(
        self, path: str, vm: VM, fake: FakeHypervisor, owner: User, browser: Callable[..., Client]
    ) -> None:
        fake._volume("default", vm.backups.get().image.volume_name).content = b"short"
        with pytest.raises(VirtError):
            ranged(browser(owner), path)
        assert not list(downloads._taken)

    def test_refused(
        self, path: str, vm: VM, owner: User, browser: Callable[[User], Client]
    ) -> None:
        client = browser(owner)
        answers = [downloads.take_place(owner.pk) for _ in range(downloads.AT_ONCE_EACH)]
        assert client.get(path).status_code == 429
        answers.clear()
        assert client.get(path).status_code == 200
        Host.objects.update(reach=Host.Reach.DOWN)
        assert client.get(path).status_code == 503
        Host.objects.update(reach=Host.Reach.UP)
        services.delete(vm.backups.get(), actor=owner)
        assert client.get(path).status_code == 409

    def test_what_is_asked_for_together_does_not_all_pass(
        self, path: str, owner: User, browser: Callable[[User], Client]
    ) -> None:
        """Each takes its place before it is read, and gives it back if it never is."""
        client = browser(owner)
        answers = [client.get(path) for _ in range(downloads.AT_ONCE_EACH)]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert client.get(path).status_code == 429
        answers.clear()
        gc.collect()
        assert client.get(path).status_code == 200
        gc.collect()
        assert client.get(path, headers={"Range": "bytes=9999999-"}).status_code == 416
        assert not list(downloads._taken)

    @pytest.mark.django_db(transaction=True)
    def test_it_ends_with_what_opened_it(
        self,
        path: str,
        vm: VM,
        owner: User,
        admin: User,
        monkeypatch: pytest.MonkeyPatch,
        browser: Callable[[User], Client],
    ) -> None:
        """The session or the token; and with the right to it."""
        monkeypatch.setattr(file_downloads, "ASK_AGAIN_S", -1)  # before each piece
        whole = vm.backups.get().image.file_size_bytes
        address = f"/api/v1/vms/{vm.uuid}/backups/1/file"

        def by_token(then: Callable[[ApiToken], Any]) -> int:
            token, secret = tokens.issue(owner, "script", ("read",), None)
            headers = {"Authorization": f"Bearer {secret}"}
            return broken_off(Client(), address, lambda: then(token), headers=headers)

        def by_session(then: Callable[[Client], Any]) -> int:
            client = browser(owner)
            return broken_off(client, path, lambda: then(client))

        assert by_token(lambda token: token) == whole
        assert by_token(lambda token: tokens.revoke(owner, token.pk)) < whole
        late = timezone.now() - timedelta(seconds=1)
        tokens_of = ApiToken.objects.filter
        assert by_token(lambda token: tokens_of(pk=token.pk).update(expires_at=late)) < whole
        assert by_session(lambda client: client) == whole
        assert by_session(lambda _client: browser(owner).logout()) == whole
        assert by_session(lambda client: client.logout()) < whole
        looking = browser(admin)
        looking.post(f"/admin/users/{owner.pk}/view-as/")
        assert broken_off(looking, path, lambda: None) == whole
        assert broken_off(looking, path, looking.logout) < whole
        Membership.objects.filter(user=owner, team=vm.team).delete()
        assert by_session(lambda _: VM.objects.filter(pk=vm.pk).update(owner=admin)) < whole

    def test_no_host_is_asked_before_the_first_byte_is_taken(
        self, path: str, fake: FakeHypervisor, owner: User, browser: Callable[[User], Client]
    ) -> None:
        before = sum(fake.calls.values())
        browser(owner).get(path)
        assert sum(fake.calls.values()) == before
