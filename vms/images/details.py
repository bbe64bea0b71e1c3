"""What an admin may say of an image, checked once for page, API and command."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any

from accounts.errors import DomainError, Invalid
from vms import names
from vms.models import Image

NAME_MAX = 64
OS_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
MEMORY_MIB_MAX = 4 * 1024 * 1024
DISK_GIB_MAX = 64 * 1024
_LENGTHS = {"version": 32, "description": 200}
_FAMILIES = {
    "debian": "debian",
    "ubuntu": "ubuntu",
    "fedora": "fedora",
    "almalinux": "almalinux",
    "rocky": "rocky",
    "alpinelinux": "alpine",
    "alpine": "alpine",
    "opensuse": "opensuse",
    "tiny": "tiny",
}


@dataclass(frozen=True, kw_only=True)
class Details:
    """Everything but the bytes. None leaves a value as it is (new images take the default)."""

    name: str | None = None
    os_id: str | None = None
    version: str | None = None
    description: str | None = None
    icon: str | None = None
    min_memory_mib: int | None = None
    min_disk_gib: int | None = None
    recommended_memory_mib: int | None = None
    recommended_disk_gib: int | None = None
    default_user: str | None = None
    has_cloud_init: bool | None = None

    def given(self) -> dict[str, Any]:
        return {
            f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None
        }


def family(os_id: str) -> str:
    """The icon's name for an OS: ``debian12`` -> ``debian``."""
    word = re.match(r"[a-z]*", os_id)
    return _FAMILIES.get(word[0] if word else "", "linux")


def apply(image: Image, details: Details) -> dict[str, Any]:
    """Write what is given into ``image`` (not saved); gives the values before.

    Raises one ``Invalid`` for all inputs that are wrong.
    """
    wrong: dict[str, str] = {}
    params: dict[str, Any] = {}
    given = details.given()
    for field, value in given.items():
        given[field], problem = _checked(field, value)
        if problem is not None:
            wrong[field] = problem.code
            params.update(problem.params)
    if not (given.get("name") or image.name):
        wrong.setdefault("name", "image.name_invalid")
    if wrong:
        code = "image.invalid" if len(wrong) > 1 else next(iter(wrong.values()))
        raise Invalid(code, fields=wrong, **params)
    before = {field: getattr(image, field) for field in given}
    for field, value in given.items():
        setattr(image, field, value)
    if not image.icon or ("os_id" in given and "icon" not in given):
        image.icon = family(image.os_id)
    return {k: v for k, v in before.items() if v != getattr(image, k)}


def _checked(field: str, value: Any) -> tuple[Any, DomainError | None]:
    try:
        return _clean(field, value), None
    except DomainError as error:
        return value, error


def _clean(field: str, value: Any) -> Any:
    if isinstance(value, str):
        value = value.strip()
    match field:
        case "name" if not 0 < len(value) <= NAME_MAX or not value.isprintable():
            raise Invalid("image.name_invalid")
        case "os_id" if not OS_ID.fullmatch(value):
            raise Invalid("image.os_id_invalid")
        case "default_user" if value:
            return names.validate_username(value)
        case "icon" if value and value not in {*_FAMILIES.values(), "linux"}:
            raise Invalid("image.icon_unknown")
        case "version" | "description":
            if len(value) > _LENGTHS[field] or not value.isprintable():
                raise Invalid("image.text_invalid", image_text_limit=_LENGTHS[field])
        case "min_memory_mib" | "recommended_memory_mib" if not 0 <= value <= MEMORY_MIB_MAX:
            raise Invalid("image.size_invalid")
        case "min_disk_gib" | "recommended_disk_gib" if not 0 <= value <= DISK_GIB_MAX:
            raise Invalid("image.size_invalid")
    return value
