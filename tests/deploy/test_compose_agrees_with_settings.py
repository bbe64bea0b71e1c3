"""The deployment files name only settings, commands and queues that exist, and all of them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import get_commands

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = re.compile(r"KVMWEB_[A-Z][A-Z_]*[A-Z]")
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}

# Read by compose itself, and by the command that makes the first admin.
OF_COMPOSE = {"KVMWEB_PORT"}
OF_THE_FIRST_ADMIN = {"KVMWEB_ADMIN_NAME", "KVMWEB_ADMIN_PASSWORD", "KVMWEB_ADMIN_EMAIL"}
# What tests, drills and the scripts hand to each other: nobody sets them for a site.
INTERNAL = {
    "KVMWEB_FAILPOINTS_FILE",
    "KVMWEB_STARTED_BY",
    "KVMWEB_UP_REENTERED",
    "KVMWEB_CHROMIUM",
    "KVMWEB_LAB_DIR",
    "KVMWEB_DEBIAN_MIRROR",
    "KVMWEB_VENV",
}


def variables_of_settings() -> set[str]:
    """What ``settings/base.py`` asks the environment for."""
    tree = ast.parse((ROOT / "kvmweb" / "settings" / "base.py").read_text())
    asked = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = ast.unparse(node.func)
            if function.startswith("env.") and isinstance(node.args[0].value, str):
                asked.add(node.args[0].value)
    return asked


def variables_of_scripts() -> set[str]:
    text = "".join(p.read_text() for p in (ROOT / "scripts" / "runner").glob("*.py"))
    return set(VARIABLE.findall(text))


def variables_in(name: str) -> set[str]:
    return set(VARIABLE.findall((ROOT / name).read_text()))


@pytest.mark.parametrize(
    "name", ["docker-compose.yml", "deploy/env.example", "docs/admin/settings.md"]
)
def test_every_variable_named_exists(name: str) -> None:
    known = variables_of_settings() | variables_of_scripts() | OF_COMPOSE | OF_THE_FIRST_ADMIN
    assert variables_in(name) - known == set()


def test_every_setting_is_documented() -> None:
    asked = variables_of_settings() | variables_of_scripts() | OF_THE_FIRST_ADMIN
    assert asked - INTERNAL - variables_in("docs/admin/settings.md") == set()


def words(service: dict[str, Any]) -> list[list[str]]:
    """The service's commands, those within ``sh -c`` one by one."""
    command = service.get("command", [])
    if command[:2] == ["sh", "-c"]:
        return [part.split() for part in command[2].split("&&")]
    return [command] if command else []


def test_every_management_command_exists() -> None:
    named = {
        argv[argv.index("manage.py") + 1]
        for service in OURS.values()
        for argv in words(service)
        if "manage.py" in argv
    }
    assert {"migrate", "kvmweb_init", "watchhosts", "websockify"} <= named
    assert named - set(get_commands()) == set()


def test_every_option_of_a_management_command_exists() -> None:
    for service in OURS.values():
        for argv in words(service):
            if "manage.py" not in argv:
                continue
            name = argv[argv.index("manage.py") + 1]
            options = {w.split("=")[0] for w in argv if w.startswith("--")}
            if options:
                shown = subprocess.run(
                    [sys.executable, "manage.py", name, "--help"],
                    cwd=ROOT,
                    capture_output=True,
                    text=True,
                    check=True,
                ).stdout
                assert [option for option in options if option not in shown] == []


def test_every_queue_of_a_job_has_a_worker() -> None:
    from jobs.registry import all_kinds

    served = {
        queue
        for service in OURS.values()
        for argv in words(service)
        if "worker" in argv
        for queue in argv[argv.index("-Q") + 1].split(",")
    }
    used = {kind.queue for kind in all_kinds().values()}
    assert used
    assert used - served == set()


def test_the_proxy_knows_the_services_it_sends_to() -> None:
    text = (ROOT / "deploy" / "nginx.conf").read_text()
    targets = set(re.findall(r"proxy_pass http://([a-z-]+):(\d+)", text))
    assert {name for name, _ in targets} <= set(OURS)
    assert ("console", "8001") in targets
    assert "--port=8001" in OURS["console"]["command"]
    assert ("web", "8000") in targets
    assert "--port=8000" in (ROOT / "Dockerfile").read_text()


def test_what_a_service_waits_for_exists() -> None:
    volumes = set(COMPOSE["volumes"])
    for service in SERVICES.values():
        assert set(service.get("depends_on", ())) <= set(SERVICES)
        named = [v.split(":")[0] for v in service.get("volumes", ())]
        assert {v for v in named if not v.startswith((".", "/"))} <= volumes
