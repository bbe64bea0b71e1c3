"""Settings, chosen by environment alone: ``kvmweb.settings.base`` reads every variable.

With nothing set the site is *embedded*: SQLite and our own Redis under ``var/``. A team's
deployment sets ``KVMWEB_DATABASE_URL``, ``KVMWEB_REDIS_URL`` and the other variables that
``docs/admin/settings.md`` lists; there is no second file, but the one for pytest (``test``).
"""
