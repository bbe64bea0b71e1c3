"""Settings for pytest: fast hashing, plain static files, no Redis unless a test brings one."""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("KVMWEB_VAR", tempfile.mkdtemp(prefix="kvmweb-test-"))
os.environ.setdefault("KVMWEB_SECRET_KEY", "test-only")

from kvmweb.settings.base import *  # noqa: F403
from kvmweb.settings.base import DATABASES, STORAGES

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
STORAGES = STORAGES | {
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
}
if not os.environ.get("KVMWEB_REDIS_URL"):
    CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    CELERY_BROKER_URL = "memory://"
# Worker threads and processes of a test must see the same SQLite file.
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    DATABASES["default"]["TEST"] = {
        "NAME": str(Path(os.environ["KVMWEB_VAR"]) / f"test-{os.getpid()}.sqlite3")
    }
EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
ACCOUNT_RATE_LIMITS = {}
LOGGING_CONFIG = None
