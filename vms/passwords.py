"""First-boot passwords: made readable, hashed before they are written anywhere."""

from __future__ import annotations

import secrets

from passlib.hash import sha512_crypt

from accounts.errors import Invalid

# A guest under emulation checks a password 10 to 20 times slower than this machine: 50,000 rounds
# are 16 ms here and stay under half a second there. glibc's default is 5,000.
ROUNDS = 50_000
MIN_LENGTH = 8
MAX_LENGTH = 128
# Without the letters and digits that are mistaken for each other on a console (l 1 I, o 0 O).
_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
_GROUPS, _GROUP_LENGTH = 4, 5  # 20 characters of 5 bits: 100 bits


def validate(password: str, *, field: str = "password") -> str:
    """The password as given; ``Invalid`` when too short, too long, or not typeable."""
    if len(password) < MIN_LENGTH:
        raise Invalid(
            "password.short", fields={field: "password.short"}, password_minimum=MIN_LENGTH
        )
    if len(password) > MAX_LENGTH:
        code = "password.long"
        raise Invalid(code, fields={field: code}, password_maximum=MAX_LENGTH)
    if not all(" " <= c <= "~" for c in password):  # a console's login takes no more than ASCII
        raise Invalid("password.characters", fields={field: "password.characters"})
    return password


def hash(password: str) -> str:  # noqa: A001 - read as passwords.hash
    """crypt(3) SHA-512: the one method that glibc, musl and busybox all check."""
    return str(sha512_crypt.using(rounds=ROUNDS).hash(password))  # type: ignore[no-untyped-call]


def generate() -> str:
    """A strong password that can be read aloud and typed into a console: ``k7mwx-...``."""
    return "-".join(
        "".join(secrets.choice(_ALPHABET) for _ in range(_GROUP_LENGTH)) for _ in range(_GROUPS)
    )
