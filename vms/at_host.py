"""What each job step about a machine needs: its row, its hypervisor, and a look at the domain."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from django.utils import timezone

from hosts import connections
from hosts.virt.errors import AgentSilent, NoSuchDomain, Unsupported, WrongState
from hosts.virt.spec import DomainState
from vms import state
from vms.models import VM, Nic

if TYPE_CHECKING:
    from hosts.virt.protocol import Hypervisor
    from hosts.virt.spec import DomainFacts
    from jobs.context import JobContext

log = logging.getLogger(__name__)

ON = (DomainState.RUNNING, DomainState.PAUSED)


def machine(ctx: JobContext) -> VM:
    """The job's machine as it is now (a step never trusts what an earlier step read)."""
    pk = ctx.job.vm_id
    if pk is None:
        raise RuntimeError(f"job {ctx.job.pk} is about no machine")
    return VM.objects.select_related("host", "image", "iso", "team", "owner").get(pk=pk)


def hypervisor(vm: VM) -> Hypervisor:
    if vm.host is None:
        raise RuntimeError(f"machine {vm.uuid} has no host yet")
    return connections.hypervisor(vm.host)


def look(vm: VM) -> DomainFacts | None:
    """Read the domain and write down what was seen, so that pages do not wait for the watcher.
    None: the host does not know it."""
    try:
        facts = hypervisor(vm).domain(vm.uuid)
    except NoSuchDomain:
        return None
    state.observe(vm, facts)
    return facts


def is_on(vm: VM) -> bool:
    facts = look(vm)
    return facts is not None and facts.state in ON


def find_addresses(vm: VM) -> bool:
    """Whether an address is known; asks the DHCP leases, and the guest agent where one was seen."""
    if any(nic.addresses for nic in vm.nics.all()):
        return True
    at_host = hypervisor(vm)
    found = at_host.addresses(vm.uuid, source="lease")
    if not found and vm.agent_seen:
        try:
            found = at_host.addresses(vm.uuid, source="agent")
        except (AgentSilent, Unsupported, WrongState) as error:
            log.info("no addresses from the agent of %s: %s", vm.uuid, error)
    return remember_addresses(vm, found)


def remember_addresses(vm: VM, found: dict[str, list[str]]) -> bool:
    known = False
    for nic in vm.nics.all():
        addresses = found.get(nic.mac)
        if addresses:
            known = True
            Nic.objects.filter(pk=nic.pk).update(addresses=addresses, addresses_at=timezone.now())
    if known:
        state.announce(vm)
    return known
