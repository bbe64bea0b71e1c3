"""The guests that the lab boots: what a person expects of a cloud image's first boot."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.lab import guest_agent
from tests.lab.conftest import RunningLab
from tests.lab.machines import Machine, wait_for

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1500)]

PASSWORD = "correct horse"
# Generous: these run beside other tests on two cores, under emulation. Alone a tiny guest takes
# 8 s to its login prompt, Debian a minute to the end of cloud-init.
TINY_BOOT_S = 90
DEBIAN_BOOT_S = 600
SHUTDOWN_S = 60

MakeMachine = Callable[..., Machine]


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


@pytest.fixture
def machine(lab: RunningLab, tmp_path: Path) -> Iterator[MakeMachine]:
    made: list[Machine] = []

    def make(image: Path, user_data: str, **options: object) -> Machine:
        new = Machine(lab=lab, host="a", image=image, work=tmp_path, user_data=user_data, **options)  # type: ignore[arg-type]
        made.append(new)
        new.boot()
        return new

    yield make
    for each in made:
        print(f"--- serial line of {each.name}\n{each.serial()[-4000:]}")  # noqa: T201
        each.remove()


def user_data(key: Path, *, more: str = "") -> str:
    hashed = subprocess.run(
        ["openssl", "passwd", "-6", PASSWORD], capture_output=True, text=True, check=True
    ).stdout.strip()
    return f"""#cloud-config
hostname: web1
users:
- name: anna
  lock_passwd: false
  passwd: {hashed}
  ssh_authorized_keys:
  - {key.with_suffix(".pub").read_text().strip()}
  sudo: ALL=(ALL) NOPASSWD:ALL
  shell: /bin/sh
