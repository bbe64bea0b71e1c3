"""Keys by the names that people know, as the codes that Linux has for them
(``include/uapi/linux/input-event-codes.h``; libvirt's key set "linux")."""

from __future__ import annotations

from collections.abc import Sequence

from accounts.errors import Invalid

MOST = 5  # pressed together
_ROWS = (
    (2, "1234567890"),
    (16, "qwertyuiop"),
    (30, "asdfghjkl"),
    (44, "zxcvbnm"),
)
CODES: dict[str, int] = {
    "esc": 1,
    "backspace": 14,
    "tab": 15,
    "enter": 28,
    "ctrl": 29,
    "shift": 42,
    "alt": 56,
    "space": 57,
    "altgr": 100,
    "sysrq": 99,
    "home": 102,
    "up": 103,
    "pageup": 104,
    "left": 105,
    "right": 106,
    "end": 107,
    "down": 108,
    "pagedown": 109,
    "insert": 110,
    "delete": 111,
    "meta": 125,
    **{f"f{number}": 58 + number for number in range(1, 11)},
    "f11": 87,
    "f12": 88,
    **{key: first + index for first, row in _ROWS for index, key in enumerate(row)},
}
# What the page offers; people type the rest on the console.
PRESETS: dict[str, tuple[str, ...]] = {
    "ctrl-alt-delete": ("ctrl", "alt", "delete"),
    **{f"ctrl-alt-f{n}": ("ctrl", "alt", f"f{n}") for n in range(1, 8)},
    "alt-sysrq-s": ("alt", "sysrq", "s"),
    "alt-sysrq-b": ("alt", "sysrq", "b"),
}


def codes(names: Sequence[str]) -> list[int]:
    """Raises Invalid for a name that no key has, for none, and for too many."""
    if not 1 <= len(names) <= MOST or not all(name in CODES for name in names):
        raise Invalid("keys.unknown", fields={"keys": "keys.unknown"}, limit=MOST)
    return [CODES[name] for name in names]
