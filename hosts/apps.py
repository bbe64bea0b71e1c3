from django.apps import AppConfig


class HostsConfig(AppConfig):
    name = "hosts"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from hosts import check_messages, jobs, messages  # noqa: F401 - codes' texts

        jobs.register()
