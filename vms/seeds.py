"""The NoCloud seed: how a new machine learns its name, its user and its address.

``build`` makes an ISO 9660 image (Rock Ridge and Joliet, volume label ``cidata``) in memory, with
``meta-data``, ``user-data``, ``network-config`` and ``vendor-data``: cloud-init's NoCloud data
source (docs.cloud-init.io, "NoCloud"). The same input gives the same bytes.

The vendor-data script is the guest's half of the first-boot report: it waits for cloud-init and
writes one JSON line to a virtio port that ``watchhosts`` reads. What comes back is hostile text.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vms import cloudconfig

LABEL = "cidata"
REPORT_PORT = "org.kvmweb.firstboot.0"
SUDO_RULE = "ALL=(ALL) NOPASSWD:ALL"


class _FixedClock:
    """pycdlib stamps the current time into every record; a seed has no use for it, and a fixed
    one makes the image depend on its content alone."""

    @staticmethod
    def time() -> float:
        return 315532800.0  # 1980-01-01, the oldest date that every reader takes


@cache
def _pycdlib() -> Any:
    """5 MiB, which only those need that make seeds."""
    import pycdlib
    import pycdlib.headervd
    import pycdlib.pycdlib

    for module in (pycdlib.pycdlib, pycdlib.headervd):
        vars(module)["time"] = _FixedClock
    return pycdlib


@dataclass(frozen=True, kw_only=True)
class Seed:
    """What one machine is told at its first boot. Names and keys are validated before."""

    instance_id: str  # the VM's uuid: a new one makes cloud-init start over
    hostname: str  # a label, or a name with dots
    user: str = ""
    ssh_keys: tuple[str, ...] = ()
    password_hash: str = ""  # crypt(3)
    user_data: str = ""  # the cloud-config that the person appended
    macs: tuple[str, ...] = ()
    shell: str = "/bin/bash"
    # The disk is another machine's: its user, password and settings stay, its identity goes.
    clone: bool = False


def shell_for(os_id: str) -> str:
    """The login shell that an OS surely has. Alpine comes without bash."""
    return "/bin/sh" if os_id.startswith(("alpine", "tiny")) else "/bin/bash"


def build(seed: Seed) -> bytes:
    """The seed as an ISO image. Raises ``Invalid`` when the appended cloud-config is wrong."""
    return iso(LABEL, files(seed))


def iso(label: str, texts: dict[str, str]) -> bytes:
    """These files on a disc with that label. The same input gives the same bytes."""
    image = _pycdlib().PyCdlib()
    image.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=label)
    try:
        for name, text in texts.items():
            content = text.encode()
            image.add_fp(
                io.BytesIO(content),
                len(content),
                iso_path=f"/{_iso_name(name)};1",
                rr_name=name,
                joliet_path=f"/{name}",
            )
        out = io.BytesIO()
        image.write_fp(out)
        return out.getvalue()
    finally:
        image.close()


def _iso_name(name: str) -> str:
    """ISO 9660 knows capitals, digits and one dot."""
    plain = name.replace("-", "_").upper()
    return plain if "." in plain else f"{plain}."


def files(seed: Seed) -> dict[str, str]:
    """The seed's files by name."""
    return {
        "meta-data": meta_data(seed),
        "user-data": user_data(seed),
        "network-config": network_config(seed),
        "vendor-data": vendor_data(),
    }


def meta_data(seed: Seed) -> str:
    return cloudconfig.dump({"instance-id": seed.instance_id, "local-hostname": seed.hostname})


def user_data(seed: Seed) -> str:
    """Our cloud-config with the person's appended, as one document."""
    extra = cloudconfig.parse(seed.user_data, first_user=seed.user)
    return cloudconfig.render(cloudconfig.merge(base_config(seed), extra))


def base_config(seed: Seed) -> dict[str, Any]:
    label, dot, _domain = seed.hostname.partition(".")
    config: dict[str, Any] = {"hostname": label}
    if dot:
        config["fqdn"] = seed.hostname
    config["manage_etc_hosts"] = True
    if seed.user:
        config["users"] = [_user(seed)]
    if seed.clone:
        config["ssh_deletekeys"] = True
        config["bootcmd"] = [["cloud-init-per", "instance", "kvmweb-identity", *_identity()]]
    else:
        config["ssh_pwauth"] = bool(seed.password_hash)
    return config


@cache
def _identity() -> tuple[str, ...]:
    """The command that gives a clone a machine-id of its own (``identity.sh``)."""
    return ("sh", "-c", (Path(__file__).parent / "identity.sh").read_text())


def network_config(seed: Seed) -> str:
    """netplan's version 2. Interfaces are known by MAC, never by name; the DHCP identifier is the
    MAC too, because clones share a machine-id and would be given one address between them."""
    ethernets = {
        f"nic{index}": {
            "match": {"macaddress": mac.lower()},
            "dhcp4": True,
            "dhcp-identifier": "mac",
        }
        for index, mac in enumerate(seed.macs)
    }
    return cloudconfig.dump({"version": 2, "ethernets": ethernets})


@cache
def vendor_data() -> str:
    """The guest's half of the first-boot report (``firstboot.sh``); knows nothing of a machine."""
    return (Path(__file__).parent / "firstboot.sh").read_text()


def _user(seed: Seed) -> dict[str, Any]:
    locked = not seed.password_hash and not seed.clone
    user: dict[str, Any] = {"name": seed.user, "lock_passwd": locked}
    if seed.password_hash:
        user["passwd"] = seed.password_hash
    if seed.ssh_keys:
        user["ssh_authorized_keys"] = list(seed.ssh_keys)
    return user | {"sudo": SUDO_RULE, "shell": seed.shell}
