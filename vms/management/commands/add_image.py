"""Add an image without a browser: ``manage.py add_image --file disk.qcow2 --name ... --publish``.

``--file`` is inspected, copied and ready when the command returns; the same file again changes
nothing. ``--url`` only asks a worker to download it.
"""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from accounts import messages
from accounts.errors import DomainError
from accounts.models import User
from vms.images import services
from vms.images.details import Details


class Command(BaseCommand):
    help = "Add an image from a file on this machine, or from a URL."

    def add_arguments(self, parser: ArgumentParser) -> None:
        source = parser.add_mutually_exclusive_group(required=True)
        source.add_argument("--file", type=Path)
        source.add_argument("--url")
        parser.add_argument("--checksum", default="", help="of --url: SHA-256 or SHA-512")
        parser.add_argument("--checksum-url", default="", help="of --url: the vendor's SHA256SUMS")
        parser.add_argument("--name", required=True)
        parser.add_argument("--os-id", help="libosinfo's short name: debian12")
        parser.add_argument("--release", default=None, help="of the system in it: 12.8")
        parser.add_argument("--description")
        parser.add_argument("--default-user")
        parser.add_argument("--min-memory-mib", type=int)
        parser.add_argument("--min-disk-gib", type=int)
        parser.add_argument("--recommended-memory-mib", type=int)
        parser.add_argument("--recommended-disk-gib", type=int)
        parser.add_argument("--no-cloud-init", action="store_true", help="it reads no seed")
        parser.add_argument("--publish", action="store_true", help="everybody may use it")
        parser.add_argument("--actor", help="user name of the admin who adds it")

    def handle(self, **options: Any) -> None:
        about = Details(
            name=options["name"],
            os_id=options["os_id"],
            version=options["release"],
            description=options["description"],
            default_user=options["default_user"],
            min_memory_mib=options["min_memory_mib"],
            min_disk_gib=options["min_disk_gib"],
            recommended_memory_mib=options["recommended_memory_mib"],
            recommended_disk_gib=options["recommended_disk_gib"],
            has_cloud_init=False if options["no_cloud_init"] else None,
        )
        try:
            self._add(about, options)
        except DomainError as error:
            raise CommandError(messages.text(error.code, error.params)) from error
        except FileNotFoundError as error:
            raise CommandError(f"{options['file']}: there is no such file") from error

    def _add(self, about: Details, options: dict[str, Any]) -> None:
        actor = _admin(options["actor"], needed=options["url"] is not None)
        if options["file"] is not None:
            image = services.add_file(
                actor=actor, path=options["file"], about=about, publish=options["publish"]
            )
            self.stdout.write(f"{image.name}: ready ({image.format}, sha256 {image.checksum})")
            return
        if actor is None:
            raise CommandError("no admin exists yet; make one first")
        image, job = services.add_url(
            actor=actor,
            url=options["url"],
            about=about,
            checksum=options["checksum"],
            checksum_url=options["checksum_url"],
            publish=options["publish"],
        )
        self.stdout.write(f"{image.name}: a worker downloads it (job {job.pk})")


def _admin(name: str | None, *, needed: bool) -> User | None:
    """Who is recorded as having done it."""
    admins = User.objects.filter(is_staff=True, is_active=True)
    if name is not None:
        actor = admins.filter(username=name).first()
        if actor is None:
            raise CommandError(f"{name} is not an active admin")
        return actor
    return admins.order_by("pk").first() if needed else None
