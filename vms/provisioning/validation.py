"""What a person asked for, checked whole before any row is written."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from django.utils import timezone

from accounts import policy, sshkeys
from accounts.errors import Invalid
from accounts.policy import Action
from hosts.models import Host, Network
from vms import cloudconfig, names, osinfo, passwords
from vms.knobs import Hardware, Wish, settle
from vms.lease_rules import Rulebook, Terms, end_problem
from vms.models import VM, Image

if TYPE_CHECKING:
    from accounts.models import Team, User
    from vms.models import Batch, Flavor

GIB = 1024**3
VCPUS_MAX = 64
MEMORY_MIB_MIN, MEMORY_MIB_MAX = 64, 1024 * 1024
DISK_GIB_MAX = 16 * 1024
EMPTY_DISK_GIB = 10  # where nobody says for what
KEYS_MAX = 20
TAGS_MAX = 20
DESCRIPTION_MAX = 500
TAG = re.compile(r"[\w.@+-]{1,32}")  # any script's letters; no space, no colon (tag:x searches)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A request that has passed: nothing in it needs a second look but what others may change
    meanwhile (the name, the quota)."""

    actor: User
    team: Team
    name: str
    hostname: str
    image: Image | None  # None: an empty disk
    flavor: Flavor | None
    vcpus: int
    memory_mib: int
    hardware: Hardware
    copy: str
    user: str
    password_hash: str
    ssh_keys: tuple[str, ...]
    user_data: str
    start: bool
    tags: tuple[str, ...]
    description: str
    ends_at: datetime | None  # None: without end
    batch: Batch | None = None
    batch_number: int | None = None

    @property
    def disk_gib(self) -> int:
        """Of all its disks."""
        return self.hardware.disk_gib

    @property
    def has_cloud_init(self) -> bool:
        return self.image is not None and self.image.has_cloud_init


@dataclass
class Problems:
    """Gathers what is wrong with each input, to be told all at once."""

    fields: dict[str, str] = dataclass_field(default_factory=dict)
    params: dict[str, dict[str, Any]] = dataclass_field(default_factory=dict)

    def add(self, field: str, code: str, /, **params: Any) -> None:
        if field not in self.fields:
            self.fields[field] = code
            self.params[field] = params

    def catch(self, name: str, check: Callable[[], Any]) -> Any:
        """``check()``'s value, or None with its ``Invalid`` noted under ``name``."""
        try:
            return check()
        except Invalid as error:
            self.add(name, error.fields.get(name, error.code), **error.params)
            return None

    def raise_if_any(self) -> None:
        if self.fields:
            raise Invalid("vm.invalid", fields=self.fields, field_params=self.params)


def check_edit(
    problems: Problems, *, name: str | None, description: str | None, tags: list[str] | None
) -> tuple[str, ...] | None:
    """What can be changed later as well. Returns the tags as they are kept."""
    if name is not None:
        problems.catch("name", lambda: names.validate_name(name))
    if description is not None:
        if len(description) > DESCRIPTION_MAX:
            problems.add("description", "vm.description_long", limit=DESCRIPTION_MAX)
        elif any(ord(c) < 32 and c not in "\n\r\t" for c in description):
            problems.add("description", "vm.description_control")
    if tags is None:
        return None
    kept = tuple(dict.fromkeys(tag.strip() for tag in tags if tag.strip()))
    if len(kept) > TAGS_MAX:
        problems.add("tags", "vm.tags_many", limit=TAGS_MAX)
    if wrong := next((tag for tag in kept if not TAG.fullmatch(tag)), None):
        problems.add("tags", "vm.tag_wrong", tag=wrong[:40])
    return kept


