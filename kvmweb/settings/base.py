"""Every setting of the site. Each environment variable is named ``KVMWEB_...``."""

import hashlib
import json
import os
import socket
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import environ
from django.core.exceptions import ImproperlyConfigured

env = environ.Env()
BASE_DIR = Path(__file__).resolve().parent.parent.parent
VAR_DIR = Path(env.str("KVMWEB_VAR", default=str(BASE_DIR / "var")))

DEBUG = env.bool("KVMWEB_DEBUG", default=False)


def _secret_key() -> str:
    """The key from the environment or from ``var/secret_key``; made once with mode 0600."""
    if key := env.str("KVMWEB_SECRET_KEY", default=""):
        return str(key)
    path = Path(env.str("KVMWEB_SECRET_KEY_FILE", default=str(VAR_DIR / "secret_key")))
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        import secrets

        # SQLite's file lies beside it: whoever reads sessions there is signed in as anybody.
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return path.read_text().strip()
        with os.fdopen(fd, "w") as handle:
            handle.write(secrets.token_urlsafe(64))
        return path.read_text().strip()


def _port_range(text: str) -> range:
    """``20000-20999`` or one port; "": none."""
    if not text.strip():
        return range(0)
    first, _dash, last = text.partition("-")
    try:
        ports = range(int(first), int(last or first) + 1)
    except ValueError:
        ports = range(0)
    if not ports or ports[0] < 1 or ports[-1] > 65535:
        raise ImproperlyConfigured(f"KVMWEB_PUBLISH_PORTS: {text!r} is no range like 20000-20999")
    return ports


SECRET_KEY = _secret_key()
# Earlier keys, while sessions, second factors and the audit's chain made under them live on.
SECRET_KEY_FALLBACKS = env.list("KVMWEB_SECRET_KEY_FALLBACKS", default=[])
ALLOWED_HOSTS = env.list(
    "KVMWEB_ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]", socket.gethostname()]
)
CSRF_TRUSTED_ORIGINS = env.list("KVMWEB_TRUSTED_ORIGINS", default=[])
# Behind TLS: secure cookies, HSTS and redirects follow from this one switch.
HTTPS = env.bool("KVMWEB_HTTPS", default=False)
_script_name = env.str("KVMWEB_SCRIPT_NAME", default="")
FORCE_SCRIPT_NAME = _script_name.rstrip("/") or None
TRUSTED_PROXIES = env.list("KVMWEB_TRUSTED_PROXIES", default=[])

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "channels",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.socialaccount",
    "allauth.socialaccount.providers.openid_connect",
    "template_partials",
    "accounts",
    "jobs",
    "hosts",
    "vms",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "kvmweb.middleware.ContentSecurityPolicyMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "kvmweb.middleware.RequestIdMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "kvmweb.middleware.UserLocaleMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "kvmweb.second_factor.AdminSecondFactorMiddleware",
    "kvmweb.view_as.ViewAsMiddleware",
    "kvmweb.body_limit.BodyLimitMiddleware",
    "kvmweb.middleware.DomainErrorMiddleware",
]

ROOT_URLCONF = "kvmweb.urls"
ASGI_APPLICATION = "kvmweb.asgi.application"
TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.template.context_processors.i18n",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "kvmweb.context_processors.frame",
            ],
        },
    }
]

# --- data ---------------------------------------------------------------------------------
DATABASES: dict[str, dict[str, Any]] = {
    "default": env.db_url("KVMWEB_DATABASE_URL", default=f"sqlite:///{VAR_DIR / 'kvmweb.sqlite3'}")
}
# A socket's folder stands quoted in the URL (postgres://user@%2Frun%2Fpostgresql/kvmweb).
DATABASES["default"]["HOST"] = unquote(DATABASES["default"].get("HOST") or "")
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    VAR_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
    DATABASES["default"]["OPTIONS"] = {
        "timeout": 30,
        # The quota lock on SQLite: a writing transaction excludes every other (field notes).
        "transaction_mode": "IMMEDIATE",
        "init_command": (
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA mmap_size=134217728;"
        ),
    }
    DATABASES["default"]["CONN_MAX_AGE"] = None
