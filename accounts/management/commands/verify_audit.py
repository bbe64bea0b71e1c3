"""Check that the audit record is as it was written."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts import chain

_WHY = {
    "changed": "entry {broken} is not as it was written",
    "missing": "entry {broken} is missing",
    "unsealed": "an entry after {head} has no place in the chain",
    "anchor": "the anchor that the chain hangs on was changed",
    "head": "entry {broken} is not there with the hash that was noted",
}


class Command(BaseCommand):
    help = (
        "Follow the chain of the audit record. Prints its newest place and hash: keep that line "
        "somewhere else and pass it as --expect later, since only so a cut off end can be seen."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--expect", metavar="SEQ:HASH", help="a place and its hash that were noted earlier"
        )

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ARG002
        chain.seal()
        found = chain.verify(expect=_expected(options["expect"]))
        if not found.holds:
            why = _WHY[found.why].format(broken=found.broken, head=found.head)
            raise CommandError(f"The audit record was tampered with: {why}.")
        self.stdout.write(f"{found.checked} entries hold, from {found.first}.")
        self.stdout.write(f"{found.head}:{found.head_hash}")


def _expected(text: str | None) -> tuple[int, str] | None:
    if not text:
        return None
    seq, _, head = text.strip().partition(":")
    if not seq.isdecimal() or not head:
        raise CommandError("--expect is SEQ:HASH, as this command printed it.")
    return int(seq), head
