"""``manage.py check_host``: read a host now, without a worker, and say what was found."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from accounts import messages
from hosts import presentation, services
from hosts.check_messages import findings
from hosts.models import Host
from hosts.virt.errors import VirtError

MARKS = {"pass": "ok  ", "warn": "warn", "fail": "FAIL", "note": "note"}


class Command(BaseCommand):
    help = (
        "Reads a host (or all) now: what virt-host-validate finds, in plain words, its pools and "
        "networks, and whether KVM really works, by a probe machine."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", nargs="*", help="hosts; none: all")
        parser.add_argument("--no-probe", action="store_true", help="do not start a probe machine")
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, **options: Any) -> None:
        hosts = Host.objects.all()
        if options["name"]:
            hosts = hosts.filter(name__in=options["name"])
            missing = set(options["name"]) - set(hosts.values_list("name", flat=True))
            if missing:
                raise CommandError(f"There is no host {', '.join(sorted(missing))}.")
        failed = [host for host in hosts if not self._check(host, options)]
        if failed:
            raise CommandError(f"{len(failed)} of {len(hosts)} hosts did not answer.")

    def _check(self, host: Host, options: dict[str, Any]) -> bool:
        try:
            host = services.refresh_host(host.pk)
            if not options["no_probe"]:
                host = services.probe_host(host.pk)
        except VirtError as error:
            services.mark_reach(host, up=False, code=error.code, ref=error.ref)
            self.stderr.write(f"{host.name}: {messages.text(error.code, {'ref': error.ref})}")
            self.stderr.write(f"  {error.raw}")
            return False
        if options["json"]:
            self.stdout.write(json.dumps(_facts(host)))
            return True
        acceleration = presentation.acceleration(host)
        self.stdout.write(
            f"{host.name}: {host.cpus} CPUs, {host.memory_mib} MiB, libvirt "
            f"{host.libvirt_version}, QEMU {host.qemu_version}"
        )
        self.stdout.write(f"  {acceleration.word}: {acceleration.text}")
        for finding in findings(host.checks):
            self.stdout.write(f"  {MARKS[finding.result]}  {finding.text}")
            if finding.todo:
                self.stdout.write(f"        {finding.todo}")
        return True


def _facts(host: Host) -> dict[str, Any]:
    acceleration = presentation.acceleration(host)
    return {
        "name": host.name,
        "cpus": host.cpus,
        "memory_mib": host.memory_mib,
        "libvirt": host.libvirt_version,
        "qemu": host.qemu_version,
        "acceleration": {"word": acceleration.word, "text": acceleration.text},
        "checks": [
            {"key": one.key, "result": one.result, "text": one.text, "todo": one.todo}
            for one in findings(host.checks)
        ],
        "pools": list(host.pools.values_list("name", flat=True)),
        "networks": list(host.networks.filter(active=True).values_list("name", flat=True)),
    }
