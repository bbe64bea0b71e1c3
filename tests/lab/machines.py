"""A machine for the lab's own tests, without the product: cloud-localds, virsh, ssh, a socket."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.conftest import ROOT, RunningLab

DISK = "/var/lib/libvirt/images"
SERIAL_LOG = "/var/log/libvirt/serial"

DOMAIN = """
<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>{memory_mib}</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <features><acpi/><apic/></features>
  <cpu mode='maximum'/>
  <clock offset='utc'/>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='{folder}/{name}.qcow2'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    {seed}
    <controller type='scsi' model='virtio-scsi'/>
    <interface type='network'>
      <source network='default'/><mac address='{mac}'/><model type='virtio'/>
    </interface>
    <serial type='pty'><log file='{log}-{name}' append='off'/></serial>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <channel type='unix'>
      <source mode='bind' path='/run/libvirt/{name}.report'/>
      <target type='virtio' name='org.kvmweb.firstboot.0'/>
    </channel>
    <graphics type='vnc'><listen type='socket'/></graphics>
    <video><model type='vga'/></video>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
</domain>
"""
SEEDS = {
    "cdrom": """<disk type='file' device='cdrom'>
      <driver name='qemu' type='raw'/><source file='{folder}/{name}.iso'/>
      <target dev='sda' bus='scsi'/><readonly/></disk>""",
    "disk": """<disk type='file' device='disk'>
      <driver name='qemu' type='raw'/><source file='{folder}/{name}.iso'/>
      <target dev='vdb' bus='virtio'/><readonly/></disk>""",
    "none": "",
}


def wait_for(condition: Callable[[], bool], *, what: str, timeout_s: float) -> float:
    """How long it took, in seconds; fails after ``timeout_s``."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < timeout_s, f"waited {timeout_s} s for {what}"
        time.sleep(0.2)  # between two looks at a guest that knows no other way to tell us
    return time.monotonic() - started


@dataclass
class Machine:
    """One guest on one host. ``boot`` makes it; ``remove`` leaves nothing."""

    lab: RunningLab
    host: str
    image: Path
    work: Path
    user_data: str
    seed: str = "cdrom"
    memory_mib: int = 256
    name: str = field(default_factory=lambda: f"m{uuid.uuid4().hex[:6]}")

    def __post_init__(self) -> None:
        self.uuid = str(uuid.uuid4())
        self.mac = "52:54:00:" + ":".join(self.uuid[i : i + 2] for i in (0, 2, 4))

    def boot(self) -> None:
        meta, data = self.work / f"{self.name}.meta", self.work / f"{self.name}.data"
        meta.write_text(f"instance-id: {self.uuid}\nlocal-hostname: {self.name}\n")
        data.write_text(self.user_data)
        iso = f"{DISK}/{self.name}.iso"
        report = ROOT / "vms" / "firstboot.sh"  # the product's own; the tiny guest has its own
        self._exec("cloud-localds", "--vendor-data", str(report), iso, str(data), str(meta))
        disk = f"{DISK}/{self.name}.qcow2"
        self._exec("cp", str(self.image), disk)
        self._exec("qemu-img", "resize", "-f", "qcow2", disk, "4G")
        xml = self.work / f"{self.name}.xml"
        xml.write_text(
            DOMAIN.format(
                name=self.name,
                uuid=self.uuid,
                mac=self.mac,
                memory_mib=self.memory_mib,
                folder=DISK,
                log=SERIAL_LOG,
                seed=SEEDS[self.seed].format(folder=DISK, name=self.name),
            )
        )
        self.lab.virsh(self.host, "define", str(xml))
        self.lab.virsh(self.host, "start", self.name)

    def state(self) -> str:
        return self.lab.virsh(self.host, "domstate", self.name).strip()

    def serial(self) -> str:
        """All that the guest has written to its serial line since it was started."""
        return self._exec("cat", f"{SERIAL_LOG}-{self.name}", check=False).stdout

    def address(self) -> str | None:
        for line in self.lab.virsh(self.host, "net-dhcp-leases", "default").splitlines():
            if self.mac in line:
                return line.split()[4].partition("/")[0]
        return None

    def ssh(self, user: str, key: Path, command: str) -> subprocess.CompletedProcess[str]:
        """From within the host: no guest can be reached from anywhere else."""
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes"]
        options += ["ConnectTimeout=10", "LogLevel=ERROR"]
        flags = [word for option in options for word in ("-o", option)]
        target = f"{user}@{self.address()}"
        argv = ["ssh", "-F", "none", *flags, "-i", str(key), target, command]
        return self._exec(*argv, check=False)

    def report(self, *, timeout_s: float) -> str:
        """The first line from the first-boot channel, as the watcher would read it."""
        path = Path(self.lab.host(self.host).socket_path).parent / f"{self.name}.report"
        with socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(timeout_s)
            channel.connect(str(path))
            return channel.makefile().readline()

    @contextmanager
    def keyboard(self) -> Iterator[Callable[[str], None]]:
        """Typing on the serial line. Kept open: QEMU drops what a terminal held when it closed."""
        terminal = self.lab.virsh(self.host, "ttyconsole", self.name).strip()
        line = os.open(terminal, os.O_RDWR | os.O_NOCTTY)
        try:
            yield lambda text: _write_all(line, text.encode())
        finally:
            os.close(line)

    def remove(self) -> None:
        self.lab.run("virsh", self.host, "destroy", self.name, check=False)
        self.lab.run("virsh", self.host, "undefine", self.name, check=False)
        self._exec("sh", "-c", f"rm -f {DISK}/{self.name}.* {SERIAL_LOG}-{self.name}")

    def _exec(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.lab.exec(self.host, *argv, check=check)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
