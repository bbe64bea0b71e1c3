"""The seed's ISO image and the guest's half of the first-boot report."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from vms import cloudconfig, passwords, seeds

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIk4wYv8eYHHfHvL8k5c1q8kJ0q5k9Jm3lq0y1pJtQ2D me@desk"


@pytest.fixture
def seed() -> seeds.Seed:
    return seeds.Seed(
        instance_id="0b8f9b7e-6d2b-4ac4-9c46-3f1f0a3b7c11",
        hostname="web-1",
        user="debian",
        ssh_keys=(KEY,),
        password_hash=passwords.hash("correct horse"),
        macs=("52:54:00:AB:CD:EF", "52:54:00:12:34:56"),
        user_data="#cloud-config\npackages: [vim]\nusers:\n- default\nruncmd:\n- 'echo: hi'\n",
    )


def read(iso: Path, *args: str) -> str:
    command = ["isoinfo", "-i", str(iso), *args]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.skipif(not shutil.which("isoinfo"), reason="isoinfo reads the image back")
def test_another_tool_finds_label_and_files(seed: seeds.Seed, tmp_path: Path) -> None:
    iso = tmp_path / "seed.iso"
    iso.write_bytes(seeds.build(seed))
    assert "Volume id: cidata" in read(iso, "-d")
    names = {"/meta-data", "/user-data", "/network-config", "/vendor-data"}
    assert set(read(iso, "-f", "-R").split()) == names
    assert set(read(iso, "-f", "-J").split()) == names
    assert read(iso, "-R", "-x", "/user-data") == seeds.user_data(seed)


def test_user_data_is_valid_and_holds_no_password(seed: seeds.Seed) -> None:
    text = seeds.user_data(seed)
    assert text.startswith("#cloud-config\n")
    data = yaml.safe_load(text)
    assert cloudconfig.problems(data) == []
    assert data["hostname"] == "web-1"
    first, other = data["users"]
    assert first["name"] == "debian"
    assert first["ssh_authorized_keys"] == [KEY]
    assert first["passwd"].startswith("$6$")
    assert first["lock_passwd"] is False
    assert other == "default"
    assert data["runcmd"] == ["echo: hi"]
    assert b"correct horse" not in seeds.build(seed)


def test_without_a_password_it_is_locked() -> None:
    plain = seeds.Seed(instance_id="i", hostname="a.example.org", user="u", ssh_keys=(KEY,))
    data = yaml.safe_load(seeds.user_data(plain))
    assert data["users"][0]["lock_passwd"] is True
    assert "passwd" not in data["users"][0]
    assert data["ssh_pwauth"] is False
    assert (data["hostname"], data["fqdn"]) == ("a", "a.example.org")


def test_meta_data_and_network_config(seed: seeds.Seed) -> None:
    assert yaml.safe_load(seeds.meta_data(seed)) == {
        "instance-id": seed.instance_id,
        "local-hostname": "web-1",
    }
    network = yaml.safe_load(seeds.network_config(seed))
    assert network["version"] == 2
    nics = list(network["ethernets"].values())
    assert [n["match"]["macaddress"] for n in nics] == ["52:54:00:ab:cd:ef", "52:54:00:12:34:56"]
    assert all(n["dhcp4"] is True and n["dhcp-identifier"] == "mac" for n in nics)


def test_the_same_input_gives_the_same_bytes(seed: seeds.Seed) -> None:
    assert seeds.build(seed) == seeds.build(seed)


def guest_script(tmp_path: Path, port: Path, disc: Path) -> Path:
    """The script with the guest's devices in a folder, and without its pauses."""
    text = seeds.vendor_data()
    assert seeds.REPORT_PORT in text
    labels = tmp_path / "by-label"
    labels.mkdir()
    (labels / "cidata").symlink_to(disc)
    text = text.replace("/dev/virtio-ports/$port_name", str(port))
    text = text.replace("/dev/disk/by-label", str(labels)).replace("sleep 10", "sleep 0")
    text = text.replace("cat > ", "cat >> ").replace("/var/log/", f"{tmp_path}/")
    script = tmp_path / "vendor-data"
    script.write_text(text)
    return script


