"""``manage.py check_directory``: whether the LDAP directories answer, and what they know."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts import directory_people, ldap
from accounts.ldap import Directory, DirectoryUnreachableError


class Command(BaseCommand):
    help = "Ask each LDAP directory whom it knows by a name, and by which groups."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help="as the person would type it")

    def handle(self, *_args: Any, **options: Any) -> None:
        directories = directory_people.all_directories()
        if not directories:
            raise CommandError("KVMWEB_LDAP_FILE names no directory.")
        failed = [one.id for one in directories if not self._check(one, options["name"])]
        if failed:
            raise CommandError(f"No answer from {', '.join(failed)}.")

    def _check(self, one: Directory, name: str) -> bool:
        if not one.searches:
            self.stdout.write(f"{one.id}: it has no search account; it is asked at a sign-in only")
            return True
        try:
            person = ldap.find(one, name)
        except DirectoryUnreachableError as exc:
            self.stdout.write(f"{one.id}: {exc}")
            return False
        if person is None:
            self.stdout.write(f"{one.id}: it answers, and knows nobody called {name}")
            return True
        self.stdout.write(f"{one.id}: {person.dn}")
        self.stdout.write(f"  user name {person.username}, address {person.email or 'none'}")
        for group in sorted(person.groups):
            self.stdout.write(f"  in {group}")
        return True
