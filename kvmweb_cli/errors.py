"""What a command tells its person and ends with."""

from __future__ import annotations


class CommandError(Exception):
    """Its text is printed; the command ends with status 1."""