else:
    DATABASES["default"]["CONN_MAX_AGE"] = 60
    DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REDIS_URL = env.str("KVMWEB_REDIS_URL", default=f"unix://{VAR_DIR / 'redis.sock'}")
BROKER_URL = env.str("KVMWEB_BROKER_URL", default="")


def _celery_broker(redis_url: str) -> str:
    return redis_url.replace("unix://", "redis+socket://", 1)


CELERY_BROKER_URL = BROKER_URL or _celery_broker(REDIS_URL)
# Celery would open the database anew for each task; kvmweb/celery.py lets Django judge instead.
CELERY_DB_REUSE_MAX = 1_000_000_000
CELERY_TASK_IGNORE_RESULT = True
CELERY_RESULT_BACKEND = None
CELERY_TASK_ACKS_LATE = False
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_DEFAULT_QUEUE = "quick"
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TIMEZONE = "UTC"
CELERY_BEAT_SCHEDULE_FILENAME = str(VAR_DIR / "beat-schedule")
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_BEAT_SCHEDULE = {
    "jobs.reconcile": {"task": "jobs.reconcile", "schedule": 15.0, "options": {"expires": 15}},
    "accounts.quota_rounds": {
        "task": "accounts.quota_rounds",
        "schedule": 300.0,
        "options": {"expires": 300},
    },
    "vms.recount_quotas": {
        "task": "vms.recount_quotas",
        "schedule": 300.0,
        "options": {"expires": 300},
    },
    "vms.lease_rounds": {
        "task": "vms.lease_rounds",
        "schedule": 60.0,
        "options": {"expires": 60},
    },
    "vms.tidy_recordings": {
        "task": "vms.tidy_recordings",
        "schedule": 3600.0,
        "options": {"expires": 3600},
    },
    "accounts.tidy": {"task": "accounts.tidy", "schedule": 3600.0, "options": {"expires": 3600}},
    "accounts.directory_leavers": {
        "task": "accounts.directory_leavers",
        "schedule": 3600.0,
        "options": {"expires": 3600},
    },
    "accounts.webhooks": {
        "task": "accounts.webhooks",
        "schedule": 30.0,
        "options": {"expires": 30},
    },
    "accounts.mail": {"task": "accounts.mail", "schedule": 30.0, "options": {"expires": 30}},
}

CHANNEL_LAYERS: dict[str, Any] = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [REDIS_URL], "prefix": "kvmweb"},
    }
}
CACHES: dict[str, Any] = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": "kvmweb",
    }
}

