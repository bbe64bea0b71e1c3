"""What this app's codes say. Registered by ``JobsConfig.ready``."""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _

from accounts import messages

messages.register(
    {
        "job.internal": _(
            "Something went wrong that KVMWeb did not expect. Try again; if it happens again, "
            "give an admin the reference."
        ),
        "job.deadline": _(
            "It took longer than it may take and was stopped. The host may be busy: try again "
            "later, or ask an admin to look at the host."
        ),
        "job.worker_lost": _(
            "The process that worked on it ended several times at the same step, so it was given "
            "up. Try again; if it happens again, ask an admin to look at the worker's log."
        ),
        "job.cleanup_incomplete": _(
            "Not everything could be cleaned up, because the host did not answer or refused. What "
            "is left is put in quarantine, where an admin can remove it."
        ),
        "job.unknown_kind": _(
            "This version of KVMWeb does not know how to do “%(kind)s”. An admin should check "
            "that all its processes run the same version."
        ),
        "job.command_timeout": _(
            "A program on the site's machine did not end in time and was stopped. Try again; if "
            "it happens again, give an admin the reference."
        ),
        "job.cancelled": _("It was cancelled here."),
        "job.busy": _(
            "Something else is being done with %(name)s: %(doing)s. Wait until that is finished, "
            "or cancel it first."
        ),
        "job.already_over": _("It is finished already, so there is nothing left to cancel."),
        "job.not_cancellable": _("It cannot be cancelled halfway. Wait until it is finished."),
        "job.not_failed": _("Only what failed or was cancelled can be tried again."),
        "job.retried_already": _("It was tried again already: see the newer entry."),
        "job.no_retry": _("It cannot be tried again from here. Start it anew where you began it."),
        "job.idempotency_reused": _(
            "This Idempotency-Key was used for a different request. Use a new key."
        ),
    }
)
