"""Settings, chosen by environment alone: see ``base`` for every variable.

With nothing set the site is *embedded*: SQLite and our own Redis under ``var/``.
A team's deployment sets ``KVMWEB_DATABASE_URL``, ``KVMWEB_REDIS_URL`` and the
other variables that ``docs/admin/settings.md`` lists; there is no second file.
"""

from kvmweb.settings.base import *  # noqa: F403
