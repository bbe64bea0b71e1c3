"""What the hosts have that take machines. The database is read, never a host."""

from __future__ import annotations

from dataclasses import dataclass

from hosts.models import Host, Network
from vms.knobs.words import FIRMWARES, MACHINES, VIDEOS


@dataclass(frozen=True, kw_only=True)
class Offered:
    """What some host that takes machines has."""

    firmwares: tuple[str, ...]
    machines: tuple[str, ...]
    tpm: bool
    kvm: bool
    videos: tuple[str, ...]
    cpu_models: tuple[str, ...]
    pxe: bool  # some network boots machines


def offered() -> Offered:
    hosts = list(Host.objects.filter(mode=Host.Mode.ACTIVE))

    def any_of(need: str) -> bool:
        return any(not host.lacks([need]) for host in hosts)

    def union(key: str) -> set[str]:
        return {value for host in hosts for value in host.facts.get(key, ())}

    videos = union("videos")
    return Offered(
        firmwares=tuple(one for one in FIRMWARES if one == "bios" or any_of(one)),
        machines=tuple(one for one in MACHINES if one == "q35" or any_of(f"machine:{one}")),
        tpm=any_of("tpm"),
        kvm=any_of("kvm"),
        videos=tuple(one for one in VIDEOS if one in ("virtio", "vga") or one in videos),
        cpu_models=tuple(sorted({model for host in hosts for model in host.cpu_models})),
        pxe=bool(Network.that_boot()),
    )
