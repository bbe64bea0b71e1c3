from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class JobsConfig(AppConfig):
    name = "jobs"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from accounts import audit_words
        from accounts.notifications import on_notified
        from accounts.revocations import on_access_revoked
        from accounts.sharing import on_shared
        from jobs import live, messages, registry  # noqa: F401 - importing registers the texts

        on_access_revoked(live.end_revoked)
        on_notified(live.ring)
        on_shared(live.regroup)
        audit_words.register_finder(registry.label_of)
        audit_words.register(
            {"job.cancel": _("Cancelled a job"), "job.retry": _("Tried a job again")}
        )
