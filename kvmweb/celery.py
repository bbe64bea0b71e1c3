"""The Celery application: ``celery -A kvmweb worker|beat``.

Messages are hints (``jobs.hints``): they are acked before they run, may be lost, and are sent
again from the database. So nothing here waits long for a broker, and workers wait for ever.
"""

import os
from typing import Any

from celery import Celery
from celery.signals import task_prerun

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "kvmweb.settings.base")
# Django's checks import every page and the API: a third more memory in each worker. ``up`` and
# the tests run them.
os.environ.setdefault("CELERY_SKIP_CHECKS", "1")


def configure(app: Celery, settings: str) -> None:
    app.config_from_object(settings, namespace="CELERY")
    app.conf.update(
        broker_connection_max_retries=None,
        # For publishing: give up at once, the reconciler sends again.
        broker_transport_options={
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0.1,
            "interval_max": 0.2,
            "socket_connect_timeout": 2,
            "socket_timeout": 30,
            "socket_keepalive": True,
            "health_check_interval": 20,
        },
        task_create_missing_queues=True,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
    )


app = Celery("kvmweb")
configure(app, "django.conf:settings")
app.autodiscover_tasks()


@task_prerun.connect
def _as_before_a_request(**_kwargs: Any) -> None:
    """Let go of database connections that are too old or broken, as Django does for a request."""
    from django.db import close_old_connections

    close_old_connections()