# --- people -------------------------------------------------------------------------------
AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "accounts.backends.NameOrAddress",
    "accounts.backends.LdapDirectory",
]
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.Argon2PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = ACCOUNT_LOGOUT_REDIRECT_URL = "dashboard"
ACCOUNT_ADAPTER = "accounts.adapters.AccountAdapter"
# OpenID Connect providers: docs/admin/sign-in.md says what the file holds.
OIDC_FILE = env.str("KVMWEB_OIDC_FILE", default="")
OIDC: list[dict[str, Any]] = json.loads(Path(OIDC_FILE).read_text()) if OIDC_FILE else []
SOCIALACCOUNT_ADAPTER = "accounts.adapters.SocialAccountAdapter"
SOCIALACCOUNT_PROVIDERS = {
    "openid_connect": {
        "OAUTH_PKCE_ENABLED": True,
        "APPS": [
            {
                "provider_id": one["id"],
                "name": one["name"],
                "client_id": one["client_id"],
                "secret": one["secret"],
                "settings": {"server_url": one["server_url"]},
            }
            for one in OIDC
        ],
    }
}
# LDAP directories: docs/admin/sign-in.md says what the file holds.
LDAP_FILE = env.str("KVMWEB_LDAP_FILE", default="")
LDAP: list[dict[str, Any]] = json.loads(Path(LDAP_FILE).read_text()) if LDAP_FILE else []
MFA_SUPPORTED_TYPES = ["totp", "webauthn", "recovery_codes"]
# Admins must have a second factor before they can do anything else.
ADMIN_MFA_REQUIRED = env.bool("KVMWEB_ADMIN_MFA_REQUIRED", default=False)
MFA_ADAPTER = "accounts.adapters.MFAAdapter"
ACCOUNT_LOGIN_METHODS = {"username", "email"}
ACCOUNT_SIGNUP_FIELDS = ["username*", "email", "password1*", "password2*"]
ACCOUNT_EMAIL_VERIFICATION = env.str("KVMWEB_EMAIL_VERIFICATION", default="none")
# Where nobody can prove an address, not having proved it must not keep a second factor away.
MFA_ALLOW_UNVERIFIED_EMAIL = ACCOUNT_EMAIL_VERIFICATION == "none"
ACCOUNT_SESSION_REMEMBER = True
ACCOUNT_LOGOUT_ON_GET = False
# Sign-up is closed unless the admin opens it: accounts are made by admins.
OPEN_SIGNUP = env.bool("KVMWEB_OPEN_SIGNUP", default=False)
# Teams that somebody who is no admin may make. Each begins with the site's default limits.
TEAMS_PER_PERSON = env.int("KVMWEB_TEAMS_PER_PERSON", default=0)
ACCOUNT_RATE_LIMITS = {"login_failed": "10/m/ip,5/5m/key", "login": "30/m/ip"}
EMAIL_CONFIG = env.email_url("KVMWEB_EMAIL_URL", default="consolemail://")
vars().update(EMAIL_CONFIG)
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = env.str("KVMWEB_EMAIL_FROM", default="kvmweb@localhost")
# How people reach the site, for links in mails: https://vms.example.org
SITE_URL = env.str("KVMWEB_SITE_URL", default="")

SESSION_COOKIE_NAME = "kvmweb_session"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = HTTPS
CSRF_COOKIE_NAME = "kvmweb_csrf"
CSRF_COOKIE_SECURE = HTTPS
CSRF_COOKIE_SAMESITE = "Lax"
# Of a site below a path, not of what else lives on that host.
SESSION_COOKIE_PATH = CSRF_COOKIE_PATH = FORCE_SCRIPT_NAME or "/"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_SSL_REDIRECT = False
SECURE_HSTS_SECONDS = 31536000 if HTTPS else 0
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if HTTPS else None
X_FRAME_OPTIONS = "SAMEORIGIN"

# Days that the audit record is kept; 0 is for ever.
AUDIT_DAYS = env.int("KVMWEB_AUDIT_DAYS", default=0)
CSRF_FAILURE_VIEW = "kvmweb.error_pages.csrf_failure"
# Requests that one API token may make in a minute; 0 is without limit.
API_RATE_PER_MINUTE = env.int("KVMWEB_API_RATE_PER_MINUTE", default=3000)
# Processes whose heartbeat /readyz demands: worker, watch, beat.
READY_REQUIRES = env.list("KVMWEB_READY_REQUIRES", default=[])

# --- words --------------------------------------------------------------------------------
LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("zh-hans", "简体中文")]
LOCALE_PATHS = [BASE_DIR / "locale"]
USE_I18N = True
USE_TZ = True
TIME_ZONE = env.str("KVMWEB_TIME_ZONE", default="UTC")

# --- static files -------------------------------------------------------------------------
STATIC_URL = env.str("KVMWEB_STATIC_URL", default=f"{FORCE_SCRIPT_NAME or ''}/static/")
STATIC_ROOT = Path(env.str("KVMWEB_STATIC_ROOT", default=str(VAR_DIR / "static")))
STATICFILES_DIRS = [BASE_DIR / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "kvmweb.staticfiles.ModuleManifestStorage"},
}

