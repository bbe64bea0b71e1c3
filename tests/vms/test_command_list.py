"""Every verb of a machine has its command line, in the page's dialog and in the API."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from accounts.models import User
from vms import command_list
from vms.models import VM
from vms.verbs import Verb

OTHERS = {
    "bin", "shutdown_agent", "keys", "guest", "guest_password", "eject", "size", "disk-grow",
    "nic-add", "cable", "autostart", "rename", "description", "snapshot", "revert",
    "snapshot_delete", "backup", "template", "console", "xml",
}  # fmt: skip


@pytest.mark.parametrize("observed", ["running", "shutoff"])
def test_every_verb_has_its_line(observed: str, vm: VM, owner: User) -> None:
    VM.objects.filter(pk=vm.pk).update(observed=observed, domain_name="it's; rm -rf $HOME")
    vm.refresh_from_db()
    listed = {one.key: one.lines for one in command_list.of(vm, owner)}
    assert {verb.value for verb in Verb} | OTHERS <= set(listed)
    assert ("clone" in listed) is (observed == "shutoff")
    for key, lines in listed.items():
        for line in lines:
            parsed = subprocess.run(
                ["bash", "-n", "-c", line], capture_output=True, text=True, check=False
            )
            assert parsed.returncode == 0, (key, line, parsed.stderr)
            assert "it's; rm" not in line.replace("it'\"'\"'s; rm", ""), (key, line)


def test_who_may(
    vm: VM,
    owner: User,
    viewer: User,
    outsider: User,
    api: Callable[..., Any],
    browser: Callable[[User], Client],
) -> None:
    for person, status in ((owner, 200), (viewer, 403), (outsider, 404)):
        assert api(person).get(f"/vms/{vm.uuid}/commands").status_code == status
        assert browser(person).get(f"/machines/{vm.uuid}/commands/").status_code == status
    shown = browser(owner).get(f"/machines/{vm.uuid}/commands/").content.decode()
    assert "managedsave" in shown
    assert "snapshot-create-as" in shown
