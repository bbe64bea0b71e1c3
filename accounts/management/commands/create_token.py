"""``manage.py create_token``: an API token for somebody, its secret on the standard output."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from accounts import messages, tokens
from accounts.errors import DomainError
from accounts.models import User


class Command(BaseCommand):
    help = "Make an API token; prints the secret alone, once. Only its hash is stored."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username")
        parser.add_argument("--name", default="command line")
        parser.add_argument("--scopes", default="read,write", help="of read, write, admin")
        parser.add_argument("--days", type=int, default=0, help="how long it lives; 0: for ever")

    def handle(self, *_args: Any, **options: Any) -> None:
        user = User.objects.filter(username=options["username"], is_active=True).first()
        if user is None:
            raise CommandError(f"There is no active user {options['username']}.")
        scopes = [scope.strip() for scope in options["scopes"].split(",") if scope.strip()]
        days = options["days"]
        expires_at = timezone.now() + timedelta(days=days) if days else None
        try:
            _, secret = tokens.issue(user, options["name"], scopes, expires_at)
        except DomainError as exc:
            raise CommandError(messages.text(exc.code, exc.params)) from exc
        self.stdout.write(secret)
