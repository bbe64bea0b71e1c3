"""Debian's installer with a preseed: its kernel first, and the disk when it has ended."""

from __future__ import annotations

import gzip
import io
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pycdlib
import pytest

from accounts.errors import Conflict, Invalid
from accounts.models import QuotaLimit, Resource, User
from hosts.virt.errors import UnknownVirtError
from hosts.virt.fake import FakeHypervisor
from jobs.models import Job
from tests.vms.conftest import run_to_end, run_until_parked, volumes
from tests.vms.test_install_from_disc import iso  # noqa: F401 - a fixture
from tests.vms.test_killed_at_each_step import survive
from tests.vms.test_unattended import KICKSTART
from vms import answers, commands, discs, state
from vms.images import files, isofile
from vms.knobs import Wish
from vms.models import VM, Image
from vms.provisioning.domain import domain_spec
from vms.watching import MachineListener

PRESEED = """\
# The file that Debian's manual has, shortened.
d-i debian-installer/locale string en_US
d-i keyboard-configuration/xkb-keymap select us
d-i netcfg/choose_interface select auto
d-i passwd/root-password-crypted password $6$x$y
d-i partman/confirm boolean true
d-i preseed/late_command string \\
  in-target true; \\
  true
tasksel tasksel/first multiselect standard, ssh-server
"""
KERNEL, INITRD = b"MZ kernel " * 500, gzip.compress(b"initrd" * 900)


def disc_with(content: dict[str, bytes]) -> bytes:
    """A disc as xorriso makes it: short names in capitals, the real ones by Rock Ridge."""
    made, out = pycdlib.PyCdlib(), io.BytesIO()
    made.new(interchange_level=3, rock_ridge="1.09")
    for number, (path, data) in enumerate(content.items()):
        *folders, name = path.split("/")
        place = ""
        for folder in folders:
            place += f"/{folder.upper().replace('.', '_')}"
            try:
                made.add_directory(place, rr_name=folder)
            except pycdlib.pycdlibexception.PyCdlibInvalidInput:
                continue  # there already
        made.add_fp(io.BytesIO(data), len(data), f"{place}/F{number}.;1", rr_name=name)
    made.write_fp(out)
    made.close()
    return out.getvalue()


@pytest.fixture
def debian(iso: Image, settings: Any, tmp_path: Path) -> Image:  # noqa: F811
    settings.IMAGE_DIR = tmp_path
    disc = {"install.amd/vmlinuz": KERNEL, "install.amd/initrd.gz": INITRD, "README": b"x"}
    files.stored(iso).write_bytes(disc_with(disc))
    return iso


@pytest.fixture
def installing(debian: Image, ask: Any, owner: User, fake: FakeHypervisor) -> Callable[..., VM]:
    """``installing(text)``: its installer is at work, and the machine runs."""

    def make(text: str = PRESEED) -> VM:
        wish = Wish(answers_kind="preseed", answers=text)
        vm, job = ask(owner, image=debian, password="", ssh_keys=[], wish=wish)
        run_until_parked(job, "address")
        fake.guest_boots(vm.uuid)
        assert run_to_end(job).state == Job.State.SUCCEEDED
        return VM.objects.get(pk=vm.pk)

    return make


def ends(vm: VM, fake: FakeHypervisor) -> None:
    """Its guest restarts, which ends its domain; the watcher hears of it."""
    fake.guest_powers_off(vm.uuid)
    state.observe(vm, fake.domain(vm.uuid))
    discs.after_stop(vm)


def test_the_initrd_is_unpacked_with_the_file(tmp_path: Path) -> None:
    added = answers.in_initrd(PRESEED.replace("\n", "\r\n"), after=3)
    assert (3 + len(added)) % 4 == 0
    subprocess.run(
        ["cpio", "-i", "--quiet"], input=added[1:], cwd=tmp_path, check=True, capture_output=True
    )
    (found,) = tmp_path.iterdir()
    assert (found.name, found.read_text()) == ("preseed.cfg", PRESEED)


def test_from_the_request_to_the_disk(installing: Callable[..., VM], fake: FakeHypervisor) -> None:
    vm = installing()
    spec = domain_spec(vm)
    assert spec.kernel is not None
    assert [cdrom.target for cdrom in spec.cdroms] == ["sdb"]
    held = fake._volume("default", spec.kernel.initrd).content
    assert held == INITRD + answers.in_initrd(PRESEED, after=len(INITRD))
    assert fake._volume("default", spec.kernel.kernel).content == KERNEL
    assert "on_reboot>destroy" in fake.domain_xml(vm.uuid)
    ends(vm, fake)
    job = run_to_end(Job.objects.get(kind=discs.KIND))
    assert job.state == Job.State.SUCCEEDED
    vm = VM.objects.get(pk=vm.pk)
    assert (vm.iso, vm.answers, vm.answers_kind, vm.seed_volume) == (None, "", "", "")
    assert (vm.observed, vm.desired) == (VM.Observed.RUNNING, VM.Desired.RUNNING)
    assert volumes(fake) == {vm.disks.get().volume}
    assert "<kernel>" not in fake.domain_xml(vm.uuid)
    fake.guest_powers_off(vm.uuid)  # from now on it is a machine like others
    state.observe(vm, fake.domain(vm.uuid))
    discs.look_after_installers()
    assert Job.objects.filter(kind=discs.KIND).count() == 1


