from django.apps import AppConfig


class JobsConfig(AppConfig):
    name = "jobs"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from accounts.notifications import on_notified
        from accounts.revocations import on_access_revoked
        from accounts.sharing import on_shared
        from jobs import live, messages  # noqa: F401 - importing registers the texts

        on_access_revoked(live.end_revoked)
        on_notified(live.ring)
        on_shared(live.regroup)
