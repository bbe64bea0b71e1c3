"""``manage.py kvmweb_init``: the first admin and the defaults; harmless when repeated."""

from __future__ import annotations

import os
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts import defaults, messages, services
from accounts.errors import DomainError
from accounts.models import User


class Command(BaseCommand):
    help = (
        "Make the first admin from --admin/--password-file or KVMWEB_ADMIN_NAME and "
        "KVMWEB_ADMIN_PASSWORD, and what the site begins with. An admin who exists keeps their "
        "password."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--admin", default=os.environ.get("KVMWEB_ADMIN_NAME", ""))
        parser.add_argument("--email", default=os.environ.get("KVMWEB_ADMIN_EMAIL", ""))
        parser.add_argument(
            "--password-file", default="", help="its first line; better than an environment"
        )
        parser.add_argument(
            "--generate", action="store_true", help="make a password and print it, once"
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        defaults.ensure_site_limits()
        name = options["admin"]
        if not name:
            self.stdout.write("Defaults are set. No admin was named.")
            return
        user = User.objects.filter(username=name).first()
        if user is not None:
            self._make_admin_again(user)
            return
        password, shown = self._password(options)
        try:
            services.create_user(None, name, options["email"], password, is_staff=True)
        except DomainError as exc:
            raise CommandError(messages.text(exc.code, exc.params)) from exc
        self.stdout.write(f"Admin {name} was made.")
        if shown:
            self.stdout.write(f"Password (shown once): {password}")

    def _make_admin_again(self, user: User) -> None:
        services.complete_new_user(user)
        if not user.is_admin:
            raise CommandError(
                f"There is a user {user.username} who is not an active admin. Name another one."
            )
        self.stdout.write(f"Admin {user.username} exists.")

    def _password(self, options: dict[str, Any]) -> tuple[str, bool]:
        """The password, and whether it is to be printed."""
        if path := options["password_file"]:
            try:
                with open(path, encoding="utf-8") as lines:  # noqa: PTH123
                    password = lines.readline().rstrip("\n")
            except OSError as exc:
                raise CommandError(f"Cannot read {path}: {exc.strerror}") from exc
        else:
            password = os.environ.get("KVMWEB_ADMIN_PASSWORD", "")
        if password:
            return password, False
        if options["generate"]:
            return services.generate_password(), True
        raise CommandError(
            "The admin needs a password: --password-file, KVMWEB_ADMIN_PASSWORD or --generate."
        )
