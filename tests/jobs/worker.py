"""The site's Celery application, with the kinds of the tests: ``celery -A tests.jobs.worker``."""

from kvmweb.celery import app

app.conf.imports = ("tests.jobs.kinds",)