def test_who_wants_it_off_has_it_off(installing: Callable[..., VM], fake: FakeHypervisor) -> None:
    vm = installing(PRESEED + "d-i debian-installer/exit/poweroff boolean true\n")
    ends(vm, fake)
    assert run_to_end(Job.objects.get(kind=discs.KIND)).state == Job.State.SUCCEEDED
    vm.refresh_from_db()
    assert (vm.observed, vm.seed_volume) == (VM.Observed.SHUTOFF, "")


def test_the_watcher_and_the_reconciler_end_it_once(
    installing: Callable[..., VM], fake: FakeHypervisor
) -> None:
    vm = installing()
    fake.guest_powers_off(vm.uuid)
    MachineListener().on_domain(vm.host, vm.uuid, fake.domain(vm.uuid), None)
    discs.look_after_installers()
    discs.look_after_installers()
    assert Job.objects.filter(kind=discs.KIND).count() == 1


def test_a_limit_leaves_it_off(installing: Callable[..., VM], fake: FakeHypervisor) -> None:
    vm = installing()
    QuotaLimit.objects.create(
        scope="team", team=vm.team, resource=Resource.RUNNING_MACHINES, hard=0
    )
    ends(vm, fake)
    assert run_to_end(Job.objects.get(kind=discs.KIND)).state == Job.State.SUCCEEDED
    vm.refresh_from_db()
    assert (vm.observed, vm.answers_kind) == (VM.Observed.SHUTOFF, "")


@pytest.mark.parametrize("reason", ["destroyed", "unknown"])
def test_a_host_that_went_down_ends_nothing(
    installing: Callable[..., VM], fake: FakeHypervisor, reason: str
) -> None:
    vm = installing()
    fake.guest_powers_off(vm.uuid)
    state.observe(vm, fake.domain(vm.uuid), reason)
    discs.look_after_installers()
    assert not Job.objects.filter(kind=discs.KIND).exists()


def test_a_person_ends_it_by_turning_it_off_first(
    installing: Callable[..., VM], fake: FakeHypervisor, owner: User
) -> None:
    vm = installing()
    with pytest.raises(Conflict, match=r"vm\.why\.installing"):
        discs.eject(vm, actor=owner)
    from vms import lifecycle

    run_to_end(lifecycle.request(vm, "force_off", actor=owner))
    discs.look_after_installers()
    assert not Job.objects.filter(kind=discs.KIND).exists()
    run_to_end(discs.eject(vm, actor=owner))
    vm = VM.objects.get(pk=vm.pk)
    assert (vm.answers, vm.observed) == ("", VM.Observed.SHUTOFF)
    assert volumes(fake) == {vm.disks.get().volume}
    assert "<kernel>" not in fake.domain_xml(vm.uuid)


@pytest.mark.parametrize(
    "content",
    [
        {"casper/vmlinuz": b"x", "casper/initrd": b"x"},
        {"install.amd/vmlinuz": KERNEL},
        {"install.amd/vmlinuz": KERNEL, "install.amd/initrd.gz": b""},
    ],
)
def test_another_disc_fails_and_leaves_nothing(
    debian: Image, ask: Any, owner: User, fake: FakeHypervisor, content: dict[str, bytes]
) -> None:
    files.stored(debian).write_bytes(disc_with(content))
    before = volumes(fake)
    wish = Wish(answers_kind="preseed", answers=PRESEED)
    _vm, job = ask(owner, image=debian, password="", ssh_keys=[], wish=wish)
    run_to_end(job)
    assert (job.state, job.error_code) == (Job.State.FAILED, "answers.not_debian")
    assert volumes(fake) == before


def test_what_fails_later_leaves_nothing(
    debian: Image, ask: Any, owner: User, fake: FakeHypervisor
) -> None:
    before = volumes(fake)
    fake.fail_next("define", UnknownVirtError("no"))
    wish = Wish(answers_kind="preseed", answers=PRESEED)
    _vm, job = ask(owner, image=debian, password="", ssh_keys=[], wish=wish)
    assert run_to_end(job).state == Job.State.FAILED
    assert volumes(fake) == before


def test_delete_takes_all(installing: Callable[..., VM], fake: FakeHypervisor, owner: User) -> None:
    from vms import lifecycle

    vm = installing()
    run_to_end(lifecycle.request(vm, "delete", actor=owner, force=True, purge=True))
    assert not volumes(fake)