def validate(
    *,
    actor: User,
    team: Team,
    name: str,
    image: Image | None,
    flavor: Flavor | None,
    vcpus: int | None,
    memory_mib: int | None,
    disk_gib: int | None,
    network: str,
    copy: str,
    user: str,
    password: str,
    ssh_keys: list[str],
    user_data: str,
    hostname: str,
    start: bool,
    tags: list[str],
    description: str,
    ends_at: datetime | None,
    image_allowed: bool = False,
    wish: Wish | None = None,
    many: bool = False,
) -> Wanted:
    """Everything that is wrong, as one ``Invalid`` with a code for each input. ``ends_at`` None:
    what the rules say.

    Raises NotFound or Forbidden where the team is not theirs to use.
    """
    policy.require(actor, Action.TEAM_CREATE_VM, team)
    problems = Problems()
    kept_tags = check_edit(problems, name=name, description=description, tags=tags)
    if hostname:
        problems.catch("hostname", lambda: names.validate_hostname(hostname))
    if image is not None:
        _check_image(problems, actor, image, allowed=image_allowed)
    wish = wish or Wish()
    _check_discs(problems, actor, wish)
    size = _size(
        problems,
        image,
        os_id=wish.os_id,
        flavor=flavor,
        vcpus=vcpus,
        memory_mib=memory_mib,
        disk_gib=disk_gib,
    )
    _check_network(problems, network)
    if copy not in VM.Copy.values:
        problems.add("copy", "vm.copy_unknown")
    if image is None or image.kind == Image.Kind.ISO:
        copy = VM.Copy.LINKED  # there is nothing to copy: its disk is empty
    user = user or (image.default_user if image else "")
    _check_access(problems, image, user, password, user_data)
    keys = _keys(problems, ssh_keys)
    terms = Rulebook.read().terms(team.pk, flavor.pk if flavor else None)
    if ends_at is not None:
        _check_end(problems, terms, ends_at, free=policy.can(actor, Action.SITE_ADMIN))
    if (password or keys) and not user and image is not None and image.has_cloud_init:
        problems.add("user", "vm.user_missing")
    hardware = settle(
        problems,
        wish,
        image=image,
        vcpus=size[0],
        disk_gib=size[2],
        network=network,
        networks=usable_networks(),
        linked=copy == VM.Copy.LINKED and image is not None and image.kind == Image.Kind.DISK,
        many=many,
    )
    problems.raise_if_any()
    return Wanted(
        actor=actor,
        team=team,
        name=name,
        hostname=hostname or name,
        image=image,
        flavor=flavor,
        vcpus=size[0],
        memory_mib=size[1],
        hardware=hardware,
        copy=copy,
        user=user,
        password_hash=passwords.hash(password) if password else "",
        ssh_keys=keys,
        user_data=user_data,
        start=start,
        tags=kept_tags or (),
        description=description.strip(),
        ends_at=ends_at or terms.first_end(timezone.now()),
    )


def _check_end(problems: Problems, terms: Terms, ends_at: datetime, *, free: bool) -> None:
    now = timezone.now()
    if code := end_problem(terms, ends_at, made_at=now, free=free):
        problems.add("ends_at", code, latest_at=terms.latest_text(now))


def _check_image(problems: Problems, actor: User, image: Image, *, allowed: bool) -> None:
    if image.state != Image.State.READY:
        problems.add("image", "vm.image_not_ready", name=image.name)
    elif not allowed and not policy.can(actor, Action.IMAGE_USE, image):
        problems.add("image", "vm.image_unknown", name=image.name)


def _check_discs(problems: Problems, actor: User, wish: Wish) -> None:
    for disc in wish.discs:
        if not policy.can(actor, Action.IMAGE_USE, disc):
            problems.add("discs", "vm.image_unknown", name=disc.name)


