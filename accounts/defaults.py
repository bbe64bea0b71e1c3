"""What a site begins with. Made after every ``migrate`` where it is missing, so that neither a
squashed migration nor a flushed test database can lose it."""

from __future__ import annotations

from typing import Any

from accounts.models import QuotaLimit, Resource

# What a team gets when nobody has set anything for it.
SITE_LIMITS = {
    Resource.MACHINES: 10,
    Resource.VCPUS: 16,
    Resource.MEMORY_MIB: 32 * 1024,
    Resource.DISK_GIB: 200,
    Resource.RUNNING_MACHINES: QuotaLimit.UNLIMITED,
    Resource.RUNNING_VCPUS: QuotaLimit.UNLIMITED,
    Resource.RUNNING_MEMORY_MIB: QuotaLimit.UNLIMITED,
    Resource.SNAPSHOTS: 20,
    Resource.BACKUPS_GIB: 200,
    Resource.PORTS: 20,
    Resource.TEMPLATES: 10,
    Resource.IMAGES_GIB: 50,
}


def ensure_site_limits(*, using: str = "default", **_signal: Any) -> None:
    """Receives ``post_migrate``; leaves what an admin has set as it is."""
    limits = QuotaLimit.objects.using(using).filter(scope=QuotaLimit.Scope.SITE)
    known = set(limits.values_list("resource", flat=True))
    QuotaLimit.objects.using(using).bulk_create(
        [
            QuotaLimit(scope=QuotaLimit.Scope.SITE, resource=resource, hard=hard)
            for resource, hard in SITE_LIMITS.items()
            if resource.value not in known
        ],
        ignore_conflicts=True,
    )
