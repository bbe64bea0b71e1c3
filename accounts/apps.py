from django.apps import AppConfig
from django.db.models.signals import post_migrate


class AccountsConfig(AppConfig):
    name = "accounts"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from accounts import (
            defaults,
            directory_people,
            messages,
            notifications,
            request_messages,  # noqa: F401 - importing registers the texts
            requests,  # noqa: F401 - and the topic of its news
            signals,
            webhooks,
        )

        messages.is_known("not_found")  # importing registers the texts
        directory_people.all_directories()  # a wrong file stops the start, not a sign-in
        signals.connect()
        notifications.on_notice(webhooks.on_notice)
        notifications.on_team_notice(webhooks.on_team_notice)
        post_migrate.connect(
            defaults.ensure_site_limits, sender=self, dispatch_uid="accounts.defaults"
        )
