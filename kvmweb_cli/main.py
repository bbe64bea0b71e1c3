"""The commands. Imports what a command needs when it needs it: ``--help`` is quick."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from kvmweb_cli import config
from kvmweb_cli.errors import CommandError

if TYPE_CHECKING:
    from kvmweb_cli.api import Api

VERBS = {
    "start": "start it",
    "shutdown": "ask the guest to shut down",
    "force-off": "pull the plug",
    "reboot": "ask the guest to restart",
    "reset": "press the reset button",
    "suspend": "hold it, its memory stays",
    "resume": "let it go on",
}
POLL_S = 0.5
VNC_PORT = 5900
INTERRUPTED = 130  # as a shell says of a command that Ctrl+C ended


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    try:
        from kvmweb_cli.api import Api

        api = Api(config.find(config.environment()))
        command: Callable[[Api, argparse.Namespace], None] = options.command
        command(api, options)
    except CommandError as error:
        sys.stderr.write(f"kvmweb: {error}\n")
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return 0
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kvmweb",
        description="Your machines, over the site's API.",
        epilog=config.HOW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    console = commands.add_parser(
        "console", help="the serial line in this terminal, or the screen for a VNC client"
    )
    console.add_argument("name", help="the machine's name or UUID")
    console.add_argument("--vnc", action="store_true", help="carry its screen to a local port")
    console.add_argument("--port", type=int, default=0, help="with --vnc; default: a free one")
    console.add_argument("--view", action="store_true", help="only look")
    console.add_argument(
        "--take", action="store_true", help="take control back from who has it, where you may"
    )
    console.add_argument("--log", action="store_true", help="print all that the line has said")
    console.add_argument(
        "--unfiltered",
        action="store_true",
        help="let the guest set this terminal's title and clipboard, too",
    )
    console.set_defaults(command=_console)

    vv = commands.add_parser("vv", help="a file for remote-viewer, for the port of console --vnc")
    vv.add_argument("name")
    vv.add_argument("--port", type=int, default=VNC_PORT)
    vv.set_defaults(command=_vv)

    listing = commands.add_parser("list", help="your machines")
    listing.add_argument("words", nargs="*", help="as in the page's search: state:running tag:web")
    listing.add_argument("--json", action="store_true")
    listing.set_defaults(command=_list)
    for verb, words in VERBS.items():
        power = commands.add_parser(verb, help=words)
        power.add_argument("name")
        power.add_argument("--no-wait", action="store_true", help="do not wait for the job's end")
        power.set_defaults(command=_power, verb=verb)
    return parser


def _console(api: Api, options: argparse.Namespace) -> None:
    vm = api.machine(options.name)
    mode = "view" if options.view else "control" if options.take else None
    if options.vnc:
        from kvmweb_cli.carry import Carrier

        Carrier(api, vm, mode=mode, take=options.take).run(options.port)
        return
    from kvmweb_cli import terminal

    if options.log:
        terminal.download(api, vm)
        return
    terminal.Console(api, vm, mode=mode, take=options.take, unfiltered=options.unfiltered).run()


def _vv(api: Api, options: argparse.Namespace) -> None:
    vm = api.machine(options.name)
    sys.stdout.write(api.text(f"/vms/{vm['uuid']}/console.vv", port=options.port))


def _list(api: Api, options: argparse.Namespace) -> None:
    machines = api.machines(" ".join(options.words))
    if options.json:
        sys.stdout.write(json.dumps(machines, indent=2) + "\n")
        return
    rows = [("NAME", "STATE", "ADDRESS", "HOST")]
    rows += [
        (vm["name"], vm["state"], ", ".join(vm["addresses"]) or "-", vm["host"] or "-")
        for vm in machines
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")


def _power(api: Api, options: argparse.Namespace) -> None:
    vm = api.machine(options.name)
    job: dict[str, Any] = api.call("POST", f"/vms/{vm['uuid']}/{options.verb}")["job"]
    while not options.no_wait:
        job = api.call("GET", f"/jobs/{job['id']}")
        if job["state"] == "succeeded":
            return
        if job["state"] in ("failed", "cancelled"):
            why = (job.get("error") or {}).get("detail") or job["state"]
            raise CommandError(f"{options.verb} {vm['name']}: {why}")
        time.sleep(POLL_S)
