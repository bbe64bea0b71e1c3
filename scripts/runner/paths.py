"""Where things are."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
VAR = Path(os.environ.get("KVMWEB_VAR", ROOT / "var")).resolve()
CACHE = Path(
    os.environ.get(
        "KVMWEB_CACHE",
        Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "kvmweb",
    )
)
VENV = Path(os.environ.get("KVMWEB_VENV", ROOT / ".venv"))
PYTHON = VENV / "bin" / "python"
LOGS = VAR / "log"
UP_JSON = VAR / "up.json"
STARTED = VAR / "started.json"  # what `up` started, for `down`
SUPERVISOR_CONF = VAR / "supervisord.conf"
SUPERVISOR_SOCKET = VAR / "supervisor.sock"
REDIS_SOCKET = VAR / "redis.sock"
LAB_DIR = VAR / "lab"
