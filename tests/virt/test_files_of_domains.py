"""Every file that a domain names is found, wherever its definition names it."""

from __future__ import annotations

from hosts.virt.definition import files_of

NAMED = """<domain type='kvm'>
  <os>
    <loader readonly='yes' type='pflash'>/usr/share/OVMF/code.fd</loader>
    <nvram template='/usr/share/OVMF/vars.fd'>/pool/vars.fd</nvram>
    <kernel>/pool/vmlinuz</kernel><initrd>/pool/initrd.gz</initrd><cmdline>root=/dev/vda</cmdline>
  </os>
  <devices>
    <disk type='file' device='disk'>
      <source file='/pool/top.qcow2'/>
      <backingStore type='file'><format type='qcow2'/><source file='/pool/middle.qcow2'/>
        <backingStore type='file'><format type='raw'/><source file='/pool/base.raw'/></backingStore>
      </backingStore>
      <mirror type='file' file='/pool/mirror.qcow2'><source file='/pool/mirror.qcow2'/></mirror>
    </disk>
    <disk type='block' device='disk'><source dev='/dev/vg/lv'/></disk>
    <disk type='volume' device='disk'><source pool='default' volume='old.raw'/></disk>
    <disk type='file' device='cdrom'/>
    <interface type='direct'><source dev='eth0' mode='bridge'/></interface>
    <serial type='pty'><source path='/dev/pts/3'/></serial>
  </devices>
</domain>"""


def test_paths_and_volumes_with_the_whole_chain() -> None:
    paths, volumes = files_of(NAMED)
    assert {path for path in paths if path.startswith(("/pool", "/dev/vg"))} == {
        "/pool/vars.fd",
        "/pool/vmlinuz",
        "/pool/initrd.gz",
        "/pool/top.qcow2",
        "/pool/middle.qcow2",
        "/pool/base.raw",
        "/pool/mirror.qcow2",
        "/dev/vg/lv",
    }
    assert volumes == {("default", "old.raw")}
    assert "eth0" not in paths
