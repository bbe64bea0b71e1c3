from django.apps import AppConfig


class VmsConfig(AppConfig):
    name = "vms"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from accounts import handovers, policy
        from jobs import reconcile
        from vms import audit_words, discs, jobs, messages, ownership  # noqa: F401 - importing registers the texts
        from vms.consoles import (  # sessions hears of revocations
            hub,
            invites,
            recorder,
            sessions,
            tickets,
        )
        from vms.consoles import messages as console_messages  # noqa: F401
        from vms.consoles.serial import asciicast
        from vms.ports import messages as port_messages  # noqa: F401
        from vms.provisioning import outcome

        jobs.register()
        handovers.register(ownership.MACHINES)
        reconcile.register_reconciler(outcome.forget_passwords)
        reconcile.register_reconciler(discs.look_after_installers)
        reconcile.register_reconciler(tickets.delete_old)
        reconcile.register_reconciler(sessions.end_lost)
        policy.register_grant(invites.grants)
        recorder.register("vnc", hub.record)
        recorder.register("serial", asciicast.record)

        from vms import leases, recycle_bin, watching
        from vms import reconcile as machine_reconcile
        from vms.backups import schedule as backups

        leases.register()
        recycle_bin.register()
        backups.register()

        watching.register()
        machine_reconcile.register()

        from vms.images import jobs as image_jobs
        from vms.images import messages as image_messages  # noqa: F401
        from vms.images import uploads

        image_jobs.register()
        reconcile.register_reconciler(uploads.tidy)