# --- KVMWeb -------------------------------------------------------------------------------
# Where the site keeps the images it published, before they are copied to hosts.
# libosinfo's database: what operating systems want of a machine.
OSINFO_DIR = Path(env.str("KVMWEB_OSINFO_DIR", default="/usr/share/osinfo"))
IMAGE_DIR = Path(env.str("KVMWEB_IMAGE_DIR", default=str(VAR_DIR / "images")))
IMAGE_MAX_FILE_GIB = env.int("KVMWEB_IMAGE_MAX_FILE_GIB", default=32)
IMAGE_MAX_VIRTUAL_GIB = env.int("KVMWEB_IMAGE_MAX_VIRTUAL_GIB", default=256)
# Hosts (name or name:port) from which images may come over plain http or a private address.
IMAGE_ALLOWED_HOSTS = env.list("KVMWEB_IMAGE_ALLOWED_HOSTS", default=[])
# Hosts (name or name:port) to which webhooks may post by plain http or at a private address.
WEBHOOK_ALLOWED_HOSTS = env.list("KVMWEB_WEBHOOK_ALLOWED_HOSTS", default=[])
# Marks our domains in their <metadata>, so that two sites can share a host.
SITE_MARK = env.str(
    "KVMWEB_SITE_MARK", default=hashlib.sha256(SECRET_KEY.encode()).hexdigest()[:12]
)
# A machine does less than this on average over ten minutes: nobody uses it.
IDLE_CPU_PERCENT = env.float("KVMWEB_IDLE_CPU_PERCENT", default=5.0)  # of all its vCPUs
IDLE_SENT_BYTES_S = env.float("KVMWEB_IDLE_SENT_BYTES_S", default=512.0)
# TCP ports of machines that people publish: where this site listens for them. "": it does not.
PUBLISH_PORTS = _port_range(env.str("KVMWEB_PUBLISH_PORTS", default=""))
PUBLISH_ADDRESS = str(ip_address(env.str("KVMWEB_PUBLISH_ADDRESS", default="127.0.0.1")))
# What people type to reach it; "": the address, or this machine's name where that is all addresses.
PUBLISH_NAME = env.str("KVMWEB_PUBLISH_NAME", default="")
CONSOLE_CARRIER = env.str("KVMWEB_CONSOLE_CARRIER", default="asgi")  # asgi | websockify
CONSOLE_TICKET_TTL_S = 30
# Who sees a console's recording being made is told so. "owner": when the owner, a manager of the
# team or an admin starts one; "always": every console, as long as it is open; "never".
CONSOLE_RECORDING = env.str("KVMWEB_CONSOLE_RECORDING", default="owner")
RECORDINGS_DIR = Path(env.str("KVMWEB_RECORDINGS_DIR", default=str(VAR_DIR / "recordings")))
RECORDING_MAX_MIB = env.int("KVMWEB_RECORDING_MAX_MIB", default=256)  # of one
RECORDINGS_MAX_MIB = env.int("KVMWEB_RECORDINGS_MAX_MIB", default=5 * 1024)  # of all
RECORDING_DAYS = env.int("KVMWEB_RECORDING_DAYS", default=30)
CONSOLE_IDLE_TIMEOUT_S = env.int("KVMWEB_CONSOLE_IDLE_TIMEOUT_S", default=3600)
# After this a guest that was asked to shut down counts as ignoring it: force off is offered.
GUEST_PATIENCE_S = env.int("KVMWEB_GUEST_PATIENCE_S", default=60)
# Only tests and drills set this; see jobs.failpoints.
FAILPOINTS_FILE = env.str("KVMWEB_FAILPOINTS_FILE", default="")
# Loaded once in a worker, before it forks, rather than by each of its children at their first job.
JOB_WORKER_LOADS = ("hosts.virt.client", "pycdlib.pycdlib", "PIL.Image", "accounts.notifications")
JOB_LEASE_S = env.int("KVMWEB_JOB_LEASE_S", default=60)
JOB_HEARTBEAT_S = env.int("KVMWEB_JOB_HEARTBEAT_S", default=10)

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {"format": "%(asctime)s %(levelname)s %(name)s [%(process)d] %(message)s"},
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": env.str("KVMWEB_LOG_LEVEL", default="INFO")},
    "loggers": {"httpx": {"level": "WARNING"}, "asyncssh": {"level": "WARNING"}},
}