ssh_pwauth: true
{more}"""


def wait_for_ssh(machine: Machine, key: Path, *, timeout_s: float) -> None:
    wait_for(lambda: machine.address() is not None, what="an address by DHCP", timeout_s=timeout_s)
    wait_for(
        lambda: machine.ssh("anna", key, "true").returncode == 0,
        what="ssh with the key from the seed",
        timeout_s=timeout_s,
    )


def shut_down(machine: Machine) -> None:
    machine.lab.virsh(machine.host, "shutdown", machine.name, "--mode", "acpi")
    wait_for(lambda: machine.state() == "shut off", what="the power button", timeout_s=SHUTDOWN_S)


@pytest.mark.parametrize("seed", ["cdrom", "disk"])
def test_tiny_takes_its_identity_from_the_seed(
    machine: MakeMachine, tiny_image: Path, key: Path, seed: str
) -> None:
    guest = machine(tiny_image, user_data(key), seed=seed)
    wait_for(lambda: "web1 login:" in guest.serial(), what="a login", timeout_s=TINY_BOOT_S)
    assert json.loads(guest.report(timeout_s=TINY_BOOT_S)) == {
        "kvmweb": 1,
        "status": "done",
        "detail": "",
    }
    wait_for_ssh(guest, key, timeout_s=TINY_BOOT_S)
    assert guest.ssh("anna", key, "hostname").stdout.strip() == "web1"
    leases = guest.lab.virsh("a", "net-dhcp-leases", "default")
    assert any(guest.mac in line and "web1" in line for line in leases.splitlines())
    shut_down(guest)


def test_tiny_stays_who_it_is_when_the_seed_is_gone(
    machine: MakeMachine, tiny_image: Path, key: Path
) -> None:
    guest = machine(tiny_image, user_data(key))
    wait_for_ssh(guest, key, timeout_s=TINY_BOOT_S)
    before = guest.ssh("anna", key, "cat /proc/sys/kernel/random/boot_id; echo kept >file").stdout
    guest.lab.virsh("a", "change-media", guest.name, "sda", "--eject")
    shut_down(guest)
    guest.lab.virsh("a", "start", guest.name)
    wait_for(lambda: "web1 login:" in guest.serial(), what="a login", timeout_s=TINY_BOOT_S)
    wait_for_ssh(guest, key, timeout_s=TINY_BOOT_S)
    again = guest.ssh("anna", key, "cat /proc/sys/kernel/random/boot_id file").stdout
    assert again.split()[0] != before.split()[0]
    assert again.split()[1] == "kept"


def test_tiny_lets_in_on_the_serial_line_with_the_password_only(
    machine: MakeMachine, tiny_image: Path, key: Path
) -> None:
    guest = machine(tiny_image, user_data(key))
    wait_for(lambda: "web1 login:" in guest.serial(), what="a login", timeout_s=TINY_BOOT_S)
    with guest.keyboard() as type_in:
        for password, answer in (("wrong", "incorrect"), (PASSWORD, "anna@web1:~$")):
            seen = len(guest.serial())
            type_in("anna\n")
            _wait_for_text(guest, "Password:", after=seen)
            type_in(f"{password}\n")
            _wait_for_text(guest, answer, after=seen)
            if password == "wrong":
                _wait_for_text(guest, "login:", after=guest.serial().rindex("incorrect"))


def test_tiny_says_when_its_first_boot_fails(
    machine: MakeMachine, tiny_image: Path, key: Path
) -> None:
    guest = machine(tiny_image, user_data(key, more='runcmd:\n- "tiny: fail"\n'))
    report = json.loads(guest.report(timeout_s=TINY_BOOT_S))
    assert report["status"] == "error"
    assert "told to fail" in report["detail"]


def test_two_tiny_machines_of_one_image_have_keys_of_their_own(
    machine: MakeMachine, tiny_image: Path, key: Path
) -> None:
    guests = [machine(tiny_image, user_data(key)) for _ in range(2)]
    prints = set()
    for guest in guests:
        wait_for_ssh(guest, key, timeout_s=TINY_BOOT_S)
        scan = guest.lab.exec("a", "ssh-keyscan", "-t", "ed25519", str(guest.address()))
        prints.add(scan.stdout.split()[-1])
    assert len(prints) == 2
    assert guests[0].address() != guests[1].address()


def test_tiny_shows_its_login_on_the_screen(
    machine: MakeMachine, tiny_image: Path, tmp_path: Path
) -> None:
    guest = machine(tiny_image, "#cloud-config\n", seed="none")
    wait_for(lambda: "tiny login:" in guest.serial(), what="a login", timeout_s=TINY_BOOT_S)
    shot = tmp_path / "screen"

    def has_text() -> bool:
        guest.lab.virsh("a", "screenshot", guest.name, str(shot))
        # Grey letters on black: neither an empty screen nor the firmware's logo.
        colors = Image.open(shot).convert("RGB").getcolors() or []
        return len(colors) == 2 and min(count for count, _ in colors) > 200

    wait_for(has_text, what="text on the screen", timeout_s=TINY_BOOT_S)


@pytest.mark.debian
def test_debian_boots_as_a_cloud_image_does(
    machine: MakeMachine, debian_image: Path, key: Path
) -> None:
    guest = machine(debian_image, user_data(key), memory_mib=768)
    assert json.loads(guest.report(timeout_s=DEBIAN_BOOT_S)) == {
        "kvmweb": 1,
        "status": "done",
        "detail": "",
    }
    wait_for_ssh(guest, key, timeout_s=DEBIAN_BOOT_S)
    seen = guest.ssh(
        "anna", key, "hostname; sudo -n id -u; df --output=size -m / | tail -1; cat /etc/machine-id"
    ).stdout.split()
    assert seen[:2] == ["web1", "0"]
    assert int(seen[2]) > 3000, "the file system did not grow to the disk's 4 GiB"
    assert len(seen[3]) == 32
    ping = guest.lab.virsh("a", "qemu-agent-command", guest.name, '{"execute": "guest-ping"}')
    assert json.loads(ping) == {"return": {}}
    addresses = guest.lab.virsh("a", "domifaddr", guest.name, "--source", "agent")
    assert str(guest.address()) in addresses
    guest_agent.it_tells_and_does(guest, key)
    shut_down(guest)


def test_a_build_says_what_is_wrong(tmp_path: Path) -> None:
    build = Path(__file__).resolve().parents[2] / "guests" / "build"
    empty = tmp_path / "bin"
    empty.mkdir()
    done = subprocess.run(
        ["/usr/bin/python3", str(build), "tiny"],
        env={"PATH": str(empty), "HOME": str(tmp_path), "KVMWEB_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Debian or Ubuntu" in done.stderr
    assert "Traceback" not in done.stderr


def _wait_for_text(guest: Machine, text: str, *, after: int) -> None:
    wait_for(
        lambda: text in guest.serial()[after:], what=f"{text!r} on the serial line", timeout_s=30
    )
