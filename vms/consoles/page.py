"""What the console's markup needs, in a window of its own and on the machine's page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.urls import reverse
from django.utils.translation import gettext as _

from accounts import policy
from accounts.policy import Action
from vms import state
from vms.consoles import people
from vms.models import VM
from vms.verbs import Verb

if TYPE_CHECKING:
    from accounts.models import User
    from vms.presentation import MachineView

# Keys that a phone's keyboard lacks, by the DOM's names.
KEYS = (
    {"label": "Esc", "code": "Escape"},
    {"label": "Tab", "code": "Tab"},
    {"label": "Ctrl", "code": "ControlLeft", "sticky": True},
    {"label": "Alt", "code": "AltLeft", "sticky": True},
    {"label": "↑", "code": "ArrowUp"},
    {"label": "↓", "code": "ArrowDown"},
    {"label": "←", "code": "ArrowLeft"},
    {"label": "→", "code": "ArrowRight"},
    {"label": "Home", "code": "Home"},
    {"label": "End", "code": "End"},
    {"label": "PgUp", "code": "PageUp"},
    {"label": "PgDn", "code": "PageDown"},
    {"label": "Del", "code": "Delete"},
)
NEXT_VERB = {
    VM.Observed.SHUTOFF: Verb.START,
    VM.Observed.CRASHED: Verb.START,
    VM.Observed.PAUSED: Verb.RESUME,
}


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What a person in front of the console should know beside the machine's state."""

    task: str  # the verb at work ("rebooting"), ""
    says: str  # a sentence about it, "" when the screen says enough
    next: str  # "start" | "resume" where the person may, ""
    rebooted: int  # number of the last reset that was seen; 0: none


def situation(machine: MachineView) -> Situation:
    vm, task = machine.vm, machine.task
    at_work = task is not None and not task.observing
    verb = NEXT_VERB.get(VM.Observed(vm.observed))
    may = verb is not None and not at_work and machine.verb(verb.value).allowed
    reset = vm.events.filter(kind=state.REBOOTED).only("id").first()
    return Situation(
        task=task.verb if task is not None and at_work else "",
        says=_says(machine),
        next=verb.value if verb is not None and may else "",
        rebooted=reset.pk if reset else 0,
    )


def _says(machine: MachineView) -> str:
    vm, task = machine.vm, machine.task
    if machine.host_down:
        return machine.host_down
    if task is not None and not task.observing:
        what = task.waiting or task.step_label
        if task.kind in state.CREATIONS:
            if task.percent is not None:
                what = f"{what} ({task.percent} %)" if what else f"{task.percent} %"
            return _("The machine is being made: %(what)s. Its screen shows when it starts.") % {
                "what": what or task.word
            }
        return f"{task.word}: {what}" if what else f"{task.word} …"
    match vm.observed:
        case VM.Observed.SHUTOFF:
            return _("The machine is stopped. It has no screen until it is started.")
        case VM.Observed.CRASHED:
            return _("The machine has crashed. Start it to see its screen again.")
        case VM.Observed.PAUSED:
            return _("The machine is suspended: its screen stands still until it is resumed.")
        case VM.Observed.MISSING:
            return _("Its host does not know this machine any more, so there is no screen.")
        case VM.Observed.UNKNOWN:
            return _("The machine's host cannot be reached now, so there is no screen to show.")
    return ""


def context(machine: MachineView, user: User) -> dict[str, Any]:
    """For ``console/console.html``."""
    vm = machine.vm
    api = f"{reverse('dashboard')}api/v1/vms/{vm.uuid}"
    return {
        "situation": situation(machine),
        "who": people.view(vm, user),
        "may_see": policy.can(user, Action.SEE, vm),
        "keys": KEYS,
        "function_keys": range(1, 13),
        "sysrq": (
            {"letter": "H", "label": _("Help")},
            {"letter": "S", "label": _("Write the disks")},
            {"letter": "U", "label": _("Disks read-only")},
            {"letter": "B", "label": _("Restart at once")},
            {"letter": "E", "label": _("End programs")},
            {"letter": "I", "label": _("Kill programs")},
        ),
        "layouts": (
            ("us", _("English (US)")),
            ("gb", _("English (UK)")),
            ("de", _("German")),
            ("fr", _("French")),
            ("es", _("Spanish")),
            ("jp", _("Japanese")),
            ("cn", _("Chinese")),
        ),
        "words": words(),
        "console_settings": {
            "uuid": str(vm.uuid),
            "name": vm.name,
            "api": api,
        },
    }


def words() -> dict[str, str]:
    """What the page's scripts say; ``%s`` stands for a name or a figure."""
    return {
        "connecting": _("Connecting …"),
        "lost": _("The connection was lost. Connecting again …"),
        "network": _("The site does not answer. Trying again …"),
        "starting": _("Starting …"),
        "ssh": _(
            "Its host does not let this site open screens. Use the serial console, or tell an "
            "admin: the account there and its sshd must allow it."
        ),
        "next_start": _(
            "Shut the machine down and start it, then its screen opens here: its host lets this "
            "site reach no screen of a machine that was started before. The serial console works."
        ),
        "no_password": _(
            "Its screen on the host asks for no password, so it could be another machine's. Shut "
            "the machine down and start it here, then it has one."
        ),
        "wrong_screen": _(
            "Another program answers in place of this machine's screen. Nothing of it is shown. "
            "Trying again …"
        ),
        "host": _("The machine's host does not answer. Trying again …"),
        "signed_out": _("You signed out. Sign in again to see this screen."),
        "revoked": _("You may not see this screen any more. Ask the machine's owner."),
        "deleted": _("The machine was deleted."),
        "gone": _("This console is gone: the machine was deleted, or your access has ended."),
        "idle": _("Closed: nothing was typed or moved for a long time."),
        "limit": _("Closed: this console was open for very long."),
        "too_many": _("Too many consoles are open. Close another one, then reconnect."),
        "protocol": _("Closed: the browser sent something that is not understood."),
        "left": _("You left the console. The machine goes on."),
        "rebooted": _("The machine restarts."),
        "moved": _("Moved to host %s."),
        "handed_over": _("Somebody else has control now. You go on looking."),
        "control_given": _("You have control now."),
        "skipped": _("%s of output came faster than this page could show it and were left out."),
        "dropped": _("The guest did not take %s bytes of what was typed."),
        "line_host": _("The machine's host does not answer. Trying again …"),
        "line_moving": _("The machine moves to another host. The line follows by itself."),
        "line_in_use": _(
            "Another program on the host reads this line. It opens here when that one leaves."
        ),
        "line_open": _("The line is open again."),
        "log_saved": _("What the line has said is saved."),
        "log_empty": _("This line has said nothing yet."),
        "log_lost": _("What the line has said could not be read. Try again in a moment."),
        "no_resize": _(
            "The guest does not follow the window: its display driver or desktop cannot."
        ),
        "not_yours_to_size": _("The guest follows the window of who has control."),
        "saved": _("The picture is saved."),
        "not_found": _("Not found"),
        "lacking": _("This keyboard has no key for: %s"),
        "type": _("Type"),
        "type_rest": _("Type the rest"),
        "characters": _("%s characters"),
        "typing": _("Typing: %s"),
    }
