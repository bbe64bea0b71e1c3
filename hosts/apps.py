from django.apps import AppConfig


class HostsConfig(AppConfig):
    name = "hosts"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from hosts import (  # noqa: F401 - importing registers
            carrying,
            check_messages,
            jobs,
            messages,
        )

        jobs.register()
