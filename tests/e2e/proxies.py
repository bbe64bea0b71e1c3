"""nginx and Caddy in front of a site, by the configurations that docs/admin/proxies.md shows."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.carriers import free_port
from tests.lab.conftest import ROOT
from tests.stack import BIN, Stack

PAGE = ROOT / "docs" / "admin" / "proxies.md"
BLOCK = re.compile(r"^```(nginx|caddy)\n(.*?)^```", re.DOTALL | re.MULTILINE)
# What an own nginx needs around a site's file.
NGINX = """\
user root;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {site}
}}
"""
CADDY = "{{\n    admin off\n    auto_https off\n}}\n{site}"


def blocks(kind: str) -> list[str]:
    """The documented configurations: of a site of its own, and below a path."""
    return [found[1] for found in BLOCK.findall(PAGE.read_text()) if found[0] == kind]


def nginx_config(folder: Path, *, prefix: str, port: int, web: int, console: int) -> str:
    site, locations = blocks("nginx")
    if prefix:
        site = site[: site.index("    location ")] + locations + "}\n"
    site = site.replace("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;")
    site = site.replace("/etc/ssl/kvm.example.org.", f"{folder}/site.")
    return NGINX.format(folder=folder, site=_named(site, web, console))


def caddy_config(folder: Path, *, prefix: str, port: int, web: int, console: int) -> str:
    site = blocks("caddy")[bool(prefix)]
    tls = f"{{\n    bind 127.0.0.1\n    tls {folder}/site.pem {folder}/site.key"
    site = site.replace("kvm.example.org {", f"kvm.example.org:{port} {tls}", 1)
    return CADDY.format(site=_named(site, web, console))


def _named(site: str, web: int, console: int) -> str:
    for shown, real in (
        ("kvm.example.org", "localhost"),
        (":8000", f":{web}"),
        (":8001", f":{console}"),
    ):
        assert shown in site, f"{shown} is not in the documented configuration"
        site = site.replace(shown, real)
    return site


def certificate(folder: Path) -> None:
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(folder / "site.key"), "-out", str(folder / "site.pem")),
        ],
        check=True,
        capture_output=True,
    )


def _listens(port: int) -> bool:
    with socket.socket() as line:
        return line.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def behind(stack: Stack, folder: Path, *, proxy: str, prefix: str, carrier: str) -> Iterator[str]:
    """Another web process (and carrier) of the same site, and the proxy; the site's address."""
    port, web, console = free_port(), free_port(), free_port()
    certificate(folder)
    env = stack.env | {
        "KVMWEB_HTTPS": "true",
        "KVMWEB_SCRIPT_NAME": prefix,
        "KVMWEB_TRUSTED_PROXIES": "127.0.0.1",
        "KVMWEB_CONSOLE_CARRIER": carrier,
        "HOME": str(folder),  # where Caddy keeps its things
        "XDG_DATA_HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder),
    }
    commands = [
        [
            *(str(BIN / "uvicorn"), "kvmweb.asgi:application", "--host=127.0.0.1"),
            *(f"--port={web}", "--loop=uvloop", "--ws-per-message-deflate=false"),
            *("--no-access-log", "--no-proxy-headers", "--timeout-graceful-shutdown=2"),
        ],
    ]
    if carrier == "websockify":
        commands.append([sys.executable, "manage.py", "websockify", f"--port={console}"])
    else:
        console = web
    config = folder / "proxy.conf"
    ports = {"prefix": prefix, "port": port, "web": web, "console": console}
    if proxy == "nginx":
        config.write_text(nginx_config(folder, **ports))  # type: ignore[arg-type]
        commands.append([str(shutil.which("nginx")), "-p", str(folder), "-c", str(config)])
    else:
        config.write_text(caddy_config(folder, **ports))  # type: ignore[arg-type]
        commands.append(
            [*("caddy", "run", "--adapter=caddyfile"), f"--config={config}"],
        )
    with (folder / "log").open("ab") as log:
        running = [
            subprocess.Popen(
                argv, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
            for argv in commands
        ]
    try:
        stack.wait(
            lambda: all(_listens(one) for one in {port, web, console}),
            f"{proxy} and what is behind it listen",
            timeout_s=60,
        )
        yield f"https://localhost:{port}{prefix}/"
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(30)
