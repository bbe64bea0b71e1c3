"""nginx and Caddy take the configurations that are shown and shipped, as they are."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.proxies import NGINX, caddy_config, certificate, nginx_config
from tests.lab.conftest import ROOT

PORTS = {"port": 18443, "web": 18000, "console": 18001}


def accepts(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def nginx_takes(folder: Path, config: str) -> None:
    (folder / "proxy.conf").write_text(config)
    accepts(shutil.which("nginx") or "", "-t", "-p", str(folder), "-c", str(folder / "proxy.conf"))


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
@pytest.mark.parametrize("prefix", ["", "/kvm"])
def test_nginx_takes_what_is_shown(tmp_path: Path, prefix: str) -> None:
    certificate(tmp_path)
    nginx_takes(tmp_path, nginx_config(tmp_path, prefix=prefix, **PORTS))


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_nginx_takes_what_is_shipped(tmp_path: Path) -> None:
    """The names that it proxies to are known within the composition only."""
    shipped = (ROOT / "deploy" / "nginx.conf").read_text()
    shipped = shipped.replace("//web:", "//127.0.0.1:").replace("//console:", "//127.0.0.1:")
    nginx_takes(tmp_path, NGINX.format(folder=tmp_path, site=shipped))


@pytest.mark.skipif(shutil.which("caddy") is None, reason="Caddy is not installed")
@pytest.mark.parametrize("prefix", ["", "/kvm"])
def test_caddy_takes_what_is_shown(
    tmp_path: Path, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    certificate(tmp_path)
    config = tmp_path / "Caddyfile"
    config.write_text(caddy_config(tmp_path, prefix=prefix, **PORTS))
    accepts("caddy", "validate", "--adapter=caddyfile", f"--config={config}")
