"""A real libvirtd that listens with TLS: added by its page, a machine there from its disk to its
serial line, and what is said of its screen."""

from __future__ import annotations

import base64
import io
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from django.test import Client
from django.urls import reverse

from accounts.errors import Conflict
from accounts.models import User
from hosts import connections
from hosts import services as host_services
from hosts.models import Host
from hosts.virt import uri
from hosts.virt.client import LibvirtHypervisor
from hosts.virt.errors import HostUnreachable
from hosts.virt.protocol import Hypervisor
from hosts.virt.spec import (
    CdromSpec,
    DiskSpec,
    DomainMetadata,
    DomainSpec,
    DomainState,
    NicSpec,
    VolumeSpec,
)
from tests.consoles.serial_site import SerialSite
from tests.consoles.test_both_carriers_keep_the_contract import wait_for
from tests.lab.conftest import RunningLab, lab, tiny_image  # noqa: F401
from vms import screenshots, seeds
from vms.consoles import tickets
from vms.models import VM, ConsoleSession
from vms.provisioning import steps

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.lab]

MIB = 1024**2
POOL = "default"
BOOT_S = 120
THERE = "/run/libvirt/tls"  # on the host
LISTENING = f"""
listen_tls = 1
listen_tcp = 0
listen_addr = "{{address}}"
auth_tls = "none"
ca_file = "{THERE}/cacert.pem"
cert_file = "{THERE}/servercert.pem"
key_file = "{THERE}/serverkey.pem"
"""


class Authority:
    """Certificates as docs/admin/hosts.md has them made, by openssl."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True)
        self._new("-x509", "-days", "1", "-subj", "/CN=KVMWeb test", "-keyout", "ca.key",
                  "-out", "cacert.pem")  # fmt: skip

    def issue(self, name: str, *, usage: str, alternative: str = "") -> None:
        """NAMEkey.pem and NAMEcert.pem, signed by the authority."""
        extensions = f"extendedKeyUsage={usage}\nkeyUsage=digitalSignature\n"
        if alternative:
            extensions += f"subjectAltName={alternative}\n"
        (self.folder / "extensions").write_text(extensions)
        self._new("-subj", f"/CN={name}", "-keyout", f"{name}key.pem", "-out", "wish")
        self._openssl("x509", "-req", "-in", "wish", "-CA", "cacert.pem", "-CAkey", "ca.key",
                      "-CAcreateserial", "-days", "1", "-extfile", "extensions",
                      "-out", f"{name}cert.pem")  # fmt: skip

    def _new(self, *argv: str) -> None:
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        self._openssl("req", *curve, *argv)

    def _openssl(self, *argv: str) -> None:
        done = subprocess.run(
            ["openssl", *argv], cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


@pytest.fixture
def address(
    lab: RunningLab,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[str]:
    """Where host a listens with TLS, to whoever has a certificate of the site's."""
    address = lab.host("a").ssh.host
    monkeypatch.setenv("KVMWEB_VAR", str(tmp_path / "var"))
    made = Authority(tmp_path / "var" / "tls")
    made.issue("server", usage="serverAuth", alternative=f"IP:{address}")
    made.issue("client", usage="clientAuth")

    def put(name: str, content: bytes) -> None:
        encoded = base64.b64encode(content).decode()
        lab.exec("a", "sh", "-c", f"echo {encoded} | base64 -d > {THERE}/{name}")

    lab.exec("a", "mkdir", "-p", THERE)
    for name in ("cacert.pem", "servercert.pem", "serverkey.pem"):
        put(name, (made.folder / name).read_bytes())
    usual = lab.exec("a", "cat", "/etc/libvirt/libvirtd.conf").stdout
    put("libvirtd.conf", (usual + LISTENING.format(address=address)).encode())
    lab.run("stop-libvirtd", "a")
    try:
        pid = "/run/libvirt/libvirtd.pid"
        config = f"{THERE}/libvirtd.conf"
        lab.exec("a", "libvirtd", "--daemon", "--listen", "--config", config, "--pid-file", pid)
        yield address
    finally:
        connections.close_all()
        lab.run("stop-libvirtd", "a")
        lab.run("start-libvirtd", "a")
        lab.exec("a", "rm", "-rf", THERE)


