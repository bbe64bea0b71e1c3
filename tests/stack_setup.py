"""``python -m tests.stack_setup JSON``: people, hosts and images of a ``tests.stack.Stack``.

Prints the people's API tokens as JSON. Runs in a process of its own, with the stack's settings.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import django

django.setup()

from accounts import defaults, services, tokens  # noqa: E402 - after django.setup
from accounts.models import QuotaLimit, Resource, User  # noqa: E402
from hosts import services as hosts  # noqa: E402
from hosts.models import Host  # noqa: E402
from tests.stack import PASSWORD  # noqa: E402
from vms.images import services as images  # noqa: E402
from vms.images.details import Details  # noqa: E402

PEOPLE = {"admin": True, "owner": False, "outsider": False}


def set_up(wanted: dict[str, Any]) -> dict[str, str]:
    defaults.ensure_site_limits()
    # Drills and benchmarks make many machines; what a limit does has tests of its own.
    for resource in Resource:
        QuotaLimit.objects.update_or_create(
            scope="site", resource=resource, defaults={"hard": QuotaLimit.UNLIMITED}
        )
    secrets = {name: _person(name, is_staff=staff) for name, staff in PEOPLE.items()}
    admin = User.objects.get(username="admin")
    for name, socket_path in wanted["hosts"]:
        host, _made = hosts.ensure_host(name=name, transport="unix", socket_path=socket_path)
        # Small guests that mostly sleep: many more than a careful admin would promise.
        Host.objects.filter(pk=host.pk).update(vcpu_ratio=64)
    for image in wanted["images"]:
        images.add_file(
            actor=admin,
            path=Path(image["path"]),
            about=Details(
                name=image["name"],
                os_id=image["os_id"],
                default_user=image["default_user"],
                min_memory_mib=image["min_memory_mib"],
                has_cloud_init=image["has_cloud_init"],
            ),
            publish=True,
        )
    return secrets


def _person(name: str, *, is_staff: bool) -> str:
    user = User.objects.filter(username=name).first() or services.create_user(
        None, name, f"{name}@example.test", PASSWORD, is_staff=is_staff
    )
    scopes = tokens.SCOPES if is_staff else ("read", "write")
    return tokens.issue(user, "stack", scopes, None)[1]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(set_up(json.loads(sys.argv[1]))) + "\n")
