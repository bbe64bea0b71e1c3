""" "Show command": the lines can be pasted, and nothing that a person typed escapes its quotes."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from lxml import etree

from vms import commands
from vms.knobs import CardPlan, DiskPlan, Hardware, Knobs
from vms.models import VM, Image

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIk4wYv8eYHHfHvL8k5c1q8kJ0q5k9Jm3lq0y1pJtQ2D o'brien"


def an_image() -> Image:
    return Image(name="Debian 12", os_id="debian12", format="qcow2", default_user="debian")


def create(**changes: Any) -> list[str]:
    wanted: dict[str, Any] = {
        "name": "web-1",
        "image": an_image(),
        "vcpus": 2,
        "memory_mib": 512,
        "disk_gib": 2,
        "network": "default",
        "ssh_keys": [KEY],
        "has_password": True,
        "user_data": "runcmd:\n- 'EOF'\n",
        "domain_type": "qemu",
    }
    return commands.show_create(**(wanted | changes))


def paste(lines: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run them as bash would, with libvirt's test driver in place of QEMU."""
    script = "\n".join(lines)
    script = script.replace("qemu:///system", "test:///default")
    script = script.replace("--virt-type qemu", "--virt-type test")
    script = script.replace("$(openssl passwd -6)", "$(openssl passwd -6 correct-horse)")
    return subprocess.run(
        ["bash", "-e"],
        input=script,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


TOOLS = ["qemu-img", "cloud-localds", "virt-install", "virsh", "openssl"]


@pytest.mark.skipif(
    not all(shutil.which(tool) for tool in TOOLS), reason="these tools run the lines"
)
@pytest.mark.parametrize(("copy", "start"), [("linked", True), ("full", False)])
def test_the_lines_do_what_they_say(copy: str, start: bool, tmp_path: Path) -> None:
    image = an_image()
    source = tmp_path / image.volume_name
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(source), "1G"], check=True)
    lines = create(image=image, copy=copy, start=start, pool_path=str(tmp_path))
    result = paste(lines, tmp_path)
    assert result.returncode == 0, result.stderr
    disk = subprocess.run(
        ["qemu-img", "info", "-f", "qcow2", str(tmp_path / "web-1.qcow2")],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "2 GiB" in disk
    assert ("backing file" in disk) is (copy == "linked")
    assert (tmp_path / "web-1-seed.iso").stat().st_size > 0
    user_data = yaml.safe_load((tmp_path / "user-data").read_text())
    first = user_data["users"][0]
    assert first["ssh_authorized_keys"] == [KEY]
    assert first["passwd"].startswith("$6$")
    assert user_data["runcmd"] == ["EOF"]
    if not start:
        assert "<name>web-1</name>" in (tmp_path / "web-1.xml").read_text()


@pytest.mark.skipif(shutil.which("virt-install") is None, reason="it reads the line")
def test_virt_install_takes_every_knob(tmp_path: Path) -> None:
    """What it would define has what was asked for, by its own reading of each option."""
    hardware = Hardware(
        os_id="",
        knobs=Knobs(
            machine="q35",
            firmware="secureboot",
            tpm=True,
            sockets=1,
            cores=2,
            threads=1,
            cpu_mode="custom",
            cpu_model="EPYC",
            video="vga",
            rng=False,
            balloon=False,
            agent=False,
            watchdog="poweroff",
            clock="localtime",
            hyperv=True,
        ),
        disks=(
            DiskPlan(target="vda", size_gib=2, cache="none", io="native", format="qcow2"),
            DiskPlan(target="sdg", size_gib=1, bus="sata", format="raw"),
        ),
        cards=(
            CardPlan(network="default", mac="52:54:00:00:00:01"),
            CardPlan(network="default", model="e1000e"),
        ),
        boot=("network", "disk"),
        autostart=True,
    )
    lines = create(image=None, hardware=hardware, pool_path=str(tmp_path), domain_type="kvm")
    lines[-1] = lines[-1].replace("--virt-type kvm", "--virt-type test") + " --print-xml 1"
    result = paste(lines, tmp_path)
    assert result.returncode == 0, result.stderr
    root = etree.fromstring(result.stdout[result.stdout.index("<domain") :])

    def has(path: str) -> list[str]:
        return [str(found) for found in root.xpath(path)]

    assert has("os/@firmware") == ["efi"]
    assert has("os/firmware/feature[@enabled='yes']/@name") == ["enrolled-keys", "secure-boot"]
    assert has("os/boot/@dev") == ["network", "hd"]
    assert has("cpu/topology/@cores") == ["2"]
    assert has("cpu/model/text()") == ["EPYC"]
    assert has("clock/@offset") == ["localtime"]
    assert has("features/smm/@state") == ["on"]
    assert has("features/hyperv/synic/@state") == ["on"]
    assert has("features/hyperv/vpindex/@state") == ["on"]
    assert has("devices/disk/target/@bus") == ["virtio", "sata"]
    assert has("devices/disk[1]/driver/@cache") == ["none"]
    assert has("devices/disk[1]/driver/@io") == ["native"]
    assert has("devices/interface/model/@type") == ["virtio", "e1000e"]
    assert has("devices/tpm/@model") == ["tpm-crb"]
    assert has("devices/watchdog/@action") == ["poweroff"]
    assert has("devices/video/model/@type") == ["vga"]
    assert has("devices/memballoon/@model") == ["none"]
    assert has("devices/rng") == []
    assert has("devices/sound") == []
    assert "--autostart" in lines[-1]


def test_no_secret_is_shown() -> None:
    assert "$6$" not in "\n".join(create())
    assert "openssl passwd -6" in "\n".join(create())
    assert "openssl" not in "\n".join(create(has_password=False))


def test_wrong_cloud_config_is_left_out() -> None:
    assert "hacked" not in "\n".join(create(user_data="#!/bin/sh\nhacked"))


text = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0\r"))


@hypothesis_settings(deadline=None, max_examples=40)
@given(name=text, network=text, user=text, key=text, hostname=text)
def test_nothing_typed_is_run(name: str, network: str, user: str, key: str, hostname: str) -> None:
    """bash parses the lines into our programs and no other: each is a function that notes its
    name, and nothing else can be found."""
    lines = create(name=name, network=network, user=user, ssh_keys=[key], hostname=hostname)
    known = ("qemu-img", "cat", "sed", "cloud-localds", "virt-install", "openssl")
    functions = "".join(f"function {tool} {{ echo {tool} >&2; }}\n" for tool in known)
    script = f"PATH=/nonexistent\n{functions}" + "\n".join(lines)
    with tempfile.TemporaryDirectory() as folder:
        result = subprocess.run(
            ["bash", "--norc"], input=script.encode(), cwd=folder, capture_output=True, check=False
        )
        assert set(result.stderr.decode().split()) <= set(known), result.stderr
        made = {path.name for path in Path(folder).iterdir()}
        assert made == {"user-data", "meta-data", "network-config"}


def test_verbs() -> None:
    vm = VM(name="web-1", domain_name="it's web")
    assert commands.show_verb(vm, "force_off") == [
        "virsh -c qemu:///system destroy 'it'\"'\"'s web'"
    ]
    assert len(commands.show_verb(vm, "delete")) == 2
    assert commands.show_verb(vm, "explode") == []
    for verb in ("start", "shutdown", "reboot", "reset", "suspend", "resume"):
        assert commands.show_verb(vm, verb)[0].startswith(f"virsh -c qemu:///system {verb} ")
    assert "console" in commands.show_console(vm)[1]
