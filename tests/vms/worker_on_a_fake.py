"""The site's Celery application where host *alpha* is a fake.

``celery -A tests.vms.worker_on_a_fake``

Each process has its own: what a killed one had made is gone with it.
"""

from hosts import connections
from hosts.virt.fake import FakeHypervisor
from kvmweb.celery import app

__all__ = ["app"]

_forever = connections.use_fake({"alpha": FakeHypervisor("alpha")})
_forever.__enter__()
