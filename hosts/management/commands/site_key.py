"""``manage.py site_key``: the key with which this site reaches hosts by SSH."""

from __future__ import annotations

import os
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.core.management.base import BaseCommand

from hosts.virt import ssh, uri

COMMENT = "kvmweb"


class Command(BaseCommand):
    help = "Print the site's public SSH key, for ~/.ssh/authorized_keys on a host; makes it once."

    def handle(self, *_: Any, **__: Any) -> None:
        directory = uri.default_ssh_directory()
        path = ssh.identity(directory)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as out:
                out.write(
                    Ed25519PrivateKey.generate().private_bytes(
                        serialization.Encoding.PEM,
                        serialization.PrivateFormat.OpenSSH,
                        serialization.NoEncryption(),
                    )
                )
        key = serialization.load_ssh_private_key(path.read_bytes(), password=None)
        public = key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        self.stdout.write(f"{public.decode()} {COMMENT}")
