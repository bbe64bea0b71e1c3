"""Answers for an installer: on a disc of their own, as long as it reads them and no longer."""

from __future__ import annotations

import io
from typing import Any

import pycdlib
import pytest

from accounts.errors import Invalid
from accounts.models import User
from hosts.virt.fake import FakeHypervisor
from jobs.models import Job
from tests.vms.conftest import run_to_end, run_until_parked, volumes
from tests.vms.test_every_knob import disc
from tests.vms.test_install_from_disc import iso  # noqa: F401 - a fixture
from vms import answers, discs
from vms.knobs import Wish
from vms.models import VM, Image
from vms.provisioning.domain import domain_spec

KICKSTART = "lang en_US\n%packages\n@core\n%end\n"
AUTOINSTALL = "autoinstall:\n  version: 1\n  identity: {hostname: a, username: b, password: x&y}\n"


def on_disc(content: bytes) -> tuple[str, dict[str, str]]:
    image = pycdlib.PyCdlib()
    image.open_fp(io.BytesIO(content))
    label = image.pvd.volume_identifier.decode().strip()
    held = {}
    for child in image.list_children(rr_path="/"):
        if child is None or child.is_dir():
            continue
        name = child.rock_ridge.name().decode()
        out = io.BytesIO()
        image.get_file_from_iso_fp(out, rr_path=f"/{name}")
        held[name] = out.getvalue().decode()
    image.close()
    return label, held


def test_each_installer_finds_its_own() -> None:
    assert on_disc(answers.build("kickstart", KICKSTART, instance_id="i")) == (
        "OEMDRV",
        {"ks.cfg": KICKSTART},
    )
    label, held = on_disc(answers.build("autoinstall", AUTOINSTALL, instance_id="i"))
    assert label == "cidata"
    assert held["user-data"] == "#cloud-config\n" + AUTOINSTALL
    assert "instance-id: i" in held["meta-data"]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("xml", "d-i x"),
        ("kickstart", " \n"),
        ("kickstart", "lang\x00"),
        ("kickstart", "%post\necho"),
        ("kickstart", "%end"),
        ("kickstart", "x" * (answers.MAX_BYTES + 1)),
        ("autoinstall", "packages: [a]"),
        ("autoinstall", "autoinstall: {version: 2}"),
        ("autoinstall", "autoinstall: [" * 200),
        ("autoinstall", "a: &a [1]\nautoinstall: {version: 1, b: *a}"),
        ("autoinstall", "- autoinstall"),
    ],
)
def test_what_no_installer_takes(kind: str, text: str) -> None:
    with pytest.raises(Invalid):
        answers.check(kind, text)


def test_from_the_request_to_the_first_reboot(
    iso: Image,  # noqa: F811
    ask: Any,
    owner: User,
    fake: FakeHypervisor,
) -> None:
    vm, job = ask(
        owner,
        image=iso,
        password="",
        ssh_keys=[],
        wish=Wish(answers_kind="kickstart", answers=KICKSTART),
    )
    run_until_parked(job, "address")
    fake.guest_boots(vm.uuid)
    assert run_to_end(job).state == Job.State.SUCCEEDED
    vm.refresh_from_db()
    assert [c.target for c in domain_spec(vm).cdroms] == ["sda", "sdb"]
    assert vm.seed_volume in volumes(fake)
    discs.after_reboot(vm)
    run_to_end(Job.objects.get(kind="vm.eject"))
    vm = VM.objects.get(pk=vm.pk)
    assert (vm.answers, vm.answers_kind, vm.seed_volume) == ("", "", "")
    assert volumes(fake) == {vm.disks.get().volume}
    assert all(not d.volume for d in fake.domain(vm.uuid).disks if d.device == "cdrom")


def test_only_with_an_installation_disc(ask: Any, owner: User) -> None:
    with pytest.raises(Invalid) as caught:
        ask(owner, wish=Wish(answers_kind="kickstart", answers=KICKSTART))
    assert caught.value.fields == {"answers": "answers.no_disc"}
    other = disc("Fedora", "fedora37")
    with pytest.raises(Invalid) as caught:
        ask(owner, image=other, password="", ssh_keys=[], wish=Wish(answers=KICKSTART))
    assert caught.value.fields == {"answers_kind": "answers.kind"}