def test_a_hostile_disc_is_read_within_bounds() -> None:
    good = disc_with({"install.amd/vmlinuz": KERNEL, "install.amd/initrd.gz": INITRD})
    path = ("install.amd", "vmlinuz")

    def find(content: bytes, most: int = 2**20) -> isofile.Extent | None:
        return isofile.find(io.BytesIO(content), *path, max_bytes=most)

    there = find(good)
    assert there is not None
    assert good[there.offset : there.offset + there.size] == KERNEL
    assert find(good, most=len(KERNEL) - 1) is None
    assert find(good[: there.offset + 100]) is None
    assert find(b"") is None
    for at in range(isofile.DESCRIPTOR, len(good), 7):  # whatever is in it, it ends
        find(good[:at] + b"\xff\x01" + good[at + 2 :])


@pytest.mark.parametrize(
    "line",
    [
        "d-i netcfg/hostname",
        "d-i",
        "d-i partman/confirm boolean yes",
        "d-i hostname string x",
        "d-i a/b sting x",
        "%packages",
        "d-i a/b string \\\n\nx y",
    ],
)
def test_a_line_that_debconf_does_not_read(line: str) -> None:
    with pytest.raises(Invalid) as caught:
        answers.check("preseed", f"{PRESEED}{line}\n")
    assert caught.value.fields == {"answers": "answers.question"}


def test_what_it_takes() -> None:
    answers.check("preseed", PRESEED)
    answers.check("preseed", "d-i\tpasswd/username\tstring\tme\npopcon x/y seen true\n\n  # end\n")
    assert not answers.ends_off("# d-i debian-installer/exit/poweroff boolean true\n")


def test_secure_boot_would_refuse_it(debian: Image, ask: Any, owner: User) -> None:
    wish = Wish(answers_kind="preseed", answers=PRESEED, firmware="secureboot")
    with pytest.raises(Invalid) as caught:
        ask(owner, image=debian, password="", ssh_keys=[], wish=wish)
    assert caught.value.fields["answers_kind"] == "answers.secureboot"


@pytest.mark.parametrize(
    "point", [f"{step}:{when}" for step in ("eject", "start") for when in ("before-do", "after-do")]
)
def test_a_worker_killed_at_its_end(
    installing: Callable[..., VM],
    fake: FakeHypervisor,
    monkeypatch: pytest.MonkeyPatch,
    point: str,
) -> None:
    vm = installing()
    ends(vm, fake)
    job = Job.objects.get(kind=discs.KIND)
    survive(job, f"{discs.KIND}/{point}", monkeypatch)
    assert job.state == Job.State.SUCCEEDED
    vm = VM.objects.get(pk=vm.pk)
    assert (vm.answers, vm.observed, vm.iso) == ("", VM.Observed.RUNNING, None)
    assert volumes(fake) == {vm.disks.get().volume}
    assert "<kernel>" not in fake.domain_xml(vm.uuid)


@pytest.mark.parametrize("when", ["before-do", "after-do"])
def test_a_worker_killed_as_it_writes(
    debian: Image,
    ask: Any,
    owner: User,
    fake: FakeHypervisor,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    wish = Wish(answers_kind="preseed", answers=PRESEED)
    vm, job = ask(owner, image=debian, password="", ssh_keys=[], wish=wish, start=False)
    survive(job, f"vm.create/seed:{when}", monkeypatch)
    assert job.state == Job.State.SUCCEEDED
    spec = domain_spec(VM.objects.get(pk=vm.pk))
    assert spec.kernel is not None
    assert fake._volume("default", spec.kernel.kernel).content == KERNEL
    assert {spec.kernel.kernel, spec.kernel.initrd} <= volumes(fake)


def test_show_command(debian: Image, owner: User, ask: Any) -> None:
    from vms.knobs import CardPlan, DiskPlan, Hardware, Knobs

    lines = commands.show_create(
        name="inst-1",
        image=debian,
        vcpus=1,
        memory_mib=1024,
        disk_gib=10,
        network="default",
        hardware=Hardware(
            os_id="",
            knobs=Knobs(),
            disks=(DiskPlan(target="vda", size_gib=10),),
            cards=(CardPlan(network="default"),),
            answers_kind="preseed",
            answers=PRESEED,
        ),
    )
    assert lines[1].startswith("cat > preseed.cfg <<'EOF'\n# The file")
    kernel = "kernel=install.amd/vmlinuz,initrd=install.amd/initrd.gz"
    assert f"--location /var/lib/libvirt/images/{debian.volume_name},{kernel}" in lines[2]
    assert "--initrd-inject preseed.cfg" in lines[2]
    assert "--extra-args 'auto=true priority=critical'" in lines[2]
    assert "--cdrom" not in lines[2]


def test_kickstart_goes_its_own_way() -> None:
    answers.check("kickstart", KICKSTART)