def _size(
    problems: Problems,
    image: Image | None,
    *,
    os_id: str,
    flavor: Flavor | None,
    vcpus: int | None,
    memory_mib: int | None,
    disk_gib: int | None,
) -> tuple[int, int, int]:
    """(vCPUs, MiB, GiB), within the site's limits and not below what the image needs."""
    if flavor is not None:
        if not flavor.published:
            problems.add("flavor", "vm.flavor_unknown", name=flavor.name)
        if vcpus is not None or memory_mib is not None:
            problems.add("flavor", "vm.flavor_or_custom")
        vcpus, memory_mib = flavor.vcpus, flavor.memory_mib
    elif vcpus is None or memory_mib is None:
        problems.add("flavor", "vm.size_missing")
    if vcpus is not None and not 1 <= vcpus <= VCPUS_MAX:
        problems.add("vcpus", "vm.vcpus_range", limit=VCPUS_MAX)
    if memory_mib is not None:
        _check_memory(problems, image, memory_mib, field="flavor" if flavor else "memory_mib")
    if disk_gib is None:
        wanted = flavor.disk_gib if flavor else advised_disk_gib(image, os_id)
        disk_gib = max(wanted, disk_minimum_gib(image))
    _check_disk(problems, image, disk_gib)
    return vcpus or 0, memory_mib or 0, disk_gib


def _check_memory(problems: Problems, image: Image | None, memory_mib: int, *, field: str) -> None:
    least = image.min_memory_mib if image else 0
    if not MEMORY_MIB_MIN <= memory_mib <= MEMORY_MIB_MAX:
        problems.add(field, "vm.memory_range", minimum=MEMORY_MIB_MIN, maximum=MEMORY_MIB_MAX)
    elif image is not None and memory_mib < least:
        problems.add(field, "vm.memory_small", image=image.name, minimum=least, given=memory_mib)


def _check_disk(problems: Problems, image: Image | None, disk_gib: int) -> None:
    least = disk_minimum_gib(image)
    if not 1 <= disk_gib <= DISK_GIB_MAX:
        problems.add("disk_gib", "vm.disk_range", maximum=DISK_GIB_MAX)
    elif image is not None and disk_gib < least:
        problems.add("disk_gib", "vm.disk_small", image=image.name, minimum=least, given=disk_gib)


def advised_disk_gib(image: Image | None, os_id: str) -> int:
    """For the disk of one whose size nobody said; 0 where nothing is known."""
    if image is not None and image.kind == Image.Kind.DISK:
        return image.recommended_disk_gib
    found = osinfo.find(os_id or (image.os_id if image else ""))
    return found.os.recommended_disk_gib if found else EMPTY_DISK_GIB


def disk_minimum_gib(image: Image | None) -> int:
    """A disk cannot be smaller than the file system that the image brings; a disc to install from
    brings none."""
    if image is None:
        return 1
    if image.kind == Image.Kind.ISO:
        return max(1, image.min_disk_gib)
    return max(1, image.min_disk_gib, -(-image.virtual_size_bytes // GIB))


def usable_networks() -> set[str]:
    """Names of the networks that some host offers to people now."""
    rows = Network.objects.filter(active=True, public=True, host__mode=Host.Mode.ACTIVE)
    return set(rows.values_list("name", flat=True))


def _check_network(problems: Problems, network: str) -> None:
    if network not in usable_networks():
        problems.add("network", "vm.network_unknown", name=network[:64])


def _check_access(
    problems: Problems, image: Image | None, user: str, password: str, user_data: str
) -> None:
    if user and not (image and user == image.default_user):
        problems.catch("user", lambda: names.validate_username(user))
    if password:
        problems.catch("password", lambda: passwords.validate(password))
    if user_data.strip():
        problems.catch("user_data", lambda: cloudconfig.parse(user_data, first_user=user))
    if user_data.strip() or password:
        field = "password" if password else "user_data"
        if image is None:
            problems.add(field, "vm.empty_no_cloud_init")
        elif not image.has_cloud_init:
            problems.add(field, "vm.no_cloud_init", name=image.name)


def _keys(problems: Problems, texts: list[str]) -> tuple[str, ...]:
    """The keys as they go into the guest: parsed, each once, with their comment."""
    if len(texts) > KEYS_MAX:
        problems.add("ssh_keys", "vm.keys_many", limit=KEYS_MAX)
        return ()
    kept: dict[str, str] = {}
    for text in texts:
        if not text.strip():
            continue
        key = problems.catch("ssh_keys", partial(sshkeys.parse, text))
        if key is not None:
            kept[key.fingerprint] = key.line
    return tuple(kept.values())
