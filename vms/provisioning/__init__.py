"""How a machine comes to be: the request (one transaction), then the steps of its job.

``batch``       many at once: numbered names, all or none
``validation``  what was asked, checked whole: every wrong input at once
``request``     writes machine, disk, card, allocation, job and audit, or nothing
``domain``      the machine as libvirt's domain
``steps``       place, image, disk, copy, seed, define, boot
``observing``   address, firstboot, finish: the machine works, its first boot is watched
"""

from vms.provisioning.batch import request_batch, retry_failed
from vms.provisioning.request import (
    name_problem,
    network_choices,
    quota_impact,
    request_vm,
)

__all__ = [
    "name_problem",
    "network_choices",
    "quota_impact",
    "request_batch",
    "request_vm",
    "retry_failed",
]
