"""``manage.py add_host``: bring a host in, or see that it is there; ``scripts/up`` calls it."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from accounts import messages
from accounts.errors import DomainError
from hosts import services
from hosts.models import Host


class Command(BaseCommand):
    help = (
        "Adds a libvirt host, or brings a known one's socket up to date. May be repeated. The "
        "host is then read and its acceleration tried by a job. Prints the host as JSON."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--name", required=True, help="how the site calls it")
        parser.add_argument(
            "--transport",
            required=True,
            choices=[Host.Transport.LOCAL.value, Host.Transport.UNIX.value],
            help="local: qemu:///system; unix: the libvirt socket --socket-path",
        )
        parser.add_argument("--socket-path", default="", help="path of a libvirt socket")

    def handle(self, **options: Any) -> None:
        try:
            host, made = services.ensure_host(
                name=options["name"],
                transport=options["transport"],
                socket_path=options["socket_path"],
            )
        except DomainError as error:
            wrong = " ".join(
                f"--{field.replace('_', '-')}: {text}"
                for field, text in messages.field_texts(error).items()
            )
            raise CommandError(f"{messages.text(error.code, error.params)} {wrong}") from error
        self.stdout.write(json.dumps({"id": host.pk, "name": host.name, "made": made}))
