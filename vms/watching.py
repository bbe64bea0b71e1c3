"""What the watcher tells about domains, written to machines' rows.

Called on the watcher's thread of the host (``hosts.watch.listeners``). Everything that a guest
or a host says is taken as what it is: a claim of one host about its own domains.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING

from django.db.models import Q
from django.utils import timezone

from accounts import sharing
from hosts import watch
from hosts.virt.errors import NoSuchDomain
from hosts.virt.spec import DomainState
from jobs import live
from jobs import services as job_services
from jobs.models import Job
from vms import adoption, discs, idle, state
from vms.firstboot import CHANNEL, Reports
from vms.guest import reading
from vms.models import VM, Nic
from vms.moving.requests import KIND as MOVE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from uuid import UUID

    from hosts.models import Host
    from hosts.virt.protocol import Hypervisor
    from hosts.virt.spec import ChannelData, DomainEvent, DomainFacts, Lease
    from hosts.watch import DomainSample

# After this a machine without an address is no reason to ask its host every second.
ADDRESS_PATIENCE = timedelta(minutes=10)
# So long a machine that has left counts as running: the host where it went speaks soon.
MOVE_SETTLES_S = 5.0
# More machines than this are not named one by one when their host comes or goes.
NUDGE_EACH_UP_TO = 300
# Not needed to compare, and large.
_BULKY = ("user_data", "ssh_keys", "first_boot_excerpt", "description")


# Events that nobody's job here may have caused -> what the timeline says.
_CHANGES = {
    ("lifecycle", "defined"): "defined",
    ("device", "added"): "device_added",
    ("device", "removed"): "device_removed",
}


class MachineListener:
    """Keeps machines' rows true. One for the process; hosts' threads share it."""

    def __init__(self) -> None:
        self._reports = Reports()
        # Migrations are believed when both hosts have said their part, in whatever order: one has
        # it running though the row is another's; the other says that it has left (which host, and
        # when it first did). A host's word alone takes no machine from another.
        self._arrived: dict[UUID, tuple[Host, DomainFacts]] = {}
        self._left: dict[UUID, tuple[int, float]] = {}

    def on_sync(self, host: Host, domains: Sequence[DomainFacts], hypervisor: Hypervisor) -> None:
        listed = {facts.uuid: facts for facts in domains}
        rows = {
            vm.uuid: vm
            for vm in VM.objects.alive()
            .filter(Q(host=host) | Q(uuid__in=list(listed)))
            .defer(*_BULKY)
        }
        for uuid, vm in rows.items():
            self._compare(host, vm, listed.get(uuid), hypervisor)
        strangers = [facts for uuid, facts in listed.items() if uuid not in rows]
        adoption.note_strangers(host, strangers, hypervisor)

    def _compare(
        self, host: Host, vm: VM, listed: DomainFacts | None, hypervisor: Hypervisor
    ) -> None:
        if listed is None and vm.host_id != host.pk:
            return
        if not state.is_news(vm, listed) and vm.host_id == host.pk:
            return
        # The list may be older than what a job has just written: look again before saying so.
        try:
            facts = hypervisor.domain(vm.uuid)
        except NoSuchDomain:
            facts = None
        self._tell(host, vm, facts)

    def on_domain(
        self, host: Host, uuid: UUID, facts: DomainFacts | None, event: DomainEvent | None
    ) -> None:
        vm = VM.objects.alive().defer(*_BULKY).filter(uuid=uuid).first()
        if vm is None:
            if facts is None:
                adoption.forget(host, uuid)
            else:
                adoption.note_stranger(host, facts)
            return
        if event is not None and event.kind == "reboot" and facts is not None:
            state.note_reboot(vm)
            discs.after_reboot(vm)
        if event is not None and facts is not None and vm.host_id == host.pk:
            changed = _CHANGES.get((event.kind, event.detail))
            if changed:
                state.note_outside(vm, changed)
        if event is not None and event.kind == "agent":
            self._agent(vm, connected=event.detail.startswith("connected"))
        self._tell(host, vm, facts)
        if event is not None and event.kind == "lifecycle" and event.detail == "stopped":
            discs.after_stop(vm)

    def _tell(self, host: Host, vm: VM, facts: DomainFacts | None) -> None:
        if vm.moving_to_id is not None and _is_moved(vm):
            return  # which of two hosts has it is the job's to say, and how it is there
        if vm.host_id != host.pk:
            self._claimed(host, vm, facts)
            return
        departed = facts is not None and _has_departed(facts)
        if (facts is None or departed) and self._follow(vm):
            return
        if departed:
            said_by, began = self._left.get(vm.uuid, (0, 0.0))
            if said_by != host.pk:
                began = time.monotonic()
                self._left[vm.uuid] = (host.pk, began)
            if vm.observed in state.ON and time.monotonic() - began < MOVE_SETTLES_S:
                return  # the watcher looks again
        self._left.pop(vm.uuid, None)
        state.observe(vm, facts)

    def _claimed(self, host: Host, vm: VM, facts: DomainFacts | None) -> None:
        """Another host has it. Only a machine that its own host has lost may be taken over."""
        if facts is None or facts.state.value not in state.ON:
            if vm.uuid in self._arrived and self._arrived[vm.uuid][0].pk == host.pk:
                del self._arrived[vm.uuid]
        else:
            self._arrived[vm.uuid] = (host, facts)
        if facts is not None:
            said_by, _ = self._left.get(vm.uuid, (0, 0.0))
            self._take_over(vm, host, facts, left=said_by == vm.host_id)

    def _follow(self, vm: VM) -> bool:
        """Its own host says that it has it no more: to where it has gone, where that is known."""
        known = self._arrived.get(vm.uuid)
        return known is not None and self._take_over(vm, *known, left=True)

    def _take_over(self, vm: VM, host: Host, facts: DomainFacts, *, left: bool) -> bool:
        left = left and facts.state.value in state.ON
        if not adoption.take_over(vm, host, facts, left=left):
            return False
        self._arrived.pop(vm.uuid, None)
        self._left.pop(vm.uuid, None)
        state.observe(vm, facts)
        return True

    def _agent(self, vm: VM, *, connected: bool) -> None:
        if connected and not vm.agent_seen:
            VM.objects.filter(pk=vm.pk).update(agent_seen=True)
            state.announce(vm)
            job_services.wake(vm_id=vm.pk)
        if connected:
            reading.ask(vm, every_s=reading.PRESSED_S)

    def on_samples(self, host: Host, samples: Sequence[DomainSample]) -> None:
        """One UPDATE for all of them, and no nudge: pages ask for figures while they are seen."""
        by_uuid = {sample.uuid: sample for sample in samples}
        now = timezone.now()
        idle.note_activity(host, samples)
        rows = [
            VM(
                pk=pk,
                cpu_percent=by_uuid[uuid].cpu_percent,
                memory_used_mib=by_uuid[uuid].memory_used_mib,
                sampled_at=now,
            )
            for pk, uuid in VM.objects.alive()
            .filter(host=host, observed__in=state.ON)
            .values_list("pk", "uuid")
            if uuid in by_uuid
        ]
        VM.objects.bulk_update(rows, ["cpu_percent", "memory_used_mib", "sampled_at"])

    def on_leases(self, host: Host, leases: Sequence[Lease]) -> None:
        found: dict[tuple[str, str], list[str]] = {}
        for lease in leases:
            found.setdefault((lease.network, lease.mac.lower()), []).append(lease.address)
        if not found:
            return
        nics = Nic.objects.filter(
            vm__host=host, vm__deleted_at=None, vm__observed__in=state.ON
        ).select_related("vm")
        for nic in nics:
            addresses = _in_order(found.get((nic.network, nic.mac.lower()), ()))
            if addresses and addresses != nic.addresses:
                Nic.objects.filter(pk=nic.pk).update(
                    addresses=addresses, addresses_at=timezone.now()
                )
                state.announce(nic.vm)
                job_services.wake(vm_id=nic.vm_id)

    def on_channel(self, host: Host, data: ChannelData) -> None:
        report = self._reports.feed(data.uuid, data.data) if data.channel == CHANNEL else None
        if report is None:
            return
        vm = VM.objects.alive().filter(uuid=data.uuid, host=host).first()
        if vm is not None:
            state.note_first_boot(vm, failed=report.failed, excerpt=report.detail)
        self._reports.forget(data.uuid)

    def on_reach(self, host: Host, *, up: bool) -> None:
        """Machines keep their state; their pages say that the host is away, and since when."""
        machines = VM.objects.alive().filter(host=host)
        people = {
            group
            for owner_id, team_id in machines.values_list("owner_id", "team_id").distinct()
            for group in live.machine_groups(owner_id, team_id)
        }
        shared = sharing.shared_among(machines.values("uuid"))
        people |= {live.machine_group(uuid) for uuid in shared}
        live.publish_on_commit("host", host.pk, groups=people)
        for vm in machines.only("uuid", "owner_id", "team_id")[:NUDGE_EACH_UP_TO]:
            state.announce(vm)
            if up:
                job_services.wake(vm_id=vm.pk)

    def channels_wanted(self, host: Host) -> set[tuple[UUID, str]]:
        waiting = VM.objects.alive().filter(
            host=host, observed=VM.Observed.RUNNING, first_boot=VM.FirstBoot.PENDING
        )
        wanted = set(waiting.values_list("uuid", flat=True))
        return {(uuid, CHANNEL) for uuid in wanted if not self._reports.is_spent(uuid)}

    def leases_wanted(self, host: Host) -> bool:
        return Nic.objects.filter(
            vm__host=host,
            vm__deleted_at=None,
            vm__observed=VM.Observed.RUNNING,
            vm__started_at__gte=timezone.now() - ADDRESS_PATIENCE,
            addresses=[],
        ).exists()


def _is_moved(vm: VM) -> bool:
    return Job.objects.active().filter(vm=vm, kind=MOVE).exists()


def _has_departed(facts: DomainFacts) -> bool:
    return facts.state is DomainState.SHUTOFF and facts.reason == "migrated"


def _in_order(addresses: Iterable[str]) -> list[str]:
    """IPv4 first: what a person types."""
    return sorted(set(addresses), key=lambda address: (":" in address, address))


def register() -> None:
    watch.register_listener(MachineListener())
