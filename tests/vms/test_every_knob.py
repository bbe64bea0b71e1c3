"""Every knob of virt-install at create: settled by the system's needs, refused with every reason,
counted whole, and taken away whole."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from django.utils import timezone

from accounts import quotas
from accounts.errors import Invalid
from accounts.models import Resource, Team, User
from hosts.models import Host, Network, Untracked
from hosts.virt.errors import NoSpace
from hosts.virt.fake import FakeHypervisor
from hosts.virt.spec import VolumeSpec
from jobs.models import Job
from tests.vms.conftest import KEY, run_to_end, volumes
from vms import advice, knobs, lifecycle, nvram, osinfo
from vms.cloning.requests import request_clone
from vms.knobs import CardWish, DiskWish, Wish
from vms.models import VM, Image
from vms.provisioning import outcome, request_batch
from vms.provisioning.domain import domain_spec

FACTS = {
    "firmwares": ["bios", "efi", "secure"],
    "machines": ["q35", "pc"],
    "tpm": True,
    "videos": ["virtio", "vga", "bochs"],
    "cpu_models": ["EPYC", "qemu64"],
}


@pytest.fixture(autouse=True)
def able(host: Host, network: Network) -> Host:
    host.facts = FACTS
    host.save()
    network.pxe = True
    network.save()
    return host


def disc(name: str, os_id: str) -> Image:
    return Image.objects.create(
        name=name,
        kind=Image.Kind.ISO,
        os_id=os_id,
        source=Image.Source.UPLOAD,
        state=Image.State.READY,
        published=True,
        format="raw",
        has_cloud_init=False,
    )


def wrong(make: Callable[[], object]) -> dict[str, str]:
    with pytest.raises(Invalid) as caught:
        make()
    return caught.value.fields


class TestSettled:
    def test_all_of_it_reaches_the_domain(
        self, fake: FakeHypervisor, made: Any, owner: User, team: Team, network: Network
    ) -> None:
        vm = made(
            copy="full",
            disk_gib=10,
            start=False,
            vcpus=4,
            memory_mib=1024,
            flavor=None,
            wish=Wish(
                machine="pc",
                firmware="uefi",
                cpu_mode="custom",
                cpu_model="EPYC",
                sockets=2,
                cores=2,
                tpm=True,
                video="vga",
                rng=False,
                balloon=False,
                agent=False,
                watchdog="reset",
                clock="localtime",
                disc_bus="sata",
                disk=DiskWish(bus="scsi", cache="none", io="native", format="raw"),
                disks=(
                    DiskWish(size_gib=3, bus="ide", discard="ignore"),
                    DiskWish(size_gib=4, cache="writeback"),
                ),
                card=CardWish(model="e1000", mac="52:54:00:00:00:01"),
                cards=(CardWish(network="default", model="rtl8139"),),
                boot=("network", "disk"),
                autostart=True,
            ),
        )
        spec = domain_spec(vm)
        assert (spec.machine, spec.firmware, spec.tpm) == ("pc", "uefi", True)
        assert (spec.cpu_mode, spec.cpu_model, spec.topology) == ("custom", "EPYC", (2, 2, 1))
        assert spec.vcpus_max is None
        assert (spec.video, spec.watchdog, spec.clock) == ("vga", "reset", "localtime")
        assert not spec.rng
        assert not spec.balloon
        assert not spec.agent_channel
        assert spec.autostart
        assert fake.domain(vm.uuid).autostart
        disks = [(d.target, d.bus, d.format, d.cache, d.io, d.boot_order) for d in spec.disks]
        assert disks == [
            ("sdg", "scsi", "raw", "none", "native", 2),
            ("hda", "ide", "qcow2", None, None, None),
            ("vda", "virtio", "qcow2", "writeback", None, None),
        ]
        assert spec.disks[1].discard == "ignore"
        cards = [(n.model, n.boot_order) for n in spec.nics]
        assert cards == [("e1000", 1), ("rtl8139", None)]
        assert spec.nics[0].mac == "52:54:00:00:00:01"
        assert quotas.usage(team)[Resource.DISK_GIB] == 10 + 3 + 4
        held = {facts.name: facts for facts in fake.list_volumes("default")}
        assert held[vm.disks.all()[2].volume].capacity_bytes == 4 * 1024**3
        assert held[vm.disks.all()[0].volume].format == "raw"

    def test_nothing_said_is_as_before(self, made: Any, fake: FakeHypervisor) -> None:
        spec = domain_spec(made(start=False))
        assert (spec.machine, spec.firmware, spec.tpm, spec.video) == (
            "q35",
            "bios",
            False,
            "virtio",
        )
        assert spec.rng
        assert spec.balloon
        assert spec.agent_channel
        assert spec.disks[0].bus == "virtio"
        assert VM.objects.get().hardware == {}

    def test_a_failure_leaves_nothing(
        self, ask: Any, owner: User, team: Team, fake: FakeHypervisor
    ) -> None:
        _vm, job = ask(owner, wish=Wish(disks=(DiskWish(size_gib=5), DiskWish(size_gib=6))))
        fake.fail_next("define", NoSpace("full"))
        assert run_to_end(job).state == Job.State.FAILED
        assert volumes(fake) == set()
        assert quotas.usage(team)[Resource.DISK_GIB] == 0

    def test_once_more_is_the_same_machine(
        self, ask: Any, owner: User, fake: FakeHypervisor
    ) -> None:
        wish = Wish(
            firmware="uefi",
            disks=(DiskWish(size_gib=5, bus="scsi"),),
            card=CardWish(mac="52:54:00:00:00:02"),
            boot=("network", "disk"),
        )
        _first, job = ask(owner, wish=wish)
        fake.fail_next("define", NoSpace("full"))
        run_to_end(job)
        again = outcome.again(job).vm
        assert again is not None
        assert (again.firmware, again.nics.get().mac) == ("uefi", "52:54:00:00:00:02")
        assert [d.target for d in again.disks.all()] == ["vda", "sdg"]
        assert again.boot_order == ["52:54:00:00:00:02", "vda"]

    def test_placed_where_it_can_be(
        self, ask: Any, owner: User, fake: FakeHypervisor, host: Host
    ) -> None:
        _vm, job = ask(owner, wish=Wish(tpm=True))
        host.facts = FACTS | {"tpm": False}
        host.save()
        run_to_end(job)
        assert (job.state, job.error_code) == (Job.State.FAILED, "placement.lacks")


class TestNvram:
    """Half a MiB beside the disks, which libvirt makes at the first start."""

    @staticmethod
    def remember(fake: FakeHypervisor, vm: VM, content: bytes) -> None:
        name = nvram.name_of(vm)
        spec = VolumeSpec(pool="default", name=name, capacity_bytes=len(content), format="raw")
        fake.create_volume(spec)
        fake.upload_volume("default", name, io.BytesIO(content), len(content), lambda *_: None)

    @staticmethod
    def clone(vm: VM, owner: User) -> VM:
        copy, job = request_clone(vm, actor=owner, name="copy", start=False)
        run_to_end(job)
        assert job.state == Job.State.SUCCEEDED, job.error_code
        for lending in Job.objects.filter(kind="vm.lend"):
            run_to_end(lending)
        return copy

    def test_goes_with_a_clone_and_with_the_machine(
        self, made: Any, fake: FakeHypervisor, owner: User
    ) -> None:
        vm = made(start=False, wish=Wish(firmware="uefi", tpm=True))
        VM.objects.filter(pk=vm.pk).update(seed_volume="")
        self.remember(fake, vm, b"boots debian")
        spec = domain_spec(vm).nvram
        assert (spec and spec.pool, spec and spec.name) == ("default", nvram.name_of(vm))
        copy = self.clone(vm, owner)
        found = fake.read_volume_end("default", nvram.name_of(copy), 100)
        assert found == b"boots debian"
        assert domain_spec(copy).tpm
        for one in (vm, copy):
            run_to_end(lifecycle.request(one, "delete", actor=owner, purge=True))
            assert nvram.name_of(one) not in {v.name for v in fake.list_volumes("default")}

    def test_of_one_that_never_ran(self, made: Any, fake: FakeHypervisor, owner: User) -> None:
        vm = made(start=False, wish=Wish(firmware="uefi"))
        VM.objects.filter(pk=vm.pk).update(seed_volume="")
        copy = self.clone(vm, owner)
        assert nvram.name_of(copy) not in {v.name for v in fake.list_volumes("default")}

    def test_a_bios_has_none(self, made: Any) -> None:
        assert domain_spec(made(start=False)).nvram is None


class TestShown:
    def test_by_the_page_and_the_api(
        self,
        made: Any,
        owner: User,
        browser: Callable[[User], Client],
        api: Callable[..., Any],
    ) -> None:
        vm = made(
            start=False,
            vcpus=2,
            memory_mib=512,
            flavor=None,
            wish=Wish(
                firmware="secureboot",
                tpm=True,
                cores=2,
                watchdog="reset",
                disks=(DiskWish(size_gib=2, bus="scsi", cache="none"),),
            ),
        )
        page = browser(owner).get(f"/machines/{vm.uuid}/?tab=hardware").content.decode()
        for words in ("UEFI with Secure Boot", "1 × 2 × 1 (sockets × cores × threads)", "i6300esb"):
            assert words in page
        assert "scsi, qcow2, cache=none" in page
        found = api(owner).get(f"/vms/{vm.uuid}/hardware").json()
        assert (found["built"]["firmware"], found["built"]["tpm"]) == ("secureboot", True)
        assert [disk["bus"] for disk in found["disks"]] == ["virtio", "scsi"]
        vm.events.create(kind="adopted")
        page = browser(owner).get(f"/machines/{vm.uuid}/?tab=hardware").content.decode()
        assert "its XML says how it is built" in page
        assert api(owner).get(f"/vms/{vm.uuid}/hardware").json()["built"] is None

    def test_rows_to_add_are_closed_until_they_are_used(
        self,
        owner: User,
        image: Image,
        small: Any,
        network: Network,
        browser: Callable[[User], Client],
    ) -> None:
        text = browser(owner).get("/machines/new/").content.decode()
        spare = re.findall(r'<details class="more spare" (open)?', text)
        assert spare == [""] * 7  # four disks, three cards: the page shows the first of each
        wrong = {"disk3_gib": "5", "disk3_bus": "ide", "name": ""}
        text = browser(owner).post("/machines/new/", wrong).content.decode()
        spare = re.findall(r'<details class="more spare" (open)?', text)
        assert spare == ["", "open", "", "", "", "", ""]


class TestRefused:
    @pytest.mark.parametrize(
        ("wish", "field"),
        [
            (Wish(machine="virt"), "machine"),
            (Wish(firmware="secureboot", machine="pc"), "firmware"),
            (Wish(cpu_mode="custom", cpu_model="Pentium; rm"), "cpu_model"),
            (Wish(cpu_mode="custom", cpu_model="Skylake"), "cpu_model"),
            (Wish(cpu_mode="host-passthrough"), "cpu_mode"),
            (Wish(cpu_model="EPYC"), "cpu_model"),
            (Wish(cores=3), "sockets"),
            (Wish(disk=DiskWish(bus="ide")), "disk_bus"),
            (Wish(disk=DiskWish(format="raw")), "disk_format"),
            (Wish(disk=DiskWish(io="native")), "disk_io"),
            (Wish(disks=(DiskWish(size_gib=0),)), "disk2_gib"),
            (Wish(disks=(DiskWish(size_gib=2, cache="x"),)), "disk2_cache"),
            (Wish(disks=(DiskWish(size_gib=1),) * 16), "disks"),
            (Wish(cards=(CardWish(network="nowhere"),)), "nic2_network"),
            (Wish(card=CardWish(mac="53:54:00:00:00:01")), "nic_mac"),
            (Wish(card=CardWish(mac="fe:54:00:00:00:01")), "nic_mac"),
            (Wish(card=CardWish(mac="00:16:3e:00:00:01")), "nic_mac"),
            (Wish(card=CardWish(mac="x" * 40)), "nic_mac"),
            (Wish(boot=("disc", "disk")), "boot"),
            (Wish(boot=("disk", "disk")), "boot"),
            (Wish(video="cirrus"), "video"),
            (Wish(watchdog="inject-nmi"), "watchdog"),
            (Wish(os_id="no-such-system"), "os_id"),
        ],
    )
    def test_one_by_one(self, ask: Any, owner: User, wish: Wish, field: str) -> None:
        assert list(wrong(lambda: ask(owner, wish=wish))) == [field]
        assert not VM.objects.exists()

    def test_a_network_on_which_nothing_answers(
        self, ask: Any, owner: User, network: Network, browser: Callable[[User], Client]
    ) -> None:
        page = browser(owner).get("/machines/new/").content.decode()
        assert "Network (PXE) only" in page
        Network.objects.update(pxe=False)
        wish = Wish(boot=("network", "disk"))
        assert wrong(lambda: ask(owner, wish=wish)) == {"boot": "vm.boot_no_pxe"}
        page = browser(owner).get("/machines/new/").content.decode()
        assert "Network (PXE) only" not in page
        Network.objects.update(pxe_by_admin=True)  # of a bridge only people know
        ask(owner, wish=wish)

    def test_models_of_emulation_where_kvm_only_seems_to_be_there(
        self, ask: Any, owner: User, host: Host
    ) -> None:
        host.facts = FACTS | {"cpu_models_emulated": ["Nehalem"]}
        host.acceleration = "tcg"
        host.save()
        assert knobs.offered().cpu_models == ("Nehalem",)
        host.acceleration = "kvm"
        host.save()
        assert knobs.offered().cpu_models == ("EPYC", "qemu64")

    def test_what_no_host_has(self, ask: Any, owner: User, host: Host) -> None:
        host.facts = {}
        host.save()
        wish = Wish(firmware="uefi", tpm=True, machine="pc")
        assert set(wrong(lambda: ask(owner, wish=wish))) == {"firmware", "tpm", "machine"}

    def test_an_address_in_use(self, ask: Any, owner: User, vm: VM) -> None:
        mac = vm.nics.create(mac="52:54:00:00:00:09", network="default").mac
        both = Wish(
            card=CardWish(mac="52:54:00:00:00:0a"),
            cards=(CardWish(network="default", mac="52:54:00:00:00:0a"),),
        )
        assert wrong(lambda: ask(owner, wish=Wish(card=CardWish(mac=mac.upper())))) == {
            "nic_mac": "vm.mac_taken"
        }
        assert wrong(lambda: ask(owner, wish=both)) == {"nic2_mac": "vm.mac_taken"}

    def test_an_address_of_a_domain_that_is_no_machine(
        self, ask: Any, owner: User, host: Host
    ) -> None:
        mac = "52:54:00:00:00:0b"
        facts = {"nics": [{"mac": mac, "network": "default", "model": "virtio"}]}
        Untracked.objects.create(
            host=host,
            kind=Untracked.Kind.DOMAIN,
            name="theirs",
            uuid=uuid4(),
            facts=facts,
            seen_at=timezone.now(),
        )
        assert wrong(lambda: ask(owner, wish=Wish(card=CardWish(mac=mac)))) == {
            "nic_mac": "vm.mac_taken"
        }

    def test_an_address_is_free_when_its_machine_is_gone(
        self, made: Any, fake: FakeHypervisor, owner: User
    ) -> None:
        wish = Wish(card=CardWish(mac="52:54:00:00:00:0c"))
        first = made(start=False, wish=wish)
        run_to_end(lifecycle.request(first, "delete", actor=owner, purge=True))
        assert made(start=False, wish=wish).nics.get().mac == "52:54:00:00:00:0c"

    def test_numbers_of_any_length(
        self, api: Any, owner: User, image: Image, small: Any, network: Network
    ) -> None:
        wanted = {"name": "web-1", "image": image.pk, "flavor": small.pk}
        huge = {"sockets": 10**4000, "cores": 10**4000}
        answer = api(owner).post("/vms", wanted | {"hardware": huge})
        assert answer.status_code == 422
        assert [one["field"] for one in answer.json()["errors"]] == ["sockets"]

    def test_a_batch_shares_no_address(
        self, owner: User, image: Image, small: Any, network: Network
    ) -> None:
        def make() -> object:
            return request_batch(
                actor=owner,
                team=None,
                name="web",
                count=2,
                image=image,
                flavor=small,
                wish=Wish(card=CardWish(mac="52:54:00:00:00:0b")),
            )

        assert wrong(make) == {"nic_mac": "vm.mac_of_many"}

    def test_discs_that_are_none_or_not_theirs(self, ask: Any, owner: User, image: Image) -> None:
        assert wrong(lambda: ask(owner, wish=Wish(discs=(image,)))) == {"discs": "vm.disc_not_iso"}
        hidden = disc("hidden", "linux")
        hidden.published = False
        hidden.save()
        fields = wrong(lambda: ask(owner, wish=Wish(discs=(hidden,))))
        assert fields == {"discs": "vm.image_unknown"}


class TestEmptyDisk:
    def test_made_without_an_image(self, made: Any, fake: FakeHypervisor) -> None:
        vm = made(image=None, password="", ssh_keys=[], start=False, wish=Wish(os_id="debian11"))
        spec = domain_spec(vm)
        assert [(c.target, c.volume) for c in spec.cdroms] == [("sdb", None)]
        assert [d.boot_order for d in spec.disks] == [1]
        assert spec.os_id == "http://debian.org/debian/11"
        assert vm.first_boot == VM.FirstBoot.NONE

    def test_a_password_has_no_reader(self, ask: Any, owner: User) -> None:
        fields = wrong(lambda: ask(owner, image=None))
        assert fields == {"password": "vm.empty_no_cloud_init"}

    def test_size_by_the_system(self, ask: Any, owner: User) -> None:
        vm, _job = ask(
            owner,
            image=None,
            password="",
            ssh_keys=[],
            flavor=None,
            vcpus=1,
            memory_mib=512,
            wish=Wish(os_id="win11"),
        )
        assert vm.disks.get().size_gib == 64


class TestWindows:
    def test_eleven(self, ask: Any, owner: User) -> None:
        installer, drivers = disc("Windows 11", "win11"), disc("virtio-win", "virtio-win")
        vm, _job = ask(
            owner, image=installer, password="", ssh_keys=[], wish=Wish(discs=(drivers,))
        )
        spec = domain_spec(vm)
        assert (spec.firmware, spec.tpm, spec.hyperv) == ("secureboot", True, True)
        assert spec.clock == "localtime"
        assert [(c.target, c.bus, c.volume) for c in spec.cdroms] == [
            ("sdb", "sata", installer.volume_name),
            ("sdc", "sata", drivers.volume_name),
        ]
        assert (spec.disks[0].bus, spec.nics[0].model) == ("virtio", "virtio")

    def test_without_the_drivers(self, ask: Any, owner: User) -> None:
        vm, _job = ask(owner, image=disc("Windows 10", "win10"), password="", ssh_keys=[])
        spec = domain_spec(vm)
        assert (spec.firmware, spec.tpm) == ("bios", False)
        assert (spec.disks[0].bus, spec.nics[0].model) == ("sata", "e1000e")

    def test_a_drivers_disc_in_a_drive_is_not_deleted(
        self, ask: Any, owner: User, admin: User
    ) -> None:
        from accounts.errors import Conflict
        from vms.images import services as image_services

        drivers = disc("virtio-win", "virtio-win")
        ask(owner, wish=Wish(discs=(drivers,)))
        with pytest.raises(Conflict, match=r"image\.in_use"):
            image_services.delete(drivers, actor=admin)


class TestDatabase:
    def test_the_version_before(self) -> None:
        known = osinfo.find("debian99")
        assert known is not None
        assert not known.exact
        assert known.os.short_id.startswith("debian")
        assert osinfo.find("nothing-like-it") is None

    def test_windows(self) -> None:
        known = osinfo.find("win11")
        assert known is not None
        assert known.os.is_windows
        assert known.os.wants_tpm
        assert not known.os.bios
        assert (known.os.min_memory_mib, known.os.min_disk_gib) == (4096, 64)

    def test_absent(self, settings: Any, tmp_path: Path, ask: Any, owner: User) -> None:
        settings.OSINFO_DIR = tmp_path
        assert osinfo.find("debian12") is None
        assert osinfo.choices() == []
        vm, _job = ask(owner, image=None, password="", ssh_keys=[], wish=Wish(os_id="win11"))
        assert domain_spec(vm).disks[0].bus == "virtio"

    def test_a_broken_file_takes_nothing_away(self, settings: Any, tmp_path: Path) -> None:
        folder = tmp_path / "os" / "x.org"
        folder.mkdir(parents=True)
        (folder / "a.xml").write_text("<libosinfo><os id='u:a'><short-id>a1</short-id>")
        (folder / "b.xml").write_text(
            "<!DOCTYPE l [<!ENTITY e SYSTEM 'file:///etc/passwd'>]>"
            "<l><os id='u:b'><short-id>b1</short-id><name>&e;</name>"
            "<derives-from id='u:b'/></os></l>"
        )
        settings.OSINFO_DIR = tmp_path
        found = osinfo.find("b1")
        assert found is not None
        assert "root" not in found.os.name
        assert osinfo.find("a1") is None

    @pytest.mark.parametrize(
        ("os_id", "wish", "code"),
        [
            ("win11", Wish(tpm=False), "advice.tpm"),
            ("win11", Wish(firmware="bios"), "advice.bios"),
            ("win11", Wish(disk=DiskWish(bus="virtio")), "advice.windows_disk"),
            ("win11", Wish(clock="utc"), "advice.clock"),
            ("win11", Wish(), "advice.memory_below"),
            ("win11", Wish(), "advice.disk_below"),
            ("debian11", Wish(disk=DiskWish(cache="unsafe")), "advice.cache_unsafe"),
        ],
    )
    def test_what_is_unwise(self, os_id: str, wish: Wish, code: str, network: Network) -> None:
        assert code in self._said(os_id, wish, None)

    def test_a_cloud_kernel_and_an_old_bus(self, image: Image, network: Network) -> None:
        wish = Wish(machine="pc", disk=DiskWish(bus="ide"))
        assert "advice.cloud_kernel" in self._said("", wish, image)
        assert self._said("", Wish(), image) == []

    @staticmethod
    def _said(os_id: str, wish: Wish, image: Image | None) -> list[str]:
        from dataclasses import replace

        from vms.provisioning.validation import Problems

        hardware = knobs.settle(
            Problems(),
            replace(wish, os_id=os_id),
            image=image,
            vcpus=1,
            disk_gib=10,
            network="default",
            networks={"default"},
            linked=False,
        )
        said = advice.of(hardware, image=image, vcpus=1, memory_mib=1024)
        return [code for code, _params in said]


class TestPage:
    def test_the_form_makes_it(
        self, owner: User, browser: Callable[[User], Client], image: Image, small: Any, pool: Any
    ) -> None:
        client = browser(owner)
        typed = {
            "name": "web-7",
            "image": str(image.pk),
            "flavor": str(small.pk),
            "network": "default",
            "copy": "linked",
            "password_mode": "none",
            "firmware": "uefi",
            "tpm": "yes",
            "disk2_gib": "7",
            "disk2_bus": "scsi",
            "nic2_network": "default",
            "nic2_model": "e1000e",
            "leave_out": ["balloon"],
            "boot": "network disk",
            "autostart": "on",
        }
        Network.objects.get_or_create(
            host=Host.objects.get(), name="default", defaults={"uuid": pool.uuid, "active": True}
        )
        shown = client.post("/machines/new/preview/", typed).content.decode()
        assert "17 GiB" in shown
        assert "firmware=efi" in shown
        answer = client.post("/machines/new/", typed)
        assert answer.status_code == 302, answer.content.decode()[:2000]
        vm = VM.objects.get()
        spec = domain_spec(vm)
        assert (spec.firmware, spec.tpm, spec.balloon) == ("uefi", True, False)
        assert [d.target for d in spec.disks] == ["vda", "sdg"]
        assert [n.model for n in spec.nics] == ["virtio", "e1000e"]
        assert vm.autostart

    def test_each_input_is_there_once(
        self, owner: User, browser: Callable[[User], Client], image: Image, small: Any, network: Any
    ) -> None:
        page = browser(owner).get("/machines/new/").content.decode()
        ids = re.findall(r'<(?:input|select|textarea)[^>]* id="([^"]+)"', page)
        assert sorted(ids) == sorted(set(ids))
        assert page.count('name="disk_gib"') == 1

    def test_what_is_wrong_stands_beside_its_field(
        self, owner: User, browser: Callable[[User], Client], image: Image, small: Any, network: Any
    ) -> None:
        answer = browser(owner).post(
            "/machines/new/",
            {
                "name": "web-8",
                "image": "empty",
                "flavor": str(small.pk),
                "network": "default",
                "copy": "linked",
                "password_mode": "none",
                "disk_bus": "ide",
                "nic_mac": "nonsense",
            },
        )
        assert answer.status_code == 422
        page = answer.content.decode()
        assert "The bus IDE needs the machine type pc." in page
        assert 'id="id_nic_mac_error"' in page
        assert not VM.objects.exists()

    def test_the_api(
        self, owner: User, api: Any, image: Image, small: Any, network: Network
    ) -> None:
        body = {
            "name": "web-9",
            "image": image.name,
            "flavor": small.name,
            "ssh_keys": [KEY],
            "hardware": {"firmware": "uefi", "tpm": True, "watchdog": "pause"},
            "disks": [{"size_gib": 2, "bus": "scsi"}],
            "nics": [{"network": "default", "mac": "52:54:00:00:00:0c"}],
            "boot": ["disk", "network"],
            "autostart": True,
        }
        answer = api(owner).post("/vms", body)
        assert answer.status_code == 202, answer.content
        spec = domain_spec(VM.objects.get())
        assert (spec.firmware, spec.tpm, spec.watchdog) == ("uefi", True, "pause")
        assert [d.target for d in spec.disks] == ["vda", "sdg"]
        assert spec.nics[1].mac == "52:54:00:00:00:0c"
        for wrong in ({"hardware": {"cpu": "x"}}, {"hardware": {"tpm": "maybe"}}, {"boot": ["cd"]}):
            assert api(owner).post("/vms", body | {"name": "web-10"} | wrong).status_code == 422
