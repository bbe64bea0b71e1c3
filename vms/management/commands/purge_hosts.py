"""``manage.py purge_hosts``: take everything that this site made off its hosts.

For ``scripts/down --purge``. Only what a row of this database names is touched: the domains of its
machines, their volumes, and its copies of images.
"""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from hosts import connections
from hosts.models import Host
from hosts.virt.errors import VirtError
from hosts.virt.protocol import Hypervisor
from vms.models import VM, Disk, ImageCopy
from vms.provisioning import installer

LAB_SOCKETS = "/run/kvmweb-lab/"


class Command(BaseCommand):
    help = "Delete the machines, disks and image copies that this site made on its hosts."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--yes", action="store_true", help="really")
        parser.add_argument(
            "--skip-lab", action="store_true", help="leave out the hosts of scripts/lab"
        )

    def handle(self, *_: Any, **options: Any) -> None:
        if not options["yes"]:
            raise CommandError("This deletes every machine of this site. Say --yes to do it.")
        failed = []
        hosts = Host.objects.all()
        if options["skip_lab"]:
            hosts = hosts.exclude(
                transport=Host.Transport.UNIX, socket_path__startswith=LAB_SOCKETS
            )
        for host in hosts:
            try:
                machines, volumes = self._purge(host, connections.hypervisor(host))
            except VirtError as error:
                failed.append(f"{host.name}: {error.raw or error.code}")
                continue
            self.stdout.write(f"{host.name}: {machines} machines, {volumes} volumes deleted")
        if failed:
            raise CommandError("; ".join(failed))

    def _purge(self, host: Host, hypervisor: Hypervisor) -> tuple[int, int]:
        there = {domain.uuid for domain in hypervisor.list_domains()}
        machines = [vm for vm in VM.objects.filter(host=host) if vm.uuid in there]
        for vm in machines:
            hypervisor.force_off(vm.uuid)
            hypervisor.undefine(vm.uuid)
        mine = set(Disk.objects.filter(vm__host=host).values_list("pool__name", "volume"))
        pools = dict(host.pools.values_list("id", "name"))
        default = next(iter(host.pools.filter(is_default=True).values_list("name", flat=True)), "")
        for vm in VM.objects.filter(host=host).exclude(seed_volume=""):
            mine |= {(default, name) for name in installer.seed_volumes(vm)}
        copies = ImageCopy.objects.filter(pool__host=host).select_related("image")
        for copy in copies:
            names = (copy.image.volume_name, copy.image.nvram_name)
            mine |= {(pools[copy.pool_id], name) for name in names}
        deleted = 0
        for pool in {name for name, _ in mine if name}:
            found = {volume.name for volume in hypervisor.list_volumes(pool)}
            # Overlays go before the images that they stand on.
            for name in sorted((v for p, v in mine if p == pool and v in found), key=_images_last):
                hypervisor.delete_volume(pool, name)
                deleted += 1
        return len(machines), deleted


def _images_last(volume: str) -> bool:
    return volume.startswith("kvmweb-image-")