def run_guest(tmp_path: Path, shell: list[str], *, code: int, status: str) -> list[str]:
    tools = tmp_path / "bin"
    tools.mkdir()
    fake = tools / "cloud-init"
    fake.write_text(f"#!/bin/sh\n[ \"$2\" = --wait ] && exit {code}\nprintf '%s\\n' {status!r}\n")
    fake.chmod(0o755)
    port, disc = tmp_path / "port", tmp_path / "disc"
    port.touch()
    disc.write_bytes(seeds.build(seeds.Seed(instance_id="i", hostname="h")))
    script = guest_script(tmp_path, port, disc)
    script.write_text(script.read_text().replace("report </dev/null >/dev/null 2>&1 &", "report"))
    env = {"PATH": f"{tools}:{os.environ['PATH']}"}
    subprocess.run([*shell, str(script)], check=True, env=env, timeout=60)
    return port.read_text().splitlines()


SHELLS = [
    pytest.param(["dash"], id="dash"),
    pytest.param(["bash", "--posix"], id="bash"),
    pytest.param(["busybox", "sh"], id="busybox"),
]


@pytest.mark.parametrize("shell", SHELLS)
def test_guest_reports_done(shell: list[str], tmp_path: Path) -> None:
    if not shutil.which(shell[0]):
        pytest.skip(f"no {shell[0]} here")
    lines = run_guest(tmp_path, shell, code=0, status="status: done")
    assert len(lines) == 60  # then it gives up by itself
    assert json.loads(lines[0]) == {"kvmweb": 1, "status": "done", "detail": ""}


@pytest.mark.parametrize("shell", SHELLS)
def test_guest_reports_an_error_as_json_whatever_the_text(shell: list[str], tmp_path: Path) -> None:
    if not shutil.which(shell[0]):
        pytest.skip(f"no {shell[0]} here")
    nasty = 'a "quote" \\back\\ %s $(id) `x`'
    log = tmp_path / "cloud-init.log"
    log.write_bytes(
        b"2026 - util.py[DEBUG]: fine\n2026 - util.py[WARNING]: "
        + nasty.encode()
        + b"\x1b[31m\x00\xff\n"
        + b"2026 - x.py[ERROR]: "
        + b"z" * 5000
        + b'"end\n'
    )
    lines = run_guest(tmp_path, shell, code=1, status="status: error")
    report = json.loads(lines[0])
    assert report["status"] == "error"
    assert report["detail"].endswith('z"end')
    assert len(report["detail"]) <= 1500
    assert all(json.loads(line) == report for line in lines)


def test_guest_keeps_every_character_of_a_short_error(tmp_path: Path) -> None:
    nasty = 'a "quote" \\back\\ %s $(id) `x`'
    (tmp_path / "cloud-init.log").write_text(f"2026 - util.py[WARNING]: {nasty}\n")
    lines = run_guest(tmp_path, ["sh"], code=1, status="status: error")
    assert json.loads(lines[0])["detail"] == f"status: error\n2026 - util.py[WARNING]: {nasty}"


def test_guest_stops_when_the_disc_is_gone(tmp_path: Path) -> None:
    port, disc = tmp_path / "port", tmp_path / "disc"
    port.touch()
    disc.touch()  # an empty tray reads nothing
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "cloud-init").write_text("#!/bin/sh\necho status: done\n")
    (tools / "cloud-init").chmod(0o755)
    script = guest_script(tmp_path, port, disc)
    env = {"PATH": f"{tools}:{os.environ['PATH']}"}
    subprocess.run(["sh", str(script)], check=True, env=env, timeout=20)
    assert port.read_text() == ""
