"""What all hosts together can carry, for ``accounts.carrying``. Database only."""

from __future__ import annotations

from accounts import carrying
from accounts.carrying import Load
from accounts.models import Resource
from hosts import capacity
from hosts.models import Host


@carrying.register
def of_all_hosts() -> dict[Resource, Load]:
    """Of the hosts that take new machines: vCPUs and memory of all machines on them, and disk."""
    hosts = list(Host.objects.filter(mode=Host.Mode.ACTIVE).prefetch_related("pools"))
    of_hosts = capacity.of_hosts(hosts).values()
    disk_committed = disk_capacity = 0
    for host in hosts:
        pools = [pool for pool in host.pools.all() if pool.active]
        for one in capacity.of_pools(pools, host.disk_ratio).values():
            written = one.capacity_bytes - one.available_bytes
            disk_committed += written + one.unwritten_bytes
            disk_capacity += written + one.limit_bytes
    return {
        Resource.VCPUS: Load(
            committed=sum(one.vcpus_all for one in of_hosts),
            capacity=sum(one.vcpus_limit for one in of_hosts),
        ),
        Resource.MEMORY_MIB: Load(
            committed=sum(one.memory_all_mib for one in of_hosts),
            capacity=sum(one.memory_limit_mib for one in of_hosts),
        ),
        Resource.RUNNING_VCPUS: Load(
            committed=sum(one.vcpus_promised for one in of_hosts),
            capacity=sum(one.vcpus_limit for one in of_hosts),
        ),
        Resource.RUNNING_MEMORY_MIB: Load(
            committed=sum(one.memory_promised_mib for one in of_hosts),
            capacity=sum(one.memory_limit_mib for one in of_hosts),
        ),
        Resource.DISK_GIB: Load(
            committed=disk_committed // capacity.GIB, capacity=disk_capacity // capacity.GIB
        ),
    }