@pytest.fixture
def tls_host(address: str, admin: User) -> Host:
    """Added as an admin does it, and read."""
    browser = Client()
    browser.force_login(admin)
    name = f"tls-{uuid4().hex[:6]}"
    sent = browser.post(reverse("host_add"), {"name": name, "transport": "tls", "address": address})
    assert sent.status_code == 302, sent.content
    host = host_services.refresh_host(Host.objects.get(name=name).pk)
    page = browser.get(reverse("host_detail", args=[host.pk])).content.decode()
    assert "Connected by TLS, which carries no screens" in page
    return host


@pytest.fixture
def machine(
    tls_host: Host,
    running_vm: VM,
    tiny_image: Path,  # noqa: F811
) -> Iterator[VM]:
    """The tiny guest, with all its bytes sent through TLS; it is off."""
    at = connections.hypervisor(tls_host)
    running_vm.host = tls_host
    running_vm.save()
    name = f"tls-{running_vm.uuid.hex[:8]}"
    mac = "52:54:00:" + ":".join(running_vm.uuid.hex[i : i + 2] for i in (0, 2, 4))
    seed = seeds.build(seeds.Seed(instance_id=name, hostname="far", macs=(mac,)))
    upload(at, f"{name}-base", tiny_image.read_bytes())
    upload(at, f"{name}-seed", seed)
    overlay = VolumeSpec(
        pool=POOL,
        name=name,
        capacity_bytes=1024 * MIB,
        backing_volume=f"{name}-base",
        backing_format="qcow2",
    )
    at.create_volume(overlay)
    at.define(
        DomainSpec(
            uuid=running_vm.uuid,
            name=name,
            vcpus=1,
            memory_mib=192,
            disks=(DiskSpec(pool=POOL, volume=name),),
            cdroms=(CdromSpec(pool=POOL, volume=f"{name}-seed"),),
            nics=(NicSpec(mac=mac),),
            metadata=DomainMetadata(
                vm_uuid=running_vm.uuid, name="far", owner="o", team="t", site="s"
            ),
        )
    )
    try:
        yield running_vm
    finally:
        at.force_off(running_vm.uuid)
        at.undefine(running_vm.uuid)
        for volume in (name, f"{name}-base", f"{name}-seed"):
            at.delete_volume(POOL, volume)


def upload(at: Hypervisor, name: str, content: bytes) -> None:
    at.create_volume(VolumeSpec(pool=POOL, name=name, capacity_bytes=len(content), format="raw"))
    at.upload_volume(POOL, name, io.BytesIO(content), len(content), lambda *_: None)


def test_a_machine_on_a_host_behind_tls(owner: User, tls_host: Host, machine: VM) -> None:
    at = connections.hypervisor(tls_host)
    steps.power_on(at, machine)
    listed = {facts.uuid: facts.state for facts in at.list_domains()}
    assert listed[machine.uuid] is DomainState.RUNNING
    with pytest.raises(Conflict) as refused:
        tickets.issue(user=owner, vm=machine, kind="vnc")
    assert refused.value.code == "console.tls"
    with SerialSite() as site:
        secret = tickets.issue(user=owner, vm=machine, kind="serial").secret
        with site.open(secret) as terminal:
            terminal.until_shown(b"login:", BOOT_S)
            terminal.type(b"somebody\r")
            terminal.until_shown(b"assword:", BOOT_S)
        wait_for(
            lambda: not ConsoleSession.objects.filter(ended_at__isnull=True).exists(),
            "a console session was not closed",
        )
    assert screenshots.take(machine.uuid)
    assert screenshots.latest(machine)
    at.force_off(machine.uuid)
    assert at.domain(machine.uuid).state is DomainState.SHUTOFF


def test_nobody_without_a_certificate(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does the site talk to a host of another authority."""
    other = Authority(tmp_path / "other" / "tls")
    other.issue("client", usage="clientAuth")
    mine = tmp_path / "var" / "tls"
    mixed = tmp_path / "mixed" / "tls"
    mixed.mkdir(parents=True)
    for name in uri.TLS_FILES:  # it trusts the host, which does not trust it
        source = mine if name == "cacert.pem" else other.folder
        (mixed / name).write_bytes((source / name).read_bytes())
    for var in ("other", "mixed"):
        monkeypatch.setenv("KVMWEB_VAR", str(tmp_path / var))
        stranger = LibvirtHypervisor(uri.build(transport="tls", address=address))
        with pytest.raises(HostUnreachable):
            stranger.ping()
    monkeypatch.setenv("KVMWEB_VAR", str(tmp_path / "var"))
    ours = LibvirtHypervisor(uri.build(transport="tls", address=address))
    ours.ping()
    ours.close()
