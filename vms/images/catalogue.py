"""Well-known cloud images that an admin adds with one choice (``catalogue.json``).

Each entry names the vendor's own checksum file: it is read, under the same rules as the image
itself, when the job runs, so a new build of the vendor is taken with its own checksum.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from accounts.errors import Invalid
from vms.images import details
from vms.images.details import Details


@dataclass(frozen=True, kw_only=True)
class Entry:
    key: str
    name: str
    os_id: str
    version: str
    default_user: str
    url: str
    checksum_url: str
    min_memory_mib: int
    min_disk_gib: int
    recommended_memory_mib: int
    recommended_disk_gib: int

    @property
    def icon(self) -> str:
        return details.family(self.os_id)

    def about(self, name: str = "") -> Details:
        """What the image will be called and need."""
        return Details(
            name=name or self.name,
            os_id=self.os_id,
            version=self.version,
            default_user=self.default_user,
            min_memory_mib=self.min_memory_mib,
            min_disk_gib=self.min_disk_gib,
            recommended_memory_mib=self.recommended_memory_mib,
            recommended_disk_gib=self.recommended_disk_gib,
        )


@cache
def entries() -> tuple[Entry, ...]:
    path = Path(__file__).parent / "catalogue.json"
    return tuple(Entry(**entry) for entry in json.loads(path.read_text()))


def find(key: str) -> Entry:
    for entry in entries():
        if entry.key == key:
            return entry
    code = "image.catalogue_unknown"
    raise Invalid(code, fields={"catalogue": code})
