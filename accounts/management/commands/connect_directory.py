"""``manage.py connect_directory``: an account that was here before becomes a directory person's."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts import directory_people, messages
from accounts.errors import DomainError
from accounts.ldap import DirectoryUnreachableError
from accounts.models import User


class Command(BaseCommand):
    help = (
        "Connect an account with a person of an LDAP directory: from then on they sign in with "
        "the directory's password, and the one here ends."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username", help="of the account here")
        parser.add_argument("directory", help='its "id" in KVMWEB_LDAP_FILE')
        parser.add_argument("--name", help="what the directory calls them, if otherwise")

    def handle(self, *_args: Any, **options: Any) -> None:
        user = User.objects.filter(username=options["username"]).first()
        if user is None:
            raise CommandError(f"There is no user {options['username']}.")
        known = {one.id: one for one in directory_people.all_directories()}
        one = known.get(options["directory"])
        if one is None or not one.searches:
            raise CommandError(
                f"KVMWEB_LDAP_FILE has no directory {options['directory']} with a search account."
            )
        try:
            person = directory_people.connect(
                user=user, one=one, name=options["name"] or user.username
            )
        except DomainError as exc:
            raise CommandError(messages.text(exc.code, exc.params)) from exc
        except DirectoryUnreachableError as exc:
            raise CommandError(f"No answer: {exc}") from exc
        self.stdout.write(f"{user.username} signs in as {person.dn} from now on.")
