"""“Show command”: the shell lines that an action here equals, ready to be pasted on a host.

The product also teaches KVM. Every line runs as it is in bash on a Debian or Ubuntu host with
libvirt, ``virtinst`` and ``cloud-image-utils``; all that a person typed is quoted. No secret is
shown: the password is asked for by ``openssl passwd`` when the lines are run.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from accounts.errors import Invalid
from vms import answers, keys, seeds, virt_install
from vms.knobs import CardPlan, DiskPlan, Hardware, Knobs
from vms.provisioning import installer
from vms.provisioning.domain import ISO_TARGET, SEED_TARGET
from vms.state import ON

if TYPE_CHECKING:
    from vms.models import VM, Disk, Image

URI = virt_install.URI
POOL_PATH = "/var/lib/libvirt/images"  # libvirt's default pool
PASSWORD_PLACE = "@PASSWORD_HASH@"  # noqa: S105 - where the hash goes

_VERBS = {
    "start": "start",
    "start_paused": "start --paused",
    "save": "managedsave --running",
    "discard_saved": "managedsave-remove",
    "nmi": "inject-nmi",
    "shutdown": "shutdown",
    "force_off": "destroy",
    "reboot": "reboot",
    "reset": "reset",
    "suspend": "suspend",
    "resume": "resume",
}


def show_create(
    *,
    name: str,
    image: Image | None,
    vcpus: int,
    memory_mib: int,
    disk_gib: int,
    network: str,
    hardware: Hardware | None = None,
    copy: str = "linked",
    user: str = "",
    has_password: bool = False,
    ssh_keys: Sequence[str] = (),
    user_data: str = "",
    hostname: str = "",
    start: bool = True,
    domain_type: str = "kvm",
    pool_path: str = POOL_PATH,
    mac: str = "",
) -> list[str]:
    """One item for each command; a here-document makes an item of several lines. Never raises:
    appended cloud-config that is wrong is left out."""
    hardware = hardware or plain(disk_gib, network)
    mac = mac or hardware.cards[0].mac or _mac(name)
    first = hardware.disks[0]
    disk = f"{pool_path}/{name}.{first.format}"
    lines = (
        [shlex.join(["qemu-img", "create", "-f", first.format, disk, f"{first.size_gib}G"])]
        if image is None or image.kind == "iso"
        else _disk_lines(image, pool_path, disk, copy, first)
    )
    paths = [disk]
    for plan in hardware.disks[1:]:
        paths.append(f"{pool_path}/{name}-{plan.target}.{plan.format}")
        size = f"{plan.size_gib}G"
        lines.append(shlex.join(["qemu-img", "create", "-f", plan.format, paths[-1], size]))
    seed_path = ""
    if image is not None and image.has_cloud_init:
        seed_path = f"{pool_path}/{name}-seed.iso"
        seed = seeds.Seed(
            instance_id=name,
            hostname=hostname or name,
            user=user or image.default_user,
            ssh_keys=tuple(ssh_keys),
            password_hash=PASSWORD_PLACE if has_password else "",
            user_data=user_data,
            macs=(mac,),
            shell=seeds.shell_for(image.os_id),
        )
        lines += _seed_lines(seed, seed_path)
    injects = hardware.answers_kind == answers.PRESEED
    if injects:
        lines.append(_here(virt_install.PRESEED_FILE, hardware.answers))
    elif hardware.answers_kind:
        seed_path = f"{pool_path}/{name}-seed.iso"
        lines += _answer_lines(hardware, name, seed_path)
    install = virt_install.line(
        name=name,
        vcpus=vcpus,
        memory_mib=memory_mib,
        mac=mac,
        hardware=hardware,
        disks=paths,
        seed=seed_path,
        disc=f"{pool_path}/{image.volume_name}" if image and image.kind == "iso" else "",
        discs=[f"{pool_path}/{disc.volume_name}" for disc in hardware.discs],
        domain_type=domain_type,
        location=installer.location(image) if image and injects else ("", ""),
    )
    if start or injects:  # what it injects it keeps for its own start only
        return [*lines, install]
    xml = shlex.quote(f"{name}.xml")
    return [
        *lines,
        f"{install} \\\n  --print-xml > {xml}",
        _join(["virsh", "-c", URI, "define"], xml),
    ]


def plain(disk_gib: int, network: str) -> Hardware:
    """What is made where nothing is said."""
    return Hardware(
        os_id="",
        knobs=Knobs(),
        disks=(DiskPlan(target="vda", size_gib=disk_gib),),
        cards=(CardPlan(network=network),),
    )


def show_again(names: Sequence[str]) -> list[str]:
    """For a batch: what the lines of its first machine are to be repeated for."""
    return [f"# the same up to {shlex.quote(names[-1])}"] if len(names) > 1 else []


def show_restore(vm: VM) -> list[str]:
    """Out of the recycle bin: it was kept defined, so only what was switched off comes back."""
    domain = shlex.quote(vm.domain_name)
    virsh = ["virsh", "-c", URI]
    lines = [_join([*virsh, "dominfo"], domain)]
    return [*lines, _join([*virsh, "autostart"], domain)] if vm.bin_autostart else lines


def show_verb(vm: VM, verb: str) -> list[str]:
    """``virsh`` lines for a verb of ``vms.lifecycle`` (``force_off``...); empty when unknown.
    ``bin`` is a delete into the recycle bin."""
    domain = shlex.quote(vm.domain_name)
    virsh = ["virsh", "-c", URI]
    if verb == "bin":
        return [
            _join([*virsh, "destroy"], domain),
            _join([*virsh, "autostart", "--disable"], domain),
        ]
    if verb == "delete":
        undefine = "--managed-save --nvram --snapshots-metadata --remove-all-storage"
        return [
            _join([*virsh, "destroy"], domain),
            _join([*virsh, "undefine"], f"{domain} {undefine}"),
        ]
    if verb not in _VERBS:
        return []
    return [_join([*virsh, *_VERBS[verb].split()], domain)]


def show_clone(
    vm: VM, *, name: str, copy: str, hostname: str = "", start: bool = True, mac: str = ""
) -> list[str]:
    """Of a machine that is off, as it is now. The seed is what makes the clone somebody else."""
    first = next(iter(vm.disks.all()), None)
    pool = first.pool.path if first and first.pool else POOL_PATH
    disk, mac = f"{pool}/{name}.qcow2", mac or _mac(name)
    clone = ["virt-clone", "--connect", URI, "--original", vm.domain_name, "--name", name]
    more = [_mac(f"{name} {nic.pk}") for nic in list(vm.nics.all())[1:]]  # it wants one for each
    for one in (mac, *more):
        clone += ["--mac", one]
    clone += ["--file", disk]
    lines = []
    image = first.backing_image if first else None
    if copy == "linked" and first and image:
        base = f"{pool}/{image.volume_name}"
        convert = ["qemu-img", "convert", "-p", "-O", "qcow2", "-B", base, "-F", image.format]
        lines.append(shlex.join([*convert, f"{pool}/{first.volume}", disk]))
        clone.append("--preserve-data")
    lines.append(shlex.join(clone))
    if vm.image is not None and vm.image.has_cloud_init:
        seed = f"{pool}/{name}-seed.iso"
        about = seeds.Seed(
            instance_id=name,
            hostname=hostname or name,
            user=vm.first_user,
            ssh_keys=tuple(vm.ssh_keys),
            macs=(mac,),
            shell=seeds.shell_for(vm.image.os_id if vm.image else ""),
            clone=True,
        )
        attach = ["virsh", "-c", URI, "attach-disk", name, seed, "sda", "--type", "cdrom"]
        lines += [
            *_seed_lines(about, seed),
            shlex.join([*attach, "--targetbus", "scsi", "--config"]),
        ]
    return [*lines, shlex.join(["virsh", "-c", URI, "start", name])] if start else lines


def show_snapshot(vm: VM, word: str, name: str, *, memory: bool = False) -> list[str]:
    """``take``, ``revert`` or ``delete`` of a snapshot. ``memory``: of a machine that runs."""
    domain, snapshot = shlex.quote(vm.domain_name), shlex.quote(name)
    virsh = shlex.join(["virsh", "-c", URI])
    if word == "take" and vm.observed in ON and not memory:
        return _snapshot_of_running_disks(vm, name)
    if word == "take":
        return [f"{virsh} snapshot-create-as {domain} {snapshot}"]
    if word == "revert":
        return [f"{virsh} snapshot-revert {domain} {snapshot} --force"]
    return [f"{virsh} snapshot-delete {domain} {snapshot}"]


def show_port(vm: VM, port: int) -> list[str]:
    """What a published port is, by hand; nothing while the machine has no address."""
    addresses = [
        address for nic in vm.nics.all() for address in nic.addresses if ":" not in address
    ]
    if not addresses:
        return []
    host, goal = vm.host, f"{addresses[0]}:{port}"
    if host is not None and host.transport == "ssh":
        at = f"{host.username}@{host.address}" if host.username else host.address
        number = ["-p", str(host.port)] if host.port else []
        return [shlex.join(["ssh", *number, "-N", "-L", f"20000:{goal}", at])]
    return [f"socat TCP-LISTEN:20000,fork,reuseaddr TCP:{goal}"]


def _snapshot_of_running_disks(vm: VM, name: str) -> list[str]:
    """virsh takes no such snapshot; QEMU does, by its own name of the disk."""
    monitor = _join(["virsh", "-c", URI, "qemu-monitor-command"], shlex.quote(vm.domain_name))
    lines = []
    for disk in vm.disks.all():
        file = f"{disk.pool.path if disk.pool else POOL_PATH}/{disk.volume}"
        pick = f'.return[].inserted | select(.image.filename=="{file}") | ."node-name"'
        query = shlex.quote('{"execute": "query-block"}')
        lines.append(f"node=$({monitor} {query} | jq -r {shlex.quote(pick)})")
        arguments = {"device": "@NODE@", "name": name}
        take = {"execute": "blockdev-snapshot-internal-sync", "arguments": arguments}
        quoted = shlex.quote(json.dumps(take)).replace("@NODE@", "'$node'")
        lines.append(f"{monitor} {quoted}")
    return lines


def show_setting(
    vm: VM,
    word: str,
    *,
    vcpus: int = 0,
    memory_mib: int = 0,
    disk: Disk | None = None,
    target: str = "",
    mac: str = "",
    network: str = "default",
) -> list[str]:
    """The dialogs of the tab Hardware, by their names (``size``, ``disk-add``...)."""
    runs = vm.observed in ON
    scope = "--live --config" if runs else "--config"

    def virsh(command: str, *words: str, flags: str = "") -> str:
        line = shlex.join(["virsh", "-c", URI, command, vm.domain_name, *words])
        return f"{line} {flags}".rstrip()

    first = next(iter(vm.disks.all()), None)
    folder = first.pool.path if first and first.pool else POOL_PATH
    match word:
        case "size":
            kib = f"{memory_mib}MiB"
            return [
                virsh("setvcpus", str(vcpus), flags="--maximum --config"),
                virsh("setvcpus", str(vcpus), flags="--config"),
                virsh("setmaxmem", kib, flags="--config"),
                virsh("setmem", kib, flags="--config"),
            ]
        case "disk-add":
            file = f"{folder}/kvmweb-{vm.uuid}-{target}.qcow2"
            return [
                shlex.join(["qemu-img", "create", "-f", "qcow2", file, "10G"]),
                virsh("attach-disk", file, target, flags=f"--subdriver qcow2 {scope}"),
            ]
        case "disk-grow" if disk is not None:
            file, size = f"{folder}/{disk.volume}", f"{disk.size_gib + 1}G"
            if runs:
                return [virsh("blockresize", disk.target, size)]
            return [shlex.join(["qemu-img", "resize", "-f", "qcow2", file, size])]
        case "disk-remove" if disk is not None:
            return [
                virsh("detach-disk", disk.target, flags=scope),
                shlex.join(["rm", f"{folder}/{disk.volume}"]),
            ]
        case "nic-add":
            return [virsh("attach-interface", "network", network, flags=f"--model virtio {scope}")]
        case "nic-remove":
            return [virsh("detach-interface", "network", "--mac", mac, flags=scope)]
        case "boot":
            edit = ["virt-xml", "-c", URI, vm.domain_name, "--edit", "target=vda"]
            return [shlex.join([*edit, "--disk", "boot.order=1"])]
    return []


def show_guest(vm: VM, word: str, *, user: str = "") -> list[str]:
    """What its agent tells (``facts``) and does: ``password``, ``trim``, ``shutdown``."""
    domain = shlex.quote(vm.domain_name)
    virsh = shlex.join(["virsh", "-c", URI])
    match word:
        case "facts":
            return [f"{virsh} guestinfo {domain}", *show_guest(vm, "trim")]
        case "password":
            hashed = '"$(openssl passwd -6)"'
            return [f"{virsh} set-user-password {domain} {shlex.quote(user)} {hashed} --encrypted"]
        case "trim":
            return [f"{virsh} domfstrim {domain}"]
        case "shutdown":
            return [f"{virsh} shutdown {domain} --mode agent"]
    return []


def show_disc(vm: VM, image: Image | None) -> list[str]:
    """Put it into the drive, or with None take out what is in."""
    first = next(iter(vm.disks.all()), None)
    folder = first.pool.path if first and first.pool else POOL_PATH
    drive = vm.iso_target or (ISO_TARGET if vm.iso_id else SEED_TARGET)
    words = ["--update", f"{folder}/{image.volume_name}"] if image else ["--eject"]
    scope = ["--live", "--config"] if vm.observed in ON else ["--config"]
    change = ["virsh", "-c", URI, "change-media", vm.domain_name, drive, *words, "--force", *scope]
    return [shlex.join(change)]


def show_keys(vm: VM, names: Sequence[str]) -> list[str]:
    """Keys by their names in ``vms.keys``, pressed together."""
    codes = [str(keys.CODES[name]) for name in names if name in keys.CODES]
    if not codes:
        return []
    return [
        shlex.join(["virsh", "-c", URI, "send-key", vm.domain_name, "--codeset", "linux", *codes])
    ]


def show_definition(vm: VM, show: str) -> list[str]:
    """``stored``, ``live`` or their ``differences``."""
    live = shlex.join(["virsh", "-c", URI, "dumpxml", vm.domain_name])
    stored = f"{live} --inactive"
    return {"stored": [stored], "live": [live]}.get(show, [f"diff -u <({stored}) <({live})"])


def show_console(vm: VM) -> list[str]:
    """How to reach the screen and the serial line by hand."""
    domain = shlex.quote(vm.domain_name)
    return [
        _join(["virt-viewer", "-c", URI], domain),
        _join(["virsh", "-c", URI, "console"], domain),
    ]


def _disk_lines(image: Image, folder: str, disk: str, copy: str, plan: DiskPlan) -> list[str]:
    source, disk_gib = f"{folder}/{image.volume_name}", plan.size_gib
    image_format = image.format or "qcow2"
    if copy == "full":
        convert = ["qemu-img", "convert", "-p", "-f", image_format, "-O", plan.format, source, disk]
        resize = ["qemu-img", "resize", "-f", plan.format, disk, f"{disk_gib}G"]
        return [shlex.join(convert), shlex.join(resize)]
    create = ["qemu-img", "create", "-f", "qcow2", "-F", image_format, "-b", source, disk]
    return [shlex.join([*create, f"{disk_gib}G"])]


def _seed_lines(seed: seeds.Seed, path: str) -> list[str]:
    try:
        user_data = seeds.user_data(seed)
    except Invalid:
        user_data = seeds.user_data(_without_user_data(seed))
    lines = [
        _here("user-data", user_data),
        _here("meta-data", seeds.meta_data(seed)),
        _here("network-config", seeds.network_config(seed)),
    ]
    if seed.password_hash:
        lines.append(f'sed -i "s|{PASSWORD_PLACE}|$(openssl passwd -6)|" user-data')
    command = ["cloud-localds", "--network-config=network-config", path, "user-data", "meta-data"]
    return [*lines, shlex.join(command)]


def _without_user_data(seed: seeds.Seed) -> seeds.Seed:
    return seeds.Seed(
        instance_id=seed.instance_id,
        hostname=seed.hostname,
        user=seed.user,
        ssh_keys=seed.ssh_keys,
        password_hash=seed.password_hash,
        macs=seed.macs,
        shell=seed.shell,
    )


def _answer_lines(hardware: Hardware, name: str, path: str) -> list[str]:
    """A disc with answers for an installer."""
    if hardware.answers_kind == answers.KICKSTART:
        make = ["genisoimage", "-output", path, "-volid", "OEMDRV", "-rock", "-joliet", "ks.cfg"]
        return [_here("ks.cfg", hardware.answers), shlex.join(make)]
    return [
        _here("user-data", f"#cloud-config\n{hardware.answers.removeprefix('#cloud-config')}"),
        _here("meta-data", f"instance-id: {name}"),
        shlex.join(["cloud-localds", path, "user-data", "meta-data"]),
    ]


def _here(path: str, text: str) -> str:
    """A here-document with a delimiter that does not stand in the text; nothing is expanded."""
    delimiter = "EOF"
    while delimiter in text.splitlines():
        delimiter += "_"
    return f"cat > {shlex.quote(path)} <<'{delimiter}'\n{text.rstrip(chr(10))}\n{delimiter}"


def _join(words: Iterable[str], rest: str) -> str:
    return f"{shlex.join(words)} {rest}"


def _mac(name: str) -> str:
    """A MAC of QEMU's range that stays the same while the person types the rest."""
    digest = hashlib.sha256(name.encode()).digest()
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in digest[:3])
